"""Forecast the CO2 of the Mauna Loa observatory a year ahead, and show what the LSTM is worth.

Runs the command line twice: with the LSTM trained, and with the LSTM left at its random start, so that only the
linear layer behind it learns. Both are scored on the last five years, which neither was trained on.
"""

import json
import shlex
import sys
from pathlib import Path

from gatewise.cli import main

TABLE = Path(__file__).with_name("co2.csv")
OPTIONS = (
    "--target co2 --time date --horizon 52 --missing mask --holdout 260 --window 104 --hidden 32 --epochs 8 --force"
)
RUN, FROZEN = "runs/co2", "runs/co2-frozen"


def fit(out: str, *more: str) -> float:
    """Run one fit and return its MASE on the held-out years."""
    print(f"\n$ gatewise fit {TABLE.name} {' '.join((OPTIONS, *more))} --out {out}", flush=True)
    code = main(["fit", str(TABLE), *shlex.split(OPTIONS), *more, "--out", out])
    if code:
        sys.exit(code)
    return json.loads(Path(out, "metrics.json").read_text())["overall"]["gatewise"]["MASE"]


trained, frozen = fit(RUN), fit(FROZEN, "--freeze-lstm")
overall = json.loads(Path(RUN, "metrics.json").read_text())["overall"]
print("\nMASE on the last five years, lower is better:")
rows = {
    "LSTM": trained,
    "the same, LSTM frozen": frozen,
    "seasonal naive": overall["seasonal naive"]["MASE"],
    "naive": overall["naive"]["MASE"],
}
for name, value in rows.items():
    print(f"  {name:<24}{value:.3f}")
print(f"\nOpen {RUN}/report.html in a browser.")
if min(rows, key=rows.__getitem__) != "LSTM":
    sys.exit("the trained LSTM is not the best of these: something is broken.")

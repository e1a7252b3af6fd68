"""What drawing and gathering a batch of windows costs, from arrays and from a store.

    python -m bench.windows

Microseconds of one batch, median and first decile (which the work of others on the machine does not stretch): B windows
of W + h steps, from series of 500 hourly rows; without covariates, with two lags, and with calendar features and a
covariate of each kind. What they are to be compared with is a training step of this batch in LSTM(H=64):
``python -m bench --suite standard --filter "train 32,100,32,64"``.
"""

import argparse
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from statistics import median, quantiles

import numpy as np
import polars as pl

from gatewise.data import Columns, Frequency, Panel, Store, store_writer
from gatewise.data.windows import OriginRanges, extend
from gatewise.runtime.encoding import Encoding
from gatewise.runtime.windows import Shape, Windows
from gatewise.tasks.forecast.encoding import fit_encoding
from gatewise.tasks.forecast.inputs import windows_of

LENGTH, SERIES = 500, 2000
PLAIN = Encoding((), (), (), ())


def main() -> int:
    """Run the command."""
    options = _arguments()
    window = options.steps - options.horizon
    panel = _panel()
    rich = fit_encoding(panel, panel.ends)
    cases = {
        "bare": (PLAIN, ()),
        "two lags": (PLAIN, (24, 168)),
        "two lags, calendar, covariates": (rich, (24, 168)),
    }
    print(f"B={options.batch}, W+h={options.steps}, h={options.horizon}: microseconds")
    with tempfile.TemporaryDirectory() as folder:
        with store_writer(Path(folder) / "store") as writer:
            writer.append(panel)
        store = Store.open(Path(folder) / "store")
        for name, (encoding, lags) in cases.items():
            shape = Shape(window, options.horizon, lags)
            extended = extend(panel, options.horizon), extend(store, options.horizon)
            for kind, some in zip(("arrays", "store"), extended, strict=True):
                inputs = windows_of(some, encoding, shape)
                ranges = OriginRanges(some.starts + window, some.ends - options.horizon)
                drawn, gathered = _times(inputs, ranges, options.batch, options.rounds)
                print(f"{name:32}{kind:8}draw {drawn:14}gather {gathered}", flush=True)
    return 0


def _times(inputs: Windows, ranges: OriginRanges, batch: int, rounds: int) -> tuple[str, str]:
    draws, gathers = [], []
    for step in range(rounds):
        started = time.perf_counter()
        origins = ranges.numbered(ranges.draw(batch, (0, 1, step)))
        between = time.perf_counter()
        inputs.gather(origins)
        draws.append(between - started)
        gathers.append(time.perf_counter() - between)
    return _text(draws), _text(gathers)


def _text(seconds: list[float]) -> str:
    middle, low = median(seconds) * 1e6, quantiles(seconds, n=10)[0] * 1e6
    return f"{middle:5.0f} ({low:.0f})"


def _panel() -> Panel:
    rng, rows = np.random.default_rng(0), SERIES * LENGTH
    hours = pl.datetime_range(datetime(2020, 1, 1), datetime(2022, 1, 1), "1h", eager=True)[:LENGTH]
    return Panel(
        columns=Columns(id="unique_id", time="ds", past=("wind",), future=("rain",), static=("size",)),
        ids=pl.Series("unique_id", np.arange(SERIES)),
        offsets=np.arange(SERIES + 1) * LENGTH,
        time=pl.Series("ds", hours).gather(np.tile(np.arange(LENGTH), SERIES)),
        y=rng.normal(size=rows).astype(np.float32).astype(np.float64),
        ends=np.arange(1, SERIES + 1) * LENGTH,
        past=rng.normal(size=(rows, 1)).astype(np.float32),
        future=rng.normal(size=(rows, 1)).astype(np.float32),
        static=pl.DataFrame({"size": rng.normal(size=SERIES)}),
        frequency=Frequency("1h"),
        missing=np.zeros(rows, bool),
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=100, help="W + h")
    parser.add_argument("--horizon", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=2000)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

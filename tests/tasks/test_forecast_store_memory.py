"""A fit from a store, its scores and its run folder take no memory of the size of the table."""

import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from gatewise.data import Columns, Frequency, Panel, store_writer

SERIES, LENGTH, PARTS = 15, 100_000, 8
"""12 million rows."""
ROOM = 40 * 2**20
"""Less than any of their columns would take, even as float32."""

CHILD = f"""
import resource, sys
from pathlib import Path
import numpy as np, torch
from gatewise.data import Store
from gatewise.tasks.forecast import fitting, run, training
from gatewise.tasks.forecast.settings import Settings

training.STEPS_PER_EPOCH = 4
folder = Path(sys.argv[1])

def fit(name):
    store = Store.open(folder / name)
    model, fitted = fitting.fit_model(Settings(horizon=8, hidden=4, epochs=2, window=48), store, training.Silent())
    return run.write_run(model, fitted, folder / f"run of {{name}}", title="", command="")

fit("small")  # threads, plots and the like take their memory once
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
limit = int(status["VmData"].split()[0]) * 1024 + {ROOM}
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
metrics = fit("large")
assert metrics["series"] == {SERIES * PARTS} and metrics["values"] > 0
rows = len(Store.open(folder / "large").y)
assert rows == {SERIES * PARTS * LENGTH}
try:
    np.ones(rows, np.float32)
except MemoryError:
    print("no room for a column")
"""


def panel(begin: int, length: int) -> Panel:
    """Some hourly series with a past and a future covariate, as a part of the table."""
    rng, rows = np.random.default_rng(begin), SERIES * length
    hours = pl.datetime_range(
        datetime(2010, 1, 1), datetime(2010, 1, 1) + timedelta(hours=length - 1), "1h", eager=True
    )
    return Panel(
        columns=Columns(id="id", time="ds", past=("wind",), future=("rain",)),
        ids=pl.Series("id", np.arange(begin, begin + SERIES)),
        offsets=np.arange(SERIES + 1) * length,
        time=pl.Series("ds", hours).gather(np.tile(np.arange(length), SERIES)),
        y=rng.normal(size=rows),
        ends=np.arange(1, SERIES + 1) * length - 8,
        past=rng.normal(size=(rows, 1)).astype(np.float32),
        future=rng.normal(size=(rows, 1)).astype(np.float32),
        static=pl.DataFrame(),
        frequency=Frequency("1h"),
        missing=np.zeros(rows, bool),
    )


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the limit is Linux's")
def test_a_fit_from_a_store_takes_no_memory_of_its_size(tmp_path: Path) -> None:
    for name, length, parts in (("small", 1000, 1), ("large", LENGTH, PARTS)):
        with store_writer(tmp_path / name) as writer:
            for part in range(parts):
                writer.append(panel(part * SERIES, length))
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path)],
        env={"PATH": "", "POLARS_MAX_THREADS": "2", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "no room for a column\n"

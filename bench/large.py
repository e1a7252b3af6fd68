"""Prepare a table that is larger than its memory may be, and train on it: time and anonymous memory of both.

    python -m bench.large --rows 100000000 --series 1000000

The table is written as Parquet, part by part. Then ``gatewise prepare`` and ``gatewise fit`` (200 steps, with its
scores, forecast and report) run as processes of their own, each under RLIMIT_DATA: the kernel refuses them private
writable memory beyond it, whether touched or not; mapped files do not count. The figures: seconds, seconds of the
processors, the largest RssAnon seen (sampled from /proc), and the most that the process had mapped writable (VmData).
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

SAMPLE_SECONDS = 0.02
PART_ROWS = 2_000_000


@dataclass(frozen=True)
class Stage:
    """What one process took."""

    name: str
    seconds: float
    processor_seconds: float
    peak_anonymous: int
    peak_writable: int

    def describe(self) -> str:
        anonymous, writable = (f"{size / 2**20:,.0f} MiB" for size in (self.peak_anonymous, self.peak_writable))
        return (
            f"{self.name}: {self.seconds:.0f} s ({self.processor_seconds:.0f} of the processors), peak anonymous "
            f"memory {anonymous}, peak writable mappings {writable}"
        )


def main() -> int:
    """Run the command."""
    options = _arguments()
    folder = Path(tempfile.mkdtemp(prefix="gatewise-large.", dir=options.folder))
    table, store, run = folder / "table", folder / "store", folder / "run"
    started = time.perf_counter()
    size = make_table(table, options.rows, options.series)
    print(
        f"table: {options.rows:,} rows, {options.series:,} series, {size / 2**20:,.0f} MiB of Parquet, made in "
        f"{time.perf_counter() - started:.0f} s",
        flush=True,
    )
    command = [sys.executable, "-c", "import sys; from gatewise.cli import main; sys.exit(main())"]
    fit = ["--horizon", "8", "--epochs", "2", "--threads", str(options.threads), "--out", str(run)]
    words = {
        "prepare": [*command, "prepare", f"{table}/*.parquet", "-o", str(store)],
        "fit": [*command, "fit", str(store), *fit],
    }
    stages = []
    for name, line in words.items():
        stage = limited(name, line, int(options.limit * 2**30))
        stages.append(stage)
        print(stage.describe(), f"of {options.limit:g} GiB allowed", flush=True)
    held = sum(path.stat().st_size for path in store.iterdir())
    print(f"store: {held / 2**20:,.0f} MiB; run folder: {run}")
    if options.json:
        options.json.write_text(json.dumps([asdict(stage) for stage in stages], indent=1) + "\n")
    return 0


def make_table(folder: Path, rows: int, series: int) -> int:
    """Hourly series of equal length, as Parquet files; their size."""
    length, rng = rows // series, np.random.default_rng(0)
    if length * series != rows:
        raise SystemExit("--rows must be a multiple of --series")
    folder.mkdir()
    hours = pl.Series("ds", [datetime(2024, 1, 1) + timedelta(hours=k) for k in range(length)])
    daily = np.sin(np.arange(length) * 2 * np.pi / 24)
    each = max(1, PART_ROWS // length)
    for begin in range(0, series, each):
        names = np.arange(begin, min(begin + each, series))
        level, wave = rng.normal(50, 10, len(names)), rng.uniform(1, 5, len(names))
        y = level[:, None] + wave[:, None] * daily + rng.normal(size=(len(names), length))
        part = pl.DataFrame(
            {
                "unique_id": pl.Series([f"s{name:07d}" for name in names]).gather(np.repeat(names - begin, length)),
                "ds": hours.gather(np.tile(np.arange(length), len(names))),
                "y": y.astype(np.float32).ravel(),
            }
        )
        part.write_parquet(folder / f"{begin:09d}.parquet")
    return sum(path.stat().st_size for path in folder.iterdir())


def limited(name: str, command: list[str], limit: int) -> Stage:
    """Run a command under a limit of its writable memory, and watch it."""
    started, used = time.perf_counter(), _processor_seconds()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "2"}
    process = subprocess.Popen(command, env=environment)
    # At its start, when it has little yet.
    resource.prlimit(process.pid, resource.RLIMIT_DATA, (limit, limit))
    peaks = {"RssAnon": 0, "VmData": 0}
    while process.poll() is None:
        for key, value in _status(process.pid).items():
            peaks[key] = max(peaks[key], value)
        time.sleep(SAMPLE_SECONDS)
    if process.returncode:
        raise SystemExit(f"{name} failed with status {process.returncode}")
    seconds = time.perf_counter() - started
    return Stage(name, seconds, _processor_seconds() - used, peaks["RssAnon"], peaks["VmData"])


def _processor_seconds() -> float:
    """Of the processes that were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _status(pid: int) -> dict[str, int]:
    """Bytes of RssAnon and VmData of a process; nothing if it has just ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    pairs = (line.split(":", 1) for line in lines)
    return {key: int(value.split()[0]) * 1024 for key, value in pairs if key in {"RssAnon", "VmData"}}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--series", type=int, default=20_000)
    parser.add_argument("--limit", type=float, default=4.0, metavar="GIB", help="of RLIMIT_DATA")
    parser.add_argument("--threads", type=int, default=1, help="of training")
    parser.add_argument("--folder", type=Path, help="where the table, the store and the run are made and left")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

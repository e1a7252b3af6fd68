"""How fast a CSV becomes a store, and in how much memory.

    python -m bench.prepare

Tables of 1, 10 and 30 million rows (hourly series of 1,000 rows: name, stamp, value) are written to a temporary folder
and prepared, each in a process of its own that samples its anonymous memory. Rows count once the store is complete, on
disk and opened. A store whose values are not those of the table is not reported.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from bench.machine import busy, machine, processors
from gatewise.data import Store, prepare

LENGTH, BLOCK = 1_000, 1_000_000
START = datetime(2020, 1, 1)
WANTED = 2e6


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.prepare", description=__doc__)
    parser.add_argument("--rows", type=float, nargs="+", default=[1, 10, 30], help="in millions")
    parser.add_argument("--mixed", action="store_true", help="sorted by time, not by series")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", help="where the tables and stores lie for a while")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure)))
        return
    about = f"{machine()['processor']}, {processors()} processors; Polars {pl.__version__}"
    print(f"{about}; of {options.rounds} rounds the one beside which others worked least.\n")
    titles = ["rows", "CSV", "seconds", "processor seconds", "rows/s", "anonymous memory: before, peak"]
    titles += ["processors that others used", "≥ 2 M rows/s"]
    print("| " + " | ".join(titles) + " |\n" + "| --- " * len(titles) + "|")
    for millions in options.rows:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            print(row(Path(folder), int(millions * 1e6), options.rounds, mixed=options.mixed), flush=True)


def row(folder: Path, rows: int, rounds: int, *, mixed: bool) -> str:
    """A line of the table."""
    table = folder / "t.csv"
    total = write(table, rows, mixed=mixed)
    own = [sys.executable, "-m", "bench.prepare", "--measure", str(table), str(folder / "store")]
    turns = [json.loads(subprocess.run(own, check=True, capture_output=True, text=True).stdout) for _ in range(rounds)]
    check(Store.open(folder / "store"), total, rows)
    quiet = min(turns, key=lambda turn: turn["others"])
    speed = rows / quiet["seconds"]
    cells = [
        f"{rows:,}{' mixed' * mixed}",
        f"{table.stat().st_size / 2**20:,.0f} MiB",
        f"{quiet['seconds']:.2f}",
        f"{quiet['processor']:.2f}",
        f"{speed:,.0f}",
        f"{quiet['before']:,.0f} MiB, {max(turn['peak'] for turn in turns):,.0f} MiB",
        f"{quiet['others']:.2f}",
        "yes" if speed >= WANTED else "**no**",
    ]
    return "| " + " | ".join(cells) + " |"


def write(path: Path, rows: int, *, mixed: bool) -> float:
    """Write a table and return the sum of its values."""
    generator, total = np.random.default_rng(0), 0.0
    series = rows // LENGTH
    names = pl.Series([f"series_{i:05d}" for i in range(series)])
    stamps = pl.Series([START + timedelta(hours=k) for k in range(LENGTH)]).dt.to_string("%Y-%m-%d %H:%M:%S")
    with open(path, "wb") as file:
        file.write(b"unique_id,ds,y\n")
        for start in range(0, rows, BLOCK):
            at = np.arange(start, min(start + BLOCK, rows))
            name, step = (at % series, at // series) if mixed else (at // LENGTH, at % LENGTH)
            y = np.round(generator.normal(100, 20, len(at)), 3)
            total += float(y.astype(np.float32).sum(dtype=np.float64))
            frame = pl.DataFrame({"unique_id": names.gather(name), "ds": stamps.gather(step), "y": y})
            frame.write_csv(file, include_header=False)
        file.flush()
        os.fsync(file.fileno())
    return total


def measure(table: str, store: str) -> dict[str, float]:
    """Prepare once and return seconds, those of the processors, and MiB of anonymous memory."""
    before, peak, done = _anonymous(), 0.0, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, _anonymous())
            time.sleep(0.01)

    watcher = threading.Thread(target=sample)
    watcher.start()
    begin, own, all_work = time.perf_counter(), time.process_time(), busy()
    prepare(table, store, force=True)
    seconds, own, all_work = time.perf_counter() - begin, time.process_time() - own, busy() - all_work
    done.set()
    watcher.join()
    return {
        "seconds": seconds,
        "processor": own,
        "others": max(0.0, all_work - own) / seconds,
        "before": before,
        "peak": peak,
    }


def check(store: Store, total: float, rows: int) -> None:
    """Refuse a store that is not the table's."""
    store.verify()
    found = float(np.sum(store.y, dtype=np.float64))
    if len(store.y) != rows or abs(found - total) > 1e-9 * abs(total) or store.frequency.text != "1h":
        raise SystemExit(f"refused: {len(store.y):,} rows that sum to {found}, not {rows:,} that sum to {total}")


def _anonymous() -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()

"""Preparing takes the same memory whatever the number of rows, and leaves nothing of its second thread behind."""

import json
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from gatewise.data.scratch import ahead

CODE = """
import json, sys, threading, time
from pathlib import Path
from gatewise.data import preparing, prepare, sources  # noqa
sources.CHUNK, preparing.ROWS = 2**20, 2**15

def anonymous():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024

peak, done = 0, threading.Event()
def sample():
    global peak
    while not done.is_set():
        peak = max(peak, anonymous())
        time.sleep(0.002)

before = anonymous()
watcher = threading.Thread(target=sample)
watcher.start()
prepare(sys.argv[1], sys.argv[2])
done.set()
watcher.join()
print(json.dumps(peak - before))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells anonymous memory")
@pytest.mark.parametrize("mixed", [False, True])
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, mixed: bool) -> None:
    took = []
    for rows in (200_000, 2_000_000):
        series = np.arange(rows) % (rows // 1000) if mixed else np.arange(rows) // 1000
        step = np.arange(rows) // (rows // 1000) if mixed else np.arange(rows) % 1000
        table = pl.DataFrame({"unique_id": series, "ds": step, "y": np.arange(rows) / 8})
        table.write_csv(tmp_path / f"{rows}.csv")
        words = [sys.executable, "-c", CODE, str(tmp_path / f"{rows}.csv"), str(tmp_path / f"store-{rows}")]
        took.append(json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout))
    # Ten times the rows, of which the columns alone would be 40 MB.
    assert took[1] < took[0] + 15, took


def test_work_ahead_ends_with_the_one_who_asks() -> None:
    made, closed = [], []

    def things() -> Generator[int]:
        try:
            for k in range(100):
                made.append(k)
                yield k
        finally:
            closed.append(threading.current_thread().name)

    threads = threading.active_count()
    taken = ahead(things())
    assert [next(taken), next(taken)] == [0, 1]
    taken.close()
    assert len(made) <= 4
    assert closed
    assert threading.active_count() == threads


def test_an_error_ahead_comes_in_its_turn() -> None:
    def things() -> Generator[int]:
        yield 1
        raise OSError("later")

    taken = ahead(things())
    assert next(taken) == 1
    with pytest.raises(OSError, match="later"):
        next(taken)

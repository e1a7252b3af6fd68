"""What cannot be prepared is refused with the place in the user's table; nothing is written, and nothing is left."""

import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from prepared import prepared, small_chunks

from gatewise.data import Store, prepare
from gatewise.errors import InputError

ROWS = [f"{name},2020-01-0{day},{day}" for day in range(1, 7) for name in ("b", "a")]
"""Interleaved: row 4 is that of "a" on the second day."""


def csv(rows: list[str], header: str = "unique_id,ds,y") -> str:
    return "\n".join([header, *rows]) + "\n"


def edited(row: int, text: str) -> list[str]:
    return [*ROWS[: row - 1], text, *ROWS[row:]]


WRONG = {
    "a row cut short": (csv(edited(8, "a,2020-01-04")), r"t\.csv, line 9 has 2 fields where the header has 3"),
    "the last row cut": (csv(ROWS)[:-9], r"t\.csv, line 13: the last row has 2 of 3 fields.*cut in the middle"),
    "NUL": (csv(edited(8, "a,2020-01-04,\0")), r"t\.csv, line 9, column 3 holds a NUL byte"),
    "not a number": (csv(edited(8, "a,2020-01-04,x")), "target 'y' is not numeric: row 8 holds 'x'"),
    "infinite": (csv(edited(8, "a,2020-01-04,inf")), "target 'y' is infinite in row 8"),
    "too large": (csv(edited(8, "a,2020-01-04,1e39")), r"too large for float32: 1e\+39 in row 8"),
    "blank inside": (
        csv(edited(8, "a,2020-01-04,")),
        r"'y' is blank in 1 cell inside the series, the first at series 'a', ds 2020-01-04 \(row 8\); .*--missing",
    ),
    "a row missing": (
        csv(ROWS[:7] + ROWS[8:]),
        r"1 row is missing from the daily grid, the first after series 'a', ds 2020-01-03 \(row 6\)",
    ),
    "not sorted": (
        csv(edited(8, "a,2020-01-02,4")),
        r"not sorted: series 'a', ds 2020-01-02 \(row 8\) comes after ds 2020-01-03",
    ),
    "twice": (csv(edited(8, "a,2020-01-03,4")), r"1 duplicate stamp, the first at series 'a', ds 2020-01-03 \(row 8\)"),
    "blank id": (csv(edited(8, ",2020-01-04,4")), "id column 'unique_id' is blank in 1 row, first in row 8"),
    "blank time": (csv(edited(8, "a,NA,4")), "time column 'ds' is blank in row 8"),
    "no stamp": (csv(edited(8, "a,4 January,4")), "time column 'ds' cannot be read: row 8 holds '4 January'"),
    "header alone": ("unique_id,ds,y\n", r"t\.csv has a header but no rows"),
    "empty": ("", r"t\.csv is empty"),
    "no target": (csv(ROWS, "unique_id,ds,Y"), "no column 'y' for the target. Did you mean 'Y'"),
    "no value at all": (csv([f"{row[:13]}" if row[0] == "a" else row for row in ROWS]), "no value at all in 1 series"),
    "one stamp each": (csv(ROWS[:2]), "frequency cannot be seen"),
}


@pytest.mark.parametrize("read", [24, 1 << 20])
@pytest.mark.parametrize("case", WRONG)
def test_the_place_is_that_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, read: int) -> None:
    small_chunks(monkeypatch, read=read, lay_out=100)
    text, said = WRONG[case]
    (tmp_path / "t.csv").write_text(text)
    words = prepared(tmp_path / "t.csv", tmp_path / "store")
    assert isinstance(words, str)
    assert re.search(said, words), words
    assert "\n" not in words


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            "a,2020-01-04,4,",
            r"covariate 'wind' is blank in 1 row of the history.*series 'a', ds 2020-01-04 \(row 8\)",
        ),
        ("a,2020-01-04,4,x", "past covariate 'wind' is not numeric: row 8 holds 'x'"),
        ("a,2020-01-04,4,-inf", "past covariate 'wind' is infinite in row 8"),
    ],
)
def test_covariates(tmp_path: Path, row: str, said: str) -> None:
    rows = [f"{own},0.5" for own in ROWS]
    (tmp_path / "t.csv").write_text(csv([*rows[:7], row, *rows[8:]], "unique_id,ds,y,wind"))
    assert re.search(said, str(prepared(tmp_path / "t.csv", tmp_path / "store", past=["wind"])))


def test_a_static_covariate_that_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch, read=30, lay_out=3)
    rows = [f"{own},{'north' if own[0] == 'a' else 'south'}" for own in ROWS]
    rows[9] = rows[9].replace("north", "south")
    (tmp_path / "t.csv").write_text(csv(rows, "unique_id,ds,y,city"))
    words = str(prepared(tmp_path / "t.csv", tmp_path / "store", static=["city"]))
    assert "'city' changes within series 'a': it is 'north' at first and 'south' at ds 2020-01-05" in words


def test_a_part_of_the_series_is_said_to_be_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f"{name},{t},{t}" for name in "abcdef" for t in range(4)]
    rows[9] = "c,1,"
    (tmp_path / "t.csv").write_text(csv(rows))
    small_chunks(monkeypatch, read=24, lay_out=8)
    words = str(prepared(tmp_path / "t.csv", tmp_path / "store"))
    assert "series 'c', ds 1 (row 10)" in words
    assert words.endswith("Looked at were the first 4 of 6 series.")


def test_truth_values_beside_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch, read=4, lay_out=100)
    for cells, said in (
        (["true", "false", "1"], "row 1 holds 'true'"),
        (["", "1", "false"], "row 3 holds 'false'"),
        (["true", "", "x"], "row 1 holds 'true'"),
    ):
        (tmp_path / "t.csv").write_text(csv([f"0,{cell}" for cell in cells], "k,y"))
        assert said in str(prepared(tmp_path / "t.csv", tmp_path / "store"))


def test_wrong_arguments(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text(csv(ROWS))
    for options, said in (
        ({"missing": "zero"}, "missing='zero' is unknown"),
        ({"target": "ds"}, "'ds' is named twice, as target and as time|target 'ds' is not numeric"),
        ({"past": ["y"]}, "'y' is named twice"),
        ({"id": "shop"}, "no column 'shop' for the id"),
        ({"query": "select 1"}, "is no database: --query is for"),
    ):
        assert re.search(said, str(prepared(table, tmp_path / "store", **options)))
    assert "Did you mean t.csv" in str(prepared(tmp_path / "tt.csv", tmp_path / "store"))


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond a size: a write fails as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("size", [0, 1000, 20_000, 40_000, 60_000])
def test_a_full_disk_is_said_and_leaves_the_old_store(tmp_path: Path, size: int, mixed: bool) -> None:
    count = 8000
    ids = np.arange(count) % 80 if mixed else np.arange(count) // 100
    table = pl.DataFrame(
        {"unique_id": ids, "ds": np.arange(count) // 80 if mixed else np.arange(count) % 100, "y": 1.5}
    )
    table.write_csv(tmp_path / "t.csv")
    (tmp_path / "old.csv").write_text("y\n1\n2\n")
    prepare(tmp_path / "old.csv", tmp_path / "store")
    before = sorted(os.listdir(tmp_path))
    with largest_file(size), pytest.raises(InputError, match="store cannot be written: File too large"):
        prepare(tmp_path / "t.csv", tmp_path / "store", force=True)
    assert sorted(os.listdir(tmp_path)) == before
    Store.open(tmp_path / "store").verify()
    assert Store.open(tmp_path / "store").y.tolist() == [1, 2]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(csv(ROWS))
    with pytest.raises(InputError, match="cannot be written: File exists"):
        prepare(tmp_path / "t.csv", tmp_path / "t.csv" / "store")


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_ended_leaves_the_old_store(tmp_path: Path, end: signal.Signals) -> None:
    count = 400_000
    pl.DataFrame({"unique_id": np.arange(count) % 400, "ds": np.arange(count) // 400, "y": 0.5}).write_csv(
        tmp_path / "t.csv"
    )
    (tmp_path / "old.csv").write_text("y\n1\n2\n")
    prepare(tmp_path / "old.csv", tmp_path / "store")
    names = set(os.listdir(tmp_path))
    words = [sys.executable, "-m", "gatewise", "prepare", tmp_path / "t.csv", "-o", tmp_path / "store", "--force"]
    for wait in (0.4, 0.7, 1.0, 1.3):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        time.sleep(wait)
        process.send_signal(end)
        _, said = process.communicate(timeout=60)
        left = set(os.listdir(tmp_path)) - names
        store = Store.open(tmp_path / "store")
        store.verify()
        assert len(store.y) in {2, count}
        if end == signal.SIGKILL:
            # Nothing but the store that was being written, which nobody takes for one.
            assert all(name.startswith(".store.") for name in left)
        else:
            assert not left
            assert "Traceback" not in said
            assert process.returncode in {0, 128 + end, -end}

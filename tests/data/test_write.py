"""Tables written part by part: what one frame would give, and nothing half-written."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from gatewise.data import csv_parts, csv_text, write_parts
from gatewise.errors import InputError

FRAME = pl.DataFrame(
    {
        "unique_id": [f"a, {k}" for k in range(50)],
        "ds": [datetime(2024, 1, 1) + timedelta(hours=k) for k in range(50)],
        "q0.5": np.arange(50) / 7,
    }
)


def parts(size: int) -> Iterator[pl.DataFrame]:
    return (FRAME[begin : begin + size] for begin in range(0, len(FRAME), size))


@pytest.mark.parametrize("size", [1, 7, 50])
def test_parts_are_one_table(tmp_path: Path, size: int) -> None:
    assert "".join(csv_parts(parts(size))) == csv_text(FRAME)
    assert write_parts(parts(size), tmp_path / "t.csv") == 50
    assert (tmp_path / "t.csv").read_text() == csv_text(FRAME)
    assert write_parts(parts(size), tmp_path / "t.PARQUET") == 50
    assert_frame_equal(pl.read_parquet(tmp_path / "t.PARQUET"), FRAME)


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
@pytest.mark.parametrize("error", [InputError("no"), KeyboardInterrupt()], ids=["refused", "Ctrl-C"])
def test_a_part_that_fails_leaves_the_old_file(tmp_path: Path, name: str, error: BaseException) -> None:
    (tmp_path / name).write_text("old")

    def failing() -> Iterator[pl.DataFrame]:
        yield FRAME[:10]
        raise error

    with pytest.raises(type(error)) as caught:
        write_parts(failing(), tmp_path / name)
    assert caught.value is error
    assert (tmp_path / name).read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_place_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"{name} cannot be written: No such file"):
        write_parts(parts(7), tmp_path / "nowhere" / name)
    with pytest.raises(InputError, match=r"must end in \.csv or \.parquet"):
        write_parts(parts(7), tmp_path / "t.xlsx")

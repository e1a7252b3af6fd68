"""A store by streaming beside the store of the whole table, and small chunks."""

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal, assert_series_equal

from gatewise.data import Store, build_panel, prepare, read_table, store_writer, usual_columns
from gatewise.errors import InputError


def small_chunks(patch: pytest.MonkeyPatch, *, read: int, lay_out: int) -> None:
    """Reads so many bytes (of databases and Parquet, rows), and lays out so many rows at once."""
    patch.setattr("gatewise.data.sources.CHUNK", read)
    patch.setattr("gatewise.data.sources.ROWS", read)
    patch.setattr("gatewise.data.databases.ROWS", read)
    patch.setattr("gatewise.data.databases._AT_ONCE", read)
    patch.setattr("gatewise.data.preparing.ROWS", lay_out)


def whole(table: str | Path | pl.DataFrame, folder: Path, *, missing: str = "error", **roles) -> Store:
    """The store of a table that is read at once."""
    df = table if isinstance(table, pl.DataFrame) else read_table(table)
    panel = build_panel(df, usual_columns(df.columns, **roles), missing=missing)
    with store_writer(folder, missing=missing) as writer:
        writer.append(panel)
    return Store.open(folder)


def assert_same(ours: Store, theirs: Store) -> None:
    assert ours.columns == theirs.columns
    assert ours.frequency == theirs.frequency
    assert ours.policy == theirs.policy
    assert_series_equal(ours.ids, theirs.ids)
    assert_series_equal(ours.first, theirs.first)
    assert_frame_equal(ours.static, theirs.static)
    for name in ("starts", "stops", "ends", "y", "extremes", "past", "future"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
    assert (ours.missing is None) == (theirs.missing is None)
    if ours.missing is not None:
        np.testing.assert_array_equal(ours.missing, theirs.missing)
    ours.verify()


def prepared(table: str | Path, folder: Path, **options) -> Store | str:
    """The store, or the words of the refusal, after which nothing may be there."""
    before = sorted(folder.parent.iterdir())
    try:
        return prepare(table, folder, **options)
    except InputError as error:
        assert sorted(folder.parent.iterdir()) == before
        return str(error)


def uncounted(words: str) -> str:
    """A refusal without the counts that only a whole table has."""
    return re.sub(r"in [\d,]+ rows?, first in row", "in row", words)

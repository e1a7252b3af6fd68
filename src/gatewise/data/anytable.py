"""Where a table is taken, a store may be given."""

from pathlib import Path

import polars as pl

from gatewise.data.forks import check_fork
from gatewise.data.read import to_polars
from gatewise.data.store import Store, is_store
from gatewise.errors import InputError


def to_table(frame: object) -> pl.DataFrame | Store:
    """Gives any table as a Polars frame, see `to_polars`; a store, or its path, as an open store.

    Raises:
        InputError: Something that is not a table, or a damaged store.

    Example:
        >>> to_table(pl.DataFrame({"y": [1.0]})).shape
        (1, 1)
    """
    check_fork()
    if isinstance(frame, Store):
        return frame
    return Store.open(frame) if isinstance(frame, str | Path) and is_store(frame) else to_polars(frame)


def whole(table: pl.DataFrame | Store) -> pl.DataFrame:
    """The table, or `InputError` for a store, below which no future rows can be put."""
    if isinstance(table, Store):
        raise InputError(f"future rows cannot follow the store {table.path}: prepare it with them.")
    return table

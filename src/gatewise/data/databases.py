"""Rows of a database by query: DuckDB through its own package, SQLite through Python's."""

import contextlib
import tempfile
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl

from gatewise.data.csvcheck import check_names
from gatewise.data.sources import ROWS, Source
from gatewise.errors import InputError

_AT_ONCE = 2**17
_MEMORY = "1GB"


def database_kind(path: str | Path) -> str | None:
    """Whether a file begins as a database of "DuckDB" or "SQLite" does, whatever its name; None if as neither."""
    try:
        with open(path, "rb") as file:
            begin = file.read(16)
    except OSError:
        return None
    if begin == b"SQLite format 3\0":
        return "SQLite"
    return "DuckDB" if begin[8:12] == b"DUCK" else None


def open_database(path: str | Path, kind: str, query: str, scratch: Path, stack: contextlib.ExitStack) -> Source:
    """The answer to a query, which cannot change the database.

    Args:
        path: The database's file.
        kind: "DuckDB" or "SQLite".
        query: A SELECT; its rows are taken in the order in which they come.
        scratch: A folder in which DuckDB may put what does not fit its memory, of which it is given 1 GB.
        stack: Closes the database at its end.

    Raises:
        InputError: The query cannot be answered, or a package that DuckDB needs is not installed.
    """
    source = _open_duckdb(path, query, scratch, stack) if kind == "DuckDB" else _open_sqlite(path, query, stack)
    check_names(source.names, "the query's answer")
    return source


@dataclass(frozen=True)
class DuckdbAnswer:
    """Record batches."""

    path: str | Path
    names: list[str]
    relation: Any
    error: type[Exception]
    text: bool = False

    def chunks(self, names: Sequence[str]) -> Generator[pl.DataFrame]:
        """See `Source`."""
        try:
            # Closed in any case: DuckDB opens a file again only when nothing is left of an earlier answer.
            with contextlib.closing(self.relation.to_arrow_reader(ROWS)) as batches:
                for batch in batches:
                    if batch.num_rows:
                        frame = pl.from_arrow(batch)
                        assert isinstance(frame, pl.DataFrame)
                        yield frame.select(names)
        except (self.error, OSError) as error:
            raise _failed(self.path, error) from error


def _open_duckdb(path: str | Path, query: str, scratch: Path, stack: contextlib.ExitStack) -> DuckdbAnswer:
    # Its batches are pyarrow's.
    for package in ("duckdb", "pyarrow"):
        if find_spec(package) is None:
            raise InputError(f"a DuckDB database needs {package}: pip install 'gatewise[sql]'.")
    import duckdb

    spill = stack.enter_context(tempfile.TemporaryDirectory(dir=scratch, prefix=".prepare.", suffix=".duckdb"))
    settings: dict[str, Any] = {"memory_limit": _MEMORY, "temp_directory": spill}
    try:
        connection = stack.enter_context(duckdb.connect(str(path), read_only=True, config=settings))
        relation = connection.sql(query)
        if relation is None:
            raise InputError(f"the query on {path} gives no rows: a SELECT is expected.")
    except duckdb.Error as error:
        raise _failed(path, error) from error
    return DuckdbAnswer(path, list(relation.columns), relation, duckdb.Error)


@dataclass(frozen=True)
class SqliteAnswer:
    """Rows as text: in SQLite each cell has a type of its own."""

    path: str | Path
    names: list[str]
    cursor: Any
    error: type[Exception]
    text: bool = True

    def chunks(self, names: Sequence[str]) -> Generator[pl.DataFrame]:
        """See `Source`."""
        places = {name: self.names.index(name) for name in names}
        first = 1
        try:
            while rows := self.cursor.fetchmany(_AT_ONCE):
                columns = list(zip(*rows, strict=True))
                yield pl.DataFrame([_as_text(name, columns[place], first) for name, place in places.items()])
                first += len(rows)
        except self.error as error:
            raise _failed(self.path, error) from error


def _open_sqlite(path: str | Path, query: str, stack: contextlib.ExitStack) -> SqliteAnswer:
    import sqlite3

    uri = f"file:{quote(str(Path(path).resolve()))}?mode=ro"
    try:
        # Read in a thread of its own, while the rows before are worked on.
        connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
        stack.callback(connection.close)
        cursor = connection.execute(query)
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise _failed(path, error) from error
    if cursor.description is None:
        raise InputError(f"the query on {path} gives no rows: a SELECT is expected.")
    return SqliteAnswer(path, [column[0] for column in cursor.description], cursor, sqlite3.Error)


def _as_text(name: str, values: tuple[Any, ...], first: int) -> pl.Series:
    kinds = {type(value) for value in values} - {type(None)}
    if bytes in kinds:
        row = first + next(i for i, value in enumerate(values) if isinstance(value, bytes))
        raise InputError(f"the column {name!r} of the query holds bytes in row {row}: give text and numbers.")
    if kinds <= {str}:
        return pl.Series(name, values, pl.String)
    if len(kinds) == 1:
        return pl.Series(name, values, pl.Int64 if kinds == {int} else pl.Float64).cast(pl.String)
    return pl.Series(name, [None if value is None else str(value) for value in values], pl.String)


def _failed(path: str | Path, error: Exception) -> InputError:
    line = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    return InputError(f"the query on {path} cannot be answered: {line}.")

"""Write tables that are made part by part."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import polars as pl
from polars.io.plugins import register_io_source

from gatewise.data.read import csv_text, table_ending
from gatewise.errors import InputError
from gatewise.format import atomic_file


def write_parts(parts: Iterable[pl.DataFrame], path: str | Path) -> int:
    r"""Writes a table of which one part is in memory at a time; the path holds its old content or all of the new.

    Args:
        parts: At least one, all with the same columns.
        path: Ends in .csv or .parquet.

    Returns:
        How many rows were written.

    Raises:
        InputError: Another ending, or the file cannot be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "forecast.csv"
        >>> write_parts((pl.DataFrame({"y": [k]}) for k in range(2)), path)
        2
        >>> path.read_text()
        'y\n0\n1\n'
    """
    ending, rows = table_ending(path), 0

    def counted() -> Iterator[pl.DataFrame]:
        nonlocal rows
        for part in parts:
            rows += len(part)
            yield part

    with atomic_file(path) as file:
        if ending == ".csv":
            for text in csv_parts(counted()):
                file.write(text.encode())
        else:
            _write_parquet(counted(), file.name, path)
    return rows


def csv_parts(parts: Iterable[pl.DataFrame]) -> Iterator[str]:
    """The text of each part; the first has the header."""
    for number, part in enumerate(parts):
        yield csv_text(part, header=not number)


def _write_parquet(parts: Iterator[pl.DataFrame], file: str, path: str | Path) -> None:
    first, stopped = next(parts), []

    def source(*_: object) -> Iterator[pl.DataFrame]:
        yield first
        try:
            yield from parts
        except BaseException as error:
            stopped.append(error)
            raise

    try:
        register_io_source(source, schema=first.schema).sink_parquet(file)
    except pl.exceptions.PolarsError as error:
        if stopped:
            raise stopped[0] from None  # Polars makes an error of its own of it
        raise InputError(f"{path} cannot be written: {str(error).splitlines()[0].rstrip('.')}.") from error

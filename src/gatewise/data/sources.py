"""Where the rows of a large table come from: files of text, Parquet files, a database; always some rows at a time."""

import contextlib
import gzip
import shutil
import tempfile
import zlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import polars as pl

from gatewise.data.csvcheck import check_names
from gatewise.data.read import SEPARATORS, check_alike, check_parquet, damaged_parquet, kind_of, resolve
from gatewise.data.store import is_store
from gatewise.data.textfile import CHUNK, TextFile
from gatewise.errors import InputError

ROWS = 2**20
"""Rows of a Parquet file or a database that are read at once."""

_HEADER = 2**16


class Source(Protocol):
    """A table that is read once, from its first row to its last."""

    @property
    def names(self) -> list[str]:
        """Of the columns."""
        ...

    @property
    def text(self) -> bool:
        """Whether all cells come as text, so that their types are still to be seen."""
        ...

    def chunks(self, names: Sequence[str]) -> Generator[pl.DataFrame]:
        """Some columns of the rows; no chunk is empty, and their types do not change."""
        ...


def open_files(table: str | Path, scratch: Path, stack: contextlib.ExitStack) -> Source:
    """A table in files: a path, a pattern, or a folder of Parquet files.

    Args:
        table: CSV, TSV or Parquet, each also with .gz; a folder is read with all that is below it.
        scratch: A folder for what must be unpacked.
        stack: Removes that at its end.

    Raises:
        InputError: No such file, an unknown or mixed kind, or files whose columns differ.
    """
    paths = _parquet_files(Path(table)) if Path(table).is_dir() else resolve(table)
    kinds = {kind_of(path)[0] for path in paths}
    for path in paths:
        if kind_of(path)[0] not in {*SEPARATORS, ".parquet"}:
            raise InputError(
                f"{path} is not a known kind of table: its name must end in .csv, .tsv or .parquet, or it "
                "must be a database of DuckDB or SQLite."
            )
    if ".parquet" not in kinds:
        return _open_text(paths)
    if len(kinds) > 1:
        raise InputError(f"{table} matches text and Parquet files: prepare takes one kind at a time.")
    return _open_parquet(paths, scratch, stack)


def _parquet_files(folder: Path) -> list[Path]:
    """As Spark, DuckDB and others write them; names that begin with a dot or an underscore are not data."""
    if is_store(folder):
        raise InputError(f"{folder} is a store already: gatewise fit, tune, predict and evaluate take it as it is.")
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.name.lower().endswith((".parquet", ".parquet.gz"))
        and not is_store(path.parent)
        and not any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
    )
    if not paths:
        raise InputError(
            f"{folder} is a folder without Parquet files: for other files, give a pattern: {folder}/*.csv."
        )
    return paths


@dataclass(frozen=True)
class TextFiles:
    """CSV or TSV files, one below the other."""

    paths: list[Path]
    names: list[str]
    size: int
    text: bool = True

    def chunks(self, names: Sequence[str]) -> Generator[pl.DataFrame]:
        """See `Source`."""
        for path in self.paths:
            yield from _open_one(path, self.size).chunks(names)


def _open_one(path: Path, size: int) -> TextFile:
    ending, packed = kind_of(path)
    return TextFile(path, SEPARATORS[ending], packed=packed, size=size)


def _open_text(paths: list[Path]) -> TextFiles:
    headers: list[list[str]] = []
    for path in paths:
        with contextlib.closing(_open_one(path, _HEADER)) as file:
            headers.append(file.header)
    check_alike([pl.Schema(dict.fromkeys(header, pl.String)) for header in headers], paths)
    return TextFiles(paths, headers[0], CHUNK)


@dataclass(frozen=True)
class ParquetFiles:
    """Parquet files, one below the other, in the types that hold all of them."""

    paths: list[Path]
    schema: pl.Schema
    rows: int
    text: bool = False

    @property
    def names(self) -> list[str]:
        """Of the columns."""
        return self.schema.names()

    def chunks(self, names: Sequence[str]) -> Generator[pl.DataFrame]:
        """See `Source`."""
        schema = {name: self.schema[name] for name in names}
        for path in self.paths:
            try:
                lazy = pl.scan_parquet(path)
                total = lazy.select(pl.len()).collect().item()
                for start in range(0, total, self.rows):
                    yield lazy.select(names).slice(start, self.rows).collect().cast(schema)  # pyright: ignore[reportArgumentType]
            except (pl.exceptions.PolarsError, OSError) as error:
                raise damaged_parquet(path, error) from error


def _open_parquet(paths: list[Path], scratch: Path, stack: contextlib.ExitStack) -> ParquetFiles:
    plain = [_unpacked(path, scratch, stack) if kind_of(path)[1] else path for path in paths]
    schemas: list[pl.Schema] = []
    rows = 0
    for path, name in zip(plain, paths, strict=True):
        _check_ends(path, name)
        try:
            schemas.append(pl.Schema(pl.read_parquet_schema(path)))
            rows += pl.scan_parquet(path).select(pl.len()).collect().item()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise damaged_parquet(name, error) from error
        check_names(schemas[-1].names(), str(name))
    check_alike(schemas, paths)
    if not rows:
        raise InputError(f"{paths[0]} has columns but no rows: a table needs at least one row of data.")
    like = pl.concat([schema.to_frame().select(schemas[0].names()) for schema in schemas], how="vertical_relaxed")
    return ParquetFiles(plain, like.schema, ROWS)


def _check_ends(path: Path, name: Path) -> None:
    try:
        with open(path, "rb") as file:
            begin = file.read(4)
            if not begin:
                raise InputError(f"{name} is empty: it holds no byte.")
            file.seek(max(0, path.stat().st_size - 4))
            check_parquet(begin, file.read(4), name)
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror or error}.") from error


def _unpacked(path: Path, scratch: Path, stack: contextlib.ExitStack) -> Path:
    """A Parquet file is read from its end, which a compressed one does not allow."""
    file = stack.enter_context(tempfile.NamedTemporaryFile(dir=scratch, prefix=".prepare.", suffix=".parquet"))  # noqa: SIM115
    try:
        with contextlib.closing(gzip.open(path)) as packed:
            shutil.copyfileobj(packed, file, 2**20)
    except EOFError:
        raise InputError(f"{path} is cut: its compressed data ends too early; copy the file again.") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path} is not compressed by gzip, or damaged: {error}.") from None
    file.flush()
    return Path(file.name)

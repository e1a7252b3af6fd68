"""Read and write tables: CSV, TSV and Parquet, plain or compressed by gzip; frames of other libraries.

A table is taken whole or refused: a cut, ragged or damaged file raises `InputError` with the file and the line.
"""

import contextlib
import difflib
import glob
import gzip
import io
import os
import zlib
from pathlib import Path
from typing import Any

import narwhals as nw
import polars as pl

from gatewise.data.csvcheck import check_names
from gatewise.data.forks import check_fork
from gatewise.data.parse import tidy
from gatewise.data.textfile import TextFile
from gatewise.errors import InputError
from gatewise.format import atomic_file

SEPARATORS = {".csv": ",", ".tsv": "\t"}
_ACCEPTED = ".csv, .tsv, .parquet, or one of these with .gz added"


def read_table(source: str | Path) -> pl.DataFrame:
    r"""Reads one file, or every file that a pattern matches, as one table.

    Args:
        source: A path or a glob pattern. The ending says the format: .csv, .tsv, .parquet, each also with .gz.

    Returns:
        The rows of all files, in the order of their names. In text files the type of a column is the one that all its
        cells share; ISO dates and stamps become dates and stamps.

    Raises:
        InputError: No such file, an unknown format, or a file that is empty, cut, ragged or damaged.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "load.csv"
        >>> _ = path.write_text("ds,y\n2020-01-01,1\n2020-01-02,2.5\n")
        >>> read_table(path)["y"].to_list()
        [1.0, 2.5]
    """
    check_fork()
    paths = resolve(source)
    frames = [_read_raw(path) for path in paths]
    if all(kind_of(path)[0] in SEPARATORS for path in paths):
        # Joined as text and typed afterwards, so that a column's type is decided over all files.
        return _typed(_join(frames, paths))
    typed = [
        _typed(frame) if kind_of(path)[0] in SEPARATORS else frame for frame, path in zip(frames, paths, strict=True)
    ]
    return _join(typed, paths)


def to_polars(frame: object) -> pl.DataFrame:
    """Gives any table as a Polars frame: pandas, Polars (lazy too), pyarrow; a path is read by `read_table`.

    The named index of a pandas frame becomes columns; an unnamed index is dropped.

    Raises:
        InputError: Something that is not a table.

    Example:
        >>> to_polars(pl.LazyFrame({"y": [1.0]})).shape
        (1, 1)
    """
    if isinstance(frame, str | Path):
        return read_table(frame)
    if nw.dependencies.is_pandas_dataframe(frame):
        frame = _named_index_as_columns(frame)
    try:
        table: Any = nw.from_native(frame, pass_through=False)  # pyright: ignore[reportCallIssue, reportArgumentType]
    except TypeError:
        raise InputError(
            f"a table is expected, not {type(frame).__name__}: pass a pandas, Polars or pyarrow frame, or a path."
        ) from None
    try:
        return (table.collect() if isinstance(table, nw.LazyFrame) else table).to_polars()
    except Exception as error:  # each library has its own error for columns that cannot be converted
        raise InputError(f"the table cannot be converted to Polars: {_first_line(error)}.") from error


def csv_text(df: pl.DataFrame, *, header: bool = True) -> str:
    r"""A table as CSV, its stamps written as most tables write them: no fraction where there is none.

    Example:
        >>> from datetime import datetime
        >>> csv_text(pl.DataFrame({"ds": [datetime(2024, 1, 6)], "y": [1.5]}))
        'ds,y\n2024-01-06 00:00:00,1.5\n'
    """
    stamps = {name: dtype for name, dtype in df.schema.items() if isinstance(dtype, pl.Datetime)}
    return df.with_columns(
        pl.col(name).dt.to_string("%Y-%m-%d %H:%M:%S%.f" + ("%:z" if dtype.time_zone else ""))
        for name, dtype in stamps.items()
    ).write_csv(include_header=header)


def write_table(df: pl.DataFrame, path: str | Path) -> None:
    r"""Writes a table so that the path holds either its old content or all of the new one.

    Args:
        df: The table.
        path: Ends in .csv or .parquet.

    Raises:
        InputError: Another ending, or the file cannot be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "forecast.csv"
        >>> write_table(pl.DataFrame({"y": [1.0]}), path)
        >>> path.read_text()
        'y\n1.0\n'
    """
    path, ending = Path(path), table_ending(path)
    try:
        with atomic_file(path) as file:
            if ending == ".csv":
                file.write(csv_text(df).encode())
            else:
                df.write_parquet(file)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path} cannot be written: {_first_line(error)}.") from error


def table_ending(path: str | Path) -> str:
    """The ending that says how a table is written, or raises `InputError`."""
    ending = Path(path).suffix.lower()
    if ending not in {".csv", ".parquet"}:
        raise InputError(f"{path} cannot be written: the name of a table must end in .csv or .parquet.")
    return ending


def resolve(source: str | Path) -> list[Path]:
    """The files of a path or a pattern, by name."""
    path = Path(source).expanduser()
    if path.is_dir():
        raise InputError(
            f"{path} is a folder: name a file in it, or a pattern such as {path}/*.csv, or make a store of its Parquet "
            "files with gatewise prepare."
        )
    if path.exists():
        return [path]
    if glob.has_magic(str(path)):
        matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True) if Path(match).is_file())
        if not matches:
            raise InputError(f"no file matches {source}: check the folder and the pattern.")
        return matches
    near: list[str] = []
    with contextlib.suppress(OSError):
        near = difflib.get_close_matches(path.name, os.listdir(path.parent), n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else " Check the path."
    raise InputError(f"no such file: {source}.{hint}")


def kind_of(path: Path) -> tuple[str, bool]:
    """The format's ending, and whether the file is compressed."""
    name = path.name.lower()
    packed = name.endswith(".gz")
    return Path(name.removesuffix(".gz")).suffix, packed


def _read_raw(path: Path) -> pl.DataFrame:
    """One file: Parquet as it is, text with every cell as text."""
    ending, packed = kind_of(path)
    if ending not in {*SEPARATORS, ".parquet"}:
        raise InputError(
            f"{path} is not a known kind of table: its name must end in {_ACCEPTED}; a database is read by gatewise "
            "prepare."
        )
    if ending in SEPARATORS:
        return pl.concat(TextFile(path, SEPARATORS[ending], packed=packed).chunks())
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    if not data:
        raise InputError(f"{path} is empty: it holds no byte.")
    if packed:
        data = _unpack(data, path)
    return _read_parquet(data, path)


def _unpack(data: bytes, path: Path) -> bytes:
    try:
        return gzip.decompress(data)
    except EOFError:
        raise InputError(f"{path} is cut: its compressed data ends too early; copy the file again.") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path} is not compressed by gzip, or damaged: {error}.") from None


def _read_parquet(data: bytes, path: Path) -> pl.DataFrame:
    check_parquet(data[:4], data[-4:], path)
    try:
        frame = pl.read_parquet(io.BytesIO(data))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise damaged_parquet(path, error) from error
    check_names(frame.columns, str(path))
    if frame.is_empty():
        raise InputError(f"{path} has columns but no rows: a table needs at least one row of data.")
    return frame


def check_parquet(begin: bytes, end: bytes, path: Path) -> None:
    """Raises `InputError` unless the first and the last four bytes of a file are those of a Parquet file."""
    if begin != b"PAR1":
        raise InputError(f"{path} is not a Parquet file: it does not begin with PAR1.")
    if end != b"PAR1":
        raise InputError(f"{path} is cut: it does not end with the mark of a Parquet file; copy it again.")


def damaged_parquet(path: Path, error: Exception) -> InputError:
    """The error for a Parquet file that Polars refuses."""
    return InputError(f"{path} is a damaged Parquet file: {_first_line(error)}.")


def _typed(frame: pl.DataFrame) -> pl.DataFrame:
    return pl.DataFrame([tidy(column) for column in frame])


def _join(frames: list[pl.DataFrame], paths: list[Path]) -> pl.DataFrame:
    check_alike([frame.schema for frame in frames], paths)
    return pl.concat([frame.select(frames[0].columns) for frame in frames], how="vertical_relaxed")


def check_alike(schemas: list[pl.Schema], paths: list[Path]) -> None:
    """Raises `InputError` unless files that are read together have the same columns, of types that go together."""
    first = schemas[0]
    for schema, path in zip(schemas[1:], paths[1:], strict=True):
        for have, want, word in ((schema, first, "lacks"), (first, schema, "adds")):
            extra = [name for name in want if name not in have]
            if extra:
                raise InputError(
                    f"{path} {word} the column {extra[0]!r}: files read together must have the columns of {paths[0]}."
                )
    for schema, path in zip(schemas[1:], paths[1:], strict=True):
        for name, dtype in first.items():
            other = schema[name]
            if other != dtype and not (other.is_numeric() and dtype.is_numeric()) and pl.Null not in {other, dtype}:
                raise InputError(
                    f"{path}: the column {name!r} holds {other} where {paths[0]} holds {dtype}; files read together "
                    "must agree."
                )


def _named_index_as_columns(frame: Any) -> Any:
    names = list(frame.index.names)
    return frame.reset_index() if all(name is not None and name not in frame.columns for name in names) else frame


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")

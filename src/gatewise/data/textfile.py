"""A delimited text file as tables of text, some megabytes at a time, each checked before it is given."""

import csv
import gzip
import io
import zlib
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import polars as pl

from gatewise.data.csvcheck import Records, check_bytes, check_records, check_start
from gatewise.errors import InputError

CHUNK = 16 << 20
"""Bytes of text that are read at once."""

_MARK = b"\xef\xbb\xbf"
_LONGEST_LINE = 64 << 20


class TextFile:
    r"""A CSV or TSV file, plain or compressed by gzip, open at its first row.

    Args:
        path: Of the file.
        separator: "," or a tab.
        packed: Whether it is compressed by gzip.
        size: Bytes of text to read at once; a chunk is what of them is whole lines.

    Raises:
        InputError: The file cannot be read, or does not begin as a text table.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "load.csv")
        >>> _ = path.write_text("ds,y\n2020-01-01,1\n2020-01-02,2.5\n")
        >>> file = TextFile(path, ",")
        >>> file.header, [chunk["y"].to_list() for chunk in file.chunks(["y"])]
        (['ds', 'y'], [['1', '2.5']])
    """

    def __init__(self, path: Path, separator: str, *, packed: bool = False, size: int = CHUNK):
        self._path, self._separator, self._size = path, separator, size
        self._line, self._ended, self._rest = 1, False, b""
        try:
            self._file: BinaryIO = _open(path, packed=packed)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
        try:
            self._data = self._more().removeprefix(_MARK)
            self.header, size = check_start(self._data, separator, str(path))
            """The names of the columns."""
        except BaseException:
            self._file.close()
            raise
        self._line += self._data.count(b"\n", 0, size)
        self._data = self._data[size:]

    def close(self) -> None:
        """Closes the file, whose rows need not have been read."""
        self._file.close()

    def chunks(self, names: Sequence[str] | None = None) -> Generator[pl.DataFrame]:
        """The rows as text, blank cells as null or as nothing; only some columns if they are named. Can be read once.

        Raises:
            InputError: The file is cut, ragged or damaged, or has no rows at all.
        """
        wanted, name, any_row = self.header if names is None else list(names), str(self._path), False
        with self._file:
            while self._data or not self._ended:
                data = self._data
                check_bytes(data, self._separator, name, self._line)
                records = check_records(data, self.header, self._separator, name, line=self._line, last=self._ended)
                if not records.count and len(data) > _LONGEST_LINE:
                    raise InputError(f"{name}, line {self._line}: its quotes do not close within {len(data):,} bytes.")
                if records.count > len(records.blank):
                    any_row = True
                    yield self._frame(data[: records.size], records, wanted)
                self._line += records.lines
                self._data = data[records.size :]
                if not self._ended:
                    self._data += self._more()
        if not any_row:
            raise InputError(f"{name} has a header but no rows: a table needs at least one row of data.")

    def _more(self) -> bytes:
        """The next whole lines; at the end of the file what is left of it."""
        parts: list[bytes | memoryview] = [self._rest]
        while True:
            block = self._read()
            self._ended = len(block) < self._size
            cut = len(block) if self._ended else block.rfind(b"\n") + 1
            parts.append(memoryview(block)[: cut or len(block)])
            if cut or self._ended:
                self._rest = block[cut:]
                return b"".join(parts)
            if sum(map(len, parts)) > _LONGEST_LINE:
                if self._line == 1:
                    check_start(b"".join(parts), self._separator, str(self._path))
                raise InputError(
                    f"{self._path}, line {self._line} is longer than 64 MiB: the file is damaged or not a text table."
                )

    def _read(self) -> bytes:
        try:
            return self._file.read(self._size)
        except EOFError:
            raise InputError(f"{self._path} is cut: its compressed data ends too early; copy the file again.") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise InputError(f"{self._path} is not compressed by gzip, or damaged: {error}.") from None
        except OSError as error:
            raise InputError(f"{self._path} cannot be read: {error.strerror or error}.") from error

    def _frame(self, data: bytes, records: Records, names: list[str]) -> pl.DataFrame:
        if not records.regular:
            # Polars stumbles over a quote inside a cell that is not quoted (5" pipe); the slow reader does not.
            return self._slowly(data).select(names)
        # Polars takes the number of columns from the first line, which must not be blank.
        lead = int(np.sum(records.blank == np.arange(len(records.blank))))
        at = sorted(self.header.index(name) for name in names)
        try:
            frame = pl.read_csv(
                data.lstrip(b"\r\n") if lead else data,
                separator=self._separator,
                has_header=False,
                infer_schema=False,
                columns=at,
            )
        except pl.exceptions.PolarsError:
            frame = pl.DataFrame()
        if frame.height != records.count - lead:
            return self._slowly(data).select(names)
        frame.columns = [self.header[place] for place in at]
        if len(records.blank):
            frame = frame.with_row_index("").filter(~pl.col("").is_in((records.blank - lead).tolist())).drop("")
        return frame.select(names)

    def _slowly(self, data: bytes) -> pl.DataFrame:
        """Records that have passed their checks, by the csv module."""
        records = csv.reader(io.StringIO(data.decode(), newline=""), delimiter=self._separator, strict=True)
        one = len(self.header) == 1
        rows = [record or [""] for record in records if record or one]
        return pl.DataFrame(rows, schema=dict.fromkeys(self.header, pl.String), orient="row")


def _open(path: Path, *, packed: bool) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if packed else open(path, "rb")

"""Is this text file whole? One pass over its bytes before Polars reads it.

Polars fills a short row with blanks, and a reader of training data must not: a file cut by a full disk would train.
Every message names the file, the line (the header is line 1) and the fields.
"""

import csv
import io
from dataclasses import dataclass

import numpy as np

from gatewise.errors import InputError

_MAGIC = {
    b"PAR1": "a Parquet file: name it .parquet",
    b"\x1f\x8b": "compressed by gzip: add .gz to its name",
    b"PK\x03\x04": "a zip archive or a spreadsheet: save the table as CSV or Parquet",
    b"\xff\xfe": "UTF-16 text: save it as UTF-8",
    b"\xfe\xff": "UTF-16 text: save it as UTF-8",
}


@dataclass(frozen=True)
class Outline:
    """What a checked file holds: column names, number of records below them, and which of those are blank lines."""

    header: list[str]
    records: int
    blank: np.ndarray


def check_text(data: bytes, separator: str, name: str) -> Outline:
    r"""Checks a whole delimited file and returns its outline, or raises `InputError`.

    Example:
        >>> check_text(b"a,b\n1,2\n\n3,4\n", ",", "x.csv")
        Outline(header=['a', 'b'], records=3, blank=array([1]))
    """
    _check_bytes(data, separator, name)
    rows = _records_quoted(data, separator, name) if b'"' in data else _records_plain(data, separator)
    header_line, lines, fields = rows
    header = [cell.strip() for cell in next(csv.reader(io.StringIO(header_line, newline=""), delimiter=separator), [])]
    _check_header(header, separator, name)
    width = len(header)
    # In a table of one column, an empty line is a blank cell.
    blank = (fields == 0) & (width > 1)
    ragged = np.flatnonzero((fields != width) & ~blank & (width > 1))
    if len(ragged):
        row = int(ragged[0])
        # Whole files end in a line end; without one, a short last row is a cut.
        cut = row == len(fields) - 1 and not data.endswith(b"\n")
        _raise_ragged(f"{name}, line {lines[row]}", int(fields[row]), header, cut=cut)
    if not np.any(~blank):
        raise InputError(f"{name} has a header but no rows: a table needs at least one row of data.")
    return Outline(header, len(fields), np.flatnonzero(blank))


def _check_bytes(data: bytes, separator: str, name: str) -> None:
    if not data.strip():
        raise InputError(f"{name} is empty: a table needs a header line and at least one row.")
    for magic, meaning in _MAGIC.items():
        if data.startswith(magic):
            raise InputError(f"{name} is not a text table but {meaning}.")
    if data[:1] in b"\r\n":
        raise InputError(f"{name}, line 1 is blank: the first line must name the columns.")
    if b"\r" in data and b"\n" not in data:
        raise InputError(f"{name} ends its lines with carriage returns alone: save it with line feeds.")
    nul = data.find(b"\0")
    if nul >= 0:
        raise InputError(
            f"{name}, {_place(data, nul, separator)} holds a NUL byte: the file is damaged or not a text table."
        )
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name}, {_place(data, error.start, separator)} is not UTF-8 text: save the file as UTF-8."
        ) from None


def _place(data: bytes, position: int, separator: str) -> str:
    line_start = data.rfind(b"\n", 0, position) + 1
    field = data.count(separator.encode(), line_start, position) + 1
    line = data.count(b"\n", 0, position) + 1
    return f"line {line}, column {field}"


def _records_plain(data: bytes, separator: str) -> tuple[str, np.ndarray, np.ndarray]:
    """Header text, line number and number of fields of each record, in a file without quotes: a record is a line."""
    octets = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(octets == ord("\n"))
    if not data.endswith(b"\n"):
        ends = np.append(ends, len(octets))
    starts = np.concatenate([[0], ends[:-1] + 1])
    is_separator = (octets == ord(separator)).view(np.uint8)
    fields = np.add.reduceat(is_separator, starts, dtype=np.int64) + 1
    # reduceat gives an empty last line the count of the byte at its start; blank lines are counted as no field at all.
    length = ends - starts
    fields[(length == 0) | ((length == 1) & (octets[starts] == ord("\r")))] = 0
    header = data[: ends[0]].decode().rstrip("\r")
    return header, np.arange(2, len(ends) + 1), fields[1:]


def _records_quoted(data: bytes, separator: str, name: str) -> tuple[str, np.ndarray, np.ndarray]:
    """The same where cells may be quoted and hold separators and line ends."""
    text = io.StringIO(data.decode(), newline="")
    reader = csv.reader(text, delimiter=separator, strict=True)
    lines, fields, line, header_lines = [], [], 1, 1
    try:
        for record in reader:
            if not fields:
                header_lines = reader.line_num
            lines.append(line)
            fields.append(len(record))
            line = reader.line_num + 1
    except csv.Error as error:
        problem = "its quotes do not close" if "end of data" in str(error) else str(error)
        raise InputError(
            f"{name}, line {line}: the row cannot be read ({problem}); the file may be cut in the middle of a row."
        ) from None
    text.seek(0)
    header = "".join(text.readline() for _ in range(header_lines)).rstrip("\r\n")
    return header, np.array(lines[1:], np.int64), np.array(fields[1:], np.int64)


def _check_header(header: list[str], separator: str, name: str) -> None:
    if len(header) == 1:
        for other, word in ((";", "semicolons"), ("\t", "tabs"), (",", "commas")):
            if other != separator and other in header[0]:
                raise InputError(
                    f"{name}, line 1 seems separated by {word}: fields are separated by commas in .csv files and by "
                    "tabs in .tsv files."
                )
    check_names(header, name)
    if all(_is_number(cell) for cell in header) and not all(cell.isdigit() for cell in header):
        raise InputError(f"{name}, line 1 holds numbers: the first line must name the columns.")


def check_names(names: list[str], source: str) -> None:
    """Raises `InputError` if two columns have one name."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{source} has more than one column named {twice[0]!r}: give every column its own name.")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _raise_ragged(where: str, has: int, header: list[str], *, cut: bool) -> None:
    width = len(header)
    if has < width and cut:
        raise InputError(
            f"{where}: the last row has {has} of {width} fields (it ends before column {header[has]!r}); the file "
            "seems cut in the middle of a row."
        )
    what = f"ends before column {header[has]!r}" if has < width else f"goes on after column {header[-1]!r}"
    raise InputError(f"{where} has {has} fields where the header has {width}: the row {what}.")

"""Is this text file whole? One pass over its bytes, some whole lines at a time, before Polars reads them.

Polars fills a short row with blanks, and a reader of training data must not: a file cut by a full disk would train.
Every message names the file, the line (the header is line 1) and the fields.
"""

import csv
import io
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from gatewise.errors import InputError

_LINE_END, _QUOTE = ord("\n"), ord('"')
_PIECE = 2**18
_MAGIC = {
    b"PAR1": "a Parquet file: name it .parquet",
    b"\x1f\x8b": "compressed by gzip: add .gz to its name",
    b"PK\x03\x04": "a zip archive or a spreadsheet: save the table as CSV or Parquet",
    b"\xff\xfe": "UTF-16 text: save it as UTF-8",
    b"\xfe\xff": "UTF-16 text: save it as UTF-8",
}


@dataclass(frozen=True)
class Records:
    """The records of some whole lines of a text file.

    Attributes:
        count: How many there are, blank lines among them.
        blank: Which of them are blank lines.
        lines: The lines that they take.
        size: The bytes that they take; less than were given if the last record goes on after them.
        regular: Whether quotes stand only where they open and close cells, as every reader understands them.
    """

    count: int
    blank: np.ndarray
    lines: int
    size: int
    regular: bool = True


def check_start(data: bytes, separator: str, name: str) -> tuple[list[str], int]:
    r"""Checks how a text file begins: the names of its columns, and the bytes that their record takes.

    Args:
        data: Whole lines from the start of the file, without a byte order mark.
        separator: Between fields.
        name: Of the file.

    Raises:
        InputError: This is no text table, or its first line does not name the columns.

    Example:
        >>> check_start(b"a,b\n1,2\n", ",", "x.csv")
        (['a', 'b'], 4)
    """
    if not data.strip():
        raise InputError(f"{name} is empty: a table needs a header line and at least one row.")
    for magic, meaning in _MAGIC.items():
        if data.startswith(magic):
            raise InputError(f"{name} is not a text table but {meaning}.")
    if data[:1] in b"\r\n":
        raise InputError(f"{name}, line 1 is blank: the first line must name the columns.")
    if b"\r" in data and b"\n" not in data:
        raise InputError(f"{name} ends its lines with carriage returns alone: save it with line feeds.")
    check_bytes(data, separator, name, 1)
    end = data.find(b"\n") + 1 or len(data)
    text = io.StringIO(data[: len(data) if b'"' in data[:end] else end].decode(), newline="")
    reader = csv.reader(text, delimiter=separator, strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
    except csv.Error as error:
        _raise_unread(error, name, 1)
    if reader.line_num > 1:  # a name holds a line end
        text.seek(0)
        end = sum(len(next(text).encode()) for _ in range(reader.line_num))
    _check_header(header, separator, name)
    return header, end


def check_bytes(data: bytes, separator: str, name: str, line: int) -> None:
    """Raises `InputError` if whole lines, of which the first is number `line`, hold a NUL byte or are not UTF-8."""
    nul = data.find(b"\0")
    if nul >= 0:
        where = _place(data, nul, separator, line)
        raise InputError(f"{name}, {where} holds a NUL byte: the file is damaged or not a text table.")
    if data.isascii():
        return
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        where = _place(data, error.start, separator, line)
        raise InputError(f"{name}, {where} is not UTF-8 text: save the file as UTF-8.") from None


def check_records(
    data: bytes, header: list[str], separator: str, name: str, *, line: int, last: bool = True
) -> Records:
    r"""Checks that every record of whole lines has the fields of the header.

    Args:
        data: Whole lines below the header, beginning with a record.
        header: Names of the columns.
        separator: Between fields.
        name: Of the file.
        line: Number of the first line; the header is line 1.
        last: Whether the file ends here. If not, a record that goes on after the data is left out.

    Raises:
        InputError: A record has more or fewer fields, or its quotes do not close.

    Example:
        >>> check_records(b"1,2\n\n3,4\n", ["a", "b"], ",", "x.csv", line=2)
        Records(count=3, blank=array([1]), lines=3, size=9, regular=True)
    """
    width = len(header)
    if not data:
        return Records(0, np.empty(0, np.int64), 0, 0)
    octets = np.frombuffer(data, np.uint8)
    marks = _marks(data, octets, separator, last=last)
    if marks is None:
        fields, lines, size = _records_quoted(data, separator, name, line, last=last)
    else:
        kinds = octets[marks]
        full = len(marks) > 0 and marks[-1] == len(data) - 1 and kinds[-1] == _LINE_END
        if full and width > 1 and len(kinds) % width == 0:
            # Most files are whole: every record has its separators and then a line end, and nothing is to be counted.
            grid = kinds.reshape(-1, width)
            if (grid[:, -1] == _LINE_END).all() and (grid[:, :-1] != _LINE_END).all():
                lines = data.count(b"\n") if b'"' in data else len(grid)
                return Records(len(grid), np.empty(0, np.int64), lines, len(data))
        fields, lines, size = _counted(octets, marks, line, last=last)
    # In a table of one column, an empty line is a blank cell.
    blank = (fields == 0) & (width > 1)
    ragged = np.flatnonzero((fields != width) & ~blank & (width > 1))
    if len(ragged):
        row = int(ragged[0])
        # Whole files end in a line end; without one, a short last row is a cut.
        cut = last and row == len(fields) - 1 and not data.endswith(b"\n")
        _raise_ragged(f"{name}, line {lines[row]}", int(fields[row]), header, cut=cut)
    return Records(len(fields), np.flatnonzero(blank), data.count(b"\n", 0, size), size, marks is not None)


def _marks(data: bytes, octets: np.ndarray, separator: str, *, last: bool) -> np.ndarray | None:
    """Where fields and records end; None if quotes stand where only the csv module can tell.

    A quote opens a cell where a field begins, and closes it where one ends; two in a row stand for one. If every quote
    is one of these, what lies after an odd number of them is inside a cell.
    """
    marks = _found(octets, ord(separator))
    if b'"' not in data:
        return marks
    if data.count(b"\r") != data.count(b"\r\n"):
        return None
    quotes = np.flatnonzero(octets == _QUOTE)
    if last and len(quotes) % 2:
        return None
    around = np.concatenate([np.array([_LINE_END], np.uint8), octets, np.array([_LINE_END], np.uint8)])
    before, after = around[quotes[0::2]], around[quotes[1::2] + 2]
    ends = (ord(separator), _LINE_END, _QUOTE)
    if not (np.isin(before, ends).all() and np.isin(after, (*ends, ord("\r"))).all()):
        return None
    return marks[np.searchsorted(quotes, marks) % 2 == 0]


def _found(octets: np.ndarray, separator: int) -> np.ndarray:
    """Where the separators and line ends are, looked for in pieces that stay in the processor's cache."""
    found = [np.empty(0, np.int64)]
    for start in range(0, len(octets), _PIECE):
        piece = octets[start : start + _PIECE]
        places = np.flatnonzero((piece == separator) | (piece == _LINE_END))
        places += start
        found.append(places)
    return np.concatenate(found)


def _counted(octets: np.ndarray, marks: np.ndarray, line: int, *, last: bool) -> tuple[np.ndarray, np.ndarray, int]:
    """Number of fields (a blank line has none) and first line of each record, and the bytes of them all."""
    at = np.flatnonzero(octets[marks] == _LINE_END)
    ends, fields = marks[at], np.diff(at, prepend=-1)
    size = int(ends[-1]) + 1 if len(ends) else 0
    if last and size < len(octets):
        rest = len(marks) - (at[-1] if len(at) else -1)
        ends, fields, size = np.append(ends, len(octets)), np.append(fields, rest), len(octets)
    starts = np.concatenate([[0], ends[:-1] + 1])[: len(ends)]
    length = ends - starts
    fields[(length == 0) | ((length == 1) & (octets[starts] == ord("\r")))] = 0
    return fields, line + np.searchsorted(np.flatnonzero(octets == _LINE_END), starts), size


def _records_quoted(
    data: bytes, separator: str, name: str, line: int, *, last: bool
) -> tuple[np.ndarray, np.ndarray, int]:
    """Number of fields and first line of each record, and the bytes of them all, as the csv module sees them."""
    lines = list(io.StringIO(data.decode(), newline=""))
    reader = csv.reader(lines, delimiter=separator, strict=True)
    starts, fields, done = [], [], 0
    try:
        for record in reader:
            starts.append(line + done)
            fields.append(len(record))
            done = reader.line_num
    except csv.Error as error:
        if last or "end of data" not in str(error):
            _raise_unread(error, name, line + done)
    size = len(data) - sum(len(text.encode()) for text in lines[done:])
    return np.array(fields, np.int64), np.array(starts, np.int64), size


def _place(data: bytes, position: int, separator: str, line: int) -> str:
    line_start = data.rfind(b"\n", 0, position) + 1
    field = data.count(separator.encode(), line_start, position) + 1
    return f"line {line + data.count(bytes([_LINE_END]), 0, position)}, column {field}"


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


def _raise_unread(error: csv.Error, name: str, line: int) -> NoReturn:
    problem = "its quotes do not close" if "end of data" in str(error) else str(error)
    raise InputError(
        f"{name}, line {line}: the row cannot be read ({problem}); the file may be cut in the middle of a row."
    ) from None


def _raise_ragged(where: str, has: int, header: list[str], *, cut: bool) -> None:
    width = len(header)
    if has < width and cut:
        raise InputError(
            f"{where}: the last row has {has} of {width} fields (it ends before column {header[has]!r}); the file "
            "seems cut in the middle of a row."
        )
    what = f"ends before column {header[has]!r}" if has < width else f"goes on after column {header[-1]!r}"
    raise InputError(f"{where} has {has} fields where the header has {width}: the row {what}.")

"""Which column of a table plays which role, and whether it can: names, types, values."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from gatewise.data.parse import parse_numbers, parse_times
from gatewise.errors import InputError

_FORMS = "accepted are whole numbers and ISO dates such as 2020-01-31 or 2020-01-31 05:00:00"


@dataclass(frozen=True)
class Columns:
    """The names of a table's columns by role.

    Args:
        target: What is forecast.
        id: Names the series of a row. None: the table is one series.
        time: Whole numbers, dates or datetimes. None: the rows are in order, one step apart.
        past: Covariates known up to now.
        future: Covariates known for the future too.
        static: What stays the same within a series.
    """

    target: str = "y"
    id: str | None = None
    time: str | None = None
    past: tuple[str, ...] = ()
    future: tuple[str, ...] = ()
    static: tuple[str, ...] = ()

    def roles(self) -> list[tuple[str, str]]:
        """Pairs of (role in words, column name), in the order of the fields.

        Example:
            >>> Columns(time="ds", past=("wind",)).roles()
            [('target', 'y'), ('time', 'ds'), ('past covariate', 'wind')]
        """
        single = [("target", self.target), ("id", self.id), ("time", self.time)]
        pairs = [(role, name) for role, name in single if name is not None]
        for role, names in (
            ("past covariate", self.past),
            ("future covariate", self.future),
            ("static covariate", self.static),
        ):
            pairs += [(role, name) for name in names]
        return pairs


def check_columns(df: pl.DataFrame, columns: Columns) -> None:
    """Raises `InputError` if a named column is absent or named in two roles, or if the table has no rows."""
    seen: dict[str, str] = {}
    for role, name in columns.roles():
        if name in seen:
            raise InputError(
                f"the column {name!r} is named twice, as {seen[name]} and as {role}: give each column one role."
            )
        seen[name] = role
        check_present(df, name, role)
    if df.is_empty():
        raise InputError("the table has no rows: at least one series with values is needed.")


def check_present(df: pl.DataFrame, name: str, role: str, table: str = "the table") -> None:
    """Raises `InputError` with a suggestion if a column is absent."""
    if name in df.columns:
        return
    by_lower = {column.lower(): column for column in df.columns}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1)
    hint = f" Did you mean {by_lower[near[0]]!r}?" if near else ""
    listed = ", ".join(df.columns[:20]) + (", …" if df.width > 20 else "")
    raise InputError(f"{table} has no column {name!r} for the {role}.{hint} Its columns are: {listed}.")


def usual_columns(
    present: Sequence[str],
    *,
    target: str = "y",
    id: str | None = None,
    time: str | None = None,
    past: Sequence[str] = (),
    future: Sequence[str] = (),
    static: Sequence[str] = (),
) -> Columns:
    """The roles of a table's columns: unique_id and ds are taken where the table has them and no other is named.

    Example:
        >>> usual_columns(["unique_id", "ds", "load"], target="load").id
        'unique_id'
    """
    named = {target, *past, *future, *static}

    def default(given: str | None, usual: str) -> str | None:
        return usual if given is None and usual in present and usual not in named else given

    return Columns(target, default(id, "unique_id"), default(time, "ds"), tuple(past), tuple(future), tuple(static))


def id_column(df: pl.DataFrame, name: str, first: int | None = None) -> pl.Series:
    """The column that names the series, without blanks; `first` is the number of its first row in a longer table."""
    ids = df[name]
    if ids.dtype.is_nested() or ids.dtype in {pl.Object, pl.Null, pl.Binary}:
        raise InputError(f"the id column {name!r} holds {ids.dtype}: series are named by text or whole numbers.")
    refuse_blank(ids, f"id column {name!r}", first)
    return ids


def time_column(df: pl.DataFrame, name: str, first: int | None = None) -> pl.Series:
    """The time column as whole numbers, dates or datetimes, without blanks; text in ISO order is converted."""
    times = df[name]
    if times.dtype in {pl.String, pl.Categorical, pl.Enum}:
        refuse_blank(times.cast(pl.String).replace("", None), f"time column {name!r}", first)
        stamps, problem = parse_times(times)
        if stamps is None:
            raise InputError(unread_time(name, problem))
        times = stamps
    elif times.dtype.is_float():
        refuse_blank(times, f"time column {name!r}", first)
        times = whole_times(times, lambda row: row + (first or 0))
    refuse_blank(times, f"time column {name!r}", first)
    if times.dtype.is_integer():
        if times.cast(pl.Int64, strict=False).null_count():
            raise InputError(f"the time column {name!r} holds whole numbers beyond 64 bits; {_FORMS}.")
    elif not isinstance(times.dtype, pl.Datetime) and times.dtype != pl.Date:
        raise InputError(f"the time column {name!r} holds {times.dtype}; {_FORMS}.")
    return times


def whole_times(times: pl.Series, place: Callable[[int], int]) -> pl.Series:
    """Floats without blanks as Int64, if they are whole; `place` turns one's row into that of the user's table."""
    odd = ~times.is_finite() | (times != times.round()) | (times.abs() > 2**53)
    if odd.any():
        row = odd.arg_max() or 0
        raise InputError(
            f"the time column {times.name!r} is not whole: row {place(row) + 1} holds {times[row]}; {_FORMS}."
        )
    return times.cast(pl.Int64)


def unread_time(name: str, problem: str) -> str:
    """The message for a time column that is not written as it should be."""
    return f"the time column {name!r} cannot be read: {problem}; {_FORMS}, all in one time zone."


def number_column(df: pl.DataFrame, name: str, role: str, first: int | None = None) -> np.ndarray:
    """A column as float64 with NaN where it is blank; truth values count as 0 and 1.

    `first` is the number of its first row, if the column is a part of a longer one: messages then count nothing.
    """
    column = df[name]
    if column.dtype in {pl.String, pl.Categorical, pl.Enum}:
        values, bad = parse_numbers(column)
        if bad.any():
            row = bad.arg_max() or 0
            raise InputError(not_numeric(name, role, row + (first or 0), column[row]))
        column = values
    if not (column.dtype.is_numeric() or column.dtype in {pl.Boolean, pl.Null}):
        shown = column.drop_nulls()
        sample = f", for instance {shown[0]}" if len(shown) else ""
        raise InputError(f"the {role} {name!r} is not numeric: it holds {column.dtype}{sample}; give numbers.")
    numbers = column.cast(pl.Float64).fill_null(np.nan).to_numpy()
    check_finite(numbers, name, role, first)
    return numbers


def not_numeric(name: str, role: str, row: int, cell: str) -> str:
    """The message for a cell that should be a number; rows count from 0 here."""
    return (
        f"the {role} {name!r} is not numeric: row {row + 1} holds {cell!r}; give numbers, and leave unknown cells "
        "blank."
    )


def check_finite(numbers: np.ndarray, name: str, role: str, first: int | None = None) -> None:
    """Raises `InputError` for numbers that are infinite or too large for float32; NaN is none of both."""
    # fmax passes over NaN.
    if not len(numbers) or not np.fmax.reduce(np.abs(numbers)) > np.finfo(np.float32).max:
        return
    infinite = np.isinf(numbers)
    if infinite.any():
        raise InputError(
            f"the {role} {name!r} is infinite {_rows(infinite, first)}: give finite numbers, and leave unknown cells "
            "blank."
        )
    huge = int(np.argmax(np.abs(numbers) > np.finfo(np.float32).max))
    raise InputError(f"the {role} {name!r} is too large for float32: {numbers[huge]} in row {huge + (first or 0) + 1}.")


def refuse_blank(column: pl.Series, what: str, first: int | None = None) -> None:
    """Raises `InputError` if a column that may not have blanks has one."""
    blank = column.is_null()
    if column.dtype.is_float():
        blank |= column.is_nan()
    if blank.any():
        raise InputError(f"the {what} is blank {_rows(blank.to_numpy(), first)}: every row needs a value.")


def _rows(bad: np.ndarray, first: int | None) -> str:
    """Where something is wrong: in how many rows, and the first; of a part of a table only the first."""
    row = int(np.argmax(bad)) + 1
    return f"in {count(int(bad.sum()), 'row')}, first in row {row}" if first is None else f"in row {first + row}"


def count(number: int, word: str) -> str:
    """A number with its noun: "1 row", "2 rows"."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"

"""Which column of a table plays which role, and whether it can: names, types, values."""

import difflib
from dataclasses import dataclass

import numpy as np
import polars as pl

from gatewise.data.parse import parse_numbers, parse_times
from gatewise.errors import InputError


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


def id_column(df: pl.DataFrame, name: str) -> pl.Series:
    """The column that names the series, without blanks."""
    ids = df[name]
    if ids.dtype.is_nested() or ids.dtype in {pl.Object, pl.Null}:
        raise InputError(f"the id column {name!r} holds {ids.dtype}: series are named by text or whole numbers.")
    _refuse_blank(ids, f"id column {name!r}")
    return ids


def time_column(df: pl.DataFrame, name: str) -> pl.Series:
    """The time column as whole numbers, dates or datetimes, without blanks; text in ISO order is converted."""
    times = df[name]
    forms = "accepted are whole numbers and ISO dates such as 2020-01-31 or 2020-01-31 05:00:00"
    if times.dtype in {pl.String, pl.Categorical, pl.Enum}:
        _refuse_blank(times.cast(pl.String).replace("", None), f"time column {name!r}")
        stamps, problem = parse_times(times)
        if stamps is None:
            raise InputError(f"the time column {name!r} cannot be read: {problem}; {forms}, all in one time zone.")
        times = stamps
    elif times.dtype.is_float():
        _refuse_blank(times.fill_nan(None), f"time column {name!r}")
        odd = ~times.is_finite() | (times != times.round()) | (times.abs() > 2**53)
        if odd.any():
            row = odd.arg_max() or 0
            raise InputError(f"the time column {name!r} is not whole: row {row + 1} holds {times[row]}; {forms}.")
        times = times.cast(pl.Int64)
    _refuse_blank(times, f"time column {name!r}")
    if times.dtype.is_integer():
        if times.cast(pl.Int64, strict=False).null_count():
            raise InputError(f"the time column {name!r} holds whole numbers beyond 64 bits; {forms}.")
    elif not isinstance(times.dtype, pl.Datetime) and times.dtype != pl.Date:
        raise InputError(f"the time column {name!r} holds {times.dtype}; {forms}.")
    return times


def number_column(df: pl.DataFrame, name: str, role: str) -> np.ndarray:
    """A column as float64 with NaN where it is blank; truth values count as 0 and 1."""
    column = df[name]
    if column.dtype in {pl.String, pl.Categorical, pl.Enum}:
        values, bad = parse_numbers(column)
        if bad.any():
            row = bad.arg_max() or 0
            raise InputError(
                f"the {role} {name!r} is not numeric: row {row + 1} holds {column[row]!r}; give numbers, and leave "
                "unknown cells blank."
            )
        column = values
    if not (column.dtype.is_numeric() or column.dtype in {pl.Boolean, pl.Null}):
        shown = column.drop_nulls()
        sample = f", for instance {shown[0]}" if len(shown) else ""
        raise InputError(f"the {role} {name!r} is not numeric: it holds {column.dtype}{sample}; give numbers.")
    numbers = column.cast(pl.Float64).fill_null(np.nan).to_numpy()
    infinite = np.flatnonzero(np.isinf(numbers))
    if len(infinite):
        raise InputError(
            f"the {role} {name!r} is infinite in {count(len(infinite), 'row')}, first in row {infinite[0] + 1}: give "
            "finite numbers, and leave unknown cells blank."
        )
    huge = np.flatnonzero(np.abs(numbers) > np.finfo(np.float32).max)
    if len(huge):
        raise InputError(f"the {role} {name!r} is too large for float32: {numbers[huge[0]]} in row {huge[0] + 1}.")
    return numbers


def _refuse_blank(column: pl.Series, what: str) -> None:
    blank = column.is_null()
    if column.dtype.is_float():
        blank |= column.is_nan()
    if blank.any():
        row = blank.arg_max() or 0
        raise InputError(
            f"the {what} is blank in {count(int(blank.sum()), 'row')}, first in row {row + 1}: every row needs a value."
        )


def count(number: int, word: str) -> str:
    """A number with its noun: "1 row", "2 rows"."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"

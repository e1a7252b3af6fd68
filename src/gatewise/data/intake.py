"""Columns of a table that come in chunks, made into numbers that are kept: values, ticks of time, codes of names.

What a column is (its type, how its stamps are written) holds for the whole table, as in a table read at once; a chunk
that differs is refused with the row of the user's table. Rows count from 0 here, and from 1 in messages.
"""

from collections.abc import Callable
from typing import final

import numpy as np
import polars as pl

from gatewise.data.parse import StampStyle, cleaned, parse_numbers, tidy
from gatewise.data.roles import (
    check_finite,
    id_column,
    not_numeric,
    number_column,
    refuse_blank,
    time_column,
    unread_time,
    whole_times,
)
from gatewise.errors import InputError

_TEXT = (pl.String, pl.Categorical, pl.Enum)
_SAMPLE = 1000
_EXACT, _NAN = 2**53, float("nan")


@final
class Numbers:
    """A column of numbers.

    Args:
        name: Of the column.
        role: In words.
        text: Whether the cells come as text, whose type is to be seen.
    """

    def __init__(self, name: str, role: str, *, text: bool):
        self._name, self._role, self._text = name, role, text
        self._any_number = False
        self._truth: tuple[int, str] | None = None

    def take(self, chunk: pl.DataFrame, first: int) -> np.ndarray:
        """float64 [n], NaN where a cell is blank; the chunk begins at row `first`."""
        if not self._text:
            return number_column(chunk, self._name, self._role, first)
        text = chunk[self._name]
        values = text.cast(pl.Float64, strict=False)
        if values.null_count():
            values = self._with_odd(text, values, first)
        elif self._truth is not None and not values.is_nan().all():
            raise InputError(not_numeric(self._name, self._role, *self._truth))
        numbers = values.to_numpy(writable=False)
        self._any_number |= self._truth is None and not np.isnan(numbers).all()
        check_finite(numbers, self._name, self._role, first)
        return numbers

    def _with_odd(self, text: pl.Series, values: pl.Series, first: int) -> pl.Series:
        """Looks again at the cells that are no plain numbers: blanks, numbers among spaces, truth values."""
        rows = values.is_null().arg_true()
        cells = text.gather(rows)
        again, bad = parse_numbers(cells)
        numbers = self._any_number or not values.fill_null(_NAN).is_nan().all() or not again.is_null().all()
        if bad.any():
            lower = cells.str.strip_chars().str.to_lowercase()
            if self._truth is None:
                at = bad.arg_max() or 0
                self._truth = first + rows[at], cells[at]
            if not lower.is_in(["true", "false"]).filter(bad).all():
                numbers = True
            again = (lower == "true").cast(pl.Float64).zip_with(bad, again)
        if numbers and self._truth is not None:
            raise InputError(not_numeric(self._name, self._role, *self._truth))
        return values.scatter(rows, again).fill_null(_NAN)


@final
class Times:
    """A column of stamps, kept as ticks: whole numbers, days or fractions of a second.

    Args:
        name: Of the column.
        text: Whether the cells come as text, whose type is to be seen.
    """

    def __init__(self, name: str, *, text: bool):
        self.name, self._text = name, text
        self._style: StampStyle | None = None
        self._whole = self._fraction = self._repeat = False
        self._long: tuple[int, int] | None = None
        self.dtype: pl.DataType = pl.Int64()
        """Of the stamps, once there is a chunk."""

    def take(self, chunk: pl.DataFrame, first: int) -> np.ndarray:
        """int64 [n] ticks; the chunk begins at row `first`."""
        column = chunk[self.name]
        if column.dtype not in _TEXT:
            times = time_column(chunk, self.name, first)
            self.dtype = times.dtype
            return _ticks(times)
        text = column.cast(pl.String)
        if not self._repeat and 4 * text.n_unique() > len(text):
            return self._of(text, lambda row: first + row)
        # The stamps of many series are the same: each is read once.
        once = Names()
        codes = once.codes(text.fill_null(""))
        self._repeat = 4 * len(once) <= len(text)
        return self._of(once.texts(), lambda row: first + once.row(row))[codes]

    def series(self, ticks: np.ndarray) -> pl.Series:
        """Ticks as stamps of the table's type."""
        times = pl.Series(self.name, ticks)
        return (times.cast(pl.Int32) if self.dtype == pl.Date else times).cast(self.dtype)

    def _of(self, text: pl.Series, place: Callable[[int], int]) -> np.ndarray:
        clean = cleaned(text)
        if clean.null_count():
            refuse_blank(pl.Series([None]), f"time column {self.name!r}", place(clean.is_null().arg_max() or 0))
        if self._style is None and self._text and (self._whole or _bad_numbers(clean) is None):
            self._whole = True
            return self._numbers(clean, place)
        if self._style is None:
            self._style = StampStyle.of(clean[0])
        if self._style is None:
            raise InputError(unread_time(self.name, f"row {place(0) + 1} holds {clean[0]!r}"))
        stamps, problem = self._style.parse(clean)
        if problem is not None:
            raise InputError(unread_time(self.name, problem.say(place(problem.row))))
        assert stamps is not None
        self.dtype = stamps.dtype
        return _ticks(stamps)

    def _numbers(self, clean: pl.Series, place: Callable[[int], int]) -> np.ndarray:
        bad = _bad_numbers(clean)
        if bad is not None:
            raise InputError(unread_time(self.name, f"row {place(bad) + 1} holds {clean[bad]!r}"))
        ticks = clean.cast(pl.Int64, strict=False)
        if ticks.null_count():
            self._fraction = True
            ticks = whole_times(clean.cast(pl.Float64).alias(self.name), place)
        if self._long is None and (row := (ticks.abs() > _EXACT).arg_max()) is not None and abs(ticks[row]) > _EXACT:
            self._long = place(row), ticks[row]
        if self._fraction and self._long is not None:
            # As a column of floats, which one "1.0" makes it, the number would not be kept.
            whole_times(pl.Series(self.name, [float(self._long[1])]), lambda _: self._long[0] if self._long else 0)
        return _ticks(ticks)


def _bad_numbers(clean: pl.Series) -> int | None:
    """The first cell that is not a number, or one with leading zeros, which is a name."""
    bad = clean.cast(pl.Float64, strict=False).is_null() | clean.str.contains(r"^[+-]?0\d")
    return bad.arg_max() if bad.any() else None


@final
class Labels:
    """A column that names or describes the series, kept as codes.

    Args:
        name: Of the column.
        text: Whether the cells come as text, whose type is to be seen.
        id: Whether it is the column that names the series, which has no blanks.
    """

    def __init__(self, name: str, *, text: bool, id: bool = False):
        self._name, self._text, self._id = name, text, id
        self.names = Names()
        self._dtype: pl.DataType = pl.String()

    def take(self, chunk: pl.DataFrame, first: int) -> np.ndarray:
        """int32 [n] codes in order of first appearance, -1 for a blank cell; the chunk begins at row `first`."""
        column = chunk[self._name]
        if self._text:
            return self.names.codes(column.fill_null(""), first)
        if self._id:
            id_column(chunk, self._name, first)
        self._dtype = column.dtype
        if column.dtype.is_nested() or column.dtype == pl.Object:
            raise InputError(f"the static covariate {self._name!r} holds {column.dtype}: give numbers or names.")
        if column.dtype.is_temporal() or column.dtype == pl.Boolean:
            column = column.to_physical().cast(pl.Int64)
        return self.names.codes(column.cast(pl.String), first)

    def values(self) -> pl.Series:
        """What the codes stand for, of the table's type; cells written in two ways may be the same."""
        texts = self.names.texts().alias(self._name)
        if self._text:
            return tidy(texts)
        if self._dtype.is_temporal() or self._dtype == pl.Boolean:
            texts = texts.cast(pl.Int64)
        return texts.cast(pl.Int32).cast(self._dtype) if self._dtype == pl.Date else texts.cast(self._dtype)


@final
class Names:
    """A growing dictionary of texts, numbered in order of first appearance."""

    def __init__(self) -> None:
        # Polars forgets the numbers of categories that no column has any more; this one stays.
        self._held = pl.Series([], dtype=pl.Categorical(pl.Categories.random("gatewise")))
        self._numbers = np.empty(0, np.int32)
        self._texts: list[str] = []
        self._rows: list[int] = []

    def __len__(self) -> int:
        return len(self._texts)

    def codes(self, text: pl.Series, first: int = 0) -> np.ndarray:
        """int32 [n], -1 for null."""
        if text.null_count():
            codes = np.full(len(text), -1, np.int32)
            rows = text.is_not_null().arg_true().to_numpy()
            codes[rows] = self._take(text.gather(rows), lambda row: first + int(rows[row]))
            return codes
        if 4 * len(_heads(text.head(_SAMPLE))) > _SAMPLE:
            return self._take(text, lambda row: first + row)
        heads = _heads(text)
        codes = self._take(text.gather(heads), lambda row: first + int(heads[row]))
        return np.repeat(codes, np.diff(heads, append=len(text)))

    def texts(self) -> pl.Series:
        """All texts, by number."""
        return pl.Series(self._texts, dtype=pl.String)

    def row(self, number: int) -> int:
        """Where a text was first seen."""
        return self._rows[number]

    def _take(self, text: pl.Series, place: Callable[[int], int]) -> np.ndarray:
        if text.is_empty():
            return np.empty(0, np.int32)
        # Polars' own numbers, which it gives in an order of its own.
        theirs = text.cast(self._held.dtype).to_physical().to_numpy()
        top = int(theirs.max()) + 1
        if top > len(self._numbers):
            more = np.full(max(top, 2 * len(self._numbers)) - len(self._numbers), -1, np.int32)
            self._numbers = np.concatenate([self._numbers, more])
        codes = self._numbers[theirs]
        fresh = np.flatnonzero(codes < 0)
        if not len(fresh):
            return codes
        # Assigned backwards, what stays is the first row of each.
        first = np.full(top, -1, np.int64)
        first[theirs[fresh[::-1]]] = fresh[::-1]
        rows = np.sort(first[first >= 0])
        self._numbers[theirs[rows]] = np.arange(len(self), len(self) + len(rows))
        # As Python's own strings: a part of the column would keep all of it.
        self._texts += text.gather(rows).to_list()
        self._rows += [place(int(row)) for row in rows]
        return self._numbers[theirs]


def _ticks(times: pl.Series) -> np.ndarray:
    return times.to_physical().cast(pl.Int64).to_numpy(writable=False)


def _heads(text: pl.Series) -> np.ndarray:
    """Where runs of the same text begin."""
    return (text != text.shift(1)).fill_null(True).arg_true().to_numpy()

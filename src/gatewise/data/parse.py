"""Columns of text made into numbers and stamps.

The readers take every cell of a text file as text and convert whole columns here, so that one rule holds for files and
for frames whose columns hold text. Nothing is guessed: a date is taken only in ISO order, a number only if every cell
of its column is one.
"""

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

import polars as pl

BLANK = ("", "na", "n/a", "nan", "-nan", "null", "none")
"""Cells that mean "no value" in a column of numbers or stamps, in any case."""

_ZONE = r"(?:Z|UTC|[+-]\d{2}(?::?\d{2})?)"
_CLOCK_END = r"(:\d{2}(?:\.\d+)?)"
_STAMP = re.compile(
    r"\d{4}(?P<dash>[-/])\d{1,2}"
    r"(?:(?P=dash)(?P<day>\d{1,2})"
    r"(?:(?P<sep>[T ])\d{1,2}:\d{2}(?P<second>:\d{2}(?:\.(?P<fraction>\d{1,9}))?)?"
    rf"\s*(?P<zone>{_ZONE})?)?)?"
)


MOST_EXACT = 2.0**53
"""From here on Float64 skips whole numbers."""


def tidy(text: pl.Series) -> pl.Series:
    """Gives a column of text the type that all its cells share: whole number, number, truth value, stamp or text.

    Numbers with leading zeros and numbers too long for 64 bits stay text, because they are names ("007").

    Example:
        >>> tidy(pl.Series("y", ["1", None, "2.5"])).to_list()
        [1.0, None, 2.5]
    """
    clean = cleaned(text)
    blanks = clean.null_count()
    if blanks == len(clean):
        return pl.Series(text.name, [None] * len(text), dtype=pl.Float64)
    if not clean.str.contains(r"^[+-]?0\d").any():
        whole = clean.cast(pl.Int64, strict=False)
        if whole.null_count() == blanks:
            return whole
        number = clean.cast(pl.Float64, strict=False)
        if number.null_count() == blanks and not _merged(clean, number):
            return number
    if (lower := clean.str.to_lowercase()).drop_nulls().is_in(["true", "false"]).all():
        return lower == "true"
    # A year and month alone ("2020-01") is as often a name; it is taken as time only in a time column.
    stamps = None if clean.str.contains(r"^\d+[-/]\d+$").any() else parse_times(clean)[0]
    if stamps is not None:
        return stamps
    return text.set(text == "", None)


def _merged(text: pl.Series, number: pl.Series) -> bool:
    """Whether some cells are other numbers as Float64 than as they are written, and two names might become one."""
    whole = text.str.contains(r"^[+-]?\d+$") & (number.abs() >= MOST_EXACT)
    huge = number.is_infinite() & ~text.str.to_lowercase().str.contains("inf")
    return bool((whole | huge).any())


def parse_numbers(text: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Converts text to Float64; the second column marks the cells that hold something other than a number.

    Example:
        >>> values, bad = parse_numbers(pl.Series(["1", "x", ""]))
        >>> values.to_list(), bad.to_list()
        ([1.0, None, None], [False, True, False])
    """
    clean = cleaned(text)
    values = clean.cast(pl.Float64, strict=False)
    return values, clean.is_not_null() & values.is_null()


def parse_times(text: pl.Series) -> tuple[pl.Series | None, str]:
    """Converts ISO dates and stamps, all written alike: (column, "") or (None, what is wrong and where).

    Without a zone the stamps stay naive. With one, every cell must carry the same offset from UTC; whole hours are kept
    as a fixed zone, other offsets become UTC.

    Example:
        >>> parse_times(pl.Series("ds", ["2020-01-01 05:00", "2020-01-01 06:00"]))[0].dt.hour().to_list()
        [5, 6]
    """
    clean = cleaned(text)
    present = clean.drop_nulls()
    if present.is_empty():
        return None, "it holds no value"
    style = StampStyle.of(present[0])
    if style is None:
        return None, _bad_cell(clean, clean.is_not_null()).say()
    stamps, problem = style.parse(clean)
    return stamps, problem.say() if problem else ""


class Problem(NamedTuple):
    """What is wrong with a column of stamps, and the first row (from 0) where it is."""

    row: int
    before: str
    after: str

    def say(self, row: int | None = None) -> str:
        """The problem in words; for a row of a longer column that this one is a part of."""
        return f"{self.before}row {(self.row if row is None else row) + 1}{self.after}"


@dataclass(frozen=True)
class StampStyle:
    """How the first stamp of a column is written, which all others must follow.

    Attributes:
        dash: between the parts of a date.
        day: whether the stamps go down to the day, not only to the month.
        sep: between date and time of day; None for dates.
        second: whether seconds are written.
        unit: "ns" if the fraction of a second needs it, else "us".
        zone: as written; None without one.
    """

    dash: str
    day: bool
    sep: str | None
    second: bool
    unit: Literal["us", "ns"]
    zone: str | None

    @classmethod
    def of(cls, cell: str) -> "StampStyle | None":
        """The style of a cell without blanks around it; None if it is no ISO date or stamp."""
        match = _STAMP.fullmatch(cell)
        if match is None:
            return None
        unit = "ns" if len(match["fraction"] or "") > 6 else "us"
        return cls(match["dash"], bool(match["day"]), match["sep"], bool(match["second"]), unit, match["zone"])

    def parse(self, clean: pl.Series) -> tuple[pl.Series | None, Problem | None]:
        """Converts cells that `cleaned` has given; every one that is not blank must have the style."""
        if self.sep is None:
            return self._dates(clean)
        if self.zone is None:
            stamps = self._naive(clean)
            if stamps.null_count() == clean.null_count():
                return stamps, None
        elif (
            (bare := clean.str.strip_suffix(self.zone)).str.len_bytes().eq(clean.str.len_bytes() - len(self.zone)).all()
        ):
            stamps = self._naive(bare.str.strip_chars_end())
            if stamps.null_count() == clean.null_count():
                return _attach_zone(stamps, _hours(self.zone)), None
        return self._zoned(clean)

    def _zoned(self, clean: pl.Series) -> tuple[pl.Series | None, Problem | None]:
        """The slow way, which finds a cell that differs, or zones that are written in several ways."""
        zones = clean.str.extract(rf"{_CLOCK_END}\s*({_ZONE})$", 2)
        problem = _mixed_zones(clean, zones, self.zone)
        if problem:
            return None, problem
        stamps = self._naive(clean.str.replace(rf"{_CLOCK_END}\s*{_ZONE}$", "$1"))
        bad = stamps.is_null() & clean.is_not_null()
        if bad.any():
            return None, _bad_cell(clean, bad)
        return (stamps if self.zone is None else _attach_zone(stamps, _hours(self.zone))), None

    def _naive(self, clean: pl.Series) -> pl.Series:
        # A form with a fraction takes stamps without one too, but six times as long.
        fraction = "%.f" if clean.str.contains(".", literal=True).any() else ""
        second = f":%S{fraction}" if self.second else ""
        form = f"%Y{self.dash}%m{self.dash}%d{self.sep}%H:%M{second}"
        return clean.str.to_datetime(form, strict=False, time_unit=self.unit)

    def _dates(self, clean: pl.Series) -> tuple[pl.Series | None, Problem | None]:
        """Dates, or year and month, which stand for the first of that month."""
        whole = clean if self.day else clean + f"{self.dash}01"
        dates = whole.str.to_date(f"%Y{self.dash}%m{self.dash}%d", strict=False)
        bad = dates.is_null() & clean.is_not_null()
        return (None, _bad_cell(clean, bad)) if bad.any() else (dates, None)


def cleaned(text: pl.Series) -> pl.Series:
    """The cells without blanks around them, and null where they mean "no value"."""
    stripped = text.cast(pl.String).str.strip_chars()
    return stripped.set(stripped.str.to_lowercase().is_in(BLANK), None)


def _bad_cell(clean: pl.Series, bad: pl.Series) -> Problem:
    row = bad.arg_max() or 0
    return Problem(row, "", f" holds {clean[row]!r}")


def _hours(zone: str) -> float:
    """The offset from UTC, in hours, of "Z", "UTC", "+01", "+0100" or "+01:00"."""
    if zone in {"Z", "UTC"}:
        return 0.0
    digits = zone[1:].replace(":", "").ljust(4, "0")
    return (int(digits[:2]) + int(digits[2:]) / 60) * (-1 if zone[0] == "-" else 1)


def _mixed_zones(clean: pl.Series, zones: pl.Series, first: str | None) -> Problem | None:
    """The first cell whose offset from UTC is not that of the first zone, if there is one."""
    kinds = zones.filter(clean.is_not_null()).unique(maintain_order=True).to_list()
    wanted = None if first is None else _hours(first)
    others = [kind for kind in kinds if (None if kind is None else _hours(kind)) != wanted]
    if not others:
        return None
    row = (zones.eq_missing(others[0]) & clean.is_not_null()).arg_max() or 0
    return Problem(row, f"it mixes time zones ({first or 'none'} at first, {others[0] or 'none'} in ", ")")


def _attach_zone(naive: pl.Series, hours: float) -> pl.Series:
    if hours == int(hours) and -12 <= hours <= 14:
        # POSIX names count westward, so Etc/GMT-2 is two hours ahead of UTC.
        return naive.dt.replace_time_zone(f"Etc/GMT{-int(hours):+d}" if hours else "UTC")
    return naive.dt.offset_by(f"{-round(hours * 60)}m").dt.replace_time_zone("UTC")

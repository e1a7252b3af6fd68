"""Columns of text made into numbers and stamps.

The readers take every cell of a text file as text and convert whole columns here, so that one rule holds for files and
for frames whose columns hold text. Nothing is guessed: a date is taken only in ISO order, a number only if every cell
of its column is one.
"""

import re

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


def tidy(text: pl.Series) -> pl.Series:
    """Gives a column of text the type that all its cells share: whole number, number, truth value, stamp or text.

    Numbers with leading zeros and numbers too long for 64 bits stay text, because they are names ("007").

    Example:
        >>> tidy(pl.Series("y", ["1", None, "2.5"])).to_list()
        [1.0, None, 2.5]
    """
    clean = _clean(text)
    blanks = clean.null_count()
    if blanks == len(clean):
        return pl.Series(text.name, [None] * len(text), dtype=pl.Float64)
    if not clean.str.contains(r"^[+-]?0\d").any():
        whole = clean.cast(pl.Int64, strict=False)
        if whole.null_count() == blanks:
            return whole
        number = clean.cast(pl.Float64, strict=False)
        if number.null_count() == blanks and not clean.str.contains(r"^[+-]?\d{19,}$").any():
            return number
    if (lower := clean.str.to_lowercase()).drop_nulls().is_in(["true", "false"]).all():
        return lower == "true"
    # A year and month alone ("2020-01") is as often a name; it is taken as time only in a time column.
    stamps = None if clean.str.contains(r"^\d+[-/]\d+$").any() else parse_times(clean)[0]
    if stamps is not None:
        return stamps
    return text.set(text == "", None)


def parse_numbers(text: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Converts text to Float64; the second column marks the cells that hold something other than a number.

    Example:
        >>> values, bad = parse_numbers(pl.Series(["1", "x", ""]))
        >>> values.to_list(), bad.to_list()
        ([1.0, None, None], [False, True, False])
    """
    clean = _clean(text)
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
    clean = _clean(text)
    present = clean.drop_nulls()
    if present.is_empty():
        return None, "it holds no value"
    style = _STAMP.fullmatch(present[0])
    if style is None:
        return None, _bad_cell(clean, clean.is_not_null())
    if style["sep"] is None:
        return _parse_dates(clean, style)
    zones = clean.str.extract(rf"{_CLOCK_END}\s*({_ZONE})$", 2)
    problem = _mixed_zones(clean, zones)
    if problem:
        return None, problem
    naive = clean.str.replace(rf"{_CLOCK_END}\s*{_ZONE}$", "$1")
    unit = "ns" if len(style["fraction"] or "") > 6 else "us"
    dash, second = style["dash"], ":%S%.f" if style["second"] else ""
    form = f"%Y{dash}%m{dash}%d{style['sep']}%H:%M{second}"
    stamps = naive.str.to_datetime(form, strict=False, time_unit=unit)
    bad = stamps.is_null() & clean.is_not_null()
    if bad.any():
        return None, _bad_cell(clean, bad)
    zone = zones.drop_nulls()
    return (_attach_zone(stamps, _hours(zone[0])) if len(zone) else stamps), ""


def _parse_dates(clean: pl.Series, style: re.Match[str]) -> tuple[pl.Series | None, str]:
    """Dates, or year and month, which stand for the first of that month."""
    dash = style["dash"]
    whole = clean if style["day"] else clean + f"{dash}01"
    dates = whole.str.to_date(f"%Y{dash}%m{dash}%d", strict=False)
    bad = dates.is_null() & clean.is_not_null()
    return (None, _bad_cell(clean, bad)) if bad.any() else (dates, "")


def _clean(text: pl.Series) -> pl.Series:
    stripped = text.cast(pl.String).str.strip_chars()
    return stripped.set(stripped.str.to_lowercase().is_in(BLANK), None)


def _bad_cell(clean: pl.Series, bad: pl.Series) -> str:
    row = bad.arg_max() or 0
    return f"row {row + 1} holds {clean[row]!r}"


def _hours(zone: str) -> float:
    """The offset from UTC, in hours, of "Z", "UTC", "+01", "+0100" or "+01:00"."""
    if zone in {"Z", "UTC"}:
        return 0.0
    digits = zone[1:].replace(":", "").ljust(4, "0")
    return (int(digits[:2]) + int(digits[2:]) / 60) * (-1 if zone[0] == "-" else 1)


def _mixed_zones(clean: pl.Series, zones: pl.Series) -> str:
    """A sentence's part if the cells do not share one offset from UTC, else nothing."""
    kinds = zones.filter(clean.is_not_null()).unique(maintain_order=True).to_list()
    offsets = [None if kind is None else _hours(kind) for kind in kinds]
    others = [kind for kind, offset in zip(kinds, offsets, strict=True) if offset != offsets[0]]
    if not others:
        return ""
    different = zones.eq_missing(others[0]) & clean.is_not_null()
    row = different.arg_max() or 0
    return f"it mixes time zones ({kinds[0] or 'none'} at first, {others[0] or 'none'} in row {row + 1})"


def _attach_zone(naive: pl.Series, hours: float) -> pl.Series:
    if hours == int(hours) and -12 <= hours <= 14:
        # POSIX names count westward, so Etc/GMT-2 is two hours ahead of UTC.
        return naive.dt.replace_time_zone(f"Etc/GMT{-int(hours):+d}" if hours else "UTC")
    return naive.dt.offset_by(f"{-round(hours * 60)}m").dt.replace_time_zone("UTC")

"""How far apart the stamps of a series are, as a short text such as "1h", and arithmetic on that grid.

Every stamp has a whole position on the grid and a phase. Two stamps lie on one grid if their phases are equal; their
positions then say how many steps lie between them. Hours and shorter steps are counted in elapsed time, so that a clock
change neither adds nor loses a step; days, weeks, months and business days follow the wall clock of the stamps' zone.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, cast

import numpy as np
import polars as pl

from gatewise.errors import InputError

_NANOSECONDS = {
    "w": 604_800_000_000_000,
    "d": 86_400_000_000_000,
    "h": 3_600_000_000_000,
    "m": 60_000_000_000,
    "s": 1_000_000_000,
    "ms": 1_000_000,
    "us": 1_000,
    "ns": 1,
}
_DAY = _NANOSECONDS["d"]
_MONTHS = {"mo": 1, "q": 3, "y": 12}
_TEXT = re.compile(r"(?P<count>\d*)(?P<unit>ns|us|ms|s|m|h|d|w|bd|mo|q|y)?(?P<end>-end)?")
_FORMS = 'a step such as "1h", "15m", "1d", "1bd" (business days), "1w", "1mo", "1mo-end" (end of month), or "1"'

Kind = Literal["whole", "elapsed", "days", "business", "months"]


class _Step(NamedTuple):
    """`size` is in whole numbers, nanoseconds (elapsed, days), business days or months, by kind."""

    kind: Kind
    size: int
    end: bool = False


@dataclass(frozen=True)
class Frequency:
    """The step between neighbours in time.

    Args:
        text: A count and a unit: ns, us, ms, s, m, h, d, w, bd (business days), mo, q, y; a bare count for whole-number
            time. Months and longer may end in "-end", for stamps at the end of the month. The shortest spelling is
            kept: "60m" becomes "1h", "7d" becomes "1w" and "1q" becomes "3mo".

    Raises:
        InputError: The text has another form.

    Example:
        >>> Frequency("60m")
        Frequency(text='1h')
        >>> Frequency("1h").describe()
        'hourly'
    """

    text: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", _spell(_split(self.text)))

    @classmethod
    def parse(cls, text: str) -> "Frequency":
        """Reads a frequency from its text.

        Example:
            >>> Frequency.parse("12mo").text
            '1y'
        """
        return cls(text)

    @cached_property
    def _step(self) -> _Step:
        return _split(self.text)

    @property
    def whole(self) -> bool:
        """Whether time is counted in whole numbers instead of dates."""
        return self._step.kind == "whole"

    @property
    def months(self) -> int:
        """The step in months; 0 if it is not counted in months."""
        return self._step.size if self._step.kind == "months" else 0

    @property
    def seconds(self) -> float:
        """The step in seconds, also for days and weeks; 0 if its length varies or time is whole numbers."""
        return self._step.size / 1e9 if self._step.kind in {"elapsed", "days"} else 0.0

    def describe(self) -> str:
        """Says the frequency in words.

        Example:
            >>> [Frequency(text).describe() for text in ("15m", "1mo-end", "1")]
            ['every 15 minutes', 'monthly (end of month)', 'integer steps']
        """
        kind, count, end = self._step
        if kind == "whole":
            return "integer steps" if count == 1 else f"integer steps of {count}"
        if kind == "business":
            return "business days" if count == 1 else f"every {count} business days"
        return _in_words(self.text.removesuffix("-end")) + (" (end of month)" if end else "")

    def like(self, other: "Frequency") -> bool:
        """Whether both step equally far, wherever in the month they stand.

        Example:
            >>> Frequency("1mo").like(Frequency("1mo-end"))
            True
        """
        return self._step[:2] == other._step[:2]

    def index(self, times: pl.Series) -> tuple[np.ndarray, np.ndarray]:
        """Position on the grid and phase of each stamp, both int64; a phase below 0 lies on no grid at all.

        Raises:
            InputError: Time of this type cannot step like this, for instance dates by the hour.

        Example:
            >>> position, phase = Frequency("2").index(pl.Series([10, 12, 15]))
            >>> position.tolist(), phase.tolist()
            ([5, 6, 7], [0, 0, 1])
        """
        step, day = self._step, self._ticks_of_day(times.dtype)
        if step.kind in {"whole", "elapsed", "days"}:
            ticks = ticks_of(times, wall=step.kind == "days")
            return np.divmod(ticks, self._fixed_ticks(times.dtype))
        days, clock = np.divmod(ticks_of(times, wall=True), day)
        if step.kind == "business":
            week, weekday = np.divmod(days - 4, 7)  # day 4 of the epoch was a Monday
            position, phase = np.divmod(week * 5 + np.minimum(weekday, 4), step.size)
            # Stamps at the weekend lie on no grid of business days.
            return position, np.where(weekday > 4, -weekday, phase * day + clock)
        month, dom = _month_and_day(days, from_end=step.end)
        position, phase = np.divmod(month, step.size)
        return position, (phase * 32 + dom) * day + clock

    def stamps(self, position: np.ndarray, phase: np.ndarray, like: pl.Series) -> pl.Series:
        """The inverse of `index`: stamps of the type, zone and name of `like`.

        A day that a month lacks becomes that month's last day. A time of day that a clock change skips moves on by one
        hour; of one that comes twice, the first is taken.

        Example:
            >>> Frequency("2").stamps(np.array([8]), np.array([1]), pl.Series([10])).to_list()
            [17]
        """
        step, day = self._step, self._ticks_of_day(like.dtype)
        if step.kind in {"whole", "elapsed", "days"}:
            ticks = position * self._fixed_ticks(like.dtype) + phase
            return _series(ticks, like, wall=step.kind == "days")
        phase, clock = np.divmod(phase, day)
        if step.kind == "business":
            week, weekday = np.divmod(position * step.size + phase, 5)
            days = week * 7 + weekday + 4
        else:
            phase, dom = np.divmod(phase, 32)
            days = _day_of_month(position * step.size + phase, dom, from_end=step.end)
        return _series(days * day + clock, like, wall=True)

    def future(self, last: pl.Series, n: int) -> pl.Series:
        """The next `n` stamps after the last one of each series, series by series.

        Args:
            last: One stamp for each of N series.
            n: Steps to go.

        Returns:
            N · n stamps of the same type and zone.

        Example:
            >>> from datetime import date
            >>> last = pl.Series([date(2023, 11, 30)])
            >>> [str(day) for day in Frequency("1mo-end").future(last, 3)]
            ['2023-12-31', '2024-01-31', '2024-02-29']
        """
        position, phase = self.index(last)
        position = position[:, None] + np.arange(1, n + 1)
        return self.stamps(position.ravel(), np.repeat(phase, n), last)

    def fits(self, dtype: pl.DataType) -> bool:
        """Whether stamps of this type can step like this.

        Example:
            >>> Frequency("1h").fits(pl.Date())
            False
        """
        if dtype.is_integer() or self.whole:
            return dtype.is_integer() and self.whole
        kind, count, _ = self._step
        return kind in {"months", "business"} or count % tick_of(dtype) == 0

    def _fixed_ticks(self, dtype: pl.DataType) -> int:
        return self._step.size if self.whole else self._step.size // tick_of(dtype)

    def _ticks_of_day(self, dtype: pl.DataType) -> int:
        if not self.fits(dtype):
            raise InputError(f"time of type {dtype} cannot have the frequency {self.text} ({self.describe()}).")
        return 1 if self.whole else _DAY // tick_of(dtype)


def _split(text: str) -> _Step:
    match = _TEXT.fullmatch(text.strip())
    count = int(match["count"] or 1) if match else 0
    if match is None or count == 0 or not (match["count"] or match["unit"]):
        raise InputError(f"{text!r} is not a frequency: give {_FORMS}.")
    unit, end = match["unit"], bool(match["end"])
    if end and unit not in _MONTHS:
        raise InputError(f'{text!r} is not a frequency: only months, quarters and years can have "-end".')
    if unit is None:
        return _Step("whole", count)
    if unit == "bd":
        return _Step("business", count)
    if unit in _MONTHS:
        return _Step("months", count * _MONTHS[unit], end)
    length = count * _NANOSECONDS[unit]
    return _Step("days" if length % _DAY == 0 else "elapsed", length)


def _spell(step: _Step) -> str:
    kind, count, end = step
    tail = "-end" if end else ""
    if kind == "whole":
        return str(count)
    if kind == "business":
        return f"{count}bd"
    if kind == "months":
        return f"{count}mo{tail}" if count % 12 else f"{count // 12}y{tail}"
    unit = next(unit for unit, length in _NANOSECONDS.items() if count % length == 0)
    return f"{count // _NANOSECONDS[unit]}{unit}"


def _in_words(text: str) -> str:
    single = {"1h": "hourly", "1d": "daily", "1w": "weekly", "1mo": "monthly", "3mo": "quarterly", "1y": "yearly"}
    if text in single:
        return single[text]
    names = {"ns": "nanosecond", "us": "microsecond", "ms": "millisecond", "s": "second", "m": "minute", "h": "hour"}
    names |= {"d": "day", "w": "week", "mo": "month", "y": "year"}
    match = re.fullmatch(r"(\d+)(\D+)", text)
    assert match is not None, text
    count, name = int(match[1]), names[match[2]]
    return f"every {name}" if count == 1 else f"every {count} {name}s"


def tick_of(dtype: pl.DataType) -> int:
    """Nanoseconds in one tick of the column's integers."""
    return _DAY if dtype == pl.Date else _NANOSECONDS[cast(pl.Datetime, dtype).time_unit]


def ticks_of(times: pl.Series, *, wall: bool) -> np.ndarray:
    """The stamps as int64: as the zone's clock shows them, or as elapsed time."""
    if wall and isinstance(times.dtype, pl.Datetime) and times.dtype.time_zone:
        times = times.dt.replace_time_zone(None)
    return times.to_physical().cast(pl.Int64).to_numpy()


def _series(ticks: np.ndarray, like: pl.Series, *, wall: bool) -> pl.Series:
    """The inverse of `ticks_of`. Whole numbers that outgrow their type become Int64."""
    values = pl.Series(like.name, ticks)
    dtype = like.dtype
    if dtype.is_integer():
        narrow = values.cast(dtype, strict=False)
        return values if narrow.null_count() else narrow
    if not isinstance(dtype, pl.Datetime):
        return values.cast(pl.Int32).cast(dtype)
    stamps = values.cast(pl.Datetime(dtype.time_unit))
    if dtype.time_zone is None:
        return stamps
    if not wall:
        return stamps.dt.replace_time_zone("UTC").dt.convert_time_zone(dtype.time_zone)
    placed = stamps.dt.replace_time_zone(dtype.time_zone, ambiguous="earliest", non_existent="null")
    if placed.null_count():
        later = stamps.dt.offset_by("1h").dt.replace_time_zone(
            dtype.time_zone, ambiguous="earliest", non_existent="null"
        )
        placed = placed.fill_null(later)
    return placed


def _month_and_day(days: np.ndarray, *, from_end: bool) -> tuple[np.ndarray, np.ndarray]:
    """Months since the epoch, and the day of the month from 0, counted from its start or backwards from its end."""
    month = days.astype("datetime64[D]").astype("datetime64[M]")
    first = month.astype("datetime64[D]").astype(np.int64)
    if not from_end:
        return month.astype(np.int64), days - first
    return month.astype(np.int64), (month + 1).astype("datetime64[D]").astype(np.int64) - 1 - days


def _day_of_month(month: np.ndarray, dom: np.ndarray, *, from_end: bool) -> np.ndarray:
    first = month.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    last = (month + 1).astype("datetime64[M]").astype("datetime64[D]").astype(np.int64) - 1
    return np.maximum(last - dom, first) if from_end else np.minimum(first + dom, last)

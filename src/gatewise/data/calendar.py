"""Which calendar features mean something at a frequency, and the stamps of a table as its clock shows them."""

import numpy as np
import polars as pl

from gatewise.data.frequency import Frequency
from gatewise.runtime import calendar

_DAY = 86_400


def calendar_features(times: pl.Series, frequency: Frequency) -> tuple[np.ndarray, tuple[str, ...]]:
    """Computes the calendar features that mean something at a frequency.

    Stamps with a time zone are read on that zone's clock.

    Args:
        times: n stamps: whole numbers, dates or datetimes.
        frequency: Below a day: time of day, day of week, day of year. Days: day of week, month and year. Weeks: day of
            year. Months and quarters: month of year. Years and whole numbers: nothing.

    Returns:
        float32 features of shape (n, C), all in [-1, 1], and their C names.

    Example:
        >>> from datetime import date
        >>> calendar_features(pl.Series([date(2020, 4, 1)]), Frequency("1mo"))
        (array([[1., 0.]], dtype=float32), ('month_of_year_sin', 'month_of_year_cos'))
    """
    names = calendar_names(frequency)
    if not names:
        return np.empty((len(times), 0), np.float32), ()
    return calendar.calendar_features(clock(times), names), names


def calendar_names(frequency: Frequency) -> tuple[str, ...]:
    """The names of the calendar features that mean something at a frequency."""
    return tuple(f"{cycle}_{part}" for cycle in _cycles(frequency) for part in ("sin", "cos"))


def clock(times: pl.Series) -> np.ndarray:
    """datetime64 [n] of dates or datetimes, as the clock of their time zone shows them."""
    return (times if times.dtype == pl.Date else times.dt.replace_time_zone(None)).to_numpy()


def _cycles(frequency: Frequency) -> tuple[str, ...]:
    if frequency.whole:
        return ()
    if frequency.months:
        return ("month_of_year",) if frequency.months % 12 else ()
    if frequency.text.endswith("w"):
        return ("day_of_year",)
    if 0 < frequency.seconds < _DAY:
        return ("hour_of_day", "day_of_week", "day_of_year")
    return ("day_of_week", "day_of_month", "day_of_year")

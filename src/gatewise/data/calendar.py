"""Features that say where in the day, week and year a stamp lies, as pairs of sine and cosine."""

from collections.abc import Callable

import numpy as np
import polars as pl

from gatewise.data.frequency import Frequency

_CYCLES: dict[str, Callable[[pl.Series], pl.Series]] = {
    "hour_of_day": lambda t: (t.dt.hour().cast(pl.Float64) + t.dt.minute() / 60 + t.dt.second() / 3600) / 24,
    "day_of_week": lambda t: (t.dt.weekday() - 1) / 7,
    "day_of_month": lambda t: (t.dt.day() - 1) / 31,
    "day_of_year": lambda t: (t.dt.ordinal_day() - 1) / 366,
    "month_of_year": lambda t: (t.dt.month() - 1) / 12,
}
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
    cycles = _cycles(frequency)
    features = np.empty((len(times), 2 * len(cycles)), np.float32)
    for column, cycle in enumerate(cycles):
        angle = 2 * np.pi * _CYCLES[cycle](times).to_numpy()
        features[:, 2 * column] = np.sin(angle)
        features[:, 2 * column + 1] = np.cos(angle)
    # float32 has no exact zero at a half turn; rounding makes quarter turns exact.
    return np.round(features, 7, out=features), tuple(f"{cycle}_{part}" for cycle in cycles for part in ("sin", "cos"))


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

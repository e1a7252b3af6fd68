"""Features that say where in the day, week and year a stamp lies, as pairs of sine and cosine."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

Stamps = NDArray[np.datetime64]


def _since(times: Stamps, unit: str, larger: str) -> NDArray[np.float64]:
    """How many units lie between each stamp and the beginning of its larger unit."""
    whole = times.astype(f"datetime64[{unit}]")
    return (whole - times.astype(f"datetime64[{larger}]").astype(whole.dtype)).astype(np.int64).astype(np.float64)


def _hour_of_day(times: Stamps) -> NDArray[np.float64]:
    minute, second = _since(times, "m", "h"), _since(times, "s", "m")
    return (_since(times, "h", "D") + minute / 60 + second / 3600) / 24


_CYCLES: Mapping[str, Callable[[Stamps], NDArray[np.float64]]] = MappingProxyType(
    {
        "hour_of_day": _hour_of_day,
        # The first of January 1970 was a Thursday; weeks begin on Monday.
        "day_of_week": lambda t: (t.astype("datetime64[D]").astype(np.int64) + 3) % 7 / 7,
        "day_of_month": lambda t: _since(t, "D", "M") / 31,
        "day_of_year": lambda t: _since(t, "D", "Y") / 366,
        "month_of_year": lambda t: _since(t, "M", "Y") / 12,
    }
)

CALENDAR = tuple(f"{cycle}_{part}" for cycle in _CYCLES for part in ("sin", "cos"))
"""The names of all features."""


def calendar_features(times: Stamps, names: Sequence[str]) -> NDArray[np.float32]:
    """Compute calendar features.

    Args:
        times: n stamps, as the clock shows them.
        names: C of ``CALENDAR``.

    Returns:
        float32 [n, C], all from −1 to 1.

    Example:
        >>> calendar_features(np.array(["2020-04-01"], "datetime64[D]"), ["month_of_year_sin", "month_of_year_cos"])
        array([[1., 0.]], dtype=float32)
    """
    features = np.empty((len(times), len(names)), np.float32)
    for column, name in enumerate(names):
        cycle, _, part = name.rpartition("_")
        angle = 2 * np.pi * _CYCLES[cycle](times)
        features[:, column] = np.sin(angle) if part == "sin" else np.cos(angle)
    # float32 has no exact zero at a half turn; rounding makes quarter turns exact.
    return np.round(features, 7, out=features)

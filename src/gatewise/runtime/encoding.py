"""What the covariates of a forecaster become on their way into the LSTM."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatewise.runtime.calendar import CALENDAR, Stamps, calendar_features

Floats = NDArray[np.float32]

LARGEST = 1e6
"""Of an encoded covariate, in standard deviations: beyond, every gate has long been saturated, and infinity is near."""


@dataclass(frozen=True)
class Numeric:
    """A covariate that is standardised: (value − mean) / std."""

    name: str
    mean: float
    std: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise ValueError(f"the statistics of {self.name!r} are not those of numbers")

    def encode(self, values: NDArray[Any]) -> Floats:
        """float32 of the same shape, cut to ± ``LARGEST``."""
        with np.errstate(over="ignore"):
            encoded = ((values - self.mean) / self.std).astype(np.float32)
        return np.clip(encoded, -LARGEST, LARGEST)


@dataclass(frozen=True)
class Category:
    """A static covariate of names: one column for each name seen in training, all zero for a new one."""

    name: str
    categories: tuple[str, ...]

    def encode(self, values: NDArray[Any]) -> Floats:
        """float32 [n, the number of categories] of n texts."""
        return (values[:, None] == np.array(self.categories, object)).astype(np.float32)


@dataclass(frozen=True)
class Encoding:
    """The covariates of a model.

    Attributes:
        past: covariates known up to the forecast.
        future: covariates known for the horizon too.
        static: covariates that do not change within a series.
        calendar: calendar features in use.
    """

    past: tuple[Numeric, ...]
    future: tuple[Numeric, ...]
    static: tuple[Numeric | Category, ...]
    calendar: tuple[str, ...]

    def __post_init__(self) -> None:
        if not set(self.calendar) <= set(CALENDAR):
            raise ValueError(f"the calendar has {', '.join(CALENDAR)}, not all of {', '.join(self.calendar)}")

    def unknown(self, past: Floats) -> Floats:
        """float32 [R, P]: the standardised past covariates [R, P]."""
        return _encoded(self.past, past)

    def known(self, future: Floats, times: Stamps | None) -> Floats:
        """float32 [R, K]: what is known of every row in advance.

        Args:
            future: [R, F].
            times: [R] as the clock shows them; None if the model has no calendar features.
        """
        encoded = _encoded(self.future, future)
        return encoded if times is None else np.hstack([encoded, calendar_features(times, self.calendar)])

    def constant(self, static: Mapping[str, NDArray[Any]], count: int) -> Floats:
        """float32 [N, S]: the static covariates of N series.

        Args:
            static: of each by its name N values: float64, or texts where the model has categories.
            count: N.
        """
        parts = [covariate.encode(static[covariate.name]) for covariate in self.static]
        return np.column_stack([np.empty((count, 0), np.float32), *parts])

    def channels(self) -> tuple[str, ...]:
        """Names of the LSTM's input channels that come from covariates, in their order."""
        static = [
            f"{covariate.name}={value}"
            for covariate in self.static
            for value in (covariate.categories if isinstance(covariate, Category) else ("value",))
        ]
        return (*(c.name for c in self.past), *(c.name for c in self.future), *self.calendar, *static)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the model file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Encoding":
        """The inverse of ``as_dict``."""
        return cls(
            past=tuple(Numeric(**item) for item in data["past"]),
            future=tuple(Numeric(**item) for item in data["future"]),
            static=tuple(
                Category(item["name"], tuple(item["categories"])) if "categories" in item else Numeric(**item)
                for item in data["static"]
            ),
            calendar=tuple(data["calendar"]),
        )


def _encoded(covariates: Sequence[Numeric], values: Floats) -> Floats:
    parts = [covariate.encode(values[:, i])[:, None] for i, covariate in enumerate(covariates)]
    return np.concatenate([np.empty((len(values), 0), np.float32), *parts], axis=1)

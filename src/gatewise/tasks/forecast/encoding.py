"""What the covariates become on their way into the LSTM, learned from the training rows and kept with the model."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from gatewise.data import Panel, calendar_features
from gatewise.errors import InputError

MAX_CATEGORIES = 100
SMALLEST_SPREAD = 1e-12
_YEAR = 365.25 * 86400


@dataclass(frozen=True)
class Numeric:
    """A covariate that is standardised: (value − mean) / std."""

    name: str
    mean: float
    std: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise ValueError(f"the statistics of {self.name!r} are not those of numbers")

    def encode(self, values: np.ndarray) -> np.ndarray:
        """float32 of the same shape."""
        return ((values - self.mean) / self.std).astype(np.float32)


@dataclass(frozen=True)
class Category:
    """A static covariate of names: one column for each name seen in training, all zero for a new one."""

    name: str
    categories: tuple[str, ...]


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

    @classmethod
    def fit(cls, panel: Panel, train_ends: np.ndarray) -> "Encoding":
        """Learn the statistics from the rows before ``train_ends`` [N]."""
        rows = np.arange(len(panel.y)) < np.repeat(train_ends, np.diff(panel.offsets))
        columns = panel.columns
        return cls(
            past=tuple(_numeric(name, panel.past[rows, i]) for i, name in enumerate(columns.past)),
            future=tuple(_numeric(name, panel.future[rows, i]) for i, name in enumerate(columns.future)),
            static=tuple(_static(panel.static[name]) for name in columns.static),
            calendar=_calendar(panel),
        )

    def known(self, panel: Panel) -> np.ndarray:
        """float32 [R, K]: what is known of every row in advance, standardised covariates and calendar features."""
        parts = [covariate.encode(panel.future[:, i])[:, None] for i, covariate in enumerate(self.future)]
        if self.calendar:
            features, names = calendar_features(panel.time, panel.frequency)
            if not set(self.calendar) <= set(names):
                raise InputError(f"the model wants {', '.join(self.calendar)}, which this time does not have.")
            parts.append(features[:, [names.index(name) for name in self.calendar]])
        return np.concatenate([np.empty((len(panel.y), 0), np.float32), *parts], axis=1)

    def unknown(self, panel: Panel) -> np.ndarray:
        """float32 [R, P]: the standardised past covariates."""
        parts = [covariate.encode(panel.past[:, i])[:, None] for i, covariate in enumerate(self.past)]
        return np.concatenate([np.empty((len(panel.y), 0), np.float32), *parts], axis=1)

    def constant(self, panel: Panel) -> np.ndarray:
        """float32 [N, S]: the static covariates."""
        parts = [np.empty((len(panel.ids), 0), np.float32)]
        for covariate in self.static:
            values = panel.static[covariate.name]
            if isinstance(covariate, Numeric):
                if not _is_number(values):
                    raise InputError(
                        f"the static covariate {covariate.name!r} must be a number, as in training, not {values.dtype}."
                    )
                parts.append(covariate.encode(values.cast(pl.Float64).to_numpy())[:, None])
            else:
                text = values.cast(pl.String).to_numpy()
                parts.append((text[:, None] == np.array(covariate.categories, object)).astype(np.float32))
        return np.concatenate(parts, axis=1)

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


def _numeric(name: str, values: np.ndarray) -> Numeric:
    values = values[np.isfinite(values)].astype(np.float64)
    mean, std = (float(values.mean()), float(values.std())) if len(values) else (0.0, 0.0)
    # The mean of equal values may be off by a rounding, which must not become their spread.
    return Numeric(name, mean, std if std > SMALLEST_SPREAD * abs(mean) else 1.0)


def _static(values: pl.Series) -> Numeric | Category:
    if _is_number(values):
        return _numeric(values.name, values.cast(pl.Float64).to_numpy())
    categories = tuple(values.cast(pl.String).unique().sort())
    if len(categories) > MAX_CATEGORIES:
        raise InputError(
            f"the static covariate {values.name!r} has {len(categories)} different values; up to {MAX_CATEGORIES} "
            "are accepted. A name of the series itself tells the model nothing it could use."
        )
    return Category(values.name, categories)


def _is_number(values: pl.Series) -> bool:
    return values.dtype.is_numeric() or values.dtype == pl.Boolean


def _calendar(panel: Panel) -> tuple[str, ...]:
    names = calendar_features(panel.time.head(0), panel.frequency)[1]
    if not names:
        return ()
    # Where in the year a stamp lies teaches nothing before the year has come round once.
    seconds = (panel.time.max() - panel.time.min()).total_seconds()  # type: ignore[operator]  # stamps, not integers
    return tuple(name for name in names if seconds > 1.5 * _YEAR or "_of_year" not in name)

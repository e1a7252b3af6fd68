"""The covariates of a panel, encoded by statistics that are learned from its training rows and kept with the model."""

from typing import Any

import numpy as np
import polars as pl

from gatewise.data import Panel, calendar_names, clock
from gatewise.errors import InputError
from gatewise.runtime.encoding import Category, Encoding, Numeric

MAX_CATEGORIES = 100
SMALLEST_SPREAD = 1e-12
_YEAR = 365.25 * 86400


def fit_encoding(panel: Panel, train_ends: np.ndarray) -> Encoding:
    """Learn the statistics from the rows before ``train_ends`` [N]."""
    rows = np.arange(len(panel.y)) < np.repeat(train_ends, np.diff(panel.offsets))
    columns = panel.columns
    return Encoding(
        past=tuple(_numeric(name, panel.past[rows, i]) for i, name in enumerate(columns.past)),
        future=tuple(_numeric(name, panel.future[rows, i]) for i, name in enumerate(columns.future)),
        static=tuple(_static(panel.static[name]) for name in columns.static),
        calendar=_calendar(panel),
    )


def known(encoding: Encoding, panel: Panel) -> np.ndarray:
    """float32 [R, K]: what is known of every row in advance, standardised covariates and calendar features."""
    if not set(encoding.calendar) <= set(calendar_names(panel.frequency)):
        raise InputError(f"the model wants {', '.join(encoding.calendar)}, which this time does not have.")
    return encoding.known(panel.future, clock(panel.time) if encoding.calendar else None)


def unknown(encoding: Encoding, panel: Panel) -> np.ndarray:
    """float32 [R, P]: the standardised past covariates."""
    return encoding.unknown(panel.past)


def constant(encoding: Encoding, panel: Panel) -> np.ndarray:
    """float32 [N, S]: the static covariates."""
    values: dict[str, np.ndarray[Any, Any]] = {}
    for covariate in encoding.static:
        column = panel.static[covariate.name]
        number = isinstance(covariate, Numeric)
        if number and not _is_number(column):
            raise InputError(
                f"the static covariate {covariate.name!r} must be a number, as in training, not {column.dtype}."
            )
        values[covariate.name] = column.cast(pl.Float64 if number else pl.String).to_numpy()
    return encoding.constant(values, len(panel.ids))


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
    names = calendar_names(panel.frequency)
    if not names:
        return ()
    # Where in the year a stamp lies teaches nothing before the year has come round once.
    seconds = (panel.time.max() - panel.time.min()).total_seconds()  # type: ignore[operator]  # stamps, not integers
    return tuple(name for name in names if seconds > 1.5 * _YEAR or "_of_year" not in name)

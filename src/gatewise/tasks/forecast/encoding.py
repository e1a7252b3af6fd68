"""The covariates of a panel, encoded by statistics that are learned from its training rows and kept with the model."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from gatewise.data import AnyPanel, Frequency, Panel, calendar_names, clock
from gatewise.data.windows import OriginRanges
from gatewise.errors import InputError
from gatewise.runtime.encoding import Category, Encoding, Numeric

MAX_CATEGORIES = 100
SMALLEST_SPREAD = 1e-12
ROWS_AT_ONCE = 2**18
_YEAR = 365.25 * 86400


def fit_encoding(panel: AnyPanel, train_ends: np.ndarray) -> Encoding:
    """Learn the statistics from the rows before ``train_ends`` [N]."""
    training, columns = OriginRanges(panel.starts, train_ends - 1), panel.columns

    def parts(values: np.ndarray, column: int) -> Iterator[np.ndarray]:
        return (values[part.row, column] for part in training.parts(ROWS_AT_ONCE))

    return Encoding(
        past=tuple(_numeric(name, partial(parts, panel.past, i)) for i, name in enumerate(columns.past)),
        future=tuple(_numeric(name, partial(parts, panel.future, i)) for i, name in enumerate(columns.future)),
        static=tuple(_static(panel.static[name]) for name in columns.static),
        calendar=_calendar(panel),
    )


def check_calendar(encoding: Encoding, frequency: Frequency) -> None:
    """Raises `InputError` if time of this frequency lacks calendar features of the encoding."""
    if not set(encoding.calendar) <= set(calendar_names(frequency)):
        raise InputError(f"the model wants {', '.join(encoding.calendar)}, which this time does not have.")


def known(encoding: Encoding, panel: Panel) -> np.ndarray:
    """float32 [R, K]: what is known of every row in advance, standardised covariates and calendar features."""
    check_calendar(encoding, panel.frequency)
    return encoding.known(panel.future, clock(panel.time) if encoding.calendar else None)


def unknown(encoding: Encoding, panel: Panel) -> np.ndarray:
    """float32 [R, P]: the standardised past covariates."""
    return encoding.unknown(panel.past)


def constant(encoding: Encoding, panel: AnyPanel) -> np.ndarray:
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


def _numeric(name: str, parts: Callable[[], Iterable[np.ndarray]]) -> Numeric:
    """Mean and standard deviation of the finite values of all parts, which are gone through twice."""

    def finite() -> Iterator[np.ndarray]:
        return (part[np.isfinite(part)].astype(np.float64) for part in parts())

    count, total = 0, 0.0
    for values in finite():
        count += len(values)
        total += values.sum()
    mean = float(total / max(count, 1))
    std = float(np.sqrt(sum(((values - mean) ** 2).sum() for values in finite()) / max(count, 1)))
    # The mean of equal values may be off by a rounding, which must not become their spread.
    return Numeric(name, mean, std if std > SMALLEST_SPREAD * abs(mean) else 1.0)


def _static(values: pl.Series) -> Numeric | Category:
    if _is_number(values):
        numbers = values.cast(pl.Float64).to_numpy()
        return _numeric(values.name, lambda: [numbers])
    categories = tuple(values.cast(pl.String).unique().sort())
    if len(categories) > MAX_CATEGORIES:
        raise InputError(
            f"the static covariate {values.name!r} has {len(categories)} different values; up to {MAX_CATEGORIES} "
            "are accepted. A name of the series itself tells the model nothing it could use."
        )
    return Category(values.name, categories)


def _is_number(values: pl.Series) -> bool:
    return values.dtype.is_numeric() or values.dtype == pl.Boolean


def _calendar(panel: AnyPanel) -> tuple[str, ...]:
    names = calendar_names(panel.frequency)
    if not names:
        return ()
    # Where in the year a stamp lies teaches nothing before the year has come round once.
    first, last = panel.span()
    seconds = (last - first).total_seconds()
    return tuple(name for name in names if seconds > 1.5 * _YEAR or "_of_year" not in name)

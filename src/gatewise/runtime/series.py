"""Series as plain arrays, checked and laid out for a forecaster's windows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gatewise.errors import InputError
from gatewise.runtime.calendar import Stamps
from gatewise.runtime.encoding import Category, Encoding, Floats, Numeric
from gatewise.runtime.rows import ArrayRows, Doubles, forward_filled
from gatewise.runtime.windows import Shape

_LARGEST = np.finfo(np.float32).max


@dataclass(frozen=True)
class Series:
    """One series of n steps, a row each, all at the model's frequency; what a model does not need stays away.

    Attributes:
        y: [n] the target; NaN where it is missing, if the model was fitted to bear that, but not at the ends.
        past: by name [n], covariates known up to the forecast.
        future: by name [n + h], covariates known for the horizon too.
        static: by name a number or text, covariates that do not change.
        time: datetime64 [n + h], as the clock of the table's time zone shows it; read for calendar features only.
    """

    y: ArrayLike
    past: Mapping[str, ArrayLike] = field(default_factory=dict[str, ArrayLike])
    future: Mapping[str, ArrayLike] = field(default_factory=dict[str, ArrayLike])
    static: Mapping[str, float | str] = field(default_factory=dict[str, float | str])
    time: ArrayLike | None = None


def rows_of(series: Sequence[Series], encoding: Encoding, shape: Shape, missing: str, short: str) -> ArrayRows:
    """Lay out series, each with the horizon below its history.

    Args:
        series: N of them.
        encoding: of the covariates.
        shape: of the windows.
        missing: the policy for missing targets: "error", "ffill" or "mask".
        short: the policy for series shorter than a window: all but "pad" refuse them.

    Raises:
        InputError: something does not fit; the text says which series and what.
    """
    laid = [_Laid(f"series {i}", one, encoding, shape) for i, one in enumerate(series)]
    for one in laid:
        one.apply_policies(missing, short)
    y = np.concatenate([np.empty(0), *(one.y for one in laid)])
    past = np.concatenate([np.empty((0, len(encoding.past)), np.float32), *(one.past for one in laid)])
    future = np.concatenate([np.empty((0, len(encoding.future)), np.float32), *(one.future for one in laid)])
    times = np.concatenate([np.empty(0, "datetime64[s]"), *(one.times for one in laid)])
    static = {
        covariate.name: np.array(
            [one.static[covariate.name] for one in laid], object if isinstance(covariate, Category) else np.float64
        )
        for covariate in encoding.static
    }
    return ArrayRows(
        offsets=np.cumsum([0, *(len(one.y) for one in laid)], dtype=np.int64),
        y=y,
        targets=y,
        before=encoding.unknown(past),
        ahead=encoding.known(future, times if encoding.calendar else None),
        static=encoding.constant(static, len(laid)),
    )


class _Laid:
    """One series, checked, with h rows below: y is NaN and past 0 there."""

    def __init__(self, where: str, series: Series, encoding: Encoding, shape: Shape):
        self.where, self._shape = where, shape
        y = self._numbers("y", series.y, None, gaps=True)
        if not len(y) or np.isnan(y[[0, -1]]).any():
            raise InputError(f"{where}: y must begin and end with a number.")
        self.steps, ahead = len(y), shape.horizon
        self.y = np.concatenate([y, np.full(ahead, np.nan)])
        past = self._columns("past", series.past, encoding.past, self.steps)
        self.past = np.concatenate([past, np.zeros((ahead, past.shape[1]), np.float32)])
        self.future = self._columns("future", series.future, encoding.future, self.steps + ahead)
        self._check_names("static", series.static, encoding.static)
        self.static = {covariate.name: self._static(series.static, covariate) for covariate in encoding.static}
        self.times = self._times(series.time) if encoding.calendar else np.empty(0, "datetime64[s]")

    def apply_policies(self, missing: str, short: str) -> None:
        """Fill what the model was fitted to fill, and refuse what it was not fitted to bear."""
        history = self.y[: self.steps]
        blank = int(np.isnan(history).sum())
        if blank and missing == "error":
            raise InputError(f"{self.where}: y has {blank} missing values, and the model was fitted without any.")
        if missing == "ffill":
            history[:] = forward_filled(history, np.array([0, self.steps]))
        window = self._shape.window
        if self.steps < window and short != "pad":
            raise InputError(f"{self.where}: y must have the {window} steps of the model's window, got {self.steps}.")

    def _numbers(self, name: str, values: ArrayLike, steps: int | None, *, gaps: bool = False) -> Doubles:
        given = np.asarray(values)
        if given.ndim != 1 or given.dtype.kind not in "fiub" or (steps is not None and len(given) != steps):
            shape = "[n]" if steps is None else [steps]
            raise InputError(
                f"{self.where}: {name} must be numbers {shape}, got {given.dtype} of shape {list(given.shape)}."
            )
        given = given.astype(np.float64)
        wrong = ~(np.abs(given) <= _LARGEST) & ~(np.isnan(given) & gaps)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise InputError(
                f"{self.where}: {name} must be finite numbers within float32; {name}[{row}] is {given[row]}."
            )
        return given

    def _columns(self, kind: str, given: Mapping[str, ArrayLike], covariates: Sequence[Numeric], steps: int) -> Floats:
        self._check_names(kind, given, covariates)
        columns = [self._numbers(f"{kind} {c.name!r}", given[c.name], steps) for c in covariates]
        return np.stack(columns, 1).astype(np.float32) if columns else np.empty((steps, 0), np.float32)

    def _check_names(self, kind: str, given: Mapping[str, Any], covariates: Sequence[Numeric | Category]) -> None:
        names = [covariate.name for covariate in covariates]
        if sorted(given) != sorted(names):
            raise InputError(
                f"{self.where}: {kind} must have {', '.join(names) or 'nothing'}, got {', '.join(given) or 'nothing'}."
            )

    def _static(self, given: Mapping[str, object], covariate: Numeric | Category) -> object:
        value = given[covariate.name]
        if isinstance(covariate, Category):
            fit, what = isinstance(value, str), "text"
        else:
            fit, what = isinstance(value, Real) and math.isfinite(value), "a finite number"
        if not fit:
            raise InputError(f"{self.where}: static {covariate.name!r} must be {what}, got {value!r}.")
        return value

    def _times(self, given: ArrayLike | None) -> Stamps:
        times: NDArray[Any] = np.asarray([] if given is None else given)
        if times.dtype.kind != "M" or times.shape != self.y.shape or np.isnat(times).any():
            raise InputError(
                f"{self.where}: time must be {len(self.y)} stamps (datetime64), those of the horizon among them; the "
                f"model has calendar features. Got {times.dtype} of shape {list(times.shape)}."
            )
        return times.astype("datetime64[s]")

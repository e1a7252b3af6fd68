"""From the rows of series to what a forecaster's network sees: windows of scaled channels, candidates and truths.

The LSTM reads the window and then reads on through the horizon, where the target is hidden and only what is known in
advance is shown. Channels, in order: the scaled target (0 where hidden), whether it is shown, how far into the
horizon, the target some seasons back, past covariates, known-future covariates and calendar, static covariates.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gatewise.runtime.encoding import Encoding, Floats
from gatewise.runtime.rows import Doubles, Rows, Whole

OWN_CHANNELS = ("target", "shown", "step")
SMALLEST_SHARES = (1e-4, 1e-9)
"""A window's scale is at least these shares of the range of its series so far and of its level: a stretch of equal
values in a series that moves, and the rounding of large numbers, are not what its forecasts should be measured by."""

SMALLEST_SCALE = 1e-12
"""Added to every scale, so that a series that has never moved from zero has one."""

LARGEST_TRUTH = 1e30
"""Scaled truths are cut here, well within float32."""

LARGEST_INPUT = 100.0
"""Scaled inputs are cut here: beyond, every gate is saturated anyway."""


@dataclass(frozen=True)
class Origins:
    """Windows: their series int64 [n] and the rows of their first forecast step int64 [n]."""

    series: Whole
    row: Whole

    def __len__(self) -> int:
        return len(self.series)

    def take(self, index: NDArray[Any] | slice) -> "Origins":
        """Some of the windows."""
        return Origins(self.series[index], self.row[index])


class Batch(NamedTuple):
    """Windows ready for the network.

    Shapes: x [B, W+h, D], candidates [B, h, K], truth [B, h] (NaN where unknown), all scaled float32; level and scale
    [B, 1] float64 with y = level + scale · scaled.
    """

    x: Floats
    candidates: Floats
    truth: Floats
    level: Doubles
    scale: Doubles

    def unscale(self, values: Floats) -> Doubles:
        """Scaled values [B, h, Q] in the units of the table, float64."""
        return self.level[..., None] + self.scale[..., None] * values.astype(np.float64)


@dataclass(frozen=True)
class Shape:
    """The sizes that tell how windows are cut: W, h, and the lags of the candidate forecasts, all in steps."""

    window: int
    horizon: int
    lags: tuple[int, ...]

    @property
    def candidates(self) -> int:
        """K: the last value, and one for each lag."""
        return 1 + len(self.lags)


class Windows:
    """How windows are gathered from rows.

    Args:
        rows: N series, each with at least the horizon in future rows wherever a window is gathered at its end.
        encoding: of the covariates.
        shape: of the windows.
    """

    def __init__(self, rows: Rows, encoding: Encoding, shape: Shape):
        self.rows, self.shape = rows, shape
        self.channels = channels(shape, encoding)
        self._encoding = encoding
        self._widths = len(encoding.past), len(encoding.future) + len(encoding.calendar)

    def gather(self, origins: Origins) -> Batch:
        """Cut the windows of some origins [B]."""
        window, horizon = self.shape.window, self.shape.horizon
        series, origin = origins.series, origins.row
        y = self._since_start(origins, self.rows.shown(series, origin - window, window), window, np.nan)
        last = self.rows.filled(series, origin - 1, 1)
        level, scale = _level_and_scale(y, last, self.rows.spread(origin - 1)[:, None])

        x = np.zeros((len(origins), window + horizon, len(self.channels)), np.float32)
        candidates = np.empty((len(origins), horizon, self.shape.candidates), np.float32)
        shown = ~np.isnan(y)
        x[:, :window, 0] = _cut(_zero_where(~shown, (y - level) / scale), LARGEST_INPUT)
        x[:, :window, 1] = shown
        x[:, window:, 2] = np.arange(1, horizon + 1) / horizon
        column = len(OWN_CHANNELS)
        naive = (last - level) / scale
        candidates[:, :, 0] = naive
        for number, lag in enumerate(self.shape.lags, 1):
            lagged = (self._lagged(origins, lag) - level) / scale
            unknown = np.isnan(lagged)
            ahead = lagged[:, window:]
            candidates[:, :, number] = np.where(unknown[:, window:], naive, ahead) if unknown.any() else ahead
            x[:, :, column] = _cut(_zero_where(unknown, lagged), LARGEST_INPUT)
            column += 1
        past, known = self._widths
        if past:
            values = self.rows.past(series, origin - window, window)
            x[:, :window, column : column + past] = self._since_start(origins, values, window, 0.0)
            column += past
        if known:
            values = self._since_start(origins, self._known(origins, window), window, 0.0)
            x[:, :, column : column + known] = values
            column += known
        x[:, :, column:] = self.rows.static[series][:, None]
        truth = _cut((self.truth(origins) - level) / scale, LARGEST_TRUTH)
        return Batch(x, candidates, truth.astype(np.float32), level, scale)

    def repeat(self, origins: Origins, lag: int) -> Doubles:
        """[B, h] the last ``lag`` values over and over: naive for 1, seasonal naive for a season."""
        last = self.rows.filled(origins.series, origins.row - 1, 1)
        values = self._lagged(origins, lag, window=0)
        return np.where(np.isnan(values), last, values)

    def truth(self, origins: Origins) -> Doubles:
        """[B, h] the target in the units of the table; NaN where it is unknown."""
        values = self.rows.truths(origins.series, origins.row, self.shape.horizon)
        return self._until_stop(origins, values, np.nan)

    def ready(self, origins: Origins) -> NDArray[np.bool_]:
        """[B] whether all is known of the horizon that must be known in advance."""
        if not self._encoding.future:
            return np.ones(len(origins), bool)
        return np.isnan(self._known(origins, 0)).sum((1, 2)) == 0

    def _known(self, origins: Origins, window: int) -> Floats:
        """[B, W+h, K], 0 after the series' last row."""
        first, count = origins.row - window, window + self.shape.horizon
        values = self.rows.known(origins.series, first, count)
        return self._until_stop(origins, values, 0.0)

    def _lagged(self, origins: Origins, lag: int, window: int | None = None) -> Doubles:
        """[B, W+h] the last known value whole multiples of ``lag`` steps back; NaN before the series' start."""
        window, horizon = self.shape.window if window is None else window, self.shape.horizon
        first, count = origins.row - window - lag, window + min(lag, horizon)
        values = self.rows.filled(origins.series, first, count)
        values = self._since_start(origins, values, window + lag, np.nan)
        if lag >= horizon:
            return values
        return values[:, np.concatenate([np.arange(window), window + np.arange(horizon) % lag])]

    def _since_start(self, origins: Origins, values: NDArray[Any], back: int, blank: float) -> NDArray[Any]:
        """Values [B, n, …] from ``back`` rows before the origins on, blank before the series' start."""
        before = self.rows.starts[origins.series] - origins.row + back
        if before.max(initial=0) > 0:
            values[np.arange(values.shape[1]) < before[:, None]] = blank
        return values

    def _until_stop(self, origins: Origins, values: NDArray[Any], blank: float) -> NDArray[Any]:
        """Values [B, n, …] that end with the horizon, blank after the series' last row."""
        after = origins.row + self.shape.horizon - self.rows.stops[origins.series]
        if after.max(initial=0) > 0:
            values[np.arange(values.shape[1], 0, -1) <= after[:, None]] = blank
        return values


def channels(shape: Shape, encoding: Encoding) -> tuple[str, ...]:
    """Names of the LSTM's inputs, in their order."""
    return (*OWN_CHANNELS, *(f"lag {lag}" for lag in shape.lags), *encoding.channels())


def _level_and_scale(history: Doubles, last: Doubles, range_so_far: Doubles) -> tuple[Doubles, Doubles]:
    """Mean and standard deviation [B, 1] of the shown values; the last value where none is shown."""
    shown = ~np.isnan(history)
    count = np.maximum(shown.sum(1, keepdims=True), 1)
    level = _zero_where(~shown, history.copy()).sum(1, keepdims=True) / count
    level = np.where(shown.any(1, keepdims=True), level, last)
    deviation = _zero_where(~shown, history - level)
    scale = np.sqrt((deviation**2).sum(1, keepdims=True) / count)
    of_range, of_level = SMALLEST_SHARES
    return level, np.maximum(scale, np.maximum(of_range * range_so_far, of_level * np.abs(level)) + SMALLEST_SCALE)


def _zero_where(mask: NDArray[np.bool_], values: Doubles) -> Doubles:
    """The values, changed in place: 0 where the mask is true, which is seldom anywhere."""
    if mask.any():
        values[mask] = 0.0
    return values


def _cut(values: Doubles, largest: float) -> Doubles:
    return np.minimum(np.maximum(values, -largest, out=values), largest, out=values)

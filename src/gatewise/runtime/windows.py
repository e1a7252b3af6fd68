"""From the rows of series to what a forecaster's network sees: windows of scaled channels, candidates and truths.

The LSTM reads the window and then reads on through the horizon, where the target is hidden and only what is known in
advance is shown. Channels, in order: the scaled target (0 where hidden), whether it is shown, how far into the
horizon, the target some seasons back, past covariates, known-future covariates and calendar, static covariates.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gatewise.runtime.encoding import Encoding, Floats

Doubles = NDArray[np.float64]
Whole = NDArray[np.int64]

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


@dataclass(frozen=True)
class Rows:
    """N series of R rows in all, as a forecaster's windows are cut from them.

    Attributes:
        offsets: int64 [N+1]; series i has the rows offsets[i] to offsets[i+1], those of its future among them.
        y: [R] target; NaN where it is unknown.
        truths: [R] target to score and train on: NaN where y was filled in, too.
        past: float32 [R, P] past covariates, encoded.
        known: float32 [R, K] what is known in advance, encoded.
        static: float32 [N, S] static covariates, encoded.
    """

    offsets: Whole
    y: Doubles
    truths: Doubles
    past: Floats
    known: Floats
    static: Floats


class Windows:
    """How windows are gathered from rows.

    Args:
        rows: N series, each with at least the horizon in future rows wherever a window is gathered at its end.
        encoding: of the covariates.
        shape: of the windows.
    """

    def __init__(self, rows: Rows, encoding: Encoding, shape: Shape):
        self.shape = shape
        self.starts, self.stops = rows.offsets[:-1], rows.offsets[1:]
        self.y, self.truths = rows.y, rows.truths
        self._filled = forward_filled(rows.y, rows.offsets)
        self._range = _range_so_far(self._filled, rows.offsets)
        self._past, self._known, self._static = rows.past, rows.known, rows.static
        self.channels = channels(shape, encoding)

    def gather(self, origins: Origins) -> Batch:
        """Cut the windows of some origins [B]."""
        window, horizon, lags = self.shape.window, self.shape.horizon, self.shape.lags
        start, stop, origin = (
            a[:, None] for a in (self.starts[origins.series], self.stops[origins.series], origins.row)
        )
        rows = origin + np.arange(-window, horizon)
        inside = (rows >= start) & (rows < stop)
        rows = np.clip(rows, start, stop - 1)

        y = np.where(inside, self.y[rows], np.nan)
        last = self._filled[origin - 1]
        level, scale = _level_and_scale(y[:, :window], last, self._range[origin - 1])
        scaled = np.clip((y - level) / scale, -LARGEST_INPUT, LARGEST_INPUT)
        shown = ~np.isnan(y)
        shown[:, window:] = False

        truth = np.clip((self.truth(origins) - level) / scale, -LARGEST_TRUTH, LARGEST_TRUTH)
        lagged = [self._lagged(origins, lag) for lag in lags]
        seasonal = [
            np.clip(np.nan_to_num((values - level) / scale), -LARGEST_INPUT, LARGEST_INPUT) for values in lagged
        ]

        x = np.zeros((*rows.shape, len(self.channels)), np.float32)
        x[:, :, 0] = np.where(shown, scaled, 0.0)
        x[:, :, 1] = shown
        x[:, window:, 2] = np.arange(1, horizon + 1) / horizon
        column = len(OWN_CHANNELS)
        for values in seasonal:
            x[:, :, column] = values
            column += 1
        covariates = (self._past, self._known)
        for values, columns in zip(covariates, (v.shape[1] for v in covariates), strict=True):
            x[:, :, column : column + columns] = np.where(inside[..., None], values[rows], 0.0)
            column += columns
        x[:, window:, len(OWN_CHANNELS) + len(lags) :][:, :, : self._past.shape[1]] = 0.0
        x[:, :, column:] = self._static[origins.series][:, None]

        candidates = [self.repeat(origins, 1), *(self.repeat(origins, lag) for lag in lags)]
        return Batch(
            x,
            ((np.stack(candidates, -1) - level[..., None]) / scale[..., None]).astype(np.float32),
            truth.astype(np.float32),
            level,
            scale,
        )

    def repeat(self, origins: Origins, lag: int) -> Doubles:
        """[B, h] the last ``lag`` values over and over: naive for 1, seasonal naive for a season."""
        last = self._filled[origins.row - 1][:, None]
        values = self._lagged(origins, lag)[:, self.shape.window :]
        return np.where(np.isnan(values), last, values)

    def truth(self, origins: Origins) -> Doubles:
        """[B, h] the target in the units of the table; NaN where it is unknown."""
        rows = origins.row[:, None] + np.arange(self.shape.horizon)
        inside = rows < self.stops[origins.series][:, None]
        return np.where(inside, self.truths[np.minimum(rows, len(self.y) - 1)], np.nan)

    def ready(self, origins: Origins) -> NDArray[np.bool_]:
        """[B] whether all is known of the horizon that must be known in advance."""
        rows = origins.row[:, None] + np.arange(self.shape.horizon)
        return np.isnan(self._known[np.minimum(rows, len(self.y) - 1)]).sum((1, 2)) == 0

    def _lagged(self, origins: Origins, lag: int) -> Doubles:
        """[B, W+h] the last known value whole multiples of ``lag`` steps back; NaN before the series' start."""
        steps = np.concatenate([np.arange(-self.shape.window, 0), np.arange(self.shape.horizon) % lag])
        rows = origins.row[:, None] + steps - lag
        start = self.starts[origins.series][:, None]
        return np.where(rows >= start, self._filled[np.maximum(rows, start)], np.nan)


def channels(shape: Shape, encoding: Encoding) -> tuple[str, ...]:
    """Names of the LSTM's inputs, in their order."""
    return (*OWN_CHANNELS, *(f"lag {lag}" for lag in shape.lags), *encoding.channels())


def forward_filled(values: Doubles, offsets: Whole) -> Doubles:
    """Each NaN replaced by the last value before it in its series; NaN only before a series' first value."""
    rows = np.arange(len(values))
    before = np.maximum.accumulate(np.where(np.isnan(values), -1, rows)) if len(values) else rows
    start = np.repeat(offsets[:-1], np.diff(offsets))
    return np.where(before >= start, values[before], np.nan)


def _level_and_scale(history: Doubles, last: Doubles, range_so_far: Doubles) -> tuple[Doubles, Doubles]:
    """Mean and standard deviation [B, 1] of the shown values; the last value where none is shown."""
    shown = ~np.isnan(history)
    count = np.maximum(shown.sum(1, keepdims=True), 1)
    level = np.where(shown, history, 0.0).sum(1, keepdims=True) / count
    level = np.where(shown.any(1, keepdims=True), level, last)
    deviation = np.where(shown, history - level, 0.0)
    scale = np.sqrt((deviation**2).sum(1, keepdims=True) / count)
    of_range, of_level = SMALLEST_SHARES
    return level, np.maximum(scale, np.maximum(of_range * range_so_far, of_level * np.abs(level)) + SMALLEST_SCALE)


def extremes_so_far(filled: NDArray[Any], offsets: Whole) -> NDArray[Any]:
    """[R, 2] the smallest and the largest value of each series up to each row; NaN before its first value."""
    extremes = np.empty((len(filled), 2), filled.dtype)
    for start, stop in pairwise(offsets.tolist()):
        values = filled[start:stop]
        np.fmin.accumulate(values, out=extremes[start:stop, 0])
        np.fmax.accumulate(values, out=extremes[start:stop, 1])
    return extremes


def _range_so_far(filled: Doubles, offsets: Whole) -> Doubles:
    """[R] the largest minus the smallest value of each series up to each row."""
    return np.nan_to_num(np.diff(extremes_so_far(filled, offsets), axis=1)[:, 0])

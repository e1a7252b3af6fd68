"""From a panel to what the network sees: windows of scaled channels, candidate forecasts and truths.

The LSTM reads the window and then reads on through the horizon, where the target is hidden and only what is known in
advance is shown. Channels, in order: the scaled target (0 where hidden), whether it is shown, how far into the
horizon, the target some seasons back, past covariates, known-future covariates and calendar, static covariates.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor

from gatewise.data import Panel
from gatewise.data.windows import Origins, forward_filled
from gatewise.tasks.forecast.encoding import Encoding

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


class Batch(NamedTuple):
    """Windows ready for the network.

    Shapes: x [B, W+h, D], candidates [B, h, K], truth [B, h] (NaN where unknown), all scaled float32; level and scale
    [B, 1] float64 with y = level + scale · scaled.
    """

    x: Tensor
    candidates: Tensor
    truth: Tensor
    level: np.ndarray
    scale: np.ndarray

    def unscale(self, values: Tensor) -> np.ndarray:
        """Scaled values [B, h, Q] in the units of the table, float64."""
        return self.level[..., None] + self.scale[..., None] * values.numpy().astype(np.float64)


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


class Inputs:
    """The arrays of a panel and how windows are gathered from them.

    Args:
        panel: N series, each with at least the horizon in future rows wherever a window is gathered at its end.
        encoding: of the covariates.
        shape: of the windows.
    """

    def __init__(self, panel: Panel, encoding: Encoding, shape: Shape):
        self.shape = shape
        self.starts, self.stops = panel.offsets[:-1], panel.offsets[1:]
        self.y = panel.y
        # Filled cells are read, but they are nobody's truth.
        self.truths = np.where(panel.missing, np.nan, panel.y)
        self._filled = forward_filled(panel.y, panel.offsets)
        self._range = _range_so_far(self._filled, panel.offsets)
        self._past = encoding.unknown(panel)
        self._known = encoding.known(panel)
        self._static = encoding.constant(panel)
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
            torch.from_numpy(x),
            torch.from_numpy(((np.stack(candidates, -1) - level[..., None]) / scale[..., None]).astype(np.float32)),
            torch.from_numpy(truth.astype(np.float32)),
            level,
            scale,
        )

    def repeat(self, origins: Origins, lag: int) -> np.ndarray:
        """[B, h] the last ``lag`` values over and over: naive for 1, seasonal naive for a season."""
        last = self._filled[origins.row - 1][:, None]
        values = self._lagged(origins, lag)[:, self.shape.window :]
        return np.where(np.isnan(values), last, values)

    def truth(self, origins: Origins) -> np.ndarray:
        """[B, h] the target in the units of the table; NaN where it is unknown."""
        rows = origins.row[:, None] + np.arange(self.shape.horizon)
        inside = rows < self.stops[origins.series][:, None]
        return np.where(inside, self.truths[np.minimum(rows, len(self.y) - 1)], np.nan)

    def ready(self, origins: Origins) -> np.ndarray:
        """[B] whether all is known of the horizon that must be known in advance."""
        rows = origins.row[:, None] + np.arange(self.shape.horizon)
        return np.isnan(self._known[np.minimum(rows, len(self.y) - 1)]).sum((1, 2)) == 0

    def _lagged(self, origins: Origins, lag: int) -> np.ndarray:
        """[B, W+h] the last known value whole multiples of ``lag`` steps back; NaN before the series' start."""
        steps = np.concatenate([np.arange(-self.shape.window, 0), np.arange(self.shape.horizon) % lag])
        rows = origins.row[:, None] + steps - lag
        start = self.starts[origins.series][:, None]
        return np.where(rows >= start, self._filled[np.maximum(rows, start)], np.nan)


def channels(shape: Shape, encoding: Encoding) -> tuple[str, ...]:
    """Names of the LSTM's inputs, in their order."""
    return (*OWN_CHANNELS, *(f"lag {lag}" for lag in shape.lags), *encoding.channels())


def _level_and_scale(history: np.ndarray, last: np.ndarray, range_so_far: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [B, 1] of the shown values; the last value where none is shown."""
    shown = ~np.isnan(history)
    count = np.maximum(shown.sum(1, keepdims=True), 1)
    level = np.where(shown, history, 0.0).sum(1, keepdims=True) / count
    level = np.where(shown.any(1, keepdims=True), level, last)
    deviation = np.where(shown, history - level, 0.0)
    scale = np.sqrt((deviation**2).sum(1, keepdims=True) / count)
    of_range, of_level = SMALLEST_SHARES
    return level, np.maximum(scale, np.maximum(of_range * range_so_far, of_level * np.abs(level)) + SMALLEST_SCALE)


def _range_so_far(filled: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """[R] the largest minus the smallest value of each series up to each row."""
    series = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    y = pl.col("y")
    spread = y.cum_max().over("series") - y.cum_min().over("series")
    frame = pl.DataFrame({"series": series, "y": filled}).select(spread.fill_nan(0.0).fill_null(0.0))
    return frame.to_series().to_numpy()

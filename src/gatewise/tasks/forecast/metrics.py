"""How good forecasts are. All arrays are float64; a truth that is NaN is not scored.

MASE: Hyndman and Koehler (2006). sMAPE as in the M4 competition, 0 to 200. The weighted quantile loss is GluonTS's:
2 Σ pinball / Σ |y|, averaged over the levels.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gatewise.data.windows import OriginRanges

ROWS_AT_ONCE = 2**18
STEP_METRICS = ("MAE", "RMSE", "sMAPE", "MASE")


def seasonal_scale(
    values: Callable[[np.ndarray, np.ndarray], np.ndarray], starts: np.ndarray, stops: np.ndarray, season: int
) -> np.ndarray:
    """[N] mean |y_t − y_{t−season}| over rows starts … stops of each series; NaN where it is zero or unknown.

    Args:
        values: the targets of series int [n] in rows int [n].
        starts: int [N], the first row of each series.
        stops: int [N], the row after the last that counts.
        season: in steps.
    """
    # Summed series by series: a running total over all would drown small series in the rounding of large ones.
    total, count = np.zeros(len(starts)), np.zeros(len(starts))
    for part in OriginRanges(starts + season, stops - 1).parts(ROWS_AT_ONCE):
        difference = np.abs(values(part.series, part.row) - values(part.series, part.row - season))
        counted = ~np.isnan(difference)
        np.add.at(total, part.series[counted], difference[counted])
        np.add.at(count, part.series[counted], 1)
    scale = total / np.maximum(count, 1)
    return np.where(scale > 0, scale, np.nan)


class Scores:
    """The scores of forecasts, of as many windows at a time as one likes.

    Args:
        scale: [N], of the MASE.
        levels: the Q levels; 0.5 among them.
        horizon: h.
        point: whether the forecasts are points, which then stand for every level.
    """

    def __init__(self, scale: np.ndarray, levels: Sequence[float], horizon: int, *, point: bool):
        self._scale, self._levels, self._point = scale, list(levels), point
        self._sums = {name: np.zeros(1 + horizon) for name in STEP_METRICS}
        self._counts = {name: np.zeros(1 + horizon, np.int64) for name in STEP_METRICS}
        self._series_total, self._series_count = np.zeros(len(scale)), np.zeros(len(scale), np.int64)
        self._pinball, self._size = np.zeros(len(self._levels)), 0.0
        self._bands = {} if point else _bands(self._levels)
        self._inside = dict.fromkeys(self._bands, 0)

    def add(self, quantiles: np.ndarray, truth: np.ndarray, series: np.ndarray) -> None:
        """Count some windows.

        Args:
            quantiles: [n, h, Q] forecasts, or [n, h, 1] points.
            truth: [n, h]; NaN where it is unknown.
            series: int [n], the series of each window.
        """
        median = quantiles[..., 0 if self._point else self._levels.index(0.5)]
        known = ~np.isnan(truth)
        error = np.abs(median - truth)
        size = np.abs(median) + np.abs(truth)
        percent = np.where(known, 200 * error / np.where(size > 0, size, 1.0), np.nan)
        scaled = error / self._scale[series][:, None]
        for name, values in zip(STEP_METRICS, (error, error**2, percent, scaled), strict=True):
            for place, column in enumerate((values, *values.T)):
                some = column[~np.isnan(column)]
                self._sums[name][place] += some.sum()
                self._counts[name][place] += some.size
        np.add.at(self._series_total, series, np.where(np.isnan(scaled), 0.0, scaled).sum(1))
        np.add.at(self._series_count, series, (~np.isnan(scaled)).sum(1))
        over = np.where(known, truth, 0.0)[..., None] - np.where(known[..., None], quantiles, 0.0)
        level = np.asarray(self._levels)
        self._pinball += np.maximum(level * over, (level - 1) * over).sum((0, 1))
        self._size += float(np.abs(truth[known]).sum())
        for band, (low, high) in self._bands.items():
            inside = (quantiles[..., low] <= truth) & (truth <= quantiles[..., high])
            self._inside[band] += int(inside[known].sum())

    def result(self) -> dict[str, Any]:
        """The scores of all windows.

        Returns:
            "overall": MAE, RMSE, sMAPE, MASE, mean weighted quantile loss, coverage; "by_step": the first four, [h]
            each. A figure that is not defined, such as the MASE of constant series, is None. MASE is a mean over
            series.
        """
        by_step = {name: [self._mean(name, place) for place in range(len(sums))] for name, sums in self._sums.items()}
        by_step["RMSE"] = [None if mean is None else mean**0.5 for mean in by_step["RMSE"]]
        overall: dict[str, Any] = {name: means.pop(0) for name, means in by_step.items()}
        of_series = self.series_mase()
        of_series = of_series[~np.isnan(of_series)]
        overall["MASE"] = float(of_series.mean()) if of_series.size else None
        loss = float((2 * self._pinball / self._size).mean()) if self._size > 0 else None
        known = int(self._counts["MAE"][0])
        coverage = {band: inside / known for band, inside in self._inside.items() if known}
        overall |= {"mean weighted quantile loss": loss, "coverage": coverage or None}
        return {"overall": overall, "by_step": by_step}

    def series_mase(self) -> np.ndarray:
        """[N] the MASE of each series; NaN where it was not scored."""
        counted = self._series_count > 0
        return np.where(counted, self._series_total / np.maximum(self._series_count, 1), np.nan)

    def _mean(self, name: str, place: int) -> float | None:
        count = self._counts[name][place]
        return float(self._sums[name][place] / count) if count else None


def _bands(levels: Sequence[float]) -> dict[str, tuple[int, int]]:
    """The places of levels that mirror each other."""
    pairs: dict[str, tuple[int, int]] = {}
    for low, level in enumerate(levels):
        mirror = [high for high, other in enumerate(levels) if high > low and abs(level + other - 1) < 1e-9]
        if mirror:
            pairs[f"{level}-{levels[mirror[0]]}"] = low, mirror[0]
    return pairs

"""How good forecasts are. All arrays are float64; a truth that is NaN is not scored.

MASE: Hyndman and Koehler (2006). sMAPE as in the M4 competition, 0 to 200. The weighted quantile loss is GluonTS's:
2 Σ pinball / Σ |y|, averaged over the levels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

STEP_METRICS = ("MAE", "RMSE", "sMAPE", "MASE")


def seasonal_scale(y: np.ndarray, starts: np.ndarray, stops: np.ndarray, season: int) -> np.ndarray:
    """[N] mean |y_t − y_{t−season}| over rows starts … stops of each series; NaN where it is zero or unknown."""
    difference = np.full(len(y), np.nan)
    difference[season:] = np.abs(y[season:] - y[:-season])
    rows = np.arange(len(y))
    series = np.searchsorted(starts, rows, side="right") - 1
    counted = ~np.isnan(difference) & (rows >= starts[series] + season) & (rows < stops[series])
    # Summed series by series: a running total over all would drown small series in the rounding of large ones.
    total = np.bincount(series[counted], difference[counted], len(starts))
    scale = total / np.maximum(np.bincount(series[counted], minlength=len(starts)), 1)
    return np.where(scale > 0, scale, np.nan)


def score(
    quantiles: np.ndarray, truth: np.ndarray, series: np.ndarray, scale: np.ndarray, levels: Sequence[float]
) -> dict[str, Any]:
    """Score the forecasts of n windows.

    Args:
        quantiles: [n, h, Q] forecasts, or [n, h, 1] point forecasts, which then stand for every level.
        truth: [n, h].
        series: int [n], the series of each window.
        scale: [N], of the MASE.
        levels: the Q levels; 0.5 among them.

    Returns:
        "overall": MAE, RMSE, sMAPE, MASE, mean weighted quantile loss, coverage; "by_step": the first four, [h] each.
        A figure that is not defined, such as the MASE of constant series, is None. MASE is a mean over series.
    """
    point = quantiles.shape[-1] == 1
    median = quantiles[..., 0 if point else list(levels).index(0.5)]
    known = ~np.isnan(truth)
    error = np.abs(median - truth)
    size = np.abs(median) + np.abs(truth)
    percent = np.where(known, 200 * error / np.where(size > 0, size, 1.0), np.nan)
    scaled = error / scale[series][:, None]
    return {
        "overall": {
            "MAE": _mean(error),
            "RMSE": _root(_mean(error**2)),
            "sMAPE": _mean(percent),
            "MASE": _mean(_series_means(scaled, series)),
            "mean weighted quantile loss": _quantile_loss(quantiles, truth, known, levels),
            "coverage": None if point else _coverage(quantiles, truth, known, levels),
        },
        "by_step": {
            "MAE": [_mean(column) for column in error.T],
            "RMSE": [_root(_mean(column**2)) for column in error.T],
            "sMAPE": [_mean(column) for column in percent.T],
            "MASE": [_mean(column) for column in scaled.T],
        },
    }


def series_mase(median: np.ndarray, truth: np.ndarray, series: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """[N] the MASE of each series; NaN where it was not scored."""
    means = np.full(len(scale), np.nan)
    scored = np.unique(series)
    means[scored] = _series_means(np.abs(median - truth) / scale[series][:, None], series)
    return means


def _series_means(values: np.ndarray, series: np.ndarray) -> np.ndarray:
    """The mean of each series that occurs, in ascending order of series; NaN where nothing is known."""
    _, index = np.unique(series, return_inverse=True)
    known = ~np.isnan(values)
    total = np.bincount(index, np.where(known, values, 0.0).sum(1))
    count = np.bincount(index, known.sum(1))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _quantile_loss(q: np.ndarray, truth: np.ndarray, known: np.ndarray, levels: Sequence[float]) -> float | None:
    over = np.where(known, truth, 0.0)[..., None] - np.where(known[..., None], q, 0.0)
    level = np.asarray(levels)
    pinball = np.maximum(level * over, (level - 1) * over).sum((0, 1))
    total = np.abs(truth[known]).sum()
    return float((2 * pinball / total).mean()) if total > 0 else None


def _coverage(
    q: np.ndarray, truth: np.ndarray, known: np.ndarray, levels: Sequence[float]
) -> Mapping[str, float] | None:
    shares: dict[str, float] = {}
    for low, level in enumerate(levels):
        mirror = [high for high, other in enumerate(levels) if high > low and abs(level + other - 1) < 1e-9]
        if mirror and known.any():
            inside = (q[..., low] <= truth) & (truth <= q[..., mirror[0]])
            shares[f"{level}-{levels[mirror[0]]}"] = float(inside[known].mean())
    return shares or None


def _mean(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None


def _root(value: float | None) -> float | None:
    return None if value is None else value**0.5

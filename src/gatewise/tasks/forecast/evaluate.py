"""Rolling origins, scored beside naive and seasonal naive."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from gatewise.data import AnyPanel, Store
from gatewise.data.windows import OriginRanges
from gatewise.errors import InputError
from gatewise.runtime.windows import Origins, Windows
from gatewise.tasks.forecast.metrics import Scores, seasonal_scale
from gatewise.tasks.forecast.model import ForecastModel, moments, moments_of, names_of, some

OURS, NAIVE, SEASONAL = "gatewise", "naive", "seasonal naive"

_FARTHEST = 1_000_000
"""The most steps from one forecast to the next."""

Notes = tuple[str, ...]


def evaluate(
    model: ForecastModel,
    table: pl.DataFrame | Store,
    *,
    truth: pl.DataFrame | None = None,
    stride: int | None = None,
    in_sample: bool = False,
) -> dict[str, Any]:
    """Score rolling origins after each series' training cut-off, or the rows of ``truth``, or the whole table.

    Raises:
        InputError: there is nothing to score, or ``truth`` does not follow the table.
    """
    if stride is not None and (isinstance(stride, bool) or not isinstance(stride, int) or not 1 <= stride <= _FARTHEST):
        raise InputError(f"stride must be a whole number from 1 to {_FARTHEST:,}, not {stride!r}.")
    if in_sample and truth is not None:
        raise InputError("truth is scored out of sample; give either truth or in_sample.")
    if truth is None:
        panel, notes = model.read(table, forecasting=False)
        first, what = first_after(panel, model.cutoffs), "rows after each series' training cut-off"
    else:
        if isinstance(table, Store):
            raise InputError(f"truth cannot follow the store {table.path}: prepare a store of both, or give tables.")
        panel, notes, first = _with_truth(model, table, truth)
        what = "the rows of truth, after the end of the table"
    if in_sample:
        first, what = panel.starts, "IN-SAMPLE: the whole table, rows that the model was trained on too"
    elif truth is None:
        new = sum(name not in model.cutoffs for name in names_of(panel))
        what += f"; {new:,} of {len(panel.ids):,} series were not in training and are scored whole" * (new > 0)
    early = panel.starts + (1 if model.short == "pad" else model.shape.window)
    if truth is not None and (first < early).any():
        what += f"; {int(np.maximum(early - first, 0).sum()):,} rows too early in their series for a window are not"
    origins = OriginRanges(np.maximum(first, early), panel.ends - 1).onward(stride or model.shape.horizon)
    if not len(origins):
        raise InputError(
            "no row of the table lies after the training cut-off, so there is nothing new to score: give later rows "
            "(--truth TABLE), or --in-sample to score the training rows, labelled so."
        )
    return scored(model, panel, model.inputs(panel), origins, "; ".join((what, *notes)))[0]


def first_after(panel: AnyPanel, cutoffs: Mapping[str, int]) -> np.ndarray:
    """int64 [N]: the first row after each series' cut-off; the first row of all where a series has none."""
    cut = np.array([cutoffs.get(name, np.iinfo(np.int64).min) for name in names_of(panel)])
    low, high = panel.starts.copy(), panel.stops.copy()
    # Stamps ascend: halving finds the row in all series at once, without the stamps of all rows.
    while len(series := np.flatnonzero(low < high)):
        middle = (low[series] + high[series]) // 2
        before = moments(panel.stamps(series, middle)) <= cut[series]
        low[series[before]] = middle[before] + 1
        high[series[~before]] = middle[~before]
    return low


def _with_truth(model: ForecastModel, df: pl.DataFrame, truth: pl.DataFrame) -> tuple[AnyPanel, Notes, np.ndarray]:
    """The table with the rows of truth below it, what was left out, and the first row of truth of each series [N]."""
    history, _ = model.read(df, forecasting=False)
    columns = model.columns
    wanted = [name for _, name in columns.roles()]
    lacking = [name for name in wanted if name not in truth.columns]
    if lacking:
        raise InputError(f"truth has no column {lacking[0]!r}; it needs {', '.join(wanted)}.")
    if columns.id is not None:
        new = truth[columns.id].cast(pl.String).unique().sort()
        new = new.filter(~new.is_in(df[columns.id].cast(pl.String).unique().to_list()))
        if len(new):
            raise InputError(f"truth has series {new[0]!r}, of which the table has no history.")
    try:
        joined = pl.concat([_without_future(df, model), truth.select(wanted)], how="vertical_relaxed")
    except pl.exceptions.SchemaError:
        raise InputError(
            f"truth does not fit the table: {', '.join(wanted)} must have the same types and time zone in both."
        ) from None
    try:
        panel, notes = model.read(joined, forecasting=False)
    except InputError as error:
        raise InputError(f"the rows of truth do not follow those of the table: {error}") from None
    first = first_after(panel, moments_of(history, history.ends - 1))
    seen = (first < panel.ends) & (first < first_after(panel, model.cutoffs))
    if seen.any():
        series = panel.ids[int(np.argmax(seen))]
        raise InputError(f"truth has rows of series {series!r} from before its training cut-off.")
    return panel, notes, first


def _without_future(df: pl.DataFrame, model: ForecastModel) -> pl.DataFrame:
    """The columns of the model, without the blank targets at the end of each series: truth takes their place."""
    columns = model.columns
    target = pl.col(columns.target)
    known = target.is_not_null() & (target.is_not_nan() if df[columns.target].dtype.is_float() else True)
    later = known.cum_sum(reverse=True)
    keep = later.over(columns.id) > 0 if columns.id else later > 0
    return df.select(name for _, name in columns.roles()).filter(keep)


def scored(
    model: ForecastModel, panel: AnyPanel, inputs: Windows, origins: Origins, what: str
) -> tuple[dict[str, Any], np.ndarray]:
    """Score a model on some windows, and the baselines on the same windows.

    Args:
        model: what forecasts.
        panel: the series; each one's MASE is scaled by its rows before its first window.
        inputs: of the panel.
        origins: the windows; those for which a known-future covariate is missing are left out, and said.
        what: what is scored, in words.

    Returns:
        The metrics as plain data, and the MASE of each series [N] (its mean absolute error where no series has a
        MASE), NaN where a series has no window.

    Raises:
        InputError: no window has all its known-future covariates, or none has a known target.
    """
    season, levels, horizon = model.season, model.levels, model.shape.horizon
    ready = np.concatenate([inputs.ready(part) for part in some(inputs, origins)])
    if not ready.all():
        what += f"; {int((~ready).sum()):,} windows without {', '.join(model.columns.future)} for all steps are not"
        origins = origins.take(ready)
    values = sum(int((~np.isnan(inputs.truth(part))).sum()) for part in some(inputs, origins))
    if not values:
        raise InputError(
            f"there is nothing to score ({what}): no window has a known target and all that must be known of its "
            "horizon."
        )
    first = panel.ends.copy()
    np.minimum.at(first, origins.series, origins.row)
    scale = seasonal_scale(lambda series, rows: inputs.rows.truths(series, rows, 1)[:, 0], panel.starts, first, season)
    lags = {NAIVE: 1} | ({SEASONAL: season} if season > 1 else {})
    ours = Scores(scale, levels, horizon, point=False)
    others = {name: Scores(scale, levels, horizon, point=True) for name in lags}
    # Where no series has a MASE, its mean absolute error ranks it.
    ranks = ours if not np.isnan(scale).all() else Scores(np.ones_like(scale), levels, horizon, point=False)
    for part in some(inputs, origins):
        truth, quantiles = inputs.truth(part), model.forecast(inputs, part)
        ours.add(quantiles, truth, part.series)
        if ranks is not ours:
            ranks.add(quantiles, truth, part.series)
        for name, lag in lags.items():
            others[name].add(inputs.repeat(part, lag)[..., None], truth, part.series)
    results = {name: scores.result() for name, scores in {OURS: ours, **others}.items()}
    metrics = {
        "scored": what,
        "series": len(np.unique(origins.series)),
        "windows": len(origins),
        "values": values,
        "season": season,
        "models": list(results),
        "overall": {name: result["overall"] for name, result in results.items()},
        "by_step": {name: result["by_step"] for name, result in results.items()},
    }
    return metrics, ranks.series_mase()

"""Rolling origins, scored beside naive and seasonal naive."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from gatewise.data import Panel
from gatewise.data.windows import OriginRanges
from gatewise.errors import InputError
from gatewise.runtime.windows import Origins, Windows
from gatewise.tasks.forecast.metrics import score, seasonal_scale, series_mase
from gatewise.tasks.forecast.model import ForecastModel, moments, moments_of, names_of

OURS, NAIVE, SEASONAL = "gatewise", "naive", "seasonal naive"

Notes = tuple[str, ...]


def evaluate(
    model: ForecastModel,
    df: pl.DataFrame,
    *,
    truth: pl.DataFrame | None = None,
    stride: int | None = None,
    in_sample: bool = False,
) -> dict[str, Any]:
    """Score rolling origins after each series' training cut-off, or the rows of ``truth``, or the whole table.

    Raises:
        InputError: there is nothing to score, or ``truth`` does not follow the table.
    """
    if stride is not None and (isinstance(stride, bool) or not isinstance(stride, int) or stride < 1):
        raise InputError(f"stride must be a whole number of at least 1, not {stride!r}.")
    if in_sample and truth is not None:
        raise InputError("truth is scored out of sample; give either truth or in_sample.")
    if truth is None:
        panel, notes = model.read(df, forecasting=False)
        first, what = first_after(panel, model.cutoffs), "rows after each series' training cut-off"
    else:
        panel, notes, first = _with_truth(model, df, truth)
        what = "the rows of truth, after the end of the table"
    if in_sample:
        first, what = panel.offsets[:-1], "IN-SAMPLE: the whole table, rows that the model was trained on too"
    elif truth is None:
        new = sum(name not in model.cutoffs for name in names_of(panel))
        what += f"; {new:,} of {len(panel.ids):,} series were not in training and are scored whole" * (new > 0)
    early = panel.offsets[:-1] + (1 if model.short == "pad" else model.shape.window)
    if truth is not None and (first < early).any():
        what += f"; {int(np.maximum(early - first, 0).sum()):,} rows too early in their series for a window are not"
    origins = OriginRanges(np.maximum(first, early), panel.ends - 1).onward(stride or model.shape.horizon)
    if not len(origins):
        raise InputError(
            "no row of the table lies after the training cut-off, so there is nothing new to score: give later rows "
            "(--truth TABLE), or --in-sample to score the training rows, labelled so."
        )
    return scored(model, panel, model.inputs(panel), origins, "; ".join((what, *notes)))[0]


def first_after(panel: Panel, cutoffs: Mapping[str, int]) -> np.ndarray:
    """int64 [N]: the first row after each series' cut-off; the first row of all where a series has none."""
    cut = np.array([cutoffs.get(name, np.iinfo(np.int64).min) for name in names_of(panel)])
    before = np.concatenate([[0], np.cumsum(moments(panel.time) <= np.repeat(cut, np.diff(panel.offsets)))])
    return panel.offsets[:-1] + before[panel.offsets[1:]] - before[panel.offsets[:-1]]


def _with_truth(model: ForecastModel, df: pl.DataFrame, truth: pl.DataFrame) -> tuple[Panel, Notes, np.ndarray]:
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
    model: ForecastModel, panel: Panel, inputs: Windows, origins: Origins, what: str
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
    season, levels = model.season, model.levels
    ready = inputs.ready(origins)
    if not ready.all():
        what += f"; {int((~ready).sum()):,} windows without {', '.join(model.columns.future)} for all steps are not"
        origins = origins.take(ready)
    truth = inputs.truth(origins)
    known = ~np.isnan(truth)
    if not known.any():
        raise InputError(
            f"there is nothing to score ({what}): no window has a known target and all that must be known of its "
            "horizon."
        )
    first = panel.ends.copy()
    np.minimum.at(first, origins.series, origins.row)
    scale = seasonal_scale(inputs.truths, panel.offsets[:-1], first, season)
    quantiles = model.forecast(inputs, origins)
    forecasts = {OURS: quantiles, NAIVE: inputs.repeat(origins, 1)[..., None]}
    if season > 1:
        forecasts[SEASONAL] = inputs.repeat(origins, season)[..., None]
    scores = {name: score(values, truth, origins.series, scale, levels) for name, values in forecasts.items()}
    metrics = {
        "scored": what,
        "series": len(np.unique(origins.series)),
        "windows": len(origins),
        "values": int(known.sum()),
        "season": season,
        "models": list(forecasts),
        "overall": {name: values["overall"] for name, values in scores.items()},
        "by_step": {name: values["by_step"] for name, values in scores.items()},
    }
    yardstick = scale if not np.isnan(scale).all() else np.ones_like(scale)
    median = quantiles[..., list(levels).index(0.5)]
    return metrics, series_mase(median, truth, origins.series, yardstick)

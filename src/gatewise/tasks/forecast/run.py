"""The run folder: model, resolved settings, metrics, forecast and report of one fit, written whole or not at all."""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Generator
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch

from gatewise.data import AnyPanel, write_parts
from gatewise.data.windows import OriginRanges
from gatewise.errors import InputError
from gatewise.format import MODEL_NAME, atomic_file
from gatewise.models import from_file
from gatewise.reference import Weights, scan
from gatewise.runtime.windows import Origins, Windows
from gatewise.tasks.forecast.evaluate import scored
from gatewise.tasks.forecast.fitting import Fitted
from gatewise.tasks.forecast.folder import check_folder
from gatewise.tasks.forecast.model import ForecastModel, ends_of, some
from gatewise.tasks.forecast.report import Fan, GateTrace, ReportData, render_report
from gatewise.train import Plan

FILES = (MODEL_NAME, "config.toml", "metrics.json", "forecast.csv", "report.html")


def write_run(
    model: ForecastModel, fitted: Fitted, folder: str | Path, *, title: str, command: str, force: bool = False
) -> dict[str, Any]:
    """Write the run folder and return the metrics.

    Args:
        model: what was trained.
        fitted: what the fit left.
        folder: where to write; with ``force`` the files of an earlier run in it are replaced.
        title: heading of the report.
        command: how the run was made, for the report.
        force: whether the folder may hold an earlier run.
    """
    folder = Path(folder)
    check_folder(folder, force=force)
    inputs = model.inputs(fitted.panel)
    origins, what = scored_windows(fitted, inputs)
    metrics: dict[str, Any] = {}
    per_series = np.array([])
    if len(origins):
        metrics, per_series = scored(model, fitted.panel, inputs, origins, what)
    with _staged(folder) as temporary:
        model.save(temporary / MODEL_NAME)
        _write(temporary / "config.toml", tomli_w.dumps(_without_none(fitted.settings)))
        _write(temporary / "metrics.json", json.dumps(metrics | {"training": model.training}, indent=2) + "\n")
        if all(inputs.ready(part).all() for part in some(inputs, ends_of(fitted.panel))):
            write_parts(model.predict_parts(fitted.panel, inputs), temporary / "forecast.csv")
        report = ReportData(
            title=title,
            summary=fitted.summary,
            config=fitted.settings,
            curve=[vars(epoch) for epoch in fitted.history.epochs],
            best_epoch=fitted.history.best,
            metrics=metrics,
            levels=model.levels,
            fans=_fans(model, fitted.panel, inputs, origins, per_series) if len(origins) else [],
            gates=_gates(model, fitted.panel, inputs, _typical(origins, per_series, fitted.panel)),
            target=model.columns.target,
            footer=f"gatewise {version('gatewise')}, {datetime.now().astimezone():%Y-%m-%d %H:%M %Z}: {command}",
            clip_norm=Plan.clip_norm,
        )
        _write(temporary / "report.html", render_report(report))
    return metrics


@contextlib.contextmanager
def _staged(folder: Path) -> Generator[Path]:
    """A folder to write the run's files into; they take their place when all of them are there."""
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        yield temporary
        _move(temporary, folder)
    except OSError as error:
        raise InputError(f"the run folder {folder} cannot be written: {error.strerror or error}.") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def scored_windows(fitted: Fitted, inputs: Windows) -> tuple[Origins, str]:
    """The windows that tell how good a fit is: those after the cut-offs, else those of the validation."""
    split, horizon = fitted.split, fitted.split.horizon
    after = OriginRanges(split.cutoffs, split.ends - 1).onward(horizon)
    after = _scorable(after, inputs)
    if len(after):
        scored_series, all_series = len(np.unique(after.series)), len(split.ends)
        each = f"{scored_series:,} of {all_series:,}" if scored_series < all_series else "each"
        return after, f"the last {fitted.settings['holdout']} steps of {each} series, never used in training"
    return _scorable(
        split.validation(), inputs
    ), "the validation windows, which chose the best epoch (no rows were held out)"


def _scorable(origins: Origins, inputs: Windows) -> Origins:
    """The windows of whose horizon all that is needed is known, and some of the truth."""
    parts = [inputs.ready(part) & ~np.isnan(inputs.truth(part)).all(axis=1) for part in some(inputs, origins)]
    return origins.take(np.concatenate(parts))


def _write(path: Path, text: str) -> None:
    with atomic_file(path) as file:
        file.write(text.encode())


def _move(source: Path, folder: Path) -> None:
    """Put the finished files in their place; other files in the folder stay."""
    folder.mkdir(exist_ok=True)
    for name in FILES:
        if (source / name).exists():
            (source / name).replace(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


def _without_none(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _typical(origins: Origins, per_series: np.ndarray, panel: AnyPanel) -> Origins:
    """One window: the first scored one of the median series, or the end of the first series."""
    if not len(origins):
        return Origins(np.array([0]), panel.ends[:1])
    ranked = _ranked(per_series)
    return _first_of(origins, ranked[len(ranked) // 2])


def _ranked(per_series: np.ndarray) -> np.ndarray:
    known = np.flatnonzero(~np.isnan(per_series))
    return known[np.argsort(per_series[known], kind="stable")] if len(known) else np.array([0])


def _first_of(origins: Origins, series: int) -> Origins:
    index = np.flatnonzero(origins.series == series)[:1]
    return origins.take(index if len(index) else np.array([0]))


def _fans(
    model: ForecastModel, panel: AnyPanel, inputs: Windows, origins: Origins, per_series: np.ndarray
) -> list[Fan]:
    ranked = _ranked(per_series)
    picks = {"best": ranked[0], "median": ranked[len(ranked) // 2], "worst": ranked[-1]}
    if len(ranked) < len(picks):
        picks = {"": ranked[0]} if len(ranked) == 1 else {"better": ranked[0], "worse": ranked[-1]}
    horizon, fans = model.shape.horizon, []
    for word, series in picks.items():
        window = _first_of(origins, series)
        row, start = int(window.row[0]), int(panel.starts[series])
        shown = max(start, row - model.shape.window)
        error = f", MASE {per_series[series]:.2f}" if np.isfinite(per_series[series]) else ""
        fans.append(
            Fan(
                title=f"{word} series: ".lstrip() * bool(word) + f"{panel.ids[int(series)]}{error}",
                history_time=_stamps(panel, series, slice(shown, row)),
                history=panel.target(int(series), slice(shown, row)),
                time=_stamps(panel, series, slice(row, row + horizon)),
                truth=inputs.truth(window)[0],
                quantiles=model.forecast(inputs, window)[0],
            )
        )
    return fans


def _stamps(panel: AnyPanel, series: int, rows: slice) -> list[Any]:
    numbers = np.arange(rows.start, rows.stop)
    return panel.stamps(np.full(len(numbers), series), numbers).to_list()


def _gates(model: ForecastModel, panel: AnyPanel, inputs: Windows, window: Origins) -> GateTrace:
    """What the first layer does while it reads one window and its horizon."""
    batch = inputs.gather(window)
    lstm = from_file(model.file()).lstm()
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    zeros = torch.zeros(1, lstm.hidden_size)
    with torch.no_grad():
        weights = Weights(*(lstm.get_parameter(name) for name in names))
        *_, trace = scan(torch.from_numpy(batch.x).transpose(0, 1), (zeros, zeros), weights, trace=True)
    row, series = int(window.row[0]), int(window.series[0])
    first = max(row - model.shape.window, int(panel.starts[series]))
    rows = slice(first, row + model.shape.horizon)
    steps = rows.stop - rows.start
    y = panel.target(series, rows).copy()
    y[row - first :] = np.nan
    return GateTrace(
        series=str(panel.ids[series]),
        time=_stamps(panel, series, rows),
        y=y,
        gates={name: trace[name][-steps:, 0].numpy() for name in ("i", "f", "g", "o", "c")},
    )

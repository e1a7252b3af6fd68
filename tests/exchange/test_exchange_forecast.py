"""A forecaster as one graph: from raw tables to quantiles it must be what ``predict`` gives."""

import math
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from exchange_tools import run, session

from gatewise import Forecaster, export_onnx
from gatewise.data import Panel, calendar_features
from gatewise.errors import InputError
from gatewise.format import ModelFile, load_model, save_model
from gatewise.runtime.encoding import Numeric
from gatewise.tasks.forecast.model import ForecastModel

W, HORIZON, LAG = 12, 4, 6
SMALL: dict[str, Any] = {"horizon": HORIZON, "season": LAG, "window": W, "hidden": 4, "epochs": 1, "batch": 4}


def table(rows: int = 60, *, level: float = 10.0, holes: bool = False, covariates: bool = False) -> pl.DataFrame:
    frames = []
    for n, name in enumerate(("a", "b")):
        wave = [level * (1 + n) + 3 * math.sin(k / LAG * 2 * math.pi) + 0.1 * ((k * 7) % 5) for k in range(rows)]
        y = [None if holes and (k % 11 == 3 or rows - 5 < k < rows - 1) else value for k, value in enumerate(wave)]
        frame = {"unique_id": [name] * rows, "ds": [datetime(2024, 1, 1) + timedelta(hours=k) for k in range(rows)]}
        frame["y"] = y
        if covariates:
            frame |= {"wind": [float((k * 3) % 7) for k in range(rows)], "rain": [0.1 * (k % 4) for k in range(rows)]}
            frame |= {"size": [100.0 + 50 * n] * rows, "kind": [("wet", "dry")[n]] * rows}
        frames.append(pl.DataFrame(frame))
    return pl.concat(frames)


def written(frame: pl.DataFrame, folder: Path, **settings: Any) -> tuple[ForecastModel, Any]:
    """A trained model, and the session of its graph."""
    forecaster = Forecaster(**{**SMALL, **settings}).fit(frame)
    forecaster.save(folder / "model.safetensors")
    export_onnx(folder, folder / "m.onnx")  # a folder with a model file is a run folder
    return ForecastModel.load(folder), session(folder / "m.onnx")


def feeds_of(model: ForecastModel, panel: Panel, series: int) -> dict[str, np.ndarray]:
    """The raw inputs of one series, as a program without gatewise would have them."""
    start, origin = panel.offsets[series], panel.ends[series]
    rows = slice(origin - W, origin + HORIZON)
    feeds = {"y": panel.y[start:origin]}
    if panel.past.shape[1]:
        feeds["past"] = panel.past[rows][:W].astype(np.float64)
    if panel.future.shape[1]:
        feeds["future"] = panel.future[rows].astype(np.float64)
    if model.encoding.calendar:
        values, names = calendar_features(panel.time[int(rows.start) : int(rows.stop)], panel.frequency)
        feeds["calendar"] = values[:, [names.index(name) for name in model.encoding.calendar]]
    if model.encoding.static:
        row = []
        for item in model.encoding.static:
            value = panel.static[item.name][series]
            row += [value] if isinstance(item, Numeric) else [float(value == kind) for kind in item.categories]
        feeds["static"] = np.array(row, np.float64)
    return {name: value[None] for name, value in feeds.items()}


def check(model: ForecastModel, graph: Any, frame: pl.DataFrame) -> None:
    panel, _ = model.read(frame)
    expected = model.predict(panel).select(f"q{level}" for level in model.levels).to_numpy()
    expected = expected.reshape(len(panel.ids), HORIZON, -1)
    feeds = [feeds_of(model, panel, series) for series in range(len(panel.ids))]
    assert {info.name for info in graph.get_inputs()} == feeds[0].keys()
    scale = max(1e-12, min(float(np.nanmax(one["y"]) - np.nanmin(one["y"])) for one in feeds))
    for one, wanted in zip(feeds, expected, strict=True):
        np.testing.assert_allclose(run(graph, one)["forecast"][0], wanted, rtol=1e-12, atol=1e-5 * scale)
    together = run(graph, {name: np.concatenate([one[name] for one in feeds]) for name in feeds[0]})["forecast"]
    assert together.shape == (len(panel.ids), HORIZON, len(model.levels))
    assert (np.diff(together, axis=-1) >= 0).all()
    np.testing.assert_allclose(together, expected, rtol=1e-12, atol=1e-5 * scale)


def test_equals_predict(tmp_path: Path) -> None:
    frame = table()
    model, graph = written(frame, tmp_path)
    check(model, graph, frame)
    # A history of another length, and one that is just a window.
    check(model, graph, table(31))
    check(model, graph, table(W))


def test_a_shorter_history_is_one_that_begins_with_nan(tmp_path: Path) -> None:
    """So that series of any lengths go into one batch."""
    model, graph = written(table(), tmp_path)
    feeds = feeds_of(model, model.read(table(20))[0], 0)
    padded = feeds | {"y": np.concatenate([np.full((1, 9), np.nan), feeds["y"]], 1)}
    assert (run(graph, padded)["forecast"] == run(graph, feeds)["forecast"]).all()


def test_missing_values_and_levels_far_from_zero(tmp_path: Path) -> None:
    frame = table(level=1e7, holes=True)
    model, graph = written(frame, tmp_path, missing="mask")
    check(model, graph, frame)


def test_a_series_that_does_not_move(tmp_path: Path) -> None:
    model, graph = written(table(), tmp_path)
    check(model, graph, table().with_columns(y=pl.lit(5.0)))


def test_every_kind_of_covariate(tmp_path: Path) -> None:
    frame = table(covariates=True)
    words = {"past": ("wind",), "future": ("rain",), "static": ("size", "kind")}
    model, graph = written(frame, tmp_path, **words)
    ahead = frame.group_by("unique_id", maintain_order=True).tail(HORIZON)
    ahead = ahead.with_columns(pl.col("ds") + timedelta(hours=HORIZON), y=None, wind=None)
    check(model, graph, pl.concat([frame, ahead], how="vertical_relaxed").sort("unique_id", "ds"))


def test_a_forecast_has_no_layout_to_choose(tmp_path: Path) -> None:
    written(table(), tmp_path)
    for arguments in ({"lengths": True}, {"batch_first": False}):
        with pytest.raises(InputError, match="no layout and no lengths to choose"):
            export_onnx(tmp_path, tmp_path / "again.onnx", **arguments)


def test_a_model_file_without_its_settings(tmp_path: Path) -> None:
    written(table(), tmp_path)
    file = load_model(tmp_path / "model.safetensors")
    rest = {name: value for name, value in file.settings.items() if name != "window"}
    save_model(ModelFile(file.task, file.architecture, file.weights, rest), tmp_path / "bare")
    with pytest.raises(InputError, match=r"settings are not complete \(KeyError\('window'\)\)"):
        export_onnx(tmp_path / "bare", tmp_path / "again.onnx")

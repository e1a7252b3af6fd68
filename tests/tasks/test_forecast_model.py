"""A trained forecaster's file, its forecasts, and where each series' training ended."""

import json
import re
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from forecast_panels import bare_panel, ready, rich_frame, rich_model, rich_panel
from polars.testing import assert_frame_equal

from gatewise.data import Columns, Panel, build_panel
from gatewise.errors import InputError
from gatewise.format import Block, LayerNorm, Linear, Lstm, ModelFile, QuantileMix, load_model, save_model
from gatewise.models import from_file
from gatewise.runtime.forecast import PREDICT_BATCH
from gatewise.runtime.windows import Origins, Shape
from gatewise.tasks.forecast.evaluate import first_after
from gatewise.tasks.forecast.model import ForecastModel, ends_of, moments, moments_of, names_of

SHAPE = Shape(6, 4, (3, 6))


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model() -> ForecastModel:
    return rich_model(SHAPE, rich_panel((20, 11, 16), ahead=4))


@pytest.fixture(scope="module")
def saved(model: ForecastModel, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("forecast") / "model.safetensors"
    model.save(path)
    return path


# ---- forecasts


def test_a_model_comes_back_from_its_file(model: ForecastModel, saved: Path) -> None:
    back = ForecastModel.load(saved)
    for name in ("shape", "season", "levels", "columns", "frequency", "encoding", "missing", "short"):
        assert getattr(back, name) == getattr(model, name), name
    assert (dict(back.cutoffs), dict(back.training)) == (dict(model.cutoffs), dict(model.training))
    assert back.blocks == model.blocks
    for name, value in model.weights.items():
        np.testing.assert_array_equal(back.weights[name], value)


@pytest.mark.parametrize("shape", [SHAPE, Shape(1, 1, ()), Shape(9, 13, (2,))], ids=str)
def test_the_forecast_of_a_loaded_model_is_the_same_bit_for_bit(tmp_path: Path, shape: Shape) -> None:
    df = rich_frame((20, 11, 16), ahead=shape.horizon)
    model = rich_model(shape, rich_panel((20, 11, 16), ahead=shape.horizon))
    model.save(tmp_path / "model.safetensors")
    # From the file and from its folder.
    for path in (tmp_path / "model.safetensors", str(tmp_path)):
        back = ForecastModel.load(path)
        expected, forecast = (m.predict(m.read(df)[0]) for m in (model, back))
        assert_frame_equal(forecast, expected, check_exact=True)


def test_a_forecast_is_a_table_of_ids_times_and_levels(model: ForecastModel) -> None:
    df = rich_frame((20, 11, 16), ahead=4)
    panel, notes = model.read(df)
    forecast = model.predict(panel)
    assert notes == ()
    assert forecast.columns == ["unique_id", "ds", "q0.1", "q0.5", "q0.9"]
    expected = df.group_by("unique_id", maintain_order=True).tail(4).select("unique_id", "ds")
    assert_frame_equal(forecast.select("unique_id", "ds"), expected)
    quantiles = forecast.select("q0.1", "q0.5", "q0.9").to_numpy()
    assert np.isfinite(quantiles).all()
    assert (np.diff(quantiles) >= 0).all()
    direct = model.forecast(model.inputs(panel), Origins(np.arange(3), panel.ends))
    np.testing.assert_array_equal(quantiles.reshape(3, 4, 3), direct)


def test_a_forecast_is_the_network_in_the_units_of_the_table(model: ForecastModel) -> None:
    panel = ready(rich_panel((20, 11, 16), ahead=4), SHAPE)
    inputs, origins = model.inputs(panel), Origins(np.array([2, 0]), np.array([panel.ends[2] - 1, panel.ends[0]]))
    batch = inputs.gather(origins)
    with torch.no_grad():
        network = from_file(model.file())
        scaled = network(torch.from_numpy(batch.x), torch.from_numpy(batch.candidates)).numpy().astype(float)
    expected = np.sort(batch.level[:, :, None] + batch.scale[:, :, None] * scaled, -1)
    np.testing.assert_array_equal(model.forecast(inputs, origins), expected)


def test_many_windows_are_forecast_as_few(model: ForecastModel) -> None:
    panel = ready(rich_panel((20, 11, 16), ahead=4), SHAPE)
    inputs, size = model.inputs(panel), 2 * PREDICT_BATCH + 3
    rows = panel.offsets[0] + 1 + np.arange(size) % 19
    many = model.forecast(inputs, Origins(np.zeros(size, int), rows))
    assert many.shape == (size, 4, 3)
    few = model.forecast(inputs, Origins(np.zeros(19, int), rows[:19]))
    np.testing.assert_allclose(many, few[np.arange(size) % 19], rtol=1e-5)
    assert model.forecast(inputs, Origins(np.zeros(0, int), np.zeros(0, int))).shape == (0, 4, 3)


def test_crossing_quantiles_are_sorted(model: ForecastModel) -> None:
    panel = ready(rich_panel((20, 11, 16), ahead=4), SHAPE)
    bias = model.weights["1.bias"].copy()
    bias[:3] = [5.0, 0.0, -5.0]
    crossed = replace(model, weights={**model.weights, "1.bias": bias})
    forecast = crossed.predict(panel).select("q0.1", "q0.5", "q0.9").to_numpy()
    assert (np.diff(forecast) > 0).all()


def test_known_covariates_of_the_horizon_are_needed(model: ForecastModel) -> None:
    short = rich_frame((20, 11, 16), ahead=3)
    with pytest.raises(
        InputError, match=r"future covariates are missing: .* 3 future rows with rain where 4 are needed"
    ):
        model.read(short)
    panel = model.read(short, forecasting=False)[0]
    message = "future covariates are missing in the horizon of series 's0': the forecast needs rain for all its 4 steps"
    with pytest.raises(InputError, match=message):
        model.predict(panel)
    with pytest.raises(InputError, match=message):
        model.predict(panel, model.inputs(panel))


@pytest.mark.parametrize("step", range(4))
@pytest.mark.parametrize("series", [0, 1, 2])
def test_one_blank_cell_in_the_horizon_of_one_series_is_named(model: ForecastModel, series: int, step: int) -> None:
    panel = model.read(rich_frame((20, 11, 16), ahead=5))[0]
    future = panel.future.copy()
    future[panel.ends + 4] = np.nan  # beyond the horizon
    expected = model.predict(panel)
    assert_frame_equal(model.predict(replace(panel, future=future)), expected, check_exact=True)
    future[panel.ends[series] + step] = np.nan
    with pytest.raises(
        InputError, match=f"in the horizon of series 's{series}': the forecast needs rain for all its 4"
    ):
        model.predict(replace(panel, future=future))


def test_a_forecast_is_the_same_from_inputs_that_are_at_hand(model: ForecastModel) -> None:
    panel = model.read(rich_frame((20, 11, 16), ahead=4))[0]
    assert_frame_equal(model.predict(panel, model.inputs(panel)), model.predict(panel), check_exact=True)


def test_reading_applies_the_policy_for_short_series(model: ForecastModel) -> None:
    df = rich_frame((20, 5, 16), ahead=4)
    assert model.read(df)[0].ids.to_list() == ["s0", "s1", "s2"]
    panel, notes = replace(model, short="drop").read(df)
    assert panel.ids.to_list() == ["s0", "s2"]
    assert notes == ("left out 1 of 3 series, shorter than the 6 rows of the model's window: s1",)
    with pytest.raises(InputError) as caught:
        replace(model, short="error").read(df)
    assert str(caught.value) == (
        "1 of 3 series are too short for the 6 rows of the model's window: s1 (the shortest has 5). Give more of their "
        "history, or fit the model with a shorter window, or with --short pad or drop."
    )
    # The window is enough; the horizon need not be there too.
    assert replace(model, short="error").read(rich_frame((20, 6, 16), ahead=4))[1] == ()


# ---- files whose SHA-256 is right and whose content is not


def _crafted(saved: Path, path: Path, **changes: Any) -> Path:
    """The model's file, with other settings."""
    file = load_model(saved)
    settings = json.loads(json.dumps(file.settings))
    for name, value in changes.items():
        if value is None:
            del settings[name]
        else:
            settings[name] = value
    save_model(replace(file, settings=settings), path)
    return path


def _refused(path: Path, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        ForecastModel.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_as_they_were_are_accepted(saved: Path, tmp_path: Path) -> None:
    path = _crafted(saved, tmp_path / "m", season=7)
    assert ForecastModel.load(path).season == 7


@pytest.mark.parametrize(
    "changes",
    [
        {"lags": []},
        {"lags": [3]},
        {"lags": [3, 6, 9]},
        {"lags": [3, 0]},
        {"lags": [3, -6]},
        {"lags": [3, 6.0]},
        {"lags": [3, True]},
        {"window": 0},
        {"window": -1},
        {"window": 6.0},
        {"window": True},
        {"window": "6"},
        {"window": 2**40},
        {"horizon": 0},
        {"horizon": 4.5},
        {"horizon": 2**40},
        {"season": 0},
        {"season": 2.5},
        {"levels": [0.5]},
        {"levels": [0.1, 0.5]},
        {"levels": [0.9, 0.5, 0.1]},
        {"levels": [0.1, 0.4, 0.9]},
        {"levels": [0.1, 0.3, 0.5, 0.9]},
    ],
    ids=str,
)
def test_settings_that_do_not_fit_the_architecture(saved: Path, tmp_path: Path, changes: dict) -> None:
    _refused(_crafted(saved, tmp_path / "m", **changes), "is damaged")


def test_an_encoding_that_does_not_fit_the_architecture(saved: Path, model: ForecastModel, tmp_path: Path) -> None:
    for name in ("past", "future", "static", "calendar"):
        fewer = {**model.encoding.as_dict(), name: []}
        _refused(_crafted(saved, tmp_path / "m", encoding=json.loads(json.dumps(fewer))), "do not fit")


SETTINGS = ["window", "horizon", "lags", "season", "levels", "columns", "frequency", "encoding", "missing", "short"]


@pytest.mark.parametrize("name", [*SETTINGS, "cutoffs"])
def test_every_setting_is_needed(saved: Path, tmp_path: Path, name: str) -> None:
    assert name in load_model(saved).settings
    _refused(_crafted(saved, tmp_path / "m", **{name: None}), f"settings are not complete .*{name}")
    assert len(load_model(saved).settings) == 11


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"lags": 3}, "its settings are not complete"),
        ({"levels": 0.5}, "its settings are not complete"),
        ({"levels": [0.1, "0.5", 0.9]}, "quantiles must be numbers between 0 and 1"),
        ({"columns": []}, "its settings are not complete"),
        ({"columns": {"aim": "y"}}, "its settings are not complete"),
        ({"frequency": "often"}, "'often' is not a frequency"),
        ({"frequency": 24}, "its settings are not complete"),
        ({"missing": "guess"}, "missing must be one of error, ffill, mask, not 'guess'"),
        ({"short": "long"}, "short must be one of error, pad, drop, not 'long'"),
        ({"encoding": []}, "its settings are not complete"),
        ({"encoding": {"past": []}}, "its settings are not complete"),
        (
            {"encoding": {"past": [{"name": "a"}], "future": [], "static": [], "calendar": []}},
            "its settings are not complete",
        ),
        ({"cutoffs": {"s0": 1.5}}, "its settings do not fit"),
        ({"cutoffs": {"s0": "1"}}, "its settings do not fit"),
    ],
    ids=str,
)
def test_settings_of_other_types(saved: Path, tmp_path: Path, changes: dict, cause: str) -> None:
    path = _crafted(saved, tmp_path / "m", **changes)
    _refused(path, f"^model file {re.escape(str(path))} is damaged: {cause}")


def _with_blocks(saved: Path, path: Path, *blocks: Block) -> Path:
    file = load_model(saved)
    shapes = ModelFile("forecast", blocks, {}).shapes()
    weights = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    save_model(replace(file, architecture=blocks, weights=weights), path)
    return path


def test_other_architectures(saved: Path, model: ForecastModel, tmp_path: Path) -> None:
    lstm, linear, mix = model.blocks
    assert isinstance(lstm, Lstm)
    assert isinstance(mix, QuantileMix)
    d, h, wide = lstm.input_size, lstm.hidden_size, mix.input_size
    for blocks in (
        (lstm, linear),
        (Linear(d, d), lstm, linear, mix),
        (lstm, Lstm(h, h), linear, mix),
        (Lstm(d + 1, h, 2), linear, mix),
        (Lstm(d, h, 2, bidirectional=True), Linear(2 * h, wide), mix),
        (Lstm(d, h, 2, cell="peephole"), linear, mix),
        (Lstm(d, h, 2, clip=1.0), linear, mix),
        (lstm, Linear(h, wide, bias=False), mix),
        (lstm, LayerNorm(h), linear, mix),
        (lstm, linear, QuantileMix(mix.candidates + 1, mix.quantiles - 1)),
        (Linear(d, wide), mix),
        (mix,),
    ):
        _refused(_with_blocks(saved, tmp_path / "m", *blocks), "damaged: its settings")
    fewer = _with_blocks(saved, tmp_path / "m", Lstm(d, h, 1), linear, mix)
    assert ForecastModel.load(fewer).blocks[0] == Lstm(d, h, 1)


def test_another_task(saved: Path, tmp_path: Path) -> None:
    save_model(replace(load_model(saved), task="classify"), tmp_path / "m")
    _refused(tmp_path / "m", "a model for the task 'classify'; a forecast needs one for 'forecast'")


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    _refused(tmp_path, "does not exist")


# ---- the moments where training ended


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin", "Asia/Kolkata"])
def test_moments_are_microseconds_since_1970(unit, zone: str | None) -> None:
    stamps = [datetime(1970, 1, 1), datetime(2020, 7, 1, 12, 30, 0, 5000), datetime(1955, 11, 5)]
    times = pl.Series(stamps).cast(pl.Datetime(unit)).dt.replace_time_zone("UTC" if zone else None)
    times = times.dt.convert_time_zone(zone) if zone else times
    expected = [round((stamp - datetime(1970, 1, 1)).total_seconds() * 1e6) for stamp in stamps]
    values = moments(times)
    assert values.dtype == np.int64
    assert values.tolist() == expected


def test_moments_of_dates_and_whole_numbers() -> None:
    assert moments(pl.Series([date(1970, 1, 2), date(1969, 12, 31)])).tolist() == [86_400_000_000, -86_400_000_000]
    for dtype in (pl.Int64, pl.UInt8, pl.Int16):
        values = moments(pl.Series([3, 7], dtype=dtype))
        assert values.dtype == np.int64
        assert values.tolist() == [3, 7]


def moments_at_end(panel: Panel) -> dict[str, int]:
    return moments_of(panel, panel.ends - 1)


def _panel(times: list | pl.Series, ids: list | None = None):
    frame = pl.DataFrame({"ds": times, "y": [1.0] * len(times)})
    if ids is not None:
        frame = frame.with_columns(pl.Series("unique_id", ids))
    return build_panel(frame, Columns(id="unique_id" if ids else None, time="ds"))


HOURS = [datetime(2020, 10, 24, 22 + k) if k < 2 else datetime(2020, 10, 25, k - 2) for k in range(8)]
DAYS = [date(2020, 1, k + 1) for k in range(8)]


@pytest.mark.parametrize("times", [HOURS, DAYS, list(range(5, 13))], ids=["hours", "days", "whole"])
@pytest.mark.parametrize("cut", [1, 5, 8])
def test_the_first_row_after_a_cut_off(times: list, cut: int) -> None:
    cutoffs = moments_at_end(_panel(times[:cut] if cut > 1 else times[:2]))
    expected = max(cut, 2)
    assert first_after(_panel(times), cutoffs).tolist() == [expected]
    # A table that begins later has rows before the cut-off all the same, or none.
    assert first_after(_panel(times[3:]), cutoffs).tolist() == [max(expected - 3, 0)]


@pytest.mark.parametrize("trained", ["ms", "us", "ns"])
@pytest.mark.parametrize("scored", ["ms", "us", "ns"])
def test_cut_offs_do_not_depend_on_the_unit(trained, scored) -> None:
    stamps = pl.Series(HOURS)
    cutoffs = moments_at_end(_panel(stamps[:5].cast(pl.Datetime(trained))))
    assert first_after(_panel(stamps.cast(pl.Datetime(scored))), cutoffs).tolist() == [5]


def test_cut_offs_do_not_depend_on_the_zone() -> None:
    stamps = pl.Series(HOURS).dt.replace_time_zone("UTC")
    # Over the night in which the clock goes back.
    berlin = stamps.dt.convert_time_zone("Europe/Berlin")
    for trained in (stamps, berlin):
        for scored in (stamps, berlin):
            for cut in range(2, 8):
                assert first_after(_panel(scored), moments_at_end(_panel(trained[:cut]))).tolist() == [cut]


def test_dates_and_midnights_are_the_same_moments() -> None:
    cutoffs = moments_at_end(_panel(DAYS[:4]))
    assert first_after(_panel([datetime(d.year, d.month, d.day) for d in DAYS]), cutoffs).tolist() == [4]


def test_each_series_has_its_own_cut_off() -> None:
    panel = _panel([1, 2, 3, 4, 1, 2, 3, 7, 8, 9], ["a"] * 4 + ["b"] * 3 + ["c"] * 3)
    assert first_after(panel, {"a": 2, "c": 9, "z": 0}).tolist() == [2, 4, 10]
    assert first_after(panel, {}).tolist() == [0, 4, 7]
    assert moments_at_end(panel) == {"a": 4, "b": 3, "c": 9}


def test_whole_ids_find_their_cut_offs() -> None:
    panel = _panel([1, 2, 3, 1, 2, 3], [7, 7, 7, 10, 10, 10])
    assert moments_at_end(panel) == {"7": 3, "10": 3}
    assert first_after(panel, {"7": 1, "10": 2}).tolist() == [1, 5]


@pytest.mark.parametrize(
    ("ids", "names"),
    [
        (["b", "a"], ["b", "a"]),
        ([7, 10], ["7", "10"]),
        ([7.0, 10.0], ["7", "10"]),
        ([-3.0, 0.0, 2.0**52], ["-3", "0", "4503599627370496"]),
        (pl.Series([7.0, 10.0], dtype=pl.Float32), ["7", "10"]),
        ([7.25, 10.5], ["7.25", "10.5"]),
        (["7.0", "10"], ["7.0", "10"]),
        (pl.Series(["b", "a"], dtype=pl.Categorical), ["b", "a"]),
    ],
    ids=str,
)
def test_the_names_of_series_as_text(ids: list | pl.Series, names: list[str]) -> None:
    panel = replace(bare_panel([[1.0, 2.0]] * len(ids)), ids=pl.Series("k", ids))
    assert names_of(panel) == names
    assert moments_of(panel, panel.ends - 1) == dict.fromkeys(names, 1)


def test_whole_numbers_that_come_as_floats_find_their_cut_offs() -> None:
    times, ids = [1, 2, 3, 1, 2, 3], [7, 7, 7, 10, 10, 10]
    whole, floats = _panel(times, ids), _panel(times, [float(name) for name in ids])
    assert floats.ids.dtype == pl.Float64
    assert moments_at_end(whole) == moments_at_end(floats) == {"7": 3, "10": 3}
    for panel in (whole, floats):
        assert first_after(panel, {"7": 1, "10": 2}).tolist() == [1, 5]
        assert first_after(panel, {"7.0": 1, "10.0": 2}).tolist() == [0, 3]


def test_the_windows_at_the_ends_of_the_series() -> None:
    origins = ends_of(bare_panel([[1.0] * 5, [1.0] * 3, [1.0]], ahead=4))
    assert origins.series.tolist() == [0, 1, 2]
    assert origins.row.tolist() == [5, 12, 17]


def test_the_end_of_a_series_is_its_last_target_not_its_last_row() -> None:
    assert moments_at_end(bare_panel([[1.0] * 5, [1.0] * 3], ahead=4)) == {"s0": 4, "s1": 2}

"""Forecasts from plain arrays: the bits of forecasts from a table, and refusals that name series and cause."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from forecast_panels import NAN, RICH, rich_frame, rich_model, rich_panel

from gatewise import runtime
from gatewise.data import Columns, Frequency, build_panel
from gatewise.errors import InputError
from gatewise.format import load_model, save_model
from gatewise.runtime import Series
from gatewise.runtime.windows import Shape
from gatewise.tasks.forecast.model import ForecastModel

SHAPE = Shape(6, 4, (3, 6))
LENGTHS = (20, 11, 3)


def arrays(df: pl.DataFrame, ahead: int) -> list[Series]:
    """The series of a rich frame."""
    return [
        Series(
            y=part["y"].fill_null(NAN).to_numpy()[: len(part) - ahead],
            past={name: part[name].to_numpy()[: len(part) - ahead] for name in RICH.past},
            future={name: part[name].to_numpy() for name in RICH.future},
            static={name: part[name][0] for name in RICH.static},
            time=part["ds"].dt.replace_time_zone(None).to_numpy(),
        )
        for part in df.partition_by("unique_id", maintain_order=True)
    ]


def forecaster(model: ForecastModel, folder: Path) -> runtime.Forecaster:
    model.save(folder / "model.safetensors")
    return runtime.Forecaster(runtime.load(folder))


def quantiles(model: ForecastModel, df: pl.DataFrame) -> np.ndarray:
    """The forecast of a table, [N, h, Q]."""
    forecast = model.predict(model.read(df)[0])
    return forecast.select("q0.1", "q0.5", "q0.9").to_numpy().reshape(-1, model.shape.horizon, 3)


@pytest.mark.parametrize("missing", ["mask", "ffill"])
@pytest.mark.parametrize("zone", [None, "Asia/Kolkata", "America/New_York"])
@pytest.mark.parametrize("shape", [SHAPE, Shape(1, 1, ()), Shape(40, 7, (1, 30))], ids=str)
def test_arrays_give_the_bits_of_the_table(tmp_path: Path, shape: Shape, zone: str | None, missing: str) -> None:
    df = rich_frame(LENGTHS, ahead=shape.horizon)
    df = df.with_columns(pl.col("ds").dt.replace_time_zone(zone)) if zone else df
    panel = build_panel(df, RICH, missing=missing)
    model = rich_model(shape, panel, missing=missing)
    got = forecaster(model, tmp_path).predict(arrays(df, shape.horizon))
    expected = quantiles(model, df)
    assert got.shape == (3, shape.horizon, 3)
    np.testing.assert_array_equal(got, expected)
    # And each alone, as in company.
    for k, one in enumerate(arrays(df, shape.horizon)):
        np.testing.assert_array_equal(forecaster(model, tmp_path).predict([one])[0], expected[k])


@pytest.mark.parametrize("frequency", ["1d", "1w", "1mo"])
def test_calendars_of_every_kind(tmp_path: Path, frequency: str) -> None:
    y = np.sin(np.arange(700)) * 3 + 50
    ds = pl.Series("ds", pl.datetime_range(pl.date(1960, 1, 31), pl.date(2030, 1, 1), frequency, eager=True))[:704]
    if frequency == "1mo":
        ds = ds.dt.month_start()
    df = pl.DataFrame({"ds": ds.cast(pl.Date)[:700], "y": y})
    panel = build_panel(df, Columns(time="ds"))
    model = rich_model(SHAPE, panel, missing="error", frequency=Frequency.parse(frequency))
    assert len(model.encoding.calendar) == {"1d": 6, "1w": 2, "1mo": 2}[frequency]
    got = forecaster(model, tmp_path).predict([Series(y, time=ds.cast(pl.Date).to_numpy())])
    np.testing.assert_array_equal(got, quantiles(model, df))


def test_whole_numbers_need_no_time_and_no_series_are_no_forecasts(tmp_path: Path) -> None:
    y = np.cumsum(np.random.default_rng(0).normal(size=30))
    df = pl.DataFrame({"y": y})
    model = rich_model(SHAPE, build_panel(df, Columns()), short="error", missing="error")
    bare = forecaster(model, tmp_path)
    np.testing.assert_array_equal(bare.predict([Series(y)]), quantiles(model, df))
    np.testing.assert_array_equal(bare.predict([Series(y.tolist())]), quantiles(model, df))
    assert bare.predict([]).shape == (0, 4, 3)
    assert (bare.window, bare.horizon, bare.levels) == (6, 4, (0.1, 0.5, 0.9))
    assert bare.past == bare.future == bare.static == bare.calendar == ()
    with pytest.raises(InputError, match=r"^series 1: y must have the 6 steps of the model's window, got 5\.$"):
        bare.predict([Series(y), Series(y[:5])])
    y[[4, 7]] = NAN
    with pytest.raises(InputError, match=r"^series 0: y has 2 missing values, and the model was fitted without any\.$"):
        bare.predict([Series(y)])


def test_what_a_series_lacks_is_named(tmp_path: Path) -> None:
    df = rich_frame((20,), ahead=4, gaps=False)
    rich = forecaster(rich_model(SHAPE, rich_panel((20, 11), ahead=4)), tmp_path)
    assert (rich.past, rich.future, rich.static) == (RICH.past, RICH.future, RICH.static)
    (good,) = arrays(df, 4)
    assert np.isfinite(rich.predict([good])).all()
    y, rain = np.asarray(good.y), np.asarray(good.future["rain"])
    gap = rain.copy()
    gap[22] = NAN
    for changes, message in (
        ({"y": y[:, None]}, r"y must be numbers \[n\], got float64 of shape \[20, 1\]"),
        ({"y": ["a"]}, r"y must be numbers \[n\], got <U1"),
        ({"y": []}, "y must begin and end with a number"),
        ({"y": [NAN, *y[1:]]}, "y must begin and end with a number"),
        ({"y": [*y[:-1], NAN]}, "y must begin and end with a number"),
        ({"y": [y[0], np.inf, *y[2:]]}, r"y must be finite numbers within float32; y\[1\] is inf"),
        ({"past": {}}, "past must have wind, load, got nothing"),
        ({"past": {**good.past, "rain": rain}}, "past must have wind, load, got wind, load, rain"),
        ({"future": {"rain": rain[:20]}}, r"future 'rain' must be numbers \[24\], got float64 of shape \[20\]"),
        ({"future": {"rain": gap}}, r"future 'rain' must be finite numbers within float32; future 'rain'\[22\] is nan"),
        ({"static": {"size": 1.0}}, "static must have size, kind, got size"),
        ({"static": {"size": "1", "kind": "north"}}, "static 'size' must be a finite number, got '1'"),
        ({"static": {"size": NAN, "kind": "north"}}, "static 'size' must be a finite number, got nan"),
        ({"static": {"size": 1, "kind": 2}}, "static 'kind' must be text, got 2"),
        ({"time": None}, r"time must be 24 stamps \(datetime64\).* Got float64 of shape \[0\]"),
        ({"time": np.asarray(good.time)[:20]}, "time must be 24 stamps"),
        ({"time": np.arange(24)}, "time must be 24 stamps"),
        ({"time": np.array(["NaT"] * 24, "datetime64[s]")}, "time must be 24 stamps"),
    ):
        with pytest.raises(InputError, match=rf"^series 1: {message}"):
            rich.predict([good, replace(good, **changes)])


def test_another_task_and_settings_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    rich_model(SHAPE, rich_panel((20,), ahead=4)).save(path)
    file = load_model(path)
    for changes, message in (
        ({"task": "classify"}, "a model for the task 'classify'; a forecast needs one for 'forecast'"),
        ({"settings": {}}, "its settings are not complete .*window"),
        ({"settings": {**file.settings, "lags": [3]}}, "its settings do not fit"),
        ({"settings": {**file.settings, "window": 2**40}}, "its settings do not fit"),
        ({"settings": {**file.settings, "levels": "1"}}, "its settings do not fit"),
        ({"settings": {**file.settings, "encoding": {}}}, "its settings are not complete .*past"),
    ):
        save_model(replace(file, **changes), path)
        with pytest.raises(InputError, match=message):
            runtime.Forecaster(runtime.load(path))

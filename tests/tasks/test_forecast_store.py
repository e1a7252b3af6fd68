"""Stores give what tables give: the bits of windows, models, forecasts and scores."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from forecast_panels import NAN, RICH, bare_panel, rich_frame, rich_model
from polars.testing import assert_frame_equal

from gatewise import Forecaster
from gatewise.data import Columns, Panel, Store, build_panel, store_writer
from gatewise.data.windows import extend
from gatewise.errors import InputError
from gatewise.runtime.windows import Origins, Shape
from gatewise.tasks.forecast import stored
from gatewise.tasks.forecast.encoding import fit_encoding
from gatewise.tasks.forecast.evaluate import evaluate, first_after
from gatewise.tasks.forecast.fitting import fit_model
from gatewise.tasks.forecast.inputs import windows_of
from gatewise.tasks.forecast.model import moments_of
from gatewise.tasks.forecast.run import write_run
from gatewise.tasks.forecast.settings import Settings
from gatewise.tasks.forecast.split import Split
from gatewise.tasks.forecast.training import Silent

LENGTHS = (40, 17, 31, 90)


def exact(df: pl.DataFrame) -> pl.DataFrame:
    """The table with targets that float32 can say."""
    return df.with_columns(pl.col("y").cast(pl.Float32).cast(pl.Float64))


def store_of(df: pl.DataFrame, columns: Columns, folder: Path, missing: str = "error") -> Store:
    """A store written part by part, of two series at most."""
    names = df[columns.id].unique(maintain_order=True) if columns.id else pl.Series([None])
    whole = build_panel(df, columns, missing=missing)
    with store_writer(folder, missing=missing) as writer:
        for begin in range(0, len(names), 2):
            part = df if columns.id is None else df.filter(pl.col(columns.id).is_in(names[begin : begin + 2].to_list()))
            writer.append(build_panel(part, columns, frequency=whole.frequency, missing=missing))
    return Store.open(folder)


def every_window(panel: Panel) -> Origins:
    pairs = [(i, row) for i in range(len(panel.ids)) for row in range(panel.starts[i] + 1, panel.ends[i] + 1)]
    return Origins(*(np.array(column, np.int64) for column in zip(*pairs, strict=True)))


def moved(origins: Origins, panel: Panel, store: Store) -> Origins:
    """The same windows in the store, whose future rows may be fewer."""
    return Origins(origins.series, origins.row - panel.starts[origins.series] + store.starts[origins.series])


@pytest.mark.parametrize("table", [True, False], ids=["calendar kept", "calendar computed"])
@pytest.mark.parametrize("missing", ["mask", "ffill", "error"])
@pytest.mark.parametrize("shape", [Shape(6, 4, (3, 6)), Shape(1, 1, ()), Shape(50, 7, (2, 60)), Shape(30, 1, (24,))])
def test_windows_have_the_bits_of_the_table(
    tmp_path: Path, monkeypatch, shape: Shape, missing: str, table: bool
) -> None:
    if not table:
        monkeypatch.setattr(stored, "LARGEST_CALENDAR", 0)
    df = exact(rich_frame(LENGTHS, ahead=3, gaps=missing != "error"))
    panel = extend(build_panel(df, RICH, missing=missing), shape.horizon)
    store = extend(store_of(df, RICH, tmp_path / "store", missing), shape.horizon)
    encoding = fit_encoding(panel, panel.ends - 5)
    assert fit_encoding(store, store.ends - 5) == encoding
    here, there = windows_of(panel, encoding, shape), windows_of(store, encoding, shape)
    origins = every_window(panel)
    elsewhere = moved(origins, panel, store)
    for name, ours in here.gather(origins)._asdict().items():
        theirs = getattr(there.gather(elsewhere), name)
        assert (theirs.dtype, theirs.shape, theirs.tobytes()) == (ours.dtype, ours.shape, ours.tobytes()), name
    for lag in (1, *shape.lags):
        np.testing.assert_array_equal(there.repeat(elsewhere, lag), here.repeat(origins, lag))
    np.testing.assert_array_equal(there.truth(elsewhere), here.truth(origins))
    ready = here.ready(origins)
    np.testing.assert_array_equal(there.ready(elsewhere), ready)
    assert ready.any()
    assert ready.all() == (shape.horizon <= 3)
    assert there.gather(elsewhere.take(slice(0))).x.shape == (0, shape.window + shape.horizon, len(here.channels))


@pytest.mark.parametrize("frequency", ["1d", "1w", "1mo", "1bd", "15m"])
@pytest.mark.parametrize("zone", [None, "America/New_York"])
def test_calendars_of_series_that_lie_apart(tmp_path: Path, frequency: str, zone: str | None) -> None:
    step = {"1bd": "1d"}.get(frequency, frequency)
    parts = []
    for k, begin in enumerate((pl.datetime(2015, 1, 15), pl.datetime(2017, 6, 15, 7), pl.datetime(2015, 3, 20))):
        ds = pl.datetime_range(begin, pl.datetime(2030, 1, 1), step, eager=True)
        if frequency == "1bd":
            ds = ds.filter(ds.dt.weekday() < 6)
        parts.append(pl.DataFrame({"unique_id": [k] * 90, "ds": ds[:90], "y": np.arange(90.0) % 7}))
    df = pl.concat(parts)
    df = df.with_columns(pl.col("ds").dt.replace_time_zone(zone)) if zone else df
    columns, shape = Columns(id="unique_id", time="ds"), Shape(9, 4, (7,))
    panel = extend(build_panel(df, columns), 4)
    store = extend(store_of(df, columns, tmp_path / "store"), 4)
    assert panel.frequency.text == frequency
    encoding = fit_encoding(panel, panel.ends)
    assert fit_encoding(store, store.ends) == encoding
    assert encoding.calendar
    origins = every_window(panel)
    ours = windows_of(panel, encoding, shape).gather(origins)
    theirs = windows_of(store, encoding, shape).gather(moved(origins, panel, store))
    assert theirs.x.tobytes() == ours.x.tobytes()


def test_splits_and_moments_are_those_of_the_table(tmp_path: Path) -> None:
    df = exact(rich_frame(LENGTHS, ahead=2))
    panel = extend(build_panel(df, RICH, missing="mask"), 4)
    store = extend(store_of(df, RICH, tmp_path / "store", "mask"), 4)
    ours, theirs = (Split.of(some, 12, 4, 4) for some in (panel, store))
    shift = store.starts - panel.starts
    for name in ("starts", "train_ends", "cutoffs", "ends"):
        np.testing.assert_array_equal(getattr(theirs, name), getattr(ours, name) + shift)
    one, two = (each.numbered(each.draw(9, (1, 2))) for each in (ours.training(), theirs.training()))
    three, four = (split.validation() for split in (ours, theirs))
    for here, there in ((one, two), (three, four)):
        np.testing.assert_array_equal(there.series, here.series)
        np.testing.assert_array_equal(there.row, here.row + shift[here.series])
    cutoffs = moments_of(panel, ours.cutoffs - 1)
    assert moments_of(store, theirs.cutoffs - 1) == cutoffs
    del cutoffs["s2"]
    np.testing.assert_array_equal(first_after(store, cutoffs) - shift, first_after(panel, cutoffs))
    assert panel.span() == store.span()
    assert panel.summary() == store.summary()
    some = np.array([True, False, True, True])
    assert panel.select(some).summary() == store.select(some).summary()


# ---- whole fits


def settings(**changes) -> Settings:
    usual: dict[str, Any] = {
        "horizon": 4,
        "hidden": 6,
        "epochs": 1,
        "window": 12,
        "season": 3,
        "holdout": 4,
        "missing": "mask",
    }
    return Settings(**{**usual, "past": RICH.past, "future": RICH.future, "static": RICH.static, **changes})


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A fit of a table and one of its store, with their run folders."""
    folder = tmp_path_factory.mktemp("fits")
    df = exact(rich_frame((60, 5, 45, 90), ahead=4))
    store = store_of(df, RICH, folder / "store", "mask")
    ours = fit_model(settings(short="drop"), df, Silent())
    # Of the roles and the policy, nothing need be said again.
    bare = settings(short="drop", past=(), future=(), static=(), missing="error")
    theirs = fit_model(bare, store, Silent())
    for name, (model, fit) in {"ours": ours, "theirs": theirs}.items():
        write_run(model, fit, folder / name, title="A table", command="fit")
    return df, store, ours, theirs, folder


def test_a_model_from_a_store_equals_that_of_the_table(fitted) -> None:
    _, _, (ours, fit), (theirs, stored_fit), folder = fitted
    assert set(theirs.weights) == set(ours.weights)
    for name, value in ours.weights.items():
        assert theirs.weights[name].tobytes() == value.tobytes(), name
    for name in ("blocks", "shape", "season", "columns", "frequency", "encoding", "missing", "short", "cutoffs"):
        assert getattr(theirs, name) == getattr(ours, name), name
    assert "s1" not in ours.cutoffs
    assert stored_fit.summary == fit.summary
    assert stored_fit.settings == fit.settings | {"id": "unique_id", "time": "ds"}
    for name in ("forecast.csv", "metrics.json"):
        one, two = ((folder / run / name).read_text() for run in ("ours", "theirs"))
        if name == "metrics.json":
            one, two = ({k: v for k, v in json.loads(text).items() if k != "training"} for text in (one, two))
        assert two == one
    pages = [(folder / run / "report.html").read_text().partition("<footer")[0] for run in ("ours", "theirs")]
    assert pages[0].count("<svg") == pages[1].count("<svg") > 3


def test_forecasts_and_scores_of_a_store_are_those_of_the_table(fitted, monkeypatch) -> None:
    df, store, (model, _), _, _ = fitted
    table, notes = model.read(df)
    read, stored_notes = model.read(store)
    assert stored_notes == notes
    assert_frame_equal(model.predict(read), model.predict(table))
    scores = evaluate(model, df)
    assert evaluate(model, store) == scores
    assert evaluate(model, store, in_sample=True, stride=5) == evaluate(model, df, in_sample=True, stride=5)
    monkeypatch.setattr("gatewise.tasks.forecast.model.STEPS_AT_ONCE", 4)
    parts = list(model.predict_parts(read))
    assert len(parts) == 3
    assert_frame_equal(pl.concat(parts), model.predict(table))
    again = evaluate(model, store)
    assert again["overall"]["gatewise"]["MAE"] == pytest.approx(scores["overall"]["gatewise"]["MAE"], rel=1e-12)
    assert again["values"] == scores["values"]


def test_a_single_series_without_time(tmp_path: Path) -> None:
    df = pl.DataFrame({"load": (np.sin(np.arange(120) / 3) * 64).round()})
    store = store_of(df, Columns("load"), tmp_path / "store")
    options: dict[str, Any] = {"horizon": 5, "hidden": 4, "epochs": 1, "season": 6}
    ours = Forecaster(**options, target="load").fit(df)
    theirs = Forecaster(**options).fit(store.path)
    assert_frame_equal(theirs.predict(), ours.predict())
    for place in (store, store.path, str(store.path)):
        assert_frame_equal(ours.predict(place), ours.predict(df))
    assert theirs.evaluate(store.path, in_sample=True) == ours.evaluate(df, in_sample=True)
    theirs.save(tmp_path / "model.safetensors")
    assert_frame_equal(Forecaster.load(tmp_path / "model.safetensors").predict(store.path), ours.predict())


# ---- what a store refuses


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "rain"}, "target is 'rain', but the store .* was prepared with 'y'"),
        ({"id": "kind"}, "id is 'kind', but .* with 'unique_id'"),
        ({"time": "day"}, "time is 'day', but .* with 'ds'"),
        ({"past": ("wind",)}, "past is 'wind', but .* with 'wind, load'"),
        ({"static": ("kind", "size", "mood")}, "static is 'kind, size, mood', but .* with 'size, kind'"),
        ({"missing": "ffill"}, "missing is 'ffill', but .* with 'mask': leave the setting out, or prepare"),
        ({"quantiles": (0.5,), "horizon": 50}, "too short"),
    ],
)
def test_settings_that_contradict_a_store(fitted, change: dict, message: str) -> None:
    store = fitted[1]
    with pytest.raises(InputError, match=message):
        fit_model(settings(**change), store, Silent())


def test_settings_that_say_the_same_are_taken(fitted) -> None:
    store, model = fitted[1], fitted[2][0]
    same = settings(short="drop", past=RICH.past[::-1], id="unique_id", time="ds", target="y")
    again = fit_model(same, store, Silent())[0]
    assert again.weights["0.weight_ih_l0"].tobytes() == model.weights["0.weight_ih_l0"].tobytes()


def test_a_column_called_like_a_quantile(tmp_path: Path) -> None:
    panel = replace(bare_panel([[1.0, 2.0] * 30]), columns=Columns(id="q0.5", time="ds"))
    with store_writer(tmp_path / "store") as writer:
        writer.append(replace(panel, ids=panel.ids.alias("q0.5")))
    with pytest.raises(InputError, match=r"id column 'q0\.5' is called like a quantile"):
        fit_model(Settings(horizon=2), Store.open(tmp_path / "store"), Silent())


def test_stores_that_a_model_cannot_read(fitted, tmp_path: Path) -> None:
    df, store, (model, _), _, _ = fitted
    with pytest.raises(InputError, match=r"truth cannot follow the store .*: prepare a store of both"):
        evaluate(model, store, truth=df)
    forecaster = Forecaster(horizon=4)
    forecaster.model_ = model
    with pytest.raises(InputError, match="future rows cannot follow the store"):
        forecaster.predict(store.path, future=df)
    other = rich_model(model.shape, build_panel(df, replace(RICH, past=()), missing="mask"))
    with pytest.raises(InputError, match=r"was prepared with .*'load'.* and the model was trained with target"):
        other.read(store)
    days = exact(rich_frame((30,), ahead=4)).with_columns(pl.col("ds").rank().cast(pl.Int64))
    with pytest.raises(InputError, match=r"trained on hourly data, but the store .* is integer steps"):
        model.read(store_of(days, RICH, tmp_path / "days", "mask"))
    filled = store_of(df, RICH, tmp_path / "filled", "ffill")
    with pytest.raises(InputError, match="with missing='ffill', and the model was trained with missing='mask'"):
        model.read(filled)
    ended = store_of(exact(rich_frame((30, 20), ahead=2)), RICH, tmp_path / "ended", "mask")
    with pytest.raises(InputError, match="2 of 2 series, the first 's0', have fewer than 4 future rows with rain"):
        model.read(ended)
    panel, _ = model.read(ended, forecasting=False)
    with pytest.raises(InputError, match="future covariates are missing in the horizon of series 's0'"):
        model.predict(panel)
    complete = store_of(exact(rich_frame((30, 20), ahead=4, gaps=False)), RICH, tmp_path / "complete", "ffill")
    assert len(model.read(complete)[0].ids) == 2  # nothing was filled


def test_more_names_than_a_model_file_can_keep(fitted, monkeypatch, tmp_path: Path) -> None:
    store, model = fitted[1], fitted[2][0]
    size = len(json.dumps(json.dumps(dict(model.cutoffs), separators=(",", ":"))))
    model.save(tmp_path / "model.safetensors")
    header = (tmp_path / "model.safetensors").read_bytes()
    assert json.dumps(json.dumps(dict(model.cutoffs), separators=(",", ":")))[1:-1].encode() in header
    monkeypatch.setattr("gatewise.tasks.forecast.model.LARGEST_CUTOFFS", size)
    fit_model(settings(short="drop"), store, Silent())
    monkeypatch.setattr("gatewise.tasks.forecast.model.LARGEST_CUTOFFS", size - 1)
    with pytest.raises(InputError, match=rf"3 series are too many for one model file.* these take {size} bytes"):
        fit_model(settings(short="drop"), store, Silent())


def test_unknown_targets_are_nan(fitted) -> None:
    store = extend(fitted[1], 9)
    rows = slice(int(store.ends[0]) - 30, int(store.ends[0]) + 9)
    target = store.target(0, rows)
    assert np.isnan(target[-9:]).all()
    assert 0 < np.isnan(target[:-9]).sum() < 20
    assert NAN not in target

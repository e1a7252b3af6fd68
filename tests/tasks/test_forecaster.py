"""The Python class: frames of every library, scikit-learn's manners, the same bits from the same seed and file."""

import pickle
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from polars.testing import assert_frame_equal
from sklearn.base import clone

from gatewise import Forecaster
from gatewise.errors import InputError
from gatewise.tasks.forecast import training

torch.set_num_threads(1)

HORIZON = 4
SMALL: dict[str, Any] = {"season": 6, "window": 12, "hidden": 4, "epochs": 1, "batch": 4}


@pytest.fixture(autouse=True)
def short_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "STEPS_PER_EPOCH", 4)


def wave(k: np.ndarray) -> np.ndarray:
    return 10 + 3 * np.sin(k / 6 * 2 * np.pi) + 0.05 * k + 0.1 * ((k * 7) % 5)


def table(rows: int = 60, ids: tuple = ("a", "b")) -> pl.DataFrame:
    k = np.arange(rows)
    stamps = [datetime(2024, 1, 1) + timedelta(hours=int(step)) for step in k]
    frames = [
        pl.DataFrame({"unique_id": [name] * rows, "ds": stamps, "y": wave(k) + 5 * n}) for n, name in enumerate(ids)
    ]
    return pl.concat(frames)


def small(**params: Any) -> Forecaster:
    return Forecaster(HORIZON, **(SMALL | params))


def weights(model: Forecaster) -> dict[str, np.ndarray]:
    assert model.model_ is not None
    return dict(model.model_.weights)


@pytest.fixture(scope="module")
def fitted() -> Forecaster:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "STEPS_PER_EPOCH", 4)
        return small().fit(table())


# --- frames ---------------------------------------------------------------------------------------------------------

KINDS = {
    "polars": (lambda df: df, pl.DataFrame),
    "lazy": (lambda df: df.lazy(), pl.DataFrame),
    "pandas": (lambda df: df.to_pandas(), pd.DataFrame),
    "pandas, index": (lambda df: df.to_pandas().set_index(["unique_id", "ds"]), pd.DataFrame),
    "pandas, text": (lambda df: df.to_pandas().astype({"ds": str}), pd.DataFrame),
    "pyarrow": (lambda df: df.to_arrow(), pa.Table),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_library_gets_its_own_kind_back(fitted: Forecaster, kind: str) -> None:
    convert, expected = KINDS[kind]
    model = small().fit(convert(table()))
    own, given = model.predict(), model.predict(convert(table()))
    assert isinstance(own, expected)
    assert isinstance(given, expected)
    reference = fitted.predict()
    for result in (own, given):
        columns = pl.DataFrame(result)
        assert columns.columns == ["unique_id", "ds", "q0.1", "q0.5", "q0.9"]
        assert_frame_equal(columns, reference, check_dtypes=False, check_exact=True)


def test_pandas_stamps_come_back_as_stamps_of_their_zone() -> None:
    df = table(ids=("a",)).to_pandas()
    df["ds"] = df["ds"].dt.tz_localize("Europe/Berlin")
    forecast = small().fit(df).predict()
    assert str(forecast["ds"].dt.tz) == "Europe/Berlin"
    last = df["ds"].iloc[-1]
    assert forecast["ds"].tolist() == [last + pd.Timedelta(hours=k) for k in range(1, HORIZON + 1)]


def test_a_path_is_a_table_too(fitted: Forecaster, tmp_path: Path) -> None:
    table().write_csv(tmp_path / "table.csv")
    for path in (tmp_path / "table.csv", str(tmp_path / "table.csv")):
        assert_frame_equal(fitted.predict(path), fitted.predict(), check_exact=True)


def test_what_is_no_table_is_refused(fitted: Forecaster) -> None:
    for thing in ([1.0, 2.0], {"y": [1.0]}, np.zeros(3), None):
        with pytest.raises(InputError, match="a table is expected, not"):
            small().fit(thing)
    with pytest.raises(InputError, match="a table is expected, not list"):
        fitted.evaluate([1.0])


# --- what a forecast holds ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "step", [1, 3, timedelta(hours=1), timedelta(minutes=15), timedelta(days=1), timedelta(weeks=1)], ids=str
)
def test_forecasts_continue_the_time_of_every_series(step: Any) -> None:
    ends = {"late": 50, "early": 40, "long": 70}
    start: Any = 1000 if isinstance(step, int) else datetime(2024, 1, 1)
    rows = [(name, start + k * step, 10 + k % 7) for name, end in ends.items() for k in range(end)]
    df = pl.DataFrame(rows, schema=["shop", "when", "sold"], orient="row")
    forecast = small(target="sold", id="shop", time="when").fit(df).predict()
    assert forecast.columns == ["shop", "when", "q0.1", "q0.5", "q0.9"]
    expected = [(name, start + (end + k) * step) for name, end in ends.items() for k in range(HORIZON)]
    assert forecast.select("shop", "when").rows() == expected
    assert (forecast["q0.1"] <= forecast["q0.5"]).all()
    assert (forecast["q0.5"] <= forecast["q0.9"]).all()


def test_months_end_where_months_end() -> None:
    ends = [date(2020 + (k + 1) // 12, (k + 1) % 12 + 1, 1) - timedelta(days=1) for k in range(40)]
    forecast = small().fit(pl.DataFrame({"ds": ends, "y": wave(np.arange(40))})).predict()
    assert forecast["ds"].to_list() == [date(2023, 5, 31), date(2023, 6, 30), date(2023, 7, 31), date(2023, 8, 31)]


def test_quantiles_close_together_are_columns_of_their_own() -> None:
    forecast = small(quantiles=(0.1234567, 0.12345671, 0.5)).fit(table()).predict()
    assert forecast.columns[2:] == ["q0.1234567", "q0.12345671", "q0.5"]


def test_a_series_does_not_depend_on_its_company(fitted: Forecaster) -> None:
    both = fitted.predict()
    alone = fitted.predict(table().filter(pl.col("unique_id") == "b"))
    assert_frame_equal(alone, both.filter(pl.col("unique_id") == "b"), abs_tol=1e-5, rel_tol=0)


def test_scale_and_level_of_the_table_do_not_matter() -> None:
    base = small().fit(table()).predict()
    far = small().fit(table().with_columns(pl.col("y") * 1024 + 4096)).predict()
    for name in ("q0.1", "q0.5", "q0.9"):
        np.testing.assert_allclose((far[name] - 4096) / 1024, base[name], rtol=1e-3)


# --- manners --------------------------------------------------------------------------------------------------------


def test_clone_is_equal_and_not_fitted(fitted: Forecaster) -> None:
    copy: Any = clone(fitted)
    assert copy is not fitted
    assert copy.get_params() == fitted.get_params()
    with pytest.raises(InputError, match="not fitted yet"):
        copy.predict(table())
    assert_frame_equal(copy.fit(table()).predict(), fitted.predict(), check_exact=True)


def test_fit_leaves_the_arguments_alone() -> None:
    model = Forecaster(HORIZON, hidden=4, epochs=1, batch=4)
    before = model.get_params()
    assert model.fit(table()) is model
    assert model.get_params() == before
    assert before["window"] is None
    assert model.fitted_ is not None
    assert model.fitted_.settings["window"] > 0


def test_set_params_is_used_by_the_next_fit() -> None:
    model = small()
    assert model.set_params(quantiles=(0.5,), horizon=3) is model
    assert model.get_params()["horizon"] == 3
    assert model.fit(table()).predict().shape == (6, 3)
    with pytest.raises(ValueError, match="no parameter 'hiden'; it has horizon, season"):
        model.set_params(hiden=3)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"horizon": 0}, "horizon must be from 1"),
        ({"horizon": -1}, "horizon must be from 1"),
        ({"horizon": 2.5}, "horizon must be a whole number"),
        ({"horizon": True}, "horizon must be a whole number"),
        ({"window": "12"}, "window must be a whole number"),
        ({"past": "wind"}, "past must be a list of column names"),
        ({"future": 5}, "future must be a list of column names"),
        ({"id": 5}, "id must be the name of a column"),
        ({"target": None}, "target must be the name of a column"),
        ({"quantiles": (0.1, 0.9)}, "0.5 among them"),
        ({"quantiles": 0.5}, "quantiles must be"),
        ({"missing": "guess"}, "missing must be one of error, ffill, mask"),
        ({"short": None}, "short must be one of error, pad, drop"),
        ({"freeze_lstm": "yes"}, "freeze_lstm must be true or false"),
    ],
)
def test_settings_out_of_range_are_refused_by_fit(params: dict[str, Any], message: str) -> None:
    model = small().set_params(**params)
    with pytest.raises(InputError, match=message):
        model.fit(table())
    assert model.model_ is None


def test_what_is_not_fitted_says_so(tmp_path: Path) -> None:
    model = small()
    for call in (
        model.predict,
        lambda: model.predict(table()),
        lambda: model.evaluate(table()),
        lambda: model.save(tmp_path / "m"),
    ):
        with pytest.raises(InputError, match=r"not fitted yet: call fit\(\) first"):
            call()
    assert not list(tmp_path.iterdir())


def test_a_fit_that_fails_keeps_the_model_before(fitted: Forecaster) -> None:
    model = small().fit(table())
    with pytest.raises(InputError, match="no column 'y'"):
        model.fit(table().drop("y"))
    assert_frame_equal(model.predict(), fitted.predict(), check_exact=True)


# --- files and seeds ------------------------------------------------------------------------------------------------


def test_a_saved_model_forecasts_the_same_bits(fitted: Forecaster, tmp_path: Path) -> None:
    fitted.save(tmp_path / "model.safetensors")
    for path in (tmp_path, tmp_path / "model.safetensors", str(tmp_path)):
        loaded = Forecaster.load(path)
        assert_frame_equal(loaded.predict(table()), fitted.predict(), check_exact=True)
        assert loaded.evaluate(table()) == fitted.evaluate(table())
        assert loaded.get_params() == fitted.get_params() | {"holdout": HORIZON}
    with pytest.raises(InputError, match="give the history"):
        loaded.predict()
    loaded.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()
    assert_frame_equal(loaded.fit(table()).predict(), fitted.predict(), check_exact=True)


def test_a_model_with_covariates_and_policies_is_saved_whole(tmp_path: Path) -> None:
    df = table(40).with_columns(
        price=pl.int_range(pl.len()) % 3, wind=pl.col("y") * 2, kind=pl.col("unique_id") + "!",
        y=pl.when(pl.int_range(pl.len()) == 20).then(None).otherwise("y"),
    )  # fmt: skip
    future = df.group_by("unique_id", maintain_order=True).tail(HORIZON).select("unique_id", "ds", "price")
    future = future.with_columns(pl.col("ds") + timedelta(hours=HORIZON))
    roles = {"past": ("wind",), "future": ("price",), "static": ("kind",)}
    model = small(**roles, missing="mask", short="pad", quantiles=(0.3, 0.5), layers=2).fit(df)
    model.save(tmp_path / "m.safetensors")
    loaded = Forecaster.load(tmp_path / "m.safetensors")
    # A short table with a hole needs both policies again.
    end = df.group_by("unique_id", maintain_order=True).tail(8)
    for history in (df, end):
        forecast = model.predict(history, future=future)
        assert forecast.shape == (2 * HORIZON, 4)
        assert_frame_equal(loaded.predict(history, future=future), forecast, check_exact=True)
    with pytest.raises(InputError, match="future covariates are missing"):
        loaded.predict(df)
    with pytest.raises(InputError, match="give the frame too"):
        model.predict(future=future)


def test_a_pickle_is_not_loaded(fitted: Forecaster, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(pickle.dumps({"weights": 1}))
    with pytest.raises(InputError, match="is a pickle"):
        Forecaster.load(tmp_path / "m.safetensors")


def test_the_same_seed_gives_the_same_bits_and_another_does_not(fitted: Forecaster) -> None:
    torch.manual_seed(99)
    again = small().fit(table())
    assert_frame_equal(again.predict(), fitted.predict(), check_exact=True)
    mine, theirs = weights(fitted), weights(again)
    assert all(np.array_equal(mine[name], theirs[name]) for name in mine)
    other = small(seed=1).fit(table())
    assert not np.array_equal(other.predict()["q0.5"], fitted.predict()["q0.5"])


def test_dropout_is_seeded_too_and_off_when_it_predicts() -> None:
    one, two = (small(dropout=0.5).fit(table()) for _ in range(2))
    assert_frame_equal(one.predict(), two.predict(), check_exact=True)
    assert_frame_equal(one.predict(), one.predict(), check_exact=True)
    assert not np.array_equal(one.predict()["q0.5"], small().fit(table()).predict()["q0.5"])


def test_input_noise_is_seeded_and_in_training_only(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, ...]] = []
    randn_like = torch.randn_like
    monkeypatch.setattr(torch, "randn_like", lambda x: drawn.append(tuple(x.shape)) or randn_like(x))
    one, two = (small(input_noise=0.5).fit(table()) for _ in range(2))
    assert_frame_equal(one.predict(), two.predict(), check_exact=True)
    assert len(drawn) == 2 * 4  # the steps: the validation draws none
    assert not np.array_equal(one.predict()["q0.5"], small().fit(table()).predict()["q0.5"])
    assert len(drawn) == 2 * 4


def test_a_watcher_sees_the_training() -> None:
    seen: list[Any] = []

    class Watcher:
        def begin(self, summary: Any, plan: Any) -> None:
            seen.append(("begin", dict(summary)["series"], plan.epochs))

        def step(self, step: Any) -> None:
            seen.append((step.epoch, step.step))
            assert np.isfinite(step.loss)

        def epoch(self, epoch: Any, is_best: bool) -> None:
            seen.append(("epoch", epoch.epoch))

        def event(self, name: str, values: dict[str, Any]) -> None:
            raise AssertionError(name)

    small(epochs=2).fit(table(), watch=Watcher())
    first, second = [(1, k) for k in range(1, 5)], [(2, k) for k in range(1, 5)]
    assert seen == [("begin", "2", 2), *first, ("epoch", 1), *second, ("epoch", 2)]

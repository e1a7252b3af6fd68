"""Corners of the forecaster: what is missing, renamed, random or of another type."""

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from gatewise import Forecaster
from gatewise.errors import InputError
from gatewise.tasks.forecast import training
from gatewise.tasks.forecast.resolve import usual_holdout
from gatewise.tasks.forecast.run import scored_windows

QUICK: dict[str, Any] = {"season": 6, "window": 12, "hidden": 4, "epochs": 1, "batch": 4}


@pytest.fixture(autouse=True)
def short_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "STEPS_PER_EPOCH", 4)


def wave(k: int) -> float:
    return 10 + 3 * math.sin(k / 6 * 2 * math.pi) + 0.05 * k


def _priced(rows: int) -> pl.DataFrame:
    steps = range(rows)
    return pl.DataFrame({"y": [wave(k) for k in steps], "p": [float(k % 5) for k in steps]})


def test_a_forecast_without_its_known_future_is_refused_not_blank() -> None:
    fitted = Forecaster(4, future=("p",), **QUICK).fit(_priced(80))
    with pytest.raises(InputError, match=r"future covariates are missing .* needs p for all its 4 steps"):
        fitted.predict()


def test_windows_that_reach_past_the_known_future_are_left_out_and_said() -> None:
    fitted = Forecaster(4, future=("p",), holdout=0, **QUICK).fit(_priced(80))
    scores = fitted.evaluate(_priced(90))
    assert (scores["windows"], scores["values"]) == (2, 8)
    assert "1 windows without p for all steps are not" in scores["scored"]


def test_truth_takes_the_place_of_the_blank_future() -> None:
    full = _priced(84).with_row_index("ds")
    table = full.with_columns(y=pl.when(pl.col("ds") < 80).then("y"))
    fitted = Forecaster(4, future=("p",), **QUICK).fit(table)
    scores = fitted.evaluate(table, truth=full.tail(4))
    assert (scores["windows"], scores["values"]) == (1, 4)
    errors = np.abs(fitted.predict()["q0.5"].to_numpy() - full["y"].tail(4).to_numpy())
    assert scores["overall"]["gatewise"]["MAE"] == pytest.approx(errors.mean(), rel=1e-12)


def test_names_of_series_do_not_depend_on_their_type() -> None:
    table = pl.DataFrame({"unique_id": [1] * 60 + [2] * 60, "y": [wave(k) for k in range(60)] * 2})
    fitted = Forecaster(4, **QUICK).fit(table)
    as_floats = table.with_columns(pl.col("unique_id").cast(pl.Float64))
    assert fitted.evaluate(as_floats) == fitted.evaluate(table)


def test_a_name_does_not_depend_on_the_others() -> None:
    table = pl.DataFrame({"unique_id": [1.0] * 60 + [2.5] * 60, "y": [wave(k) for k in range(60)] * 2})
    fitted = Forecaster(4, **QUICK).fit(table)
    scores = fitted.evaluate(table.head(60))
    assert (scores["windows"], "not in training" in scores["scored"]) == (1, False)


def test_series_that_were_not_in_training_are_counted() -> None:
    table = pl.DataFrame({"unique_id": ["a"] * 60, "y": [wave(k) for k in range(60)]})
    fitted = Forecaster(4, **QUICK).fit(table)
    renamed = table.with_columns(unique_id=pl.lit("b"))
    assert "1 of 1 series were not in training" in fitted.evaluate(renamed)["scored"]


def test_a_seed_leaves_the_callers_randomness_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Forecaster(4, **QUICK).fit(_priced(60))
    assert torch.equal(torch.rand(3), expected)


def test_numpy_numbers_are_numbers() -> None:
    numbers: dict[str, Any] = {name: np.int64(value) for name, value in QUICK.items()}
    numbers |= {"horizon": np.int64(4), "learning_rate": np.float32(0.01)}
    assert Forecaster(**numbers).fit(_priced(60)).predict().height == 4


@pytest.mark.parametrize(
    ("length", "horizon", "holdout"), [(30, 24, 24), (960, 48, 48), (2000, 48, 96), (17_420, 48, 480), (2284, 52, 104)]
)
def test_long_series_hold_out_more_than_one_horizon(length: int, horizon: int, holdout: int) -> None:
    assert usual_holdout(length, horizon) == holdout


def test_a_window_of_which_nothing_is_known_is_not_scored() -> None:
    holes = pl.DataFrame({"y": [None if 80 <= k < 84 else wave(k) for k in range(88)]})
    fitted = Forecaster(4, missing="ffill", holdout=8, **QUICK).fit(holes)
    assert fitted.model_ is not None
    assert fitted.fitted_ is not None
    inputs = fitted.model_.inputs(fitted.fitted_.panel)
    windows, what = scored_windows(fitted.fitted_, inputs)
    assert (windows.row.tolist(), "last 8 steps" in what) == ([84], True)

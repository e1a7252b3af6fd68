"""Does it learn, is the score honest, and does the cut-off hold: training and evaluation from end to end."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from gatewise import Forecaster
from gatewise.errors import InputError
from gatewise.tasks.forecast import training
from gatewise.tasks.forecast.folder import check_folder
from gatewise.tasks.forecast.run import write_run

torch.set_num_threads(1)

H, SEASON, SERIES, ROWS = 6, 12, 5, 120
LEVELS = (0.1, 0.5, 0.9)


def season_and_trend(rows: int = ROWS) -> pl.DataFrame:
    """Series of own level, trend, height and phase, with a little noise."""
    draw = np.random.default_rng(5)
    t = np.arange(200)
    frames = []
    for n in range(SERIES):
        phase, height = draw.integers(SEASON), draw.uniform(2, 5)
        y = 20 + 5 * n + 0.4 * t + height * np.sin(2 * np.pi * (t + phase) / SEASON) + draw.normal(0, 0.2, len(t))
        frames.append(pl.DataFrame({"unique_id": [f"s{n}"] * rows, "ds": t[:rows], "y": y[:rows]}))
    return pl.concat(frames)


def quick(**params: Any) -> Forecaster:
    settings: dict[str, Any] = {"season": SEASON, "window": 24, "hidden": 4, "epochs": 1, "batch": 4}
    return Forecaster(H, **(settings | params))


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "STEPS_PER_EPOCH", 4)


@pytest.fixture(scope="module")
def learned() -> Forecaster:
    """The one model here that is trained for long enough to be good."""
    return quick(hidden=16, epochs=3, batch=32).fit(season_and_trend())


# --- learning -------------------------------------------------------------------------------------------------------


def test_the_lstm_beats_both_baselines_where_there_is_a_season_and_a_trend(learned: Forecaster) -> None:
    scores = learned.evaluate(season_and_trend())["overall"]
    for metric in ("MAE", "RMSE", "sMAPE", "MASE", "mean weighted quantile loss"):
        ours, naive, seasonal = (scores[name][metric] for name in ("gatewise", "naive", "seasonal naive"))
        assert ours < 0.5 * naive
        assert ours < 0.5 * seasonal
    assert 0.4 < scores["gatewise"]["coverage"]["0.1-0.9"] <= 1


def test_training_lowers_the_loss(learned: Forecaster) -> None:
    assert learned.fitted_ is not None
    history = learned.fitted_.history
    losses = [epoch.val_loss for epoch in history.epochs if epoch.val_loss is not None]
    assert len(losses) == len(history.epochs) > 1
    assert history.best == 1 + int(np.argmin(losses))
    assert history.epochs[-1].train_loss < 0.7 * history.epochs[0].train_loss


def test_a_frozen_lstm_keeps_its_random_weights_while_the_rest_learns(few_steps: None) -> None:
    def split(model: Forecaster) -> tuple[list[np.ndarray], list[np.ndarray]]:
        assert model.model_ is not None
        weights = model.model_.weights
        return [v for k, v in weights.items() if k.startswith("0.")], [v for k, v in weights.items() if k[0] != "0"]

    frozen = [split(quick(freeze_lstm=True, epochs=epochs).fit(season_and_trend())) for epochs in (1, 2)]
    free = split(quick().fit(season_and_trend()))
    assert frozen[0][0]
    for one, two, moved in zip(frozen[0][0], frozen[1][0], free[0], strict=True):
        assert np.array_equal(one, two)
        assert not np.array_equal(one, moved)
    assert any(not np.array_equal(one, two) for one, two in zip(frozen[0][1], frozen[1][1], strict=True))


# --- scores, computed once more -------------------------------------------------------------------------------------


def by_hand(df: pl.DataFrame, forecasts: dict[str, dict[str, np.ndarray]], cut: int, end: int) -> dict[str, Any]:
    """The scores of forecasts {model: {series: [h, Q]}} of rows cut … end, from the definitions, one by one."""
    out: dict[str, Any] = {}
    for model, by_series in forecasts.items():
        errors, percents, mases, losses, size, inside = [], [], [], np.zeros(len(LEVELS)), 0.0, []
        for name, quantiles in by_series.items():
            y = df.filter(pl.col("unique_id") == name)["y"].to_numpy()
            scale = np.mean([abs(y[t] - y[t - SEASON]) for t in range(SEASON, cut)])
            own = []
            for t in range(cut, end):
                q = quantiles[t - cut]
                middle = q[len(q) // 2]
                own.append(abs(y[t] - middle))
                percents.append(200 * abs(y[t] - middle) / (abs(y[t]) + abs(middle)))
                size += abs(y[t])
                inside.append(q[0] <= y[t] <= q[-1])
                for j, level in enumerate(LEVELS):
                    guess = q[j] if len(q) > 1 else q[0]
                    losses[j] += level * (y[t] - guess) if y[t] >= guess else (1 - level) * (guess - y[t])
            errors += own
            mases.append(np.mean(own) / scale)
        out[model] = {
            "MAE": np.mean(errors),
            "RMSE": np.sqrt(np.mean(np.square(errors))),
            "sMAPE": np.mean(percents),
            "MASE": np.mean(mases),
            "mean weighted quantile loss": np.mean(2 * losses / size),
            "coverage": np.mean(inside),
            "MAE by step": np.reshape(errors, (SERIES, -1)).mean(0),
        }
    return out


def baselines(df: pl.DataFrame, cut: int) -> dict[str, dict[str, np.ndarray]]:
    ys = {str(key[0]): part["y"].to_numpy() for key, part in df.group_by("unique_id", maintain_order=True)}
    return {
        "naive": {name: np.array([[y[cut - 1]] for _ in range(H)]) for name, y in ys.items()},
        "seasonal naive": {name: np.array([[y[cut + k - SEASON]] for k in range(H)]) for name, y in ys.items()},
    }


def ours(model: Forecaster, df: pl.DataFrame, cut: int) -> dict[str, np.ndarray]:
    """What the model forecasts when it is given nothing after the cut."""
    forecast = model.predict(df.filter(pl.col("ds") < cut))
    return {
        str(key[0]): part.select(f"q{level}" for level in LEVELS).to_numpy()
        for key, part in forecast.group_by("unique_id", maintain_order=True)
    }


def check_scores(scores: dict[str, Any], expected: dict[str, Any]) -> None:
    assert scores["models"] == ["gatewise", "naive", "seasonal naive"]
    for model, figures in expected.items():
        found = scores["overall"][model]
        for metric in ("MAE", "RMSE", "sMAPE", "MASE", "mean weighted quantile loss"):
            assert found[metric] == pytest.approx(figures[metric], rel=1e-4), (model, metric)
        np.testing.assert_allclose(scores["by_step"][model]["MAE"], figures["MAE by step"], rtol=1e-3)
    assert scores["overall"]["gatewise"]["coverage"]["0.1-0.9"] == pytest.approx(expected["gatewise"]["coverage"])
    assert scores["overall"]["naive"]["coverage"] is None


def test_the_scores_are_those_of_the_held_out_rows_and_of_forecasts_that_did_not_see_them(learned: Forecaster) -> None:
    df, cut = season_and_trend(), ROWS - H
    scores = learned.evaluate(df)
    assert (scores["windows"], scores["values"], scores["series"]) == (SERIES, SERIES * H, SERIES)
    assert scores["scored"] == "rows after each series' training cut-off"
    check_scores(scores, by_hand(df, {"gatewise": ours(learned, df, cut), **baselines(df, cut)}, cut, ROWS))


def test_truth_is_scored_after_the_end_of_the_table(learned: Forecaster) -> None:
    whole = season_and_trend(ROWS + H)
    truth = whole.filter(pl.col("ds") >= ROWS)
    scores = learned.evaluate(season_and_trend(), truth=truth)
    assert scores["scored"] == "the rows of truth, after the end of the table"
    expected = {"gatewise": ours(learned, whole, ROWS), **baselines(whole, ROWS)}
    check_scores(scores, by_hand(whole, expected, ROWS, ROWS + H))
    shuffled = truth.sort("unique_id", descending=True, maintain_order=True)
    assert learned.evaluate(season_and_trend(), truth=shuffled)["overall"] == scores["overall"]


def test_the_held_out_rows_do_not_reach_the_model(few_steps: None) -> None:
    df = season_and_trend()
    other = df.with_columns(y=pl.when(pl.col("ds") >= ROWS - H).then(pl.col("y") * -7).otherwise("y"))
    one, two = quick().fit(df), quick().fit(other)
    assert one.model_ is not None
    assert two.model_ is not None
    for name, value in one.model_.weights.items():
        assert np.array_equal(value, two.model_.weights[name]), name
    assert one.evaluate(df)["overall"] != two.evaluate(other)["overall"]
    # And the same rows do reach it when nothing is held out.
    free = [quick(holdout=0).fit(frame).predict() for frame in (df, other)]
    assert not np.array_equal(free[0]["q0.5"], free[1]["q0.5"])


def test_only_what_lies_after_the_cut_off_is_scored(few_steps: None) -> None:
    df = season_and_trend()
    model = quick(holdout=0).fit(df)
    with pytest.raises(InputError, match="nothing new to score"):
        model.evaluate(df)
    labelled = model.evaluate(df, in_sample=True)
    assert labelled["scored"].startswith("IN-SAMPLE")
    assert labelled["values"] == SERIES * (ROWS - 24)
    longer = season_and_trend(ROWS + 8)
    scores = model.evaluate(longer)
    assert scores["values"] == SERIES * 8
    assert scores["windows"] == SERIES * 2
    assert model.evaluate(longer, stride=1)["windows"] == SERIES * 8
    # Rows before the cut-off change history, never what is scored; a series that the model never saw is new as a whole.
    new = longer.filter(pl.col("unique_id") == "s0").with_columns(unique_id=pl.lit("new"))
    assert model.evaluate(pl.concat([longer, new]))["values"] == SERIES * 8 + (ROWS + 8 - 24)


def test_truth_that_was_trained_on_is_refused(few_steps: None) -> None:
    df = season_and_trend()
    model = quick().fit(df)
    early, late = df.filter(pl.col("ds") < 90), df.filter(pl.col("ds").is_between(90, 95))
    with pytest.raises(InputError, match=r"of series .* from before its training cut-off"):
        model.evaluate(early, truth=late)
    held_out = model.evaluate(df.filter(pl.col("ds") < ROWS - H), truth=df.filter(pl.col("ds") >= ROWS - H))
    assert held_out["overall"] == model.evaluate(df)["overall"]


def test_the_cut_off_of_each_series_is_its_own(few_steps: None) -> None:
    df = season_and_trend().filter(~((pl.col("unique_id") == "s1") & (pl.col("ds") >= 80)))
    model = quick().fit(df)
    assert model.model_ is not None
    assert model.model_.cutoffs == {f"s{n}": (79 if n == 1 else ROWS - 1) - H for n in range(SERIES)}
    assert model.evaluate(season_and_trend())["values"] == SERIES * H + 40


# --- run folders ----------------------------------------------------------------------------------------------------


def test_a_run_folder_is_written_whole_from_python(few_steps: None, tmp_path: Path) -> None:
    df = season_and_trend()
    model = quick().fit(df)
    assert model.model_ is not None
    assert model.fitted_ is not None
    folder = tmp_path / "deep" / "run"
    check_folder(folder, force=False)
    assert not list(tmp_path.iterdir())  # looking leaves nothing behind
    metrics = write_run(model.model_, model.fitted_, folder, title="T", command="c")
    assert metrics["overall"] == model.evaluate(df)["overall"]
    names = {"model.safetensors", "config.toml", "metrics.json", "forecast.csv", "report.html"}
    assert {path.name for path in folder.iterdir()} == names
    assert [path.name for path in folder.parent.iterdir()] == ["run"]
    with pytest.raises(InputError, match="not empty"):
        write_run(model.model_, model.fitted_, folder, title="T", command="c")
    loaded = Forecaster.load(folder)
    assert loaded.predict(df)["q0.5"].to_list() == model.predict()["q0.5"].to_list()

"""Columns, season, window and lags where nobody named them, and what becomes of short series."""

from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl
import pytest
from forecast_panels import NAN, bare_panel

from gatewise.data import Columns, Frequency
from gatewise.errors import InputError
from gatewise.tasks.forecast.resolve import (
    LONGEST_USUAL_WINDOW,
    choose_lags,
    drop_short,
    resolve_columns,
    unused_time_column,
    usual_season,
    usual_window,
)
from gatewise.tasks.forecast.settings import Settings
from gatewise.tasks.forecast.training import plan_of


def _frame(*names: str) -> pl.DataFrame:
    return pl.DataFrame({name: [1.0] for name in names})


@pytest.mark.parametrize(
    ("names", "settings", "expected"),
    [
        (("unique_id", "ds", "y"), {}, ("unique_id", "ds")),
        (("y",), {}, (None, None)),
        (("ds", "y"), {}, (None, "ds")),
        (("unique_id", "ds", "y", "k", "t"), {"id": "k", "time": "t"}, ("k", "t")),
        (("unique_id", "ds", "y", "k"), {"id": "k"}, ("k", "ds")),
        (("unique_id", "ds", "y"), {"target": "ds"}, ("unique_id", None)),
        (("unique_id", "ds", "y"), {"static": ("unique_id",)}, (None, "ds")),
        (("unique_id", "ds", "y"), {"future": ("ds",)}, ("unique_id", None)),
        (("unique_id", "ds", "y"), {"past": ("ds",)}, ("unique_id", None)),
        (("y",), {"id": "absent"}, ("absent", None)),
    ],
)
def test_usual_names_are_taken_unless_they_are_given_a_role(names, settings, expected) -> None:
    columns = resolve_columns(_frame(*names), Settings(horizon=1, **settings))
    assert (columns.id, columns.time) == expected


def test_every_role_comes_from_the_settings() -> None:
    settings = Settings(1, target="a", past=("b",), future=("c", "d"), static=("e",))
    assert resolve_columns(_frame(*"abcde"), settings) == Columns(
        "a", None, None, past=("b",), future=("c", "d"), static=("e",)
    )


@pytest.mark.parametrize("role", ["id", "time"])
def test_ids_and_times_called_like_a_quantile_of_the_forecast_are_refused(role: str) -> None:
    df = _frame("y", "q0.5", "q0.25", "q0.7", "q")
    for levels, refused in (
        ((0.5,), {"q0.5"}), ((0.25, 0.5), {"q0.25", "q0.5"}), ((0.25, 0.5, 0.7), {"q0.25", "q0.5", "q0.7"})
    ):  # fmt: skip
        for name in ("q0.5", "q0.25", "q0.7", "q"):
            given = replace(Settings(1, quantiles=levels), **{role: name})
            if name in refused:
                with pytest.raises(InputError, match=rf"the {role} column '{name}' is called like a quantile .*rename"):
                    resolve_columns(df, given)
            else:
                assert getattr(resolve_columns(df, given), role) == name
    # Columns that the forecast does not repeat may be called so.
    others = resolve_columns(df, Settings(1, target="q0.5", past=("q0.25",), quantiles=(0.25, 0.5)))
    assert (others.target, others.past) == ("q0.5", ("q0.25",))


def test_time_stamps_that_nobody_named_are_mentioned() -> None:
    df = pl.DataFrame({"y": [1.0], "when": [datetime(2020, 1, 1)]})
    (note,) = unused_time_column(df, Columns("y"))
    assert "--time when" in note
    assert unused_time_column(df, Columns("y", time="when")) == ()
    assert unused_time_column(_frame("y", "n"), Columns("y")) == ()


@pytest.mark.parametrize(
    ("frequency", "season"),
    [
        ("1h", 24), ("2h", 12), ("30m", 48), ("15m", 96), ("1m", 1440), ("12h", 2), ("7h", 1), ("1d", 7), ("2d", 1),
        ("1w", 52), ("2w", 1), ("1bd", 5), ("1mo", 12), ("1mo-end", 12), ("3mo", 4), ("3mo-end", 4), ("2mo", 1),
        ("1y", 1), ("1", 1), ("24", 1), ("86400s", 7),
    ],
)  # fmt: skip
def test_the_usual_season(frequency: str, season: int) -> None:
    assert usual_season(Frequency(frequency)) == season


@pytest.mark.parametrize(
    ("length", "season", "horizon", "holdout", "window"),
    [
        (10_000, 24, 48, 48, 168),
        (10_000, 1, 10, 10, 168),
        (10_000, 7, 14, 14, 168),
        (10_000, 12, 12, 12, 168),
        (10_000, 52, 8, 8, 156),
        (10_000, 96, 96, 96, 192),
        (10_000, 168, 24, 24, 336),
        (10_000, 169, 24, 24, 336),  # never more than two weeks of hours, were it less than two seasons
        (10_000, 1440, 60, 60, 336),
        (10_000, 1440, 400, 60, 400),
        (500, 1440, 60, 60, 320),  # two seasons are out of reach, so all that is left
        (300, 1440, 10, 10, 270),
        (10_000, 24, 500, 0, 500),  # never less than the horizon
        (300, 24, 48, 48, 156),  # what is left of 300 after holdout, validation and one horizon of training
        (100, 24, 48, 48, 48),  # but at least two seasons
        (30, 1, 6, 6, 12),
        (1, 1, 6, 6, 6),
        (1, 1, 1, 0, 2),
    ],
)
def test_the_usual_window(length: int, season: int, horizon: int, holdout: int, window: int) -> None:
    assert usual_window(length, season, horizon, holdout) == window


def test_the_usual_window_is_bounded_by_its_longest_and_the_horizon() -> None:
    assert LONGEST_USUAL_WINDOW == 336
    for length in (50, 700, 100_000):
        for season in range(1, 3000, 7):
            for horizon in (1, 24, 335, 336, 337, 1000):
                window = usual_window(length, season, horizon, horizon)
                assert horizon <= window <= max(336, horizon)
                # Whole seasons wherever there is room for two of them.
                if length == 100_000 and 2 * season <= 336 and horizon <= 24:
                    assert window % season == 0
                    assert window >= 2 * season


# ---- lags


def _noise(seed: int, size: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=0.05, size=size)


def _weekly(size: int) -> np.ndarray:
    """Hours whose days differ within the week."""
    t = np.arange(size)
    return np.sin(2 * np.pi * t / 24) * np.array([1, 1.2, 0.9, 1.5, 2, 0.2, -1])[t // 24 % 7]


def _lags(y: list[np.ndarray], season: int, window: int, keep: float = 1.0) -> tuple[int, ...]:
    panel = bare_panel([list(values) for values in y], ahead=3)
    return choose_lags(panel, panel.offsets[:-1] + (keep * panel.lengths()).astype(int), season, window)


def test_a_weekly_pattern_in_hourly_data_picks_the_week() -> None:
    size = 24 * 28
    assert _lags([_weekly(size) + _noise(0, size)], 24, 168) == (24, 168)
    assert _lags([100 * _weekly(size) + _noise(1, size), 1e-3 * _weekly(size + 50)], 24, 200) == (24, 168)


def test_a_pattern_of_three_seasons_picks_three() -> None:
    t = np.arange(400)
    y = np.array([0.0, 5.0, 1.0])[t // 4 % 3] + np.array([0, 1, 2, 3])[t % 4] + _noise(2, 400)
    assert _lags([y], 4, 20) == (4, 12)


def test_only_training_rows_choose() -> None:
    size = 24 * 40
    y = _weekly(size) + _noise(3, size)
    # From the middle on, every day repeats the day two before.
    t = np.arange(size // 2)
    after = y.copy()
    after[size // 2 :] = 50 * np.array([1.0, -1.0])[t // 24 % 2]
    assert _lags([after], 24, 168, keep=0.5) == (24, 168)
    assert _lags([after], 24, 168)[1] == 48


@pytest.mark.parametrize(
    ("season", "window", "lags"),
    [
        (1, 50, ()),
        (24, 1, (24,)),
        (24, 23, (24,)),
        (24, 24, (24,)),
        (24, 47, (24,)),
        (24, 48, (24, 48)),
        (500, 9, (500,)),
    ],
)
def test_multiples_of_the_season_lie_within_the_window(season: int, window: int, lags: tuple[int, ...]) -> None:
    assert _lags([_weekly(300)], season, window) == lags


def test_series_that_say_nothing_leave_the_second_season() -> None:
    assert _lags([np.full(100, 4.0)], 5, 20) == (5, 10)
    assert _lags([np.arange(20.0)], 5, 20) == (5, 10)


def test_gaps_do_not_matter_to_the_choice() -> None:
    size = 24 * 28
    y = _weekly(size) + _noise(4, size)
    y[np.random.default_rng(0).random(size) < 0.1] = NAN
    y[0] = 0.0
    assert _lags([y], 24, 168) == (24, 168)


def test_of_many_series_some_choose_from_first_to_last(monkeypatch) -> None:
    monkeypatch.setattr("gatewise.tasks.forecast.resolve.MOST_SERIES_FOR_LAGS", 3)
    size = 24 * 21
    y = [np.full(size, 1.0)] * 6 + [_weekly(size)]
    assert _lags(y, 24, 168) == (24, 168)


# ---- short series


def test_series_that_are_too_short_are_refused_with_names_and_number() -> None:
    panel = bare_panel([[1.0] * n for n in (9, 3, 10, 5)])
    with pytest.raises(InputError) as caught:
        drop_short(panel, 10, "error", "10 rows needed, a window of 6 and a horizon of 4", "Use less of both.")
    text = str(caught.value)
    assert text == (
        "3 of 4 series are too short for the 10 rows needed, a window of 6 and a horizon of 4: s0, s1, s3 "
        "(the shortest has 3). Use less of both."
    )
    many = bare_panel([[1.0]] * 9)
    with pytest.raises(InputError, match=r"9 of 9 series .*: s0, s1, s2, s3, s4, … \(the shortest has 1\)"):
        drop_short(many, 2, "error", "2 rows", "")
    with pytest.raises(InputError, match=r"5 of 5 series .*: s0, s1, s2, s3, s4 \(the shortest has 1\)"):
        drop_short(bare_panel([[1.0]] * 5), 2, "error", "2 rows", "")


def test_series_that_are_too_short_are_left_out() -> None:
    panel = bare_panel([[float(n)] * n for n in (9, 3, 10, 12)], ahead=2)
    kept, notes = drop_short(panel, 10, "drop", "10 rows of a window", "Use less.")
    assert kept.ids.to_list() == ["s2", "s3"]
    assert kept.lengths().tolist() == [10, 12]
    assert kept.y[0] == 10.0
    assert notes == ("left out 2 of 4 series, shorter than the 10 rows of a window: s0, s1",)
    message = r"4 of 4 series are too short for the 13 rows: s0.* \(the shortest has 3\)\. None is left\. Use less\.$"
    with pytest.raises(InputError, match=message):
        drop_short(panel, 13, "drop", "13 rows", "Use less.")
    many = bare_panel([[1.0]] * 1500 + [[1.0] * 2])
    assert drop_short(many, 2, "drop", "2 rows", "")[1] == (
        "left out 1,500 of 1,501 series, shorter than the 2 rows: s0, s1, s2, s3, s4, …",
    )


@pytest.mark.parametrize("policy", ["error", "drop", "pad"])
def test_nothing_happens_where_none_is_short_or_all_may_be(policy: str) -> None:
    panel = bare_panel([[1.0] * n for n in (9, 3)])
    least = 99 if policy == "pad" else 3
    kept, notes = drop_short(panel, least, policy, "", "")
    assert kept is panel
    assert notes == ()


def test_settings_are_not_changed() -> None:
    settings = Settings(1)
    before = replace(settings)
    resolve_columns(_frame("unique_id", "ds", "y"), settings)
    assert settings == before


def test_the_plan_is_what_the_settings_say() -> None:
    said: dict[str, Any] = {
        "epochs": 3, "learning_rate": 0.1, "optimizer": "sgd", "weight_decay": 0.2, "momentum": 0.3,
        "schedule": "plateau", "clip_norm": 2.0, "clip_value": 0.5, "patience": 7, "accumulate": 2,
        "autocast": "bfloat16", "average": 0.9,
    }  # fmt: skip
    plan = asdict(plan_of(Settings(horizon=1, **said), 11))
    assert plan == {**said, "steps": 100, "warm_up": 0.1, "save_every": 11}
    assert not [name for name, value in said.items() if value == getattr(Settings(horizon=1), name)]

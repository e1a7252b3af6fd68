"""Every figure against numbers worked out by hand, and against plain loops over random forecasts with gaps."""

import math

import numpy as np
import pytest
from forecast_panels import NAN

from gatewise.tasks.forecast.metrics import Scores, seasonal_scale

LEVELS = (0.1, 0.5, 0.9)


def _scores(q, truth, series=None, scale=None, levels=LEVELS, *, at_once=100) -> Scores:
    q, truth = np.array(q, float), np.array(truth, float)
    series = np.zeros(len(truth), int) if series is None else np.array(series)
    scale = np.ones(1) if scale is None else np.array(scale, float)
    scores = Scores(scale, levels, truth.shape[1], point=q.shape[2] == 1)
    for at in range(0, len(truth), at_once):
        some = slice(at, at + at_once)
        scores.add(q[some], truth[some], series[some])
    return scores


def _score(*args, **kwargs) -> dict:
    return _scores(*args, **kwargs).result()


def _seasonal_scale(y, starts, stops, season) -> np.ndarray:
    return seasonal_scale(lambda series, rows: y[rows], starts, stops, season)


def test_one_window_by_hand() -> None:
    result = _score([[[0, 1, 4], [1, 6, 7]]], [[2, 3]], scale=[4])
    overall = result["overall"]
    assert overall["MAE"] == 2  # |1 − 2| and |6 − 3|
    assert overall["RMSE"] == pytest.approx(math.sqrt(5))
    assert overall["sMAPE"] == pytest.approx(200 * (1 / 3 + 3 / 9) / 2)
    assert overall["MASE"] == 0.5
    # Pinball: level .1: .1·2 + .1·2 = .4; .5: .5·1 + .5·3 = 2; .9: .1·2 + .1·4 = .6; twice each over Σ|y| = 5.
    assert overall["mean weighted quantile loss"] == pytest.approx((0.8 / 5 + 4 / 5 + 1.2 / 5) / 3)
    assert overall["coverage"] == {"0.1-0.9": 1.0}
    by_step = result["by_step"]
    assert by_step["MAE"] == by_step["RMSE"] == [1, 3]
    assert by_step["sMAPE"] == pytest.approx([200 / 3, 200 / 3])
    assert by_step["MASE"] == [0.25, 0.75]


def _by_hand(q, truth, series, scale, levels) -> dict:
    """The definitions, one value at a time."""
    point = len(q[0][0]) == 1
    cells = [
        (q[n][h], truth[n][h], series[n], h)
        for n in range(len(truth))
        for h in range(len(truth[0]))
        if not math.isnan(truth[n][h])
    ]
    middle = 0 if point else levels.index(0.5)

    def mean(values):
        values = [v for v in values if not math.isnan(v)]
        return math.fsum(values) / len(values) if values else None

    def smape(c):
        size = abs(c[0][middle]) + abs(c[1])
        return 200 * abs(c[0][middle] - c[1]) / size if size else 0.0

    def error(c):
        return abs(c[0][middle] - c[1])

    def scaled(c):
        return error(c) / scale[c[2]]

    mase = [mean([scaled(c) for c in cells if c[2] == s]) for s in sorted(set(series))]
    losses = []
    for j, level in enumerate(levels):
        total = 0.0
        for forecast, y, _, _ in cells:
            value = forecast[0 if point else j]
            total += 2 * abs((y - value) * ((y <= value) - level))
        losses.append(total / math.fsum(abs(y) for _, y, _, _ in cells))
    coverage = {}
    for a, low in enumerate(levels):
        for b, high in enumerate(levels):
            if low < 0.5 < high and math.isclose(low + high, 1):
                coverage[f"{low:g}-{high:g}"] = mean(
                    [float(f[a] <= y <= f[b]) for f, y, _, _ in cells] if not point else []
                )
    steps = [[c for c in cells if c[3] == h] for h in range(len(truth[0]))]
    rmse = [mean([error(c) ** 2 for c in step]) for step in [cells, *steps]]
    rmse = [None if v is None else math.sqrt(v) for v in rmse]
    return {
        "overall": {
            "MAE": mean([error(c) for c in cells]),
            "RMSE": rmse[0],
            "sMAPE": mean([smape(c) for c in cells]),
            "MASE": mean([NAN if m is None else m for m in mase]),
            "mean weighted quantile loss": mean(losses),
            "coverage": None if point else coverage,
        },
        "by_step": {
            "MAE": [mean([error(c) for c in step]) for step in steps],
            "RMSE": rmse[1:],
            "sMAPE": [mean([smape(c) for c in step]) for step in steps],
            "MASE": [mean([scaled(c) for c in step]) for step in steps],
        },
    }


@pytest.mark.parametrize("levels", [(0.5,), (0.1, 0.5, 0.9), (0.05, 0.1, 0.5, 0.8, 0.9, 0.95)], ids=str)
@pytest.mark.parametrize("point", [True, False])
@pytest.mark.parametrize(("seed", "at_once"), [(0, 13), (1, 13), (2, 1), (3, 5)])
def test_random_forecasts_with_gaps(levels: tuple[float, ...], point: bool, seed: int, at_once: int) -> None:
    rng = np.random.default_rng(seed)
    n, h = 13, 7
    q = np.sort(rng.normal(size=(n, h, 1 if point else len(levels))), -1)
    truth = rng.normal(size=(n, h))
    truth[rng.random((n, h)) < 0.3] = NAN
    truth[:, 4] = NAN
    truth[2] = NAN
    series = rng.choice([0, 2, 3, 5], n)
    series[2] = 4
    scale = np.array([0.5, 9, 2, NAN, 3, 4])
    scores = _scores(q, truth, series, scale, levels, at_once=at_once)
    result = scores.result()
    expected = _by_hand(q.tolist(), truth.tolist(), series.tolist(), scale.tolist(), levels)
    if len(levels) == 1:
        expected["overall"]["coverage"] = None
    for name, value in expected["overall"].items():
        assert result["overall"][name] == (value if value is None else pytest.approx(value, rel=1e-12)), name
    assert list(result["by_step"]) == list(expected["by_step"])
    for name, values in expected["by_step"].items():
        assert result["by_step"][name][4] is None
        assert result["by_step"][name] == [v if v is None else pytest.approx(v, rel=1e-12) for v in values], name
    mase = scores.series_mase()
    assert np.isnan(mase[[1, 3, 4]]).all()
    assert result["overall"]["MASE"] == pytest.approx(np.nanmean(mase), rel=1e-12)


def test_mase_is_a_mean_over_series_whatever_their_windows() -> None:
    q = np.zeros((4, 1, 1))
    truth = [[1.0], [1.0], [1.0], [9.0]]
    scores = _scores(q, truth, series=[0, 0, 0, 1], scale=[1, 3])
    assert scores.result()["overall"]["MASE"] == 2.0  # (1 + 3) / 2, not (1 + 1 + 1 + 3) / 4
    np.testing.assert_array_equal(scores.series_mase(), [1, 3])


@pytest.mark.parametrize("point", [True, False])
def test_a_perfect_forecast_is_zero(point: bool) -> None:
    truth = np.array([[1.0, -2.0], [0.0, NAN]])
    q = np.repeat(np.nan_to_num(truth)[..., None], 1 if point else 3, -1)
    result = _score(q, truth, scale=[2])
    coverage = result["overall"].pop("coverage")
    assert coverage == (None if point else {"0.1-0.9": 1.0})
    assert set(result["overall"].values()) == {0.0}
    assert {v for values in result["by_step"].values() for v in values} == {0.0}


def test_smape_of_zeros_and_its_ends() -> None:
    assert _score([[[0.0]]], [[0.0]])["overall"]["sMAPE"] == 0
    assert _score([[[5.0]]], [[0.0]])["overall"]["sMAPE"] == 200
    assert _score([[[-1.0]]], [[3.0]])["overall"]["sMAPE"] == 200
    assert _score([[[3.0]]], [[1.0]])["overall"]["sMAPE"] == 100


def test_truths_of_zero_have_no_weighted_loss() -> None:
    overall = _score([[[1.0, 2.0, 3.0]]], [[0.0]])["overall"]
    assert overall["mean weighted quantile loss"] is None
    assert overall["MAE"] == 2


def test_constant_series_have_no_mase() -> None:
    result = _score([[[1.0]], [[2.0]]], [[2.0], [4.0]], series=[0, 1], scale=[NAN, 4])
    assert result["overall"]["MASE"] == 0.5
    result = _score([[[1.0]]], [[2.0]], scale=[NAN])
    assert result["overall"]["MASE"] is None
    assert result["by_step"]["MASE"] == [None]
    assert result["overall"]["MAE"] == 1


def test_coverage_counts_the_bounds_and_pairs_the_levels() -> None:
    levels = (0.1, 0.25, 0.5, 0.75, 0.8)
    q = np.array([[[0, 1, 2, 3, 4]] * 5], float)
    overall = _score(q, [[1, 3, 0.99, 3.01, NAN]], levels=levels)["overall"]
    assert overall["coverage"] == {"0.25-0.75": 0.5}
    assert _score(q[..., 1:3], [[1, 3, 0, 3, 1]], levels=(0.25, 0.5))["overall"]["coverage"] is None


def test_figures_are_plain_numbers() -> None:
    result = _score([[[0, 1, 4], [1, 6, 7]]], [[2, NAN]])
    for values in (result["overall"].values(), *result["by_step"].values()):
        for value in values:
            assert type(value) in {float, type(None)} or type(next(iter(value.values()))) is float


# ---- the scale of the MASE


@pytest.mark.parametrize("season", [1, 2, 5, 30])
def test_the_seasonal_scale_of_each_series(season: int) -> None:
    rng = np.random.default_rng(season)
    lengths = [9, 1, 20, 6]
    y = rng.normal(size=sum(lengths))
    y[rng.random(len(y)) < 0.2] = NAN
    starts = np.cumsum([0, *lengths[:-1]])
    stops = starts + np.array([7, 1, 20, 0])
    scale = _seasonal_scale(y, starts, stops, season)
    assert scale.shape == (4,)
    for i in range(4):
        part = y[starts[i] : stops[i]]
        steps = [abs(b - a) for a, b in zip(part, part[season:], strict=False) if not math.isnan(b - a)]
        if steps:
            assert scale[i] == pytest.approx(math.fsum(steps) / len(steps), rel=1e-12)
        else:
            assert math.isnan(scale[i])
    if season < 5:
        assert not np.isnan(scale[[0, 2]]).any()


def test_constant_and_seasonal_series_have_no_scale() -> None:
    y = np.array([4.0] * 6 + [1.0, 2.0] * 3)
    starts, stops = np.array([0, 6]), np.array([6, 12])
    np.testing.assert_array_equal(_seasonal_scale(y, starts, stops, 1), [NAN, 1])
    np.testing.assert_array_equal(_seasonal_scale(y, starts, stops, 2), [NAN, NAN])


def test_a_series_of_billions_does_not_blur_one_of_thousandths() -> None:
    rng = np.random.default_rng(0)
    small = rng.normal(size=50) * 1e-3
    y = np.concatenate([rng.normal(size=500) * 1e12, small])
    scale = _seasonal_scale(y, np.array([0, 500]), np.array([500, 550]), 1)
    assert scale[1] == pytest.approx(np.abs(np.diff(small)).mean(), rel=1e-12)

"""Windows as the network sees them, against plain code that makes one number at a time; and nothing of the future."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from forecast_panels import NAN, bare_panel, ready, rich_panel
from hypothesis import given, settings
from hypothesis import strategies as st

from gatewise.data import Panel
from gatewise.data.windows import Origins
from gatewise.tasks.forecast.encoding import Category, Encoding, Numeric
from gatewise.tasks.forecast.inputs import Batch, Inputs, Shape, channels

PLAIN = Encoding((), (), (), ())


def _series(panel: Panel, i: int) -> slice:
    return slice(int(panel.offsets[i]), int(panel.offsets[i + 1]))


class _ByHand:
    """One window, one number at a time, from lists."""

    def __init__(self, panel: Panel, encoding: Encoding, shape: Shape, series: int, row: int):
        rows = _series(panel, series)
        self.y = panel.y[rows].tolist()
        self.past, self.future = panel.past[rows].tolist(), panel.future[rows].tolist()
        self.times = panel.time[rows].to_list()
        self.panel, self.encoding, self.shape, self.series = panel, encoding, shape, series
        self.origin = row - rows.start
        seen = [v for v in (self.target(t) for t in range(self.origin - shape.window, self.origin)) if v is not None]
        if seen:
            self.level = math.fsum(seen) / len(seen)
            self.scale = math.sqrt(math.fsum((v - self.level) ** 2 for v in seen) / len(seen))
        else:
            last = self.filled(self.origin - 1)
            assert last is not None
            self.level, self.scale = last, 0.0
        self.scale = max(self.scale, 0.001 * abs(self.level)) or 1.0

    def target(self, t: int) -> float | None:
        return self.y[t] if 0 <= t < len(self.y) and not math.isnan(self.y[t]) else None

    def filled(self, t: int) -> float | None:
        while t >= 0:
            if self.target(t) is not None:
                return self.target(t)
            t -= 1
        return None

    def scaled(self, value: float | None) -> float:
        return 0.0 if value is None else (value - self.level) / self.scale

    def lagged(self, t: int, lag: int) -> float | None:
        if t < self.origin:
            return self.filled(t - lag)
        source = t
        while source >= self.origin:
            source -= lag
        return self.filled(source)

    def x(self) -> list[list[float]]:
        w, h = self.shape.window, self.shape.horizon
        return [self._step(t, t - self.origin) for t in range(self.origin - w, self.origin + h)]

    def _step(self, t: int, ahead: int) -> list[float]:
        inside = 0 <= t < len(self.y)
        shown = self.target(t) if ahead < 0 else None
        out = [self.scaled(shown), float(shown is not None), (ahead + 1) / self.shape.horizon if ahead >= 0 else 0.0]
        out += [self.scaled(self.lagged(t, lag)) for lag in self.shape.lags]
        for k, c in enumerate(self.encoding.past):
            out.append((self.past[t][k] - c.mean) / c.std if inside and ahead < 0 else 0.0)
        for k, c in enumerate(self.encoding.future):
            out.append((self.future[t][k] - c.mean) / c.std if inside else 0.0)
        if self.encoding.calendar:
            assert self.encoding.calendar == (
                "hour_of_day_sin", "hour_of_day_cos", "day_of_week_sin", "day_of_week_cos",
            )  # fmt: skip
            for share in (self.times[t].hour / 24, self.times[t].weekday() / 7) if inside else (None, None):
                out += [0.0, 0.0] if share is None else [math.sin(math.tau * share), math.cos(math.tau * share)]
        for c in self.encoding.static:
            value = self.panel.static[c.name][self.series]
            if isinstance(c, Numeric):
                out.append((value - c.mean) / c.std)
            else:
                out += [float(value == name) for name in c.categories]
        return out

    def candidates(self) -> list[list[float]]:
        last = self.filled(self.origin - 1)
        rows = []
        for t in range(self.origin, self.origin + self.shape.horizon):
            lagged = [self.lagged(t, lag) for lag in self.shape.lags]
            rows.append([self.scaled(v) for v in [last, *(last if v is None else v for v in lagged)]])
        return rows

    def truth(self) -> list[float]:
        targets = [self.target(t) for t in range(self.origin, self.origin + self.shape.horizon)]
        return [NAN if v is None else v for v in targets]


def _origins(panel: Panel) -> Origins:
    """Every window of every series, from its second row to the one after its history."""
    pairs = [(i, row) for i in range(len(panel.ids)) for row in range(panel.offsets[i] + 1, panel.ends[i] + 1)]
    return Origins(*(np.array(column, np.int64) for column in zip(*pairs, strict=True)))


def _check(panel: Panel, encoding: Encoding, shape: Shape, origins: Origins) -> None:
    inputs = Inputs(panel, encoding, shape)
    batch, raw = inputs.gather(origins), inputs.truth(origins)
    assert inputs.channels == channels(shape, encoding)
    assert batch.x.shape == (len(origins), shape.window + shape.horizon, len(inputs.channels))
    assert batch.candidates.shape == (len(origins), shape.horizon, shape.candidates)
    assert {batch.x.dtype, batch.candidates.dtype, batch.truth.dtype} == {torch.float32}
    repeated = [inputs.repeat(origins, lag) for lag in (1, *shape.lags)]
    for k, (i, row) in enumerate(zip(origins.series.tolist(), origins.row.tolist(), strict=True)):
        hand = _ByHand(panel, encoding, shape, i, row)
        np.testing.assert_allclose(batch.level[k], [hand.level], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(batch.scale[k], [hand.scale], rtol=1e-9)
        np.testing.assert_allclose(batch.x[k], hand.x(), rtol=2e-6, atol=2e-6)
        np.testing.assert_allclose(batch.candidates[k], hand.candidates(), rtol=2e-6, atol=2e-6)
        np.testing.assert_allclose(
            batch.truth[k], [(v - hand.level) / hand.scale for v in hand.truth()], rtol=2e-6, atol=2e-6
        )
        np.testing.assert_array_equal(raw[k], hand.truth())
        by_hand = np.array(hand.candidates()) * hand.scale + hand.level
        np.testing.assert_allclose(np.stack(repeated, -1)[k], by_hand, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "shape",
    [
        Shape(5, 3, (2,)),
        Shape(7, 11, (3, 6)),
        Shape(1, 1, ()),
        Shape(13, 2, (5, 40)),
        Shape(3, 7, (1,)),
        Shape(60, 5, (4, 8)),
    ],
    ids=str,
)
def test_windows_are_what_plain_code_makes(shape: Shape) -> None:
    panel = ready(rich_panel((23, 9, 31), ahead=shape.horizon, seed=shape.window), shape)
    encoding = Encoding.fit(panel, panel.ends - 2)
    assert [type(c) for c in encoding.static] == [Numeric, Category]
    _check(panel, encoding, shape, _origins(panel))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.lists(st.lists(st.none() | st.integers(-5, 5), min_size=1, max_size=14), min_size=1, max_size=3),
    st.integers(1, 9),
    st.integers(1, 6),
    st.lists(st.integers(1, 12), max_size=2, unique=True),
)
def test_any_series_with_any_gaps(series, window: int, horizon: int, lags: list[int]) -> None:
    # A series begins and ends with a value.
    y = [[1.5, *(NAN if v is None else float(v) for v in values), 2.5] for values in series]
    shape, panel = Shape(window, horizon, tuple(lags)), bare_panel(y, horizon)
    _check(panel, PLAIN, shape, _origins(panel))


def test_a_window_seen_once_and_for_all() -> None:
    panel = bare_panel([[1, 3, NAN, 5, 7]], ahead=3)
    batch = Inputs(panel, PLAIN, Shape(3, 2, (2,))).gather(Origins(np.array([0]), np.array([4])))
    # Window: -, 5 after 3 → mean 4, deviation 1; the truth is 7, then nothing.
    assert (batch.level.item(), batch.scale.item()) == (4, 1)
    expected = [[-1, 1, 0, 0], [0, 0, 0, -3], [1, 1, 0, -1], [0, 0, 0.5, -1], [0, 0, 1, 1]]
    np.testing.assert_array_equal(batch.x[0], expected)
    np.testing.assert_array_equal(batch.candidates[0], [[1, -1], [1, 1]])
    np.testing.assert_array_equal(batch.truth[0], [3, NAN])
    np.testing.assert_array_equal(batch.unscale(batch.truth[..., None]), [[[7.0], [NAN]]])


def _same(a: Batch, b: Batch) -> None:
    for name in ("x", "candidates"):
        assert getattr(a, name).numpy().tobytes() == getattr(b, name).numpy().tobytes(), name
    assert a.level.tobytes() == b.level.tobytes()
    assert a.scale.tobytes() == b.scale.tobytes()


@pytest.mark.parametrize("poison", [NAN, 1e6, -7.0])
@pytest.mark.parametrize("series", [0, 1, 2])
def test_nothing_at_or_after_the_origin_is_seen(poison: float, series: int) -> None:
    shape = Shape(6, 5, (3, 6))
    panel = ready(rich_panel((17, 12, 20), ahead=5, seed=3), shape)
    encoding = Encoding.fit(panel, panel.ends - 8)
    rows = _series(panel, series)
    origin = rows.start + 9
    origins = Origins(np.array([series]), np.array([origin]))
    clean = Inputs(panel, encoding, shape).gather(origins)
    others = np.ones(len(panel.y), bool)
    others[rows.start : origin] = False
    # One value at a time, then all of them: later values, and every value of the other series.
    for hidden in [*np.flatnonzero(others), np.flatnonzero(others)]:
        y, past = panel.y.copy(), panel.past.copy()
        y[hidden], past[hidden] = poison, poison
        _same(clean, Inputs(replace(panel, y=y, past=past), encoding, shape).gather(origins))
    far = np.ones(len(panel.y), bool)
    far[origin - shape.window : origin + shape.horizon] = False
    future = panel.future.copy()
    future[far] = poison
    _same(clean, Inputs(replace(panel, future=future), encoding, shape).gather(origins))


def test_every_value_that_should_be_seen_is_seen() -> None:
    shape = Shape(4, 3, (2, 6))
    panel = ready(rich_panel((17,), ahead=3, gaps=False), shape)
    encoding, origin = Encoding.fit(panel, panel.ends), 12
    origins = Origins(np.array([0]), np.array([origin]))
    clean = Inputs(panel, encoding, shape).gather(origins)

    def changed(name: str, row: int) -> bool:
        values = getattr(panel, name).copy()
        values[row] += 1
        batch = Inputs(replace(panel, **{name: values}), encoding, shape).gather(origins)
        return batch.x.numpy().tobytes() != clean.x.numpy().tobytes()

    seen = {name: [row for row in range(17) if changed(name, row)] for name in ("y", "past", "future")}
    # The window, and what lies 2 and 6 steps before the window and the horizon.
    assert seen == {"y": [2, 3, 4, 5, 6, 7, 8, 9, 10, 11], "past": [8, 9, 10, 11], "future": list(range(8, 15))}


def test_the_truth_is_the_future() -> None:
    panel = bare_panel([[1.0, 2.0, 4.0, 8.0], [5.0, 5.0]], ahead=2)
    inputs = Inputs(panel, PLAIN, Shape(2, 2, ()))
    origins = Origins(np.array([0, 0, 1, 1]), np.array([2, 4, 7, 8]))
    np.testing.assert_array_equal(inputs.truth(origins), [[4, 8], [NAN, NAN], [5, NAN], [NAN, NAN]])
    truth = inputs.gather(origins).truth
    np.testing.assert_array_equal(truth.isnan(), np.isnan(inputs.truth(origins)))


@pytest.mark.parametrize("value", [0.0, 3.0, -1e9, 1e-9, 1e30])
def test_flat_windows_are_finite(value: float) -> None:
    panel = bare_panel([[value] * 9], ahead=2)
    batch = Inputs(panel, PLAIN, Shape(5, 2, (2,))).gather(Origins(np.array([0, 0]), np.array([9, 1])))
    assert (batch.scale > 0).all()
    assert torch.isfinite(batch.x).all()
    assert (batch.x[..., 0] == 0).all()
    assert (batch.candidates == 0).all()
    np.testing.assert_array_equal(batch.unscale(batch.candidates), np.full((2, 2, 2), value))
    np.testing.assert_allclose(batch.scale, 1e-3 * abs(value) or 1.0)


def test_a_huge_level_keeps_its_small_change() -> None:
    small = np.random.default_rng(0).normal(size=40)
    panel = bare_panel([(1e9 + small).tolist()], ahead=3)
    batch = Inputs(panel, PLAIN, Shape(20, 3, (4,))).gather(Origins(np.array([0]), np.array([40])))
    back = batch.unscale(batch.x[:, :20, :1])[0, :, 0]
    # float32 alone would round to multiples of 64.
    np.testing.assert_allclose(back - 1e9, small[20:], atol=1e-6)


def test_huge_and_tiny_values_stay_finite() -> None:
    for unit in (1e30, 1e-30):
        panel = bare_panel([(np.random.default_rng(0).normal(size=30) * unit).tolist()], ahead=3)
        batch = Inputs(panel, PLAIN, Shape(9, 3, (4,))).gather(Origins(np.array([0]), np.array([30])))
        assert torch.isfinite(batch.x).all()
        one = bare_panel([np.random.default_rng(0).normal(size=30).tolist()], ahead=3)
        same = Inputs(one, PLAIN, Shape(9, 3, (4,))).gather(Origins(np.array([0]), np.array([30])))
        torch.testing.assert_close(batch.x, same.x, rtol=1e-6, atol=1e-6)


def test_a_window_without_any_value_takes_the_last_one() -> None:
    panel = bare_panel([[4.0, NAN, NAN, NAN, 8.0]], ahead=1)
    batch = Inputs(panel, PLAIN, Shape(2, 1, ())).gather(Origins(np.array([0]), np.array([4])))
    assert (batch.level.item(), batch.scale.item()) == (4.0, 4e-3)
    assert (batch.x[0, :, :2] == 0).all()
    assert batch.candidates.item() == 0
    torch.testing.assert_close(batch.truth, torch.tensor([[1000.0]]))


def test_a_window_does_not_depend_on_its_neighbours_in_the_batch() -> None:
    shape = Shape(6, 5, (3, 6))
    panel = ready(rich_panel((17, 12, 20), ahead=5, seed=3), shape)
    inputs, origins = Inputs(panel, Encoding.fit(panel, panel.ends), shape), _origins(panel)
    whole = inputs.gather(origins)
    for k in range(0, len(origins), 3):
        alone = inputs.gather(origins.take(slice(k, k + 1)))
        one = slice(k, k + 1)
        rest = Batch(whole.x[one], whole.candidates[one], whole.truth[one], whole.level[one], whole.scale[one])
        _same(alone, rest)
        assert alone.truth.numpy().tobytes() == rest.truth.numpy().tobytes()


def test_blank_covariates_of_the_horizon_are_found() -> None:
    shape = Shape(3, 4, ())
    panel = ready(rich_panel((9, 9), ahead=3), shape)
    inputs = Inputs(panel, Encoding.fit(panel, panel.ends), shape)
    ends = panel.ends.tolist()
    origins = Origins(np.array([0, 0, 1, 1]), np.array([ends[0] - 1, ends[0], ends[1], ends[1] - 1]))
    assert inputs.blank_covariates(origins).tolist() == [False, True, True, False]
    assert not Inputs(panel, PLAIN, shape).blank_covariates(origins).any()

"""Windows as the network sees them, against plain code that makes one number at a time; and nothing of the future."""

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from forecast_panels import NAN, RICH, bare_panel, ready, rich_frame, rich_panel
from hypothesis import given, settings
from hypothesis import strategies as st

from gatewise.data import Columns, Panel, build_panel
from gatewise.runtime.encoding import Category, Encoding, Numeric
from gatewise.runtime.windows import Batch, Origins, Shape, channels
from gatewise.tasks.forecast.encoding import fit_encoding
from gatewise.tasks.forecast.inputs import windows_of
from gatewise.tasks.forecast.training import FAR, pinball

PLAIN = Encoding((), (), (), ())


def _series(panel: Panel, i: int) -> slice:
    return slice(int(panel.offsets[i]), int(panel.offsets[i + 1]))


class _ByHand:
    """One window, one number at a time, from lists."""

    def __init__(self, panel: Panel, encoding: Encoding, shape: Shape, series: int, row: int):
        rows = _series(panel, series)
        self.y, self.missing = panel.y[rows].tolist(), panel.missing[rows].tolist()
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
        so_far = [v for v in map(self.target, range(self.origin)) if v is not None]
        moved = max(so_far) - min(so_far)
        self.scale = max(self.scale, 1e-12 + max(moved / 10_000, abs(self.level) / 1_000_000_000))

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

    def read(self, value: float | None) -> float:
        scaled = self.scaled(value)
        if scaled > 100:
            return 100.0
        return -100.0 if scaled < -100 else scaled

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
        out = [self.read(shown), float(shown is not None), (ahead + 1) / self.shape.horizon if ahead >= 0 else 0.0]
        out += [self.read(self.lagged(t, lag)) for lag in self.shape.lags]
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

    def repeated(self) -> list[list[float]]:
        last = self.filled(self.origin - 1)
        assert last is not None
        rows = []
        for t in range(self.origin, self.origin + self.shape.horizon):
            lagged = [self.lagged(t, lag) for lag in self.shape.lags]
            rows.append([last, *(last if v is None else v for v in lagged)])
        return rows

    def candidates(self) -> list[list[float]]:
        return [[self.scaled(v) for v in row] for row in self.repeated()]

    def truth(self) -> list[float]:
        steps = range(self.origin, self.origin + self.shape.horizon)
        targets = [None if t < len(self.y) and self.missing[t] else self.target(t) for t in steps]
        return [NAN if v is None else v for v in targets]


def _origins(panel: Panel) -> Origins:
    """Every window of every series, from its second row to the one after its history."""
    pairs = [(i, row) for i in range(len(panel.ids)) for row in range(panel.offsets[i] + 1, panel.ends[i] + 1)]
    return Origins(*(np.array(column, np.int64) for column in zip(*pairs, strict=True)))


def _check(panel: Panel, encoding: Encoding, shape: Shape, origins: Origins) -> None:
    inputs = windows_of(panel, encoding, shape)
    batch, raw = inputs.gather(origins), inputs.truth(origins)
    assert inputs.channels == channels(shape, encoding)
    assert batch.x.shape == (len(origins), shape.window + shape.horizon, len(inputs.channels))
    assert batch.candidates.shape == (len(origins), shape.horizon, shape.candidates)
    assert {batch.x.dtype, batch.candidates.dtype, batch.truth.dtype} == {np.dtype(np.float32)}
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
        np.testing.assert_array_equal(np.stack(repeated, -1)[k], hand.repeated())


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
    encoding = fit_encoding(panel, panel.ends - 2)
    assert [type(c) for c in encoding.static] == [Numeric, Category]
    _check(panel, encoding, shape, _origins(panel))
    # Filled, the same cells are read, and the truth is still without them.
    filled = build_panel(rich_frame((23, 9, 31), ahead=shape.horizon, seed=shape.window), RICH, missing="ffill")
    filled = ready(filled, shape)
    assert (filled.missing & ~np.isnan(filled.y)).sum() > 5
    _check(filled, encoding, shape, _origins(filled))


# Blank, or a value and whether it was filled in; mostly small, some so large that all else is flat beside them.
CELLS = st.none() | st.tuples(st.integers(-5, 5) | st.sampled_from([0, 3 * 10**6, -(10**8)]), st.booleans())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.lists(CELLS, min_size=1, max_size=14), min_size=1, max_size=3),
    st.integers(1, 9),
    st.integers(1, 6),
    st.lists(st.integers(1, 12), max_size=2, unique=True),
)
def test_any_series_with_any_gaps(series, window: int, horizon: int, lags: list[int]) -> None:
    # A series begins and ends with a value.
    y = [[1.5, *(NAN if cell is None else float(cell[0]) for cell in cells), 2.5] for cells in series]
    missing = [[False, *(cell is None or cell[1] for cell in cells), *[False] * (1 + horizon)] for cells in series]
    shape, panel = Shape(window, horizon, tuple(lags)), bare_panel(y, horizon)
    panel = replace(panel, missing=np.concatenate(missing))
    _check(panel, PLAIN, shape, _origins(panel))


def test_a_window_seen_once_and_for_all() -> None:
    panel = bare_panel([[1, 3, NAN, 5, 7]], ahead=3)
    batch = windows_of(panel, PLAIN, Shape(3, 2, (2,))).gather(Origins(np.array([0]), np.array([4])))
    # Window: -, 5 after 3 → mean 4, deviation 1; the truth is 7, then nothing.
    assert (batch.level.item(), batch.scale.item()) == (4, 1)
    expected = [[-1, 1, 0, 0], [0, 0, 0, -3], [1, 1, 0, -1], [0, 0, 0.5, -1], [0, 0, 1, 1]]
    np.testing.assert_array_equal(batch.x[0], expected)
    np.testing.assert_array_equal(batch.candidates[0], [[1, -1], [1, 1]])
    np.testing.assert_array_equal(batch.truth[0], [3, NAN])
    np.testing.assert_array_equal(batch.unscale(batch.truth[..., None]), [[[7.0], [NAN]]])


def _same(a: Batch, b: Batch) -> None:
    for name in ("x", "candidates"):
        assert getattr(a, name).tobytes() == getattr(b, name).tobytes(), name
    assert a.level.tobytes() == b.level.tobytes()
    assert a.scale.tobytes() == b.scale.tobytes()


@pytest.mark.parametrize("dead", [False, True], ids=["moving", "dead"])
@pytest.mark.parametrize("poison", [NAN, 1e6, -7.0])
@pytest.mark.parametrize("series", [0, 1, 2])
def test_nothing_at_or_after_the_origin_is_seen(poison: float, series: int, dead: bool) -> None:
    shape = Shape(6, 5, (3, 6))
    panel = ready(rich_panel((17, 12, 20), ahead=5, seed=3), shape)
    encoding = fit_encoding(panel, panel.ends - 8)
    rows = _series(panel, series)
    origin = rows.start + 9
    if dead:  # the scale is that of the range so far
        panel.y[rows.start + 3 : origin] = 0.0
    origins = Origins(np.array([series]), np.array([origin]))
    clean = windows_of(panel, encoding, shape).gather(origins)
    if dead:
        moved = np.nanmax(panel.y[rows.start : origin]) - np.nanmin(panel.y[rows.start : origin])
        np.testing.assert_allclose(clean.scale, 1e-4 * moved, rtol=1e-6)
    others = np.ones(len(panel.y), bool)
    others[rows.start : origin] = False
    # One value at a time, then all of them: later values, and every value of the other series.
    for hidden in [*np.flatnonzero(others), np.flatnonzero(others)]:
        y, past = panel.y.copy(), panel.past.copy()
        y[hidden], past[hidden] = poison, poison
        missing = panel.missing.copy()
        missing[hidden] ^= True
        _same(clean, windows_of(replace(panel, y=y, past=past, missing=missing), encoding, shape).gather(origins))
    far = np.ones(len(panel.y), bool)
    far[origin - shape.window : origin + shape.horizon] = False
    future = panel.future.copy()
    future[far] = poison
    _same(clean, windows_of(replace(panel, future=future), encoding, shape).gather(origins))


def test_every_value_that_should_be_seen_is_seen() -> None:
    shape = Shape(4, 3, (2, 6))
    panel = ready(rich_panel((17,), ahead=3, gaps=False), shape)
    encoding, origin = fit_encoding(panel, panel.ends), 12
    origins = Origins(np.array([0]), np.array([origin]))
    clean = windows_of(panel, encoding, shape).gather(origins)

    def changed(name: str, row: int) -> bool:
        values = getattr(panel, name).copy()
        values[row] += 1
        batch = windows_of(replace(panel, **{name: values}), encoding, shape).gather(origins)
        return batch.x.tobytes() != clean.x.tobytes()

    seen = {name: [row for row in range(17) if changed(name, row)] for name in ("y", "past", "future")}
    # The window, and what lies 2 and 6 steps before the window and the horizon.
    assert seen == {"y": [2, 3, 4, 5, 6, 7, 8, 9, 10, 11], "past": [8, 9, 10, 11], "future": list(range(8, 15))}


def test_the_extremes_of_the_series_so_far_are_seen_where_the_window_is_flat() -> None:
    y = [3.0, 9.0, -1.0, 2.0, *[5.0] * 4, 40.0]
    origins = Origins(np.array([0]), np.array([8]))

    def scale(y: list[float]) -> float:
        # A neighbour before and one behind, whose ranges are their own.
        panel = bare_panel([y, [1e9, -1e9], [1e9, -1e9]], ahead=2)
        return windows_of(panel, PLAIN, Shape(4, 2, ())).gather(origins).scale.item()

    assert scale(y) == 1e-4 * 10 + 1e-12
    raised = [scale([v + (t == row) for t, v in enumerate(y)]) for row in (0, 1, 2, 3, 8)]
    np.testing.assert_allclose(raised, np.array([10, 11, 9, 10, 10]) * 1e-4, rtol=1e-8)
    panel = bare_panel([[1e9, -1e9], y], ahead=2)
    batch = windows_of(panel, PLAIN, Shape(4, 2, ())).gather(Origins(np.array([1]), np.array([4 + 8])))
    assert batch.scale.item() == 1e-4 * 10 + 1e-12


def test_a_dead_stretch_gives_inputs_that_are_finite_and_bounded() -> None:
    rng = np.random.default_rng(0)
    moving = 50 + 10 * np.sin(np.arange(90) / 3) + rng.normal(size=90)
    y = np.concatenate([moving[:30], np.zeros(20), moving[30:]])
    panel = bare_panel([y.tolist()], ahead=6)
    shape, origins = Shape(8, 6, (12, 24)), _origins(panel)
    batch = windows_of(panel, PLAIN, shape).gather(origins)
    for values in (batch.x, batch.candidates, batch.truth[~np.isnan(batch.truth)]):
        assert np.isfinite(values).all()
    # Of the inputs, the lags alone reach beyond, and are cut.
    assert abs(batch.x).max() == 100
    assert abs(batch.x[:, :, 0]).max() < 8
    # A window in the middle of the stretch, and the one at its end, whose truth is the series again.
    for row in (40, 50):
        k = row - 1
        top = y[:row].max()
        np.testing.assert_allclose(batch.scale[k], 1e-4 * top, rtol=1e-8)
        assert batch.level[k] == 0
        assert (batch.x[k, :, 0] == 0).all()
        assert batch.x[k, :8, 1].all()
    assert (batch.truth[39] == 0).all()
    np.testing.assert_allclose(batch.truth[49], 1e4 * y[50:56] / y[:50].max(), rtol=1e-6)
    # Candidates tell the truth about the lags, however far they are.
    np.testing.assert_allclose(batch.candidates[49, :, 2], 1e4 * y[26:32] / y[:50].max(), rtol=1e-6)
    assert (batch.x[49, 8:12, 4] == 100).all()
    assert (batch.x[49, 12:, 4] == 0).all()
    # Upside down, the cut is at the other end.
    down = windows_of(bare_panel([(-y).tolist()], ahead=6), PLAIN, shape).gather(origins)
    np.testing.assert_array_equal(down.x[..., [0, 3, 4]], -batch.x[..., [0, 3, 4]])


def test_one_value_far_from_all_others_of_its_window_is_not_cut_where_a_deviation_tells_it() -> None:
    # In n values one can lie √(n − 1) deviations away: 100 are reached by 10,001.
    for size, beyond in ((9_000, False), (12_000, True)):
        y = np.zeros(size)
        y[-1] = 1.0
        batch = windows_of(bare_panel([y.tolist()], 1), PLAIN, Shape(size, 1, ())).gather(
            Origins(np.array([0]), np.array([size]))
        )
        cut = 100.0 if beyond else math.sqrt(size - 1)
        np.testing.assert_allclose(batch.x[0, size - 1, 0], cut, rtol=1e-6)
        np.testing.assert_allclose(batch.candidates.item(), math.sqrt(size - 1), rtol=1e-6)


def test_a_series_of_zeros() -> None:
    batch = windows_of(bare_panel([[0.0] * 12], ahead=3), PLAIN, Shape(5, 3, (2, 7))).gather(
        Origins(np.array([0, 0, 0]), np.array([1, 8, 12]))
    )
    assert (batch.level == 0).all()
    assert (batch.scale == 1e-12).all()
    assert (batch.x[:, :, [0, 3, 4]] == 0).all()
    assert np.isfinite(batch.x).all()
    assert (batch.candidates == 0).all()
    assert (batch.truth[~np.isnan(batch.truth)] == 0).all()
    assert np.isnan(batch.truth).sum(1).tolist() == [0, 0, 3]


def test_filled_cells_are_read_but_are_nobodys_truth() -> None:
    frame = pl.DataFrame({"y": [1.0, 3.0, None, 7.0, None, None, 2.0]})
    filled, masked = (ready(build_panel(frame, Columns(), missing=how), Shape(3, 4, ())) for how in ("ffill", "mask"))
    origins = Origins(np.array([0, 0]), np.array([3, 5]))
    a, b = (windows_of(panel, PLAIN, Shape(3, 4, (1,))) for panel in (filled, masked))
    expected = [[7, NAN, NAN, 2], [NAN, 2, NAN, NAN]]
    for inputs in (a, b):
        np.testing.assert_array_equal(inputs.truth(origins), expected)
        np.testing.assert_array_equal(np.isnan(inputs.gather(origins).truth), np.isnan(expected))
    # 1, 3, 3 and 3, 7, 7 are read where they were filled; else 1, 3, – and –, 7, –.
    read, left = a.gather(origins), b.gather(origins)
    np.testing.assert_allclose(read.level[:, 0], [7 / 3, 17 / 3])
    np.testing.assert_allclose(left.level[:, 0], [2, 7])
    np.testing.assert_array_equal(read.x[:, :3, 1], [[1, 1, 1], [1, 1, 1]])
    np.testing.assert_array_equal(left.x[:, :3, 1], [[1, 1, 0], [0, 1, 0]])
    np.testing.assert_allclose(read.unscale(read.x[:, :3, :1])[..., 0], [[1, 3, 3], [3, 7, 7]], rtol=1e-6)
    np.testing.assert_array_equal(a.repeat(origins, 1), [[3] * 4, [7] * 4])


def test_the_truth_is_the_future() -> None:
    panel = bare_panel([[1.0, 2.0, 4.0, 8.0], [5.0, 5.0]], ahead=2)
    inputs = windows_of(panel, PLAIN, Shape(2, 2, ()))
    origins = Origins(np.array([0, 0, 1, 1]), np.array([2, 4, 7, 8]))
    np.testing.assert_array_equal(inputs.truth(origins), [[4, 8], [NAN, NAN], [5, NAN], [NAN, NAN]])
    truth = inputs.gather(origins).truth
    np.testing.assert_array_equal(np.isnan(truth), np.isnan(inputs.truth(origins)))


@pytest.mark.parametrize("value", [0.0, 3.0, -1e9, 1e-9, 1e30])
def test_flat_windows_are_finite(value: float) -> None:
    panel = bare_panel([[value] * 9], ahead=2)
    batch = windows_of(panel, PLAIN, Shape(5, 2, (2,))).gather(Origins(np.array([0, 0]), np.array([9, 1])))
    assert (batch.scale > 0).all()
    assert np.isfinite(batch.x).all()
    assert (batch.x[..., 0] == 0).all()
    assert (batch.candidates == 0).all()
    np.testing.assert_array_equal(batch.unscale(batch.candidates), np.full((2, 2, 2), value))
    np.testing.assert_allclose(batch.scale, abs(value) / 1e9 + 1e-12, rtol=1e-12)


def test_a_huge_level_keeps_its_small_change() -> None:
    small = np.random.default_rng(0).normal(size=40)
    panel = bare_panel([(1e9 + small).tolist()], ahead=3)
    batch = windows_of(panel, PLAIN, Shape(20, 3, (4,))).gather(Origins(np.array([0]), np.array([40])))
    back = batch.unscale(batch.x[:, :20, :1])[0, :, 0]
    # float32 alone would round to multiples of 64.
    np.testing.assert_allclose(back - 1e9, small[20:], atol=1e-6)


def test_the_scale_of_a_wave_on_a_high_level_is_the_wave() -> None:
    t = np.arange(200)
    wave = np.sin(t / 5)
    shape, origins = Shape(50, 10, (30,)), Origins(np.array([0]), np.array([150]))
    high, low = (
        windows_of(bare_panel([(level + wave).tolist()], 0), PLAIN, shape).gather(origins) for level in (1e8, 0.0)
    )
    np.testing.assert_allclose(high.scale, wave[100:150].std(), rtol=1e-7)
    np.testing.assert_allclose(high.level - 1e8, wave[100:150].mean(), atol=1e-7)
    for name in ("x", "candidates", "truth"):
        np.testing.assert_allclose(getattr(high, name), getattr(low, name), atol=3e-7)
    np.testing.assert_allclose(high.unscale(high.truth[..., None])[0, :, 0] - 1e8, wave[150:160], atol=3e-7)


def test_huge_and_tiny_values_stay_finite() -> None:
    for unit in (1e30, 1e-9):
        panel = bare_panel([(np.random.default_rng(0).normal(size=30) * unit).tolist()], ahead=3)
        batch = windows_of(panel, PLAIN, Shape(9, 3, (4,))).gather(Origins(np.array([0]), np.array([30])))
        assert np.isfinite(batch.x).all()
        one = bare_panel([np.random.default_rng(0).normal(size=30).tolist()], ahead=3)
        same = windows_of(one, PLAIN, Shape(9, 3, (4,))).gather(Origins(np.array([0]), np.array([30])))
        np.testing.assert_allclose(batch.x, same.x, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(batch.candidates, same.candidates, rtol=1e-6, atol=1e-6)


def test_a_window_without_any_value_takes_the_last_one() -> None:
    panel = bare_panel([[4.0, NAN, NAN, NAN, 8.0]], ahead=1)
    batch = windows_of(panel, PLAIN, Shape(2, 1, ())).gather(Origins(np.array([0]), np.array([4])))
    assert (batch.level.item(), batch.scale.item()) == (4.0, 4e-9 + 1e-12)
    assert (batch.x[0, :, :2] == 0).all()
    assert batch.candidates.item() == 0
    np.testing.assert_allclose(batch.truth, [[4 / 4.001e-9]], rtol=1e-6)


def test_a_window_does_not_depend_on_its_neighbours_in_the_batch() -> None:
    shape = Shape(6, 5, (3, 6))
    panel = ready(rich_panel((17, 12, 20), ahead=5, seed=3), shape)
    inputs, origins = windows_of(panel, fit_encoding(panel, panel.ends), shape), _origins(panel)
    whole = inputs.gather(origins)
    for k in range(0, len(origins), 3):
        alone = inputs.gather(origins.take(slice(k, k + 1)))
        one = slice(k, k + 1)
        rest = Batch(whole.x[one], whole.candidates[one], whole.truth[one], whole.level[one], whole.scale[one])
        _same(alone, rest)
        assert alone.truth.tobytes() == rest.truth.tobytes()


def test_windows_are_ready_where_all_covariates_of_the_horizon_are_known() -> None:
    shape = Shape(3, 4, ())
    panel = ready(rich_panel((9, 9), ahead=3), shape)
    inputs = windows_of(panel, fit_encoding(panel, panel.ends), shape)
    ends = panel.ends.tolist()
    origins = Origins(np.array([0, 0, 1, 1]), np.array([ends[0] - 1, ends[0], ends[1], ends[1] - 1]))
    assert inputs.ready(origins).tolist() == [True, False, False, True]
    assert windows_of(panel, PLAIN, shape).ready(origins).tolist() == [True] * 4
    nothing = origins.take(slice(0))
    for some in (inputs, windows_of(panel, PLAIN, shape)):
        assert some.ready(nothing).shape == (0,)
    # Of several covariates one blank cell is enough; blanks in the window do not matter.
    panel = ready(rich_panel((9, 9), ahead=4), shape)
    two = replace(panel, future=np.hstack([panel.future, panel.future]))
    encoding = fit_encoding(panel, panel.ends)
    encoding = replace(encoding, future=encoding.future * 2)
    origins = Origins(np.array([0, 0, 0, 1]), np.array([3, 4, 8, 16]))
    for row, expected in ((6, [False, False, True, True]), (7, [True, False, True, True]), (19, [True] * 3 + [False])):
        for column in (0, 1):
            future = two.future.copy()
            future[row, column] = NAN
            assert windows_of(replace(two, future=future), encoding, shape).ready(origins).tolist() == expected


# ---- the loss


def _pinball(quantiles: list, truth: list, levels: list[float]) -> float:
    total, count = 0.0, 0
    for window, targets in zip(quantiles, truth, strict=True):
        known = [v for v in targets if not math.isnan(v)]
        farthest = max(abs(v) for v in [*known, *(q for forecasts in window for q in forecasts)])
        weight = 1.0 if farthest <= 10 else 10 / farthest
        for forecasts, target in zip(window, targets, strict=True):
            if not math.isnan(target):
                losses = [
                    level * (target - q) if target > q else (1 - level) * (q - target)
                    for q, level in zip(forecasts, levels, strict=True)
                ]
                total += weight * math.fsum(losses) / len(losses)
                count += 1
    return total / max(count, 1)


def _mean(quantiles: torch.Tensor, truth: torch.Tensor, levels: torch.Tensor) -> float:
    total, count = pinball(quantiles, truth, levels)
    assert count == int((~truth.isnan()).sum())
    return total.item() / max(count, 1)


def test_a_window_whose_truth_is_far_out_counts_less() -> None:
    assert FAR == 10
    levels = torch.tensor([0.2, 0.5, 0.7])
    quantiles = torch.tensor([-1.0, 0.0, 2.0]).expand(1, 2, 3)

    def loss(*truth: float) -> float:
        return _mean(quantiles, torch.tensor([truth]), levels)

    # At 0: .2, 0 and .6; at ±10, not yet less; twice and ten times as far out.
    assert loss(0, 0) == pytest.approx(0.8 / 3)
    ten = (0.2 * 11 + 0.5 * 10 + 0.7 * 8) / 3
    minus = (0.8 * 9 + 0.5 * 10 + 0.3 * 12) / 3
    assert loss(10, 0) == pytest.approx((ten + 0.8 / 3) / 2)
    assert loss(0, -10) == pytest.approx((minus + 0.8 / 3) / 2)
    assert loss(20, 0) == pytest.approx(((0.2 * 21 + 0.5 * 20 + 0.7 * 18) / 3 + 0.8 / 3) / 2 / 2)
    assert loss(0, -100) == pytest.approx(((0.8 * 99 + 0.5 * 100 + 0.3 * 102) / 3 + 0.8 / 3) / 2 / 10)
    assert loss(1e6, NAN) == pytest.approx(10 * 1.4 / 3, rel=1e-4)
    assert loss(NAN, NAN) == 0
    # A forecast as far out weighs as little.
    far = _mean(torch.full((1, 2, 1), 100.0), torch.zeros(1, 2), torch.tensor([0.5]))
    assert far == pytest.approx(100 * 0.5 / 10)


def test_the_loss_is_what_plain_code_makes() -> None:
    rng = np.random.default_rng(1)
    levels = [0.1, 0.5, 0.6, 0.9]
    for size in (0.1, 4.0, 30.0, 1e5):
        truth = rng.normal(size=(7, 5)) * size * rng.choice([1.0, 10.0], (7, 1))
        truth[rng.random((7, 5)) < 0.3] = NAN
        truth[3] = NAN
        quantiles = rng.normal(size=(7, 5, 4)) * size
        tensors = (torch.tensor(values, dtype=torch.float64) for values in (quantiles, truth, levels))
        assert _mean(*tensors) == pytest.approx(_pinball(quantiles.tolist(), truth.tolist(), levels), rel=1e-12)


def test_the_gradient_of_an_unknown_truth_is_zero_and_of_a_far_one_small() -> None:
    quantiles = torch.zeros(3, 2, 1, requires_grad=True)
    truth = torch.tensor([[5.0, NAN], [-1000.0, 3.0], [NAN, NAN]])
    pinball(quantiles, truth, torch.tensor([0.3]))[0].backward()
    assert quantiles.grad is not None
    # Three values are known; the second window weighs 10 / 1000.
    expected = torch.tensor([[-0.3, 0.0], [0.007, -0.003], [0.0, 0.0]])
    torch.testing.assert_close(quantiles.grad[..., 0], expected)

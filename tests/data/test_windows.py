"""Windows: which rows they may start at, how they are drawn, and the rows added below a panel."""

from collections import Counter
from dataclasses import fields
from datetime import date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal, assert_series_equal
from tables import LONG, NAN, check_whole, long

from gatewise.data import Columns, Panel, build_panel
from gatewise.data.windows import OriginRanges, extend
from gatewise.runtime.rows import forward_filled
from gatewise.runtime.windows import Origins


@st.composite
def ranges(draw) -> OriginRanges:
    pairs = draw(st.lists(st.tuples(st.integers(0, 50), st.integers(-3, 12)), min_size=1, max_size=6))
    first = np.array([a for a, _ in pairs], np.int64)
    return OriginRanges(first, first + np.array([b for _, b in pairs]) - 1)


def _all(r: OriginRanges) -> list[tuple[int, int]]:
    return [(i, row) for i, (a, b) in enumerate(zip(r.first, r.last, strict=True)) for row in range(a, b + 1)]


def _pairs(origins: Origins) -> list[tuple[int, int]]:
    assert len(origins) == len(origins.series) == len(origins.row)
    return list(zip(origins.series.tolist(), origins.row.tolist(), strict=True))


@settings(deadline=None, derandomize=True)
@given(ranges())
def test_counts_are_the_numbers_of_windows(r: OriginRanges) -> None:
    assert r.counts().tolist() == [sum(i == series for series, _ in _all(r)) for i in range(len(r.first))]


@settings(deadline=None, derandomize=True)
@given(ranges(), st.integers(0, 40), st.integers(0, 2**40), st.integers(0, 99))
def test_a_draw_is_without_replacement_and_a_function_of_the_seed(r, size, seed, step) -> None:
    drawn = _pairs(r.numbered(r.draw(size, (seed, step))))
    assert len(drawn) == min(size, len(_all(r)))
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) <= set(_all(r))
    assert drawn == _pairs(r.numbered(r.draw(size, (seed, step))))


@settings(deadline=None, derandomize=True)
@given(ranges(), st.integers(1, 9))
def test_parts_are_all_windows_in_order(r: OriginRanges, size: int) -> None:
    parts = [_pairs(part) for part in r.parts(size)]
    assert [pair for part in parts for pair in part] == _all(r)
    assert all(len(part) == size for part in parts[:-1])
    assert all(0 < len(part) <= size for part in parts)


def test_other_seeds_draw_other_windows() -> None:
    r = OriginRanges(np.array([0, 100]), np.array([49, 149]))
    seeds = [(seed, epoch, step) for seed in (0, 1) for epoch in (1, 2) for step in (0, 1)]
    draws = {tuple(_pairs(r.numbered(r.draw(10, seed)))) for seed in seeds}
    assert len(draws) == 8


def test_every_window_is_drawn_as_often_as_any_other() -> None:
    r = OriginRanges(np.array([3, 10, 20]), np.array([4, 9, 25]))
    counts = Counter(pair for seed in range(2000) for pair in _pairs(r.numbered(r.draw(2, (seed,)))))
    assert set(counts) == set(_all(r))
    # 4,000 draws over 8 windows: 500 each, with a standard deviation of 19.4.
    assert all(abs(count - 500) < 100 for count in counts.values())


@settings(deadline=None, derandomize=True)
@given(ranges(), st.integers(1, 9))
def test_every_counts_back_from_the_last_window(r: OriginRanges, stride: int) -> None:
    expected = [(i, row) for i, row in _all(r) if (r.last[i] - row) % stride == 0]
    assert _pairs(r.every(stride)) == expected


@settings(deadline=None, derandomize=True)
@given(ranges(), st.integers(1, 9))
def test_onward_counts_from_the_first_window(r: OriginRanges, stride: int) -> None:
    expected = [(i, row) for i, row in _all(r) if (row - r.first[i]) % stride == 0]
    assert _pairs(r.onward(stride)) == expected


def test_some_of_the_windows() -> None:
    origins = Origins(np.array([0, 0, 1]), np.array([5, 6, 9]))
    assert _pairs(origins.take(slice(1, None))) == [(0, 6), (1, 9)]
    assert _pairs(origins.take(np.array([2, 0]))) == [(1, 9), (0, 5)]


# ---- forward fill


@settings(deadline=None, derandomize=True)
@given(st.lists(st.lists(st.none() | st.integers(0, 9), max_size=6), max_size=5))
def test_forward_fill_repeats_the_value_before_in_the_same_series(series: list[list[int | None]]) -> None:
    expected = []
    for values in series:
        last = NAN
        for value in values:
            last = last if value is None else value
            expected.append(last)
    flat = np.array([NAN if value is None else value for values in series for value in values], float)
    offsets = np.cumsum([0, *map(len, series)])
    before = flat.copy()
    np.testing.assert_array_equal(forward_filled(flat, offsets), np.array(expected, float))
    np.testing.assert_array_equal(flat, before)


# ---- extend


def _panel() -> Panel:
    days = [date(2020, 2, 26) + timedelta(k) for k in range(6)]
    df = long(
        ("b", days[:4], [1.0, 2.0, None, 3.0]),
        ("a", days, [4.0, 5.0, 6.0, None, None, None]),
        ("c", days[:5], [7.0, 8.0, 9.0, 1.0, None]),
        wind=[float(k) for k in range(15)],
        rain=[float(k) for k in range(100, 115)],
        size=[1] * 4 + [2] * 6 + [3] * 5,
    )
    columns = Columns("y", id="unique_id", time="ds", past=("wind",), future=("rain",), static=("size",))
    return build_panel(df, columns, missing="mask")


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 9])
def test_extend_adds_rows_and_keeps_everything_else(steps: int) -> None:
    panel = _panel()
    longer = extend(panel, steps)
    check_whole(longer)
    futures = [max(have, steps) for have in (0, 3, 1)]
    assert longer.lengths().tolist() == panel.lengths().tolist() == [4, 3, 4]
    assert (longer.offsets[1:] - longer.ends).tolist() == futures
    for i in range(3):
        old = slice(int(panel.offsets[i]), int(panel.offsets[i + 1]))
        size = old.stop - old.start
        kept = slice(int(longer.offsets[i]), int(longer.offsets[i]) + size)
        added = slice(kept.stop, int(longer.offsets[i + 1]))
        for name in ("y", "past", "future", "missing"):
            before, after = getattr(panel, name), getattr(longer, name)
            assert after.dtype == before.dtype
            np.testing.assert_array_equal(after[kept], before[old])
        assert_series_equal(longer.time[kept], panel.time[old])
        assert np.isnan(longer.y[added]).all()
        assert np.isnan(longer.past[added]).all()
        assert np.isnan(longer.future[added]).all()
        assert not longer.missing[added].any()
        last = panel.time[old.stop - 1]
        assert longer.time[added].to_list() == [last + timedelta(k + 1) for k in range(futures[i] - (0, 3, 1)[i])]
    assert_series_equal(longer.ids, panel.ids)
    assert_frame_equal(longer.static, panel.static)
    assert (longer.columns, longer.frequency) == (panel.columns, panel.frequency)


def test_extend_adds_nothing_where_nothing_is_needed() -> None:
    panel = extend(_panel(), 3)
    for steps in (0, 1, 3):
        again = extend(panel, steps)
        for field in fields(panel):
            assert getattr(again, field.name) is getattr(panel, field.name)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([date(2020, 1, 31), date(2020, 2, 29), date(2020, 3, 31)], [date(2020, 4, 30), date(2020, 5, 31)]),
        ([date(2020, 1, 2), date(2020, 1, 3), date(2020, 1, 6), date(2020, 1, 7)], None),
        ([7, 9, 11], [13, 15]),
        ([datetime(2020, 1, 1, 22), datetime(2020, 1, 1, 23)], [datetime(2020, 1, 2), datetime(2020, 1, 2, 1)]),
    ],
)
def test_the_times_added_follow_the_frequency(times: list, expected: list | None) -> None:
    panel = extend(build_panel(pl.DataFrame({"t": times, "y": [1.0] * len(times)}), Columns(time="t")), 2)
    check_whole(panel)
    assert panel.time[: len(times)].to_list() == times
    if expected is not None:
        assert panel.time[len(times) :].to_list() == expected


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_the_times_added_keep_unit_and_zone(unit) -> None:
    times = pl.Series("t", [datetime(2020, 3, 28, 22), datetime(2020, 3, 28, 23)]).cast(pl.Datetime(unit))
    times = times.dt.replace_time_zone("Europe/Berlin")
    panel = extend(build_panel(pl.DataFrame([times, pl.Series("y", [1.0, 2.0])]), Columns(time="t")), 4)
    assert panel.time.dtype == times.dtype
    # The clock springs from 2 to 3; the steps stay an hour.
    assert panel.time.dt.hour().to_list() == [22, 23, 0, 1, 3, 4]


def test_whole_times_may_outgrow_their_type() -> None:
    df = pl.DataFrame({"t": pl.Series([252, 253, 254], dtype=pl.UInt8), "y": [1.0, 2.0, 3.0]})
    panel = extend(build_panel(df, Columns(time="t")), 3)
    assert panel.time.to_list() == [252, 253, 254, 255, 256, 257]


def test_extend_by_name() -> None:
    panel = extend(build_panel(long(("a", [1, 2], [1.0, 2.0])), LONG), 1)
    assert panel.time.name == "ds"
    assert panel.past.shape == panel.future.shape == (3, 0)

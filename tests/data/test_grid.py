"""Order, regular steps and missing rows, alone and against a model's frequency."""

from datetime import date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import DAYS, LONG, NAN, check_whole, long, refuses

from gatewise.data import Columns, Frequency, build_panel


class TestOrder:
    def test_unsorted(self) -> None:
        df = long(("a", [0, 1], [1, 2]), ("b", [0, 2, 1], [3, 4, 5]))
        refuses(r"not sorted: series 'b', ds 1 \(row 5\) comes after ds 2; sort the table by time\.$", df)
        refuses("not sorted: the series, ds 1.*several series.*--id", df.tail(3), Columns(time="ds"))

    def test_duplicate(self) -> None:
        df = long(("a", DAYS[:3], [1, 2, 3]), ("b", [*DAYS[:2], DAYS[1]], [1, 2, 3]))
        refuses(r"1 duplicate stamp, the first at series 'b', ds 2020-01-02 \(row 6\)", df)
        refuses("duplicate stamp.*--id", df.tail(2), Columns(time="ds"))

    def test_a_doubled_hour_of_a_clock_change_is_a_duplicate(self) -> None:
        hours = [datetime(2020, 10, 25, hour) for hour in (1, 2, 2, 3)]
        refuses("duplicate stamp", pl.DataFrame({"t": hours, "y": [1, 2, 3, 4]}), Columns(time="t"))
        zoned = pl.datetime_range(
            datetime(2020, 10, 24, 23), datetime(2020, 10, 25, 3), "1h", time_zone="UTC", eager=True
        )
        panel = build_panel(
            pl.DataFrame({"t": zoned.dt.convert_time_zone("Europe/Berlin"), "y": [1, 2, 3, 4, 5]}), Columns(time="t")
        )
        assert panel.frequency.text == "1h"
        assert panel.time.dt.hour().to_list() == [1, 2, 2, 3, 4]

    @settings(max_examples=50, deadline=None)
    @given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=5), seed=st.integers(0, 2**31))
    def test_any_interleaving_keeps_each_series(self, sizes: list[int], seed: int) -> None:
        rng = np.random.default_rng(seed)
        turns = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
        seen = [0] * len(sizes)
        rows = []
        for turn in turns:
            rows.append((f"s{turn}", 2 * seen[turn] + int(turn), float(rng.normal())))
            seen[turn] += 1
        df = pl.DataFrame(rows, schema=["unique_id", "ds", "y"], orient="row")
        panel = build_panel(df, LONG, frequency=Frequency("2"))
        check_whole(panel)
        assert panel.ids.to_list() == df["unique_id"].unique(maintain_order=True).to_list()
        for i, name in enumerate(panel.ids):
            mine = df.filter(unique_id=name)
            part = slice(panel.offsets[i], panel.offsets[i + 1])
            assert panel.y[part].tolist() == mine["y"].to_list()
            assert panel.time[part].to_list() == mine["ds"].to_list()


class TestGrid:
    def test_irregular(self) -> None:
        times = [datetime(2020, 1, 1, hour) for hour in range(4)] + [datetime(2020, 1, 1, 4, 30)]
        df = long(("a", times, range(5)))
        message = (
            r"irregular frequency: series 'a', ds 2020-01-01 04:30:00 \(row 5\) follows .* 03:00:00.*1h \(hourly\)"
        )
        for missing in ("error", "mask"):
            refuses(message, df, missing=missing)

    def test_weekends_lie_on_no_grid_of_business_days(self) -> None:
        message = r"irregular frequency: series 'a', ds 2020-01-04 \(row 1\) lies on a weekend.*business days"
        refuses(message, long(("a", DAYS[3:4], [1])), frequency=Frequency("1bd"))
        saturdays = long(("a", [date(2020, 1, 4), date(2020, 1, 11)], [1, 2]))
        refuses("trained on business days data, but this table is weekly", saturdays, frequency=Frequency("1bd"))

    def test_missing_rows_are_refused_with_count_and_place(self) -> None:
        df = long(("a", DAYS[:2], [1, 2]), ("b", [DAYS[0], DAYS[1], DAYS[4]], [3, 4, 5]))
        refuses(
            r"2 rows are missing from the daily grid, the first after series 'b', ds 2020-01-02.*--missing ffill", df
        )

    @pytest.mark.parametrize("missing", ["ffill", "mask"])
    def test_missing_rows_are_added(self, missing: str) -> None:
        df = long(("a", [DAYS[0], DAYS[1], DAYS[4]], [3, 4, 5]), ("b", DAYS[:2], [1, 2]), price=[1, 2, 5, 8, 9])
        panel = build_panel(df, Columns("y", "unique_id", "ds", future=("price",)), missing=missing)
        check_whole(panel)
        assert panel.time.to_list() == [*DAYS, *DAYS[:2]]
        gap = 4 if missing == "ffill" else NAN
        np.testing.assert_array_equal(panel.y, [3, 4, gap, gap, 5, 1, 2])
        assert panel.missing.tolist() == [False, False, True, True, False, False, False]
        assert panel.future.ravel().tolist() == [1, 2, 2, 2, 5, 8, 9]

    def test_months_are_completed_by_the_calendar(self) -> None:
        ends = [date(2020, 1, 31), date(2020, 2, 29), date(2020, 3, 31), date(2020, 5, 31), date(2020, 6, 30)]
        panel = build_panel(long(("a", ends, [1, 2, 3, 5, 6])), LONG, missing="ffill")
        assert panel.time.to_list() == [*ends[:3], date(2020, 4, 30), *ends[3:]]
        assert panel.y.tolist() == [1, 2, 3, 3, 5, 6]

    def test_a_gap_too_long_to_fill(self) -> None:
        df = long(("a", [0, 1, 2, 10**12], [1, 2, 3, 4]))
        refuses(r"999,999,999,997 rows are missing .* after series 'a', ds 2 \(row 3\), too many", df, missing="mask")

    @settings(max_examples=50, deadline=None)
    @given(
        n=st.integers(8, 40),
        lost=st.sets(st.integers(1, 38), max_size=4),
        missing=st.sampled_from(["ffill", "mask"]),
    )
    def test_lost_rows_come_back(self, n: int, lost: set[int], missing: str) -> None:
        keep = [k for k in range(n) if k not in lost or k == n - 1]
        start = datetime(2020, 3, 28)
        df = pl.DataFrame({"t": [start + timedelta(hours=k) for k in keep], "y": [float(k) for k in keep]})
        panel = build_panel(df, Columns(time="t"), missing=missing, frequency=Frequency("1h"))
        check_whole(panel)
        assert panel.time.to_list() == [start + timedelta(hours=k) for k in range(n)]
        assert np.flatnonzero(panel.missing).tolist() == [k for k in range(n) if k not in keep]
        want = [max(j for j in keep if j <= k) if missing == "ffill" or k in keep else NAN for k in range(n)]
        np.testing.assert_array_equal(panel.y, want)


class TestFrequencyOfAModel:
    def test_another_frequency_is_refused(self) -> None:
        df = long(("a", DAYS, range(5)))
        refuses(
            "trained on hourly data, but this table is daily",
            df.with_columns(pl.col("ds").cast(pl.Datetime)),
            frequency=Frequency("1h"),
        )
        refuses("trained on hourly data, but this table is daily", df, frequency=Frequency("1h"))
        refuses(
            "trained on daily data, but this table is integer steps",
            long(("a", [0, 1], [1, 2])),
            frequency=Frequency("1d"),
        )
        refuses("trained on integer steps data, but this table is daily", df, frequency=Frequency("1"))
        refuses(
            "trained on hourly data, but this table is of type Date",
            df.head(1),
            frequency=Frequency("1h"),
        )
        refuses("trained on integer steps of 5 data", pl.DataFrame({"y": [1]}), Columns(), frequency=Frequency("5"))

    def test_the_same_frequency_in_another_guise_is_accepted(self) -> None:
        ends = [date(2020, 1, 31), date(2020, 2, 29), date(2020, 3, 31)]
        assert build_panel(long(("a", ends, [1, 2, 3])), LONG, frequency=Frequency("1mo")).frequency.text == "1mo-end"
        # Four days of one week look daily.
        week = [date(2020, 1, 6 + day) for day in range(4)]
        assert build_panel(long(("a", week, range(4))), LONG, frequency=Frequency("1bd")).frequency.text == "1bd"
        assert build_panel(long(("a", DAYS[:1], [1])), LONG, frequency=Frequency("1d")).frequency.text == "1d"

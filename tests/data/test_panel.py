"""Panels: every series keeps its rows, every missing cell is accounted for, and wrong tables get a sentence."""

import re
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_series_equal
from tables import DAYS, LONG, NAN, check_whole, long, refuses

from gatewise.data import Columns, build_panel
from gatewise.errors import InputError


def test_a_table_of_two_series() -> None:
    df = long(("b", DAYS, [1, 2, 3, 4, None]), ("a", DAYS[:3], [5, 6, NAN]))
    panel = build_panel(df, LONG)
    check_whole(panel)
    assert panel.ids.to_list() == ["b", "a"]
    assert panel.ids.name == "unique_id"
    assert panel.time.name == "ds"
    assert panel.time.dtype == pl.Date
    assert panel.offsets.tolist() == [0, 5, 8]
    assert panel.ends.tolist() == [4, 7]
    assert panel.lengths().tolist() == [4, 2]
    np.testing.assert_array_equal(panel.y, [1, 2, 3, 4, NAN, 5, 6, NAN])
    assert panel.frequency.text == "1d"
    assert not panel.missing.any()
    assert panel.static.shape[1] == 0


def test_without_id_and_time_the_rows_are_one_series() -> None:
    panel = build_panel(pl.DataFrame({"load": [True, False, True]}), Columns("load"))
    check_whole(panel)
    assert panel.ids.to_list() == ["series"]
    assert panel.ids.name == "unique_id"
    assert panel.time.name == "ds"
    assert panel.time.to_list() == [0, 1, 2]
    assert panel.frequency.text == "1"
    assert panel.y.tolist() == [1, 0, 1]
    two = pl.DataFrame({"y": [1, 2, 3], "k": ["a", "b", "a"]})
    assert build_panel(two, Columns(id="k")).time.to_list() == [0, 1, 0]


@pytest.mark.parametrize(
    "names",
    [
        ["a", "b"],
        [1, 2],
        [date(2020, 1, 1), date(2021, 1, 1)],
        pl.Series(["a", "b"], dtype=pl.Categorical),
        [True, False],
    ],
    ids=["text", "whole", "date", "categorical", "truth"],
)
def test_ids_keep_their_type(names) -> None:
    ids = pl.Series("k", names)
    df = pl.DataFrame([pl.concat([ids, ids]), pl.Series("y", [1.0, 2, 3, 4])])
    panel = build_panel(df, Columns(id="k"))
    assert_series_equal(panel.ids, ids)
    assert panel.y.tolist() == [1, 3, 2, 4]


@pytest.mark.parametrize(
    ("times", "dtype"),
    [
        ([3, 4, 5], pl.Int64),
        ([3.0, 4.0, 5.0], pl.Int64),
        (["2020-01-01", "2020-01-02", "2020-01-03"], pl.Date),
        (["2020-01", "2020-02", "2020-03"], pl.Date),
        (["2020-01-01 00:00", "2020-01-01 01:00", "2020-01-01 02:00"], pl.Datetime("us")),
        (pl.Series([7, 8, 9], dtype=pl.UInt8), pl.UInt8),
    ],
)
def test_times_of_many_types(times, dtype) -> None:
    panel = build_panel(pl.DataFrame({"t": times, "y": [1, 2, 3]}), Columns(time="t"))
    assert panel.time.dtype == dtype
    check_whole(panel)


def test_text_that_holds_numbers_counts() -> None:
    df = pl.DataFrame({"y": ["1", " 2.5", "NA"]})
    np.testing.assert_array_equal(build_panel(df, Columns()).y, [1, 2.5, NAN])


def test_covariates_and_statics() -> None:
    df = long(
        ("a", [0, 1, 2], [1, 2, None]),
        ("b", [0, 1], [3, 4]),
        wind=[1.5, 2.5, None, 3.5, 4.5],
        price=[1, 2, 3, 4, 5],
        open=[True, False, True, True, False],
        city=["x", "x", "x", "y", "y"],
    )
    panel = build_panel(df, Columns("y", "unique_id", "ds", ("wind",), ("price", "open"), ("city",)), need_future=0)
    check_whole(panel)
    np.testing.assert_array_equal(panel.past, [[1.5], [2.5], [NAN], [3.5], [4.5]])
    np.testing.assert_array_equal(panel.future, [[1, 1], [2, 0], [3, 1], [4, 1], [5, 0]])
    assert panel.static.to_dict(as_series=False) == {"city": ["x", "y"]}
    part = panel.select(np.array([False, True]))
    check_whole(part)
    assert part.ids.to_list() == ["b"]
    assert part.y.tolist() == [3, 4]
    assert part.static.to_dict(as_series=False) == {"city": ["y"]}
    assert part.past.tolist() == [[3.5], [4.5]]
    assert len(panel.select(np.array([False, False])).ids) == 0


def test_summary() -> None:
    df = long(("a", DAYS, [1, None, 3, 4, None]), ("b", DAYS[:3], [5, 6, 7]), price=list(range(8)))
    panel = build_panel(df, Columns("y", "unique_id", "ds", future=("price",)), missing="mask")
    assert panel.summary() == [
        ("series", "2"),
        ("rows", "7"),
        ("length (shortest / median / longest)", "3 / 4 / 4"),
        ("time", "2020-01-01 to 2020-01-05"),
        ("frequency", "daily (1d)"),
        ("missing cells", "1 (14.29%)"),
        ("covariates", "known future: price"),
        ("future rows", "1"),
    ]
    none = build_panel(long(("a", [0, 1], [1, 2])), LONG).select(np.array([False]))
    assert ("series", "0") in none.summary()


class TestColumnsThatDoNotServe:
    df = long(("a", [0, 1, 2], [1, 2, 3]), wind=[1, 2, 3], note=["p", "q", "r"])

    def test_absent(self) -> None:
        refuses(
            r"no column 'Unique_ID' for the id\. Did you mean 'unique_id'\? .*: unique_id, ds, y, wind, note",
            self.df,
            Columns(id="Unique_ID"),
        )
        refuses(r"no column 'wnd' for the past covariate\. Did you mean 'wind'", self.df, Columns(past=("wnd",)))
        refuses(r"no column 'q' for the target\. Its columns are", self.df, Columns("q"))

    def test_named_twice(self) -> None:
        refuses(
            "'wind' is named twice, as past covariate and as future covariate",
            self.df,
            Columns(past=("wind",), future=("wind",)),
        )
        refuses("'y' is named twice, as target and as static", self.df, Columns(static=("y",)))

    def test_not_numeric(self) -> None:
        refuses("target 'note' is not numeric: row 1 holds 'p'", self.df, Columns("note"))
        refuses("past covariate 'note' is not numeric", self.df, Columns(past=("note",)))
        refuses("target 'y' is not numeric: row 2 holds '1,5'", pl.DataFrame({"y": ["1", "1,5"]}), Columns())
        refuses(
            "target 'y' is not numeric: it holds Date, for instance 2020-01-01", pl.DataFrame({"y": DAYS}), Columns()
        )

    def test_infinite(self) -> None:
        bad = self.df.with_columns(y=pl.Series([1.0, float("inf"), -float("inf")]))
        for missing in ("error", "ffill", "mask"):
            refuses("target 'y' is infinite in 2 rows, first in row 2", bad, missing=missing)
        bad = self.df.with_columns(wind=pl.Series([1.0, 1.0, float("inf")]))
        refuses("future covariate 'wind' is infinite in 1 row, first in row 3", bad, Columns(future=("wind",)))
        refuses("static covariate 'wind' is infinite at", bad, Columns(static=("wind",)))
        bad = self.df.with_columns(wind=pl.Series([1.0, 1e39, 1.0]))
        refuses(r"'wind' is too large for float32: 1e\+39", bad, Columns(past=("wind",)))

    def test_id_and_time_with_blanks(self) -> None:
        refuses("id column 'unique_id' is blank in 1 row, first in row 2", long(("a", [0], [1]), (None, [1], [1])))
        refuses("id column 'k' holds List", pl.DataFrame({"k": [[1]], "y": [1]}), Columns(id="k"))
        refuses("id column 'k' is blank", pl.DataFrame({"k": [1.0, NAN], "y": [1, 2]}), Columns(id="k"))
        for times in ([0, None, 2], [0.0, NAN, 2.0], ["2020-01-01", "", "2020-01-03"], [None] * 3):
            row = 1 if times[0] is None else 2
            df = pl.DataFrame({"t": times, "y": [1, 2, 3]})
            refuses(f"time column 't' is blank in . rows?, first in row {row}", df, Columns(time="t"))

    @pytest.mark.parametrize(
        ("times", "message"),
        [
            (["01/02/2020", "02/02/2020"], "cannot be read: row 1 holds '01/02/2020'; accepted are .*2020-01-31"),
            (["2020-01-01T00:00Z", "2020-01-01T01:00+01:00"], "cannot be read: it mixes time zones .*one time zone"),
            ([0.0, 0.5], "is not whole: row 2 holds 0.5"),
            ([0.0, float("inf")], "is not whole: row 2 holds inf"),
            ([True, False], "holds Boolean"),
            ([timedelta(1), timedelta(2)], "holds Duration"),
            (pl.Series([0, 2**64 - 1], dtype=pl.UInt64), "holds whole numbers beyond 64 bits"),
        ],
    )
    def test_time_of_a_wrong_kind(self, times, message: str) -> None:
        refuses("time column 't' " + message, pl.DataFrame({"t": times, "y": [1, 2]}), Columns(time="t"))

    def test_no_rows_and_unknown_policy(self) -> None:
        refuses("no rows", self.df.clear())
        refuses("missing='drop' is unknown: accepted are error, ffill, mask", self.df, missing="drop")


class TestMissingCells:
    df = long(("a", [0, 1, 2, 3, 4], [None, 1, NAN, 3, None]), ("b", [0, 1], [7, 8]))

    def test_refused(self) -> None:
        refuses(
            r"'y' is blank in 2 cells inside the series, the first at series 'a', ds 0 \(row 1\).*--missing ffill",
            self.df,
        )

    @pytest.mark.parametrize(("missing", "cell"), [("ffill", 1.0), ("mask", NAN)])
    def test_treated(self, missing: str, cell: float) -> None:
        panel = build_panel(self.df, LONG, missing=missing)
        check_whole(panel)
        assert panel.time.to_list() == [1, 2, 3, 4, 0, 1]
        np.testing.assert_array_equal(panel.y, [1, cell, 3, NAN, 7, 8])
        assert panel.ends.tolist() == [3, 6]
        assert np.flatnonzero(panel.missing).tolist() == [1]

    def test_a_series_without_any_value(self) -> None:
        df = long(("a", [0, 1], [1, 2]), ("b", [0, 1], [None, None]), ("c", [0], [NAN]))
        for missing in ("error", "ffill", "mask"):
            refuses(r"'y' has no value at all in 2 series \('b', 'c'\)", df, missing=missing)
        refuses("'y' has no value at all: give", pl.DataFrame({"y": [None, None]}), Columns())

    def test_past_covariates(self) -> None:
        df = self.df.with_columns(wind=pl.Series([1.0, None, 5.0, None, None, NAN, 2.0]))
        columns = Columns("y", "unique_id", "ds", past=("wind",))
        whole = self.df.with_columns(y=pl.Series([0, 1, 2, 3, None, 7, 8]), wind=df["wind"])
        refuses(
            r"past covariate 'wind' is blank in 3 rows of the history, the first at series 'a', ds 1.*--missing",
            whole,
            columns,
        )
        for missing in ("ffill", "mask"):
            panel = build_panel(df, columns, missing=missing)
            # Blank at first: filled backwards. Blank in a future row: unknown.
            np.testing.assert_array_equal(panel.past.ravel(), [5, 5, 5, NAN, 2, 2])
        empty = df.with_columns(wind=pl.Series([None] * 4 + [9.0, 1.0, 2.0]))
        refuses("past covariate 'wind' has no value at all in series 'a'", empty, columns, missing="mask")

    def test_future_covariates(self) -> None:
        columns = Columns("y", "unique_id", "ds", future=("price",))
        whole = long(("a", [0, 1, 2, 3], [1, 2, 3, None]), price=[1, None, 3, 4])
        refuses(
            r"future covariate 'price' is blank in 1 row of the history, the first at series 'a', ds 1", whole, columns
        )
        assert build_panel(whole, columns, missing="ffill").future.ravel().tolist() == [1, 1, 3, 4]
        open_end = long(("a", [0, 1, 2, 3], [1, 2, None, None]), price=[1, 2, 3, None])
        for missing in ("error", "ffill", "mask"):
            refuses(
                r"future covariate 'price' is missing in 1 row of its future, the first at series 'a', ds 3",
                open_end,
                columns,
                missing=missing,
            )

    def test_future_rows_that_a_forecast_needs(self) -> None:
        df = long(("a", [0, 1, 2], [1, 2, None]), ("b", [0, 1], [3, 4]), price=[1, 2, 3, 4, 5])
        columns = Columns("y", "unique_id", "ds", future=("price",))
        refuses(
            r"future covariates are missing: series 'b' has 0 future rows with price where 1 are needed \(1 of 2",
            df,
            columns,
            need_future=1,
        )
        refuses(r"series 'a' has 1 future rows.*\(2 of 2 series", df, columns, need_future=3)
        assert len(build_panel(df, LONG, need_future=3).y) == 5
        assert len(build_panel(df.head(3), columns, need_future=1).y) == 3

    def test_statics(self) -> None:
        columns = Columns("y", "unique_id", "ds", static=("city",))
        df = self.df.with_columns(city=pl.Series(["x", "x", "z", "x", "x", "y", "y"]))
        refuses(
            "static covariate 'city' changes within series 'a': it is 'x' at first and 'z' at ds 2",
            df,
            columns,
            missing="mask",
        )
        df = self.df.with_columns(city=pl.Series(["x"] * 5 + ["y", None]))
        refuses(r"static covariate 'city' is blank at series 'b', ds 1 \(row 7\)", df, columns, missing="mask")
        df = self.df.with_columns(city=pl.Series([1.0] * 6 + [NAN]))
        refuses("static covariate 'city' is blank at series 'b', ds 1", df, columns, missing="mask")


def test_messages_are_one_or_two_sentences() -> None:
    """The texts of all refusals above end in a full stop and name no internals."""
    for call in (
        lambda: build_panel(pl.DataFrame({"y": ["x"]}), Columns()),
        lambda: build_panel(pl.DataFrame({"y": [1, None, 1]}), Columns()),
        lambda: build_panel(pl.DataFrame({"t": [1, 1], "y": [1, 2]}), Columns(time="t")),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert re.fullmatch(r"[^\n]{20,300}\.", str(caught.value))


def test_a_static_number_beyond_float32_and_a_name_of_bytes_are_refused() -> None:
    df = pl.DataFrame({"shop": ["a", "a"], "y": [1.0, 2.0], "size": [1e200, 1e200]})
    with pytest.raises(InputError, match=r"static covariate 'size' is too large for float32: 1e\+200 in row 1"):
        build_panel(df, Columns(id="shop", static=("size",)))
    with pytest.raises(InputError, match="the id column 'shop' holds Binary"):
        build_panel(df.with_columns(pl.col("shop").cast(pl.Binary)), Columns(id="shop"))

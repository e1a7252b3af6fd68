"""A separate table of future rows goes below the history, or is refused."""

import polars as pl
import pytest
from tables import DAYS, check_whole, long

from gatewise.data import Columns, build_panel, with_future
from gatewise.errors import InputError


class TestFutureTable:
    columns = Columns("y", "unique_id", "ds", past=("wind",), future=("price",), static=("city",))
    df = long(
        ("a", DAYS[:3], [1, 2, 3]), ("b", DAYS[:2], [4, 5]), wind=[1.0] * 5, price=[1, 2, 3, 4, 5], city=list("xxxyy")
    )
    after = pl.DataFrame(
        {"unique_id": ["b", "a", "b"], "ds": [DAYS[2], DAYS[3], DAYS[3]], "price": [0.5, 1.5, 2.5]},
    )

    def refuses(self, message: str, after: pl.DataFrame, columns: Columns | None = None) -> None:
        with pytest.raises(InputError, match=message):
            with_future(self.df, after, columns or self.columns)

    def test_rows_go_below_their_series(self) -> None:
        panel = build_panel(with_future(self.df, self.after, self.columns), self.columns, need_future=1)
        check_whole(panel)
        assert panel.ends.tolist() == [3, 6]
        assert panel.future.ravel().tolist() == [1, 2, 3, 1.5, 4, 5, 0.5, 2.5]
        assert panel.static["city"].to_list() == ["x", "y"]
        assert panel.time.to_list() == [*DAYS[:4], *DAYS[:4]]

    def test_types_are_matched(self) -> None:
        text = self.after.with_columns(pl.col("ds", "price").cast(pl.String), y=pl.lit(None), other=pl.lit("o"))
        assert build_panel(with_future(self.df, text, self.columns), self.columns).lengths().tolist() == [3, 2]
        stamps = self.df.with_columns(pl.col("ds").cast(pl.Datetime("us")))
        joined = with_future(stamps, self.after, self.columns)
        assert joined["ds"].dtype == pl.Datetime("us")
        numbered = self.df.with_columns(unique_id=pl.Series([1, 1, 1, 2, 2]))
        joined = with_future(numbered, self.after.with_columns(unique_id=pl.Series(["2", "1", "2"])), self.columns)
        assert joined["unique_id"].to_list() == [1, 1, 1, 2, 2, 2, 1, 2]

    def test_without_id_and_time(self) -> None:
        columns = Columns(future=("price",), static=("city",))
        history = self.df.head(3)
        joined = with_future(history, pl.DataFrame({"price": [9.0, 8.0]}), columns)
        panel = build_panel(joined, columns)
        assert panel.y[:3].tolist() == [1, 2, 3]
        assert panel.future.ravel().tolist() == [1, 2, 3, 9, 8]

    def test_refusals(self) -> None:
        self.refuses("the future table has no column 'price'", self.after.drop("price"))
        self.refuses("the future table has no column 'ds'", self.after.drop("ds"))
        self.refuses("the future table has no rows", self.after.clear())
        self.refuses(r"1 value of the target 'y'", self.after.with_columns(y=pl.Series([None, 1.0, None])))
        self.refuses(r"series 'c' \(row 1\) is not in the history", self.after.with_columns(unique_id=pl.lit("c")))
        self.refuses(
            r"overlaps the history in 1 row: series 'a', ds 2020-01-03 \(row 2\) is not after 2020-01-03",
            self.after.with_columns(ds=pl.Series([DAYS[2], DAYS[2], DAYS[3]])),
        )
        self.refuses("is Int64 where the history has Date", self.after.with_columns(ds=pl.Series([1, 2, 3])))
        noon = self.after.with_columns(pl.col("ds").cast(pl.Datetime("us")).dt.offset_by("12h"))
        self.refuses("where the history has Date", noon)
        self.refuses(
            "overlaps the history", self.after.with_columns(ds=pl.lit(DAYS[0])), Columns(time="ds", future=("price",))
        )

"""The commands take a store where they take a table."""

import json
from pathlib import Path

import polars as pl
import pytest
from cli_tools import RUN_FILES, SHOP_ROLES, SMALL, refuses, results, shop_table, succeeds

from gatewise.data import Columns, build_panel, store_writer

ROLES = Columns("sales", "shop", "day", past=("visitors",), future=("price",), static=("city", "size"))


@pytest.fixture
def shops_store(quick: Path) -> Path:
    """A store called shops, of the table shops.csv beside it."""
    df = shop_table().with_columns(pl.col("sales").cast(pl.Float32).cast(pl.Float64))
    df.write_csv(quick / "shops.csv")
    with store_writer(quick / "shops") as writer:
        writer.append(build_panel(df, ROLES))
    return quick


def test_fit_predict_and_evaluate(shops_store: Path) -> None:
    out = succeeds("fit", "shops", *SMALL, "--target", "sales").out
    assert "run folder: runs/shops" in out
    succeeds("fit", "shops.csv", *SMALL, *SHOP_ROLES, "--out", "table")
    runs = {name: shops_store / name for name in ("runs/shops", "table")}
    assert set(results(runs["runs/shops"])) == RUN_FILES
    forecasts = [(run / "forecast.csv").read_text() for run in runs.values()]
    assert forecasts[0] == forecasts[1]
    assert succeeds("predict", "runs/shops", "shops").raw_out == forecasts[0]
    assert succeeds("predict", "table", "shops").raw_out == forecasts[0]
    assert "8 rows for 2 series in f.csv" in succeeds("predict", "table", "shops", "-o", "f.csv").err
    assert (shops_store / "f.csv").read_text() == forecasts[0]
    succeeds("predict", "table", "shops", "-o", "f.parquet")
    columns = pl.read_parquet(shops_store / "f.parquet")
    assert columns.equals(pl.read_csv(forecasts[0].encode(), try_parse_dates=True).cast(columns.schema))  # type: ignore[arg-type]  # a schema
    scores = [succeeds("evaluate", "table", table, "--json", "-").raw_out for table in ("shops", "shops.csv")]
    assert json.loads(scores[0]) == json.loads(scores[1])


def test_what_a_store_refuses(shops_store: Path) -> None:
    assert "target is 'price', but the store shops" in refuses("fit", "shops", *SMALL, "--target", "price")
    succeeds("fit", "shops", *SMALL)
    message = refuses("predict", "runs/shops", "shops", "--future-table", "shops.csv")
    assert message == "future rows cannot follow the store shops: prepare it with them."
    assert "prepare a store of both" in refuses("evaluate", "runs/shops", "shops", "--truth", "shops.csv")
    file = shops_store / "shops" / "y.bin"
    file.write_bytes(file.read_bytes()[:-4])
    for words in (("fit", "shops", *SMALL, "--force"), ("predict", "runs/shops", "shops")):
        assert refuses(*words).startswith("shops/y.bin is damaged: it has")
    assert "is a folder" in refuses("fit", "runs", *SMALL)

"""gatewise prepare: its words, what it says, and what it refuses."""

import sqlite3
from pathlib import Path

import polars as pl
from cli_tools import SHOP_ROLES, command, long_table, refuses, shop_table, snapshot, succeeds

from gatewise.data import Store


def test_prepare_says_what_the_store_holds(quick: Path) -> None:
    long_table().write_csv("t.csv")
    said = succeeds("prepare", "t.csv", "-o", "stores/t")
    assert "stores/t: 120 rows of 2 series, hourly, in" in said.out
    store = Store.open("stores/t")
    assert store.ids.to_list() == ["a", "b"]
    assert store.policy == "error"


def test_prepare_takes_every_role(quick: Path) -> None:
    shop_table().write_parquet("shops.parquet")
    succeeds("prepare", "shops.parquet", *SHOP_ROLES, "-o", "store")
    store = Store.open("store")
    assert store.columns.roles() == [
        ("target", "sales"),
        ("id", "shop"),
        ("time", "day"),
        ("past covariate", "visitors"),
        ("future covariate", "price"),
        ("static covariate", "city"),
        ("static covariate", "size"),
    ]
    assert store.lengths().tolist() == [48, 48]
    assert (store.stops - store.ends).tolist() == [4, 4]


def test_prepare_by_query(quick: Path) -> None:
    connection = sqlite3.connect("t.db")
    connection.execute("create table load (site, hour, mw)")
    connection.executemany("insert into load values (?, ?, ?)", [("n", k, k / 2) for k in range(9)])
    connection.commit()
    connection.close()
    words = ["--id", "site", "--time", "hour", "--target", "mw", "-o", "store"]
    assert "name its rows, as in --query" in refuses("prepare", "t.db", *words)
    succeeds("prepare", "t.db", "--query", "select * from load where hour > 2", *words)
    assert Store.open("store").y.tolist() == [k / 2 for k in range(3, 9)]


def test_prepare_replaces_a_store_only_by_force(quick: Path) -> None:
    long_table().write_csv("t.csv")
    succeeds("prepare", "t.csv", "-o", "store")
    before = snapshot(quick)
    assert "--force to replace" in refuses("prepare", "t.csv", "-o", "store")
    assert "is not empty" in refuses("prepare", "t.csv", "-o", ".", "--force")
    assert snapshot(quick) == before
    succeeds("prepare", "t.csv", "-o", "store", "--missing", "mask", "--force")
    assert Store.open("store").policy == "mask"


def test_prepare_refuses_what_fit_refuses(quick: Path) -> None:
    for table, said in (
        (long_table().with_columns(y=pl.lit("x")), "target 'y' is not numeric: row 1 holds 'x'"),
        (long_table().filter(pl.int_range(pl.len()) != 20), r"1 row is missing from the hourly grid"),
        (long_table().rename({"y": "load"}), "no column 'y' for the target"),
    ):
        table.write_csv("t.csv")
        words = [refuses("prepare", "t.csv", "-o", "store"), refuses("fit", "t.csv", "--horizon", 4)]
        assert said in words[0]
        assert words[0] == words[1]
    assert sorted(snapshot(quick)) == ["t.csv"]


def test_prepare_needs_a_table_and_a_place(quick: Path) -> None:
    for words in (["prepare"], ["prepare", "t.csv"], ["prepare", "-o", "store"]):
        assert command(*words).code == 2
    assert "no such file" in refuses("prepare", "t.csv", "-o", "deep/er/store")
    assert not list(quick.iterdir())

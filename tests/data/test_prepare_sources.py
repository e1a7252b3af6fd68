"""Where a table may come from: text, Parquet, gzip, globs, folders and databases, all the same rows."""

import gzip
import sqlite3
import sys
from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import polars as pl
import pytest
from prepared import assert_same, prepared, small_chunks, whole

from gatewise.data import Store, databases, prepare
from gatewise.errors import InputError

TABLE = pl.DataFrame(
    {
        "unique_id": [f"s{k % 3}" for k in range(30)],
        "ds": [datetime(2024, 3, 1) + timedelta(hours=k // 3) for k in range(30)],
        "y": [k / 7 for k in range(30)],
        "wind": [k * 0.5 for k in range(30)],
        "city": [f"c{k % 3}" for k in range(30)],
    }
)
ROLES: dict = {"past": ("wind",), "static": ("city",)}
QUERY = "select * from t"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch, read=100, lay_out=12)


@pytest.fixture
def expected(tmp_path: Path) -> Store:
    return whole(TABLE, tmp_path / "expected", **ROLES)


def database(path: Path, table: pl.DataFrame = TABLE) -> Path:
    """A database with the table t, in DuckDB or SQLite by the name of the file."""
    if path.suffix == ".duckdb":
        with duckdb.connect(path) as connection:
            connection.register("given", table.to_arrow())
            connection.execute("create table t as select * from given")
        return path
    text = table.with_columns(pl.col("ds").cast(pl.String))
    connection = sqlite3.connect(path)
    connection.execute(f"create table t ({', '.join(text.columns)})")
    connection.executemany(f"insert into t values ({', '.join('?' * text.width)})", text.iter_rows())
    connection.commit()
    connection.close()
    return path


def write(folder: Path, kind: str) -> tuple[str | Path, dict]:
    """The table as files of a kind, and how it is asked for."""
    halves = (TABLE.head(13), TABLE.tail(17))
    if kind in {"csv", "tsv"}:
        TABLE.write_csv(folder / f"t.{kind}", separator="\t" if kind == "tsv" else ",")
        return folder / f"t.{kind}", {}
    if kind in {"csv.gz", "parquet.gz"}:
        name = folder / f"t.{kind.removesuffix('.gz')}"
        TABLE.write_csv(name) if kind == "csv.gz" else TABLE.write_parquet(name)
        (folder / f"t.{kind}").write_bytes(gzip.compress(name.read_bytes()))
        return folder / f"t.{kind}", {}
    if kind == "glob of csv":
        for i, half in enumerate(halves):
            half.write_csv(folder / f"part-{i}.csv")
        return str(folder / "part-*.csv"), {}
    if kind == "parquet":
        TABLE.write_parquet(folder / "t.parquet", row_group_size=7)
        return folder / "t.parquet", {}
    if kind == "folder":
        (folder / "parts" / "deeper").mkdir(parents=True)
        halves[0].write_parquet(folder / "parts" / "0.parquet")
        halves[1].with_columns(pl.col("wind").cast(pl.Float32)).write_parquet(folder / "parts" / "deeper" / "1.parquet")
        (folder / "parts" / "_SUCCESS").touch()
        halves[1].write_parquet(folder / "parts" / "_temporary.parquet")
        return folder / "parts", {}
    return database(folder / f"t.{kind}"), {"query": QUERY}


@pytest.mark.parametrize(
    "kind", ["csv", "tsv", "csv.gz", "parquet.gz", "glob of csv", "parquet", "folder", "duckdb", "sqlite"]
)
def test_the_same_rows_give_the_same_store(tmp_path: Path, expected: Store, kind: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    table, more = write(source, kind)
    files = sorted(source.rglob("*"))
    assert_same(prepare(table, tmp_path / "store", **ROLES, **more), expected)
    assert sorted(source.rglob("*")) == files
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expected", "source", "store"]


@pytest.mark.parametrize("kind", ["duckdb", "sqlite"])
def test_a_query_chooses_orders_and_computes(tmp_path: Path, kind: str) -> None:
    path = database(tmp_path / f"t.{kind}")
    query = "select unique_id, ds, 2 * y as twice from t where unique_id <> 's1' order by unique_id desc, ds"
    store = prepare(path, tmp_path / "store", target="twice", query=query)
    assert store.ids.to_list() == ["s2", "s0"]
    chosen = TABLE.filter(pl.col("unique_id") == "s2")["y"] * 2
    assert store.y[:10].tolist() == chosen.cast(pl.Float32).to_list()


@pytest.mark.parametrize(
    ("values", "dtype", "kind"),
    [
        ([5, 3], pl.Int32, "parquet"),
        (["07", "7"], pl.String, "parquet"),
        ([1.5, 2.5], pl.Float64, "parquet"),
        ([True, False], pl.Boolean, "duckdb"),
        ([2**40, 7], pl.Int64, "duckdb"),
        (["07", "7"], pl.String, "sqlite"),
    ],
)
def test_names_keep_their_type(tmp_path: Path, values: list, dtype: pl.DataType, kind: str) -> None:
    table = pl.DataFrame({"unique_id": pl.Series(values * 2, dtype=dtype), "ds": [1, 1, 2, 2], "y": [1.0, 2, 3, 4]})
    if kind == "parquet":
        table.write_parquet(tmp_path / "t.parquet")
        store = prepare(tmp_path / "t.parquet", tmp_path / "store")
    else:
        store = prepare(database(tmp_path / f"t.{kind}", table), tmp_path / "store", query=QUERY)
    assert store.ids.to_list() == values
    assert store.ids.dtype == dtype
    assert store.y.tolist() == [1, 3, 2, 4]


def test_typed_columns_of_every_kind(tmp_path: Path) -> None:
    zone = pl.Datetime("ms", "Europe/Berlin")
    table = TABLE.with_columns(
        pl.col("ds").dt.replace_time_zone("UTC").cast(zone),
        pl.col("unique_id").cast(pl.Categorical),
        pl.col("wind").cast(pl.Decimal(10, 2)),
        size=pl.col("city").str.len_bytes(),
        open=pl.int_range(pl.len()) % 2 == 0,
    )
    table.write_parquet(tmp_path / "t.parquet")
    roles: dict = {"past": ("wind", "open"), "static": ("city", "size")}
    assert_same(prepare(tmp_path / "t.parquet", tmp_path / "store", **roles), whole(table, tmp_path / "w", **roles))


def test_a_store_is_not_prepared_again(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("y\n1\n2\n")
    prepare(tmp_path / "t.csv", tmp_path / "store")
    with pytest.raises(InputError, match="store is a store already: gatewise fit, tune, predict and evaluate take it"):
        prepare(tmp_path / "store", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_store_in_the_folder_of_its_table_is_no_table(tmp_path: Path, expected: Store) -> None:
    TABLE.write_parquet(tmp_path / "parts.parquet")
    for _ in range(2):
        assert_same(prepare(tmp_path, tmp_path / "store", force=True, **ROLES), expected)


def test_wrong_files(tmp_path: Path) -> None:
    def refused(table: str | Path, said: str, **more) -> None:
        words = prepared(table, tmp_path / "store", **more)
        assert isinstance(words, str)
        assert said in words
        assert "\n" not in words

    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, "is a folder without Parquet files")
    (tmp_path / "t.xlsx").write_text("x")
    refused(tmp_path / "t.xlsx", "t.xlsx is not a known kind of table")
    TABLE.write_parquet(tmp_path / "t.parquet")
    TABLE.write_csv(tmp_path / "t.csv")
    refused(str(tmp_path / "t.[cp]*"), "matches text and Parquet files")
    data = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(data[:-9])
    refused(tmp_path / "cut.parquet", "cut.parquet is cut")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1" + b"\xff" * 64 + b"PAR1")
    refused(tmp_path / "bad.parquet", "bad.parquet is a damaged Parquet file")
    (tmp_path / "none.parquet").write_bytes(b"")
    refused(tmp_path / "none.parquet", "none.parquet is empty")
    (tmp_path / "t.parquet.gz").write_bytes(gzip.compress(data)[:-9])
    refused(tmp_path / "t.parquet.gz", "t.parquet.gz is cut")
    TABLE.clear().write_parquet(tmp_path / "rows.parquet")
    refused(tmp_path / "rows.parquet", "no rows")
    TABLE.rename({"y": "z"}).write_csv(tmp_path / "u.csv")
    refused(str(tmp_path / "[tu].csv"), "u.csv lacks the column 'y'")
    TABLE.with_columns(y=pl.lit("x")).write_parquet(tmp_path / "u.parquet")
    refused(str(tmp_path / "[tu].parquet"), "u.parquet: the column 'y' holds String where")
    (tmp_path / "z.csv").write_text("unique_id,ds,y,wind,city\ns9,2024-03-01 00:00:00,1,2\n")
    refused(str(tmp_path / "[tz].csv"), "z.csv, line 2 has 4 fields where the header has 5")


@pytest.mark.parametrize("kind", ["duckdb", "sqlite"])
def test_wrong_queries(tmp_path: Path, kind: str) -> None:
    path = database(tmp_path / f"t.{kind}")
    before = path.read_bytes()
    for query, said in (
        (None, "name its rows, as in --query"),
        ("select * from nothing", "cannot be answered: .*nothing"),
        ("selekt", "cannot be answered"),
        ("drop table t", "cannot be answered|gives no rows"),
        ("select *, y from t", "more than one column named 'y'|no column"),
        ("select * from t where y < 0", "no rows"),
        ("select unique_id, ds from t", "no column 'y' for the target"),
        ("select unique_id, ds, 'x' as y from t", "not numeric: row 1 holds 'x'"),
    ):
        words = prepared(path, tmp_path / "store", query=query)
        assert isinstance(words, str), query
        assert pl.Series([words]).str.contains(said).all(), words
        assert "\n" not in words
    assert path.read_bytes() == before


def test_bytes_in_a_database_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    connection = sqlite3.connect(path)
    connection.execute("create table t (y)")
    connection.executemany("insert into t values (?)", [(1,), (2.5,), ("3",), (b"4",)])
    connection.commit()
    connection.close()
    assert "'y' of the query holds bytes in row 4" in str(prepared(path, tmp_path / "store", query=QUERY))
    assert prepare(path, tmp_path / "store", query="select y from t limit 3").y.tolist() == [1, 2.5, 3]


@pytest.mark.parametrize("package", ["duckdb", "pyarrow"])
def test_a_package_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    path = database(tmp_path / "t.duckdb")
    monkeypatch.setitem(sys.modules, package, None)
    words = str(prepared(path, tmp_path / "store", query=QUERY))
    assert words == f"a DuckDB database needs {package}: pip install 'gatewise[sql]'."


def test_a_folder_below_with_some_index_json_is_read_and_a_store_is_not(tmp_path: Path, expected: Store) -> None:
    folder = tmp_path / "parts"
    for name, rows in (("a", TABLE[:12]), ("b", TABLE[12:])):
        (folder / name).mkdir(parents=True)
        rows.write_parquet(folder / name / "part.parquet")
    (folder / "b" / "index.json").write_text("{}")
    prepare(folder / "a", folder / "store")
    assert_same(prepare(folder, tmp_path / "out", **ROLES), expected)


@pytest.mark.parametrize("package", ["duckdb", "pyarrow"])
def test_a_package_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    path = database(tmp_path / "t.duckdb")
    monkeypatch.setattr(databases, "find_spec", lambda name: None if name == package else name)
    with pytest.raises(InputError, match=rf"a DuckDB database needs {package}: pip install 'gatewise\[sql\]'"):
        prepare(path, tmp_path / "out", query=QUERY)
    assert not (tmp_path / "out").exists()

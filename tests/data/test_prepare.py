"""A table prepared by streaming is the table read at once: the same store, or the same words of refusal."""

import dataclasses
import tempfile
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from prepared import assert_same, prepared, small_chunks, uncounted, whole

from gatewise.data import Store, prepare
from gatewise.errors import InputError

TABLE = "shop,day,sales\nb,2020-01-01,1\na,2020-01-01,5\nb,2020-01-02,2\na,2020-01-02,6\nb,2020-01-03,\n"
ROLES: dict = {"target": "sales", "id": "shop", "time": "day"}
STEPS = {
    "hours": lambda k: datetime(2020, 3, 28) + timedelta(hours=k),
    "days": lambda k: date(2020, 2, 25) + timedelta(days=k),
    "business": lambda k: date(2020, 2, 24) + timedelta(days=k // 5 * 7 + k % 5),
    "months": lambda k: date(2020 + k // 12, k % 12 + 1, 1),
    "month ends": lambda k: date(2020 + (k + 1) // 12, (k + 1) % 12 + 1, 1) - timedelta(days=1),
    "whole": lambda k: 7 + 3 * k,
}
NAMES = {"text": ["b", "a", "Ä 1", "", "NA"], "whole": ["7", "12", "+7", " 12"], "floats": ["1", "1.0", "2.5", "0.5"]}


@st.composite
def tables(draw: st.DrawFn) -> pl.DataFrame:
    """Rows of some series, mixed as they may be: gaps, blanks, futures, and now and then a fault."""
    step = STEPS[draw(st.sampled_from(sorted(STEPS)))]
    names = draw(st.lists(st.sampled_from(NAMES[draw(st.sampled_from(sorted(NAMES)))]), min_size=1, max_size=4))
    values = st.one_of(st.none(), st.integers(-9, 9), st.floats(-1e3, 1e3, width=32), st.just("NaN"))
    rows: list[list[tuple]] = []
    for name in dict.fromkeys(names):
        start, kept = draw(st.integers(0, 4)), draw(st.lists(st.integers(0, 9), min_size=2, max_size=9))
        kept = kept if draw(st.integers(0, 19)) == 19 else sorted(set(kept))
        region = draw(st.sampled_from(["x", "y", "3"]))
        rows.append([(name, step(start + k), draw(values), draw(values), k % 3, region) for k in kept])
    merged = draw(st.permutations([i for i, own in enumerate(rows) for _ in own])) if draw(st.booleans()) else None
    taken = [iter(own) for own in rows]
    order = merged if merged is not None else [i for i, own in enumerate(rows) for _ in own]
    table = [next(taken[i]) for i in order]
    return pl.DataFrame(table, schema=["id", "t", "y", "wind", "promo", "region"], orient="row", strict=False)


@settings(max_examples=120, deadline=None)
@given(
    table=tables(),
    missing=st.sampled_from(["error", "ffill", "mask"]),
    covariates=st.booleans(),
    read=st.integers(20, 200),
    lay_out=st.integers(1, 25),
)
def test_the_store_of_a_stream_is_the_store_of_the_table(
    table: pl.DataFrame, missing: str, covariates: bool, read: int, lay_out: int
) -> None:
    roles: dict = {"target": "y", "id": "id", "time": "t"}
    if covariates:
        roles |= {"past": ("wind",), "future": ("promo",), "static": ("region",)}
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        table.write_csv(folder / "t.csv")
        try:
            theirs = whole(folder / "t.csv", folder / "whole", missing=missing, **roles)
        except InputError as error:
            theirs = str(error)
        small_chunks(patch, read=read, lay_out=1000)
        ours = prepared(folder / "t.csv", folder / "stream", missing=missing, **roles)
        small_chunks(patch, read=read, lay_out=lay_out)
        pieces = prepared(folder / "t.csv", folder / "pieces", missing=missing, **roles)
        event(theirs[:24] if isinstance(theirs, str) else "a store")
        if isinstance(theirs, str):
            assert isinstance(ours, str)
            assert uncounted(ours) == uncounted(theirs)
            assert isinstance(pieces, str)
        else:
            for store in (ours, pieces):
                assert isinstance(store, Store), store
                assert_same(store, theirs)


@pytest.mark.parametrize("chunk", [30, 1 << 20])
def test_a_small_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    small_chunks(monkeypatch, read=chunk, lay_out=2)
    (tmp_path / "t.csv").write_text(TABLE)
    stages: dict[str, int] = {}
    store = prepare(tmp_path / "t.csv", tmp_path / "deep" / "er", **ROLES, watch=stages.__setitem__)
    assert store.ids.to_list() == ["b", "a"]
    assert store.y.tolist() == [1, 2, 2, 5, 6]
    assert store.ends.tolist() == [2, 5]
    assert stages == {"reading": 5, "sorting": 5, "writing": 5}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "t.csv"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["er"]
    assert_same(store, whole(tmp_path / "t.csv", tmp_path / "whole", **ROLES))


def test_a_table_of_one_series_without_stamps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch, read=4, lay_out=2)
    (tmp_path / "t.csv").write_text("y\n" + "".join(f"{k}\n" for k in range(20)))
    store = prepare(tmp_path / "t.csv", tmp_path / "store")
    assert store.y.tolist() == list(range(20))
    assert store.frequency.text == "1"
    assert_same(store, whole(tmp_path / "t.csv", tmp_path / "whole"))


def test_series_that_begin_in_every_chunk_keep_their_first_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_chunks(monkeypatch, read=64, lay_out=50)
    generator = np.random.default_rng(0)
    rows = [(f"s{i:03}", t) for i in range(300) for t in range(3)]
    where = generator.permutation(np.repeat(np.arange(300), 3))
    seen = np.zeros(300, int)
    with open(tmp_path / "t.csv", "w") as file:
        file.write("unique_id,ds,y\n")
        for i in where:
            name, t = rows[3 * i + seen[i]]
            seen[i] += 1
            file.write(f"{name},{t},{i * 10 + t}\n")
    store = prepare(tmp_path / "t.csv", tmp_path / "store")
    assert store.ids.to_list() == [f"s{i:03}" for i in dict.fromkeys(where.tolist())]
    assert_same(store, whole(tmp_path / "t.csv", tmp_path / "whole"))


def test_more_series_than_sixteen_bits_can_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatewise.data.preparing.ROWS", 50_000)
    count = 70_000
    ids = np.random.default_rng(1).permutation(count)
    table = pl.DataFrame({"unique_id": np.tile(ids, 2), "ds": np.repeat([1, 2], count), "y": np.arange(2.0 * count)})
    table.write_csv(tmp_path / "t.csv")
    store = prepare(tmp_path / "t.csv", tmp_path / "store")
    np.testing.assert_array_equal(store.ids.to_numpy(), ids)
    np.testing.assert_array_equal(store.y[0::2], np.arange(count))
    np.testing.assert_array_equal(store.y[1::2], np.arange(count, 2 * count))


@pytest.mark.parametrize(
    ("stamps", "frequency", "dtype"),
    [
        (["2020-01-01 00:00:00", "2020-01-01 00:30:00"], "30m", pl.Datetime("us")),
        (["2020-01-01T00:00:00.0000001", "2020-01-01T00:00:00.0000002"], "100ns", pl.Datetime("ns")),
        (["2020-01-01 00:00+02:00", "2020-01-01 01:00+0200"], "1h", pl.Datetime("us", "Etc/GMT-2")),
        (["2020-01-01 00:00+05:30", "2020-01-01 01:00+05:30"], "1h", pl.Datetime("us", "UTC")),
        (["2020/01", "2020/02"], "1mo", pl.Date()),
        (["3", "5.0"], "2", pl.Int64()),
    ],
)
def test_every_way_to_write_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stamps: list[str], frequency: str, dtype: pl.DataType
) -> None:
    small_chunks(monkeypatch, read=16, lay_out=1)
    (tmp_path / "t.csv").write_text("ds,y\n" + "".join(f"{stamp},1\n" for stamp in stamps))
    store = prepare(tmp_path / "t.csv", tmp_path / "store")
    assert store.frequency.text == frequency
    assert store.first.dtype == dtype
    assert_same(store, whole(tmp_path / "t.csv", tmp_path / "whole"))


def test_truth_values_and_blanks_count_as_in_a_whole_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch, read=8, lay_out=100)
    (tmp_path / "t.csv").write_text("y,open\n1, true\n2.5,False\n 3 ,TRUE\nNA,\nnull,\n")
    store = prepare(tmp_path / "t.csv", tmp_path / "store", past=["open"])
    assert store.past[:3, 0].tolist() == [1, 0, 1]
    assert_same(store, whole(tmp_path / "t.csv", tmp_path / "whole", past=("open",)))


def test_static_covariates_have_the_type_of_the_whole_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch, read=12, lay_out=1)
    rows = [("a", 1, "1"), ("a", 2, "1.0"), ("b", 1, "2.5"), ("b", 2, "2.5")]
    (tmp_path / "t.csv").write_text("unique_id,ds,y,size\n" + "".join(f"{i},{t},0,{s}\n" for i, t, s in rows))
    store = prepare(tmp_path / "t.csv", tmp_path / "store", static=["size"])
    assert store.static.rows() == [(1.0,), (2.5,)]
    assert_same(store, whole(tmp_path / "t.csv", tmp_path / "whole", static=("size",)))


def test_the_policy_is_kept(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("y\n1\n\n3\n")
    store = prepare(tmp_path / "t.csv", tmp_path / "store", missing="mask")
    assert store.policy == "mask"
    assert store.missing is not None
    assert store.missing.tolist() == [0, 1, 0]
    assert "missing" in {field.name for field in dataclasses.fields(store)}


def test_force_replaces_a_store_and_nothing_else(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("y\n1\n2\n")
    prepare(table, tmp_path / "store")
    with pytest.raises(InputError, match=r"store is not empty.*--force to replace the store"):
        prepare(table, tmp_path / "store")
    table.write_text("y\n3\n4\n")
    assert prepare(table, tmp_path / "store", force=True).y.tolist() == [3, 4]
    table.write_text("y\n3\nx\n")
    with pytest.raises(InputError, match="row 2 holds 'x'"):
        prepare(table, tmp_path / "store", force=True)
    assert Store.open(tmp_path / "store").y.tolist() == [3, 4]
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("kept")
    for force in (False, True):
        with pytest.raises(InputError, match="other is not empty"):
            prepare(table, other, force=force)
    with pytest.raises(InputError, match=r"t\.csv is a file"):
        prepare(table, table, force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "store", "t.csv"]
    assert [path.name for path in other.iterdir()] == ["mine.txt"]

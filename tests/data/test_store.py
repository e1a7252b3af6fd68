"""Stores: what panels put in comes out, and nothing half-written or damaged is taken."""

import errno
import hashlib
import json
import os
import resource
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal, assert_series_equal
from tables import LONG, NAN, long

from gatewise.data import Columns, Panel, Store, build_panel, is_store, store_writer
from gatewise.errors import InputError
from gatewise.runtime.rows import forward_filled

RICH = Columns("y", "unique_id", "ds", past=("wind",), future=("rain",), static=("size", "kind"))


def rich(policy: str = "mask", ids: str = "ba") -> Panel:
    days = [date(2020, 2, 26) + timedelta(k) for k in range(8)]
    df = long(
        (ids[0], days[:4], [1.0, 2.0, None, 3.0]),
        (ids[1], days, [4.0, 5.0, 0.1, -6.0, 2.0, None, None, None]),
        wind=[*range(9), None, None, None],
        rain=[float(k) for k in range(100, 112)],
        size=[1] * 4 + [2] * 8,
        kind=["x"] * 4 + ["é"] * 8,
    )
    return build_panel(df, RICH, missing=policy)


def written(folder: Path, *panels: Panel, missing: str = "mask", force: bool = False) -> Store:
    with store_writer(folder, missing=missing, force=force) as writer:
        for panel in panels:
            writer.append(panel)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    store = Store.open(folder)
    store.verify()
    return store


def same(store: Store, panel: Panel, first: int = 0) -> None:
    """The series of a panel are in a store, from one on."""
    some = slice(first, first + len(panel.ids))
    begin = int(store.starts[first])
    rows = slice(begin, begin + len(panel.y))
    assert_series_equal(store.ids[some], panel.ids)
    assert_frame_equal(store.static[some], panel.static)
    np.testing.assert_array_equal(store.starts[some] - begin, panel.offsets[:-1])
    np.testing.assert_array_equal(store.stops[some] - begin, panel.offsets[1:])
    np.testing.assert_array_equal(store.ends[some] - begin, panel.ends)
    np.testing.assert_array_equal(store.lengths()[some], panel.lengths())
    np.testing.assert_array_equal(store.y[rows], forward_filled(panel.y, panel.offsets).astype(np.float32))
    for i, (start, stop) in enumerate(zip(panel.offsets[:-1], panel.offsets[1:], strict=True)):
        for k in range(start, stop):
            so_far = store.y[begin + start : begin + k + 1]
            assert store.extremes[begin + k].tolist() == [so_far.min(), so_far.max()], i
    missing = np.zeros(len(store.y)) if store.missing is None else store.missing
    np.testing.assert_array_equal(missing[rows], panel.missing)
    np.testing.assert_array_equal(store.past[rows], panel.past)
    np.testing.assert_array_equal(store.future[rows], panel.future)
    series = np.repeat(np.arange(len(panel.ids)), np.diff(panel.offsets)) + first
    assert_series_equal(store.stamps(series, np.arange(rows.start, rows.stop)), panel.time)
    assert (store.columns, store.frequency) == (panel.columns, panel.frequency)


@pytest.mark.parametrize("policy", ["mask", "ffill"])
def test_what_panels_put_in_comes_out(tmp_path: Path, policy: str) -> None:
    one, two = rich(policy), rich(policy, ids="cd")
    store = written(tmp_path / "store", one, two, missing=policy)
    same(store, one)
    same(store, two, first=2)
    assert store.policy == policy
    assert is_store(tmp_path / "store")
    assert not is_store(tmp_path)
    assert not is_store(tmp_path / "store" / "y.bin")


def test_without_covariates_or_gaps_there_are_no_files_for_them(tmp_path: Path) -> None:
    panel = build_panel(pl.DataFrame({"y": [1.0, 2.0, 4.0]}), Columns())
    store = written(tmp_path / "store", panel, missing="error")
    same(store, panel)
    assert store.missing is None
    names = {"index.json", "series.parquet", "offsets.bin", "ends.bin", "y.bin", "extremes.bin"}
    assert {path.name for path in store.path.iterdir()} == names


def test_names_of_columns_do_not_meet_ours(tmp_path: Path) -> None:
    df = pl.DataFrame({"ds": [7, 7], "id": [1, 2], "first": [1.0, 2.0], "unique_id": ["a", "b"]})
    panel = build_panel(df, Columns("first", id="id", static=("ds", "unique_id")))
    same(written(tmp_path / "store", panel), panel)


@pytest.mark.parametrize(
    "times",
    [
        [date(2020, 1, 31), date(2020, 2, 29), date(2020, 3, 31)],
        [date(2020, 1, 2), date(2020, 1, 3), date(2020, 1, 6), date(2020, 1, 7)],
        [date(2019, 11, 5), date(2020, 2, 5), date(2020, 5, 5)],
        [7, 9, 11],
        [datetime(2020, 3, 28, 23) + timedelta(minutes=15 * k) for k in range(20)],
    ],
    ids=["month ends", "business days", "quarters", "numbers", "quarters of hours"],
)
@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_stamps_come_from_the_grid(tmp_path: Path, times: list, zone: str | None) -> None:
    stamps = pl.Series("t", times)
    if isinstance(times[0], date) and zone:
        stamps = stamps.cast(pl.Datetime("ms")).dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
        if not isinstance(times[0], datetime):
            stamps = stamps.dt.replace_time_zone(None).dt.truncate("1d").dt.replace_time_zone(zone)
    df = pl.DataFrame([stamps, pl.Series("y", [1.0] * len(times))])
    panel = build_panel(df, Columns(time="t"))
    store = written(tmp_path / "store", panel)
    same(store, panel)
    # And on into the future, as the table's own would.
    beyond = store.stamps(np.array([0, 0]), np.array([len(times), len(times) + 1]))
    assert_series_equal(beyond, panel.frequency.future(panel.time[-1:], 2))


def test_a_stamp_at_a_clock_put_back_is_refused(tmp_path: Path) -> None:
    days = pl.Series(
        "ds", [datetime(2020, 10, 24, 2, 30), datetime(2020, 10, 25, 2, 30), datetime(2020, 10, 26, 2, 30)]
    )
    stamps = days.dt.replace_time_zone("Europe/Berlin", ambiguous="latest")
    panel = build_panel(pl.DataFrame([stamps, pl.Series("y", [1.0, 2.0, 3.0])]), Columns(time="ds"))
    with pytest.raises(InputError, match=r"has the stamp 2020-10-25 02:30.*give the time in UTC"):
        written(tmp_path / "store", panel)
    assert list(tmp_path.iterdir()) == []


def test_some_of_the_series(tmp_path: Path) -> None:
    one, two = rich(), rich(ids="cd")
    store = written(tmp_path / "store", one, two).select(np.array([False, True, True, False]))
    assert store.ids.to_list() == ["a", "c"]
    assert store.lengths().tolist() == [5, 4]
    assert store.static["kind"].to_list() == ["é", "x"]
    rows = store.starts[:, None] + np.arange(3)
    np.testing.assert_array_equal(store.y[rows], np.array([[4, 5, 0.1], [1, 2, 2]], np.float32))
    stamps = store.stamps(np.array([0, 1]), store.ends)
    assert stamps.to_list() == [date(2020, 3, 2), date(2020, 3, 1)]


# ---- what does not fit together


def test_parts_must_be_alike(tmp_path: Path) -> None:
    days = [date(2020, 1, day) for day in range(1, 5)]
    first = build_panel(long(("a", days, [1.0, 2.0, 3.0, 4.0])), LONG)
    weeks = [days[0] + timedelta(7 * k) for k in range(3)]
    for second, message in (
        (build_panel(long(("b", weeks, [1.0, 2.0, 3.0])), LONG), "the series from 'b' on are weekly, .* before daily"),
        (build_panel(long((5, days, [1.0, 2.0, 3.0, 4.0])), LONG), "'unique_id' holds Int64 .* from 5 on, and String"),
        (build_panel(pl.DataFrame({"y": [1.0]}), Columns()), "the columns of a part are"),
        (first, r"1 series have rows in more than one part of the table, the first 'a': .*\(--id unique_id\)"),
    ):
        with pytest.raises(InputError, match=message):
            written(tmp_path / "store", first, second)
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="nothing to store"):
        written(tmp_path / "store")
    with pytest.raises(InputError, match="missing='drop' is unknown"):
        written(tmp_path / "store", first, missing="drop")


def test_a_place_that_is_taken(tmp_path: Path) -> None:
    panel, folder = rich(), tmp_path / "store"
    folder.mkdir()
    written(folder, panel)  # an empty folder is no hindrance
    before = (folder / "index.json").read_bytes()
    with pytest.raises(InputError, match="not empty: give another, or --force to replace the store"):
        written(folder, rich(ids="cd"))
    assert (folder / "index.json").read_bytes() == before
    assert written(folder, rich(ids="cd"), force=True).ids.to_list() == ["c", "d"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file; a store needs a folder"):
        written(tmp_path / "file", panel, force=True)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="not empty: give another, which does not exist or is empty"):
        written(other, panel, force=True)
    assert (other / "thesis.tex").exists()


# ---- disks and damage


@pytest.mark.parametrize("force", [False, True])
def test_fault_26_a_full_disk_leaves_what_was_there(tmp_path: Path, force: bool) -> None:
    folder = tmp_path / "store"
    if force:
        written(folder, rich())
    before = sorted(tmp_path.iterdir())
    days = [date(1900, 1, 1) + timedelta(k) for k in range(20_000)]
    large = build_panel(long(("z", days, [1.0] * len(days))), LONG)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(InputError, match=rf"the store {folder} cannot be written: {os.strerror(errno.EFBIG)}\."):
            written(folder, large, force=force)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(tmp_path.iterdir()) == before
    if force:
        assert Store.open(folder).ids.to_list() == ["b", "a"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("force", [False, True])
def test_fault_26_a_failing_disk_leaves_what_was_there(
    tmp_path: Path, monkeypatch, function: str, code: int, force: bool
) -> None:
    folder = tmp_path / "store"
    if force:
        written(folder, rich())
    before = sorted(tmp_path.iterdir())

    def failing(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(*((os, "fsync") if function == "fsync" else (Path, "replace")), failing)
    with pytest.raises(InputError, match=f"cannot be written: {os.strerror(code)}"):
        written(folder, rich(ids="cd"), force=force)
    monkeypatch.undo()
    assert sorted(tmp_path.iterdir()) == before
    if force:
        assert Store.open(folder).ids.to_list() == ["b", "a"]


def test_every_file_is_on_the_disk_before_the_store_takes_its_place(tmp_path: Path, monkeypatch) -> None:
    synced: set[int] = set()
    before: list[set[int]] = []
    fsync, replace = os.fsync, Path.replace

    def noted(handle: int) -> None:
        synced.add(os.fstat(handle).st_ino)
        fsync(handle)

    def moved(path: Path, target: Path) -> Path:
        before.append(set(synced))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(Path, "replace", moved)
    written(tmp_path / "store", rich())
    names = {path.stat().st_ino: path.name for path in [*(tmp_path / "store").iterdir(), tmp_path / "store"]}
    assert len(names) == 10
    assert [name for node, name in names.items() if node not in before[0]] == []
    assert tmp_path.stat().st_ino in synced


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_between_parts_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def half() -> None:
        with store_writer(tmp_path / "store") as writer:
            writer.append(rich())
            raise error

    with pytest.raises(error):
        half()
    assert list(tmp_path.iterdir()) == []


NAMES = ("index.json", "series.parquet", *(f"{name}.bin" for name in ("offsets", "ends", "y", "extremes", "missing")))


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_file_is_named(tmp_path: Path, name: str) -> None:
    file = written(tmp_path / "store", rich()).path / name
    file.write_bytes(file.read_bytes()[:-1])
    # Of the index, the last byte is the line end, without which it is whole.
    if name == "index.json":
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(
        InputError, match=rf"^{tmp_path}/store/{name} is damaged: (?!.*InputError).*; prepare the store again\.$"
    ):
        Store.open(tmp_path / "store")


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_gone_is_named(tmp_path: Path, name: str) -> None:
    (written(tmp_path / "store", rich()).path / name).unlink()
    with pytest.raises(InputError, match=name):
        Store.open(tmp_path / "store")


@pytest.mark.parametrize("name", [*NAMES, "past.bin", "future.bin"])
def test_a_flipped_byte_is_found(tmp_path: Path, name: str) -> None:
    store = written(tmp_path / "store", rich())
    data = bytearray((store.path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (store.path / name).write_bytes(data)
    small = name in NAMES[:4]
    with pytest.raises(
        InputError, match=rf"^{tmp_path}/store/{name} is damaged: (?!.*InputError).*; prepare the store again\.$"
    ):
        Store.open(store.path) if small else Store.open(store.path).verify()


def test_newer_and_foreign_indexes(tmp_path: Path) -> None:
    store = written(tmp_path / "store", rich())
    file = store.path / "index.json"
    whole = json.loads(file.read_text())
    for change, message in (
        ({"version": 2}, "version 2, from a newer gatewise; this reads 1"),
        ({"version": 0}, r"version 0; this reads 1"),
        ({"kind": "mail"}, "its index.json is of 'mail'"),
        ({"rows": 3}, "index.json is damaged: its content does not match"),
    ):
        file.write_text(json.dumps(whole | {"index": whole["index"] | change}))
        with pytest.raises(InputError, match=message):
            Store.open(store.path)
    for text in ("", "[]", "{}", "null", '{"index": 3}', "{"):
        file.write_text(text)
        with pytest.raises(InputError, match=r"index\.json is damaged"):
            Store.open(store.path)
    with pytest.raises(InputError, match=r"is not a store: it has no index\.json"):
        Store.open(tmp_path)


@pytest.mark.parametrize("key", ["columns", "frequency", "files", "series", "rows", "missing"])
def test_an_index_that_lacks_something(tmp_path: Path, key: str) -> None:
    store = written(tmp_path / "store", rich())
    _rewrite(store.path / "index.json", {key: None})
    with pytest.raises(InputError, match="is damaged"):
        Store.open(store.path)


def test_an_index_cannot_lead_out_of_its_folder(tmp_path: Path) -> None:
    store = written(tmp_path / "store", rich())
    files = json.loads((store.path / "index.json").read_text())["index"]["files"]
    _rewrite(store.path / "index.json", {"files": files | {"../secret": {"bytes": 0, "sha256": ""}}})
    with pytest.raises(InputError, match=r"index.json is damaged.*\.\./secret"):
        Store.open(store.path)


def _rewrite(file: Path, change: dict) -> None:
    """An index that says something else, with a right digest."""
    index = json.loads(file.read_text())["index"] | change
    digest = hashlib.sha256(json.dumps(index, indent=1).encode()).hexdigest()
    file.write_text(json.dumps({"sha256": digest, "index": index}))


def test_rows_are_mapped_and_cannot_be_written(tmp_path: Path) -> None:
    store = written(tmp_path / "store", rich())
    assert store.y[0] != NAN
    for array in (store.y, store.extremes, store.past):
        assert not array.flags.writeable
        assert not array.flags.owndata


def test_force_replaces_no_folder_that_only_has_an_index_and_no_store_with_others_files(tmp_path: Path) -> None:
    panel = build_panel(pl.DataFrame({"y": [1.0, 2.0]}), Columns())
    web, store = tmp_path / "web", tmp_path / "store"
    web.mkdir()
    (web / "index.json").write_text("{}")
    (web / "precious.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty"), store_writer(web, force=True) as writer:
        writer.append(panel)
    assert (web / "precious.txt").read_text() == "mine"
    for _ in range(2):
        with store_writer(store, force=True) as writer:
            writer.append(panel)
    (store / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"also holds 'notes\.txt'"), store_writer(store, force=True) as writer:
        writer.append(panel)
    assert (store / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store", "web"]


def test_a_signal_between_the_two_renames_leaves_the_old_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(value: float) -> None:
        with store_writer(tmp_path / "store", force=True) as writer:
            writer.append(build_panel(pl.DataFrame({"y": [value, value]}), Columns()))

    write(1.0)
    plain, calls = Path.replace, 0

    def replace(source: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise SystemExit(143)
        return plain(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(SystemExit):
            write(2.0)
    assert Store.open(tmp_path / "store").y.tolist() == [1.0, 1.0]
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_store_in_the_folder_that_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with store_writer(".") as writer:
        writer.append(build_panel(pl.DataFrame({"y": [1.0, 2.0]}), Columns()))
    assert Store.open(tmp_path / "here").y.tolist() == [1.0, 2.0]


def test_verify_names_a_file_that_is_gone(tmp_path: Path) -> None:
    with store_writer(tmp_path / "store") as writer:
        writer.append(build_panel(pl.DataFrame({"y": [1.0, 2.0]}), Columns()))
    store = Store.open(tmp_path / "store")
    (tmp_path / "store" / "y.bin").unlink()
    with pytest.raises(InputError, match=r"y\.bin cannot be read: No such file"):
        store.verify()

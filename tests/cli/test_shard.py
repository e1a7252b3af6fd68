"""gatewise predict --shard: parts that together hold every row once, in the order of the whole."""

from pathlib import Path

import polars as pl
import pytest
from cli_tools import SMALL, command, long_table, refuses, snapshot, succeeds

from gatewise.data import read_table
from gatewise.errors import InputError
from gatewise.tasks.forecast.shares import parse_shard, part_path


@pytest.fixture(scope="module")
def five(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of five series, of lengths that differ."""
    frames = [long_table([name], rows=30 + 7 * n) for n, name in enumerate("eadbc")]
    path = tmp_path_factory.mktemp("five") / "five.csv"
    pl.concat(frames).write_csv(path)
    return path


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 12])
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_the_parts_are_the_whole(trained: Path, five: Path, tmp_path: Path, count: int, ending: str) -> None:
    whole, parts = tmp_path / f"whole.{ending}", tmp_path / "parts" / f"f.{ending}"
    parts.parent.mkdir()
    succeeds("predict", trained / "run", five, "-o", whole)
    rows = [
        succeeds("predict", trained / "run", five, "-o", parts, "--shard", f"{i}/{count}").err
        for i in range(count, 0, -1)
    ]
    # By name: what a reader of the folder does.
    paths = sorted(parts.parent.iterdir())
    assert len(paths) == count
    assert all(f"-of-{count}.{ending}" in path.name for path in paths)
    if ending == "csv":
        header, *lines = whole.read_text().splitlines(keepends=True)
        found = [path.read_text().splitlines(keepends=True) for path in paths]
        assert [part[0] for part in found] == [header] * count
        assert [line for part in found for line in part[1:]] == lines
    else:
        read = [pl.read_parquet(path) for path in paths]
        expected = pl.read_parquet(whole)
        assert all(part.schema == expected.schema for part in read)
        assert pl.concat(read).equals(expected)
    sizes = [int(text.split()[3]) for text in rows]
    assert sum(sizes) == 5
    assert max(sizes) - min(sizes) <= 1


def test_what_a_pattern_reads_is_the_whole(trained: Path, tmp_path: Path) -> None:
    long_table("lcbdefaghkij", rows=20).write_csv(tmp_path / "twelve.csv")
    words = ["predict", trained / "run", tmp_path / "twelve.csv", "-o"]
    for index in range(1, 12):
        succeeds(*words, tmp_path / "f.parquet", "--shard", f"{index}/11")
    succeeds(*words, tmp_path / "whole.parquet")
    assert read_table(tmp_path / "f.*-of-11.parquet").equals(pl.read_parquet(tmp_path / "whole.parquet"))


def test_shards_with_covariates(shops: Path, tmp_path: Path) -> None:
    for index in (1, 2, 3):
        succeeds("predict", shops / "run", shops / "shops.csv", "-o", tmp_path / "f.csv", "--shard", f"{index}/3")
    whole = succeeds("predict", shops / "run", shops / "shops.csv").raw_out
    texts = [(tmp_path / f"f.{index}-of-3.csv").read_text() for index in (1, 2, 3)]
    header = whole.partition("\n")[0] + "\n"
    assert header + "".join(text.removeprefix(header) for text in texts) == whole


def test_shards_of_a_store(trained: Path, five: Path, tmp_path: Path) -> None:
    succeeds("prepare", five, "-o", tmp_path / "store")
    for index in (1, 2, 3, 4, 5, 6, 7):
        succeeds("predict", trained / "run", tmp_path / "store", "-o", tmp_path / "f.csv", "--shard", f"{index}/7")
    whole = succeeds("predict", trained / "run", tmp_path / "store").raw_out
    texts = [(tmp_path / f"f.{index}-of-7.csv").read_text() for index in (1, 2, 3, 4, 5, 6, 7)]
    header = whole.partition("\n")[0] + "\n"
    assert header + "".join(text.removeprefix(header) for text in texts) == whole


def test_series_that_are_left_out_are_left_out_before_the_series_are_shared(tmp_path: Path, quick: Path) -> None:
    frames = [long_table(["long", "other"]), long_table(["tiny"], rows=3), long_table(["last"])]
    pl.concat([frames[0], frames[2]]).write_csv("table.csv")
    succeeds("fit", "table.csv", *SMALL, "--short", "drop", "--out", "run")
    pl.concat(frames).write_csv("more.csv")
    for index in (1, 2, 3):
        assert "note: " in succeeds("predict", "run", "more.csv", "-o", "f.csv", "--shard", f"{index}/3").err
    assert [read_table(f"f.{index}-of-3.csv")["unique_id"].unique().to_list() for index in (1, 2, 3)] == [
        ["long"], ["other"], ["last"],
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["0/4", "5/4", "x/y", "1", "1/0", "0/0", "-1/4", "1/4/2", "1/ 4", "1.0/4", "²/4", ""])
def test_a_shard_that_is_none_is_refused_before_anything_is_read(tmp_path: Path, text: str) -> None:
    said = refuses("predict", "no-model", "no-table.csv", "-o", tmp_path / "f.csv", f"--shard={text}")
    assert said == f"--shard {text} is not i/n with i from 1 to n, such as 2/4 for the second of four."
    with pytest.raises(InputError, match="is not i/n"):
        parse_shard(text)
    assert not snapshot(tmp_path)


def test_a_shard_needs_a_file(trained: Path, five: Path) -> None:
    assert "--shard needs -o" in refuses("predict", trained / "run", five, "--shard", "1/2")


def test_a_shard_under_torchrun_is_refused(
    trained: Path, five: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    result = command("predict", trained / "run", five, "-o", tmp_path / "f.csv", "--shard", "1/2")
    assert result.code == 1
    assert result.raw_err.startswith("gatewise (process 2 of 2): --shard is for processes that know nothing")
    assert not snapshot(tmp_path)


def test_a_part_that_cannot_be_written_leaves_what_was_there(
    trained: Path, five: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["predict", trained / "run", five, "-o", tmp_path / "f.csv", "--shard", "2/3"]
    succeeds(*words)
    before = snapshot(tmp_path)
    assert list(before) == ["f.2-of-3.csv"]

    def no_room(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_room)
    assert refuses(*words) == f"{tmp_path / 'f.2-of-3.csv'} cannot be written: No space left on device."
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("index", "count", "name"),
    [(0, 1, "f.1-of-1.csv"), (8, 9, "f.9-of-9.csv"), (0, 10, "f.01-of-10.csv"), (99, 100, "f.100-of-100.csv")],
)
def test_names_of_parts_sort_as_the_parts_do(index: int, count: int, name: str) -> None:
    assert part_path("some/f.csv", index, count) == Path("some", name)
    names = [part_path("a.b.parquet", each, count).name for each in range(count)]
    assert names == sorted(names)
    assert all(each.startswith("a.b.") for each in names)

"""Faults of data files, by their numbers in the list of faults: fit and prepare refuse the same ones alike."""

import json
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from cli_tools import SMALL, long_table, refuses, snapshot, succeeds, wave

from gatewise.data import Store, csv_text
from gatewise.format import load_model

COMMANDS = {"fit": [*SMALL, "--out", "made"], "prepare": ["-o", "made"]}
LINES = csv_text(long_table()).splitlines(keepends=True)
HEADER = LINES[0]


def refused(command: str, folder: Path, text: str | bytes, *more: str) -> str:
    """What a command says of a table that it refuses; nothing is written."""
    (folder / "t.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    before = snapshot(folder)
    said = refuses(command, "t.csv", *COMMANDS[command], *more)
    assert snapshot(folder) == before
    return said


def edited(line: int, text: str) -> str:
    return "".join([*LINES[: line - 1], text, *LINES[line:]])


@pytest.mark.parametrize("command", COMMANDS)
def test_fault_01_cut_nul_and_ragged(quick: Path, command: str) -> None:
    cut = refused(command, quick, "".join(LINES[:119]) + "b,2024-0")
    assert "t.csv, line 120" in cut
    assert "before column 'y'" in cut
    assert "cut in the middle of a row" in cut
    assert "t.csv, line 7, column 3 holds a NUL byte" in refused(
        command, quick, edited(7, "a,2024-01-01 05:00:00,1\0\n")
    )
    short = refused(command, quick, edited(7, "a,2024-01-01 05:00:00\n"))
    assert "t.csv, line 7 has 2 fields where the header has 3: the row ends before column 'y'" in short
    long = refused(command, quick, edited(7, "a,2024-01-01 05:00:00,1,2\n"))
    assert "t.csv, line 7 has 4 fields where the header has 3: the row goes on after column 'y'" in long
    quotes = refused(command, quick, "".join(LINES[:119]) + '"b,2024-0')
    assert "t.csv, line 120: the row cannot be read (its quotes do not close)" in quotes


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("cell", ["", "NaN", "inf", "-inf"])
def test_fault_02_missing_and_infinite_cells(quick: Path, command: str, cell: str) -> None:
    text = edited(22, f"a,2024-01-01 20:00:00,{cell}\n")
    said = refused(command, quick, text)
    assert "row 21" in said
    if "inf" in cell:
        for policy in ("ffill", "mask"):
            assert "infinite" in refused(command, quick, text, "--missing", policy)
        return
    assert "series 'a', ds 2024-01-01 20:00:00" in said
    assert "--missing ffill or --missing mask" in said
    for policy in ("ffill", "mask"):
        succeeds(command, "t.csv", *COMMANDS[command], "--missing", policy, "--force")
        if command == "prepare":
            assert Store.open("made").policy == policy
        else:
            assert load_model(Path("made/model.safetensors")).settings["missing"] == policy


@pytest.mark.parametrize("command", COMMANDS)
def test_fault_04_order_duplicates_and_zones(quick: Path, command: str) -> None:
    swapped = "".join([*LINES[:10], LINES[11], LINES[10], *LINES[12:]])
    said = refused(command, quick, swapped)
    assert "not sorted: series 'a', ds 2024-01-01 09:00:00 (row 11) comes after ds 2024-01-01 10:00:00" in said
    said = refused(command, quick, "".join([*LINES[:11], LINES[10], *LINES[11:]]))
    assert "1 duplicate stamp, the first at series 'a', ds 2024-01-01 09:00:00 (row 11)" in said
    zoned = [line.replace(":00:00,", ":00:00+01:00,") for line in LINES]
    said = refused(command, quick, "".join([*zoned[:30], *(line.replace("+01:00", "+02:00") for line in zoned[30:])]))
    assert "mixes time zones (+01:00 at first, +02:00 in row 30)" in said
    said = refused(command, quick, "".join([*LINES[:30], *zoned[30:]]))
    assert "mixes time zones (none at first, +01:00 in row 30)" in said


@pytest.mark.parametrize("command", COMMANDS)
def test_fault_04_clock_changes(quick: Path, command: str) -> None:
    def table(start: datetime, wall: bool) -> str:
        """Forty hours around a clock change of Berlin, on its clock or in UTC."""
        stamps = pl.Series([start + timedelta(hours=k) for k in range(40)]).dt.replace_time_zone("UTC")
        shown = stamps.dt.convert_time_zone("Europe/Berlin").dt.replace_time_zone(None) if wall else stamps
        form = "%Y-%m-%d %H:%M:%S" + ("" if wall else "Z")
        return HEADER + "".join(f"a,{shown[k].strftime(form)},{wave(k)}\n" for k in range(40))

    autumn, spring = datetime(2024, 10, 26, 12), datetime(2024, 3, 30, 12)
    said = refused(command, quick, table(autumn, wall=True))
    assert "1 duplicate stamp, the first at series 'a', ds 2024-10-27 02:00:00" in said
    said = refused(command, quick, table(spring, wall=True))
    assert "1 row is missing from the hourly grid, the first after series 'a', ds 2024-03-31 01:00:00" in said
    for start in (autumn, spring):
        (quick / "t.csv").write_text(table(start, wall=False))
        succeeds(command, "t.csv", *COMMANDS[command], "--force")
    if command == "prepare":
        assert len(Store.open("made").y) == 40


def test_fault_04_sorted_by_time_is_as_good_as_sorted_by_series(quick: Path) -> None:
    table = long_table(("b", "a"))
    table.write_csv("t.csv")
    table.sort("ds", maintain_order=True).write_csv("mixed.csv")
    for name in ("t", "mixed"):
        succeeds("prepare", f"{name}.csv", "-o", f"store-{name}")
        succeeds("fit", f"{name}.csv", *SMALL, "--out", f"run-{name}")
    assert snapshot(quick / "store-t") == snapshot(quick / "store-mixed")
    weights = [load_model(Path(f"run-{name}/model.safetensors")).weights for name in ("t", "mixed")]
    for name, value in weights[0].items():
        np.testing.assert_array_equal(value, weights[1][name])


@pytest.mark.parametrize("policy", ["ffill", "mask"])
def test_fault_04_nothing_of_the_test_period_reaches_training(quick: Path, policy: str) -> None:
    held = 8
    blank = pl.when(pl.int_range(pl.len()) % 17 == 3).then(None).otherwise(pl.col("y"))
    table = long_table(rows=60).with_columns(y=blank, wind=pl.int_range(pl.len()) % 5 / 2)
    late = pl.int_range(pl.len()).over("unique_id") >= 60 - held
    other = table.with_columns(
        y=pl.when(late & pl.col("y").is_not_null()).then(pl.col("y") * -50 + 7).otherwise(pl.col("y")),
        wind=pl.when(late).then(pl.lit(900.0)).otherwise(pl.col("wind")),
    )
    models, stores = [], []
    for name, given in (("one", table), ("two", other)):
        given.write_csv(f"{name}.csv")
        roles = ["--past", "wind", "--missing", policy]
        succeeds("fit", f"{name}.csv", *SMALL, *roles, "--holdout", held, "--out", f"run-{name}")
        succeeds("prepare", f"{name}.csv", *roles, "-o", f"store-{name}")
        models.append(load_model(Path(f"run-{name}/model.safetensors")))
        stores.append(Store.open(f"store-{name}"))
    assert json.dumps(models[0].settings, sort_keys=True) == json.dumps(models[1].settings, sort_keys=True)
    assert models[0].weights.keys() == models[1].weights.keys()
    for name, value in models[0].weights.items():
        np.testing.assert_array_equal(value, models[1].weights[name])
    one, two = stores
    train = np.concatenate([np.arange(start, stop - held) for start, stop in zip(one.starts, one.stops, strict=True)])
    for name in ("y", "extremes", "past"):
        np.testing.assert_array_equal(getattr(one, name)[train], getattr(two, name)[train])
    assert not np.array_equal(one.y, two.y)

"""Wrong input gets a sentence on stderr and exit code 1; nothing is written, nothing overwritten, nothing run."""

import gzip
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from cli_tools import SHOP_ROLES, SMALL, START, hourly, long_table, refuses, shop_table, small, snapshot
from safetensors.numpy import save_file

Write = Callable[[Path], object]


def text(content: str | bytes, name: str = "table.csv") -> Write:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def frame(table: pl.DataFrame, name: str = "table.csv") -> Write:
    return lambda folder: table.write_csv(folder / name) if name.endswith("csv") else table.write_parquet(folder / name)


def edited(**cells: object) -> pl.DataFrame:
    """The usual table with one cell changed: column__row=value."""
    table = long_table()
    for place, value in cells.items():
        column, row = place.split("__")
        values = table[column].to_list()
        values[int(row)] = value
        table = table.with_columns(pl.Series(column, values, strict=False))
    return table


CSV = long_table().write_csv()
LINES = CSV.splitlines(keepends=True)
SHORT = pl.concat([long_table(), long_table(("c", "d"), rows=9)])


def cut_gzip(folder: Path) -> None:
    (folder / "table.csv.gz").write_bytes(gzip.compress(CSV.encode())[:-40])


def cut_parquet(folder: Path) -> None:
    long_table().write_parquet(folder / "t.parquet")
    (folder / "t.parquet").write_bytes((folder / "t.parquet").read_bytes()[:-3])


@dataclass(frozen=True)
class Case:
    """Files to write, words to say, and what the sentence must tell."""

    name: str
    words: str
    said: tuple[str, ...]
    write: tuple[Write, ...] = field(default=(frame(long_table()),))


def fit(name: str, said: tuple[str, ...], write: Write, more: str = "", table: str = "table.csv") -> Case:
    return Case(name, f"fit {table} {' '.join(SMALL)} {more} --out run", said, (write,))


def option(name: str, more: str, *said: str, write: tuple[Write, ...] = ()) -> Case:
    return Case(name, f"fit table.csv {' '.join(small(*more.split()))}", said, (frame(long_table()), *write))


TABLES = [
    fit("missing file", ("no such file: tabel.csv", "Did you mean table.csv?"), text(CSV), table="tabel.csv"),
    fit("nothing at all", ("no such file",), lambda folder: None),
    fit("a pattern that matches nothing", ("no file matches part-*.csv",), text(CSV), table="part-*.csv"),
    fit("a folder", ("is a folder", "*.csv"), lambda folder: (folder / "table.csv").mkdir()),
    fit("empty file", ("table.csv is empty",), text("")),
    fit("blank file", ("table.csv is empty",), text(" \n\n")),
    fit("header alone", ("has a header but no rows",), text(LINES[0])),
    fit("no header", ("line 1 holds numbers",), text("1.5,2.5\n2.5,3.5\n")),
    fit("a spreadsheet", ("not a known kind of table", ".csv"), text(b"PK\x03\x04", "t.xlsx"), table="t.xlsx"),
    fit("a zip called csv", ("not a text table", "zip"), text(b"PK\x03\x04\x00\x00")),
    fit(
        "a Parquet file called csv",
        ("a Parquet file",),
        lambda folder: long_table().write_parquet(folder / "table.csv"),
    ),
    fit("a CSV called parquet", ("not a Parquet file",), text(CSV, "t.parquet"), table="t.parquet"),
    fit("a picture", ("not UTF-8 text",), text(b"\x89PNG\r\n\x1a\n" + bytes(range(1, 200)))),
    fit("NUL bytes", ("line 4, column 3", "NUL"), text("".join(LINES[:3]) + "a,2024-01-01,\0\n")),
    fit("semicolons", ("line 1", "semicolons"), text(CSV.replace(",", ";"))),
    fit("cut in a row", ("table.csv, line 120", "cut in the middle of a row"), text("".join(LINES[:119]) + "b,2024-0")),
    fit("cut in quotes", ("table.csv, line 5", "cut in the middle of a row"), text("".join(LINES[:4]) + '"b,2024-0')),
    fit(
        "a row too short",
        ("table.csv, line 7", "2 fields where the header has 3"),
        text(CSV.replace(LINES[6], "a,1\n")),
    ),
    fit(
        "a row too long",
        ("table.csv, line 7", "4 fields where the header has 3"),
        text(CSV.replace(LINES[6], "a,1,2,3\n")),
    ),
    fit("gzip cut", ("table.csv.gz is cut",), cut_gzip, table="table.csv.gz"),
    fit("parquet cut", ("t.parquet is cut",), cut_parquet, table="t.parquet"),
    fit("target absent", ("no column 'load'", "Did you mean 'Loads'?"), text("Loads\n1\n2\n"), "--target load"),
    fit("id absent", ("no column 'shop' for the id", "unique_id, ds, y"), text(CSV), "--id shop"),
    fit("time absent", ("no column 'date' for the time",), text(CSV), "--time date"),
    fit("covariate absent", ("no column 'wnd' for the past covariate",), text(CSV), "--past wnd"),
    fit("one column twice", ("'ds' is named twice",), text(CSV), "--past ds --time ds"),
    fit("target of words", ("target 'y' is not numeric", "row 21 holds 'broken'"), frame(edited(y__20="broken"))),
    fit("target of dates", ("target 'ds' is not numeric",), text(CSV), "--target ds"),
    fit(
        "blank inside",
        ("blank in 1 cell", "series 'a', ds 2024-01-01 20:00:00 (row 21)", "--missing"),
        frame(edited(y__20=None)),
    ),
    fit("NaN inside", ("blank in 1 cell", "(row 21)"), frame(edited(y__20=float("nan")))),
    fit("no value at all", ("no value at all",), frame(long_table().with_columns(y=pl.lit(None, pl.Float64)))),
    fit("Inf", ("infinite in 1 row", "row 21"), frame(edited(y__20=float("inf")))),
    fit(
        "minus Inf", ("infinite in 1 row", "row 21"), frame(edited(y__20=float("-inf")), "t.parquet"), table="t.parquet"
    ),
    fit(
        "duplicates",
        ("1 duplicate stamp", "series 'b', ds 2024-01-01 09:00:00 (row 71)"),
        frame(edited(ds__70=hourly(9))),
    ),
    fit("series not told apart", ("not sorted", "--id"), frame(long_table().rename({"unique_id": "shop"}))),
    fit("unsorted", ("not sorted", "sort the table by time"), frame(long_table().reverse())),
    fit(
        "off the grid",
        ("irregular frequency", "20:20:30", "hourly"),
        frame(edited(ds__20=START + timedelta(hours=20, seconds=1230))),
    ),
    fit("a row left out", ("1 row is missing from the hourly grid", "--missing"), text(CSV.replace(LINES[30], ""))),
    fit(
        "time of words",
        ("time column 'ds' cannot be read", "row 6 holds 'soon'"),
        text(CSV.replace(LINES[6], "a,soon,1\n")),
    ),
    fit("two time zones", ("mixes time zones",), text("ds,y\n2024-01-01 00:00:00Z,1\n2024-01-01 01:00:00+02:00,2\n")),
    fit("blank id", ("id column 'unique_id' is blank in 1 row",), text(CSV.replace(LINES[6], LINES[6][1:]))),
    fit("short series", ("2 of 4 series", "16 rows", "c, d", "the shortest has 9", "--short pad"), frame(SHORT)),
    fit("all short", ("2 of 2 series", "None is left"), frame(long_table(rows=9)), "--short drop"),
    fit("too short to pad", ("no series is long enough", "longest has 4"), frame(long_table(rows=4)), "--short pad"),
    fit(
        "static changes",
        ("static covariate 'y' changes within series 'a'",),
        frame(long_table().with_columns(z="y")),
        "--target z --static y",
    ),
]

OPTIONS = [
    option("horizon 0", "--horizon 0", "horizon must be from 1", "not 0"),
    option("horizon negative", "--horizon -1", "horizon must be from 1", "not -1"),
    option("hidden 0", "--hidden 0", "hidden must be from 1"),
    option("epochs 0", "--epochs 0", "epochs must be from 1"),
    option("holdout negative", "--holdout -1", "holdout must be from 0"),
    option("dropout of 1", "--dropout 1", "dropout must be from 0 to 0.99"),
    option("noise below 0", "--input-noise -1", "input_noise must be from 0 to 100"),
    option("learning rate NaN", "--learning-rate nan", "learning_rate must be"),
    option("no median", "--quantiles 0.1 0.9", "quantiles", "0.5 among them"),
    option("quantiles descend", "--quantiles 0.9 0.5 0.1", "quantiles", "ascending"),
    option("a quantile of 1", "--quantiles 0.5 1", "quantiles", "between 0 and 1"),
    option("config absent", "--config no.toml", "config file no.toml does not exist"),
    option("config broken", "--config c.toml", "c.toml cannot be read", write=(text("horizon = ", "c.toml"),)),
    option(
        "config unknown key",
        "--config c.toml",
        "'saeson'",
        "did you mean season?",
        write=(text("saeson = 6", "c.toml"),),
    ),
    option(
        "config of words",
        "--config c.toml",
        "c.toml: hidden must be a whole number, not 'x'",
        write=(text('hidden = "x"', "c.toml"),),
    ),
    option(
        "config choice",
        "--config c.toml",
        "c.toml: missing must be one of",
        write=(text('missing = "guess"', "c.toml"),),
    ),
    option("config id", "--config c.toml", "c.toml: id must be the name", write=(text("id = 5", "c.toml"),)),
    option("config past", "--config c.toml", "c.toml: past must be a list", write=(text("past = 5", "c.toml"),)),
    option(
        "config one quantile", "--config c.toml", "c.toml: quantiles must", write=(text("quantiles = 0.5", "c.toml"),)
    ),
    option("config section", "--config c.toml", "c.toml: horizon must", write=(text("[horizon]\nx = 1", "c.toml"),)),
    option("config not text", "--config c.toml", "c.toml cannot be read", write=(text(b"\xff\xfe", "c.toml"),)),
    option(
        "out not empty",
        "--out full",
        "output folder full is not empty",
        "--force",
        write=(lambda folder: (folder / "full/x").mkdir(parents=True),),
    ),
    option("out a file", "--out table.csv", "table.csv is a file"),
    option("out a file, forced", "--out table.csv --force", "table.csv is a file"),
    option("out below a file", "--out table.csv/run", "cannot be made"),
    option("an option twice", "--past wind --past load", "--past is given twice: give it once, with all its values"),
    option("an option twice, in two ways", "--save-every 3 --save_every=4", "--save-every is given twice"),
    option("out of no name", "--out=", "out is empty", "name a file or folder"),
    option("config a folder", "--config .", "config file . cannot be read: Is a directory"),
    option("no steps between checkpoints", "--save-every 0", "save_every must be a whole number from 1, not 0"),
    option("out where nothing can be made", "--out /proc/run", "/proc/run cannot be made"),
]


def check(case: Case, folder: Path) -> None:
    for write in case.write:
        write(folder)
    before = snapshot(folder)
    sentence = refuses(*case.words.split())
    for part in case.said:
        assert part in sentence
    assert sentence.endswith((".", "?", "gatewise"))  # a sentence, or the command that mends it
    assert snapshot(folder) == before


@pytest.mark.parametrize("case", [*TABLES, *OPTIONS], ids=lambda case: case.name)
def test_fit_refuses(quick: Path, case: Case) -> None:
    check(case, quick)


# --- models and the tables beside them ------------------------------------------------------------------------------


@pytest.fixture
def at(quick: Path, trained: Path, shops: Path) -> Path:
    """A folder with run/ and table.csv of hours, shop/ and shops.csv of days with covariates."""
    shutil.copytree(trained / "run", quick / "run")
    shutil.copy(trained / "table.csv", quick)
    shutil.copytree(shops / "run", quick / "shop")
    shutil.copy(shops / "shops.csv", quick)
    return quick


def future(**changes: pl.Expr) -> pl.DataFrame:
    return shop_table().filter(pl.col("sales").is_null()).select("shop", "day", "price").with_columns(**changes)


def damaged(old: bytes, new: bytes) -> Write:
    """The model file with its first ``old`` replaced."""

    def write(folder: Path) -> None:
        path = folder / "run" / "model.safetensors"
        data = path.read_bytes()
        assert old in data
        path.write_bytes(data.replace(old, new, 1))

    return write


def flipped(position: int) -> Write:
    """The model file with one bit of the byte at a position (from the end if negative) turned over."""

    def write(folder: Path) -> None:
        path = folder / "run" / "model.safetensors"
        data = bytearray(path.read_bytes())
        data[position] ^= 1
        path.write_bytes(data)

    return write


def cut(length: int) -> Write:
    def write(folder: Path) -> None:
        path = folder / "run" / "model.safetensors"
        path.write_bytes(path.read_bytes()[:length])

    return write


def case(name: str, words: str, *said: str, write: Write | None = None) -> Case:
    return Case(name, words, said, (write,) if write else ())


def weights_alone(folder: Path) -> None:
    save_file({"w": np.zeros(3, np.float32)}, folder / "w.safetensors")


def trained_on(folder: Path) -> None:
    """A table that ends before the training cut-off, and the truth that follows it."""
    long_table(rows=40).write_csv(folder / "t.csv")
    long_table(rows=44).filter(pl.col("ds") >= hourly(40)).write_csv(folder / "u.csv")


HISTORY = shop_table(future=0)
MODELS = [
    case("no model", "predict nowhere table.csv", "nowhere does not exist"),
    case(
        "a folder without a model",
        "predict empty table.csv",
        "does not exist",
        write=lambda folder: (folder / "empty").mkdir(),
    ),
    case(
        "a newer model",
        "predict run table.csv",
        "format 9",
        "newer",
        "pip install --upgrade",
        write=damaged(b'\\"format\\":2', b'\\"format\\":9'),
    ),
    case("a damaged weight", "predict run table.csv", "is damaged", write=flipped(-2)),
    case("a damaged header", "predict run table.csv", "is damaged", write=flipped(40)),
    case("a cut model", "predict run table.csv", "is damaged", write=cut(-100)),
    case("a model cut in its header", "predict run table.csv", "is damaged", "ends before its header", write=cut(500)),
    case("an empty model", "predict run table.csv", "is not a model file", write=cut(0)),
    case("a table as a model", "predict table.csv table.csv", "table.csv is not a model file"),
    case("weights of something else", "predict w.safetensors table.csv", "no gatewise model", write=weights_alone),
    case("a damaged model, evaluated", "evaluate run table.csv", "is damaged", write=flipped(-2)),
    case("no table", "predict run tabel.csv", "Did you mean table.csv?"),
    case(
        "table cut",
        "predict run t.csv",
        "t.csv, line 60",
        "cut in the middle",
        write=text(CSV[: CSV.index("b,") - 60], "t.csv"),
    ),
    case(
        "target absent",
        "predict run t.csv",
        "no column 'y' for the target",
        write=frame(long_table().rename({"y": "z"}), "t.csv"),
    ),
    case(
        "another frequency",
        "predict run t.csv",
        "trained on hourly data",
        "daily",
        write=frame(long_table(time=lambda k: START + timedelta(days=k)), "t.csv"),
    ),
    case(
        "shorter than a window",
        "predict run t.csv",
        "1 of 2 series",
        "12 rows",
        "b",
        write=frame(long_table().head(70), "t.csv"),
    ),
    case("NaN inside", "predict run t.csv", "blank in 1 cell", write=frame(edited(y__20=None), "t.csv")),
    case("Inf", "predict run t.csv", "infinite", write=frame(edited(y__20=float("inf")), "t.csv")),
    case("ending of the output", "predict run table.csv -o f.xlsx", ".csv or .parquet"),
    case("folder of the output", "predict run table.csv -o no/f.csv", "no/f.csv cannot be written"),
    case(
        "no future covariates",
        "predict shop h.csv",
        "future covariates are missing",
        "price",
        "0 future rows",
        "4 are needed",
        "--future-table",
        write=frame(HISTORY, "h.csv"),
    ),
    case("too few future rows", "predict shop h.csv", "has 3 future rows", write=frame(shop_table(future=3), "h.csv")),
    case("future table absent", "predict shop shops.csv --future-table plan.csv", "no such file: plan.csv"),
    case(
        "future table overlaps",
        "predict shop shops.csv --future-table plan.csv",
        "overlaps",
        write=frame(future(), "plan.csv"),
    ),
    case(
        "future table lacks a column",
        "predict shop shops.csv --future-table plan.csv",
        "future table has no column 'price'",
        write=frame(future().drop("price"), "plan.csv"),
    ),
    case(
        "a past covariate absent",
        "predict shop h.csv",
        "no column 'visitors' for the past covariate",
        write=frame(shop_table().drop("visitors"), "h.csv"),
    ),
    case(
        "static of another kind",
        "predict shop h.csv",
        "static covariate 'size' must be a number",
        write=frame(shop_table().with_columns(size=pl.lit("big")), "h.csv"),
    ),
    case(
        "nothing new to score",
        "evaluate run t.csv",
        "--truth",
        "--in-sample",
        write=frame(long_table(rows=56), "t.csv"),
    ),
    case(
        "truth that was trained on", "evaluate run t.csv --truth u.csv", "before its training cut-off", write=trained_on
    ),
    case(
        "truth of an unknown series",
        "evaluate run table.csv --truth t.csv",
        "series 'c'",
        write=frame(long_table(("c",)), "t.csv"),
    ),
    case(
        "truth lacks a column",
        "evaluate run table.csv --truth t.csv",
        "truth has no column 'y'",
        write=frame(long_table().drop("y"), "t.csv"),
    ),
    case(
        "truth in a time zone",
        "evaluate run table.csv --truth t.parquet",
        "truth does not fit",
        "time zone",
        write=frame(long_table().with_columns(pl.col("ds").dt.replace_time_zone("UTC")), "t.parquet"),
    ),
    case(
        "truth without id in the table",
        "evaluate run t.csv --truth table.csv",
        "no column 'unique_id'",
        write=frame(long_table(("a",)).drop("unique_id"), "t.csv"),
    ),
    case("truth and in-sample", "evaluate run table.csv --truth table.csv --in-sample", "either truth or in_sample"),
    case("stride 0", "evaluate run table.csv --stride 0", "stride must be", "not 0"),
    case("folder of the scores", "evaluate run table.csv --json no/s.json", "no/s.json cannot be written"),
    case(
        "scores where a folder is",
        "evaluate run table.csv --in-sample --json shop",
        "shop cannot be written: it is a folder",
    ),
    case("scores of no name", "evaluate run table.csv --json=", "json is empty"),
    case("a stride beyond all tables", f"evaluate run table.csv --stride {10**30}", "stride must be", "to 1,000,000"),
    case("a forecast over its table", "predict run table.csv -o table.csv", "table.csv is what the command reads"),
    case("a forecast over its tables", "predict run t*.csv -o table.csv", "table.csv is what the command reads"),
    case(
        "a forecast over its plan", "predict shop shops.csv --future-table table.csv -o table.csv", "what the command"
    ),
    case("scores over the model", "evaluate run table.csv --json run/model.safetensors", "what the command reads"),
    case(
        "a folder as the truth", "evaluate run table.csv --truth s", "s is a folder", write=lambda f: (f / "s").mkdir()
    ),
]


@pytest.mark.parametrize("case", MODELS, ids=lambda case: case.name)
def test_predict_and_evaluate_refuse(at: Path, case: Case) -> None:
    check(case, at)


@pytest.mark.parametrize(
    "words",
    [
        ("fit", "table.csv", *SMALL, "--out"),
        ("fit", "table.csv", *SMALL, "--config"),
        ("tune", "table.csv", "--horizon", "4", "--out"),
        ("predict", "run", "table.csv", "--future-table"),
        ("predict", "run"),
        ("predict", "run", "table.csv", "-o"),
        ("evaluate", "run", "table.csv", "--truth"),
        ("prepare", "table.csv", "-o"),
        ("watch",),
        ("show",),
    ],
    ids=lambda words: f"{words[0]} {words[-1]}",
)
def test_a_name_that_no_file_can_have(at: Path, words: tuple[str, ...]) -> None:
    before = snapshot(at)
    sentence = refuses(*words, "n" * 300 + ".csv")
    assert "nnn.csv" in sentence
    assert "File name too long" in sentence
    assert snapshot(at) == before


class Canary:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "model.pkl"])
@pytest.mark.parametrize("kind", ["protocol 0", "pickle", "torch"])
@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_a_pickle_is_never_opened(at: Path, kind: str, name: str, verb: str) -> None:
    canary = at / "canary"
    path = at / name
    if kind == "torch":
        torch.save({"weights": Canary(canary)}, path)
    else:
        path.write_bytes(pickle.dumps(Canary(canary), protocol=0 if kind == "protocol 0" else None))
        pickle.loads(path.read_bytes())
        canary.rmdir()  # it does go off
    before = snapshot(at)
    sentence = refuses(verb, name, "table.csv")
    assert "not a model file" in sentence if kind == "protocol 0" else "is a pickle" in sentence
    assert snapshot(at) == before


def test_nothing_is_overwritten_by_what_fails(at: Path) -> None:
    (at / "f.csv").write_text("mine")
    long_table().head(70).write_csv(at / "t.csv")
    before = snapshot(at)
    refuses("predict", "run", "t.csv", "-o", "f.csv")
    refuses("evaluate", "run", "t.csv", "--json", "f.csv")
    refuses("fit", "t.csv", *SMALL, "--out", "run", "--force")
    roles = ["city" if word == "sales" else word for word in SHOP_ROLES if word != "city"]
    refuses("fit", "shops.csv", *SMALL, *roles, "--out", "shop", "--force")
    assert snapshot(at) == before

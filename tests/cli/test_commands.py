"""fit, predict and evaluate from the words on the command line to the files on disk."""

import gzip
import json
import re
import tomllib
from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from cli_tools import (
    RUN_FILES,
    SHOP_ROLES,
    SMALL,
    START,
    check_forecast,
    command,
    long_table,
    refuses,
    results,
    same_weights,
    shop_table,
    small,
    snapshot,
    succeeds,
    wave,
)
from polars.testing import assert_frame_equal

from gatewise.data import read_table
from gatewise.format import LogReader
from gatewise.tasks.forecast import run

# --- the words ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--help"], ["fit", "--help"], ["predict", "--help"], ["evaluate", "-h"]])
def test_help_at_every_level_has_examples(words: list[str]) -> None:
    result = succeeds(*words)
    examples = re.findall(r"^ +gatewise (fit|predict|evaluate) \S", result.raw_out, re.MULTILINE)
    assert len(examples) >= 2
    if len(words) > 1:
        assert set(examples) == {words[0]}
    assert not result.err


def test_help_tells_every_setting() -> None:
    text = succeeds("fit", "--help").out
    for option in [
        "horizon",
        "season",
        "target",
        "id",
        "time",
        "past",
        "future",
        "static",
        "quantiles",
        "window",
        "hidden",
        "layers",
        "epochs",
        "seed",
    ]:
        assert f"--{option} " in text
    for option in ("--missing {error,ffill,mask}", "--short {error,pad,drop}", "--freeze-lstm", "--config", "--out"):
        assert option in text
    assert text.count("(required)") == 2  # TABLE and --horizon


def test_version() -> None:
    assert re.fullmatch(r"gatewise \d+\.\d+\S*\n", succeeds("--version").raw_out)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "Expected one of {fit, predict, evaluate, tune, prepare, watch, export, cells, show, stream}"),
        ("train t.csv", "Available subcommands: fit, predict, evaluate"),
        ("fit", "TABLE"),
        ("fit t.csv", "--horizon"),
        ("fit t.csv --horizon x", "--horizon"),
        ("fit t.csv --horizon 4 --missing guess", "'ffill'"),
        ("fit t.csv --horizon 4 --hiden 3", "--hidden"),
        ("predict", "MODEL"),
        ("predict model", "TABLE"),
        ("evaluate model", "TABLE"),
        ("--versio", "--versio"),
    ],
)
def test_words_that_are_not_understood_exit_with_2(quick: Path, words: str, said: str) -> None:
    result = command(*words.split())
    assert result.code == 2
    assert said in result.err
    assert not result.out
    assert not snapshot(quick)


# --- fit and its run folder -----------------------------------------------------------------------------------------


def test_fit_shows_the_data_before_training_and_the_scores_after(quick: Path) -> None:
    long_table().write_csv("table.csv")
    out = succeeds("fit", "table.csv", *SMALL).out
    shown = [
        "target y, series unique_id, time ds",
        "series 2",
        "rows 120",
        "60 / 60 / 60",
        "2024-01-01 00:00:00 to 2024-01-03",
        "hourly (1h)",
        "missing cells none",
        "12 and 4 steps, season 6",
        "epoch 1 training",
        "validation",
        "the last 4 steps of each series, never used in training (2 windows, 8 values)",
        "gatewise ┃ naive ┃ seasonal naive",
        "sMAPE",
        "mean weighted quantile loss",
        "coverage 0.1-0.9",
        "run folder: runs/table (open runs/table/report.html)",
    ]
    places = [out.find(text) for text in shown]
    assert -1 not in places, shown[places.index(-1)]
    assert places == sorted(places)
    assert set(results(quick / "runs" / "table")) == RUN_FILES


def test_the_run_folder_tells_how_it_was_made(trained: Path) -> None:
    config = tomllib.loads((trained / "run" / "config.toml").read_text())
    assert config | {"horizon": 4, "season": 6, "window": 12, "holdout": 4, "hidden": 4, "seed": 0} == config
    metrics = json.loads((trained / "run" / "metrics.json").read_text())
    assert metrics["scored"].startswith("the last 4 steps")
    assert metrics["models"] == ["gatewise", "naive", "seasonal naive"]
    assert metrics["training"]["best_epoch"] == 1
    assert len(metrics["training"]["epochs"]) == 1
    assert len(metrics["by_step"]["gatewise"]["MASE"]) == 4
    check_forecast(read_table(trained / "run" / "forecast.csv"), long_table())


def test_a_run_can_be_made_again_from_its_config(quick: Path) -> None:
    long_table().write_csv("table.csv")
    options = [*SMALL, "--quantiles", "0.2", "0.5", "0.8", "--dropout", "0.2", "--seed", "7", "--layers", "2"]
    succeeds("fit", "table.csv", *options, "--out", "one")
    succeeds("fit", "table.csv", "--config", "one/config.toml", "--out", "again")
    assert same_weights(quick / "one", quick / "again")
    assert Path("one/forecast.csv").read_bytes() == Path("again/forecast.csv").read_bytes()
    assert Path("one/config.toml").read_bytes() == Path("again/config.toml").read_bytes()


def test_options_win_over_the_config_beside_them(quick: Path) -> None:
    long_table().write_csv("table.csv")
    Path("run.toml").write_text(
        "horizon = 5\nseason = 6\nwindow = 12\nhidden = 4\nepochs = 1\nbatch = 4\nlearning_rate = 1\nquantiles = [0.5]"
    )
    succeeds("fit", "table.csv", "--config=run.toml", "--seed", "1", "--horizon", "3", "--out", "run")
    config = tomllib.loads(Path("run/config.toml").read_text())
    assert (config["horizon"], config["seed"], config["season"], config["holdout"]) == (3, 1, 6, 3)
    check_forecast(read_table("run/forecast.csv"), long_table(), horizon=3, levels=(0.5,))
    succeeds("fit", "table.csv", "--config", "run/config.toml", "--seed", "2", "--out", "other")
    assert not same_weights(quick / "run", quick / "other")


def test_force_replaces_the_run_and_nothing_else(quick: Path) -> None:
    long_table().write_csv("table.csv")
    succeeds("fit", "table.csv", *SMALL, "--out", "run")
    Path("run/notes.txt").write_text("mine")
    Path("run/forecast.csv").write_text("old")
    before = snapshot(quick)
    assert "not empty" in refuses("fit", "table.csv", *SMALL, "--seed", "1", "--out", "run")
    assert snapshot(quick) == before
    succeeds("fit", "table.csv", *SMALL, "--seed", "1", "--out", "run", "--force")
    assert set(results(quick / "run")) == RUN_FILES | {"notes.txt"}
    assert Path("run/notes.txt").read_text() == "mine"
    check_forecast(read_table("run/forecast.csv"), long_table())
    changed = {name for name, data in snapshot(quick).items() if before.get(name) != data}
    assert changed >= {f"run/{name}" for name in ("model.safetensors", "config.toml", "metrics.json", "forecast.csv")}


def test_force_leaves_no_forecast_of_another_run(quick: Path) -> None:
    shop_table().write_csv("shops.csv")
    succeeds("fit", "shops.csv", *SMALL, *SHOP_ROLES, "--out", "run")
    shop_table(future=0).write_csv("past.csv")
    out = succeeds("fit", "past.csv", *SMALL, *SHOP_ROLES, "--out", "run", "--force").out
    assert "no forecast.csv: the table has no future rows" in out
    assert set(results(quick / "run")) == RUN_FILES - {"forecast.csv"}


def test_an_empty_folder_may_take_the_run(quick: Path) -> None:
    long_table().write_csv("table.csv")
    Path("run").mkdir()
    succeeds("fit", "table.csv", *SMALL, "--out", "run")
    assert set(results(quick / "run")) == RUN_FILES


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(28, "No space left on device"), 1, "gatewise: the run folder run cannot be written: No space left on"),
        (
            KeyboardInterrupt(),
            130,
            "stopped by Ctrl-C while writing, saved in run/checkpoints: the same command",
        ),
    ],
)
def test_a_fit_that_stops_while_writing_leaves_what_resume_needs(
    quick: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str
) -> None:
    def fail(data: object) -> str:
        assert len(snapshot(quick)) > 2  # the other files are written by now, somewhere
        raise error

    long_table().write_csv("table.csv")
    with monkeypatch.context() as patch:
        patch.setattr(run, "render_report", fail)
        result = command("fit", "table.csv", *SMALL, "--out", "run")
    assert result.code == code
    assert result.err.startswith(said)
    assert set(results(quick)) == {"table.csv", "run"}
    ending = LogReader("run")
    ending.read()
    assert ending.log.ending is not None
    assert ending.log.ending["event"] == ("failed" if code == 1 else "interrupted")
    assert "going on from" in succeeds("fit", "table.csv", *SMALL, "--out", "run", "--resume").out
    assert set(results(quick / "run")) == RUN_FILES


# --- predict --------------------------------------------------------------------------------------------------------


def test_predict_writes_csv_parquet_and_stdout_alike(quick: Path, trained: Path) -> None:
    table = trained / "table.csv"
    printed = succeeds("predict", trained / "run", table)
    assert not printed.err
    assert succeeds("predict", trained / "run" / "model.safetensors", table, "-o", "f.csv").err == (
        "8 rows for 2 series in f.csv"
    )
    succeeds("predict", trained / "run", table, "--output", "f.parquet")
    assert Path("f.csv").read_text() == printed.raw_out == (trained / "run" / "forecast.csv").read_text()
    parquet = pl.read_parquet("f.parquet")
    assert_frame_equal(parquet, read_table("f.csv"), check_exact=True)
    check_forecast(parquet, long_table())
    assert set(snapshot(quick)) == {"f.csv", "f.parquet"}


def test_predict_forecasts_what_follows_the_table_that_it_is_given(quick: Path, trained: Path) -> None:
    longer = long_table(("b", "new"), rows=70)
    longer.write_csv("later.csv")
    succeeds("predict", trained / "run", "later.csv", "-o", "f.parquet")
    check_forecast(pl.read_parquet("f.parquet"), longer)
    # One window is enough, and a window and its longest lag (two seasons) are all that it looks at.
    for rows in (12, 24):
        longer.group_by("unique_id", maintain_order=True).tail(rows).write_csv("end.csv")
        succeeds("predict", trained / "run", "end.csv", "-o", f"{rows}.parquet")
        check_forecast(pl.read_parquet(f"{rows}.parquet"), longer)
    assert_frame_equal(pl.read_parquet("24.parquet"), pl.read_parquet("f.parquet"), check_exact=True)


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "csv.gz", "glob", "folder with a space/t.csv"])
def test_every_kind_of_table_gives_the_same_model_and_forecast(quick: Path, trained: Path, kind: str) -> None:
    table = long_table()
    path = f"table.{kind}"
    if kind == "parquet":
        table.write_parquet(path)
    elif kind == "tsv":
        table.write_csv(path, separator="\t")
    elif kind == "csv.gz":
        Path(path).write_bytes(gzip.compress(table.write_csv().encode()))
    elif kind == "glob":
        path = "part-*.csv"
        table.head(60).write_csv("part-1.csv")
        table.tail(60).write_csv("part-2.csv")
    else:
        path = kind if "/" in kind else path
        Path(path).parent.mkdir(exist_ok=True)
        table.write_csv(path)
    succeeds("fit", path, *SMALL, "--out", "run")
    assert same_weights(quick / "run", trained / "run")
    expected = (trained / "run" / "forecast.csv").read_text()
    assert succeeds("predict", "run", path).raw_out == Path("run/forecast.csv").read_text() == expected


# --- kinds of time and id -------------------------------------------------------------------------------------------

BERLIN = ZoneInfo("Europe/Berlin")
TIMES: dict[str, Callable[[int], object]] = {
    "whole numbers": lambda k: 100 + k,
    "every other number": lambda k: 2 * k,
    "dates": lambda k: date(2024, 1, 1) + timedelta(days=k),
    "weeks": lambda k: date(2024, 1, 1) + timedelta(weeks=k),
    "15 minutes": lambda k: START + timedelta(minutes=15 * k),
    "UTC": lambda k: datetime(2024, 1, 1, tzinfo=ZoneInfo("UTC")) + timedelta(hours=k),
}


@pytest.mark.parametrize("ids", [("a", "b"), (7, 12)])
@pytest.mark.parametrize("name", TIMES)
def test_every_kind_of_time_and_id_comes_back(quick: Path, name: str, ids: tuple) -> None:
    table = long_table(ids, 40, TIMES[name])
    table.write_parquet("table.parquet")
    succeeds("fit", "table.parquet", *SMALL, "--out", "run")
    succeeds("predict", "run", "table.parquet", "-o", "f.parquet")
    forecast = pl.read_parquet("f.parquet")
    check_forecast(forecast, table)
    assert [forecast.schema[name] for name in ("unique_id", "ds")] == [table.schema[n] for n in ("unique_id", "ds")]


def test_hours_go_on_through_a_clock_change(quick: Path) -> None:
    stamps = pl.datetime_range(datetime(2024, 3, 29), datetime(2024, 4, 2), "1h", time_zone="Europe/Berlin", eager=True)
    table = pl.DataFrame({"ds": stamps[:50], "y": [wave(k) for k in range(50)]})
    table.write_parquet("table.parquet")
    succeeds("fit", "table.parquet", *SMALL, "--out", "run")
    succeeds("predict", "run", "table.parquet", "-o", "f.parquet")
    forecast = pl.read_parquet("f.parquet")["ds"]
    assert forecast.to_list() == stamps[50:54].to_list()  # 02:00 does not exist on that day
    assert forecast.dt.hour().to_list() == [3, 4, 5, 6]


def test_a_table_without_time_and_id_is_one_series_in_its_order(quick: Path) -> None:
    Path("table.csv").write_text("\n".join(["load", *(str(wave(k)) for k in range(50))]) + "\n")
    out = succeeds("fit", "table.csv", "--target", "load", *SMALL, "--out", "run").out
    assert "one series, time is the order of the rows" in out
    forecast = read_table("run/forecast.csv")
    assert forecast.columns == ["unique_id", "ds", "q0.1", "q0.5", "q0.9"]
    assert forecast["ds"].to_list() == [50, 51, 52, 53]
    assert forecast["unique_id"].n_unique() == 1


def test_a_time_column_that_is_not_named_is_pointed_out(quick: Path) -> None:
    long_table(("a",)).rename({"ds": "moment"}).drop("unique_id").write_csv("table.csv")
    assert "moment looks like time stamps (--time moment)" in succeeds("fit", "table.csv", *SMALL).out


def test_interleaved_series_are_told_apart(quick: Path, trained: Path) -> None:
    long_table().sort("ds", "unique_id").write_csv("table.csv")
    succeeds("fit", "table.csv", *SMALL, "--out", "run")
    assert same_weights(quick / "run", trained / "run")


# --- quantiles, covariates, policies --------------------------------------------------------------------------------


def test_quantiles_are_columns(quick: Path) -> None:
    long_table().write_csv("table.csv")
    levels = (0.05, 0.25, 0.5, 0.75, 0.95)
    out = succeeds("fit", "table.csv", *SMALL, "--out", "run", "--quantiles", *levels).out
    check_forecast(read_table("run/forecast.csv"), long_table(), levels=levels)
    assert "coverage 0.05-0.95" in out
    assert "coverage 0.25-0.75" in out


def test_covariates_of_every_kind(quick: Path, shops: Path) -> None:
    history = shop_table().drop_nulls("sales")
    check_forecast(read_table(shops / "run" / "forecast.csv"), history, id="shop", time="day")
    out = succeeds("fit", shops / "shops.csv", *SMALL, *SHOP_ROLES, "--out", "run").out
    assert "past: visitors; known future: price; static: city, size" in out
    assert "future rows 8" in out
    assert "city=city north" in out
    # What the model is told of the future changes what it says about it.
    dear = shop_table().with_columns(pl.when(pl.col("sales").is_null()).then(9.0).otherwise("price").alias("price"))
    dear.write_csv("dear.csv")
    assert succeeds("predict", "run", "dear.csv").raw_out != Path("run/forecast.csv").read_text()
    # Past covariates end with the history: what stands in the future rows cannot matter.
    shop_table().with_columns(pl.col("visitors").fill_null(1e6)).write_csv("leak.csv")
    assert succeeds("predict", "run", "leak.csv").raw_out == Path("run/forecast.csv").read_text()


def test_a_future_table_is_the_same_as_its_rows_in_the_table(quick: Path, shops: Path) -> None:
    table = shop_table()
    table.drop_nulls("sales").write_csv("history.csv")
    future = table.filter(pl.col("sales").is_null())
    expected = succeeds("predict", shops / "run", shops / "shops.csv").raw_out
    for plan in (future, future.select("shop", "day", "price"), future.reverse().sort("day", maintain_order=True)):
        plan.write_csv("plan.csv")
        assert succeeds("predict", shops / "run", "history.csv", "--future-table", "plan.csv").raw_out == expected


def test_blank_targets_at_the_end_are_the_future(quick: Path, shops: Path) -> None:
    longer = shop_table(future=9)
    longer.write_csv("longer.csv")
    out = succeeds("fit", "longer.csv", *SMALL, *SHOP_ROLES, "--out", "run").out
    assert "rows 96" in out
    assert "missing cells none" in out
    assert same_weights(quick / "run", shops / "run")
    assert Path("run/forecast.csv").read_text() == (shops / "run" / "forecast.csv").read_text()


@pytest.mark.parametrize("policy", ["ffill", "mask"])
def test_a_policy_for_missing_cells_is_kept_with_the_model(quick: Path, policy: str) -> None:
    table = long_table().with_row_index("row")
    blank, absent = pl.col("row").is_in([20, 21, 58, 95]), pl.col("row").is_in([30, 70])
    holes = table.with_columns(y=pl.when(blank).then(None).otherwise("y")).filter(~absent).drop("row")
    holes.write_csv("holes.csv")
    assert "2 rows are missing" in refuses("fit", "holes.csv", *SMALL, "--out", "run")
    out = succeeds("fit", "holes.csv", *SMALL, "--missing", policy, "--out", "run").out
    assert "missing cells 6 (5.00%)" in out
    check_forecast(read_table("run/forecast.csv"), long_table())
    assert succeeds("predict", "run", "holes.csv").raw_out == Path("run/forecast.csv").read_text()
    scores = json.loads(Path("run/metrics.json").read_text())
    assert scores["values"] == 7  # row 58 lies in the held-out end, and a filled cell is no truth


def test_missing_policies_differ(quick: Path) -> None:
    table = long_table().with_row_index("row")
    table = table.with_columns(y=pl.when(pl.col("row") % 10 == 4).then(None).otherwise("y")).drop("row")
    table.write_csv("holes.csv")
    for policy in ("ffill", "mask"):
        succeeds("fit", "holes.csv", *SMALL, "--missing", policy, "--out", policy)
    assert not same_weights(quick / "ffill", quick / "mask")


def test_short_series_are_padded_or_dropped(quick: Path) -> None:
    short = long_table(("c", "d"), rows=9)
    table = pl.concat([long_table(), short])
    table.write_csv("table.csv")
    succeeds("fit", "table.csv", *SMALL, "--short", "pad", "--out", "pad")
    check_forecast(read_table("pad/forecast.csv"), table)
    out = succeeds("fit", "table.csv", *SMALL, "--short", "drop", "--out", "drop").out
    assert "left out 2 of 4 series, shorter than the 16 rows needed, a window of 12 and a horizon of 4: c, d" in out
    check_forecast(read_table("drop/forecast.csv"), long_table())
    again = succeeds("predict", "drop", "table.csv")
    assert again.err == "note: left out 2 of 4 series, shorter than the 12 rows of the model's window: c, d"
    assert again.raw_out == Path("drop/forecast.csv").read_text()


# --- evaluate -------------------------------------------------------------------------------------------------------


def test_evaluate_scores_what_the_model_has_not_seen(quick: Path, trained: Path) -> None:
    result = succeeds("evaluate", trained / "run", trained / "table.csv", "--json", "scores.json")
    assert "rows after each series' training cut-off (2 windows, 8 values)" in result.out
    assert "by step of the horizon" in result.out
    scores = json.loads(Path("scores.json").read_text())
    fitted = json.loads((trained / "run" / "metrics.json").read_text())
    assert scores["overall"] == fitted["overall"]
    assert scores["by_step"] == fitted["by_step"]
    assert f"{scores['overall']['gatewise']['MASE']:.3f}" in result.out
    only_json = succeeds("evaluate", trained / "run", trained / "table.csv", "--json", "-")
    assert only_json.raw_out == Path("scores.json").read_text()


def test_evaluate_rolls_over_later_rows(quick: Path, trained: Path) -> None:
    long_table(rows=70).write_csv("later.csv")
    assert "(8 windows, 28 values)" in succeeds("evaluate", trained / "run", "later.csv").out  # 14 rows by 4 steps
    assert "(28 windows, 100 values)" in succeeds("evaluate", trained / "run", "later.csv", "--stride", "1").out


def test_evaluate_in_sample_says_so(quick: Path, trained: Path) -> None:
    result = succeeds("evaluate", trained / "run", trained / "table.csv", "--in-sample", "--json", "s.json")
    assert "scored: IN-SAMPLE: the whole table" in result.out
    assert json.loads(Path("s.json").read_text())["scored"].startswith("IN-SAMPLE")
    assert "(24 windows, 96 values)" in result.out  # 48 rows of each series after its first window


def test_evaluate_with_truth_scores_exactly_its_rows(quick: Path, trained: Path) -> None:
    whole = long_table(rows=64)
    whole.group_by("unique_id", maintain_order=True).tail(4).write_csv("truth.csv")
    words = ("evaluate", trained / "run", trained / "table.csv", "--truth", "truth.csv", "--json", "-")
    scores = json.loads(succeeds(*words).raw_out)
    assert (scores["windows"], scores["values"]) == (2, 8)
    forecast = read_table(trained / "run" / "forecast.csv")
    error = forecast["q0.5"] - read_table("truth.csv")["y"]
    assert scores["overall"]["gatewise"]["MAE"] == pytest.approx(error.abs().mean())


def test_without_a_season_there_is_no_seasonal_naive(quick: Path) -> None:
    long_table(rows=40).write_csv("table.csv")
    out = succeeds("fit", "table.csv", *small("--season", "1"), "--out", "run").out
    assert "seasonal naive" not in out
    assert "naive" in out


def test_without_holdout_the_scores_are_called_what_they_are(quick: Path) -> None:
    long_table().write_csv("table.csv")
    out = succeeds("fit", "table.csv", *SMALL, "--holdout", "0", "--out", "run").out
    assert "validation windows, which chose the best epoch" in out
    assert "--in-sample" in refuses("evaluate", "run", "table.csv")
    check_forecast(read_table("run/forecast.csv"), long_table())

"""gatewise tune: its lines, its folder, going on, and how it stops."""

import re
import signal
import sys
from pathlib import Path

import polars as pl
import pytest
from cli_tools import RUN_FILES, SMALL, check_forecast, command, long_table, refuses, small, snapshot, succeeds
from test_process import interrupted

from gatewise.data import read_table
from gatewise.tasks.forecast import tuning

TUNE_FILES = RUN_FILES | {"study.db", "trials.csv", "tune.html"}
KEEP = ["--keep", "hidden", "batch", "layers"]
LINE = re.compile(
    r"trial +(\d+)  validation (\d\.\d{4})  \d+\.\d s  "
    r"learning_rate \S+  dropout \S+  weight_decay \S+(  best|  pruned.*)?"
)


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "render_tune", lambda data: "a page")


def test_tune_tells_every_trial_and_leaves_a_run(quick: Path) -> None:
    long_table().write_csv("table.csv")
    result = succeeds("tune", "table.csv", *SMALL, *KEEP, "--trials", "3")
    assert result.raw_out.startswith("search learning_rate  0.0003 to 0.03, log-uniform\n")
    found = [LINE.fullmatch(line) for line in result.raw_out.splitlines() if line.startswith("trial")]
    lines = [match for match in found if match]
    assert [int(match[1]) for match in lines] == [1, 2, 3]
    losses = [float(match[2]) for match in lines]
    assert [bool(match[3]) for match in lines] == [loss == min(losses[: k + 1]) for k, loss in enumerate(losses)]
    best = 1 + losses.index(min(losses))
    assert f"best: trial {best} of 3, validation loss {min(losses):.4f}" in result.out
    assert "gatewise ┃ naive ┃ seasonal naive" in result.out
    assert "run folder: runs/table-tune (open runs/table-tune/tune.html and" in result.out
    folder = quick / "runs" / "table-tune"
    assert set(snapshot(folder)) == TUNE_FILES
    # What takes a run takes this one.
    assert succeeds("predict", folder, "table.csv").raw_out == (folder / "forecast.csv").read_text()
    succeeds("fit", "table.csv", "--config", folder / "config.toml", "--out", "again")
    assert Path("again/forecast.csv").read_bytes() == (folder / "forecast.csv").read_bytes()


def test_the_same_command_goes_on(quick: Path) -> None:
    long_table().write_csv("table.csv")
    words = ("tune", "table.csv", *SMALL, *KEEP, "--out", "run", "--trials")
    succeeds(*words, "2")
    out = succeeds(*words, "4").out
    assert "2 of 4 trials are done trial 3 " in out
    assert succeeds(*words, "4").out.count("validation") == 1  # of the best
    assert pl.read_csv("run/trials.csv")["trial"].to_list() == [1, 2, 3, 4]
    succeeds("tune", "table.csv", *SMALL, *KEEP, "--out", "whole", "--trials", "4")
    seconds = pl.exclude("seconds")
    assert pl.read_csv("whole/trials.csv").select(seconds).equals(pl.read_csv("run/trials.csv").select(seconds))


def test_a_config_gives_the_other_settings(quick: Path) -> None:
    long_table().write_csv("table.csv")
    Path("some.toml").write_text("horizon = 4\nseason = 6\nwindow = 12\nhidden = 4\nepochs = 1\nbatch = 4\n")
    succeeds("tune", "table.csv", "--config", "some.toml", *KEEP, "--trials", "1", "--out", "run")
    check_forecast(read_table("run/forecast.csv"), long_table())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--trials", "0"], "trials must be a whole number of at least 1"),
        (["--space", "adam"], "there is no search space 'adam'; there are adamw, greff2017"),
        (["--keep", "window"], "the space 'adamw' does not change 'window'"),
        (["--out", "table.csv", *KEEP], "table.csv is a file"),
        ([], "sets hidden, batch itself, so hidden 4, batch 4 would mean nothing"),
        (["--window", "50", *KEEP], "no series is long enough for a validation window"),
    ],
)
def test_wrong_words_are_refused(quick: Path, words: list[str], said: str) -> None:
    long_table().write_csv("table.csv")
    before = snapshot(quick)
    assert said in refuses("tune", "table.csv", *small(*words))
    assert snapshot(quick) == before


def test_without_optuna_the_extra_is_named(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long_table().write_csv("table.csv")
    for name in [name for name in sys.modules if name.startswith("gatewise.tasks.forecast.t")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "optuna", None)
    result = command("tune", "table.csv", *SMALL, *KEEP)
    assert (result.code, result.raw_err) == (1, "gatewise: this command needs optuna: pip install 'gatewise[tune]'\n")


@pytest.mark.parametrize(("sent", "name", "code"), [(signal.SIGINT, "Ctrl-C", 130), (signal.SIGTERM, "SIGTERM", 143)])
def test_a_signal_ends_it_in_good_order(tmp_path: Path, sent: signal.Signals, name: str, code: int) -> None:
    long_table().write_csv(tmp_path / "table.csv")
    words = ["tune", "table.csv", *SMALL, *KEEP, "--out", "a run"]
    many = [*words, "--trials", "900"]
    got, out, err = interrupted(tmp_path, many, lambda line: line.startswith("trial   1 "), sent)
    assert (got, err) == (code, "")
    done = re.search(rf"stopped by {name}: (\d+) of 900 trials are done and kept\.\nto go on: (.*)\n$", out)
    assert done
    assert done[2] == "gatewise " + " ".join(many).replace("a run", "'a run'")
    assert set(snapshot(tmp_path / "a run")) == TUNE_FILES
    assert len(pl.read_csv(tmp_path / "a run" / "trials.csv")) == int(done[1])
    more = str(int(done[1]) + 1)
    again = succeeds("tune", tmp_path / "table.csv", *words[2:-1], tmp_path / "a run", "--trials", more)
    assert f"{done[1]} of {more} trials are done" in again.out
    assert again.out.count("validation") == 2  # the trial and the best

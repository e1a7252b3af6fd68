"""`gatewise fit --resume` after a kill, a signal or nothing at all: the weights of a run that was never stopped."""

import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from cli_tools import (
    GATEWISE,
    RUN_FILES,
    SMALL,
    command,
    finished,
    long_table,
    refuses,
    results,
    same_weights,
    small,
    snapshot,
    succeeds,
)

from gatewise.format import LogReader
from gatewise.tasks.forecast import run, training
from gatewise.train import read_checkpoint

SLOWER = small("--hidden", "64", "--batch", "16", "--epochs", "3", "--dropout", "0.3", "--average", "0.9")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    long_table().write_csv(tmp_path / "table.csv")
    return tmp_path


def test_fault_23_a_fit_that_is_killed_twice_and_resumed(table: Path) -> None:
    words = ["fit", "table.csv", *SLOWER, "--save-every", "7"]
    whole = finished(table, *words, "--out", "whole")
    assert whole.returncode == 0, whole.stderr
    saved = table / "run" / "checkpoints"
    for number in range(2):
        with subprocess.Popen([GATEWISE, *words, "--out", "run", "--resume"], cwd=table, stdout=subprocess.PIPE) as fit:
            before = {path.name for path in saved.glob("step-*")}
            # Some steps beyond the checkpoint, which are lost and taken again.
            while {path.name for path in saved.glob("step-*")} <= before and fit.poll() is None:
                time.sleep(0.005)
            time.sleep(0.02 * number)
            fit.send_signal(signal.SIGKILL)
            assert fit.wait(timeout=60) == -signal.SIGKILL
        assert set(results(table / "run")) == set()
    resumed = finished(table, *words, "--out", "run", "--resume")
    assert (resumed.returncode, resumed.stderr) == (0, "")
    assert "going on from epoch" in resumed.stdout
    assert same_weights(table / "whole", table / "run")
    for name in ("forecast.csv", "config.toml"):
        assert (table / "run" / name).read_bytes() == (table / "whole" / name).read_bytes()


def test_resume_begins_where_there_is_nothing_and_ends_where_all_is_done(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(table)
    monkeypatch.setattr(training, "STEPS_PER_EPOCH", 4)
    words = ["fit", "table.csv", *SMALL, "--out", "run", "--resume"]
    more = small("--epochs", "2", "--out", "run", "--resume")
    assert "going on" not in succeeds(*words).out
    first = results(table / "run")
    assert set(first) == RUN_FILES
    assert "going on from epoch 2, step 0" in succeeds(*words).out
    again = results(table / "run")
    assert again["forecast.csv"] == first["forecast.csv"]
    # More epochs are more training.
    assert "note: epochs is 2 from here on, it was 1" in succeeds("fit", "table.csv", *more).out
    assert results(table / "run")["forecast.csv"] != first["forecast.csv"]


def test_what_resume_refuses(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(table)
    monkeypatch.setattr(training, "STEPS_PER_EPOCH", 4)
    words = ["fit", "table.csv", *SMALL, "--out", "run"]
    succeeds(*words)
    before = snapshot(table)
    assert "the output folder run is not empty: give another --out" in refuses(*words)
    assert "give --force to replace the run or --resume to go on with it" in refuses(*words, "--resume", "--force")
    said = refuses("fit", "table.csv", *small("--hidden", "5"), "--out", "run", "--resume")
    assert "is of another run: hidden was 4 and is 5 now. Go on with the same, or begin anew." in said
    long_table(rows=61).write_csv("table.csv")
    assert "is of another run: table was '" in refuses(*words, "--resume")
    long_table().write_csv("table.csv")
    assert snapshot(table) == before
    Path("other").mkdir()
    Path("other/notes.txt").write_text("mine")
    assert "other holds no run to go on with: begin one with --force" in refuses(*words[:-1], "other", "--resume")


def test_a_stopped_run_is_neither_replaced_nor_taken_for_a_finished_one(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(table)
    monkeypatch.setattr(training, "STEPS_PER_EPOCH", 4)
    plain = training.pinball

    def stopping(*args):
        signal.raise_signal(signal.SIGTERM)
        return plain(*args)

    words = ["fit", "table.csv", *SMALL, "--out", "run"]
    with monkeypatch.context() as patch:
        patch.setattr(training, "pinball", stopping)
        stopped = command(*words)
        assert stopped.code == 143
        assert stopped.out.endswith("--resume goes on.")
    assert "run holds a run that was stopped: --resume goes on with it, --force replaces it" in refuses(*words)
    assert "note" not in succeeds(*words, "--force").out


def test_a_loss_that_is_no_number_names_series_and_gradients_and_keeps_the_weights(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(table)
    plain, calls = training.pinball, 0

    def diverging(*args):
        nonlocal calls
        calls += 1
        total, count = plain(*args)
        return total * (float("nan") if calls == 3 else 1.0), count

    monkeypatch.setattr(training, "pinball", diverging)
    said = refuses("fit", "table.csv", *SMALL, "--out", "run")
    assert "the loss became nan in epoch 1, step 3: " in said
    assert re.search(r"try a lower learning rate\. The batch: 4 windows of (a, b|b, a|a|b)\. Largest", said)
    assert "The weights before that step are saved in run/checkpoints/step-0000000002.checkpoint." in said
    (saved,) = Path("run/checkpoints").iterdir()
    weights = read_checkpoint(saved)["module"]
    assert all(value.isfinite().all() for value in weights.values())


def test_a_run_that_is_replaced_and_stopped_says_whose_model_is_there(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(table)
    monkeypatch.setattr(training, "STEPS_PER_EPOCH", 4)
    words = ["fit", "table.csv", *SMALL, "--out", "run"]
    succeeds(*words)
    plain = training.pinball

    def stopping(*args):
        signal.raise_signal(signal.SIGTERM)
        return plain(*args)

    monkeypatch.setattr(training, "pinball", stopping)
    assert "The other files there are of the run before." in command(*words, "--force").out


def test_sigterm_while_writing_leaves_no_half_run(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(table)
    monkeypatch.setattr(training, "STEPS_PER_EPOCH", 4)

    def stopping(data: object) -> str:
        signal.raise_signal(signal.SIGTERM)
        return ""

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(run, "render_report", stopping)
        stopped = command("fit", "table.csv", *SMALL, "--out", "run")
    assert stopped.code == 143
    assert "stopped by SIGTERM while writing, saved in run/checkpoints" in stopped.err
    assert signal.getsignal(signal.SIGTERM) == before
    assert set(results(table)) == {"table.csv", "run"}
    succeeds("fit", "table.csv", *SMALL, "--out", "run", "--resume")
    assert set(results(table / "run")) == RUN_FILES


def test_a_second_ctrl_c_says_what_is_left(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(table)
    plain, calls = training.pinball, 0

    def stopping(*args):
        nonlocal calls
        calls += 1
        for _ in range(2 * (calls == 6)):
            signal.raise_signal(signal.SIGINT)
        return plain(*args)

    monkeypatch.setattr(training, "pinball", stopping)
    stopped = command("fit", "table.csv", *SMALL, "--out", "run", "--save-every", "4")
    assert stopped.code == 130
    said = (
        "stopped by Ctrl-C at once: the same command with --resume goes on from the last checkpoint in run/checkpoints."
    )
    assert said in stopped.out
    assert [path.name for path in Path("run/checkpoints").iterdir()] == ["step-0000000004.checkpoint"]


def test_a_stop_that_could_not_be_saved_says_so(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(table)
    plain = training.pinball

    def stopping(*args):
        signal.raise_signal(signal.SIGTERM)
        return plain(*args)

    monkeypatch.setattr(training, "pinball", stopping)
    Path("run").mkdir()
    Path("run/checkpoints").write_text("in the way")
    stopped = command("fit", "table.csv", *SMALL, "--out", "run", "--force")
    assert stopped.code == 143
    assert "no checkpoint was saved at epoch 1, step 1: run/checkpoints cannot be made: File exists." in stopped.out
    assert stopped.out.endswith("stopped by SIGTERM before the first epoch was over; nothing is saved.")


def test_a_run_killed_before_its_first_checkpoint_begins_its_log_anew(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(table)
    monkeypatch.setattr(training, "STEPS_PER_EPOCH", 4)
    words = ["fit", "table.csv", *SMALL, "--out", "run"]
    succeeds(*words)
    shutil.rmtree("run/checkpoints")
    for name in RUN_FILES:
        Path("run", name).unlink()
    succeeds(*words, "--resume")
    reader = LogReader("run")
    reader.read()
    assert [line["event"] for line in reader.log.events] == ["begin", "checkpoint", "end"]
    assert [line["epoch"] for line in reader.log.epochs] == [1]

"""The installed command in a process of its own: exit codes, streams, Ctrl-C."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from cli_tools import (
    GATEWISE,
    RUN_FILES,
    SMALL,
    check_forecast,
    finished,
    long_table,
    results,
    small,
    snapshot,
    succeeds,
)

from gatewise.data import read_table


def interrupted(
    folder: Path, words: list[str], ready: Callable[[str], bool], sent: signal.Signals = signal.SIGINT
) -> tuple[int, str, str]:
    """Start a command, press Ctrl-C once a line of its output is there, and wait: exit code, stdout, stderr."""
    pipe = subprocess.PIPE
    with subprocess.Popen([GATEWISE, *words], cwd=folder, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        seen = []
        for line in process.stdout:
            seen.append(line)
            if ready(line):
                process.send_signal(sent)
                break
        out, err = process.communicate(timeout=120)
    return process.returncode, "".join(seen) + out, err


def test_fit_then_predict(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    long_table().write_csv(folder / "table.csv")
    fitted = finished(folder, "fit", "table.csv", *SMALL)
    assert (fitted.returncode, fitted.stderr) == (0, "")
    run = folder / "runs" / "table"
    assert set(results(run)) == RUN_FILES
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-0000000100.checkpoint"]
    page = (run / "report.html").read_text()
    assert page.lower().startswith("<!doctype html>")
    assert len(page) < 1_000_000
    assert "<svg" in page
    check_forecast(read_table(run / "forecast.csv"), long_table())
    # Another process, this one, forecasts the same bits from the same file.
    here = succeeds("predict", run, folder / "table.csv").raw_out
    assert here == (run / "forecast.csv").read_text()


def test_a_mistake_gets_one_line_and_no_traceback(tmp_path: Path) -> None:
    result = finished(tmp_path, "fit", "no.csv", "--horizon", "4")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "gatewise: no such file: no.csv. Check the path.\n"
    assert not snapshot(tmp_path)


def test_ctrl_c_keeps_the_best_model_so_far(tmp_path: Path) -> None:
    long_table().write_csv(tmp_path / "table.csv")
    words = ["fit", "table.csv", *small("--epochs", "1000", "--patience", "1000"), "--out", "run"]
    code, out, err = interrupted(tmp_path, words, lambda line: line.startswith("epoch   1 "))
    assert code == 130, err
    assert "stopped by Ctrl-C, saved in run/checkpoints: the same command with --resume goes on.\n" in out
    assert "keeping the best model so far, of epoch" in out
    assert "Traceback" not in err
    assert set(results(tmp_path)) == {"table.csv", "run", *(f"run/{name}" for name in RUN_FILES)}
    training = json.loads((tmp_path / "run" / "metrics.json").read_text())["training"]
    assert training["interrupted"] is True
    assert 1 <= training["best_epoch"] <= len(training["epochs"]) < 1000
    assert f"of epoch {training['best_epoch']}." in out
    succeeds("predict", tmp_path / "run", tmp_path / "table.csv", "-o", tmp_path / "f.parquet")
    check_forecast(pl.read_parquet(tmp_path / "f.parquet"), long_table())


@pytest.mark.parametrize(("number", "code", "name"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")])
def test_a_signal_in_the_first_epoch_leaves_what_resume_needs(
    tmp_path: Path, number: signal.Signals, code: int, name: str
) -> None:
    long_table().write_csv(tmp_path / "table.csv")
    words = ["fit", "table.csv", *small("--hidden", "256", "--batch", "64"), "--out", "run"]
    pipe, saved = subprocess.PIPE, tmp_path / "run" / "checkpoints"
    with subprocess.Popen(
        [GATEWISE, *words, "--save-every", "1"], cwd=tmp_path, stdout=pipe, stderr=pipe, text=True
    ) as process:
        while not saved.exists() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert (
        f"stopped by {name} before the first epoch was over, saved in run/checkpoints: the same command with --resume"
        in out
    )
    assert "\nepoch" not in out
    assert not err
    assert set(results(tmp_path)) == {"table.csv", "run"}
    resumed = finished(tmp_path, *words, "--resume")
    assert (resumed.returncode, resumed.stderr) == (0, "")
    assert "going on from epoch 1, step" in resumed.stdout
    assert set(results(tmp_path / "run")) == RUN_FILES


def test_a_reader_that_has_enough_is_no_error(trained: Path) -> None:
    words = [GATEWISE, "predict", "run", "table.csv"]
    with subprocess.Popen(words, cwd=trained, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == 0

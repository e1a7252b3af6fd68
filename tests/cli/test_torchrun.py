"""gatewise fit and predict in several processes: who writes, killed workers, signals, and what comes out at last."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest
from cli_tools import RUN_FILES, SMALL, long_table, results, shop_table, small, snapshot
from launched import Launcher
from safetensors.numpy import load_file

WORDS = small("--epochs", "2", "--patience", "9", "--hidden", "24", "--dropout", "0.2", "--save-every", "9")
LIMIT = 180


@pytest.fixture(scope="module")
def launch() -> Iterator[Launcher]:
    with Launcher() as launcher:
        yield launcher


@pytest.fixture(scope="module")
def place(launch: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with table.csv and what two processes made of it, never disturbed."""
    folder = tmp_path_factory.mktemp("place")
    long_table().write_csv(folder / "table.csv")
    first, second = launch(folder, 2, "fit", "table.csv", *WORDS, "--out", "whole")
    assert (first.code, first.err) == (0, "")
    assert second == (0, "", "")
    # Once, not twice.
    assert first.out.count("run folder: whole") == 1
    assert first.out.count("epoch   1 ") == 1
    assert set(results(folder / "whole")) == RUN_FILES
    return folder


@contextmanager
def torchrun(folder: Path, *words: str, restarts: int = 0) -> Iterator[subprocess.Popen[str]]:
    """Two processes of gatewise, started in a folder; whatever happens, none is left."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--max-restarts", str(restarts), "--monitor-interval", "0.05", "-m", "gatewise", *words]
    with (
        (folder / "err.txt").open("w") as err,
        subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=err, text=True) as process,
    ):
        try:
            yield process
        finally:
            workers = _workers(process)
            process.kill()
            for worker in workers.values():
                os.kill(worker, signal.SIGKILL)


def _workers(process: subprocess.Popen[str]) -> dict[int, int]:
    """The running workers by rank."""
    found = {}
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    for child in children.read_text().split() if process.poll() is None else []:
        lines = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        found |= {int(line[5:]): int(child) for line in lines if line.startswith(b"RANK=")}
    return found


def _read_until(process: subprocess.Popen[str], word: str) -> str:
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if word in line:
            break
    return seen


def test_a_killed_worker_and_a_signal_change_nothing(place: Path, launch: Launcher) -> None:
    words = ["fit", "table.csv", *WORDS, "--out", "run", "--resume"]
    run = place / "run"
    with torchrun(place, *words, restarts=3) as process:
        while not (run / "checkpoints").exists() and process.poll() is None:
            time.sleep(0.01)
        os.kill(_workers(process)[1], signal.SIGKILL)
        # The processes that torchrun started in their place.
        begun = _read_until(process, "going on from epoch")
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=LIMIT)
    assert "going on from epoch 1, step" in begun, (place / "err.txt").read_text()
    assert "stopped by SIGTERM" in rest
    assert "saved in run/checkpoints: the same command with --resume goes on." in rest
    # torchrun's own code for a signal.
    assert process.returncode == 1
    assert "processes cannot go on together" in (place / "err.txt").read_text()
    assert set(results(run)) == set()

    first, second = launch(place, 2, *words)
    assert (first.code, first.err) == (0, "")
    assert second == (0, "", "")
    assert "going on from epoch" in first.out
    assert set(results(run)) == RUN_FILES
    expected, found = (load_file(folder / "model.safetensors") for folder in (place / "whole", run))
    assert {name: value.tobytes() for name, value in found.items()} == {
        name: value.tobytes() for name, value in expected.items()
    }


def test_more_processes_than_windows(place: Path, launch: Launcher) -> None:
    """A batch of two, and two windows of validation, for three processes."""
    words = ["fit", "table.csv", *small("--batch", "2", "--holdout", "0")]
    for size in (1, 3):
        found = launch(place, size, *words, "--out", f"few{size}")
        assert [(each.code, each.err) for each in found] == [(0, "")] * size
    expected, found = (load_file(place / f"few{size}" / "model.safetensors") for size in (1, 3))
    for name, value in expected.items():
        # A hundred steps, each with its own rounding.
        assert abs(found[name] - value).max() < 1e-4, name


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_predict_gathers_in_order(place: Path, launch: Launcher, ending: str) -> None:
    pl.concat([long_table([name], rows=20 + n) for n, name in enumerate("dacbe")]).write_csv(place / "five.csv")
    words = ["predict", "whole", "five.csv", "-o"]
    assert launch(place, 1, *words, f"1.{ending}")[0].code == 0
    for size in (2, 3):
        first, *others = launch(place, size, *words, f"{size}.{ending}")
        assert (first.code, first.out, first.err) == (0, "", f"20 rows for 5 series in {size}.{ending}\n")
        assert others == [(0, "", "")] * (size - 1)
        assert (place / f"{size}.{ending}").read_bytes() == (place / f"1.{ending}").read_bytes()


def test_predict_with_fewer_series_than_processes_to_standard_output(place: Path, launch: Launcher) -> None:
    (alone,) = launch(place, 1, "predict", "whole", "table.csv")
    first, *others = launch(place, 3, "predict", "whole", "table.csv")
    assert first == alone
    assert len(alone.out.splitlines()) == 9
    assert others == [(0, "", "")] * 2


def test_a_mistake_is_told_by_each_process_that_found_it(place: Path, launch: Launcher) -> None:
    before = snapshot(place)
    first, second = launch(place, 2, "fit", "no.csv", "--horizon", "4")
    assert (first.code, first.out) == (1, "")
    assert first.err.startswith("gatewise: no such file: no.csv. ")
    assert second == (1, "", first.err.replace("gatewise", "gatewise (process 2 of 2)"))
    # The one that writes has looked where, and the other is not left waiting.
    first, second = launch(place, 2, "predict", "whole", "table.csv", "-o", "no-folder/f.csv")
    assert first.code == 1
    assert "no-folder/f.csv cannot be written" in first.err
    assert second.code == 0
    assert snapshot(place) == before


def test_what_only_one_process_finds_wrong_ends_all(place: Path, launch: Launcher) -> None:
    """The last series lacks its known future, and only the last process forecasts it."""
    shops = shop_table()
    shops.write_csv(place / "shops.csv")
    roles = ["--target", "sales", "--id", "shop", "--time", "day", "--future", "price"]
    assert launch(place, 1, "fit", "shops.csv", *SMALL, *roles, "--missing", "mask", "--out", "shops")[0].code == 0
    last = (pl.col("shop") == "south") & pl.col("sales").is_null()
    shops.with_columns(price=pl.when(last).then(None).otherwise("price")).write_csv(place / "bad.csv")
    found = launch(place, 2, "predict", "shops", "bad.csv", "-o", "f.csv")
    assert [each.code for each in found] == [1, 1]
    assert not (place / "f.csv").exists()

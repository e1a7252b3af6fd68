"""TensorBoard's files of a run: the curves through resumes, and nothing where it is not wanted or not there."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gatewise.errors import InputError
from gatewise.format import LogReader
from gatewise.train import Epoch, Plan, log
from gatewise.train.history import Step
from gatewise.train.log import RunLog

PLAN = Plan(epochs=3, steps=4)


def _step(epoch: int, step: int, loss: float) -> Step:
    return Step(epoch, step, loss, learning_rate=0.01, gradient_norm=2.0, values=64, seconds=0.25)


def _scalars(folder: Path) -> dict[str, dict[int, float]]:
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def test_tensorboard_gets_the_curves_and_forgets_what_is_done_again(tmp_path: Path) -> None:
    with RunLog(tmp_path, every=0) as told:
        told.begin([], PLAN)
        for step in range(1, 5):
            told.step(_step(1, step, loss=1.0))
        told.epoch(Epoch(1, 1.0, 2.0, 1.5, 0.01, 2.0, 256), True)
        told.step(_step(2, 1, loss=1.0))
        told.step(_step(2, 2, loss=1.0))
    assert _scalars(tmp_path) == {
        "loss/step": dict.fromkeys(range(1, 7), 1.0),
        "learning_rate": dict.fromkeys(range(1, 7), pytest.approx(0.01)),
        "gradient_norm": dict.fromkeys(range(1, 7), 2.0),
        "values_per_second": dict.fromkeys(range(1, 7), 256.0),
        "loss/training": {4: 1.0},
        "loss/validation": {4: 2.0},
    }
    with RunLog(tmp_path, every=0, resume=True) as told:
        told.begin([], PLAN)
        told.event("resume", epoch=2, step=1)
        told.step(_step(2, 2, loss=3.0))
    assert _scalars(tmp_path)["loss/step"] == {1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0, 5: 1.0, 6: 3.0}
    with RunLog(tmp_path, every=0) as told:  # a new run in the folder
        told.begin([], PLAN)
        told.step(_step(1, 1, loss=7.0))
    assert _scalars(tmp_path)["loss/step"] == {1: 7.0}


def test_tensorboard_is_left_alone_where_it_is_not_wanted_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(folder: str, **options: Any) -> bool:
        with RunLog(tmp_path / folder, every=0, **options) as told:
            told.begin([], PLAN)
            told.step(_step(1, 1, loss=1.0))
        return (tmp_path / folder / "tensorboard").exists()

    assert run("usual")
    assert not run("off", tensorboard=False)
    monkeypatch.setattr(log, "find_spec", lambda name: None)
    assert not run("missing")
    with pytest.raises(InputError, match=r"TensorBoard is not installed: pip install 'gatewise\[tensorboard\]'"):
        run("asked", tensorboard=True)
    assert not (tmp_path / "asked").exists()


def test_tensorboards_trouble_is_not_the_trainings(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    said: list[str] = []
    with RunLog(tmp_path, every=0, say=said.append) as told:
        told.begin([], PLAN)
        for step in (1, 2):
            told.step(_step(1, step, loss=1.0))
    assert len(said) == 1
    assert said[0].startswith(f"TensorBoard's files in {tmp_path / 'tensorboard'} are written no more: ")
    reader = LogReader(tmp_path)
    reader.read()
    assert len(reader.log.steps) == 2


def test_tensorboard_is_imported_only_when_it_is_needed() -> None:
    code = "import sys, gatewise.train.log; print(sorted(m for m in sys.modules if 'tensorboard' in m))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def test_whatever_tensorboard_raises_ends_its_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise TypeError("Descriptors cannot be created directly")

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter", broken)
    said: list[str] = []
    with RunLog(tmp_path, every=0, say=said.append) as told:
        told.begin([], PLAN)
        told.step(_step(1, 1, loss=1.0))
        told.step(_step(1, 2, loss=1.0))
    assert len(said) == 1
    assert "written no more: Descriptors cannot be created directly. The training goes on." in said[0]
    reader = LogReader(tmp_path)
    reader.read()
    assert [line["step"] for line in reader.log.steps] == [1, 2]

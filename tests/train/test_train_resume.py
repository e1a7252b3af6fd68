"""A run that was stopped, however, goes on to the bits of one that never was."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from resumable import KILLED, LENGTHS, PLAN, Told, bits, training

from gatewise.errors import InputError
from gatewise.train import Checkpoints, Plan, Step, train

WHOLE = PLAN.epochs * PLAN.steps


@pytest.fixture(scope="module")
def undisturbed() -> bytes:
    return bits(training(None)[1])


def test_checkpoints_change_nothing(undisturbed: bytes, tmp_path: Path) -> None:
    history, weights = training(Checkpoints(tmp_path))
    assert bits(weights) == undisturbed
    # The training must depend on all that is saved: an early best, a rate that fell, as resumed runs must find it.
    assert history.best == 3
    assert history.epochs[-1].learning_rate < PLAN.learning_rate


@pytest.mark.parametrize("at", [1, 2, 8, 9, 17, 24, 33, WHOLE])
def test_a_signal_and_resume(undisturbed: bytes, tmp_path: Path, at: int) -> None:
    told = Told()
    seen: list[Step] = []

    def on_step(step: Step) -> None:
        seen.append(step)
        if len(seen) == at:
            signal.raise_signal(signal.SIGTERM)

    place = Checkpoints(tmp_path, resume=True)
    stopped, _ = training(place, on_step=on_step, on_event=told.hear)
    assert stopped.stopped == signal.SIGTERM
    assert len(seen) == at
    assert [name for name, _ in told][-2:] == ["checkpoint", "interrupted"]
    assert told[-1][1] == {"epoch": (at - 1) // 8 + 1, "step": (at - 1) % 8 + 1, "signal": "SIGTERM"}
    told.clear()
    history, weights = training(place, on_step=seen.append, on_event=told.hear)
    assert told[0] == ("resume", {"epoch": (at - 1) // 8 + 1, "step": (at - 1) % 8 + 1, "notes": []})
    assert bits(weights) == undisturbed
    assert [(step.epoch, step.step) for step in seen] == [(e, s) for e in range(1, 6) for s in range(1, 9)]
    assert [epoch.epoch for epoch in history.epochs] == [1, 2, 3, 4, 5]
    assert history.epochs[0].values == sum(LENGTHS)


def test_a_finished_run_is_not_trained_again(undisturbed: bytes, tmp_path: Path) -> None:
    training(Checkpoints(tmp_path))
    history, weights = training(Checkpoints(tmp_path, resume=True), on_step=lambda step: pytest.fail("trained again"))
    assert bits(weights) == undisturbed
    assert (len(history.epochs), history.best) == (5, 3)


def test_a_damaged_checkpoint_is_passed_over_and_said(undisturbed: bytes, tmp_path: Path) -> None:
    count = 0

    def on_step(step: Step) -> None:
        nonlocal count
        count += 1
        if count == 20:
            signal.raise_signal(signal.SIGINT)

    training(Checkpoints(tmp_path), on_step=on_step)
    newest = max(tmp_path.iterdir())
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 4
    newest.write_bytes(data)
    told = Told()
    _, weights = training(Checkpoints(tmp_path, resume=True), on_event=told.hear)
    assert told[0] == (
        "resume", {"epoch": 3, "step": 2, "notes": [f"{newest} is damaged: it is not the bytes that were saved."]},
    )  # fmt: skip
    assert bits(weights) == undisturbed


def test_without_resume_a_run_begins_anew(undisturbed: bytes, tmp_path: Path) -> None:
    training(Checkpoints(tmp_path), plan=dataclasses.replace(PLAN, epochs=1))
    seen: list[Step] = []
    _, weights = training(Checkpoints(tmp_path), on_step=seen.append)
    assert len(seen) == WHOLE
    assert bits(weights) == undisturbed


def test_a_plan_may_change_in_what_does_not_bend_the_past(tmp_path: Path) -> None:
    training(Checkpoints(tmp_path), plan=dataclasses.replace(PLAN, epochs=2))
    told = Told()
    seen: list[Step] = []
    plan = dataclasses.replace(PLAN, epochs=3, learning_rate=0.01)
    training(
        Checkpoints(tmp_path, resume=True),
        plan=plan,
        on_step=seen.append,
        on_event=told.hear,
    )
    assert told[0][1]["notes"] == [
        "epochs is 3 from here on, it was 2",
        "learning_rate is 0.01 from here on, it was 0.05",
    ]
    assert {(step.epoch, step.learning_rate) for step in seen} == {(3, 0.01)}
    for change in ({"optimizer": "adamw"}, {"average": 0.0}, {"momentum": 0.5}, {"steps": 4}):
        (name, value), *_ = change.items()
        with pytest.raises(InputError, match=f"has {name} .*, not {value!r}: go on with the same, or begin anew"):
            training(Checkpoints(tmp_path, resume=True), plan=dataclasses.replace(PLAN, **change))


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    training(Checkpoints(tmp_path), plan=dataclasses.replace(PLAN, epochs=1))
    with pytest.raises(InputError, match=r"is of another model: .*ballast"):
        training(Checkpoints(tmp_path, resume=True), width=3)


def test_fault_23_killed_at_random_moments_a_run_comes_to_the_same_bits(tmp_path: Path) -> None:
    # Half of the kills come in the middle of a save: before the file is on disk, or before it takes its place.
    driver = Path(__file__).with_name("resumable.py")
    environment = os.environ | {"PYTHONPATH": str(driver.parent)}
    done = subprocess.run(
        [sys.executable, driver, tmp_path, "20"], capture_output=True, text=True, timeout=300, check=False,
        env=environment,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) == 20
    assert (tmp_path / "weights").read_bytes() == bits(training(None, plan=KILLED)[1])
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


SMALL_DISK = """
import sys
from pathlib import Path
from resumable import *
torch.set_num_threads(1)
folder, told = Path(sys.argv[1]), Told()
training(Checkpoints(folder), on_event=told.hear, width=14_000)
saved = [values for name, values in told if name == "checkpoint"]
unsaved = [values["error"] for name, values in told if name == "unsaved"]
print(len(saved), len(unsaved), set(unsaved), sorted(path.name for path in folder.iterdir()))
last = Checkpoints(folder, resume=True).last()
print(last[0]["epoch"], last[0]["step"], last[1])
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="a file system of its own needs Linux's unshare")
def test_fault_26_a_full_file_system(tmp_path: Path) -> None:
    # Room for two checkpoints of some 0.25 MB, but not for the third that must be there before the first may go.
    mount = f"mount -t tmpfs -o size=600k tmpfs {tmp_path} && exec {sys.executable} -c '{SMALL_DISK}' {tmp_path}"
    words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False, env=environment)
    if done.returncode and ("unshare" in done.stderr or "mount" in done.stderr):
        pytest.skip(f"this system allows no file system of one's own: {done.stderr.strip()}")
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert first.startswith("2 15 {")
    assert "No space left on device" in first
    assert first.endswith("['step-0000000003.checkpoint', 'step-0000000006.checkpoint']")
    assert second == "1 6 []"


def test_a_damaged_checkpoint_takes_no_good_ones_place(tmp_path: Path) -> None:
    place = Checkpoints(tmp_path, resume=True)
    for step in (3, 6):
        place.save(step, {"step": step})
    newest = tmp_path / "step-0000000006.checkpoint"
    newest.write_bytes(b"")
    state, notes = place.last()
    assert state is not None
    assert (state["step"], len(notes)) == (3, 1)
    for step in (4, 5):
        place.save(step, {"step": step})
        assert not newest.exists()
    assert [path.name[-13:-11] for path in sorted(tmp_path.iterdir())] == ["04", "05"]


def test_the_patience_of_a_plateau_is_of_the_past(tmp_path: Path) -> None:
    training(Checkpoints(tmp_path), plan=dataclasses.replace(PLAN, epochs=1))
    with pytest.raises(InputError, match="has patience 2, not 3"):
        training(Checkpoints(tmp_path, resume=True), plan=dataclasses.replace(PLAN, patience=3))


def test_a_signal_in_the_last_validation_is_obeyed(tmp_path: Path) -> None:
    place = Checkpoints(tmp_path, resume=True)

    def on_epoch(epoch: object, is_best: bool) -> None:
        signal.raise_signal(signal.SIGTERM)

    torch.manual_seed(0)
    line = torch.nn.Linear(1, 1)
    history = train(
        line, lambda x: (line(x).sum(), 1), lambda *_: torch.ones(1, 1), Plan(1, 2), checkpoints=place,
        on_epoch=on_epoch,
    )  # fmt: skip
    assert (history.stopped, history.saved, history.best) == (signal.SIGTERM, True, 1)

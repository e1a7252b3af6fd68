"""The log of a run: what is written and read again, through kills, full disks and resumes."""

import json
import math
import resource
import subprocess
import sys
import threading
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gatewise.errors import InputError
from gatewise.format import LOG_NAME, Log, LogReader
from gatewise.format.log import time_of
from gatewise.train import Epoch, Plan, train
from gatewise.train.log import RunLog
from gatewise.train.loop import Step

PLAN = Plan(epochs=3, steps=4)
Place = tuple[int, int]
"""An epoch, and how many of its steps are done."""


def _step(epoch: int, step: int, loss: float = 0.5) -> Step:
    return Step(epoch, step, loss, learning_rate=0.01, gradient_norm=2.0, values=64, seconds=0.25)


def _epoch(epoch: int, loss: float = 0.5) -> Epoch:
    return Epoch(epoch, loss, 2 * loss, seconds=1.5, learning_rate=0.01, gradient_norm=2.0, values=256)


def _lines(folder: Path) -> list[dict[str, Any]]:
    """The lines as a strict reader of JSON sees them."""

    def refuse(text: str) -> float:
        raise AssertionError(f"{text} is no JSON")

    text = (folder / LOG_NAME).read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def _read(folder: Path) -> Log:
    reader = LogReader(folder)
    reader.read()
    return reader.log


def _write(
    folder: Path, epochs: int, *, resume: tuple[int, int] | None = None, stop: tuple[int, int] = (99, 0)
) -> None:
    """A run of 4 steps an epoch, all written, from a resume up to a step at which it stops without a word."""
    written = RunLog(folder, resume=resume is not None, every=0, tensorboard=False)
    written.begin([("series", "3")], PLAN)
    first, done = resume or (1, 0)
    if resume:
        written.event("resume", epoch=first, step=done)
    for epoch in range(first, epochs + 1):
        for step in range(done + 1, 5):
            written.step(_step(epoch, step, loss=1 / (4 * epoch + step)))
            if (epoch, step) == stop:
                return written.close()
        written.epoch(_epoch(epoch, loss=1 / epoch), True)
        done = 0
    written.event("end")
    return written.close()


def test_a_training_is_told_line_by_line(tmp_path: Path) -> None:
    module, x = nn.Linear(1, 1), torch.ones(3, 1)
    steps: list[Step] = []
    with RunLog(tmp_path / "new" / "run", every=0, tensorboard=False) as told:
        told.begin([("series", "3")], PLAN)

        def on_step(step: Step) -> None:
            steps.append(step)
            told.step(step)
            assert _lines(told._folder)[-1]["step"] == step.step  # at once, not when a buffer is full

        history = train(
            module, lambda b: module(b).mean(), lambda _: [x] * 4, PLAN, on_step=on_step, on_epoch=told.epoch
        )
    lines = _lines(tmp_path / "new" / "run")
    assert [line["event"] for line in lines] == ["begin", *(["step"] * 4 + ["epoch"]) * 3, "end"]
    begin = lines[0]
    assert begin["plan"] == asdict(PLAN)
    assert begin["summary"] == [["series", "3"]]
    assert begin["versions"].keys() == {"gatewise", "python", "torch"}
    assert begin["versions"]["torch"] == torch.__version__
    times = [time_of(line) for line in lines]
    assert all(isinstance(time, datetime) and abs((datetime.now(UTC) - time).total_seconds()) < 600 for time in times)
    assert all(line["time"].endswith("Z") for line in lines)
    told_steps = [line for line in lines if line["event"] == "step"]
    assert [{k: v for k, v in line.items() if k not in ("event", "time")} for line in told_steps] == list(
        map(asdict, steps)
    )
    told_epochs = [line for line in lines if line["event"] == "epoch"]
    assert [{k: line[k] for k in asdict(epoch)} for epoch, line in zip(history.epochs, told_epochs, strict=True)] == [
        asdict(epoch) for epoch in history.epochs
    ]
    assert told_epochs[0]["best"] is True
    assert _read(tmp_path / "new" / "run").best == [line for line in told_epochs if line["best"]][-1]


@pytest.mark.parametrize(
    ("every", "seconds", "expected"),
    [
        (1.0, [0, 0.5, 0.99, 1.0, 1.5, 2.1, 99.9, 100.5], [0, 1.0, 2.1, 99.9]),
        # A hundredth of the run's age, up to ten times the first gap.
        (1.0, [0, 500, 504.9, 506, 100_000, 100_009, 100_010], [0, 500, 506, 100_000, 100_010]),
        (0.0, [0, 0, 0, 5000, 5000], [0, 0, 0, 5000, 5000]),
        (30.0, [0, 29, 30, 59, 60], [0, 30, 60]),
    ],
)
def test_steps_are_written_at_most_so_often(
    every: float, seconds: list[float], expected: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = RunLog(tmp_path, every=every, tensorboard=False)
    for number, now in enumerate(seconds, 1):
        monkeypatch.setattr("time.monotonic", lambda now=now: 1e6 + now)
        told.step(_step(1, number))
    told.close()
    assert [seconds[line["step"] - 1] for line in _lines(tmp_path)] == expected


def test_what_json_cannot_say_is_null_or_text(tmp_path: Path) -> None:
    with RunLog(tmp_path, every=0, tensorboard=False) as told:
        told.step(_step(1, 1, loss=math.nan))
        told.epoch(Epoch(1, math.inf, None, 1.0, 0.1, -math.inf, 5), False)
        told.event(
            "mine", a=np.float32(0.5), b=np.int64(7), c=[np.float64("nan"), (1, True)], d={1: Path("x")}, e="č\n"
        )
    step, epoch, mine, _ = _lines(tmp_path)
    assert step["loss"] is None
    assert (epoch["train_loss"], epoch["val_loss"], epoch["gradient_norm"]) == (None, None, None)
    del mine["time"]
    assert mine == {"event": "mine", "a": 0.5, "b": 7, "c": [None, [1, True]], "d": {"1": "x"}, "e": "č\n"}


def test_the_reader_follows_and_leaves_a_line_that_is_being_written(tmp_path: Path) -> None:
    path = tmp_path / LOG_NAME
    path.write_bytes(b"")
    reader = LogReader(tmp_path)
    assert not reader.read()
    lines = [json.dumps({"event": "step", "epoch": 1, "step": k}).encode() for k in range(1, 4)]
    with path.open("ab", buffering=0) as file:
        file.write(lines[0] + b"\n" + lines[1][:11])
        assert reader.read()
        assert [line["step"] for line in reader.log.steps] == [1]
        assert not reader.read()
        file.write(lines[1][11:] + b"\n\x00\x00\n[1]\n\xff\n" + lines[2] + b"\n")
        assert reader.read()
    assert [line["step"] for line in reader.log.steps] == [1, 2, 3]
    assert reader.log.damaged == 3


def test_a_log_begun_anew_is_read_from_its_start(tmp_path: Path) -> None:
    _write(tmp_path, 3)
    reader = LogReader(tmp_path)
    reader.read()
    assert len(reader.log.steps) == 12
    for epochs in (1, 3):  # shorter than what was read, and as long
        _write(tmp_path, epochs)
        assert reader.read()
        assert len(reader.log.steps) == 4 * epochs
    assert reader.log.ending is not None


def test_a_line_cut_anywhere_by_a_kill_is_mended_on_resume(tmp_path: Path) -> None:
    _write(tmp_path, 2, stop=(2, 3))
    whole = (tmp_path / LOG_NAME).read_bytes()
    before = whole.rstrip(b"\n").rpartition(b"\n")[0] + b"\n"
    for cut in range(len(before), len(whole)):
        (tmp_path / LOG_NAME).write_bytes(whole[:cut])
        assert _read(tmp_path).steps[-1]["step"] == 2
        RunLog(tmp_path, resume=True, tensorboard=False).close()
        assert (tmp_path / LOG_NAME).read_bytes() == before
    for damaged in (b"", b'{"event": "be', b"x" * 200_000):
        (tmp_path / LOG_NAME).write_bytes(damaged)
        RunLog(tmp_path, resume=True, tensorboard=False).close()
        assert (tmp_path / LOG_NAME).read_bytes() == b""
    (tmp_path / LOG_NAME).write_bytes(before + b"x" * 200_000)
    RunLog(tmp_path, resume=True, tensorboard=False).close()
    assert (tmp_path / LOG_NAME).read_bytes() == before


@pytest.mark.parametrize(
    ("stop", "resume"),
    [((2, 3), (2, 2)), ((2, 3), (2, 0)), ((3, 1), (2, 2)), ((3, 4), (3, 0)), ((3, 2), (1, 0)), ((1, 3), (1, 3))],
)
def test_what_is_done_again_counts_once(stop: Place, resume: Place, tmp_path: Path) -> None:
    _write(tmp_path / "whole", 3)
    _write(tmp_path / "killed", 3, stop=stop)
    killed = len(_read(tmp_path / "killed").steps)
    _write(tmp_path / "killed", 3, resume=resume)

    def told(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [line | {"time": ""} for line in lines]

    whole, again = _read(tmp_path / "whole"), _read(tmp_path / "killed")
    assert told(again.steps) == told(whole.steps)
    assert told(again.epochs) == told(whole.epochs)
    assert again.last("resume") is not None
    assert again.ending is not None
    # Nothing is taken out of the file.
    written = [line for line in _lines(tmp_path / "killed") if line["event"] == "step"]
    assert len(written) == killed + 12 - ((resume[0] - 1) * 4 + resume[1])


def test_the_best_epoch_is_one_that_counts() -> None:
    told = Log()
    for epoch, best in ((1, True), (2, True), (3, False)):
        told.add(json.dumps({"event": "epoch", "epoch": epoch, "best": best}).encode())
    assert told.best is not None
    assert told.best["epoch"] == 2
    told.add(b'{"event": "resume", "epoch": 2, "step": 0}')
    assert told.best is not None
    assert told.best["epoch"] == 1


KILLED = """
import sys
from gatewise.train.log import RunLog
from gatewise.train.loop import Plan, Step
log = RunLog(sys.argv[1], every=0, tensorboard=False)
log.begin([], Plan(1, 10**9))
print("ready", flush=True)
for step in range(1, 10**9):
    log.step(Step(1, step, 0.5, 0.1, 1.0, 8, 0.1))
"""


def test_a_killed_writer_leaves_whole_lines_and_frees_the_log(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            reader = LogReader(tmp_path)
            while len(reader.log.steps) < 200:
                assert process.poll() is None
                reader.read()
            assert reader.writing() is True
            with pytest.raises(InputError, match=r"another process is writing .*log\.jsonl: it trains in this folder"):
                RunLog(tmp_path, resume=True, tensorboard=False)
        finally:
            process.kill()
    reader.read()
    assert [line["step"] for line in reader.log.steps] == list(range(1, len(reader.log.steps) + 1))
    assert reader.log.damaged == 0
    assert reader.log.ending is None
    assert reader.writing() is False
    RunLog(tmp_path, resume=True, tensorboard=False).close()


def test_readers_that_look_whether_it_is_written_are_in_no_writers_way(tmp_path: Path) -> None:
    _write(tmp_path, 1)
    reader, stop = LogReader(tmp_path), threading.Event()

    def look() -> None:
        while not stop.is_set():
            reader.writing()

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(50):
            RunLog(tmp_path, resume=True, tensorboard=False).close()
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_full_disk_costs_lines_and_not_the_training(tmp_path: Path) -> None:
    said: list[str] = []
    told = RunLog(tmp_path, every=0, tensorboard=False, say=said.append)
    told.begin([], PLAN)
    path = tmp_path / LOG_NAME
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # In the middle of the second step's line: what of it was written must not stay.
    told.step(_step(1, 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 50, limits[1]))
    try:
        for step in (2, 3, 4):
            told.step(_step(1, step))
        told.epoch(_epoch(1), True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes()[-1:] != b"\n"
    assert said == [f"the log {path} cannot be written: No space left on device. The training goes on without it."]
    told.step(_step(2, 1))
    told.close()
    lines = _lines(tmp_path)
    assert [(line["event"], line.get("lines")) for line in lines] == [
        ("begin", None), ("step", None), ("gap", 4), ("step", None)
    ]  # fmt: skip
    assert [line["epoch"] for line in _read(tmp_path).steps] == [1, 2]
    assert len(said) == 1


def test_a_disk_that_stays_full_leaves_whole_lines(tmp_path: Path) -> None:
    told = RunLog(tmp_path, every=0, tensorboard=False)
    told.begin([], PLAN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / LOG_NAME).stat().st_size + 50, limits[1]))
    try:
        with pytest.warns(UserWarning, match="cannot be written"):
            told.step(_step(1, 1))
        told.step(_step(1, 2))  # a second warning would be an error
        told.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [line["event"] for line in _lines(tmp_path)] == ["begin"]


def test_a_log_that_cannot_be_begun_is_an_error_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"the log .*file/log\.jsonl cannot be written"):
        RunLog(tmp_path / "file", tensorboard=False)
    (tmp_path / LOG_NAME).mkdir()
    with pytest.raises(InputError, match=r"log\.jsonl cannot be written: Is a directory"):
        RunLog(tmp_path, tensorboard=False)
    with pytest.raises(InputError, match="every is -1"):
        RunLog(tmp_path / "run", every=-1)


@pytest.mark.parametrize(
    ("error", "last"),
    [
        (None, {"event": "end"}),
        (KeyboardInterrupt(), {"event": "interrupted", "signal": "SIGINT"}),
        (InputError("no rate suits"), {"event": "failed", "error": "InputError: no rate suits"}),
    ],
)
def test_how_it_ended_is_the_last_line(error: BaseException | None, last: dict[str, str], tmp_path: Path) -> None:
    def run() -> None:
        with RunLog(tmp_path, tensorboard=False):
            if error:
                raise error

    if error:
        with pytest.raises(type(error)):
            run()
    else:
        run()
    (line,) = _lines(tmp_path)
    assert line == last | {"time": line["time"]}
    assert _read(tmp_path).ending == line


def test_an_ending_that_was_written_is_the_only_one(tmp_path: Path) -> None:
    def run() -> None:
        with RunLog(tmp_path, tensorboard=False) as told:
            told.event("interrupted", signal="SIGTERM")
            raise SystemExit(143)

    with pytest.raises(SystemExit):
        run()
    assert [(line["event"], line["signal"]) for line in _lines(tmp_path)] == [("interrupted", "SIGTERM")]


def test_a_reader_is_told_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no run folder .*nowhere\."):
        LogReader(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"has no log\.jsonl: it is no run folder"):
        LogReader(tmp_path)

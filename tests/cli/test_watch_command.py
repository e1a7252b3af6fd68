"""gatewise watch: the picture of a run at every size and state, and a terminal that is followed, resized and left."""

import fcntl
import json
import math
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cli_tools import refuses, succeeds
from test_without_torch import without

from gatewise.cli.curves import Look, picture
from gatewise.format import LOG_NAME, Log

START = datetime(2026, 1, 5, 12, tzinfo=UTC)
STEPS = 10


def _line(event: str, at: float, **values: Any) -> str:
    return json.dumps({"event": event, "time": (START + timedelta(seconds=at)).isoformat(), **values})


def _lines(epochs: int, steps: int = 0, *, last: float = 0.1, validation: bool = True) -> list[str]:
    """The log of a run of 20 epochs of 10 steps of 2 s, so far; the best epoch is the third."""
    lines = [_line("begin", 0, plan={"epochs": 20, "steps": STEPS}, summary=[], versions={})]
    for epoch in range(1, epochs + 2):
        for step in range(1, STEPS + 1 if epoch <= epochs else steps + 1):
            at = 2 * ((epoch - 1) * STEPS + step)
            numbers = {"loss": last + 1 / at, "learning_rate": 0.005 / epoch, "gradient_norm": 3 / at, "values": 6400}
            lines.append(_line("step", at, epoch=epoch, step=step, seconds=2.0, **numbers))
        if epoch <= epochs:
            at = 2 * epoch * STEPS
            val_loss = 0.3 + 0.01 * abs(epoch - 3) if validation else None
            numbers = {"train_loss": last + 1 / at, "val_loss": val_loss, "learning_rate": 0.005 / epoch}
            numbers |= {"gradient_norm": 0.3, "values": 64000, "seconds": 20.0, "best": epoch <= 3}
            lines.append(_line("epoch", at, epoch=epoch, **numbers))
    return lines


def _log(lines: list[str]) -> Log:
    log = Log()
    for line in lines:
        log.add(line.encode())
    return log


def _picture(lines: list[str], look: Look, *, seconds: float = 0, writing: bool | None = True) -> list[str]:
    """The lines of the picture, so many seconds after the last step of epoch 7, step 4."""
    now = START + timedelta(seconds=2 * (6 * STEPS + 4) + seconds)
    return picture(_log(lines), "runs/a", look, now=now, writing=writing).split("\n")


def _plain(line: str) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", line)


RUNNING = _lines(6, 4)


@pytest.mark.parametrize("braille", [True, False])
@pytest.mark.parametrize("color", [True, False])
@pytest.mark.parametrize("height", [1, 5, 8, 12, 18, 24, 40, 200])
@pytest.mark.parametrize("width", [1, 20, 31, 59, 60, 75, 76, 80, 120, 400])
def test_it_fits_every_terminal(width: int, height: int, color: bool, braille: bool) -> None:
    lines = _picture(RUNNING, Look(width, height, color, braille))
    assert max(len(_plain(line)) for line in lines) <= max(width, 10)
    if (width >= 31 and height >= 18) or (width >= 59 and height >= 12):
        assert len(lines) <= height - 1
        assert sum("training loss" in line for line in lines) == 1
    if width >= 76 and height >= 24:
        assert len(lines) == height - 1
    if width >= 59 and height >= 24:
        # No number is cut in its middle.
        text = " ".join(map(_plain, lines))
        assert all(re.search(rf"{part}(,? |$)", text) for part in ("rate 0.0007143", "norm 0.02344", "values/s +3,200"))
    assert all(color or line == _plain(line) for line in lines)
    assert braille or all(line.isascii() for line in lines)


def test_all_is_told_while_it_trains() -> None:
    lines = _picture(RUNNING, Look(80, 24), seconds=5)
    saved = _line("checkpoint", 120, epoch=7, step=0)
    assert lines[:3] == [
        "runs/a: training epoch 7 of 20, step 4 of 10",
        "for 2 min 13 s, at most 4 min 32 s left",  # 13.6 epochs of 20 s
        "best epoch 3 (validation loss 0.3)",
    ]
    text = "\n".join(lines)
    assert re.search(r"tt training loss 0\.1083 +vv validation loss 0\.33\n", text)
    assert re.search(r"learning rate 0\.0007143 +gradient norm 0\.02344 +values/s 3,200\n", text)
    here = _picture([*RUNNING, saved], Look(100, 24), seconds=5)
    assert here[2] == "best epoch 3 (validation loss 0.3), last checkpoint: end of epoch 6, 13 s ago"
    middle = _picture([*RUNNING, _line("checkpoint", 120, epoch=7, step=2)], Look(100, 24), seconds=5)
    assert middle[2].endswith("last checkpoint: epoch 7, step 2, 13 s ago")


KILL = _line("interrupted", 130, signal="SIGTERM")
ERROR = _line("failed", 130, error="InputError: \x1b[31mno")
AGAIN = [_line("begin", 500, plan={}), _line("resume", 501, epoch=3, step=2)]


@pytest.mark.parametrize(
    ("lines", "writing", "state", "times"),
    [
        ([_line("end", 130)], False, "ended after 6 of 20 epochs", "took 2 min 10 s"),
        ([KILL], True, "interrupted (SIGTERM) after 6 of 20 epochs", "took 2 min 10 s"),
        ([ERROR], False, "failed after 6 of 20 epochs: InputError: ", "took 2 min 10 s"),
        ([], False, "stopped without a word (killed?) in epoch 7 of 20, step 4 of 10", "took 2 min 8 s"),
        ([], None, "training epoch 7 of 20, step 4 of 10", "for 8 min 48 s, at most 4 min 32 s left, nothing written"),
        (AGAIN, True, "training epoch 3, step 2", "for 28 s"),
    ],
)
def test_how_it_stands(lines: list[str], writing: bool | None, state: str, times: str) -> None:
    head = _picture([*RUNNING, *lines], Look(120, 24), seconds=400, writing=writing)
    assert head[0].startswith(f"runs/a: {state}")
    assert head[1].startswith(times)
    assert all(line.isprintable() for line in head)


def test_the_curves_are_where_the_numbers_are() -> None:
    falling = [_line("begin", 0, plan={"epochs": 9, "steps": 1})]
    falling += [_line("epoch", k, epoch=k, train_loss=1 - k / 10, val_loss=k / 10, best=False) for k in range(1, 10)]
    lines = _picture(falling, Look(80, 24))
    frame = [k for k, line in enumerate(lines) if line.startswith(("┌", "└"))]
    drawn = [line[1:] for line in lines[frame[0] + 1 : frame[1]]]
    middle = len(drawn[0]) // 2
    assert drawn[0].index("t") < middle < drawn[0].index("v")
    assert drawn[-1].index("v") < middle < drawn[-1].index("t")


def test_one_far_loss_does_not_flatten_the_others() -> None:
    lines = _picture(_lines(6, 4, last=0.001), Look(80, 30))
    rows = {k for k, line in enumerate(lines) if line.startswith("│") and "t" in line}
    assert len(rows) > 5


@pytest.mark.parametrize("count", range(6))
def test_it_begins_with_nothing(count: int) -> None:
    """A log of its first lines, some with numbers that JSON cannot say, and of a run without validation."""
    lines = [
        *_lines(0, 1),
        _line("step", 3, epoch=1, step=2, loss=None, learning_rate=0.1, gradient_norm=None, values=0, seconds=0),
        *_lines(1, validation=False)[-1:],
        "damaged",
    ][:count]
    text = "\n".join(_picture(lines, Look(80, 24)))
    assert ("no step is done yet" in text) == (count < 2)
    assert ("the log has no beginning yet" in text) == (count < 1)
    assert "nan" not in text
    assert ("1 damaged line in the log" in text) == (count == 5)
    assert "validation" not in text


def test_a_run_of_a_month_is_drawn_at_once() -> None:
    lines = _lines(400)
    began = time.perf_counter()
    text = _picture(lines * 20, Look(80, 24))
    assert time.perf_counter() - began < 20  # 80,000 lines
    assert len(text) == 23


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / LOG_NAME).write_text("\n".join([*RUNNING, _line("end", 130)]) + "\n")
    return folder


def test_one_picture_where_the_output_is_no_terminal(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    monkeypatch.chdir(run.parent)
    result = succeeds("watch", "a")
    assert result.raw_out.splitlines()[0] == "a: ended after 6 of 20 epochs"
    assert len(result.raw_out.splitlines()) == 23
    assert succeeds("watch", "a", "--once").raw_out == result.raw_out
    assert succeeds("watch", f"a/{LOG_NAME}").raw_out == result.raw_out


def test_no_run_is_a_clear_error(tmp_path: Path) -> None:
    assert refuses("watch", tmp_path / "none") == f"there is no run folder {tmp_path / 'none'}."
    assert refuses("watch", tmp_path) == (
        f"{tmp_path} has no log.jsonl: it is no run folder, or the run began before there were logs."
    )


def test_a_file_that_is_no_log_is_a_clear_error(run: Path) -> None:
    for content in (b"ds,y\n1,2\n", b"\x00\xff\n\n", b'{"y": 1}\n'):
        (run / "table.csv").write_bytes(content)
        said = f"{run / 'table.csv'} is not the log of a run: give a run folder, or the log.jsonl of one."
        assert refuses("watch", run / "table.csv") == said


def test_it_needs_neither_torch_nor_polars(run: Path) -> None:
    assert "ended after 6 of 20 epochs" in without(["torch", "polars"], run.parent, "watch", "a")


def test_another_encoding_gets_ascii(run: Path) -> None:
    other = run.with_name("č")
    run.rename(other)
    environment = os.environ | {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    words = [sys.executable, "-m", "gatewise", "watch", "č"]
    out = subprocess.run(words, cwd=other.parent, env=environment, capture_output=True, timeout=60, check=True).stdout
    assert out.startswith(b"?: ended after 6 of 20 epochs")
    assert out.isascii()
    assert b"+-----" in out


class _Terminal:
    """A command on a pseudo-terminal."""

    def __init__(self, words: list[str], height: int, width: int):
        self._decode = getincrementaldecoder("utf-8")().decode
        self.pipe, other = pty.openpty()
        self.resize(height, width)
        # Not os.environ itself: readline has put COLUMNS into the process without its knowledge.
        kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        environment = kept | {"TERM": "xterm-256color"}
        # Not pty.fork, of which JAX warns where an earlier test has loaded it.
        self.process = subprocess.Popen(words, stdin=other, stdout=other, stderr=other, env=environment)
        os.close(other)

    def resize(self, height: int, width: int) -> None:
        fcntl.ioctl(self.pipe, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def wait(self, ready: Callable[[str], object], seconds: float = 60) -> str:
        """What it printed since the last call, once that is ready or the command has ended."""
        text, until = "", time.monotonic() + seconds
        while not ready(_plain(text)):
            assert time.monotonic() < until, text[-3000:]
            if select.select([self.pipe], [], [], 0.1)[0]:
                try:
                    text += self._decode(os.read(self.pipe, 65536))
                except OSError:  # Linux's way to say that the other side is closed
                    break
        return text

    def end(self) -> tuple[int, str]:
        text = self.wait(lambda _: False)
        return self.process.wait(timeout=60), text


@contextmanager
def _terminal(folder: Path, height: int = 24, width: int = 80) -> Iterator[_Terminal]:
    terminal = _Terminal([sys.executable, "-m", "gatewise", "watch", str(folder)], height, width)
    try:
        yield terminal
    finally:
        os.close(terminal.pipe)
        terminal.process.kill()
        terminal.process.wait()


ALTERNATE, NORMAL = "\x1b[?1049h", "\x1b[?1049l"


@pytest.fixture
def growing(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Appends lines to the log of a run that is held open, as a training holds it."""
    with (tmp_path / LOG_NAME).open("ab", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)

        def grow(*lines: str) -> None:
            file.write("".join(line + "\n" for line in lines).encode())

        yield grow


def test_it_follows_the_run_to_its_end(tmp_path: Path, growing: Callable[..., None]) -> None:
    growing(*_lines(1))
    with _terminal(tmp_path) as terminal:
        first = terminal.wait(lambda text: "training epoch 2 of 20" in text and "values/s" in text)
        assert ALTERNATE in first
        assert "\x1b[32m" in first  # colours
        assert "⣿⣿ training loss" in _plain(first)
        growing(*_lines(2)[-11:])
        terminal.wait(lambda text: "training epoch 3 of 20" in text)
        terminal.resize(40, 130)
        wide = terminal.wait(lambda text: "─" * 110 in text)
        assert NORMAL not in wide
        growing(_line("end", 99))
        code, last = terminal.end()
    assert code == 0
    assert NORMAL in last
    # The last picture stays on the terminal.
    assert "ended after 2 of 20 epochs" in last.partition(NORMAL)[2]


def test_ctrl_c_ends_the_picture_only(tmp_path: Path, growing: Callable[..., None]) -> None:
    growing(*_lines(1))
    with _terminal(tmp_path) as terminal:
        terminal.wait(lambda text: "training epoch 2 of 20" in text)
        terminal.process.send_signal(signal.SIGINT)
        code, last = terminal.end()
    assert code == 0
    assert "training epoch 2 of 20" in last.partition(NORMAL)[2]
    assert "Traceback" not in last
    assert "nothing was written" not in last


def test_a_run_that_was_killed_ends_the_picture(tmp_path: Path) -> None:
    (tmp_path / LOG_NAME).write_text("\n".join(_lines(1)) + "\n")
    began = time.monotonic()
    with _terminal(tmp_path) as terminal:
        code, last = terminal.end()
    assert code == 0
    assert 15 <= time.monotonic() - began < 50  # torchrun may start it again
    assert "stopped without a word (killed?) in epoch 2" in last.partition(NORMAL)[2]


@pytest.mark.parametrize(
    ("values", "ends"),
    [
        ((0.4, 0.6), ("0.6", "0.4")),
        ((0.04, 0.06), ("0.06", "0.04")),
        ((0.40001, 0.40004), ("0.40004", "0.40001")),
        ((4.4e-7, 6.6e-7), ("6.6e-07", "4.4e-07")),
        ((12_345, 12_346), ("12,346", "12,345")),
        ((1e-9, 2e9), ("2,000,000,000", "1e-09")),
        ((0.5, 0.5), ("0.55", "0.45")),
        ((0.0, 0.0), ("1", "-1")),
        ((-3.0, 2.0), ("2", "-3")),
    ],
)
def test_the_ends_of_the_axes_are_the_ends_of_the_curve(values: tuple[float, float], ends: tuple[str, str]) -> None:
    lines = [_line("begin", 0, plan={"epochs": 2, "steps": 1})]
    lines += [_line("step", k, epoch=k, step=1, loss=value, seconds=1) for k, value in enumerate(values, 1)]
    frame = [line for line in _picture(lines, Look(80, 24, braille=False)) if line.startswith("|")]
    assert (frame[0].rpartition("| ")[2], frame[-1].rpartition("| ")[2]) == ends
    rows = {k for k, line in enumerate(frame) if "t" in line}
    assert len(rows) == 1 if values[0] == values[1] else {0, len(frame) - 1} <= rows


def test_an_average_of_many_points_keeps_their_height() -> None:
    lines = [_line("begin", 0, plan={"epochs": 1, "steps": 10_000})]
    lines += [
        _line("step", k, epoch=1, step=k, loss=0.5 + 0.1 * math.sin(k / 500), learning_rate=1, seconds=1, values=1)
        for k in range(1, 10_001)
    ]
    text = "\n".join(_picture(lines, Look(80, 40)))
    assert re.findall(r"│ (0\.[456]\d*)\n", text) == ["0.6", "0.4"]  # as high as it goes, and as low


@pytest.mark.parametrize(
    "line",
    [
        _line("step", 70, epoch=None, step=1),
        _line("step", 70, epoch=1),
        _line("epoch", 70, epoch="7"),
        _line("begin", 70, plan=None),
        _line("begin", 70, plan=[1]),
        "[]",
    ],
)
def test_a_line_that_is_json_but_not_whole_is_damaged(run: Path, line: str) -> None:
    log = run / LOG_NAME
    log.write_text("\n".join([*RUNNING, line, _line("end", 130)]) + "\n")
    result = succeeds("watch", run)
    assert result.raw_out.splitlines()[0] == "a: ended after 6 of 20 epochs"
    assert "1 damaged line in the log" in result.out

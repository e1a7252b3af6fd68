"""The log of a run as data: what ``log.jsonl`` says so far, read while it grows. No torch, so that watching is cheap.

docs/training.md tells the lines. `gatewise.train.log` writes them.
"""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

from gatewise.errors import InputError

LOG_NAME = "log.jsonl"
ENDINGS = ("end", "interrupted", "failed")
"""The events after which a process writes no more."""

_HEAD = 80
"""Bytes that tell one log from another: the first line begins with the time to the millisecond."""

Line = dict[str, Any]


@dataclass
class Log:
    """What a log says so far, without what was done again after a resume.

    Attributes:
        begin: the last line with the plan and the summary, empty before the first.
        steps: the lines of steps, in order.
        epochs: the lines of epochs, in order.
        events: all other lines, in order; what was superseded stays among them, because it happened.
        damaged: how many lines could not be read.
    """

    begin: Line = field(default_factory=dict[str, Any])
    steps: list[Line] = field(default_factory=list[Line])
    epochs: list[Line] = field(default_factory=list[Line])
    events: list[Line] = field(default_factory=list[Line])
    damaged: int = 0

    def add(self, text: bytes) -> None:
        """Take in one line.

        Example:
            >>> log = Log()
            >>> log.add(b'{"event": "step", "epoch": 2, "step": 7, "loss": 0.5}')
            >>> log.add(b'{"event": "resume", "epoch": 2, "step": 5}')
            >>> log.steps
            []
        """
        line = _parsed(text)
        match line.get("event"):
            case None:
                self.damaged += 1
            case "step" | "epoch" if not _placed(line):
                self.damaged += 1
            case "begin" if not isinstance(line.get("plan", {}), dict):
                self.damaged += 1
            case "step":
                self.steps.append(line)
            case "epoch":
                self.epochs.append(line)
            case "resume":
                self._go_back(_whole(line, "epoch"), _whole(line, "step"))
                self.events.append(line)
            case event:
                self.begin = line if event == "begin" else self.begin
                self.events.append(line)

    def _go_back(self, epoch: int, step: int) -> None:
        """Drop what comes after so many steps of an epoch: it is done again."""
        self.steps = [s for s in self.steps if (_whole(s, "epoch"), _whole(s, "step")) <= (epoch, step)]
        self.epochs = [e for e in self.epochs if _whole(e, "epoch") < epoch]

    @property
    def ending(self) -> Line | None:
        """The line that says how the process ended; None while it has not said so."""
        return self.events[-1] if self.events and self.events[-1]["event"] in ENDINGS else None

    @property
    def best(self) -> Line | None:
        """The best epoch so far."""
        return next((epoch for epoch in reversed(self.epochs) if epoch.get("best") is True), None)

    def last(self, event: str) -> Line | None:
        """The last line of an event."""
        return next((line for line in reversed(self.events) if line["event"] == event), None)

    @property
    def last_time(self) -> datetime | None:
        """When the last line was written, in UTC."""
        lines = [*self.steps[-1:], *self.epochs[-1:], *self.events[-1:]]
        return max((time for line in lines if (time := time_of(line))), default=None)


class LogReader:
    """Reads a run's log, and what is appended to it since the last time.

    Args:
        run: the run folder, or the log itself.

    Raises:
        InputError: there is no such log, or it cannot be read.
    """

    def __init__(self, run: str | Path):
        run = Path(run)
        self.path = run / LOG_NAME if run.is_dir() else run
        self.log = Log()
        self._offset, self._head = 0, b""
        if not run.exists():
            raise InputError(f"there is no run folder {run}.")
        if not self.path.is_file():
            raise InputError(f"{run} has no {LOG_NAME}: it is no run folder, or the run began before there were logs.")

    def read(self) -> bool:
        """Take in the whole lines that are new; whether there were any. A line that is being written is left for later.

        A log that was begun anew (its first bytes differ) is read from its start.
        """
        try:
            with open(self.path, "rb") as file:
                self._check_head(file)
                file.seek(self._offset)
                new, newline, _ = file.read().rpartition(b"\n")
        except OSError as error:
            raise InputError(f"the log {self.path} cannot be read: {error.strerror}.") from error
        self._offset += len(new) + len(newline)
        for line in new.split(b"\n") if newline else ():
            self.log.add(line)
        return bool(newline)

    def _check_head(self, file: BinaryIO) -> None:
        head = file.read(_HEAD)
        if not head.startswith(self._head):
            self.log, self._offset = Log(), 0
        self._head = head

    def writing(self) -> bool | None:
        """Whether a process holds the log open for writing; None where the file system cannot tell."""
        try:
            import fcntl

            with open(self.path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except (ImportError, OSError):
            return None
        return False


def time_of(line: Line) -> datetime | None:
    """When a line was written, in UTC."""
    try:
        return datetime.fromisoformat(line["time"]).astimezone(UTC)
    except (KeyError, TypeError, ValueError):
        return None


def number(line: Line, name: str) -> float:
    """A number of a line; NaN where it has none, or had one that JSON cannot say."""
    value = line.get(name)
    return float(value) if isinstance(value, int | float) else float("nan")


def _placed(line: Line) -> bool:
    """Whether a line of a step or an epoch says of which."""
    names = ("epoch", "step") if line.get("event") == "step" else ("epoch",)
    return all(type(line.get(name)) is int for name in names)


def _whole(line: Line, name: str) -> int:
    value = line.get(name)
    return value if isinstance(value, int) else 0


def _parsed(text: bytes) -> Line:
    """The line; empty if it is damaged."""
    try:
        line: object = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return cast(Line, line) if isinstance(line, dict) else {}

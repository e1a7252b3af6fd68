"""The log of a run: ``log.jsonl``, one JSON object a line, and TensorBoard's files where that is installed.

docs/training.md tells the lines; `gatewise.format.LogReader` reads them. A training outlives its log: once the first
line is there, a disk that is full costs lines, which is said once, and never the run.
"""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from platform import python_version
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch

from gatewise.errors import InputError
from gatewise.format.log import ENDINGS, LOG_NAME
from gatewise.train.history import Epoch, Step
from gatewise.train.lines import LineFile, line_of
from gatewise.train.plan import Plan

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

TENSORBOARD = "tensorboard"
"""The folder of TensorBoard's files in the run folder."""


class RunLog:
    """Writes what happens in a training, while it happens. Its methods are the callbacks of `train`.

    Args:
        folder: the run folder, made if it is not there.
        resume: go on with the log in the folder; otherwise it is begun anew. A line that a kill had cut is removed.
        every: seconds from one line of a step to the next, at least 0; 0 writes every step. After 100 seconds it is a
            hundredth of the time so far, up to ten times ``every``: with 1, the default, 1.7 MB a day.
        tensorboard: also write files for TensorBoard; None, the default, does so where the package is installed. It is
            imported at the first step (0.2 s).
        say: told, once each, that the log or TensorBoard's files cannot be written; by default a warning.

    Raises:
        InputError: the log cannot be begun, another process is writing it, or TensorBoard is asked for and not there.

    Example:
        >>> import tempfile
        >>> from gatewise.format import LogReader
        >>> from gatewise.train import Plan
        >>> folder = tempfile.mkdtemp()
        >>> with RunLog(folder, tensorboard=False) as log:
        ...     log.begin([("series", "3")], Plan(epochs=2, steps=10))
        ...     log.event("checkpoint", epoch=1, step=10)
        >>> reader = LogReader(folder)
        >>> reader.read(), [line["event"] for line in reader.log.events]
        (True, ['begin', 'checkpoint', 'end'])
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        resume: bool = False,
        every: float = 1.0,
        tensorboard: bool | None = None,
        say: Callable[[str], None] = warnings.warn,
    ):
        if every < 0:
            raise InputError(f"every is {every}: the seconds between lines of steps are at least 0.")
        installed = find_spec("tensorboard") is not None
        if tensorboard and not installed:
            raise InputError("TensorBoard is not installed: pip install 'gatewise[tensorboard]'.")
        self._folder, self._every, self._say = Path(folder), every, say
        self._lines = LineFile(self._folder / LOG_NAME, resume=resume, say=say)
        self._boards = _Boards(self._folder / TENSORBOARD, say) if installed and tensorboard is not False else None
        self._began: float | None = None
        self._told = -float("inf")
        self._ended = False

    def begin(self, summary: Sequence[tuple[str, str]], plan: Plan) -> None:
        """Write with what the training begins, or goes on: versions, plan and summary."""
        versions = {"gatewise": version("gatewise"), "python": python_version(), "torch": str(torch.__version__)}
        if self._boards:
            self._boards.steps = plan.steps
        self.event("begin", versions=versions, threads=torch.get_num_threads(), plan=asdict(plan), summary=summary)

    def step(self, step: Step) -> None:
        """Write a step if the last that was written is long enough ago; the first always is."""
        now = time.monotonic()
        if self._began is None:
            self._began = now
        gap = min(max(self._every, (now - self._began) / 100), 10 * self._every)
        if now - self._told >= gap:
            self._told = now
            self._write("step", asdict(step))
            if self._boards:
                self._boards.step(step)

    def epoch(self, epoch: Epoch, is_best: bool) -> None:
        """Write an epoch, and whether it is the best so far."""
        self._write("epoch", asdict(epoch) | {"best": is_best})
        if self._boards:
            self._boards.epoch(epoch)

    def event(self, name: str, **values: object) -> None:
        """Write anything else that happened.

        Args:
            name: ``checkpoint`` (saved; with ``epoch`` and ``step``), ``resume`` (the training goes on after ``step``
                steps of ``epoch``; what the log has of later ones counts no more), ``interrupted`` (with ``signal``),
                ``failed`` (with ``error``), ``end``, or a name of your own.
            values: what JSON can say; numbers that it cannot (NaN, infinite) become null, other objects their text.
        """
        self._ended = name in ENDINGS
        self._write(name, values)
        if name == "resume" and self._boards:
            self._boards.resume(values)

    def close(self) -> None:
        """Close the files; nothing can be written afterwards."""
        self._lines.close()
        if self._boards:
            self._boards.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write how it ended, unless that was written, and close."""
        if not self._ended:
            if error is None:
                self.event("end")
            elif isinstance(error, KeyboardInterrupt):
                self.event("interrupted", signal="SIGINT")
            else:
                self.event("failed", error=f"{type(error).__name__}: {error}")
        self.close()

    def _write(self, event: str, values: Mapping[str, object]) -> None:
        self._lines.write(line_of(event, values))


class _Boards:
    """TensorBoard's files, opened at the first number. A failure ends them, never the training."""

    def __init__(self, folder: Path, say: Callable[[str], None]):
        self.steps = 1
        self._folder, self._say = folder, say
        self._purge = 0  # TensorBoard forgets what an earlier run left in the folder
        self._writer: SummaryWriter | None = None
        self._failed = False

    def resume(self, values: Mapping[str, Any]) -> None:
        """Let TensorBoard forget the steps that are done again."""
        self.close()
        self._writer, self._purge = None, (values["epoch"] - 1) * self.steps + values["step"] + 1

    def step(self, step: Step) -> None:
        self._add(
            (step.epoch - 1) * self.steps + step.step,
            {
                "loss/step": step.loss,
                "learning_rate": step.learning_rate,
                "gradient_norm": step.gradient_norm,
                "values_per_second": step.values / step.seconds if step.seconds > 0 else None,
            },
        )

    def epoch(self, epoch: Epoch) -> None:
        self._add(epoch.epoch * self.steps, {"loss/training": epoch.train_loss, "loss/validation": epoch.val_loss})

    def _add(self, at: int, values: Mapping[str, float | None]) -> None:
        def add() -> None:
            if self._writer is None:
                from torch.utils.tensorboard import SummaryWriter

                self._writer = SummaryWriter(str(self._folder), purge_step=self._purge)
            for name, value in values.items():
                if value is not None:
                    self._writer.add_scalar(name, value, at)

        self._try(add)

    def close(self) -> None:
        if self._writer is not None:
            self._try(self._writer.close)

    def _try(self, action: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            action()
        except Exception as error:  # whatever it and protobuf may raise
            self._failed = True
            self._say(f"TensorBoard's files in {self._folder} are written no more: {error}. The training goes on.")

"""What ``gatewise fit`` does: check, read, train, write; alone or as one of torchrun's processes."""

import sys
from contextlib import ExitStack
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING, Any

from gatewise.cli.codes import INTERRUPTED, name_of, raised_on_sigterm, stopped_by
from gatewise.data import to_table
from gatewise.format import MODEL_NAME
from gatewise.machine import process
from gatewise.tasks.forecast.folder import CHECKPOINTS, check_folder

if TYPE_CHECKING:
    from gatewise.cli.commands import Fit
    from gatewise.cli.progress import Progress
    from gatewise.tasks.forecast.training import Summary
    from gatewise.train import Epoch, Plan, Step
    from gatewise.train.log import RunLog


def fit(command: "Fit", title: str) -> int:
    """Train and write the run folder; the exit code.

    Args:
        command: the words of the command line.
        title: the command as it was typed, for the report.
    """
    name = Path(command.table).name.split(".")[0].strip("*?[]") or "table"
    folder = Path(command.out or f"runs/{name}")
    command.settings.check()
    if not process().rank:
        # One looks for all: each tries the folder out, and would be in the others' way.
        check_folder(folder, force=command.force, resume=command.resume)
    table = to_table(command.table)

    # Here, because torch takes its time and wrong words should be told at once.
    from gatewise.cli.progress import Progress, print_scores
    from gatewise.tasks.forecast.fitting import fit_model
    from gatewise.tasks.forecast.run import write_run
    from gatewise.tasks.forecast.training import Silent, StoppedError
    from gatewise.train import joined_group

    place = folder / CHECKPOINTS
    with ExitStack() as until_written:
        with joined_group() as group, ExitStack() as while_training:
            watch = Silent()
            if group.first:
                progress = while_training.enter_context(Progress())
                watch = _Watch(progress, until_written, folder, resume=command.resume)
            try:
                model, fitted = fit_model(
                    command.settings, table, watch,
                    checkpoints=place, resume=command.resume, save_every=command.save_every,
                )  # fmt: skip
            except StoppedError as stop:
                if group.first:
                    left = _go_on(place, saved=stop.saved)
                    print(f"stopped by {name_of(stop.signal)} before the first epoch was over{left}")
                return stopped_by(stop.signal)
            except KeyboardInterrupt:
                # The second Ctrl-C, which does not wait for the step.
                if group.first:
                    print(f"stopped by Ctrl-C at once{_go_on(place, saved=False)}")
                return INTERRUPTED
        stopped = fitted.history.stopped
        if not group.first:
            return stopped_by(stopped) if stopped else 0
        if stopped:
            print(f"stopped by {name_of(stopped)}{_go_on(place, saved=fitted.history.saved)}")
            if stopped != Signals.SIGINT:
                # Whoever sends SIGTERM waits for a few seconds only.
                return stopped_by(stopped)
            print(f"keeping the best model so far, of epoch {fitted.history.best}.")
        try:
            with raised_on_sigterm(StoppedError(Signals.SIGTERM)):
                metrics = write_run(model, fitted, folder, title=f"Forecast of {name}", command=title, force=True)
        except KeyboardInterrupt as stop:
            number = Signals(stop.signal if isinstance(stop, StoppedError) else Signals.SIGINT)
            watch.event("interrupted", signal=number.name)
            print(f"stopped by {name_of(number)} while writing{_go_on(place, saved=True)}", file=sys.stderr)
            return stopped_by(number)
    print_scores(metrics)
    print(f"run folder: {folder} (open {folder / 'report.html'})")
    if not (folder / "forecast.csv").exists():
        print("no forecast.csv: the table has no future rows with the known-future covariates.")
    return stopped_by(stopped) if stopped else 0


def _go_on(place: Path, *, saved: bool) -> str:
    """What is left of a run that was stopped, in words."""
    before = " The other files there are of the run before." if (place.parent / MODEL_NAME).exists() else ""
    if saved:
        return f", saved in {place}: the same command with --resume goes on.{before}"
    if place.is_dir() and any(place.iterdir()):
        return f": the same command with --resume goes on from the last checkpoint in {place}.{before}"
    return f"; nothing is saved.{before}"


class _Watch:
    """Shows how far the training is, and writes the log, which begins with it: what fails before leaves nothing."""

    def __init__(self, progress: "Progress", stack: ExitStack, folder: Path, *, resume: bool):
        self._progress, self._stack, self._folder, self._resume = progress, stack, folder, resume
        self._log: RunLog | None = None

    def begin(self, summary: "Summary", plan: "Plan") -> None:
        """The table is read."""
        from gatewise.train.log import RunLog

        # Without a checkpoint the run begins anew, and so does its log.
        resume = self._resume and (self._folder / CHECKPOINTS).is_dir()
        log = RunLog(self._folder, resume=resume, say=self._progress.note)
        self._log = self._stack.enter_context(log)
        self._log.begin(summary, plan)
        self._progress.begin(summary, plan)

    def step(self, step: "Step") -> None:
        """After a step."""
        self._progress.step(step)
        if self._log:
            self._log.step(step)

    def epoch(self, epoch: "Epoch", is_best: bool) -> None:
        """After an epoch."""
        self._progress.epoch(epoch, is_best)
        if self._log:
            self._log.epoch(epoch, is_best)

    def event(self, name: str, **values: Any) -> None:
        """When something else happens."""
        self._progress.event(name, **values)
        if self._log:
            self._log.event(name, **values)

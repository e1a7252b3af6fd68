"""What ``gatewise fit`` does: check, read, train, write; alone or as one of torchrun's processes."""

import sys
from contextlib import nullcontext
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING

from gatewise.cli.codes import INTERRUPTED, name_of, stopped_by
from gatewise.data import to_table
from gatewise.machine import process
from gatewise.tasks.forecast.folder import CHECKPOINTS, check_folder

if TYPE_CHECKING:
    from gatewise.cli.commands import Fit


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
    go_on = f"saved in {place}: the same command with --resume goes on."
    with joined_group() as group, Progress() if group.first else nullcontext(Silent()) as watch:
        try:
            model, fitted = fit_model(
                command.settings, table, watch, checkpoints=place, resume=command.resume, save_every=command.save_every
            )
        except StoppedError as stop:
            if group.first:
                print(f"stopped by {name_of(stop.signal)} in the first epoch, {go_on}")
            return stopped_by(stop.signal)
    stopped = fitted.history.stopped
    if not group.first:
        return stopped_by(stopped) if stopped else 0
    if stopped:
        print(f"stopped by {name_of(stopped)}, {go_on}")
        if stopped != Signals.SIGINT:
            # Whoever sends SIGTERM waits for a few seconds only.
            return stopped_by(stopped)
        print(f"keeping the best model so far, of epoch {fitted.history.best}.")
    try:
        metrics = write_run(model, fitted, folder, title=f"Forecast of {name}", command=title, force=True)
    except KeyboardInterrupt:
        print(f"stopped while writing, {go_on}", file=sys.stderr)
        return INTERRUPTED
    print_scores(metrics)
    print(f"run folder: {folder} (open {folder / 'report.html'})")
    if not (folder / "forecast.csv").exists():
        print("no forecast.csv: the table has no future rows with the known-future covariates.")
    return stopped_by(stopped) if stopped else 0

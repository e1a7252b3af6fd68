"""``gatewise tune``: the search on the command line."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT
from types import TracebackType
from typing import TYPE_CHECKING, Self

import tyro

from gatewise.tasks.forecast import Settings, Space

if TYPE_CHECKING:
    from gatewise.tasks.forecast.study import Trial
    from gatewise.train import Epoch


@dataclass
class Tune:
    """Search for the settings of a forecaster: many fits, of which the best becomes a run folder.

    Trials are judged by their validation loss, and ended early where they look worse than the others. The run folder
    also gets the study (study.db), a table of the trials (trials.csv) and a report (tune.html). The same command again
    goes on to the number of trials, after Ctrl-C too.

    Examples:
        gatewise tune data.csv --target load --time date --horizon 24 --trials 50

        gatewise tune data.csv --horizon 48 --epochs 8 --keep hidden layers --out runs/search

        gatewise tune data.csv --horizon 48 --space greff2017 --trials 200 --no-prune
    """

    table: tyro.conf.Positional[str]
    """the table or the store to learn from"""
    settings: tyro.conf.OmitArgPrefixes[Settings]
    trials: int = 50
    """how many trials in all, those of an earlier run of the command counted"""
    space: str = "adamw"
    """what is searched: adamw (around the defaults), or greff2017 (the ranges of Greff et al. 2017, for SGD)"""
    keep: tuple[str, ...] = ()
    """settings of the space that stay as given"""
    no_prune: bool = False
    """train every trial to its end"""
    out: str | None = None
    """the folder; by default runs/, the name of the table and -tune"""
    force: bool = False
    """begin anew: replace the run and the search in the folder"""
    config: str | None = None
    """a TOML file of settings, such as the config.toml of a run; options given beside it win"""

    def run(self, words: Sequence[str]) -> int:
        """Search and write; ``words`` are the command's own, for the reports."""
        from gatewise.data import to_table

        name = Path(self.table).name.split(".")[0].strip("*?[]") or "table"
        folder = Path(self.out or f"runs/{name}-tune")
        self.settings.check()
        table = to_table(self.table)

        from gatewise.cli.codes import name_of, stopped_by
        from gatewise.cli.progress import print_scores
        from gatewise.tasks.forecast import tune
        from gatewise.tasks.forecast.training import StoppedError

        command = f"gatewise {shlex.join(words)}"
        with TuneProgress() as progress:
            try:
                tuned = tune(
                    table, self.settings, folder,
                    trials=self.trials, space=self.space, keep=self.keep, prune=not self.no_prune, force=self.force,
                    title=f"Search for a forecast of {name}", command=command, watch=progress,
                )  # fmt: skip
            except KeyboardInterrupt as stop:
                progress.close()
                signal = stop.signal if isinstance(stop, StoppedError) else SIGINT
                again = f"gatewise {shlex.join(word for word in words if word != '--force')}"
                print(f"stopped by {name_of(signal)}: {progress.done} of {self.trials} trials are done and kept.")
                print(f"to go on: {again}")
                return stopped_by(signal)
        print(f"best: trial {tuned.best.number} of {len(tuned.trials)}, validation loss {tuned.best.loss:.4f}")
        for setting, share in tuned.importance.items():
            print(f"importance of {setting}: {share:.0%}")
        print_scores(tuned.metrics)
        print(f"run folder: {folder} (open {folder / 'tune.html'} and {folder / 'report.html'})")
        return 0


class TuneProgress:
    """Prints a line for each trial, and below them how far the running one is."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import Progress, TextColumn, TimeElapsedColumn

        self.done = 0
        self._console = Console()
        self._bar = Progress(
            TextColumn("{task.description}"), TimeElapsedColumn(), console=self._console, transient=True
        )
        self._task = self._bar.add_task("", visible=False, total=None)
        self._trials = 0
        self._searched: tuple[str, ...] = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the running line away."""
        if self._console.is_terminal:
            self._bar.stop()

    def begin(self, space: Space, done: int, trials: int) -> None:
        """Print what is searched."""
        self.done, self._trials = done, trials
        self._searched = tuple(row.setting for row in space.ranges)
        for row in space.ranges:
            self._print(f"search {row.setting:<14} {row.text()}")
        for name, value in space.fixed.items():
            self._print(f"fixed  {name:<14} {value}")
        if done:
            self._print(f"{done} of {trials} trials are done")
        if self._console.is_terminal:
            self._bar.start()

    def start(self, number: int, settings: Settings) -> None:
        """Show that a trial begins."""
        self._bar.reset(self._task, description=f"trial {number} of {self._trials}", visible=True)

    def epoch(self, number: int, epoch: "Epoch") -> None:
        """Show how far it is."""
        text = f"trial {number} of {self._trials}, epoch {epoch.epoch}, validation {epoch.val_loss:.4f}"
        self._bar.update(self._task, description=text)

    def trial(self, trial: "Trial", settings: Settings, is_best: bool) -> None:
        """Print the trial."""
        self.done += 1
        ends = {
            "complete": "best" if is_best else "",
            "pruned": f"pruned after epoch {len(trial.losses)}",
            "diverged": "diverged",
        }
        loss = f"validation {trial.loss:.4f}" if trial.losses else "no validation"
        values = "  ".join(f"{name} {getattr(settings, name):.4g}" for name in self._searched)
        line = f"trial {trial.number:>3}  {loss}  {trial.seconds:.1f} s  {values}  {ends[trial.state]}"
        self._print(line.rstrip())

    def again(self, trial: "Trial") -> None:
        """Say why there is a fit more."""
        self._print(f"the folder has no model of trial {trial.number}, the best: it is trained again")

    def _print(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

"""Search for the settings of a forecaster: many fits, of which the best becomes a run folder.

Each trial is an ordinary fit, judged by its lowest validation loss and ended early where its losses are worse than the
median of the other trials at the same epoch (median pruning, Golovin et al. 2017). The held-out rows choose nothing.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, final

import optuna
import polars as pl
from optuna.trial import TrialState

from gatewise.data import AnyPanel, Store, to_table, write_table
from gatewise.data.windows import extend
from gatewise.errors import InputError
from gatewise.format import atomic_file
from gatewise.tasks.forecast.fitting import Fitted, fit_model, series_of
from gatewise.tasks.forecast.folder import check_folder
from gatewise.tasks.forecast.model import ForecastModel
from gatewise.tasks.forecast.run import write_run
from gatewise.tasks.forecast.settings import Settings
from gatewise.tasks.forecast.space import Space, space_of
from gatewise.tasks.forecast.split import Split
from gatewise.tasks.forecast.study import (
    DIVERGED,
    PAGE_NAME,
    STUDY_NAME,
    TRIALS_NAME,
    Trial,
    best_of,
    distribution,
    made_of,
    opened,
    sampler,
    trials_of,
)
from gatewise.tasks.forecast.training import StoppedError, Summary
from gatewise.tasks.forecast.tune_report import TuneData, footer, importance_of, render_tune
from gatewise.train import DivergedError, Epoch, Plan, Step
from gatewise.train.stop import Stop

TRIALS_BEFORE_PRUNING = 5
EPOCHS_BEFORE_PRUNING = 0.5
"""Of all epochs: while the learning rate is high, a loss says little about what it will be when the rate has fallen."""


class TuneWatcher(Protocol):
    """Who wants to follow a search."""

    def begin(self, space: Space, done: int, trials: int) -> None:
        """Called before the first trial, with how many are done and wanted."""

    def start(self, number: int, settings: Settings) -> None:
        """Called before a trial."""

    def epoch(self, number: int, epoch: Epoch) -> None:
        """Called after every epoch of a trial."""

    def trial(self, trial: Trial, settings: Settings, is_best: bool) -> None:
        """Called after a trial."""

    def again(self, trial: Trial) -> None:
        """Called before the best trial is trained again, because its model is not in the folder."""


class SilentTuning:
    """A watcher that says nothing."""

    def begin(self, space: Space, done: int, trials: int) -> None:
        """Say nothing."""

    def start(self, number: int, settings: Settings) -> None:
        """Say nothing."""

    def epoch(self, number: int, epoch: Epoch) -> None:
        """Say nothing."""

    def trial(self, trial: Trial, settings: Settings, is_best: bool) -> None:
        """Say nothing."""

    def again(self, trial: Trial) -> None:
        """Say nothing."""


@dataclass(frozen=True)
class Tuned:
    """What a search found.

    Attributes:
        folder: the run folder of the best trial, with the study.
        best: the trial of the lowest validation loss.
        settings: that it was fitted with.
        trials: all that are over.
        importance: for each range of the space its share of the importance, the greatest first; empty for fewer than
            ten trials.
        metrics: the best model's score on the held-out rows.
    """

    folder: Path
    best: Trial
    settings: Settings
    trials: tuple[Trial, ...]
    importance: Mapping[str, float]
    metrics: Mapping[str, Any]


def tune(
    frame: object,
    settings: Settings,
    out: str | Path,
    *,
    trials: int = 50,
    space: str | Space = "adamw",
    keep: Iterable[str] = (),
    prune: bool = True,
    force: bool = False,
    title: str = "Search",
    command: str = "gatewise.tasks.forecast.tune",
    watch: TuneWatcher | None = None,
) -> Tuned:
    """Search for settings, or go on with a search that was stopped.

    The folder becomes a run folder of the best trial, as ``gatewise fit`` writes it, and holds the study
    (``study.db``), all trials (``trials.csv``) and a report (``tune.html``). The same call again goes on to the number
    of trials, and gives the study that it would have given without the stop: what a trial draws depends on the seed,
    its number and the trials before it, and one that was broken off is run again.

    Args:
        frame: one row per series and time: a Polars, pandas or pyarrow frame, or the path of a table; or a store, or
            its path.
        settings: what the space does not change, such as horizon, epochs, and the seed, which every trial trains with.
        out: the folder; new, empty, or of this search.
        trials: how many in all, at least 1, those of an earlier call counted.
        space: a name in ``SPACES`` or a space of your own.
        keep: settings that the space would change and that stay as given.
        prune: whether trials that look bad are ended early, once five are complete.
        force: whether to begin anew in a folder that holds another run or search.
        title: heading of the reports.
        command: how the search was made, for the reports.
        watch: told of every trial and epoch.

    Raises:
        InputError: a setting, the space or the table is not right, the series leave nothing to validate on, the folder
            holds something else, or no trial gave a model.
        StoppedError: a KeyboardInterrupt that tells the signal, Ctrl-C or SIGTERM; the trials that are over are kept.

    Example:
        >>> import tempfile
        >>> import numpy as np, polars as pl
        >>> from gatewise.tasks.forecast import Range, Settings, Space, tune
        >>> df = pl.DataFrame({"y": np.sin(np.arange(300) / 12 * 2 * np.pi) + 5})
        >>> sizes = Space("sizes", (Range("hidden", 4, 8),))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     tuned = tune(df, Settings(horizon=12, season=12, epochs=1), folder, trials=2, space=sizes)
        >>> len(tuned.trials), 4 <= tuned.settings.hidden <= 8
        (2, True)
    """
    folder = Path(out)
    settings = _checked(settings, trials)
    chosen = space_of(space).keeping(keep)
    chosen.refuse_changed(settings)
    going_on = (folder / STUDY_NAME).exists() and not force
    if not going_on:
        check_folder(folder, force=force)
    table = to_table(frame)
    about = made_of(chosen, settings, _read(settings, table), prune)
    with opened(folder, about, anew=not going_on) as study, Stop() as stop:
        search = _Search(study, stop, chosen, settings, table, folder, prune, title, command, watch or SilentTuning())
        return search.run(trials)


def _checked(settings: Settings, trials: int) -> Settings:
    settings.check()
    if isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
        raise InputError(f"trials must be a whole number of at least 1, not {trials!r}.")
    return settings.plain()


def _read(settings: Settings, table: pl.DataFrame | Store) -> AnyPanel:
    """The series of a table; raises where no window is left to validate on."""
    settled, panel, _ = series_of(settings, table)
    window, horizon, holdout = settled.window or 1, settings.horizon, settled.holdout or 0
    if not len(Split.of(extend(panel, horizon), window, horizon, holdout).validation()):
        raise InputError(
            "no series is long enough for a validation window, by which trials are judged: "
            f"{window + 2 * horizon} rows before the last {holdout} are needed (window {window}, twice the horizon "
            f"{horizon}). Use a shorter window or horizon, or a smaller --holdout."
        )
    return panel


@final
@dataclass(frozen=True)
class _Search:
    """One study at work."""

    study: optuna.Study
    stop: Stop
    space: Space
    given: Settings
    table: pl.DataFrame | Store
    folder: Path
    prune: bool
    title: str
    command: str
    watch: TuneWatcher

    def run(self, trials: int) -> Tuned:
        """Go on to so many trials and write what was found."""
        self.study.pruner = self._pruner()
        done = len(trials_of(self.study))
        self.watch.begin(self.space, done, max(done, trials))
        try:
            for number in range(done + 1, trials + 1):
                self._run_one(number)
                self._obey()
        except KeyboardInterrupt:
            if trials_of(self.study):
                self._report()
            raise
        best = best_of(trials_of(self.study))
        if best is None:
            first = next(iter(self.study.get_trials(False, (TrialState.PRUNED,))))
            raise InputError(f"none of the trials gave a model. Trial 1: {first.user_attrs[DIVERGED]}")
        if not self._holds(best):
            self.watch.again(best)
            self._write(*self._fit(self._settings(best), lambda epoch: None))
        metrics = json.loads((self.folder / "metrics.json").read_text())
        return Tuned(self.folder, best, self._settings(best), trials_of(self.study), self._report(), metrics)

    def _run_one(self, number: int) -> None:
        """Draw and fit; a best model is on disk before its trial counts."""
        self.study.sampler = sampler(self.space, self.given, number)
        trial = self.study.ask({row.name: distribution(row) for row in self.space.ranges})
        settings = self.space.settings(self.given, trial.params)
        self.watch.start(number, settings)

        def follow(epoch: Epoch) -> None:
            if epoch.val_loss is None:
                raise InputError(
                    "no target of the validation windows is known, by which trials are judged: use another --holdout, "
                    "or --missing ffill."
                )
            trial.report(epoch.val_loss, epoch.epoch)
            self.watch.epoch(number, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

        state, loss = TrialState.FAIL, None
        try:
            model, fitted = self._fit(settings, follow)
            loss = min(fitted.history.losses())
            best = best_of(trials_of(self.study))
            if best is None or loss < best.loss:
                self._write(model, fitted)
            state = TrialState.COMPLETE
        except optuna.TrialPruned:
            state = TrialState.PRUNED
        except DivergedError as error:
            trial.set_user_attr(DIVERGED, str(error))
            state = TrialState.PRUNED
        finally:
            self.study.tell(trial, loss if state == TrialState.COMPLETE else None, state)
        over = trials_of(self.study)
        self.watch.trial(over[-1], settings, best_of(over) == over[-1])

    def _fit(self, settings: Settings, follow: Callable[[Epoch], None]) -> tuple[ForecastModel, Fitted]:
        """An ordinary fit; what a signal cuts short is none."""
        model, fitted = fit_model(settings, self.table, _Following(self._obey, follow))
        if fitted.history.stopped:
            raise StoppedError(fitted.history.stopped)
        return model, fitted

    def _obey(self) -> None:
        if self.stop.signal:
            raise StoppedError(self.stop.signal)

    def _settings(self, trial: Trial) -> Settings:
        return self.space.settings(self.given, trial.drawn)

    def _pruner(self) -> optuna.pruners.BasePruner:
        if not self.prune:
            return optuna.pruners.NopPruner()
        first = max(1, round(EPOCHS_BEFORE_PRUNING * self.given.epochs))
        return optuna.pruners.MedianPruner(TRIALS_BEFORE_PRUNING, first)

    def _write(self, model: ForecastModel, fitted: Fitted) -> None:
        write_run(model, fitted, self.folder, title=self.title, command=self.command, force=True)

    def _holds(self, trial: Trial) -> bool:
        """Whether the folder's model is a trial's: someone may have removed it, or put another there."""
        try:
            training = ForecastModel.load(self.folder).training
            json.loads((self.folder / "metrics.json").read_text())
        except (InputError, OSError, ValueError):
            return False
        settings = self._settings(trial)
        same = all(training["settings"][row.setting] == getattr(settings, row.setting) for row in self.space.ranges)
        return same and min(epoch["val_loss"] for epoch in training["epochs"]) == trial.loss

    def _report(self) -> Mapping[str, float]:
        """Write the table of trials and the page; returns the importances."""
        trials = trials_of(self.study)
        write_table(pl.DataFrame([self._row(trial) for trial in trials]), self.folder / TRIALS_NAME)
        importance = importance_of(trials, self.space)
        data = TuneData(self.title, self.space, self.given, trials, importance, footer(self.command))
        with atomic_file(self.folder / PAGE_NAME) as file:
            file.write(render_tune(data).encode())
        return importance

    def _row(self, trial: Trial) -> dict[str, Any]:
        settings = self._settings(trial)
        return {
            "trial": trial.number,
            "state": trial.state,
            "val_loss": trial.loss if trial.losses else None,
            "epochs": len(trial.losses),
            "seconds": round(trial.seconds, 3),
            **{row.setting: getattr(settings, row.setting) for row in self.space.ranges},
        }


@final
class _Following:
    """A fit's watcher that passes the epochs on, and looks for a signal that came before the training's own watch."""

    def __init__(self, obey: Callable[[], None], follow: Callable[[Epoch], None]) -> None:
        self._obey, self._follow = obey, follow

    def begin(self, summary: Summary, plan: Plan) -> None:
        """The table is read."""
        self._obey()

    def step(self, step: Step) -> None:
        """Steps are not shown."""

    def epoch(self, epoch: Epoch, is_best: bool) -> None:
        """Pass it on."""
        self._obey()
        self._follow(epoch)

    def event(self, name: str, **values: Any) -> None:
        """There are no checkpoints, so there is nothing to tell."""

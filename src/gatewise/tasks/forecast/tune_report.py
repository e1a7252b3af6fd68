"""The report of a search: one HTML page without network or script, drawn from plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState, create_trial

from gatewise.tasks.forecast.report import DASH
from gatewise.tasks.forecast.report_page import render_page
from gatewise.tasks.forecast.settings import Settings
from gatewise.tasks.forecast.space import Space
from gatewise.tasks.forecast.study import Trial, best_of, distribution
from gatewise.tasks.forecast.tune_figures import against_loss, history, importance_bars

FEWEST_FOR_IMPORTANCE = 10
TOP_SHARE, FEWEST_TOP = 0.1, 5


@dataclass(frozen=True)
class TuneData:
    """All that the report of a search shows.

    Attributes:
        title: the heading of the page.
        space: what was searched.
        given: the settings that the space does not change.
        trials: those that are over, at least one.
        importance: for each range its share; empty if there are too few trials.
        footer: version, date and command.
    """

    title: str
    space: Space
    given: Settings
    trials: Sequence[Trial]
    importance: Mapping[str, float]
    footer: str


def importance_of(trials: Sequence[Trial], space: Space) -> dict[str, float]:
    """How much each range decides whether a trial is among the best tenth (at least five), as shares of 1.

    PED-ANOVA (Watanabe et al. 2023) compares where the best trials lie with where all lie. Pruned trials count with the
    lowest loss that they had, diverged ones without an epoch as the worst: without them the ranges would look as if bad
    values were never tried.

    Returns:
        The greatest first; empty for fewer than ten trials, which would tell nothing.
    """
    losses = [trial.loss for trial in trials if trial.losses]
    if len(trials) < FEWEST_FOR_IMPORTANCE or len(set(losses)) < 2:
        return {}
    distributions = {row.name: distribution(row) for row in space.ranges}
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study()
    finally:
        optuna.logging.set_verbosity(before)
    for trial in trials:
        value = trial.loss if trial.losses else max(losses)
        params = dict(trial.drawn)
        study.add_trial(
            create_trial(state=TrialState.COMPLETE, value=value, params=params, distributions=distributions)
        )
    top = max(TOP_SHARE, FEWEST_TOP / len(trials))
    return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=top))


def footer(command: str) -> str:
    """The version, the date and the command."""
    return f"gatewise {version('gatewise')}, {datetime.now().astimezone():%Y-%m-%d %H:%M %Z}: {command}"


def render_tune(data: TuneData) -> str:
    """Draw the whole page; the same data give the same page, byte for byte."""
    best = best_of(tuple(data.trials))
    chosen = data.space.settings(data.given, best.drawn) if best else None
    searched = [
        (row.setting, DASH if chosen is None else _text(getattr(chosen, row.setting)), row.text())
        for row in data.space.ranges
    ]
    rows = []
    for trial in data.trials:
        settings = data.space.settings(data.given, trial.drawn)
        rows.append((trial, [_text(getattr(settings, row.setting)) for row in data.space.ranges]))
    return render_page(
        "tune.html.j2",
        data=data,
        verdict=verdict(data),
        searched=searched,
        fixed=[(name, _text(value)) for name, value in data.space.fixed.items()],
        best=best,
        rows=rows,
        bars=importance_bars(data.importance) if data.importance else None,
        fewest=FEWEST_FOR_IMPORTANCE,
        history=history(data.trials),
        scatter=against_loss(data.trials, data.space.ranges),
        pruned=[trial for trial in data.trials if trial.state == "pruned"],
        diverged=[trial for trial in data.trials if trial.state == "diverged"],
        dash=DASH,
    )


def verdict(data: TuneData) -> str:
    """Say in one sentence which trial is the best, and what the search gained over the settings as given."""
    best, first = best_of(tuple(data.trials)), data.trials[0]
    if best is None:
        return "No trial is complete yet."
    text = f"Trial {best.number} of {len(data.trials)} is the best: validation loss {best.loss:.4g}"
    as_given = data.space.start(data.given) == dict(first.drawn)
    if not as_given or not first.losses:
        return f"{text}."
    if best.number == first.number:
        return f"{text}, that of the settings as they were given."
    return f"{text}, {100 * (1 - best.loss / first.loss):.1f}\u00a0% below the settings as given ({first.loss:.4g})."


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

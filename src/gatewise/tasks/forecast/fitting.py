"""From a table and settings to a trained model."""

import contextlib
import os
import threading
from collections.abc import Generator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from gatewise.data import AnyPanel, Columns, Store, build_panel
from gatewise.data.windows import SomePanel, extend
from gatewise.models import Network
from gatewise.runtime.forecast import architecture
from gatewise.runtime.windows import Shape
from gatewise.tasks.forecast.encoding import fit_encoding
from gatewise.tasks.forecast.inputs import windows_of
from gatewise.tasks.forecast.model import ForecastModel, check_cutoffs, moments_of
from gatewise.tasks.forecast.resolve import (
    choose_lags,
    drop_short,
    resolve_columns,
    settings_of_store,
    unused_time_column,
    usual_holdout,
    usual_season,
    usual_window,
)
from gatewise.tasks.forecast.settings import Settings
from gatewise.tasks.forecast.split import Split
from gatewise.tasks.forecast.training import STEPS_PER_EPOCH, Summary, Watcher, identity, plan_of, train_network
from gatewise.train import Checkpoints, Group, History
from gatewise.train.threads import torch_threads
from gatewise.train.weights import random_states, restore_random_states


class _Turn:
    """Whose turn it is to train: a process has one random generator, and one number of threads, for all of torch."""

    lock = threading.RLock()

    @classmethod
    def renew(cls) -> None:
        """In a process that was forked: whoever had the turn is not there to give it up."""
        cls.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Turn.renew)


@dataclass(frozen=True)
class Fitted:
    """What a fit leaves besides the model, for forecasts and reports.

    Attributes:
        panel: the table, with the horizon added to every series.
        split: which rows trained, validated and scored.
        summary: of the data and the model, in labels and values.
        history: of the training.
        settings: with season, window and holdout as they were chosen.
    """

    panel: AnyPanel
    split: Split
    summary: Summary
    history: History
    settings: dict[str, Any]


def fit_model(
    settings: Settings,
    table: pl.DataFrame | Store,
    watch: Watcher,
    *,
    checkpoints: str | Path | None = None,
    resume: bool = False,
    save_every: int = STEPS_PER_EPOCH,
) -> tuple[ForecastModel, Fitted]:
    """Train a forecaster on a long table, or on a store of one.

    Fits in several threads take turns, so that each gives what it would alone.

    Args:
        settings: of the forecaster.
        table: one row per series and time.
        watch: told of the data, every step and every epoch.
        checkpoints: a folder for the run's last two checkpoints; None for none.
        resume: whether to go on from the last of them, if there is one.
        save_every: steps between two checkpoints; one is saved after each epoch, too.

    Raises:
        InputError: a setting is out of range, the table is not as described, or a checkpoint is of another run.
        StoppedError: a signal came before the first epoch was over, so there is no model yet.
    """
    settings.check()
    settings, panel, notes = series_of(settings, table)
    summary = [*_describe(settings, panel.columns), *panel.summary()]
    panel = extend(panel, settings.horizon)
    window, season = settings.window or 1, settings.season or 1
    split = Split.of(panel, window, settings.horizon, settings.holdout or 0)
    shape = Shape(window, settings.horizon, choose_lags(panel, split.train_ends, season, window))
    encoding = fit_encoding(panel, split.train_ends)
    inputs = windows_of(panel, encoding, shape)
    ranges, cutoffs = split.training(), moments_of(panel, split.cutoffs - 1)
    check_cutoffs(cutoffs)
    with _Turn.lock, _own_randomness(settings.seed), torch_threads(settings.threads):
        blocks = architecture(len(inputs.channels), settings.hidden, settings.layers, shape, len(settings.quantiles))
        network = Network(blocks, settings.dropout)
        network.lstm().requires_grad_(not settings.freeze_lstm)
        plan = plan_of(settings, save_every)
        place = (
            None if checkpoints is None else Checkpoints(checkpoints, resume=resume, identity=identity(settings, panel))
        )
        if place is not None and resume and Group().first:
            # What cannot be gone on with is refused before anything is written.
            place.last()
        summary += [
            ("window and horizon", f"{window} and {settings.horizon} steps, season {season}"),
            ("LSTM inputs", ", ".join(inputs.channels)),
            ("weights", f"{sum(p.numel() for p in network.parameters()):,}"),
            *(("note", note) for note in notes),
        ]
        watch.begin(summary, plan)
        history = train_network(
            network, inputs, ranges, split.validation(), plan,
            settings=settings, panel=panel, watch=watch, checkpoints=place,
        )  # fmt: skip
    model = ForecastModel(
        blocks=network.blocks,
        weights=network.weights(),
        shape=shape,
        season=season,
        levels=settings.quantiles,
        columns=panel.columns,
        frequency=panel.frequency,
        encoding=encoding,
        missing=settings.missing,
        short=settings.short,
        cutoffs=cutoffs,
        training=_record(history, settings),
    )
    return model, Fitted(panel, split, tuple(summary), history, asdict(settings))


def _record(history: History, settings: Settings) -> dict[str, Any]:
    """What the model file keeps of its training."""
    return {
        "seconds": round(sum(epoch.seconds for epoch in history.epochs), 3),
        "best_epoch": history.best,
        "interrupted": history.interrupted,
        "epochs": [asdict(epoch) for epoch in history.epochs],
        "settings": asdict(settings),
        "torch": str(torch.__version__),
    }


@contextlib.contextmanager
def _own_randomness(seed: int) -> Generator[None]:
    """Draw from the seed, and leave the caller's random states as they were; going on from a checkpoint sets them."""
    before = random_states()
    try:
        torch.manual_seed(seed)
        yield
    finally:
        restore_random_states(before)


def series_of(settings: Settings, table: pl.DataFrame | Store) -> tuple[Settings, AnyPanel, tuple[str, ...]]:
    """The series of a table or a store, with the settings as they are chosen for them, and notes for the user."""
    if isinstance(table, Store):
        return _settle(settings_of_store(settings, table), table)
    columns = resolve_columns(table, settings)
    settings, panel, notes = _settle(settings, build_panel(table, columns, missing=settings.missing))
    return settings, panel, (*notes, *unused_time_column(table, columns))


def _settle(settings: Settings, panel: SomePanel) -> tuple[Settings, SomePanel, tuple[str, ...]]:
    """Choose season, holdout and window where they are not given, and apply the policy for short series."""
    horizon = settings.horizon
    season = settings.season or usual_season(panel.frequency)
    lengths = panel.lengths()
    shortest = int(lengths.min() if settings.short == "error" else np.median(lengths))
    holdout = usual_holdout(shortest, horizon) if settings.holdout is None else settings.holdout
    window = settings.window or usual_window(shortest, season, horizon, holdout)
    need = f"{window + horizon} rows needed, a window of {window} and a horizon of {horizon}"
    remedy = "Use a shorter window or horizon, or --short pad to fill them up, or --short drop to leave them out."
    panel, notes = drop_short(panel, window + horizon, settings.short, need, remedy)
    chosen = replace(settings.plain(), season=season, holdout=holdout, window=window)
    return chosen, panel, notes


def _describe(settings: Settings, columns: Columns) -> list[tuple[str, str]]:
    by = [f"series {columns.id}" if columns.id else "one series", f"time {columns.time or 'is the order of the rows'}"]
    return [("columns", f"target {settings.target}, {', '.join(by)}")]

"""From a table and settings to a trained model."""

import contextlib
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
import polars as pl
import torch
from torch import Tensor

from gatewise.data import AnyPanel, Columns, Store, build_panel
from gatewise.data.windows import SomePanel, extend
from gatewise.models import Network
from gatewise.runtime.forecast import architecture
from gatewise.runtime.windows import Batch, Shape, Windows
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
from gatewise.train import Epoch, History, Plan, train

STEPS_PER_EPOCH = 100
FAR = 10.0
"""In units of a window's scale."""

Summary = Sequence[tuple[str, str]]


class Watcher(Protocol):
    """Who wants to follow a fit."""

    def begin(self, summary: Summary, plan: Plan) -> None:
        """Called before training with what a person wants to see of the data and the model."""

    def step(self, epoch: int, step: int, loss: float) -> None:
        """Called after every training step."""

    def epoch(self, epoch: Epoch, is_best: bool) -> None:
        """Called after every epoch."""


class Silent:
    """A watcher that says nothing."""

    def begin(self, summary: Summary, plan: Plan) -> None:
        """Say nothing."""

    def step(self, epoch: int, step: int, loss: float) -> None:
        """Say nothing."""

    def epoch(self, epoch: Epoch, is_best: bool) -> None:
        """Say nothing."""


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


def fit_model(settings: Settings, table: pl.DataFrame | Store, watch: Watcher) -> tuple[ForecastModel, Fitted]:
    """Train a forecaster on a long table, or on a store of one.

    Raises:
        InputError: a setting is out of range, or the table is not as described.
        KeyboardInterrupt: Ctrl-C came before the first epoch was over, so there is no model to keep.
    """
    settings.check()
    if isinstance(table, Store):
        settings, panel, notes = _settle(settings_of_store(settings, table), table)
    else:
        columns = resolve_columns(table, settings)
        settings, panel, notes = _settle(settings, build_panel(table, columns, missing=settings.missing))
        notes += unused_time_column(table, columns)
    summary = [*_describe(settings, panel.columns), *panel.summary()]
    panel = extend(panel, settings.horizon)
    window, season = settings.window or 1, settings.season or 1
    split = Split.of(panel, window, settings.horizon, settings.holdout or 0)
    shape = Shape(window, settings.horizon, choose_lags(panel, split.train_ends, season, window))
    encoding = fit_encoding(panel, split.train_ends)
    inputs = windows_of(panel, encoding, shape)
    cutoffs = moments_of(panel, split.cutoffs - 1)
    check_cutoffs(cutoffs)
    with _own_randomness(settings.seed), _threads(settings.threads):
        blocks = architecture(len(inputs.channels), settings.hidden, settings.layers, shape, len(settings.quantiles))
        network = Network(blocks, settings.dropout)
        network.lstm().requires_grad_(not settings.freeze_lstm)
        plan = Plan(settings.epochs, STEPS_PER_EPOCH, settings.learning_rate, patience=settings.patience)
        summary += [
            ("window and horizon", f"{window} and {settings.horizon} steps, season {season}"),
            ("LSTM inputs", ", ".join(inputs.channels)),
            ("weights", f"{sum(p.numel() for p in network.parameters()):,}"),
            *(("note", note) for note in notes),
        ]
        watch.begin(summary, plan)
        started = time.perf_counter()
        history = _train(network, inputs, split, plan, settings=settings, watch=watch)
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
        training=_record(history, settings, time.perf_counter() - started),
    )
    return model, Fitted(panel, split, tuple(summary), history, asdict(settings))


def _record(history: History, settings: Settings, seconds: float) -> dict[str, Any]:
    """What the model file keeps of its training."""
    return {
        "seconds": round(seconds, 3),
        "best_epoch": history.best,
        "interrupted": history.interrupted,
        "epochs": [asdict(epoch) for epoch in history.epochs],
        "settings": asdict(settings),
        "torch": str(torch.__version__),
    }


def pinball(quantiles: Tensor, truth: Tensor, levels: Tensor) -> Tensor:
    """The mean quantile loss (Koenker and Bassett 1978) over all values [B, h] whose truth is known (not NaN).

    A window whose truth or forecast lies far outside its scale, as after a dead stretch, counts less, so that it does
    not drown the others.
    """
    known = ~truth.isnan()
    truth = torch.where(known, truth, 0.0)
    farthest = torch.maximum(truth.abs().amax(1), quantiles.detach().abs().amax((1, 2)))
    weight = FAR / farthest.clamp(min=FAR)[:, None]
    error = truth[..., None] - quantiles
    loss = torch.maximum(levels * error, (levels - 1) * error).mean(-1) * weight
    return (loss * known).sum() / known.sum().clamp(min=1)


def _train(
    network: Network, inputs: Windows, split: Split, plan: Plan, *, settings: Settings, watch: Watcher
) -> History:
    levels = torch.tensor(settings.quantiles)
    ranges, validation = split.training(), split.validation()

    def loss(batch: Batch) -> Tensor:
        x, candidates, truth = (torch.from_numpy(v) for v in (batch.x, batch.candidates, batch.truth))
        return pinball(network(x, candidates), truth, levels)

    def batches(epoch: int) -> Iterator[Batch]:
        for step in range(plan.steps):
            yield inputs.gather(ranges.draw(settings.batch, (settings.seed, epoch, step)))

    def validate() -> float:
        total = 0.0
        with torch.no_grad():
            for start in range(0, len(validation), settings.batch):
                part = validation.take(slice(start, start + settings.batch))
                total += loss(inputs.gather(part)).item() * len(part)
        return total / len(validation)

    history = train(
        network, loss, batches, plan,
        validate=validate if len(validation) else None, on_step=watch.step, on_epoch=watch.epoch,
    )  # fmt: skip
    if history.interrupted and not history.best:
        raise KeyboardInterrupt
    return history


@contextlib.contextmanager
def _own_randomness(seed: int) -> Generator[None]:
    """Draw from the seed, and leave the caller's random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def _threads(count: int) -> Generator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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

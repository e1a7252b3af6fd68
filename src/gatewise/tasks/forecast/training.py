"""How the forecaster's network is trained: its loss, its batches, and who is told of them."""

import warnings
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any, Protocol

import torch
from torch import Tensor

from gatewise.data import AnyPanel
from gatewise.data.windows import OriginRanges
from gatewise.models import Network
from gatewise.runtime.windows import Origins, Windows
from gatewise.tasks.forecast.batches import Batches, Drawn
from gatewise.tasks.forecast.resolve import listed
from gatewise.tasks.forecast.settings import Settings
from gatewise.train import CHANGEABLE, Checkpoints, Epoch, History, Part, Plan, Step, train

STEPS_PER_EPOCH = 100
FAR = 10.0
"""In units of a window's scale."""

Summary = Sequence[tuple[str, str]]


class Watcher(Protocol):
    """Who wants to follow a fit."""

    def begin(self, summary: Summary, plan: Plan) -> None:
        """Called before training with what a person wants to see of the data and the model."""

    def step(self, step: Step) -> None:
        """Called after every training step."""

    def epoch(self, epoch: Epoch, is_best: bool) -> None:
        """Called after every epoch."""

    def event(self, name: str, **values: Any) -> None:
        """Called when a checkpoint is saved, or could not be, and when training goes on from one or is stopped."""


class Silent:
    """A watcher that says nothing."""

    def begin(self, summary: Summary, plan: Plan) -> None:
        """Say nothing."""

    def step(self, step: Step) -> None:
        """Say nothing."""

    def epoch(self, epoch: Epoch, is_best: bool) -> None:
        """Say nothing."""

    def event(self, name: str, **values: Any) -> None:
        """Warn if a checkpoint could not be saved, and say nothing else."""
        if name == "unsaved":
            warnings.warn(f"no checkpoint was saved: {values['error']}", stacklevel=2)


class StoppedError(KeyboardInterrupt):
    """A signal ended a fit before there was a model to keep, or while it was written.

    Attributes:
        signal: its number.
        saved: whether there is a checkpoint of where it was stopped.
    """

    def __init__(self, number: int, *, saved: bool = False):
        super().__init__(number)
        self.signal, self.saved = number, saved


def plan_of(settings: Settings, save_every: int) -> Plan:
    """The settings that the loop knows."""
    names = {field.name for field in fields(Plan)} & {field.name for field in fields(Settings)}
    return Plan(steps=STEPS_PER_EPOCH, save_every=save_every, **{name: getattr(settings, name) for name in names})


def identity(settings: Settings, panel: AnyPanel) -> dict[str, Any]:
    """What a run must share with the one that it continues; what else may change, the loop knows."""
    fixed = {name: value for name, value in asdict(settings).items() if name not in {*CHANGEABLE, "threads"}}
    return {**fixed, "table": panel.fingerprint()}


def pinball(quantiles: Tensor, truth: Tensor, levels: Tensor) -> tuple[Tensor, int]:
    """The sum of the quantile loss (Koenker and Bassett 1978) over all values [B, h] whose truth is known (not NaN).

    A window whose truth or forecast lies far outside its scale, as after a dead stretch, counts less, so that it does
    not drown the others.

    Returns:
        The sum of the values' losses, each the mean over the levels, and how many values they are.
    """
    known = ~truth.isnan()
    truth = torch.where(known, truth, 0.0)
    farthest = torch.maximum(truth.abs().amax(1), quantiles.detach().abs().amax((1, 2)))
    weight = FAR / farthest.clamp(min=FAR)[:, None]
    error = truth[..., None] - quantiles
    loss = torch.maximum(levels * error, (levels - 1) * error).mean(-1) * weight
    return (loss * known).sum(), int(known.sum())


def train_network(
    network: Network,
    inputs: Windows,
    ranges: OriginRanges,
    validation: Origins,
    plan: Plan,
    *,
    settings: Settings,
    panel: AnyPanel,
    watch: Watcher,
    checkpoints: Checkpoints | None,
) -> History:
    """Train on windows of some ranges, drawn at random as a function of seed, epoch and step.

    Raises:
        StoppedError: the first epoch was not over, so there is no model to keep.
    """
    levels = torch.tensor(settings.quantiles)
    batches = Batches(ranges, inputs, settings.batch, settings.seed, plan.steps)

    def loss(drawn: Drawn) -> tuple[Tensor, int]:
        x, candidates, truth = (torch.from_numpy(v) for v in drawn.windows[:3])
        if network.training and settings.input_noise:
            x = x + settings.input_noise * torch.randn_like(x)
        return pinball(network(x, candidates).float(), truth, levels)

    @torch.no_grad()
    def validate(part: Part) -> tuple[float, float]:
        mine = validation.take(part.rows(len(validation)))
        total, count = 0.0, 0
        for start in range(0, len(mine), settings.batch):
            origins = mine.take(slice(start, start + settings.batch))
            value, values = loss(Drawn(origins, inputs.gather(origins)))
            total, count = total + value.item(), count + values
        return total, count

    def describe(drawn: Drawn) -> str:
        names = list(dict.fromkeys(str(panel.ids[int(series)]) for series in drawn.origins.series))
        return f"{len(drawn.origins)} windows of {listed(names)}"

    history = train(
        network, loss, batches.batch, plan,
        validate=validate if len(validation) else None, checkpoints=checkpoints, describe=describe,
        on_step=watch.step, on_epoch=watch.epoch, on_event=watch.event,
    )  # fmt: skip
    if history.interrupted and not history.best:
        raise StoppedError(history.stopped, saved=history.saved)
    return history

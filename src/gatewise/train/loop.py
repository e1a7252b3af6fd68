"""AdamW with warm-up and cosine decay, gradient clipping by norm, and early stopping on a validation loss.

AdamW: Loshchilov and Hutter (2019). The weights that come out are those of the best epoch.
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, nn

from gatewise.errors import InputError

Batch = TypeVar("Batch")
WARM_UP = 0.1


@dataclass(frozen=True)
class Plan:
    """How to train.

    Attributes:
        epochs: passes over ``steps`` batches, at least 1.
        steps: batches in an epoch, at least 1.
        learning_rate: the highest of the schedule, above 0.
        weight_decay: AdamW's, at least 0.
        clip_norm: gradients are scaled down to this norm.
        patience: epochs without a better validation loss before stopping.
    """

    epochs: int
    steps: int
    learning_rate: float = 5e-3
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    patience: int = 5

    def rate(self, step: int) -> float:
        """The learning rate of a step as a share of the highest: linear warm-up, then a cosine down to 1 %."""
        total = self.epochs * self.steps
        warm = max(1, round(WARM_UP * total))
        if step < warm:
            return (step + 1) / warm
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave. ``val_loss`` is None without validation data."""

    epoch: int
    train_loss: float
    val_loss: float | None
    seconds: float


@dataclass
class History:
    """What the training gave; ``best`` is the epoch whose weights were kept, 0 before the first."""

    epochs: list[Epoch] = field(default_factory=list[Epoch])
    best: int = 0
    interrupted: bool = False


OnStep = Callable[[int, int, float], None]
OnEpoch = Callable[[Epoch, bool], None]


def train(
    module: nn.Module,
    loss: Callable[[Batch], Tensor],
    batches: Callable[[int], Iterable[Batch]],
    plan: Plan,
    *,
    validate: Callable[[], float] | None = None,
    on_step: OnStep = lambda epoch, step, value: None,
    on_epoch: OnEpoch = lambda epoch, is_best: None,
) -> History:
    """Train a module and leave it with the weights of its best epoch, in evaluation mode.

    Args:
        module: what to train; parameters that require no gradient stay as they are.
        loss: the mean loss of one batch.
        batches: gives the batches of an epoch, counted from 1; ``plan.steps`` of them.
        plan: how to train.
        validate: the validation loss of the module as it is; without it the training loss decides, and training runs
            to its last epoch.
        on_step: called with epoch, step (both from 1) and loss after every step.
        on_epoch: called with the epoch and whether it is the best so far.

    Returns:
        The history. Ctrl-C ends the training early: the best epoch is kept and ``interrupted`` is set.

    Raises:
        InputError: a loss is not finite.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, plan.learning_rate, weight_decay=plan.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, plan.rate)
    history = History()
    best_loss, best_state = math.inf, _copy(module)

    def step(batch: Batch) -> float:
        optimizer.zero_grad()
        value = loss(batch)
        value.backward()
        nn.utils.clip_grad_norm_(parameters, plan.clip_norm)
        optimizer.step()
        schedule.step()
        return value.item()

    try:
        for number in range(1, plan.epochs + 1):
            started, total = time.perf_counter(), 0.0
            module.train()
            for index, batch in enumerate(batches(number), 1):
                value = step(batch)
                if not math.isfinite(value):
                    raise InputError(
                        f"the loss became {value} in epoch {number}, step {index}: try a lower learning rate."
                    )
                total += value
                on_step(number, index, value)
            module.eval()
            val_loss = validate() if validate else None
            if val_loss is not None and not math.isfinite(val_loss):
                raise InputError(f"the validation loss became {val_loss} in epoch {number}: try a lower learning rate.")
            epoch = Epoch(number, total / plan.steps, val_loss, time.perf_counter() - started)
            score = epoch.train_loss if val_loss is None else val_loss
            history.epochs.append(epoch)
            if score < best_loss:
                best_loss, best_state, history.best = score, _copy(module), number
            on_epoch(epoch, history.best == number)
            if validate and number - history.best >= plan.patience:
                break
    except KeyboardInterrupt:
        history.interrupted = True
    module.load_state_dict(best_state)
    module.eval()
    return history


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}

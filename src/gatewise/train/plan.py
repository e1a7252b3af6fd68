"""How to train, as plain data; the optimizer and the learning rate that follow from it.

AdamW: Loshchilov and Hutter (2019). Momentum: Polyak (1964). Averages of weights: Polyak and Juditsky (1992), with
exponentially falling shares.
"""

import inspect
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

import torch
from torch import Tensor

from gatewise.errors import InputError

LAST_RATE = 0.01
"""Of a cosine schedule, as a share of its highest."""

_FUSED = ("cpu", "cuda")
_UNFIT = ("LBFGS", "SparseAdam", "Muon")
"""They want a closure, sparse gradients, or matrices only, where every LSTM has biases."""


@dataclass(frozen=True)
class Plan:
    """How to train.

    Attributes:
        epochs: passes over ``steps`` batches, at least 1.
        steps: optimizer steps in an epoch, at least 1.
        learning_rate: the highest of the schedule, above 0.
        optimizer: "adamw", "sgd", or the name of another class of ``torch.optim`` (case does not matter) that needs no
            closure.
        weight_decay: at least 0; for AdamW apart from the gradient, as the paper has it.
        momentum: of "sgd", from 0 to below 1.
        schedule: "cosine" (down to 1 % at the end), "plateau" (halved when the validation loss has not become better
            for half of ``patience`` epochs) or "constant".
        warm_up: share of all steps, from 0 to 1, in which the rate rises linearly to its highest.
        clip_norm: gradients are scaled down to this norm; None for no limit.
        clip_value: each element of a gradient is cut to ± this; None for no limit. Values are cut before norms.
        patience: epochs without a better validation loss before stopping, at least 1.
        accumulate: parts in which a step's batch goes through the network, one after the other, at least 1. The step is
            the same but for rounding, the memory is that of a part.
        autocast: "bfloat16" to let torch's operators compute in it where that is safe, or None. Our cells compute in
            float32 there and return bfloat16; where no gradient is wanted, the processor multiplies bfloat16 if it can.
        average: the share, from 0 to below 1, that an average of the weights keeps at each step; it takes the weights'
            place where they are judged and at the end. 0 for none.
        save_every: steps between two checkpoints, at least 1; one is saved after each epoch, too. Without a place for
            checkpoints it means nothing.

    Raises:
        InputError: a value is out of its range, or the optimizer is not known.
    """

    epochs: int
    steps: int
    learning_rate: float = 5e-3
    optimizer: str = "adamw"
    weight_decay: float = 1e-4
    momentum: float = 0.9
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    warm_up: float = 0.1
    clip_norm: float | None = 1.0
    clip_value: float | None = None
    patience: int = 5
    accumulate: int = 1
    autocast: Literal["bfloat16"] | None = None
    average: float = 0.0
    save_every: int = 1000

    def __post_init__(self) -> None:
        for name in ("epochs", "steps", "patience", "accumulate", "save_every"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{name} must be a whole number from 1, not {value!r}.")
        for name in ("learning_rate", "clip_norm", "clip_value"):
            value = getattr(self, name)
            optional = name.startswith("clip")
            if not ((value is None and optional) or (_real(value) and 0 < value < math.inf)):
                raise InputError(f"{name} must be a number above 0{' or None' * optional}, not {value!r}.")
        for name, high in (("weight_decay", math.inf), ("momentum", 1), ("average", 1)):
            value = getattr(self, name)
            if not (_real(value) and 0 <= value < high):
                raise InputError(f"{name} must be from 0 to below {high}, not {value!r}.")
        if not (_real(self.warm_up) and 0 <= self.warm_up <= 1):
            raise InputError(f"warm_up must be from 0 to 1, not {self.warm_up!r}.")
        for name, choices in (("schedule", ("cosine", "plateau", "constant")), ("autocast", (None, "bfloat16"))):
            if getattr(self, name) not in choices:
                raise InputError(f"{name} must be one of {', '.join(map(str, choices))}, not {getattr(self, name)!r}.")
        optimizer_class(self.optimizer)

    def rate(self, step: int, losses: Sequence[float] = ()) -> float:
        """The learning rate of a step, counted from 0 over all epochs, as a share of the highest.

        Args:
            step: its number.
            losses: the validation losses of the epochs before, for "plateau".
        """
        total = self.epochs * self.steps
        warm = max(1, round(self.warm_up * total)) if self.warm_up else 0
        if step < warm:
            return (step + 1) / warm
        if self.schedule == "cosine":
            return LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))
        return 0.5 ** _plateaus(losses, max(1, self.patience // 2)) if self.schedule == "plateau" else 1.0


def optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    """The class that a name stands for.

    Raises:
        InputError: torch.optim has none of that name, or it cannot be used step by step.
    """
    classes = {
        known.lower(): value
        for known, value in vars(torch.optim).items()
        if inspect.isclass(value) and issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer
    }
    found = classes.get(name.lower()) if isinstance(name, str) else None
    if found is None or found.__name__ in _UNFIT:
        usable = ", ".join(sorted(set(classes) - {unfit.lower() for unfit in _UNFIT}))
        raise InputError(f"optimizer must be one of {usable}, not {name!r}.")
    return found


def make_optimizer(plan: Plan, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """The plan's optimizer for some parameters."""
    kind = optimizer_class(plan.optimizer)
    accepted = inspect.signature(kind).parameters
    options: dict[str, Any] = {"lr": plan.learning_rate}
    if "weight_decay" in accepted:
        options["weight_decay"] = plan.weight_decay
    if kind is torch.optim.SGD:
        options["momentum"] = plan.momentum
    parameters = list(parameters)
    if "fused" in accepted and all(parameter.device.type in _FUSED for parameter in parameters):
        # One call for all weights; with the few and small ones of an LSTM the calls are what costs.
        options["fused"] = True
    return kind(parameters, **options)


def _plateaus(losses: Sequence[float], patience: int) -> int:
    """How often ``patience`` epochs have gone by without a better loss."""
    best, waited, found = math.inf, 0, 0
    for loss in losses:
        waited = 0 if loss < best else waited + 1
        best = min(best, loss)
        if waited == patience:
            found, waited = found + 1, 0
    return found


def _real(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)

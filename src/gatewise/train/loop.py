"""The training loop: steps, epochs, the best weights, and checkpoints from which it goes on to the same bits.

A batch is a function of its epoch and step, so the place in the data is two numbers. The loss of a batch comes as a sum
and a count, so that its mean is the same however the batch is shared out among processes and turns.
"""

import math
import time
import warnings
from collections.abc import Callable
from typing import Any, Generic, TypeVar, final

import torch
from torch import Tensor, nn

from gatewise.errors import InputError
from gatewise.train.checkpoint import Checkpoints
from gatewise.train.gradients import Gradients
from gatewise.train.group import Part
from gatewise.train.history import Epoch, History, OnEpoch, OnEvent, OnStep, Step
from gatewise.train.plan import Plan
from gatewise.train.run import Run, Stateful
from gatewise.train.stop import Stop
from gatewise.train.threads import torch_threads

Batch = TypeVar("Batch")


class DivergedError(InputError):
    """A loss or a gradient that is no finite number."""


def _warn(name: str, **values: Any) -> None:
    """What nobody listens to must be heard where work would be lost."""
    if name == "unsaved":
        warnings.warn(f"no checkpoint was saved: {values['error']}", stacklevel=2)


def train(
    module: nn.Module,
    loss: Callable[[Batch], tuple[Tensor, int]],
    batch: Callable[[int, int, Part], Batch],
    plan: Plan,
    *,
    validate: Callable[[Part], tuple[float, float]] | None = None,
    carried: Stateful | None = None,
    checkpoints: Checkpoints | None = None,
    describe: Callable[[Batch], str] = lambda batch: "",
    on_step: OnStep = lambda step: None,
    on_epoch: OnEpoch = lambda epoch, is_best: None,
    on_event: OnEvent = _warn,
) -> History:
    """Train a module and leave it with the weights of its best epoch, in evaluation mode.

    In a process group (torchrun, torch.distributed), every process calls this with the same arguments and takes its
    part of each batch; only the first writes checkpoints.

    Args:
        module: what to train; parameters that require no gradient stay as they are.
        loss: the sum of the losses of a batch's values, and how many they are.
        batch: gives a part of a batch, by epoch and step (both from 1); always the same for the same three.
        plan: how to train.
        validate: the sum and the count of the validation losses of a part of the validation data, for the module as it
            is; without it the training loss decides, and training runs to its last epoch.
        carried: what ``loss`` keeps from step to step, which checkpoints must hold.
        checkpoints: where to save the run; with its ``resume``, where to go on from.
        describe: what a batch holds, in words, for the message when its loss is no number.
        on_step: called after every step.
        on_epoch: called with the epoch and whether it is the best so far.
        on_event: called with a name and values by name, ``epoch`` and ``step`` (done, within the epoch) among them:
            "resume" (``notes``, texts), "checkpoint" (``path``), "unsaved" (``error``: why a checkpoint could not be
            written; training goes on) and "interrupted" (``signal``, its name). Without it, "unsaved" is warned of.

    Returns:
        The history. The first Ctrl-C or SIGTERM ends the training after the step that it came in: a checkpoint is
        saved, the best epoch is kept and ``stopped`` is set. A second Ctrl-C raises KeyboardInterrupt.

    Raises:
        DivergedError: a loss or a gradient is not finite. The module keeps the weights of before that step, and they
            are saved if there is a place for checkpoints. Where those have overflowed, it has those of the best epoch.
        InputError: the checkpoints are of another run, or all damaged.

    Example:
        >>> line, x = nn.Linear(1, 1), torch.linspace(-1, 1, 8)[:, None]
        >>> def loss(x):
        ...     return ((line(x) - 3 * x) ** 2).sum(), len(x)
        >>> history = train(line, loss, lambda epoch, step, part: x[part.rows(8)], Plan(epochs=2, steps=50))
        >>> [epoch.epoch for epoch in history.epochs], history.interrupted
        ([1, 2], False)
    """
    run = Run(module, plan, carried, checkpoints, on_event)
    work = _Work(run, loss, batch, describe)
    with Stop() as stop, torch_threads():
        run.begin()
        while not run.over(early=validate is not None):
            module.train()
            while run.step < plan.steps:
                result, number = work.one_step(stop)
                on_step(result)
                # Alone, a signal that came since the step is obeyed at once; processes must agree, in the next step.
                number = number or (stop.signal if run.group.size == 1 else 0)
                if number:
                    return run.halt(number)
                if run.steps_done() % plan.save_every == 0 and run.step < plan.steps:
                    run.save()
            _judge(run, validate, on_epoch)
            if stop.signal and run.group.size == 1:
                return run.halt(stop.signal)
            run.save()
        return run.end()


def _judge(run: Run, validate: Callable[[Part], tuple[float, float]] | None, on_epoch: OnEpoch) -> None:
    """End an epoch: validate, and keep the weights if they are the best so far."""
    started = time.perf_counter()
    run.module.eval()
    with run.average.in_place():
        val_loss = None
        if validate is not None:
            total, count = run.group.total(*validate(run.group.part()))
            # Of no value at all a loss says nothing; zero would be the best there can be.
            val_loss = total / count if count else None
            if val_loss is not None and not math.isfinite(val_loss):
                raise DivergedError(
                    f"the validation loss became {val_loss} in epoch {run.epoch}: try a lower learning rate."
                )
        sums = run.sums
        epoch = Epoch(
            epoch=run.epoch,
            train_loss=sums.loss / run.plan.steps,
            val_loss=val_loss,
            seconds=sums.seconds + time.perf_counter() - started,
            learning_rate=run.rate(run.steps_done() - 1),
            gradient_norm=sums.norm / run.plan.steps,
            values=sums.values,
        )
        is_best = run.keep(epoch)
    on_epoch(epoch, is_best)


@final
class _Work(Generic[Batch]):
    """One optimizer step after the other."""

    def __init__(
        self,
        run: Run,
        loss: Callable[[Batch], tuple[Tensor, int]],
        batch: Callable[[int, int, Part], Batch],
        describe: Callable[[Batch], str],
    ):
        self._run, self._loss, self._batch, self._describe = run, loss, batch, describe

    def one_step(self, stop: Stop) -> tuple[Step, int]:
        """Take a step; what it gave, and the signal by which any process was asked to stop, or 0."""
        run, started = self._run, time.perf_counter()
        rate = run.rate(run.steps_done())
        for group in run.optimizer.param_groups:
            group["lr"] = rate
        run.hold_carried()
        # What Optimizer.zero_grad does, without what it does around it.
        for parameter in run.parameters:
            parameter.grad = None
        mine, count, culprit = self._gradients()
        wishes, reached = stop.wishes(), [float(p.grad is not None) for p in run.parameters]
        total, count, *sums = run.group.total(mine, count, *wishes, *reached)
        mean = total / max(count, 1)
        gradients = Gradients([p for p, by in zip(run.parameters, sums[len(wishes) :], strict=True) if by], run.group)
        norm = gradients.norm() / max(count, 1)
        if not (math.isfinite(mean) and math.isfinite(norm)):
            gradients.scale(1 / max(count, 1))
            self._diverge(mean, norm, culprit, blamed=not math.isfinite(mine))
        self._average(gradients, max(count, 1), norm)
        run.take_step()
        run.step += 1
        run.average.update(run.steps_done())
        result = Step(run.epoch, run.step, mean, rate, norm, int(count), time.perf_counter() - started)
        run.sums.add(result)
        return result, Stop.granted(sums[: len(wishes)])

    def _gradients(self) -> tuple[float, int, Batch]:
        """Gradients of the sum of this process' losses; the sum, the count, and a batch that went wrong if any did."""
        run, total, count = self._run, 0.0, 0
        culprits: list[Batch] = []
        for turn in range(run.plan.accumulate):
            batch = self._batch(run.epoch, run.step + 1, run.group.part(turn, run.plan.accumulate))
            with torch.autocast(run.device, torch.bfloat16, enabled=run.plan.autocast is not None):
                value, values = self._loss(batch)
            # A part without rows may depend on no weight.
            if values or value.requires_grad:
                value.backward()
            value = value.item()
            if not culprits or not math.isfinite(value):
                culprits.append(batch)
            total, count = total + value, count + values
        return total, count, culprits[-1]

    def _average(self, gradients: Gradients, count: float, norm: float) -> None:
        """From sums to means, of the given norm, clipped."""
        plan, share = self._run.plan, 1 / count
        if plan.clip_value is not None:
            gradients.scale(share)
            gradients.cut(plan.clip_value)
            norm, share = gradients.norm(), 1.0
        if plan.clip_norm is not None and norm > plan.clip_norm:
            share *= plan.clip_norm / norm
        gradients.scale(share)

    def _diverge(self, mean: float, norm: float, batch: Batch, *, blamed: bool) -> None:
        """Say what went wrong: all processes the same, of the part whose loss it was if one can be blamed."""
        run = self._run
        found = run.group.gather((not blamed, self._describe(batch)))
        described = run.group.spread(min(found, key=lambda each: each[0])[1] if found else "")
        what = f"the loss became {mean}" if not math.isfinite(mean) else f"the gradient's norm became {norm}"
        sizes = {name: p.grad.abs().max().item() for name, p in run.module.named_parameters() if p.grad is not None}
        # What is no number comes first.
        largest = sorted(sizes, key=lambda name: -sizes[name] if math.isfinite(sizes[name]) else -math.inf)[:3]
        parts = [
            f"{what} in epoch {run.epoch}, step {run.step + 1}: try a lower learning rate.",
            *([f"The batch: {described}."] if described else []),
            f"Largest gradients: {', '.join(f'{name} {sizes[name]:.3g}' for name in largest)}.",
        ]
        if not all(bool(value.isfinite().all()) for value in run.module.state_dict().values()):
            # A step of huge gradients overflowed the weights themselves, one step before the loss could tell.
            run.end()
            parts.append("The weights had overflowed before; those of the best epoch are kept.")
        elif (saved := run.save(diverged=True)) is not None:
            parts.append(f"The weights before that step are saved in {saved}.")
        raise DivergedError(" ".join(parts))

"""What the training loop and the data cost beside the network: a case of ``bench.training``.

Every step of the real loop is followed by the forward pass, the loss and the backward pass of a copy of the network on
a batch that is there: both see the same machine at the same time. Where the loop's time goes is told by the functions
that are given to it and by hooks of the gradients.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from datetime import datetime
from time import process_time
from typing import NamedTuple, final

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from bench.measure import quartiles
from gatewise import Forecaster
from gatewise.models import Network
from gatewise.runtime.windows import Batch
from gatewise.tasks.forecast.batches import STEPS_AT_ONCE, Batches
from gatewise.tasks.forecast.training import pinball, plan_of
from gatewise.train import Part, Step, train

HORIZON = 24
LEVELS = (0.1, 0.5, 0.9)
WARM = 2 * STEPS_AT_ONCE  # steps that do not count
PIECES = ("rate, zero_grad", "draw and gather", "forward and loss", "backward", "norm, clip, optimizer, average")
"""The parts of a step, in their order."""


class Cost(NamedTuple):
    """Seconds of a step, medians over the bursts of steps that are gathered together.

    Attributes:
        whole: a step of the loop.
        network: forward, loss and backward alone.
        share: of the whole that is not the network, with its quartiles.
        pieces: of the whole.
    """

    whole: float
    network: float
    share: float
    spread: tuple[float, float]
    pieces: dict[str, float]


def table(series: int = 100, rows: int = 1000) -> pl.DataFrame:
    """Return hourly series with the rhythm of a day, and noise."""
    generator = np.random.default_rng(0)
    phase = generator.uniform(0, 2 * np.pi, (series, 1))
    y = 5 + np.sin(np.arange(rows) * 2 * np.pi / 24 + phase) + generator.normal(0, 0.3, (series, rows))
    stamps = np.datetime64(datetime(2026, 1, 1), "us") + np.arange(rows) * np.timedelta64(3600 * 10**6, "us")
    names = [f"s{number:03}" for number in range(series)]
    return pl.DataFrame({"unique_id": np.repeat(names, rows), "ds": np.tile(stamps, series), "y": y.ravel()})


@final
class Alternating:
    """The loop's functions for a forecaster's network, which take the time; ``step`` lets the network compute alone.

    Args:
        batch: B, windows in a step.
        length: T, steps of a window with its horizon.
        hidden: H, units of the LSTM.
        steps: in an epoch.
    """

    def __init__(self, batch: int, length: int, hidden: int, steps: int):
        fitted = Forecaster(HORIZON, window=length - HORIZON, hidden=hidden, batch=8, epochs=1).fit(table())
        assert fitted.model_ is not None
        assert fitted.fitted_ is not None
        windows, ranges = fitted.model_.inputs(fitted.fitted_.panel), fitted.fitted_.split.training()
        self.plan = replace(plan_of(fitted, 10**6), steps=steps)
        self._batches = Batches(ranges, windows, batch, 0, steps)
        self._levels = torch.tensor(LEVELS)
        self.network = Network(fitted.model_.blocks)
        self._alone = deepcopy(self.network)
        self._ready = windows.gather(ranges.numbered(ranges.draw(batch, (0,))))
        self._marks = [process_time()]
        self._backward = 0.0
        self.steps: list[tuple[float, ...]] = []
        self.alone: list[float] = []

    def batch(self, epoch: int, step: int, part: Part) -> Batch:
        """Draw and gather as a fit does: for some steps at once."""
        self._mark()
        drawn = self._batches.batch(epoch, step, part)
        self._mark()
        return drawn.windows

    def loss(self, batch: Batch) -> tuple[Tensor, int]:
        """The loss as ``tasks.forecast.training`` has it."""
        result = self._loss(self.network, batch)
        self._mark()
        return result

    def step(self, _: Step) -> None:
        """End the marks of a step, and compute alone."""
        self._mark()
        marks = self._marks
        if self._backward:
            marks = [*marks[:4], self._backward, *marks[4:]]
        self.steps.append(tuple(np.diff(marks)))
        for p in self._alone.parameters():
            p.grad = None
        begin = process_time()
        self._loss(self._alone, self._ready)[0].backward()
        self.alone.append(process_time() - begin)
        self._marks = [process_time()]

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Mark the last gradient's coming for as long as this lasts."""

        def came(_: Tensor) -> None:
            self._backward = process_time()

        handles = [p.register_post_accumulate_grad_hook(came) for p in self.network.parameters()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _loss(self, network: nn.Module, batch: Batch) -> tuple[Tensor, int]:
        x, candidates, truth = (torch.from_numpy(v) for v in batch[:3])
        return pinball(network(x, candidates).float(), truth, self._levels)

    def _mark(self) -> None:
        self._marks.append(process_time())


def cost(batch: int, length: int, hidden: int, steps: int) -> Cost:
    """Measure the loop over so many steps, on torch's number of threads; then again for its parts."""
    taken, alone = _burst_means(Alternating(batch, length, hidden, WARM + steps))
    whole = taken.sum(1)
    low, share, high = quartiles((1 - alone / whole).tolist())
    work = Alternating(batch, length, hidden, WARM + steps)
    with work.hooked():
        parts, _ = _burst_means(work)
    pieces = {name: float(seconds) for name, seconds in zip(PIECES, np.median(parts, 0), strict=True)}
    return Cost(float(np.median(whole)), float(np.median(alone)), share, (low, high), pieces)


def _burst_means(work: Alternating) -> tuple[np.ndarray, np.ndarray]:
    """Train; the seconds of a step's parts [steps / burst, parts], and those of the network alone [steps / burst]."""
    train(work.network, work.loss, work.batch, work.plan, on_step=work.step)
    # Means over bursts: one step in so many gathers for all of them.
    return _bursts(np.array(work.steps[WARM:])), _bursts(np.array(work.alone[WARM:])[:, None])[:, 0]


def _bursts(seconds: np.ndarray) -> np.ndarray:
    """[steps / burst, pieces]: means of the steps [steps, pieces] that are gathered together."""
    whole = len(seconds) // STEPS_AT_ONCE * STEPS_AT_ONCE
    return seconds[:whole].reshape(-1, STEPS_AT_ONCE, seconds.shape[1]).mean(1)

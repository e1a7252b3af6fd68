"""A training that depends on all that a checkpoint must hold, and a driver that kills it over and over.

States carried between windows, dropout, noise from NumPy's and Python's generators, momentum, an average of the
weights, several turns for a step, and a rate that follows the validation losses.
"""

import dataclasses
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gatewise import LSTM
from gatewise.train import Checkpoints, History, Part, Plan, Streams, Truncated, Window, train

PLAN = Plan(
    epochs=5, steps=8, learning_rate=0.05, optimizer="sgd", schedule="plateau", patience=2, average=0.9,
    accumulate=2, save_every=3,
)  # fmt: skip
KILLED = dataclasses.replace(PLAN, epochs=12, patience=100, save_every=2)
"""Long enough to be killed twenty times."""

LENGTHS = (50, 30, 41, 20, 15, 44)


class Told(list[tuple[str, dict[str, Any]]]):
    """What ``on_event`` was told: names and values."""

    def hear(self, name: str, **values: Any) -> None:
        """Be told."""
        self.append((name, values))


class Model(nn.Module):
    """Two layers with dropout and zoneout, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = LSTM(2, 9, num_layers=2, dropout=0.2, zoneout=0.1, cell="peephole")
        self.head = nn.Linear(9, 1)


def training(
    checkpoints: Checkpoints | None,
    *,
    plan: Plan = PLAN,
    on_step: Callable[[Any], None] = lambda step: None,
    on_event: Callable[..., None] = lambda name, **values: None,
    width: int = 0,
) -> tuple[History, dict[str, Tensor]]:
    """Train from a fixed seed: the history and the weights. ``width`` adds weights that make checkpoints larger."""
    torch.manual_seed(1)
    np.random.seed(2)  # noqa: NPY002 - the states that checkpoints hold
    random.seed(3)
    model = Model()
    if width:
        model.register_parameter("ballast", nn.Parameter(torch.zeros(width)))
    generator = np.random.default_rng(4)
    rows = sum(LENGTHS)
    x = generator.standard_normal((rows, 2)).astype(np.float32)
    y = np.cumsum(x[:, :1], axis=0).astype(np.float32) * 0.1
    streams = Streams(x, y, np.cumsum([0, *LENGTHS]), rows=4, window=7, backward=5)

    def step(window: Window, state: Any) -> tuple[Tensor, int, Any]:
        noise = 0.01 * (np.random.standard_normal() + random.random())  # noqa: NPY002
        output, state = model.lstm(window.x + noise, state, lengths=window.lengths, reset=window.reset)
        error = (model.head(output) - window.y)[window.scored]
        return error.square().sum(), len(error), state

    truncated = Truncated(streams, step)

    def validate(part: Part) -> tuple[float, float]:
        with torch.no_grad():
            whole = torch.from_numpy(x[:50, None])
            error = model.head(model.lstm(whole)[0])[:, 0] - torch.from_numpy(y[:50])
        return error.square().sum().item(), len(error)

    history = train(
        model, truncated.loss, truncated.batch, plan, validate=validate, carried=truncated,
        checkpoints=checkpoints, on_step=on_step, on_event=on_event,
    )  # fmt: skip
    return history, model.state_dict()


def bits(weights: dict[str, Tensor]) -> bytes:
    """The weights as they lie in memory."""
    return b"".join(value.contiguous().numpy().tobytes() for value in weights.values())


def kill_over_and_over(folder: Path, times: int) -> int:
    """Train in a child that is killed at random moments, every other time in the middle of a save; how often it was.

    What comes out at last is in ``folder/weights``.
    """
    generator, killed = random.Random(5), 0
    while not (folder / "weights").exists():
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            _work(folder, writing, in_a_save=killed % 2 == 0)
        os.close(writing)
        if killed < times:
            if killed % 2 == 0:
                os.read(reading, 1 + generator.randrange(3))
            else:
                time.sleep(generator.random() * 0.08)
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        os.close(reading)
        killed += os.WIFSIGNALED(status)
        assert killed <= times
        assert os.WIFSIGNALED(status) or status == 0, status
    return killed


def _work(folder: Path, pipe: int, *, in_a_save: bool) -> None:
    """Be the child; in a save, each time before the disk is told to keep what was written, and before the rename."""
    if in_a_save:
        for name in ("fsync", "replace"):
            _slow(name, pipe)
    _, weights = training(Checkpoints(folder / "checkpoints", resume=True), plan=KILLED)
    (folder / "weights.part").write_bytes(bits(weights))
    (folder / "weights.part").rename(folder / "weights")
    os._exit(0)


def _slow(name: str, pipe: int) -> None:
    plain = getattr(os, name)

    def slow(*args: Any) -> Any:
        os.write(pipe, b"x")
        time.sleep(0.02)
        return plain(*args)

    setattr(os, name, slow)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(kill_over_and_over(Path(sys.argv[1]), int(sys.argv[2])))

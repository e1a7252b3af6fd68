"""Small trainings, to be run alone or by each process of a group; what they tell of themselves."""

import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import resumable
import torch
from torch import Tensor, distributed, nn

from gatewise import LSTM
from gatewise.errors import LostProcessError
from gatewise.train import Checkpoints, DivergedError, Part, Plan, Streams, Truncated, Window, train
from gatewise.train.group import Group
from gatewise.train.shared import shared_sum

ROWS = 40
SIZES = (2, 3)


class Model(nn.Module):
    """A layer, a head, and a weight that no loss reaches."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm, self.head = LSTM(2, 5), nn.Linear(5, 1)
        self.idle = nn.Parameter(torch.ones(2))


def windows(
    size: int = 7,
    accumulate: int = 1,
    validation: int = 9,
    trouble: Callable[[int, int, Part], None] | None = None,
    shift: float = 0.0,
) -> dict[str, Any]:
    """Train on batches of windows that are drawn at random; weights, losses, and which windows every part was."""
    model, drawn = Model(), []
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(shift)
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((ROWS, 6, 2)).astype(np.float32))

    def batch(epoch: int, step: int, part: Part) -> list[int]:
        if trouble is not None:
            trouble(epoch, step, part)
        rows = np.random.default_rng((2, epoch, step)).permutation(ROWS)[:size][part.rows(size)].tolist()
        drawn.append((epoch, step, part.index, part.count, rows))
        return rows

    def loss(rows: list[int]) -> tuple[Tensor, int]:
        error = model.head(model.lstm(x[rows].transpose(0, 1))[0])[-1] - x[rows].sum((1, 2))[:, None]
        return error.square().sum(), len(rows)

    def validate(part: Part) -> tuple[float, float]:
        with torch.no_grad():
            total, count = loss(list(range(validation))[part.rows(validation)])
        return total.item(), count

    plan = Plan(3, 4, learning_rate=0.05, accumulate=accumulate, average=0.9)
    history = train(model, loss, batch, plan, validate=validate, describe=lambda rows: f"windows {rows}")
    losses = [(epoch.train_loss, epoch.val_loss, epoch.values) for epoch in history.epochs]
    return {"weights": model.state_dict(), "losses": losses, "drawn": drawn, "stopped": history.stopped}


def streams(folder: Path | None = None, *, rows: int = 5, stop_at: int = 0, resume: bool = False) -> dict[str, Any]:
    """Truncated BPTT with states that are carried; SIGTERM comes to the last process alone."""
    model = Model()
    generator = np.random.default_rng(3)
    lengths = [50, 31, 40, 22, 12, 44]
    x = generator.standard_normal((sum(lengths), 2)).astype(np.float32)
    laid = Streams(
        x, np.cumsum(x[:, :1], 0) * np.float32(0.1), np.cumsum([0, *lengths]), rows=rows, window=7, backward=4
    )

    def step(window: Window, state: Any) -> tuple[Tensor, int, Any]:
        output, state = model.lstm(window.x, state, lengths=window.lengths, reset=window.reset)
        error = (model.head(output) - window.y)[window.scored]
        return error.square().sum(), len(error), state

    truncated, taken = Truncated(laid, step), []

    def batch(epoch: int, step: int, part: Part) -> Window:
        taken.append((epoch, step))
        if len(taken) == stop_at and Group().rank == Group().size - 1:
            signal.raise_signal(signal.SIGTERM)
        return truncated.batch(epoch, step, part)

    place = None if folder is None else Checkpoints(folder, resume=resume)
    history = train(
        model, truncated.loss, batch, Plan(2, laid.windows, learning_rate=0.02), carried=truncated, checkpoints=place
    )
    return {"weights": model.state_dict(), "taken": taken, "stopped": history.stopped, "windows": laid.windows}


def everything(folder: Path, *, stop_at: int = 0) -> dict[str, Any]:
    """The training that depends on all that a checkpoint holds; Ctrl-C comes to the last process alone."""
    plan, events = replace(resumable.PLAN, epochs=3), []

    def on_step(step: Any) -> None:
        if (step.epoch - 1) * plan.steps + step.step == stop_at and Group().rank == Group().size - 1:
            signal.raise_signal(signal.SIGINT)

    # Each process is shown a folder of its own, so that it can be seen which of them write.
    place = Checkpoints(folder / f"{Group().rank}", resume=True)

    def on_event(name: str, **values: Any) -> None:
        events.append(name)

    history, weights = resumable.training(place, plan=plan, on_step=on_step, on_event=on_event)
    return {"weights": weights, "stopped": history.stopped, "events": events}


def diverging(bad: int) -> str:
    """The error when the loss of one process' part is no number."""
    model = Model()

    def loss(part: Part) -> tuple[Tensor, int]:
        value = model.head(model.lstm(torch.ones(3, 1, 2))[0]).sum()
        return value * (torch.nan if part.index == bad else 1.0), 1

    try:
        train(model, loss, lambda epoch, step, part: part, Plan(1, 1), describe=lambda part: f"part {part.index}")
    except DivergedError as error:
        return str(error)
    return "no error"


def sums(rank: int) -> dict[str, Any]:
    """Numbers, and tensors of two types, added up."""
    numbers = [2.0**40 + 1 + rank, 1 / 3, torch.nan if rank else 1.0, torch.inf if rank else 1.0, -1e-30]
    tensors = [torch.full((2, 3), 1.0 + rank), torch.full((4,), 0.5, dtype=torch.float64)]
    for tensor in tensors:
        Group().sum(tensor)
    return {"numbers": Group().total(*numbers), "tensors": tensors}


def lost() -> str:
    """What the others are told when the last process fails."""

    def trouble(epoch: int, step: int, part: Part) -> None:
        if (epoch, step) == (2, 2) and part.index == part.count - 1:
            raise OSError("the disk is gone")

    try:
        windows(trouble=trouble)
    except (LostProcessError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def work(rank: int, size: int, folder: str, other: str) -> None:
    """Be one process of a group: everything that the tests look at, in one go.

    Args:
        rank: of the process.
        size: of the group.
        folder: of the group.
        other: checkpoints of streams that were trained by another number of processes, or nothing.
    """
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    place = Path(folder)
    # Two add up in memory that they share, three through torch.distributed.
    os.environ["LOCAL_WORLD_SIZE"] = "2"
    Group.shared = shared_sum(rank, size)
    found = {
        "shared": Group.shared is not None,
        "windows": windows(),
        "chance": torch.rand(1).item(),
        "again": windows(),
        "apart": windows(shift=rank),
        "turns": windows(accumulate=2),
        "few": windows(size=1, validation=1),
        "whole": everything(place / "whole"),
        "cut": everything(place / "cut", stop_at=11),
        "resumed": everything(place / "cut"),
        "streams": streams(),
        "few streams": streams(rows=2),
        "streams cut": streams(place / "streams", stop_at=5),
        "diverged": diverging(size - 1),
        "sums": sums(rank),
        "written": sorted(path.name for path in place.glob("*/*")),
    }
    if not rank:
        for name in ("kept", "kept for one"):
            shutil.copytree(place / "streams", place / name)
    distributed.barrier()
    found["streams resumed"] = streams(place / "streams", resume=True)
    if other:
        found["others resumed"] = streams(Path(other), resume=True)
    if Group.shared is not None:
        Group.shared.close()
        Group.shared = None
    found["lost"] = lost()
    torch.save(found, place / f"{rank}.pt")
    distributed.destroy_process_group()


def main(folder: Path) -> None:
    """Train alone, by two processes, and by three that go on with what the two began, too."""
    torch.set_num_threads(1)
    alone = {
        "windows": windows(),
        "turns": windows(accumulate=2),
        "few": windows(size=1, validation=1),
        "streams": streams(),
        "few streams": streams(rows=2),
    }
    torch.save([alone], folder / "1.pt")
    # Forked, because torch takes its time to start.
    context, other = multiprocessing.get_context("fork"), ""
    for size in SIZES:
        place = folder / str(size)
        place.mkdir()
        processes = [context.Process(target=work, args=(rank, size, str(place), other)) for rank in range(size)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            assert process.exitcode == 0
        found = [torch.load(place / f"{rank}.pt", weights_only=False) for rank in range(size)]
        torch.save(found, folder / f"{size}.pt")
        other = str(place / "kept")
    # What is left of the first two goes on alone.
    resumed = [streams(folder / str(size) / "kept for one", resume=True) for size in SIZES]
    torch.save(resumed, folder / "others resumed.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

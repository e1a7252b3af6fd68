"""Several processes that train one model, as torchrun starts them; or this one alone.

Every process takes its part of each batch, and gradients are summed over all of them before a step, so that the weights
stay equal everywhere and the batches are those of a single process.
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor, distributed, nn
from torch.distributed.rendezvous import rendezvous

from gatewise.errors import InputError, LostProcessError
from gatewise.machine import process
from gatewise.train.meeting import fresh_store
from gatewise.train.shared import SharedSum, shared_sum


@dataclass(frozen=True)
class Part:
    """One of ``count`` parts of a batch, counted from 0."""

    index: int = 0
    count: int = 1

    def rows(self, total: int) -> slice:
        """The rows of this part, of ``total``: parts differ by at most one row, may be empty, and hold each row once.

        Example:
            >>> [Part(index, 3).rows(4) for index in range(3)]
            [slice(0, 1, None), slice(1, 2, None), slice(2, 4, None)]
        """
        return slice(total * self.index // self.count, total * (self.index + 1) // self.count)


WHOLE = Part()
"""A batch as one part."""


@final
class Group:
    """The processes of torch.distributed's default group, or this one if there is none.

    What is asked of all of them raises LostProcessError where one of them does not answer.

    Attributes:
        rank: of this process, from 0.
        size: how many there are.
        shared: where the processes of ``joined_group`` add up, if they have memory to share.
    """

    shared: ClassVar[SharedSum | None] = None

    def __init__(self) -> None:
        joined = distributed.is_available() and distributed.is_initialized()
        self.rank = distributed.get_rank() if joined else 0
        self.size = distributed.get_world_size() if joined else 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def part(self, turn: int = 0, turns: int = 1) -> Part:
        """This process' part of a batch, or one of the parts that it takes in turns."""
        return Part(self.rank * turns + turn, self.size * turns)

    def align(self, module: nn.Module) -> None:
        """Give all processes the weights of the first, and each its own random numbers."""
        if self.size == 1:
            return
        with _in_touch():
            for value in module.state_dict().values():
                distributed.broadcast(value, 0)
        # Not the seed itself, from whose numbers the weights were drawn.
        torch.manual_seed(torch.initial_seed() + 1 + self.rank)

    def sum(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over the processes."""
        if self.size == 1:
            return
        if Group.shared is not None and Group.shared.takes(tensor):
            Group.shared.sum(tensor)
            return
        with _in_touch():
            distributed.all_reduce(tensor)

    def total(self, *values: float) -> list[float]:
        """The sums of numbers over the processes."""
        if self.size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self._device())
        self.sum(sums)
        return sums.tolist()

    def gather(self, item: Any) -> list[Any]:
        """The items of all processes, in their order, for the first; nothing for the others."""
        if self.size == 1:
            return [item]
        items: list[Any] | None = [None] * self.size if self.first else None
        with _in_touch():
            distributed.gather_object(item, items)
        return items or []

    def spread(self, item: Any) -> Any:
        """The first process' item."""
        if self.size == 1:
            return item
        items = [item]
        with _in_touch():
            distributed.broadcast_object_list(items)
        return items[0]

    @staticmethod
    def _device() -> str:
        return "cuda" if distributed.get_backend() == "nccl" else "cpu"


@contextmanager
def joined_group() -> Generator[Group]:
    """Join the group that torchrun has described in the environment, if it has, and leave it at the end.

    Raises:
        InputError: the environment makes no sense.
        LostProcessError: a process did not come, or was lost before all were done.
    """
    if process().size == 1 or distributed.is_initialized():
        yield Group()
        return
    try:
        with _in_touch():
            store, rank, size = next(rendezvous("env://"))
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            distributed.init_process_group(backend, store=fresh_store(store, rank, size), rank=rank, world_size=size)
            Group.shared = shared_sum(rank, size)
    except ValueError as error:
        raise InputError(f"the processes cannot find each other: {error}. Start them with torchrun.") from None
    try:
        yield Group()
        # Whoever left first would look lost to those whose last message is still under way.
        with _in_touch():
            distributed.barrier()
    finally:
        if Group.shared is not None:
            Group.shared.close()
            Group.shared = None
        distributed.destroy_process_group()


@contextmanager
def _in_touch() -> Generator[None]:
    """What torch.distributed says of lost processes, as an error of its own."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise LostProcessError(
            f"the processes cannot go on together: one has ended, or is out of reach ({reason})."
        ) from error

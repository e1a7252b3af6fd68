"""Where the processes of a group find each other, when those of an earlier attempt have met in the same place."""

import time
import uuid
from typing import TYPE_CHECKING

from torch import distributed

from gatewise.errors import LostProcessError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

LIMIT = 1800.0
"""Seconds to wait for a process, as in torch.distributed."""


def fresh_store(store: "Store", rank: int, size: int, *, limit: float = LIMIT) -> "Store":
    """A part of a store that holds nothing yet, the same for all processes of a group.

    When torchrun starts workers anew it keeps the store in which they meet, and with it the addresses of those that
    are dead (PyTorch issue 135712); how often it has done so it tells each node for itself. So the first process
    thinks of a name, and tells it to the others in answer to words that nobody has used before.

    Args:
        store: what all processes reach.
        rank: of this process, from 0.
        size: how many there are.
        limit: seconds to wait for all of them.

    Raises:
        LostProcessError: one did not come.
    """
    name = uuid.uuid4().hex
    if rank:
        word = uuid.uuid4().hex
        store.set(f"gatewise/{rank}", word)
        name = store.get(f"gatewise/{word}").decode()
        store.set(f"gatewise/{name}/{rank}", "here")
    else:
        _tell(store, name, size, time.monotonic() + limit)
    return distributed.PrefixStore(f"gatewise/{name}", store)  # pyright: ignore[reportPrivateImportUsage]


def _tell(store: "Store", name: str, size: int, deadline: float) -> None:
    """Answer the others until each has said that it knows the name: what it asked before may be of an earlier one."""
    awaited = list(range(1, size))
    while awaited:
        for rank in awaited:
            if store.check([f"gatewise/{rank}"]):
                store.set(f"gatewise/{store.get(f'gatewise/{rank}').decode()}", name)
        awaited = [rank for rank in awaited if not store.check([f"gatewise/{name}/{rank}"])]
        if awaited and time.monotonic() > deadline:
            raise LostProcessError(f"process {awaited[0] + 1} of {size} did not come.")
        time.sleep(0.01 if awaited else 0)

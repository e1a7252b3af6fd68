"""A process of a group, as torchrun starts it; what it tells of its sums, one line of JSON for each thing it did.

RANK=0 WORLD_SIZE=3 LOCAL_WORLD_SIZE=3 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 python sharing.py sums
"""

import hashlib
import json
import os
import resource
import signal
import sys
import time
from typing import Any

import torch

from gatewise.errors import LostProcessError
from gatewise.train import Group, joined_group

SIZES = (0, 1, 7, 2**18 - 1, 2**18 + 1, 600_001)
"""Elements; 2**18 of float32 fill a place."""


def values(rank: int, size: int, dtype: torch.dtype) -> torch.Tensor:
    """What a process has to add: numbers whose sum depends on their order."""
    return torch.randn(size, generator=torch.Generator().manual_seed(rank)).to(dtype) * 10.0**rank


def bits(tensor: torch.Tensor) -> str:
    """Of a tensor, short."""
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()


def say(**found: Any) -> None:
    """Tell the tests."""
    print(json.dumps(found), flush=True)


def sums(group: Group) -> None:
    """Add up tensors that fit a place and that do not, many times without a pause."""
    found = []
    for dtype in (torch.float32, torch.float64):
        for size in SIZES:
            tensor = values(group.rank, size, dtype)
            group.sum(tensor)
            found.append(bits(tensor))
    totals = [group.total(float(turn), group.rank / 3) for turn in range(2000)]
    say(
        sums=found,
        totals=[totals[0], totals[-1]],
        even=all(total[0] == turn * group.size for turn, total in enumerate(totals)),
    )


def ends(group: Group) -> None:
    """The last process is killed, or raises an error, while the others wait for it."""
    if group.rank == group.size - 1:
        time.sleep(0.5)
        if "killed" in sys.argv:
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError("the disk is gone")
    group.total(1.0)


def main() -> None:
    torch.set_num_threads(1)
    if "full" in sys.argv:
        # Whoever writes more than this to a file gets an error, as on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        with joined_group() as group:
            say(shared=Group.shared is not None)
            (ends if "ends" in sys.argv else sums)(group)
    except (LostProcessError, OSError) as error:
        say(error=f"{type(error).__name__}: {error}")
    say(left=Group.shared is None)


if __name__ == "__main__":
    main()

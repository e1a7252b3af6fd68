"""Sums over the processes of one machine, through memory that they share.

What torch.distributed sends through sockets wakes a thread on each side: for the small gradients of an LSTM, and for a
handful of numbers, that takes about a millisecond, where to add them up takes a tenth of it.
"""

import ctypes
import mmap
import os
import sys
import tempfile
import time
from contextlib import suppress
from typing import final

import torch
from torch import Tensor, distributed

from gatewise import _native
from gatewise.errors import LostProcessError
from gatewise.train.meeting import LIMIT

_PLACE = 2**20
"""Bytes of values that a process shows the others at once."""

_LINE = 64
_MOST = 8
"""Processes: every one reads the values of all."""

_LOOK = 0.1
"""Seconds after which a process that has not answered is looked for."""


@final
class SharedSum:
    """Sums of tensors, in the order of the processes; made by ``shared_sum``."""

    def __init__(self, file: int, rank: int, size: int):
        self._file, self._rank = file, rank
        self._memory = mmap.mmap(file, _bytes(size))
        held = ctypes.c_char.from_buffer(self._memory)
        self._sum = _native.SharedSum(ctypes.addressof(held), len(self._memory), rank, size)

    @staticmethod
    def takes(tensor: Tensor) -> bool:
        """Whether tensors like this one are added up here."""
        return tensor.dtype in (torch.float32, torch.float64) and tensor.is_cpu and tensor.is_contiguous()

    def sum(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over the processes.

        Raises:
            LostProcessError: one of them has ended, or left.
        """
        add = self._sum.sum_float64 if tensor.dtype == torch.float64 else self._sum.sum_float32
        for piece in tensor.detach().view(-1).split(_PLACE // tensor.element_size()):
            self._sum.put(piece.data_ptr(), piece.nbytes)
            self._wait()
            add(piece.data_ptr(), piece.numel())

    def close(self) -> None:
        """Leave: whoever waits for this process is told."""
        os.close(self._file)

    def _wait(self) -> None:
        deadline = time.monotonic() + LIMIT
        while (rank := self._sum.missing(_LOOK)) is not None:
            if not _is_here(self._file, rank) or time.monotonic() > deadline:
                raise LostProcessError(
                    f"the processes cannot go on together: process {rank + 1} has ended, or does not answer."
                )


def shared_sum(rank: int, size: int) -> SharedSum | None:
    """Memory for the sums of the processes of torch.distributed's default group, which must all call this.

    Returns:
        None where they have none to share: not started by torchrun on one machine, too many, no room, or no locks of
        files (Windows). Sums go through torch.distributed then.
    """
    if sys.platform == "win32" or size > _MOST or os.environ.get("LOCAL_WORLD_SIZE") != str(size):
        return None
    name = [_make(size) if rank == 0 else None]
    distributed.broadcast_object_list(name)
    file, opened = None, [False] * size
    if name[0] is not None:
        with suppress(OSError):
            file = os.open(name[0], os.O_RDWR)
            _hold(file, rank)
    distributed.all_gather_object(opened, file is not None)
    if rank == 0 and name[0] is not None:
        os.unlink(name[0])
    if file is not None and all(opened):
        return SharedSum(file, rank, size)
    if file is not None:
        os.close(file)
    return None


def _bytes(size: int) -> int:
    return size * (_LINE + 2 * _PLACE)


def _make(size: int) -> str | None:
    """A file of zeros that all of its memory is there for: writing to less of it would end the process."""
    folder = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    name = None
    try:
        file, name = tempfile.mkstemp(prefix="gatewise.", dir=folder)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file, 0, _bytes(size))
            else:
                os.write(file, bytes(_bytes(size)))
        finally:
            os.close(file)
    except OSError:
        if name is not None:
            os.unlink(name)
        return None
    return name


def _hold(file: int, rank: int) -> None:
    """Lock this process' byte of the file for as long as it is open, which ends with the process at the latest."""
    import fcntl

    fcntl.lockf(file, fcntl.LOCK_EX, 1, rank)


def _is_here(file: int, rank: int) -> bool:
    import fcntl

    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, rank)
    except OSError:
        return True
    fcntl.lockf(file, fcntl.LOCK_UN, 1, rank)
    return False

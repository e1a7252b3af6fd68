"""Which instruction set computes, with how many threads, on whose team; which of several processes this is."""

import os
import sys
from typing import NamedTuple

from gatewise import _native
from gatewise.errors import InputError


class Engine(NamedTuple):
    """What computes.

    Attributes:
        isa: the instruction set in use: the best one, or the one that the environment variable GATEWISE_ISA names.
        isas: those that this machine can use, the best first.
        threads: the most threads that a call uses: torch's number where torch is loaded (``torch.set_num_threads``
            sets it), else that of the processors; 1 in a process that was forked.
        team: whose threads they are: "libgomp" for torch's, or "own"; "none" in a process that was forked, where the
            caller's thread works alone.
        bfloat16: whether products of bfloat16 are the processor's own, where no gradient is wanted: it has them, and is
            not known to be slower at them (Intel's are).
    """

    isa: str
    isas: tuple[str, ...]
    threads: int
    team: str
    bfloat16: bool


def engine() -> Engine:
    """Tell which instruction set is in use, with how many threads, on whose team.

    Example:
        >>> import gatewise
        >>> gatewise.engine().isa in gatewise.engine().isas
        True
    """
    torch, team = sys.modules.get("torch"), _native.team()
    threads = 1 if team == "none" else _processors() if torch is None else torch.get_num_threads()
    return Engine(isa(), tuple(_native.available_isas()), threads, team, _native.multiplies_bfloat16())


def isa() -> str:
    """Return the instruction set in use.

    Raises:
        InputError: GATEWISE_ISA names one that is not available.
    """
    try:
        return _native.isa()
    except ValueError as error:
        raise InputError(str(error)) from None


class Process(NamedTuple):
    """One of the processes that a launcher such as torchrun has started together.

    Attributes:
        rank: of this process, from 0.
        size: how many there are, 1 without a launcher.
    """

    rank: int
    size: int


def process() -> Process:
    """Tell which process this is, by the environment variables RANK and WORLD_SIZE.

    Raises:
        InputError: they make no sense.

    Example:
        >>> process()
        Process(rank=0, size=1)
    """
    texts = os.environ.get("RANK"), os.environ.get("WORLD_SIZE", "1")
    if texts[1] == "1":
        return Process(0, 1)
    rank, size = (int(text) if text and text.isdecimal() else -1 for text in texts)
    if not 0 <= rank < size:
        raise InputError(
            f"the environment has WORLD_SIZE={texts[1]!r} and RANK={texts[0]!r}, as no launcher sets them: start the "
            "processes with torchrun, or unset both."
        )
    return Process(rank, size)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

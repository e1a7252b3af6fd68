"""Which instruction set computes, with how many threads, on whose team."""

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
    """

    isa: str
    isas: tuple[str, ...]
    threads: int
    team: str


def engine() -> Engine:
    """Tell which instruction set is in use, with how many threads, on whose team.

    Example:
        >>> import gatewise
        >>> gatewise.engine().isa in gatewise.engine().isas
        True
    """
    torch, team = sys.modules.get("torch"), _native.team()
    threads = 1 if team == "none" else _processors() if torch is None else torch.get_num_threads()
    return Engine(isa(), tuple(_native.available_isas()), threads, team)


def isa() -> str:
    """Return the instruction set in use.

    Raises:
        InputError: GATEWISE_ISA names one that is not available.
    """
    try:
        return _native.isa()
    except ValueError as error:
        raise InputError(str(error)) from None


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

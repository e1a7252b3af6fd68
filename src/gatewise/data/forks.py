"""Polars in processes that were forked: its threads are not there any more, and it would wait for them forever."""

import os
import re
from pathlib import Path

from gatewise.errors import InputError

_TASKS = Path("/proc/self/task")  # Linux only; elsewhere hardly anything forks.
_WORKER = re.compile(r"polars-\d+")


class _Forks:
    working = False
    """Whether Polars had threads when this process last forked."""
    lost = False
    """Whether it had, in a process that this one was forked from."""

    def before(self) -> None:
        tasks = _TASKS.iterdir() if _TASKS.exists() else []
        self.working = any(_WORKER.fullmatch(_name(task)) for task in tasks)

    def in_child(self) -> None:
        self.lost = self.lost or self.working


def _name(task: Path) -> str:
    try:
        return (task / "comm").read_text().strip()
    except OSError:  # It has ended meanwhile.
        return ""


_FORKS = _Forks()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_FORKS.before, after_in_child=_FORKS.in_child)


def check_fork() -> None:
    """Refuse to read tables where Polars would wait forever.

    Raises:
        InputError: this process was forked from one in which Polars had worked.
    """
    if _FORKS.lost:
        raise InputError(
            "this process was forked from one in which Polars had worked, and Polars, which reads tables here, would "
            'wait forever: start processes by "spawn" or "forkserver" (multiprocessing.set_start_method).'
        )

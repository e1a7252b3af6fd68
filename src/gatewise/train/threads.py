"""Torch's threads while a training lasts."""

from collections.abc import Generator
from contextlib import contextmanager

import torch

from gatewise.machine import engine


@contextmanager
def torch_threads(count: int | None = None) -> Generator[None]:
    """Compute with some number of torch's threads, and have as many as before at the end.

    In a process that was forked it is one: the team of an OpenMP runtime does not survive a fork, and torch's operators
    would wait for it forever.

    Args:
        count: at least 1; by default as many as there are.

    Example:
        >>> with torch_threads(2):
        ...     torch.get_num_threads()
        2
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if engine().team == "none" else count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)

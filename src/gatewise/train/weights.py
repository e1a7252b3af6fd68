"""What belongs to a run besides its weights: random states, and an average of the weights."""

import random
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn


def random_states() -> dict[str, Any]:
    """The states of all generators that a training may draw from by default."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002 - what others draw from
        "python": random.getstate(),
    }


def restore_random_states(states: Mapping[str, Any]) -> None:
    """The inverse of ``random_states``."""
    torch.set_rng_state(states["torch"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    random.setstate(states["python"])


def copy_of(module: nn.Module) -> dict[str, Tensor]:
    """The weights as they are now."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


@final
class Average:
    """An average of a module's weights in which older ones count exponentially less.

    ::

        a ← k a + (1 − k) w        k = min(share, (1 + t) / (10 + t)) at step t

    so that the first steps do not hang on to the random start.

    Args:
        module: whose weights.
        share: from 0 to below 1; 0 keeps no average, and the weights themselves stand for it.
    """

    def __init__(self, module: nn.Module, share: float):
        self._module, self._share = module, share
        self.values = copy_of(module) if share else {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after a step, counted from 1."""
        if not self._share:
            return
        keep = min(self._share, (1 + step) / (10 + step))
        for name, value in self._module.state_dict().items():
            if value.is_floating_point():
                self.values[name].lerp_(value, 1 - keep)
            else:
                self.values[name].copy_(value)

    @contextmanager
    def in_place(self) -> Generator[None]:
        """The module with the averaged weights, for as long as this lasts."""
        if not self._share:
            yield
            return
        own = copy_of(self._module)
        self._module.load_state_dict(self.values)
        try:
            yield
        finally:
            self._module.load_state_dict(own)

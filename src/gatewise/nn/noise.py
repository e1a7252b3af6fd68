"""Dropout and zoneout masks, drawn from torch's generator or from one that the user gives."""

import torch
from torch import Tensor
from torch.nn import functional

from gatewise.ops import Noise


def drop(x: Tensor, p: float, generator: torch.Generator | None) -> Tensor:
    """Zero each value with probability p and scale the others by 1 / (1 − p)."""
    if generator is None:
        # Contiguous, so that the mask is drawn in torch's order whatever the memory order of x.
        return functional.dropout(x.contiguous(), p)
    return x * kept(x, tuple(x.shape), p, generator)


def kept(like: Tensor, shape: tuple[int, ...], p: float, generator: torch.Generator | None) -> Tensor:
    """Return a mask that is 0 with probability p and 1 / (1 − p) otherwise."""
    mask = _drawn(like, shape, 1 - p, generator)
    return mask if p == 1 else mask / (1 - p)


def _drawn(like: Tensor, shape: tuple[int, ...], p: float, generator: torch.Generator | None) -> Tensor:
    """Return a mask that is 1 with probability p."""
    # From a tensor of its own and not in place: else vmap can draw only the same mask for all, or only different ones.
    return torch.bernoulli(torch.empty(shape, dtype=like.dtype, device=like.device), p, generator=generator)


def draw(
    x: Tensor,
    widths: dict[str, int],
    *,
    recurrent: float,
    zoneout: tuple[float, float],
    training: bool,
    generator: torch.Generator | None,
) -> Noise:
    """Draw the masks of one layer and direction for one call.

    Args:
        x: the inputs [T, B, D], for T, B, dtype and device.
        widths: the width of each state.
        recurrent: the probability of dropping a unit of h₋ for a whole sequence.
        zoneout: the probabilities of keeping an old h and an old c.
        training: whether zoneout is random; otherwise it takes its expectation, and nothing is dropped.
        generator: where randomness comes from; None for torch's own.
    """
    steps, batch = x.shape[:2]
    mask = kept(x, (batch, widths["h"]), recurrent, generator) if recurrent and training else None
    parts: list[Tensor | None] = []
    for name, p in zip(("h", "c"), zoneout, strict=True):
        if not p:
            parts.append(None)
        elif training:
            parts.append(_drawn(x, (steps, batch, widths[name]), 1 - p, generator))
        else:
            parts.append(x.new_full((1, 1, 1), 1 - p).expand(steps, batch, widths[name]))
    return Noise(mask, *parts)

"""The arguments of one layer's call, as the modules here pass them on."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from gatewise.reference import State, Weights


class Direction(NamedTuple):
    """What one direction of a layer starts from and computes with."""

    state: State
    weights: Weights
    reverse: bool


Layer = tuple[Tensor, list[State]]
"""What a layer returns: the outputs of its directions side by side, and the final state of each."""


def tensors(x: Tensor, directions: Sequence[Direction]) -> list[Tensor]:
    """Return every tensor of a call."""
    return [x, *(t for state, weights, _ in directions for t in (*state, *weights) if t is not None)]

"""The gradients of all weights: their sums over the processes, their norm, scaling and cutting."""

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from gatewise.train.group import Group


@final
class Gradients:
    """The gradients of some parameters, summed over the processes.

    With several processes they come to lie side by side, so that they go in one message; each parameter's ``grad`` is
    then a view of its place. Alone they stay where they are: for few and small weights the copy is what would cost.

    Args:
        parameters: that the loss has reached, in some process if not in this one: a part of a batch without rows may
            reach no weight, and all processes must send the same.
        group: the processes.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], group: Group):
        self._vectors = [p.grad for p in parameters if p.grad is not None]
        if group.size > 1:
            kinds: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = {}
            for parameter in parameters:
                kinds.setdefault((parameter.dtype, parameter.device), []).append(parameter)
            self._vectors = [_side_by_side(same) for same in kinds.values()]
            for vector in self._vectors:
                group.sum(vector)

    def scale(self, factor: float) -> None:
        """Multiply all of them."""
        for vector in self._vectors:
            vector.mul_(factor)

    def cut(self, most: float) -> None:
        """Cut each element to ± that."""
        for vector in self._vectors:
            vector.clamp_(-most, most)

    def norm(self) -> float:
        """The Euclidean norm of all of them."""
        return math.hypot(*(torch.linalg.vector_norm(vector).item() for vector in self._vectors))


def _side_by_side(parameters: Sequence[nn.Parameter]) -> Tensor:
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    vector = torch.cat([gradient.ravel() for gradient in gradients])
    places = vector.split([gradient.numel() for gradient in gradients])
    for parameter, place in zip(parameters, places, strict=True):
        parameter.grad = place.view_as(parameter)
    return vector

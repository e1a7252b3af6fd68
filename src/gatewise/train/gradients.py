"""The gradients of all weights as a few long vectors: one message, one norm, one scaling, not one for each weight."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from gatewise.train.group import Group


@final
class Gradients:
    """The gradients of some parameters, side by side in memory; each parameter's ``grad`` becomes a view of its place.

    Args:
        parameters: whose ``grad`` is taken; one that the loss did not reach, here or in any process, keeps None.
        group: the processes over which gradients are summed.
        numbers: what else is to be summed over them.

    Attributes:
        numbers: their sums.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], group: Group, *numbers: float):
        reached = torch.tensor([float(p.grad is not None) for p in parameters])
        if group.size > 1:
            # A part of a batch without rows may reach no weight, and all processes must send the same.
            for parameter in parameters:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        kinds: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = {}
        for parameter in parameters:
            if parameter.grad is not None:
                kinds.setdefault((parameter.dtype, parameter.device), []).append(parameter)
        self._vectors = [_vector(same) for same in kinds.values()]
        # One message, unless there are several kinds.
        self.numbers = group.sum([*self._vectors[:1], reached], *numbers)
        for vector in self._vectors[1:]:
            group.sum([vector])
        for parameter, count in zip(parameters, reached.tolist(), strict=True):
            if not count:
                parameter.grad = None

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
        norms = [torch.linalg.vector_norm(vector) for vector in self._vectors]
        return torch.linalg.vector_norm(torch.stack([norm.float() for norm in norms])).item() if norms else 0.0


def _vector(parameters: Sequence[nn.Parameter]) -> Tensor:
    gradients = [p.grad for p in parameters if p.grad is not None]
    vector = torch.cat([gradient.ravel() for gradient in gradients])
    places = vector.split([gradient.numel() for gradient in gradients])
    for parameter, place in zip(parameters, places, strict=True):
        parameter.grad = place.view_as(parameter)
    return vector

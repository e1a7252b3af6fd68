"""The tensors of a problem, the same for every engine."""

from typing import NamedTuple

import torch
from torch import Tensor

from bench.cases import Problem

Results = dict[str, Tensor]
"""Outputs by name: y, h, c; for training also the gradients of x and of each weight."""


class Data(NamedTuple):
    """The inputs of a problem, and the gradient that its backward is checked with."""

    x: Tensor
    weights: dict[str, Tensor]
    lengths: Tensor | None
    reset: Tensor | None
    gy: Tensor

    def double(self) -> "Data":
        weights = {kind: weight.double() for kind, weight in self.weights.items()}
        return self._replace(x=self.x.double(), weights=weights, gy=self.gy.double())


def draw(problem: Problem) -> Data:
    """Draw a problem's tensors; the same problem gives the same ones.

    They are half as wide as torch's initial weights, or less: cells that do not forget and normalised ones are chaotic
    beyond, and a chaotic layer makes of every rounding a difference that tells nothing about the engine.
    """
    generator = torch.Generator().manual_seed(problem.B + problem.T + problem.D + problem.H)
    scale = 0.5 * problem.H**-0.5
    weights: dict[str, Tensor] = {}
    for kind, shape in problem.variant.shapes(problem.D, problem.H).items():
        noise = (2 * torch.rand(shape, generator=generator) - 1) * scale
        weights[kind] = 0.2 * (1 + noise) if kind.startswith("weight_ln") else noise
    B, T = problem.B, problem.T
    x = 0.5 * torch.randn(T, B, problem.D, generator=generator)
    gy = torch.randn(T, B, problem.variant.output_size(problem.H), generator=generator)
    lengths = reset = None
    if problem.lengths:
        lengths = torch.randint(1, T + 1, (B,), generator=generator)
        lengths[0] = T  # a padded batch is as long as its longest row
    if problem.reset:
        reset = torch.rand(T, B, generator=generator) < 0.01
    data = Data(x, weights, lengths, reset, gy)
    return data.double() if problem.dtype == "float64" else data


def operations(problem: Problem, data: Data) -> int:
    """Floating-point operations of the products; a backward has twice those of its forward."""
    steps = problem.B * problem.T if data.lengths is None else int(data.lengths.sum())
    return 2 * steps * problem.products * (3 if problem.training else 1)

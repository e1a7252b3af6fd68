"""One random layer, and the ways to run it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gatewise import _native
from gatewise.ops import native
from gatewise.ops.call import Call, Direction
from gatewise.reference import State, Weights, scan

ISAS = _native.available_isas()


@dataclass(frozen=True)
class Problem:
    x: Tensor
    state: State
    weights: Weights
    reverse: bool = False

    @classmethod
    def draw(cls, T: int, B: int, D: int, H: int, *, bias: bool = True, reverse: bool = False) -> "Problem":
        generator = torch.Generator().manual_seed(T + 10 * B + 100 * D + 1000 * H)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator) * 2 - 1

        scale = H**-0.5
        biases = (uniform(4 * H), uniform(4 * H)) if bias else (None, None)
        weights = Weights(uniform(4 * H, D) * scale, uniform(4 * H, H) * scale, *biases)
        return cls(2 * uniform(T, B, D), (uniform(B, H), 2 * uniform(B, H)), weights, reverse)

    def native(self, isa: str, out: Tensor | None = None) -> tuple[Tensor, State]:
        result = native.forward(Call(self.x, [Direction(self.state, self.weights, self.reverse)]), out, isa=isa)
        return result.y, result.states[0]

    def reference(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, State]:
        cast = self.map(lambda tensor: tensor.to(dtype))
        run = scan(cast.x, cast.state, cast.weights, reverse=self.reverse)
        return run.y, run.state

    def map(self, change: Callable[[Tensor], Tensor]) -> "Problem":
        h, c = self.state
        given = self.weights._asdict().items()
        weights = self.weights._replace(**{name: change(weight) for name, weight in given if weight is not None})
        return Problem(change(self.x), (change(h), change(c)), weights, self.reverse)

    def rows(self, which: slice | list[int]) -> "Problem":
        h, c = self.state
        return Problem(self.x[:, which], (h[which], c[which]), self.weights, self.reverse)


def assert_close(ours: tuple[Tensor, State], theirs: tuple[Tensor, State]) -> None:
    """Hold y, h and c to the project's bound for short sequences."""
    for a, b in zip((ours[0], *ours[1]), (theirs[0], *theirs[1]), strict=True):
        assert a.shape == b.shape
        if a.numel():
            assert (a - b).abs().max() <= 1e-6 * max(1.0, float(b.abs().max()))


def assert_same_bits(ours: tuple[Tensor, State], theirs: tuple[Tensor, State]) -> None:
    for a, b in zip((ours[0], *ours[1]), (theirs[0], *theirs[1]), strict=True):
        assert torch.equal(a.contiguous().view(torch.int32), b.contiguous().view(torch.int32))

"""A layer in float64 with random weights and states, as a function of flat tensors."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.utils import _pytree as pytree

from gatewise import LSTM

CELLS = [
    "rnn",
    "rnn-relu",
    "lstm",
    "lstm-1997",
    "peephole",
    "nig",
    "nfg",
    "nog",
    "niaf",
    "noaf",
    "cifg",
    "np",
    "fgr",
    "slstm",
]
D, H = 2, 3
BOTH = {"num_layers": 2, "bidirectional": True}


def build(cell: str = "lstm", dtype: torch.dtype = torch.float64, **options: Any) -> LSTM:
    """Build a layer all of whose parameters are random, those too that start as zeros or ones."""
    layer = LSTM(D, H, cell=cell, dtype=dtype, **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(0.8 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return layer


def draw(layer: LSTM, T: int = 4, B: int = 2) -> tuple[Tensor, ...]:
    """Draw an input and a state of every kind; a normaliser n is a sum of positive terms."""
    generator = torch.Generator().manual_seed(100 * T + B)
    kind = {"generator": generator, "dtype": torch.float64}
    count = layer.num_layers * (1 + layer.bidirectional)
    x = torch.randn((B, T, D) if layer.batch_first else (T, B, D), **kind)
    widths = layer.variant.state_sizes(H)
    states = [torch.rand(count, B, width, **kind) + 0.5 * (name == "n") for name, width in widths.items()]
    dtype = next(layer.parameters()).dtype
    return tuple(tensor.to(dtype) for tensor in (x, *states))


class Function:
    """A layer's outputs, states and traces as a tuple, of its input, states and parameters in one flat list."""

    def __init__(self, layer: LSTM, **keywords: Any) -> None:
        self.layer, self.keywords = layer, keywords
        self.names, self.parameters = zip(*layer.named_parameters(), strict=True)
        self.states = len(layer.variant.cell.states)

    def __call__(self, *flat: Tensor) -> tuple[Tensor, ...]:
        if self.layer.generator is not None:
            self.layer.generator.manual_seed(2)
        split = 1 + self.states
        parameters = dict(zip(self.names, flat[split:], strict=True))
        return leaves(functional_call(self.layer, parameters, (flat[0], flat[1:split]), self.keywords))

    def point(self, T: int = 4, B: int = 2) -> tuple[Tensor, ...]:
        return tuple(t.detach().clone().requires_grad_() for t in (*draw(self.layer, T, B), *self.parameters))


class Flat:
    """A function as one of a single vector, with a single vector as result: one random projection tests it all."""

    def __init__(self, function: Function, T: int, B: int) -> None:
        self.function = function
        self.shapes = [tensor.shape for tensor in function.point(T, B)]
        self.point = torch.cat([tensor.detach().flatten() for tensor in function.point(T, B)]).requires_grad_()

    def __call__(self, vector: Tensor) -> Tensor:
        parts = vector.split([shape.numel() for shape in self.shapes])
        given = (part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True))
        return torch.cat([value.flatten() for value in self.function(*given)])


def leaves(result: Any) -> tuple[Tensor, ...]:
    return tuple(pytree.tree_leaves(result))


def weighed(values: Iterable[Tensor]) -> Tensor:
    """A loss in which every element counts differently."""
    terms = [(v * torch.linspace(-1, 1.3, v.numel(), dtype=v.dtype).sin().reshape(v.shape)).sum() for v in values]
    return torch.stack(terms).sum()


def gradients(values: Iterable[Tensor], inputs: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """The gradients of the weighed values; each must be somewhere nonzero, so that equal zeros cannot pass."""
    found = torch.autograd.grad(weighed(values), list(inputs))
    assert all(bool(gradient.any()) for gradient in found)
    return found


def assert_close(ours: Iterable[Tensor], theirs: Iterable[Tensor], tolerance: float = 1e-12) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        got, reference = a.detach().double(), b.detach().double()
        # Written so that a NaN fails.
        assert bool(((got - reference).abs() <= tolerance * max(1.0, reference.abs().max().item())).all())

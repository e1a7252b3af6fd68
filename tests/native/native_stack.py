"""A stack of layers as a module on the engine, and its gradients."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from gatewise import LSTM

BACKEND = "native"
T, B, D, H = 5, 3, 4, 6
BOTH: dict[str, Any] = {"num_layers": 2, "bidirectional": True}
# One of each way to keep a state: the plain two, one, four, the gates of the step before, and all the options at once.
CELLS: dict[str, dict[str, Any]] = {
    "lstm": {},
    "rnn": {"cell": "rnn"},
    "slstm": {"cell": "slstm"},
    "fgr": {"cell": "fgr"},
    "cifg": {"cell": "cifg", "clip": 0.8, "layer_norm": True},
    "peephole": {"cell": "peephole", "layer_norm": True, "proj_size": 3, "nonrecurrent_proj_size": 2},
}
LENGTHS = torch.tensor([3, 0, 5])
RESET = torch.zeros(T, B, dtype=torch.bool).index_put_((torch.tensor([1, 3]), torch.tensor([2, 0])), torch.tensor(True))

each_cell = pytest.mark.parametrize("cell", CELLS)
each_save = pytest.mark.parametrize("save", ["all", "states"])


def build(cell: str = "lstm", **options: Any) -> LSTM:
    """Build a stack all of whose parameters are random, those too that start as zeros or ones."""
    layer = LSTM(D, H, **(BOTH | CELLS[cell] | options), backend=BACKEND)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return layer


def draw(layer: LSTM, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Draw an input and a state that want gradients; a normaliser n is a sum of positive terms."""
    generator = torch.Generator().manual_seed(2)
    count = layer.num_layers * (1 + layer.bidirectional)
    x = torch.randn(T, B, D, generator=generator)
    widths = layer.variant.state_sizes(H)
    states = [torch.rand(count, B, width, generator=generator) + (name == "n") for name, width in widths.items()]
    return tuple(tensor.to(dtype).requires_grad_() for tensor in (x, *states))


def weighed(values: Iterable[Tensor]) -> Tensor:
    """A loss in which every element counts differently."""
    flat = torch.cat([value.flatten() for value in values])
    return (flat * torch.linspace(-1, 1.3, flat.numel(), dtype=flat.dtype).sin()).sum()


def run(layer: LSTM, **keywords: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Return all results, and the gradients of everything that wants one; none is all zeros."""
    x, *state = draw(layer)
    y, final, *_ = layer(x, tuple(state), **keywords)
    values = [y, *final]
    found = torch.autograd.grad(weighed(values), [x, *state, *layer.parameters()])
    assert all(bool(gradient.any()) for gradient in found)
    return values, list(found)


def accumulated(leaves: Iterable[Tensor]) -> list[Tensor]:
    """What backward() left at each leaf."""
    found = [leaf.grad for leaf in leaves]
    assert all(gradient is not None for gradient in found)
    return [gradient for gradient in found if gradient is not None]


def same_bits(a: Tensor, b: Tensor) -> bool:
    # As integers: -0 is not 0 then, and a NaN is itself.
    return torch.equal(a.detach().contiguous().view(torch.int32), b.detach().contiguous().view(torch.int32))


def scale(truth: Tensor) -> float:
    return max(1.0, truth.abs().max().item())


def error(ours: Tensor, truth: Tensor) -> float:
    assert ours.shape == truth.shape
    return (ours.double() - truth).abs().max().item()


def assert_same(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    assert [same_bits(a, b) for a, b in zip(ours, theirs, strict=True)] == [True] * len(theirs)


def assert_near(ours: Sequence[Tensor], peers: Sequence[Tensor], truth: Sequence[Tensor], bound: float = 2e-6) -> None:
    """Hold results to those in float64: within the bound, or twice the error that the reference has in float32."""
    for got, peer, exact in zip(ours, peers, truth, strict=True):
        # Written so that a NaN fails.
        assert error(got, exact) <= max(bound * scale(exact), 2 * error(peer, exact))


def assert_exact(call: Callable[[str, torch.dtype], Sequence[Tensor]], bound: float = 2e-6) -> None:
    """Hold the engine's results to what the reference gives for the same call."""
    ours, peers, truth = (
        call(BACKEND, torch.float32),
        call("reference", torch.float32),
        call("reference", torch.float64),
    )
    assert_near(ours, peers, truth, bound)


def assert_right_or_refused(call: Callable[[bool], list[Tensor]]) -> None:
    """Change something between forward and backward: what comes is as if nothing had been changed, or an error."""
    found: list[Tensor] | str
    try:
        found = call(True)
    except RuntimeError as refused:
        found = str(refused)
    if isinstance(found, str):
        assert "modified by an inplace operation" in found
    else:
        assert_same(found, call(False))

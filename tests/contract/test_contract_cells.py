"""Every cell × engine × dtype × shape: it serves as the reference does in float64, or it says why not."""

import itertools
from collections.abc import Iterator

import pytest
import torch

from gatewise import _native
from gatewise.errors import InputError
from gatewise.ops import BACKENDS, Direction, Weights, layer
from gatewise.reference import scan
from gatewise.spec import CELLS, Variant, variant

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.complex64]
ENGINES = [*(f"native.{isa}" for isa in _native.available_isas()), *(name for name in BACKENDS if name != "native")]
SHAPES = [(0, 2, 3, 4), (1, 1, 1, 1), (2, 0, 3, 4), (3, 1, 5, 7), (4, 5, 3, 16), (2, 3, 1, 33)]


def presented(row: Variant, shape: tuple[int, ...], gradient: bool) -> set[str]:
    """The obstacles of a call, by the words of ``gatewise.ops.support``."""
    found = {"gradient"} if gradient else set[str]()
    return found | ({"no steps"} if not shape[0] else set()) | (set() if row.vanilla else {"cell"})


def draw(row: Variant, shape: tuple[int, int, int, int]) -> list[torch.Tensor]:
    """x, the states and the weights."""
    T, B, D, H = shape
    generator = torch.Generator().manual_seed(0)
    states = [(B, size) for size in row.state_sizes(H).values()]
    sizes = [(T, B, D), *states, *row.shapes(D, H).values()]
    drawn = [torch.randn(size, generator=generator) / 2 for size in sizes]
    if "n" in row.cell.states:
        # A normaliser is a sum of positive weights; rounding errors are multiplied by one over it.
        drawn[1 + row.cell.states.index("n")].abs_().add_(0.5)
    return drawn


def call(row: Variant, tensors: list[torch.Tensor], reverse: bool) -> tuple[torch.Tensor, Direction]:
    count = len(row.cell.states)
    names = row.shapes(1, 1)
    weights = Weights(**dict(zip(names, tensors[1 + count :], strict=True)))
    return tensors[0], Direction(tuple(tensors[1 : 1 + count]), weights, reverse)


def gradients(
    row: Variant, tensors: list[torch.Tensor], reverse: bool, backend: str
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Run a call, and differentiate the sum of all that it gives, unequally weighed."""
    x, direction = call(row, tensors, reverse)
    y, (final,), _ = layer(x, [direction], row, backend=backend)
    outputs = [y, *final]
    loss = torch.stack([(out.double() * torch.linspace(-1, 1.3, out.numel()).view(out.shape)).sum() for out in outputs])
    return outputs, list(torch.autograd.grad(loss.sum(), tensors, allow_unused=True, materialize_grads=True))


def bound(dtype: torch.dtype, truth: torch.Tensor) -> float:
    return 16 * torch.finfo(dtype).eps * max(1.0, truth.abs().max().item() if truth.numel() else 0.0)


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a backend, on the instruction set that stands behind a dot if there is one."""
    name, _, isa = request.param.partition(".")
    former = _native.isa()
    if isa:
        _native.use_isa(isa)
    yield name
    _native.use_isa(former)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("backend", ENGINES, indirect=True)
@pytest.mark.parametrize("cell", CELLS)
def test_contract(cell: str, backend: str, dtype: torch.dtype, shape: tuple[int, int, int, int]):
    row, able = variant(cell), BACKENDS[backend]
    for gradient, reverse in itertools.product([False, True], [False, True]):
        leaf = gradient and dtype.is_floating_point
        tensors = [tensor.to(dtype).requires_grad_(leaf) for tensor in draw(row, shape)]
        x, direction = call(row, tensors, reverse)
        if dtype not in able.dtypes or presented(row, shape, leaf) & able.stopped_by:
            with pytest.raises(InputError, match=f"backend '{backend}' cannot serve this call"):
                layer(x, [direction], row, backend=backend)
            continue
        exact = [tensor.detach().double().requires_grad_(leaf) for tensor in tensors]
        if not leaf:
            y, (final,), _ = layer(x, [direction], row, backend=backend)
            start = call(row, exact, reverse)[1]
            truth = scan(exact[0], start.state, start.weights, row, reverse=reverse)
            check(dtype, [y, *final], [truth.y, *truth.state])
            continue
        ours, found = gradients(row, tensors, reverse, backend)
        theirs, wanted = gradients(row, exact, reverse, "reference")
        check(dtype, ours, theirs)
        plain = gradients(row, tensors, reverse, "reference")[1]
        for mine, peer, right in zip(found, plain, wanted, strict=True):
            assert mine.dtype == dtype
            off = (peer.double() - right).abs().max().item() if right.numel() else 0.0
            torch.testing.assert_close(mine.double(), right, rtol=0, atol=max(bound(dtype, right), 2 * off))


def check(dtype: torch.dtype, ours: list[torch.Tensor], truth: list[torch.Tensor]) -> None:
    for mine, theirs in zip(ours, truth, strict=True):
        assert mine.dtype == dtype
        torch.testing.assert_close(mine.detach().double(), theirs.detach(), rtol=0, atol=bound(dtype, theirs))


def test_the_native_backend_takes_every_cell_with_its_gradient():
    for cell, shape in itertools.product(CELLS, SHAPES):
        assert not presented(variant(cell), shape, True) & BACKENDS["native"].stopped_by

"""Every cell × backend × dtype × shape: a backend serves as the reference does in float64, or it says why not."""

import itertools

import pytest
import torch

from gatewise.errors import InputError
from gatewise.ops import BACKENDS, Direction, Weights, layer
from gatewise.reference import scan
from gatewise.spec import CELLS, Variant, variant

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.complex64]
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
        # A normaliser is a sum of positive weights.
        drawn[1 + row.cell.states.index("n")].abs_()
    return drawn


def call(row: Variant, tensors: list[torch.Tensor], reverse: bool) -> tuple[torch.Tensor, Direction]:
    count = len(row.cell.states)
    names = row.shapes(1, 1)
    weights = Weights(**dict(zip(names, tensors[1 + count :], strict=True)))
    return tensors[0], Direction(tuple(tensors[1 : 1 + count]), weights, reverse)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("backend", BACKENDS)
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
        y, (final,), _ = layer(x, [direction], row, backend=backend)
        exact, start = call(row, [tensor.detach().double() for tensor in tensors], reverse)
        truth = scan(exact, start.state, start.weights, row, reverse=reverse)
        for ours, theirs in zip((y, *final), (truth.y, *truth.state), strict=True):
            assert ours.dtype == dtype
            bound = 16 * torch.finfo(dtype).eps * max(1.0, theirs.abs().max().item() if theirs.numel() else 0.0)
            torch.testing.assert_close(ours.detach().double(), theirs, rtol=0, atol=bound)
        if leaf and shape[0] * shape[1]:
            (y.sum() + sum(part.sum() for part in final)).backward()
            assert all(tensor.grad is not None and tensor.grad.isfinite().all() for tensor in tensors)

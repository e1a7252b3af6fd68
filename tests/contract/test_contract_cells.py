"""Every cell × engine × dtype × shape: it serves as the reference does in float64, or it says why not."""

import itertools
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial

import pytest
import torch

from gatewise import _native
from gatewise.errors import InputError
from gatewise.ops import BACKENDS, Direction, Weights, layer
from gatewise.spec import CELLS, Variant, variant
from instruction_sets import ISAS, computed_on

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.complex64]
ENGINES = [*(f"native.{isa}" for isa in ISAS), *(name for name in BACKENDS if name != "native")]
WIDENED = {torch.float16: torch.float32, torch.bfloat16: torch.float32}
"""What the engine computes in instead, and rounds once; the other backends compute in half the width."""
UNSTEADY = {"rnn-relu", "slstm"}
"""Cells of whose gradients half the width leaves little: a sum next to a kink is rounded to its other side, and an
exponential multiplies roundings."""
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
    # Matrices as they are where a layer begins; larger ones multiply rounding errors, and it is luck whose are smaller.
    scales = [size[-1] ** -0.5 if n > len(states) and len(size) > 1 else 0.5 for n, size in enumerate(sizes)]
    drawn = [scale * torch.randn(size, generator=generator) for scale, size in zip(scales, sizes, strict=True)]
    if "n" in row.cell.states:
        # A normaliser is a sum of positive weights; rounding errors are multiplied by one over it.
        drawn[1 + row.cell.states.index("n")].abs_().add_(0.5)
    return drawn


def call(row: Variant, tensors: list[torch.Tensor], reverse: bool) -> tuple[torch.Tensor, Direction]:
    count = len(row.cell.states)
    names = row.shapes(1, 1)
    weights = Weights(**dict(zip(names, tensors[1 + count :], strict=True)))
    return tensors[0], Direction(tuple(tensors[1 : 1 + count]), weights, reverse)


def outcome(
    row: Variant, given: list[torch.Tensor], backend: str, dtype: torch.dtype, *, reverse: bool, gradient: bool
) -> dict[str, torch.Tensor]:
    """Run a call in a dtype, and differentiate if wanted the sum of all that it gives, unequally weighed."""
    tensors = [tensor.to(dtype).requires_grad_(gradient) for tensor in given]
    x, direction = call(row, tensors, reverse)
    y, (final,), _ = layer(x, [direction], row, backend=backend)
    outputs = dict(zip(["y", *row.cell.states], [y, *final], strict=True))
    found = {name: out.detach() for name, out in outputs.items()}
    if gradient:
        # By weights that the dtype of what was given holds, so that every dtype is asked for the same gradients.
        weights = [torch.linspace(-1, 1.3, out.numel()).to(given[0].dtype).view(out.shape) for out in found.values()]
        pairs = zip(outputs.values(), weights, strict=True)
        loss = torch.stack([(out.double() * weight).sum() for out, weight in pairs]).sum()
        slopes = torch.autograd.grad(loss, tensors, allow_unused=True, materialize_grads=True)
        names = ["x", *row.cell.states, *row.shapes(1, 1)]
        found |= {f"d {name}": slope for name, slope in zip(names, slopes, strict=True)}
    return found


def bound(dtype: torch.dtype) -> float:
    """As many roundings as 1e-6 are of float32; in float64 twice that, for the truth is rounded as often."""
    roundings = torch.finfo(dtype).eps / torch.finfo(torch.float32).eps
    return 1e-6 * roundings * (2 if dtype == torch.float64 else 1)


def scale(truth: torch.Tensor) -> float:
    return max(1.0, truth.abs().max().item()) if truth.numel() else 1.0


def error(ours: torch.Tensor, truth: torch.Tensor) -> float:
    return (ours.double() - truth).abs().max().item() if truth.numel() else 0.0


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a backend, on the instruction set that stands behind a dot if there is one."""
    name, _, isa = request.param.partition(".")
    with computed_on(isa) if isa else nullcontext():
        yield name


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("backend", ENGINES, indirect=True)
@pytest.mark.parametrize("cell", CELLS)
def test_contract(cell: str, backend: str, dtype: torch.dtype, shape: tuple[int, int, int, int]):
    row, able = variant(cell), BACKENDS[backend]
    given = [tensor.to(dtype) for tensor in draw(row, shape)]
    for gradient, reverse in itertools.product({False, dtype.is_floating_point}, [False, True]):
        run = partial(outcome, row, given, reverse=reverse, gradient=gradient)
        if dtype not in able.dtypes or presented(row, shape, gradient) & able.stopped_by:
            with pytest.raises(InputError, match=f"backend '{backend}' cannot serve this call"):
                run(backend, dtype)
            continue
        arithmetic = WIDENED.get(dtype, dtype) if backend == "native" else dtype
        values, exact = run(backend, dtype), run("reference", torch.float64)
        # Products of bfloat16 round the h that enters them, which at the first step is one of bfloat16 already. The
        # reference in bfloat16 rounds that, too, and all else besides.
        narrow = arithmetic != dtype == torch.bfloat16 and not gradient and _native.multiplies_bfloat16()
        rounder = run("reference", dtype) if narrow and shape[0] > 1 else exact
        for name, value in values.items():
            assert value.dtype == dtype
            if cell in UNSTEADY and name.startswith("d ") and arithmetic in WIDENED:
                continue
            truth = exact[name]
            assert value.shape == truth.shape
            off = max(bound(arithmetic) * scale(truth), 2 * error(rounder[name], truth))
            allowed = off + (arithmetic != dtype) * torch.finfo(dtype).eps / 2 * (truth.abs() + off)
            # Written so that a NaN fails.
            assert ((value.double() - truth).abs() <= allowed).all(), name


def test_the_native_backend_takes_every_cell_with_its_gradient():
    for cell, shape in itertools.product(CELLS, SHAPES):
        assert not presented(variant(cell), shape, True) & BACKENDS["native"].stopped_by

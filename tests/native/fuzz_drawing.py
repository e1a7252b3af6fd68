"""What the fuzzer of the engine draws from a seed, and how its results are compared."""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from native_problem import ISAS, Tensors, check_same_bits
from torch import Tensor

from gatewise import _native
from gatewise.ops import BACKENDS
from gatewise.reference.cell import SQUASH
from gatewise.spec import Gate, Variant

T = TypeVar("T")
Values = Callable[[torch.dtype, int], Tensors]
"""What the reference gives in a dtype, with the numbers moved unless the number is 0 (``Moved``)."""

SMALL, PEERS = 1e-6, 8
DTYPES = sorted(BACKENDS["native"].dtypes, key=str)
HALVES = [dtype for dtype in DTYPES if dtype.itemsize == 2]
"""Those in which nothing is computed: the engine widens what it is given to float32, and rounds its results once."""


class UnstableError(Exception):
    """The reference in float32, or half the width, has no digits left, so that there is nothing to compare with."""


class EdgeError(Exception):
    """Rounding decides on which side of a clip or a rectifier's edge a gate is, and so what the gradient is."""


class FarGradientError(AssertionError):
    """A gradient is too far off; all results that are not gradients are right."""


class Draw(random.Random):
    """Draws from a seed, and notes what was drawn for the one who must understand a failure.

    Args:
        seed: of the case.
    """

    def __init__(self, seed: int):
        super().__init__(seed)
        self.noted: dict[str, Any] = {}
        self.generator = torch.Generator().manual_seed(seed)

    def note(self, **facts: Any) -> None:
        """Remember facts of the case."""
        self.noted |= facts

    def flag(self, probability: float = 0.5) -> bool:
        return self.random() < probability

    def size(self, most: int) -> int:
        """A size from 1 on: small, around the width of vectors and tiles, or any."""
        drawn = self.choice([self.randint(1, 5), self.choice([7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 65]), most + 1])
        return drawn if drawn <= most else self.randint(1, most)

    def some(self, items: Sequence[T], probability: float = 0.7) -> list[T]:
        """At least one of these, if there are any, in their order."""
        found = [item for item in items if self.flag(probability)]
        return found or ([self.choice(items)] if items else [])

    def uniform_tensor(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator) * 2 - 1

    def lengths(self, rows: int, steps: int) -> list[int] | None:
        """None, all lengths, many rows of one or no length, or one row alone that takes a step or all."""
        if self.flag(0.4):
            return None
        if self.flag(0.1) and rows and steps:
            alone = self.randint(0, rows - 1)
            return [self.choice([1, steps]) if row == alone else 0 for row in range(rows)]
        few = [0, steps, self.randint(0, steps)]
        return [self.choice(few) if self.flag() else self.randint(0, steps) for _ in range(rows)]

    def reset(self, steps: int, rows: int) -> Tensor | None:
        if self.flag(0.5):
            return None
        rate = self.choice([0.0, 0.1, 0.5, 1.0])
        return torch.rand(steps, rows, generator=self.generator) < rate

    def layout(self, tensor: Tensor) -> Tensor:
        """A view with these values: its axes in any order in memory, steps between elements, an offset, or as it is.

        What lies between is NaN, or true.
        """
        if self.flag(0.4):
            return tensor
        axes = list(range(tensor.dim()))
        order = self.sample(axes, len(axes))
        steps = [self.choice([1, 1, 1, 2, 3]) for _ in order]
        offset = self.choice([0, 0, 1, 3, 5])
        moved = tensor.permute(order)
        between: float = math.nan if tensor.is_floating_point() else True
        memory = torch.full((offset + moved.numel() * math.prod(steps),), between, dtype=tensor.dtype)
        wide = memory[offset:].view([n * step for n, step in zip(moved.shape, steps, strict=True)])
        view = wide[tuple(slice(None, None, step) for step in steps)]
        view.copy_(moved)
        return view.permute([order.index(axis) for axis in axes])

    def expanded(self, tensor: Tensor) -> Tensor:
        """One axis of stride 0, or the tensor as it is."""
        axes = [axis for axis, size in enumerate(tensor.shape[:-1]) if size > 1]
        if not axes or self.flag(0.9):
            return tensor
        return tensor.narrow(self.choice(axes), 0, 1).expand(tensor.shape)

    def given_lengths(self, lengths: list[int] | None) -> Any:
        """Lengths as callers have them: a list, or a tensor of any whole dtype and layout."""
        if lengths is None or self.flag(0.3):
            return lengths
        kinds = [torch.int64, torch.int64, torch.int32, torch.int16]
        return self.layout(torch.tensor(lengths, dtype=self.choice(kinds)))

    def dtype(self, variant: Variant, hidden: int) -> torch.dtype:
        """Of what a cell of H units is given.

        Only float32 where all that a layer norm sees may be equal, by a clip or as the only one: there torch's own, the
        truth in float64, is off by what rounding leaves times one over the root of its epsilon.
        """
        drawn = self.choice(DTYPES)
        without_variance = variant.layer_norm and (variant.clip is not None or hidden == 1)
        return torch.float32 if without_variance else drawn


@contextmanager
def engine(case: Draw) -> Iterator[None]:
    """Have an instruction set and a number of threads in use, for a while."""
    isa, threads, former = case.choice(ISAS), case.choice([1, 1, 2, 3, 4]), _native.isa()
    case.note(isa=isa, threads=threads)
    _native.use_isa(isa)
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(1)
        _native.use_isa(former)


class Moved:
    """Moves numbers: errors of rounding, seen from outside.

    Every second one to the next float above or below, for the first seeds. All of them by about a thousand floats, for
    those after: a result that is one number, large or ill-conditioned, may be rounded well by luck in every neighbour.
    Of half the width always the next: it is farther away than that.
    """

    def __init__(self, seed: int):
        self._generator, self._far = torch.Generator().manual_seed(seed), seed > PEERS

    def __call__(self, tensor: Tensor) -> Tensor:
        if self._far and tensor.dtype not in HALVES:
            factor = 1 + (torch.rand(tensor.shape, generator=self._generator) - 0.5) * 2**-12
            # Floats also where doubles are asked for, so that both have the same numbers.
            return (tensor.float() * factor).to(tensor.dtype)
        draws = torch.randint(4, tensor.shape, generator=self._generator)
        up, down = (torch.nextafter(tensor, torch.full((), end, dtype=tensor.dtype)) for end in (math.inf, -math.inf))
        return torch.where(draws == 0, up, torch.where(draws == 1, down, tensor))


def compare(
    ours: Tensors, values: Values, factor: float, dtype: torch.dtype = torch.float32, *, between: bool = False
) -> None:
    """Hold the engine's results to the reference.

    In float32 within 1e-6 × max(1, max|float64|); else within three times ``factor`` times the largest error that the
    reference itself has in float32 over several runs, on the numbers as they are and moved. In float64 within twice the
    same, made as much smaller as its errors of rounding are: the reference is rounded there too. In half the width a
    result is what a float32 within those bounds is rounded to.

    Three times, because the largest error of a result is a draw, ours as the reference's, and minutes bring tens of
    thousands of them: of those off by more than 3e-7 one in a hundred is beyond ``factor``, one in some thousands
    beyond twice that.

    Args:
        ours: results by name.
        values: the reference.
        factor: what one case is held to: 2, or 3 where rounding errors are multiplied.
        dtype: of the results.
        between: whether numbers are rounded to half the width on their way through several layers. Then the reference
            is rounded there too, and its errors are taken in that dtype.

    Raises:
        AssertionError: a result is farther off, or of another shape or dtype; FarGradientError if only gradients are.
        UnstableError: a result is farther off than 1e-6, but the reference has less than three digits there.
    """
    truth = values(torch.float64, 0)
    smaller = 2 * torch.finfo(dtype).eps / torch.finfo(torch.float32).eps if dtype is torch.float64 else 1.0
    assert ours.keys() == truth.keys(), (ours.keys(), truth.keys())
    for name, value in ours.items():
        assert value.shape == truth[name].shape, f"{name}: {value.shape}, not {truth[name].shape}"
        assert value.dtype == dtype, f"{name}: {value.dtype}"
    names = [name for name in ours if not within(ours[name], truth[name], smaller * SMALL * scale(truth[name]))]
    if not names:
        return
    worst = errors(values, truth, names, dtype if between else torch.float32)
    # Gradients, whose names begin with a d, come last.
    for name in sorted(names, key=lambda name: name.startswith("d ")):
        if not worst[name] <= digits(dtype, between) * scale(truth[name]):
            raise UnstableError(name)
        bound = smaller * 3 * factor * worst[name]
        if not within(ours[name], truth[name], bound):
            kind = FarGradientError if name.startswith("d ") else AssertionError
            raise kind(f"{name} is off by {off(ours[name], truth[name]):.3g}, allowed is {bound:.3g}")


def errors(values: Values, truth: Tensors, names: Sequence[str], dtype: torch.dtype) -> dict[str, float]:
    """The largest error of the reference in a dtype: on the numbers as they are, beside them, and farther away."""
    worst = dict.fromkeys(names, 0.0)
    for seed in range(1 + 2 * PEERS):
        peer = values(dtype, seed)
        # Of neighbours in half the width the truth is another one, as it is farther away; else their move is an error.
        moved = seed > PEERS or (seed and dtype in HALVES)
        exact = values(torch.float64, seed) if moved else truth
        for name in names:
            found = scale(truth[name]) * off(peer[name], exact[name]) / scale(exact[name])
            # A NaN is not the largest of numbers.
            worst[name] = math.nan if math.isnan(found) else max(worst[name], found)
    return worst


def digits(dtype: torch.dtype, between: bool) -> float:
    """How far off the reference may be where there is something to compare with: three digits, or what a half has."""
    return max(1e-3, 16 * torch.finfo(dtype).eps) if between else 1e-3


def within(value: Tensor, truth: Tensor, bound: float) -> bool:
    """Whether no number is farther off; of half the width, whether a number no farther off is rounded to it."""
    if value.dtype not in HALVES:
        return off(value, truth) <= bound
    least, most = ((truth + end).to(value.dtype) for end in (-bound, bound))
    return bool(((least <= value) & (value <= most)).all())


def check_edges(ours: Tensors, truth: Tensors, variant: Variant) -> None:
    """Tell apart a gradient that is wrong from one on the other side of an edge.

    Args:
        ours: the traced gates of a call, by names that end with theirs.
        truth: those of the reference in float64.
        variant: the cell, whose gates have an edge at the bounds of its clip and where a rectifier begins.

    Raises:
        EdgeError: a gate is at an edge in one of them and not in the other, and all gates are right to three digits.
    """
    gates = {name: gate for name in ours for gate in variant.cell.learned if gate.name == name.rpartition(".")[-1]}
    if any(not off(ours[name], truth[name]) <= 1e-3 * scale(truth[name]) for name in gates):
        return
    for name, gate in gates.items():
        if not torch.equal(_at_edge(ours[name], gate, variant), _at_edge(truth[name], gate, variant)):
            raise EdgeError(name)


def _at_edge(value: Tensor, gate: Gate, variant: Variant) -> Tensor:
    squash = SQUASH[gate.squash]
    found = value == 0 if gate.squash == "relu" else torch.zeros_like(value, dtype=torch.bool)
    for bound in (-variant.clip, variant.clip) if variant.clip is not None else ():
        within, beyond = squash(torch.tensor([bound, 2 * bound], dtype=torch.float32))
        # No edge where the function is flat anyway. The engine's is within two units in the last place.
        if within != beyond:
            end = squash(torch.tensor(bound, dtype=value.dtype))
            found = found | ((value - end).abs() <= 4 * torch.finfo(value.dtype).eps * end.abs())
    return found


def scale(truth: Tensor) -> float:
    return max(1.0, truth.abs().max().item()) if truth.numel() else 1.0


def off(value: Tensor, truth: Tensor) -> float:
    """The largest difference; a NaN if there is one."""
    return (value.double() - truth).abs().max().item() if truth.numel() else 0.0


def same_bits(what: str, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """Refuse results that differ in a bit; ``what`` says what should not have made a difference."""
    try:
        check_same_bits(dict(ours), dict(theirs))
    except AssertionError as error:
        raise AssertionError(f"{what}: {error}") from None

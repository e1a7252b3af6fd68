"""One random layer with everything that can be asked of it, and the ways to run it and to compare what it gives."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import torch
from native_rows import row
from torch import Tensor

from gatewise import _native
from gatewise.ops import Direction, Noise, Result, Weights, layer
from gatewise.reference import over_time, traced_names
from gatewise.spec import Cell, Variant

BACKEND = "native"
ISAS = _native.available_isas()
FUSED = [isa for isa in ISAS if isa != "baseline"]
"""Those that multiply and add in one rounding, and agree to the bit."""
FAMILIES = [*FUSED[:1], "baseline"]
"""One of those, and the one that does not."""
DTYPES = [*((isa, torch.float32) for isa in ISAS), *((isa, torch.float64) for isa in FAMILIES)]

Way = Literal["forward", "backward", "both"]
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Outcome:
    """What a run gives: y, final states and traces, and the gradient of each leaf, all by name."""

    values: Tensors
    gradients: Tensors


@dataclass(frozen=True, eq=False)
class Problem:
    """The arguments of one call, and what its results are weighed by for the gradients."""

    variant: Variant
    x: Tensor
    directions: tuple[Direction, ...]
    lengths: Tensor | None
    reset: Tensor | None
    cotangents: Tensors

    def leaves(self) -> Tensors:
        """Everything that has a gradient, by name."""
        found = {"x": self.x}
        for n, direction in enumerate(self.directions):
            groups = {"state": direction.state, "start": direction.start or ()}
            for group, states in groups.items():
                names = zip(self.variant.cell.states, states, strict=bool(states))
                found |= {f"{n}.{group}.{name}": state for name, state in names}
            found |= {f"{n}.{name}": w for name, w in direction.weights._asdict().items() if w is not None}
        return found

    def map(self, change: Callable[[str, Tensor], Tensor]) -> "Problem":
        """Change every leaf and every mask; each change is told the tensor's name, without the direction."""

        def named(names: Iterable[str], tensors: Iterable[Tensor | None]) -> list[Any]:
            pairs = zip(names, tensors, strict=False)
            return [None if tensor is None else change(name, tensor) for name, tensor in pairs]

        states = self.variant.cell.states
        directions = tuple(
            Direction(
                tuple(named([f"state.{name}" for name in states], d.state)),
                Weights(*named(Weights._fields, d.weights)),
                d.reverse,
                None if d.start is None else tuple(named([f"start.{name}" for name in states], d.start)),
                Noise(*named([f"noise.{name}" for name in Noise._fields], d.noise)),
            )
            for d in self.directions
        )
        return replace(self, x=change("x", self.x), directions=directions)

    def to(self, dtype: torch.dtype) -> "Problem":
        """The same numbers as another dtype."""
        cast = self.map(lambda _, tensor: tensor.to(dtype))
        return replace(cast, cotangents={name: value.to(dtype) for name, value in self.cotangents.items()})

    def rows(self, which: list[int]) -> "Problem":
        """The same call with these rows of the batch, in this order."""

        def pick(name: str, tensor: Tensor) -> Tensor:
            if name == "x" or name in {"noise.h", "noise.c"}:
                return tensor[:, which]
            return tensor[which] if "." in name else tensor

        def cotangent(name: str, tensor: Tensor) -> Tensor:
            return tensor[which] if ".state." in name else tensor[:, which]

        return replace(
            self.map(pick),
            lengths=None if self.lengths is None else self.lengths[which],
            reset=None if self.reset is None else self.reset[:, which],
            cotangents={name: cotangent(name, value) for name, value in self.cotangents.items()},
        )

    def steps(self, start: int, stop: int) -> "Problem":
        """The same call from one step to another, all rows as long."""
        cut = self.map(lambda name, v: v[start:stop] if name in {"x", "noise.h", "noise.c"} else v)
        pairs = self.cotangents.items()
        return replace(
            cut,
            lengths=None,
            reset=None if self.reset is None else self.reset[start:stop],
            cotangents={name: value if ".state." in name else value[start:stop] for name, value in pairs},
        )

    def run(
        self, backend: str = BACKEND, dtype: torch.dtype | None = None, *, trace: bool = True, **options: Any
    ) -> Outcome:
        """Run it forward and backward, through all results at once, in its own dtype or another."""
        dtype = dtype or self.x.dtype
        # Not cloned: whatever strides and memory a test has given them stay.
        cast = self.map(lambda name, tensor: tensor.detach().to(dtype).requires_grad_("noise" not in name))
        values = cast.forward(backend, trace=trace, **options)
        outputs = {name: value for name, value in values.items() if value.requires_grad}
        leaves = cast.leaves()
        weights = [self.cotangents[name].to(dtype) for name in outputs]
        found = torch.autograd.grad(
            list(outputs.values()), list(leaves.values()), weights, allow_unused=True, materialize_grads=True
        )
        detached = {name: value.detach() for name, value in values.items()}
        return Outcome(detached, dict(zip(leaves, found, strict=True)))

    def forward(self, backend: str = BACKEND, *, trace: bool = False, **options: Any) -> Tensors:
        """Run it, with gradients only if a leaf wants one, and return its results by name."""
        result = layer(
            self.x,
            self.directions,
            self.variant,
            lengths=self.lengths,
            reset=self.reset,
            trace=trace,
            backend=backend,
            **options,
        )
        return named_values(self.variant, result)


def named_values(variant: Variant, result: Result) -> Tensors:
    """A layer's results by name."""
    values = {"y": result.y}
    for n, state in enumerate(result.states):
        values |= {f"{n}.state.{name}": v for name, v in zip(variant.cell.states, state, strict=True)}
    for n, traced in enumerate(result.traces):
        values |= {f"{n}.trace.{name}": value for name, value in traced.items()}
    return values


@cache
def draw(  # noqa: PLR0917 - the field's letters in their order
    cell: str | Cell,
    T: int,
    B: int,
    D: int,
    H: int,
    way: Way = "forward",
    *,
    lengths: tuple[int, ...] | None = None,
    reset: Literal["some", "first", "all"] | None = None,
    start: bool = False,
    noise: tuple[Literal["recurrent", "h", "c", "expected"], ...] = (),
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> Problem:
    """Draw a problem.

    Args:
        cell: a row of the table or of ``native_rows``.
        T: the number of steps.
        B: the number of rows.
        D: the width of the input.
        H: the width of the cell.
        way: the directions of time.
        lengths: how many steps of each row count.
        reset: where rows restart: at some steps, the first, or at every one.
        start: whether they restart from states that have a gradient.
        noise: the masks; "expected" is zoneout of h and c as in evaluation, one number at all places.
        seed: for another problem of the same shape.
        dtype: float64 for the same numbers in float64.
        options: of the cell.
    """
    variant = row(cell, **options)
    generator = torch.Generator().manual_seed(seed + T + 10 * B + 100 * D + 1000 * H)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator) * 2 - 1

    def weight(name: str, shape: tuple[int, ...]) -> Tensor:
        if name.startswith("weight_ln"):
            return 1 + uniform(*shape) / 2
        return uniform(*shape) * (shape[-1] ** -0.5 if len(shape) > 1 else 0.7)

    def state() -> tuple[Tensor, ...]:
        # A normaliser is a sum of positive weights, and a gate is mostly between zero and one.
        sizes = variant.state_sizes(H).items()
        return tuple(uniform(B, n).abs() + 0.5 if name not in "hcm" else 1.5 * uniform(B, n) for name, n in sizes)

    def masks() -> Noise:
        kept = {name: (uniform(*shape) < 0.4).float() for name, shape in places.items() if name in noise}
        if "recurrent" in kept:
            kept["recurrent"] /= 0.7
        if "expected" in noise:
            kept |= {name: torch.full((1, 1, 1), 0.8).expand(places[name]) for name in ("h", "c") if name in places}
        return Noise(**kept)

    sizes = variant.state_sizes(H)
    places = {"recurrent": (B, sizes["h"]), **{name: (T, B, sizes[name]) for name in ("h", "c") if name in sizes}}
    x = uniform(T, B, D)
    directions = tuple(
        Direction(
            state(),
            Weights(**{name: weight(name, shape) for name, shape in variant.shapes(D, H).items()}),
            reverse,
            state() if start else None,
            masks(),
        )
        for reverse in {"forward": [False], "backward": [True], "both": [False, True]}[way]
    )
    restart = None if reset is None else uniform(T, B) < {"some": -0.4, "first": -1.0, "all": 2.0}[reset]
    if reset == "first" and restart is not None:
        restart[:1] = True
    shapes = over_time(x, directions[0].state, directions[0].weights, variant)
    cotangents = {"y": uniform(T, B, variant.output_size(H) * len(directions))}
    for n in range(len(directions)):
        cotangents |= {f"{n}.state.{name}": uniform(B, size) for name, size in sizes.items()}
        cotangents |= {f"{n}.trace.{name}": uniform(*shapes[name]) for name in traced_names(variant)}
    counts = None if lengths is None else torch.tensor(lengths, dtype=torch.int64)
    return Problem(variant, x, directions, counts, restart, cotangents).to(dtype)


@cache
def exact(problem: Problem, *, trace: bool = True) -> Outcome:
    """What the equations give in float64."""
    return problem.run("reference", torch.float64, trace=trace)


@cache
def singles(problem: Problem, *, neighbours: int | None = None, trace: bool = True) -> list[Outcome]:
    """What the reference gives in float32.

    Where rounding errors are multiplied, one run alone may be exact by luck; there it also runs with numbers moved to
    the next float32, three times if not told otherwise.
    """
    problem = problem.to(torch.float32)
    times = 3 * multiplies(problem.variant) if neighbours is None else neighbours
    moved = [problem.map(_Neighbours(seed)) for seed in range(times)]
    return [given.run("reference", trace=trace) for given in (problem, *moved)]


class _Neighbours:
    """Moves every second number to the next one above or below."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        if "noise" in name:
            return tensor
        draws = torch.randint(4, tensor.shape, generator=self.generator)
        up, down = (torch.nextafter(tensor, torch.tensor(end)) for end in (torch.inf, -torch.inf))
        return torch.where(draws == 0, up, torch.where(draws == 1, down, tensor))


def rounding(problem: Problem, truth: Outcome | None = None, peers: list[Outcome] | None = None) -> dict[str, float]:
    """How far off the float32 reference is, by name; gradients have a d before their names."""
    truth, peers = truth or exact(problem), peers or singles(problem)
    values = {name: max(error(peer.values[name], v) for peer in peers) for name, v in truth.values.items()}
    pairs = truth.gradients.items()
    return values | {f"d {name}": max(error(peer.gradients[name], d) for peer in peers) for name, d in pairs}


def check(problem: Problem, ours: Outcome, truth: Outcome | None = None, peers: list[Outcome] | None = None) -> None:
    """Hold values to the bound of short sequences, and gradients to that or twice the float32 reference's error.

    Where rounding errors are multiplied, both are held to the latter.
    """
    truth = truth or exact(problem)
    off, factor = rounding(problem, truth, peers), factor_of(problem.variant)
    assert ours.values.keys() <= truth.values.keys()
    assert ours.gradients.keys() == truth.gradients.keys()
    for name, value in ours.values.items():
        theirs = truth.values[name]
        check_one(name, value, theirs, max(1e-6 * scale(theirs), factor * off[name] * multiplies(problem.variant)))
    for name, gradient in ours.gradients.items():
        check_gradient(name, gradient, truth.gradients[name], factor / 2 * off[f"d {name}"])


def multiplies(variant: Variant) -> bool:
    """Whether a cell makes rounding errors larger: layer norm by one over a row's deviation, exp by its value."""
    return variant.layer_norm or any(gate.squash == "exp" for gate in variant.cell.learned)


def factor_of(variant: Variant) -> int:
    """How much farther off than the float32 reference the engine may be.

    Its sums are in a fixed order and less exact than torch's, which are of parts; it shows where that is multiplied.
    """
    return 3 if multiplies(variant) else 2


def check_gradient(name: str, ours: Tensor, theirs: Tensor, off: float) -> None:
    check_one(f"d {name}", ours, theirs, max(1e-6 * scale(theirs), 2 * off))


def check_one(name: str, ours: Tensor, theirs: Tensor, bound: float) -> None:
    """Hold a tensor to a bound for float32, or in float64 to what that is there.

    Rounding errors are as many times smaller as the dtype's; twice that, for the truth is rounded as often.
    """
    assert ours.shape == theirs.shape, name
    assert ours.dtype in {torch.float32, torch.float64}, name
    if ours.dtype == torch.float64:
        bound *= 2 * torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
    off = error(ours, theirs)
    # Written so that a NaN fails.
    assert off <= bound, f"{name} is off by {off:.3g}, allowed is {bound:.3g}"


def scale(truth: Tensor) -> float:
    return max(1.0, truth.abs().max().item()) if truth.numel() else 1.0


def error(ours: Tensor, theirs: Tensor) -> float:
    return (ours.double() - theirs).abs().max().item() if theirs.numel() else 0.0


def check_same_bits(ours: Tensors, theirs: Tensors, names: Iterable[str] | None = None) -> None:
    """Compare all of these tensors, or those of the given names, bit for bit."""
    if names is None:
        assert ours.keys() == theirs.keys()
    for name in theirs if names is None else names:
        assert ours[name].shape == theirs[name].shape, name
        # As integers: -0 is not 0 then, and a NaN is itself.
        other = bits(ours[name]) != bits(theirs[name])
        assert not other.any(), f"{name} differs in {other.sum()} of {other.numel()} at {other.nonzero()[0].tolist()}"


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])

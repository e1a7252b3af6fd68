"""The bits of a row's results depend on nothing but the row: not on its batch, cuts, padding, threads or memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from native_narrow import NARROW, narrow
from native_problem import DTYPES, FUSED, Outcome, Problem, Tensors, check_same_bits, draw
from native_rows import EVERY, name_of
from torch import Tensor

from gatewise.spec import Cell
from instruction_sets import computed_on

T, B, D, H = 7, 19, 5, 20
LENGTHS = (3, 7, 0, 7, 1, 5, 2, 6, 6, 4, 0, 7, 7, 3, 2, 5, 1, 4, 7)
EVERYTHING: dict[str, Any] = {"reset": "some", "start": True, "noise": ("recurrent", "h", "c")}

CASES: list[tuple[str | Cell, dict[str, Any]]] = [
    *((cell, {}) for cell in EVERY),
    ("lstm", {"layer_norm": True, "peephole": True}),
    ("lstm", {"proj_size": 7, "nonrecurrent_proj_size": 3, "clip": 0.8, **EVERYTHING}),
    ("cifg", {"layer_norm": True, "proj_size": 17, **EVERYTHING}),
    ("fgr", EVERYTHING),
    ("rnn", EVERYTHING),
    ("slstm", {"clip": 0.8, "reset": "some", "start": True}),
]


def show(value: object) -> str:
    return name_of(value) if isinstance(value, str | Cell) else " ".join(value) if isinstance(value, dict) else ""


@dataclass(frozen=True)
class Numbers:
    """What is computed with; products of bfloat16 are behind float32 tensors, and have no gradients."""

    dtype: torch.dtype

    def draw(self, *arguments: Any, **options: Any) -> Problem:
        return draw(*arguments, **options, dtype=torch.float32 if self.narrow else self.dtype)

    def run(self, problem: Problem, **options: Any) -> Outcome:
        return Outcome(narrow(problem, trace=True), {}) if self.narrow else problem.run(**options)

    def forward(self, problem: Problem, *, trace: bool = False) -> Tensors:
        return narrow(problem, trace=trace) if self.narrow else problem.forward(trace=trace)

    @property
    def narrow(self) -> bool:
        return self.dtype == torch.bfloat16


@pytest.fixture(
    params=[*DTYPES, *((isa, torch.bfloat16) for isa in NARROW)], ids=lambda pair: f"{pair[0]}-{str(pair[1])[6:]}"
)
def numbers(request: pytest.FixtureRequest) -> Iterator[Numbers]:
    isa, dtype = request.param
    with computed_on(isa):
        yield Numbers(dtype)


every_case = pytest.mark.parametrize(("cell", "wanted"), CASES, ids=show)

# Across the ends of chunks of eight rows; alone, repeated, turned around, more rows than there were.
CHOICES = [[0], [8], [18], [17, 3, 3], list(range(18, -1, -1)), [*range(19), *range(19)]]


def owned(outcome: Outcome) -> list[str]:
    """The leaves of which each row has its own part."""
    return [name for name in outcome.gradients if name == "x" or "state" in name or "start" in name]


def picked(name: str, value: Tensor, which: list[int]) -> Tensor:
    return value[which] if "state" in name or "start" in name else value[:, which]


@every_case
def test_other_rows_and_places_in_the_batch(cell: str | Cell, wanted: dict[str, Any], numbers: Numbers):
    problem = numbers.draw(cell, T, B, D, H, "both", **wanted)
    whole = numbers.run(problem)
    for which in CHOICES:
        some = problem.rows(which)
        ours = numbers.run(some)
        check_same_bits(ours.values, {name: picked(name, v, which) for name, v in whole.values.items()})
        check_same_bits(
            ours.gradients, {name: picked(name, whole.gradients[name], which) for name in owned(ours)}, owned(ours)
        )
        plain = numbers.forward(some)
        check_same_bits(plain, ours.values, plain)


@every_case
def test_padding_and_lengths(cell: str | Cell, wanted: dict[str, Any], numbers: Numbers):
    padded = numbers.draw(cell, T, B, D, H, "both", lengths=LENGTHS, **wanted)
    ours = numbers.run(padded)
    for length in sorted(set(LENGTHS)):
        which = [b for b, n in enumerate(LENGTHS) if n == length]
        cut = numbers.run(padded.rows(which).steps(0, length))
        for name, value in cut.values.items():
            mine = picked(name, ours.values[name], which)
            check_same_bits({name: mine if "state" in name else mine[:length]}, {name: value})
        for name in owned(cut):
            mine = picked(name, ours.gradients[name], which)
            check_same_bits({name: mine[:length] if name == "x" else mine}, {name: cut.gradients[name]})


@every_case
@pytest.mark.parametrize("way", ["forward", "backward"])
def test_cuts_in_time(cell: str | Cell, wanted: dict[str, Any], way: Any, numbers: Numbers):
    # In reverse a reset is one of the step before it, which a cut between the two would part.
    wanted = wanted if way == "forward" else {k: v for k, v in wanted.items() if k not in {"reset", "start"}}
    problem = numbers.draw(cell, T, B, D, H, way, **wanted)
    whole = numbers.run(problem).values
    for cuts in ([0, 3, T], list(range(T + 1))):
        check_same_bits(run_in_pieces(problem, cuts, lambda piece: numbers.run(piece).values), whole)
        check_same_bits(run_in_pieces(problem, cuts, lambda piece: numbers.forward(piece, trace=True)), whole)


def run_in_pieces(problem: Problem, cuts: list[int], run: Callable[[Problem], dict[str, Tensor]]) -> dict[str, Tensor]:
    (direction,) = problem.directions
    pieces = list(pairwise(cuts))
    found: dict[tuple[int, int], dict[str, Tensor]] = {}
    last: dict[str, Tensor] = {}
    for start, stop in reversed(pieces) if direction.reverse else pieces:
        cut = problem.steps(start, stop)
        found[start, stop] = last = run(replace(cut, directions=(cut.directions[0]._replace(state=direction.state),)))
        direction = direction._replace(state=tuple(last[f"0.state.{name}"] for name in problem.variant.cell.states))
    return {name: v if "state" in name else torch.cat([found[p][name] for p in pieces]) for name, v in last.items()}


DEEP: list[tuple[str, tuple[int, int, int, int], Any]] = [
    ("lstm", (70, 1, 33, 17), "forward"),
    ("cifg", (70, 2, 33, 17), "backward"),
    ("lstm", (3, 9, 2300, 5), "forward"),
    ("fgr", (3, 2, 17, 350), "backward"),
    ("lstm", (37, 2, 140, 17), "backward"),
]


@pytest.mark.parametrize(("cell", "shape", "way"), DEEP, ids=str)
def test_cuts_and_rows_where_work_is_done_in_pieces(
    cell: str, shape: tuple[int, int, int, int], way: Any, numbers: Numbers
):
    """Many steps of few rows, and sums that are too deep for a cache."""
    problem = numbers.draw(cell, *shape, way)
    whole = numbers.run(problem).values
    last = shape[0]
    for cuts in ([0, 1, last], [0, last - 2, last - 1, last]):
        check_same_bits(run_in_pieces(problem, cuts, lambda piece: numbers.forward(piece, trace=True)), whole)
    for which in ([0], [shape[1] - 1] * 12):
        some = numbers.run(problem.rows(which)).values
        check_same_bits(some, {name: picked(name, value, which) for name, value in whole.items()})


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    former = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(former)


THREADED: list[tuple[str | Cell, tuple[int, int, int, int], dict[str, Any]]] = [
    *((cell, (4, 25, 5, 20), {}) for cell in EVERY),
    *((cell, (5, 33, 5, 20), {**wanted, "lengths": (5, 0, 3) * 11}) for cell, wanted in CASES[len(EVERY) :]),
    ("lstm", (3, 1, 33, 100), {}),
    ("lstm", (2, 8, 100, 33), {}),
    ("lstm", (2, 100, 17, 64), {}),
    ("fgr", (3, 9, 3, 100), {}),
    ("lstm", (3, 33, 130, 130), {"lengths": (3, 0, 2) * 11, "layer_norm": True}),
]


@pytest.mark.parametrize(("cell", "shape", "wanted"), THREADED, ids=show)
def test_threads(
    threads: Callable[[int], None],
    cell: str | Cell,
    shape: tuple[int, int, int, int],
    wanted: dict[str, Any],
    numbers: Numbers,
):
    problem = numbers.draw(cell, *shape, "both", **wanted)
    alone = numbers.run(problem)
    for count in (2, 3):
        threads(count)
        for save in ("all", "states"):
            ours = numbers.run(problem, save=save)
            check_same_bits(ours.values, alone.values)
            check_same_bits(ours.gradients, alone.gradients)
        plain = numbers.forward(problem)
        check_same_bits(plain, alone.values, plain)


@pytest.mark.skipif(len(FUSED) < 2, reason="this processor has only one instruction set that fuses")
@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("hidden", [1, 7, 16, 33])
def test_instruction_sets_that_fuse(cell: str | Cell, wanted: dict[str, Any], hidden: int, dtype: torch.dtype):
    problem = draw(cell, 5, 9, D, hidden, "both", lengths=(5, 0, 3) * 3, dtype=dtype, **wanted)
    results: list[Outcome] = []
    for isa in FUSED:
        with computed_on(isa):
            results.append(problem.run())
    for other in results[1:]:
        check_same_bits(other.values, results[0].values)
        check_same_bits(other.gradients, results[0].gradients)


def _wide(v: Tensor) -> Tensor:
    """A part of a larger tensor, with NaN around."""
    wide = torch.full((*(n + 2 for n in v.shape[:-1]), v.shape[-1] + 5), torch.nan, dtype=v.dtype)
    part = wide[tuple(slice(1, n + 1) for n in v.shape)]
    return part.copy_(v)


def _second(v: Tensor) -> Tensor:
    return torch.stack([v, v * torch.nan], dim=-1)[..., 0]


def _batch_major(v: Tensor) -> Tensor:
    return v.transpose(0, 1).contiguous().transpose(0, 1) if v.dim() > 1 else v


def _column_major(v: Tensor) -> Tensor:
    return v.transpose(0, -1).contiguous().transpose(0, -1)


@pytest.mark.parametrize("change", [_wide, _second, _batch_major, _column_major])
@pytest.mark.parametrize(("cell", "wanted"), [*CASES[: len(EVERY) : 5], *CASES[len(EVERY) :]], ids=show)
def test_strides(cell: str | Cell, wanted: dict[str, Any], change: Callable[[Tensor], Tensor], dtype: torch.dtype):
    problem = draw(cell, T, B, D, H, "both", dtype=dtype, **wanted)
    plain = problem.run()
    moved = problem.map(lambda _, tensor: change(tensor))
    moved = replace(moved, cotangents={name: change(value) for name, value in problem.cotangents.items()})
    moved = replace(moved, reset=None if problem.reset is None else _batch_major(problem.reset))
    assert not all(leaf.is_contiguous() for leaf in moved.leaves().values())
    ours = moved.run()
    check_same_bits(ours.values, plain.values)
    check_same_bits(ours.gradients, plain.gradients)
    check_same_bits(moved.forward(), plain.values, moved.forward())


@pytest.mark.parametrize("cell", ["lstm", "fgr", "slstm", "rnn"])
@pytest.mark.usefixtures("isa")
def test_expanded_tensors(cell: str):
    """Inputs, states and cotangents with strides of zero, as a sum's gradient is."""
    problem = draw(cell, T, B, D, H, "both")

    def flat(v: Tensor) -> Tensor:
        return v[:1, ..., :1].expand(v.shape)

    expanded = problem.map(lambda name, v: flat(v) if name == "x" or "state" in name else v)
    expanded = replace(expanded, cotangents={name: flat(value) for name, value in problem.cotangents.items()})
    dense = expanded.map(lambda _, v: v.contiguous())
    dense = replace(dense, cotangents={name: value.contiguous() for name, value in expanded.cotangents.items()})
    ours, theirs = expanded.run(), dense.run()
    check_same_bits(ours.values, theirs.values)
    check_same_bits(ours.gradients, theirs.gradients)


@every_case
def test_a_call_leaves_nothing_behind(cell: str | Cell, wanted: dict[str, Any], dtype: torch.dtype):
    """Buffers are kept from call to call: other sizes, and NaN in all of them, must not show in the next one."""
    problem = draw(cell, T, B, D, H, "both", dtype=dtype, **wanted)
    first = problem.run()
    spoilt = draw(cell, T + 2, B + 9, D + 3, H + 13, "both", dtype=dtype, **wanted)
    spoilt.map(lambda _, v: v * torch.nan).run()
    draw(cell, 2, 3, 2, 3, "backward").run()
    ours = problem.run()
    check_same_bits(ours.values, first.values)
    check_same_bits(ours.gradients, first.gradients)

"""A thousand steps, saturated gates, numbers without end and numbers that are none."""

import math
from typing import Any

import pytest
import torch
from native_problem import (
    Outcome,
    Problem,
    Way,
    check,
    check_one,
    check_same_bits,
    draw,
    exact,
    factor_of,
    rounding,
    scale,
)
from native_rows import EVERY, ROWS, name_of, row_of
from torch import Tensor

from gatewise.spec import CELLS, Cell, Option

B, D, H = 9, 5, 17
every_cell = pytest.mark.parametrize("cell", EVERY, ids=name_of)

# What grows without bound over a thousand steps is left out.
STEADY: list[str | Cell] = [
    *(name for name in CELLS if name not in {"nig", "nfg", "lstm-1997", "niaf"}),
    *(cell for cell in ROWS if cell.name in {"native-cfig", "native-rnn", "native-slstm"}),
]


def show(value: object) -> str:
    return name_of(value) if isinstance(value, Cell) else str(value)


def check_all(ours: Outcome, truth: Outcome, off: dict[str, float], floor: float = 1e-6, factor: float = 2) -> None:
    """At most so much farther from the truth than the peers, where those are finite; the floor is always granted."""
    assert math.isfinite(off["y"])
    values = {**ours.values, **{f"d {name}": gradient for name, gradient in ours.gradients.items()}}
    theirs = {**truth.values, **{f"d {name}": gradient for name, gradient in truth.gradients.items()}}
    for name, value in values.items():
        if math.isfinite(off[name]):
            check_one(name, value, theirs[name], max(floor * scale(theirs[name]), factor * off[name]))


@pytest.mark.parametrize("way", ["forward", "backward"])
@pytest.mark.parametrize("hidden", [16, 33])
def test_a_thousand_steps_are_as_exact_as_torchs(way: Way, hidden: int, dtype: torch.dtype):
    problem = draw("lstm", 1000, 3, D, hidden, way, dtype=dtype)
    truth = problem.run("reference", torch.float64, trace=False)
    torchs = problem.run("torch", torch.float32, trace=False)
    check_all(problem.run(trace=False), truth, rounding(problem, truth, [torchs]))


@pytest.mark.parametrize("cell", STEADY, ids=name_of)
def test_long_sequences_are_as_exact_as_the_reference(cell: str | Cell, dtype: torch.dtype):
    problem = draw(cell, 200, 3, D, H, dtype=dtype)
    check_all(problem.run(), exact(problem), rounding(problem), factor=factor_of(problem.variant))


def test_long_padded_sequences_with_restarts(dtype: torch.dtype):
    lengths = (300, 3, 0, 299, 150, 1, 77, 300, 8)
    problem = draw("lstm", 300, B, 3, 7, "both", lengths=lengths, reset="some", start=True, dtype=dtype)
    check(problem, problem.run())


SIGNS = ["up", "down", "mixed"]


def pushed(cell: str | Cell, size: float, signs: str, **options: Any) -> Problem:
    """Have every pre-activation at ±size or up to twice as far, by the biases."""
    generator = torch.Generator().manual_seed(7)

    def change(name: str, tensor: Tensor) -> Tensor:
        if name != "bias_ih":
            return tensor
        mixed = torch.randint(2, tensor.shape, generator=generator) * 2 - 1
        far = size * (1 + torch.rand(tensor.shape, generator=generator))
        return tensor + far * {"up": 1, "down": -1, "mixed": mixed}[signs]

    return draw(cell, 4, B, D, H, "both", **options).map(change)


# Squashes without bounds make infinities of such biases; they have tests of their own.
BOUNDED: list[str | Cell] = [*CELLS, *(cell for cell in ROWS if cell.name in {"native-rnn"})]
SATURATED: list[tuple[str | Cell, dict[str, Any]]] = [
    *((cell, {}) for cell in BOUNDED if cell != "niaf"),
    # A candidate of 100 at each step, seen through peepholes, leaves the other gates anywhere.
    ("niaf", {"peephole": False}),
    *((cell, {"clip": 20.0}) for cell in ("lstm", "rnn-relu", "fgr", "slstm", *ROWS)),
    ("lstm", {"proj_size": 5, "nonrecurrent_proj_size": 2, "peephole": True}),
    ("cifg", {"lengths": (4, 0, 3, 2, 4, 1, 3, 4, 2), "reset": "some", "start": True}),
]


@pytest.mark.parametrize("size", [50.0, 1e30])
@pytest.mark.parametrize("signs", SIGNS)
@pytest.mark.parametrize(("cell", "options"), SATURATED, ids=show)
def test_gates_saturated_by_their_biases(
    cell: str | Cell, options: dict[str, Any], size: float, signs: str, dtype: torch.dtype
):
    problem = pushed(cell, size, signs, **options).to(dtype)
    ours = problem.run()
    check_all(ours, exact(problem), rounding(problem), floor_of(size), factor=3)
    check_same_bits(problem.run(save="states").gradients, ours.gradients)


def floor_of(size: float) -> float:
    """Biases of up to 100 round every partial sum at their own scale; with 1e30 gates are exactly open or shut."""
    return 1e-6 * (2 * size if size < 1e3 else 1)


@pytest.mark.parametrize("size", [50.0, 1e30])
@pytest.mark.parametrize("cell", [*BOUNDED], ids=name_of)
def test_gates_saturated_by_the_input(cell: str | Cell, size: float, dtype: torch.dtype):
    problem = draw(cell, 5, B, D, H, "both").map(lambda name, tensor: tensor * size if name == "x" else tensor)
    problem = problem.to(dtype)
    check_all(problem.run(), exact(problem), rounding(problem), floor_of(size), factor=3)


@every_cell
def test_gradients_of_any_size(cell: str | Cell, dtype: torch.dtype):
    """Cotangents of 1e-30 and of 1e30, or as far out in float64: nothing overflows on the way or is flushed to zero."""
    problem = draw(cell, 5, B, D, H, "both", dtype=dtype)
    truth, far = exact(problem).gradients, 2.0 ** {torch.float32: 100, torch.float64: 900}[dtype]
    for size in (1 / far, far):
        scaled = Problem(**{**vars(problem), "cotangents": {n: v * size for n, v in problem.cotangents.items()}})
        for name, gradient in scaled.run().gradients.items():
            check_one(name, gradient / size, truth[name], 4e-6 * scale(truth[name]))


WITH: list[tuple[Option, dict[str, Any]]] = [
    ("clip", {}),
    ("clip", {"clip": 0.5}),
    ("layer_norm", {"layer_norm": True}),
    ("projection", {"proj_size": 5, "nonrecurrent_proj_size": 3}),
]
SPOILT = [(cell, options) for needed, options in WITH for cell in EVERY if needed in row_of(cell).options]


@pytest.mark.parametrize(("cell", "options"), SPOILT, ids=show)
def test_a_nan_stays_in_its_row(cell: str | Cell, options: dict[str, Any], dtype: torch.dtype):
    problem = draw(cell, 5, B, D, H, "both", dtype=dtype, **options)
    clean, own = problem.run(), {"x", *(name for name in exact(problem).gradients if "state" in name)}
    for row in (0, 4, 8):
        x = problem.x.clone()
        x[2, row, 3] = torch.nan
        spoilt = Problem(**{**vars(problem), "x": x}).run()
        others = [b for b in range(B) if b != row]
        for ours, theirs, names in (
            (spoilt.values, clean.values, set(clean.values)),
            (spoilt.gradients, clean.gradients, own),
        ):
            for name in names:
                axis = 0 if "state" in name else 1
                a, b = (v.index_select(axis, torch.tensor(others)) for v in (ours[name], theirs[name]))
                check_same_bits({name: a}, {name: b})
        half = spoilt.values["y"].shape[2] // 2
        assert spoilt.values["y"][2:, row, :half].isnan().any(-1).all()
        assert spoilt.values["y"][:3, row, half:].isnan().any(-1).all()
        assert spoilt.values["y"][:2, row, :half].isfinite().all()
        assert spoilt.gradients["0.weight_ih"].isnan().any()


@every_cell
def test_where_the_reference_has_nan_or_infinity(cell: str | Cell, dtype: torch.dtype):
    """Infinities of both signs and NaN at some inputs and states: the same places, the same signs."""
    problem = draw(cell, 3, B, D, H, dtype=dtype)
    x, (h, *rest) = problem.x.clone(), problem.directions[0].state
    for row, value in ((0, torch.inf), (3, -torch.inf), (7, torch.nan)):
        x[1, row, row % D] = value
    h = h.clone()
    h[8, 2] = torch.inf
    (direction,) = problem.directions
    spoilt = Problem(**{**vars(problem), "x": x, "directions": (direction._replace(state=(h, *rest)),)})
    ours, theirs = spoilt.forward(trace=True), spoilt.forward("reference", trace=True)
    for name, value in theirs.items():
        assert torch.equal(value.isnan(), ours[name].isnan()), name
        assert torch.equal(value.isposinf(), ours[name].isposinf()), name
        assert torch.equal(value.isneginf(), ours[name].isneginf()), name


@every_cell
def test_subnormal_numbers(cell: str | Cell, dtype: torch.dtype):
    size = {torch.float32: 1e-40, torch.float64: 1e-310}[dtype]
    problem = draw(cell, 5, B, D, H, "both", dtype=dtype).map(
        lambda name, tensor: (
            tensor * size if name == "x" or "bias" in name or name in {"state.h", "state.c"} else tensor
        )
    )
    check(problem, problem.run())

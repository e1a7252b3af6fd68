"""Every option and argument, alone and in company, with every cell for which it is defined."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from native_problem import (
    Outcome,
    Problem,
    Way,
    check,
    check_gradient,
    check_one,
    check_same_bits,
    draw,
    error,
    exact,
    rounding,
    scale,
    singles,
)
from native_rows import EVERY, name_of, row_of
from torch import Tensor

from gatewise.errors import InputError
from gatewise.spec import Cell, Option

T, B, D, H = 4, 9, 5, 17
SHUFFLED = (2, 4, 0, 1, 4, 3, 0, 3, 4)
NOISY: dict[str, Any] = {"noise": ("recurrent", "h", "c")}

CALLS: dict[str, dict[str, Any]] = {
    "lengths": {"lengths": SHUFFLED},
    "rows without steps": {"lengths": (0,) * B},
    "one row left": {"lengths": (0, 0, 0, 0, 0, 0, 0, 0, 3)},
    "resets": {"reset": "some"},
    "resets at the first step": {"reset": "first"},
    "resets everywhere": {"reset": "all"},
    "resets to a state": {"reset": "some", "start": True},
    "resets in padded rows": {"reset": "some", "start": True, "lengths": SHUFFLED},
    "recurrent mask": {"noise": ("recurrent",)},
    "without biases": {"bias": False},
}
"""What any cell takes."""

OPTIONAL: list[tuple[set[Option], dict[str, Any]]] = [
    ({"zoneout"}, {"noise": ("h",)}),
    ({"zoneout"}, {"noise": ("c",)}),
    ({"zoneout"}, {"noise": ("expected",)}),
    ({"zoneout"}, {"reset": "some", "start": True, "lengths": SHUFFLED, **NOISY}),
    ({"peephole"}, {"peephole": True}),
    ({"peephole"}, {"peephole": False}),
    ({"peephole"}, {"peephole": True, "reset": "some", "start": True, "lengths": SHUFFLED, "bias": False}),
    ({"clip"}, {"clip": 0.4}),
    ({"clip"}, {"clip": 1e30}),
    ({"clip"}, {"clip": 1.5, "reset": "some", "start": True, "lengths": SHUFFLED}),
    ({"layer_norm"}, {"layer_norm": True}),
    ({"layer_norm"}, {"layer_norm": True, "bias": False, "lengths": SHUFFLED}),
    ({"layer_norm", "zoneout"}, {"layer_norm": True, "noise": ("h",)}),
    ({"layer_norm", "zoneout"}, {"layer_norm": True, "noise": ("c",)}),
    ({"layer_norm", "peephole", "clip"}, {"layer_norm": True, "peephole": True, "clip": 0.7}),
    ({"projection"}, {"proj_size": 5}),
    ({"projection"}, {"proj_size": 1, "nonrecurrent_proj_size": 3, "lengths": SHUFFLED}),
    ({"projection", "peephole"}, {"proj_size": 16, "nonrecurrent_proj_size": 17, "peephole": True, "reset": "some"}),
    ({"projection", "zoneout"}, {"proj_size": 5, "nonrecurrent_proj_size": 2, "reset": "some", **NOISY}),
    ({"projection", "layer_norm"}, {"proj_size": 7, "layer_norm": True, "reset": "some", "start": True}),
    (
        {"projection", "layer_norm", "peephole", "clip", "zoneout"},
        {
            "proj_size": 6,
            "nonrecurrent_proj_size": 4,
            "layer_norm": True,
            "peephole": True,
            "clip": 0.9,
            "reset": "some",
            "start": True,
            "lengths": SHUFFLED,
            **NOISY,
        },
    ),
]
"""What only some cells take: the options it needs, the arguments."""


def defined(cell: str | Cell, needed: set[Option]) -> bool:
    return needed <= row_of(cell).options


ROWS = [
    *((cell, wanted) for wanted in CALLS.values() for cell in EVERY),
    *((cell, wanted) for needed, wanted in OPTIONAL for cell in EVERY if defined(cell, needed)),
]
WAYS: list[Way] = ["forward", "backward", "both"]
DRAWN = [(cell, wanted, WAYS[n % 3]) for n, (cell, wanted) in enumerate(ROWS)]


def show(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name}={value[name]}" for name in value).replace(str(SHUFFLED), "shuffled")
    return name_of(value) if isinstance(value, str | Cell) else str(value)


@pytest.mark.parametrize(("cell", "wanted", "way"), DRAWN, ids=show)
def test_values_and_gradients(cell: str | Cell, wanted: dict[str, Any], way: Way, dtype: torch.dtype):
    problem = draw(cell, T, B, D, H, way, dtype=dtype, **wanted)
    kept = problem.run()
    check(problem, kept)
    again = problem.run(save="states")
    check_same_bits(again.values, kept.values)
    check_same_bits(again.gradients, kept.gradients)
    with torch.no_grad():
        check_same_bits(problem.forward(trace=True), kept.values)
        plain = problem.forward()
        check_same_bits(plain, kept.values, plain)


def check_untraced(problem: Problem, traced: Outcome):
    """The same bits where no gate is asked for."""
    with torch.no_grad():
        plain = problem.forward()
    check_same_bits(plain, traced.values, plain)
    for save in ("all", "states"):
        kept = problem.run(trace=False, save=save)
        check_same_bits(kept.values, traced.values, kept.values)


def test_the_table_asks_for_every_option_of_every_cell():
    asked = {name: {option for needed, _ in OPTIONAL for option in needed} for name in map(name_of, EVERY)}
    assert all(row_of(cell).options - {"learned_state"} <= asked[name_of(cell)] for cell in EVERY)


NORMED = [cell for cell in EVERY if defined(cell, {"layer_norm"})]


@pytest.mark.parametrize(
    ("size", "where"),
    [(1e-15, {"x", "state.c"}), (1e15, {"x", "state.c"}), (1e20, {"x", "state.c"}), (1e35, {"x"})],
)
@pytest.mark.parametrize("cell", NORMED, ids=name_of)
@pytest.mark.usefixtures("isa")
def test_layer_norm_of_rows_of_any_size(cell: str | Cell, size: float, where: set[str]):
    """Every other row is huge or tiny: its variance overflows or vanishes, its norm does not."""
    far = torch.ones(B, 1)
    far[::2] = size

    def change(name: str, tensor: Tensor) -> Tensor:
        # Also the cell state, the c of which is normalised where it is shown.
        return tensor * far if name in where else tensor

    problem = draw(cell, 3, B, D, H, "both", layer_norm=True, peephole=False).map(change)
    assert all(value.isfinite().all() for value in exact(problem).values.values())
    ours, truth, off = problem.run(), exact(problem), rounding(problem)
    check_untraced(problem, ours)
    for name, gradient in ours.gradients.items():
        if name != "x" and "state" not in name:
            check_gradient(name, gradient, truth.gradients[name], 1.5 * off[f"d {name}"])
    # Each row by itself: what is a rounding error in one is a thousand times the truth in another.
    for row in range(B):
        for name in ours.values:
            theirs, *others = (row_of_batch(name, o.values[name], row) for o in (truth, *singles(problem)))
            bound = max(1e-6 * scale(theirs), *(3 * error(other, theirs) for other in others))
            check_one(name, row_of_batch(name, ours.values[name], row), theirs, bound)
        for name in ("x", "0.state.c", "1.state.c"):
            theirs, *others = (row_of_batch(name, o.gradients[name], row) for o in (truth, *singles(problem)))
            bound = max(1e-6 * theirs.abs().max().item(), *(3 * error(other, theirs) for other in others))
            check_one(f"d {name}", row_of_batch(name, ours.gradients[name], row), theirs, bound)


def row_of_batch(name: str, value: Tensor, row: int) -> Tensor:
    return value.select(0 if ".state." in name else 1, row)


@pytest.mark.parametrize("cell", NORMED, ids=name_of)
@pytest.mark.usefixtures("isa")
def test_layer_norm_of_equal_values(cell: str | Cell):
    """A row without variance is normalised by the epsilon alone."""
    problem = draw(cell, 3, B, D, H, layer_norm=True).map(
        lambda name, tensor: torch.zeros_like(tensor) if name in {"x", "state.h", "state.c"} else tensor
    )
    kept = problem.run()
    check(problem, kept)
    check_untraced(problem, kept)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.usefixtures("isa")
def test_layer_norm_where_rows_share_weights_from_far(dtype: torch.dtype):
    problem = draw("lstm", 3, 33, 130, 130, "both", lengths=(3, 0, 2) * 11, layer_norm=True, dtype=dtype)
    kept = problem.run()
    check(problem, kept)
    check_untraced(problem, kept)


@pytest.mark.parametrize("unit", range(H))
@pytest.mark.usefixtures("isa")
def test_layer_norm_of_one_huge_value(unit: int):
    """The variance overflows by one value wherever it stands: in c, or in one gate's products with x."""
    problem = draw("lstm", 1, 3, D, H, layer_norm=True)

    def change(name: str, tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        if name == "state.c":
            tensor[2, unit] = -1e30
        if name == "weight_ih":
            tensor[unit % 4 * H + unit] *= 1e25
        return tensor

    problem = problem.map(change)
    ours = problem.forward()
    for name, value in exact(problem).values.items():
        if name in ours:
            check_one(name, ours[name], value, 1e-5 * scale(value))


@pytest.mark.parametrize("cell", ["lstm", "slstm", "rnn", "fgr"])
@pytest.mark.usefixtures("isa")
def test_a_gate_beyond_the_bound_has_no_gradient(cell: str):
    problem = draw(cell, 3, B, D, H, clip=0.25).map(
        lambda name, tensor: tensor.sign() * (8 + tensor.abs()) if name == "bias_ih" else tensor
    )
    ours = problem.run()
    check(problem, ours)
    for name in ("x", "0.weight_ih", "0.weight_hh", "0.bias_ih", "0.bias_hh"):
        assert (ours.gradients[name] == 0).all()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cell", EVERY, ids=name_of)
@pytest.mark.usefixtures("isa")
def test_padding_is_not_looked_at(cell: str | Cell, way: Way):
    problem = draw(cell, T, B, D, H, way, lengths=SHUFFLED, reset="some", start=True)
    ours = problem.run()
    beyond = torch.arange(T)[:, None] >= torch.tensor(SHUFFLED)
    spoilt = replace(problem, x=problem.x.masked_fill(beyond[..., None], torch.nan))
    spoilt = replace(spoilt, cotangents={name: _spoil(name, v, beyond) for name, v in problem.cotangents.items()})
    theirs = spoilt.run()
    check_same_bits(theirs.values, ours.values)
    check_same_bits(theirs.gradients, ours.gradients)
    for name, value in ours.values.items():
        if ".state." not in name:
            assert (value[beyond] == 0).all(), name
    assert (ours.gradients["x"][beyond] == 0).all()


def _spoil(name: str, cotangent: Tensor, beyond: Tensor) -> Tensor:
    return cotangent if ".state." in name else cotangent.masked_fill(beyond[..., None], 1e30)


@pytest.mark.usefixtures("isa")
def test_rows_of_no_steps_give_their_states_back():
    problem = draw("fgr", T, B, D, H, "both", lengths=SHUFFLED, reset="some", start=True, noise=("recurrent", "h"))
    values = problem.forward()
    for n, direction in enumerate(problem.directions):
        for name, state in zip(problem.variant.cell.states, direction.state, strict=True):
            for b, length in enumerate(SHUFFLED):
                if not length:
                    assert torch.equal(values[f"{n}.state.{name}"][b], state[b])


def test_save_must_be_a_word_it_knows():
    with pytest.raises(InputError, match=r"save.*all.*states"):
        draw("lstm", 1, 1, 1, 1).forward(save="some")


MASKS = ["noise.recurrent", "noise.h", "noise.c"]


@pytest.mark.parametrize("mask", MASKS)
def test_a_mask_that_wants_a_gradient_is_refused(mask: str):
    problem: Problem = draw("lstm", T, B, D, H, **NOISY)
    wanting = problem.map(lambda name, tensor: tensor.detach().clone().requires_grad_(name == mask))
    with pytest.raises(InputError, match="backend 'native' cannot serve this call"):
        wanting.forward()
    assert wanting.forward("auto")["y"].requires_grad

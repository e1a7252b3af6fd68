"""Every cell, forward and backward, at sizes around the width of a vector, against the equations in float64."""

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
from native_rows import EVERY, SEEING, name_of, row_of
from torch import Tensor

from gatewise.spec import Cell

SHAPES: list[tuple[tuple[int, int, int, int], Way]] = [
    ((17, 3, 7, 16), "forward"),
    ((17, 3, 1, 1), "backward"),
    ((2, 17, 17, 100), "both"),
    ((17, 1, 33, 7), "forward"),
    ((2, 8, 100, 33), "backward"),
    ((1, 25, 16, 17), "forward"),
    ((2, 9, 16, 1), "both"),
    ((1, 7, 1, 16), "backward"),
    ((0, 3, 7, 16), "both"),
    ((2, 0, 7, 16), "both"),
]
"""T, B, D, H."""

STEEP = {("native-sees", (2, 17, 17, 100)), ("native-sees", (17, 1, 33, 7))}
"""Sums of 317 terms, and a feedback of many steps, of gates that see themselves through a tanh."""

every_cell = pytest.mark.parametrize("cell", EVERY, ids=name_of)


@pytest.mark.parametrize(("shape", "way"), SHAPES, ids=str)
@every_cell
def test_values_and_gradients(cell: str | Cell, shape: tuple[int, int, int, int], way: Way, dtype: torch.dtype):
    problem = draw(cell, *shape, way, dtype=dtype)
    if (name_of(cell), shape) in STEEP:
        check_steep(problem, problem.run())
    else:
        check(problem, problem.run())


def check_steep(problem: Problem, ours: Outcome):
    """Hold a call to three times the float32 reference's error, where that is more than the bound of short sequences.

    A tanh passes on the whole error of its sum, a sigmoid a quarter of it. To add 317 terms one by one, in the order
    that is promised, puts f off by as much as 1.2e-6 in any arithmetic. Through the feedback, the reference's own error
    of d c is anything from 1e-7 to 9e-7 when the arguments move to the next float32.
    """
    truth = exact(problem)
    off = rounding(problem, truth, singles(problem, neighbours=8))
    assert ours.values.keys() == truth.values.keys()
    assert ours.gradients.keys() == truth.gradients.keys()
    for name, value in ours.values.items():
        check_one(name, value, truth.values[name], max(1e-6 * scale(truth.values[name]), 3 * off[name]))
    for name, gradient in ours.gradients.items():
        check_gradient(name, gradient, truth.gradients[name], 1.5 * off[f"d {name}"])


DEEP: list[tuple[str, tuple[int, int, int, int], dict[str, int]]] = [
    ("lstm", (2, 9, 2300, 5), {}),
    ("cifg", (2, 2, 5, 530), {}),
    ("fgr", (2, 9, 17, 350), {}),
    ("lstm", (2, 9, 600, 500), {"proj_size": 450, "nonrecurrent_proj_size": 33}),
    ("rnn", (70, 1, 600, 500), {}),
]
"""Sums so deep, or so many steps, that they are formed in pieces."""


@pytest.mark.parametrize(("cell", "shape", "options"), DEEP, ids=str)
@pytest.mark.usefixtures("isa")
def test_sums_that_are_formed_in_pieces(cell: str, shape: tuple[int, int, int, int], options: dict[str, int]):
    problem = draw(cell, *shape, "backward", **options)
    ours, truth = problem.run(), exact(problem)
    # A sum of two thousand terms in a fixed order is rounded two thousand times; a lost piece is off by far more.
    for name, value in ours.values.items():
        check_one(name, value, truth.values[name], 4e-6 * scale(truth.values[name]))
    for name, gradient in ours.gradients.items():
        check_one(f"d {name}", gradient, truth.gradients[name], 4e-6 * scale(truth.gradients[name]))


@pytest.mark.parametrize("cell", SEEING, ids=name_of)
@pytest.mark.usefixtures("isa")
def test_any_gates_can_be_seen_in_any_order(cell: Cell):
    problem = draw(cell, 4, 9, 5, 17, "both", reset="some", start=True)
    check(problem, problem.run())


@every_cell
@pytest.mark.usefixtures("isa")
def test_what_is_kept_for_gradients_and_traces_changes_no_bit(cell: str | Cell):
    problem = draw(cell, 5, 9, 7, 17, "both")
    values = problem.run().values
    untraced = problem.run(trace=False).values
    with torch.no_grad():
        check_same_bits(problem.forward(trace=True), values)
        assert list(problem.forward()) == list(untraced)
        check_same_bits(problem.forward(), values, untraced)
    check_same_bits(untraced, values, untraced)


def outputs(problem: Problem) -> list[str]:
    return list(exact(problem).values)


@every_cell
@pytest.mark.usefixtures("isa")
def test_each_output_alone_has_its_gradients(cell: str | Cell):
    problem = draw(cell, 4, 3, 5, 9)
    for name in outputs(problem):
        others = {other: cotangent * (other == name) for other, cotangent in problem.cotangents.items()}
        truth = gradients(problem, name, "reference", torch.float64)
        peer = gradients(problem, name, "reference", torch.float32)
        ours = gradients(problem, name, "native", torch.float32)
        for leaf, theirs in truth.items():
            check_gradient(f"{name} / d {leaf}", ours[leaf], theirs, error(peer[leaf], theirs))
        # Not given at all is the same as given with zeros, but for the sign of a zero.
        zeros = Problem(**{**vars(problem), "cotangents": others}).run().gradients
        assert all(torch.equal(ours[leaf], zeros[leaf]) for leaf in ours)


def gradients(problem: Problem, name: str, backend: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """The gradients through one result, the others unused."""
    cast = problem.map(lambda _, tensor: tensor.to(dtype).requires_grad_())
    value = cast.forward(backend, trace=True)[name]
    leaves = cast.leaves()
    found = torch.autograd.grad(
        value, list(leaves.values()), problem.cotangents[name].to(dtype), allow_unused=True, materialize_grads=True
    )
    return dict(zip(leaves, found, strict=True))


@every_cell
@pytest.mark.usefixtures("isa")
def test_each_leaf_alone_gets_its_gradient(cell: str | Cell):
    problem = draw(cell, 4, 9, 5, 17, "both", reset="some", start=True)
    truth, off = exact(problem).gradients, rounding(problem)
    for name, leaf in problem.leaves().items():
        wanted = leaf.detach().clone().requires_grad_()
        alone = replaced(problem, leaf, wanted)
        values = {key: value for key, value in alone.forward(trace=True).items() if value.requires_grad}
        weights = [problem.cotangents[key] for key in values]
        (found,) = torch.autograd.grad(list(values.values()), [wanted], weights)
        check_gradient(name, found, truth[name], off[f"d {name}"])


def replaced(problem: Problem, old: Tensor, new: Tensor) -> Problem:
    return problem.map(lambda _, tensor: new if tensor is old else tensor)


def lattice(cell: str | Cell, clip: float | None) -> Problem:
    """One step of which every learned pre-activation is a small multiple of 1/8, the same in any arithmetic."""
    options = {} if clip is None else {"clip": clip}
    problem = draw(cell, 1, 9, 3, 17, **options)
    return problem.map(lambda name, tensor: (2 * tensor).round() / (1 if name == "x" else 4))


@every_cell
@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.usefixtures("isa")
def test_squashes_and_clipping_at_their_very_edges(cell: str | Cell, clip: float | None):
    problem = lattice(cell, clip)
    weights, (h, *_) = problem.directions[0].weights, problem.directions[0].state
    assert weights.bias_ih is not None
    assert weights.bias_hh is not None
    pre = problem.x[0] @ weights.weight_ih.T + h @ weights.weight_hh.T + weights.bias_ih + weights.bias_hh
    edge = (pre.abs() == clip) if clip else (pre == 0)
    assert edge.any()
    check(problem, problem.run())


@pytest.mark.parametrize("cell", [cell for cell in EVERY if row_of(cell).update == "exponential"], ids=name_of)
@pytest.mark.usefixtures("isa")
def test_a_tie_of_the_stabiliser_shares_its_gradient(cell: str | Cell):
    """A forget gate of exactly one, and m₋ and ĩ equal: the gradient of m goes to both, half and half, as in torch."""
    D, H = 3, 17
    problem = draw(cell, 1, 3, D, H)
    turned = problem.variant.cell
    bias = torch.zeros(4 * H)
    bias[turned.rows("f", H)], bias[turned.rows("i", H)] = 200.0, 0.5

    def change(name: str, tensor: Tensor) -> Tensor:
        if name == "state.m":
            return torch.full_like(tensor, 0.5)
        if name == "bias_ih":
            return bias
        if name in {"weight_ih", "weight_hh", "bias_hh"}:
            kept = tensor.clone()
            kept[turned.rows("f", H)] = kept[turned.rows("i", H)] = 0
            return kept
        return tensor

    tied = problem.map(change)
    assert (exact(tied).gradients["0.state.m"] != 0).all()
    check(tied, tied.run())


@pytest.mark.usefixtures("isa")
def test_nothing_remembered_by_slstm_is_nothing():
    """Where n is zero, m₋ counts as −∞ whatever it holds."""
    problem = draw("slstm", 4, 9, 5, 17, "both").map(
        lambda name, tensor: tensor * (tensor > 0.9) if name == "state.n" else tensor
    )
    assert (problem.directions[0].state[2] == 0).any()
    assert (problem.directions[0].state[2] != 0).any()
    check(problem, problem.run())

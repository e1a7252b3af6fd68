"""What autograd, threads, given outputs and changed instruction sets ask of the compiled engine."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from native_problem import ISAS, Problem, check, check_same_bits, draw, exact
from native_rows import EVERY, name_of
from torch import Tensor

from gatewise import _native
from gatewise.errors import InputError
from gatewise.ops import Direction, Weights, lstm
from gatewise.spec import Cell, variant

T, B, D, H = 6, 9, 5, 17

every_cell = pytest.mark.parametrize("cell", EVERY, ids=name_of)


@pytest.fixture
def former() -> Iterator[str]:
    name = _native.isa()
    yield name
    _native.use_isa(name)


def test_the_instruction_set_is_the_one_that_was_asked_for(former: str):
    assert former in ISAS
    for name in ISAS:
        _native.use_isa(name)
        assert _native.isa() == name


def test_an_unknown_instruction_set_changes_nothing(former: str):
    with pytest.raises(ValueError, match="'sse9' is not available"):
        _native.use_isa("sse9")
    assert _native.isa() == former


@pytest.mark.usefixtures("isa")
def test_infinite_inputs_give_the_limits():
    problem = draw("lstm", 1, 2, 1, 9)
    (direction,) = problem.directions
    weights = direction.weights._replace(weight_ih=torch.ones(36, 1))
    for sign, limit in ((1.0, "open"), (-1.0, "shut")):
        y, (_, c) = lstm(torch.full((1, 2, 1), sign * torch.inf), direction.state, weights, backend="native")
        expected = direction.state[1] + 1 if limit == "open" else torch.zeros(2, 9)
        torch.testing.assert_close(c, expected, rtol=0, atol=2e-7)
        torch.testing.assert_close(y[0], expected.tanh(), rtol=0, atol=2e-7)


def leaves(problem: Problem) -> Problem:
    return problem.map(lambda name, tensor: tensor.detach().clone().requires_grad_("noise" not in name))


def weighed(problem: Problem, values: dict[str, Tensor]) -> Tensor:
    return torch.stack([(values[name] * problem.cotangents[name]).sum() for name in values]).sum()


@pytest.mark.parametrize("save", ["all", "states"])
@every_cell
@pytest.mark.usefixtures("isa")
def test_two_backward_calls(cell: str | Cell, save: str):
    problem = draw(cell, T, B, D, H, "both", reset="some", start=True)
    once, twice = leaves(problem), leaves(problem)
    weighed(problem, once.forward(trace=True, save=save)).backward()
    loss = weighed(problem, twice.forward(trace=True, save=save))
    loss.backward(retain_graph=True)
    # What another call computes in between must not be what the second one reads.
    draw(cell, T + 1, B, D, H, "both").run()
    loss.backward()
    for name, leaf in twice.leaves().items():
        gradient = once.leaves()[name].grad
        assert gradient is not None
        assert leaf.grad is not None
        assert torch.equal(leaf.grad, 2 * gradient), name


@pytest.mark.usefixtures("isa")
def test_graphs_that_are_used_in_another_order():
    """Several calls live at once, as in a stack of layers or a loss over two models."""
    problems = [draw(cell, T, B, D, H, "both") for cell in ("lstm", "fgr", "slstm")]
    alone = [problem.run() for problem in problems]
    live = [leaves(problem) for problem in problems]
    losses = [weighed(problem, one.forward(trace=True)) for problem, one in zip(problems, live, strict=True)]
    for n in (1, 2, 0):
        losses[n].backward()
        for name, leaf in live[n].leaves().items():
            assert leaf.grad is not None
            assert torch.equal(leaf.grad, alone[n].gradients[name]), name


@pytest.mark.usefixtures("isa")
def test_a_graph_that_was_freed_says_so():
    loss = weighed(problem := draw("lstm", T, B, D, H), leaves(problem).forward())
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@pytest.mark.usefixtures("isa")
def test_a_weight_changed_before_backward_is_noticed():
    problem = leaves(draw("lstm", T, B, D, H))
    loss = problem.forward()["y"].sum()
    with torch.no_grad():
        problem.directions[0].weights.weight_hh.add_(1)
    with pytest.raises(RuntimeError, match="inplace operation"):
        loss.backward()


@pytest.mark.parametrize("save", ["all", "states"])
@every_cell
@pytest.mark.usefixtures("isa")
def test_double_backward_is_the_references(cell: str | Cell, save: str):
    problem = draw(cell, 3, 2, 3, 5, "both", lengths=(3, 2))
    found: list[dict[str, Tensor]] = []
    runs: list[tuple[str, torch.dtype, dict[str, Any]]] = [
        ("native", torch.float32, {"save": save}),
        ("reference", torch.float64, {}),
    ]
    for backend, dtype, more in runs:
        one = leaves(problem.map(lambda _, tensor, dtype=dtype: tensor.to(dtype)))
        inputs = one.leaves()
        loss = one.forward(backend, **more)["y"].square().sum()
        first = torch.autograd.grad(loss, list(inputs.values()), create_graph=True)
        second = torch.autograd.grad(
            torch.stack([g.square().sum() for g in first]).sum(), list(inputs.values()), allow_unused=True
        )
        found.append({name: g for name, g in zip(inputs, second, strict=True) if g is not None})
    ours, theirs = found
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert gradient.any(), name
        off = (ours[name].double() - gradient).abs().max()
        assert off <= 1e-5 * max(1.0, gradient.abs().max().item()), name


@every_cell
@pytest.mark.usefixtures("isa")
def test_outputs_are_written_in_place(cell: str | Cell):
    problem = draw(cell, T, B, D, H, "both", lengths=(6, 0, 1, 6, 3, 2, 5, 4, 6))
    expected = problem.forward()
    width = expected["y"].shape[2]
    canvas = torch.full((B, T, 3 * width), 7.0)
    out = canvas[..., width : 2 * width].transpose(0, 1)
    values = problem.forward(out=out)
    assert values["y"].data_ptr() == out.data_ptr()
    check_same_bits(values, expected)
    assert torch.equal(out, expected["y"])
    assert (canvas[..., :width] == 7).all()
    assert (canvas[..., 2 * width :] == 7).all()


@pytest.mark.usefixtures("isa")
def test_outputs_of_any_strides_are_filled():
    problem = draw("lstm", T, B, D, H, "both", proj_size=5, nonrecurrent_proj_size=3)
    expected = problem.forward()
    shape = expected["y"].shape
    for out in (
        torch.full((*shape[:2], 2 * shape[2]), 7.0)[..., ::2],
        torch.full((shape[2], shape[1], shape[0]), 7.0).permute(2, 1, 0),
        torch.full((2 * shape[0], *shape[1:]), 7.0)[::2],
    ):
        assert problem.forward(out=out)["y"] is out
        assert torch.equal(out, expected["y"])


def _refused() -> dict[str, tuple[Any, str]]:
    problem = draw("cifg", T, B, D, H)
    short = torch.empty(T, B, H)
    short.untyped_storage().resize_(8)
    (direction,) = problem.directions
    inside = torch.empty(B * H + T * B * H)
    state = (inside[: B * H].view(B, H).copy_(direction.state[0]), direction.state[1])
    shared = Problem(**{**vars(problem), "directions": (Direction(state, direction.weights),)})
    return {
        "another shape": ((problem, torch.empty(T, B, H + 1)), "out must have shape"),
        "another dtype": ((problem, torch.empty(T, B, H).double()), "out has dtype"),
        "elements that share memory": ((problem, torch.empty(T, 1, H).expand(T, B, H)), "share memory"),
        "memory of a state": ((shared, inside[B * H :].view(T, B, H)), "must not share memory"),
        "a gradient": ((problem, torch.empty(T, B, H).requires_grad_()), "must not require a gradient"),
        "a storage that was cut": ((problem, short), "storage"),
    }


REFUSED = _refused()


@pytest.mark.parametrize("why", REFUSED)
@pytest.mark.usefixtures("isa")
def test_outputs_that_cannot_be_written_are_refused(why: str):
    (problem, out), message = REFUSED[why]
    with pytest.raises(InputError, match=message):
        problem.forward(out=out)


@pytest.mark.usefixtures("isa")
def test_outputs_are_not_given_where_a_gradient_is_needed():
    problem = draw("cifg", T, B, D, H)
    with pytest.raises(InputError, match="outputs are asked for in a given tensor while a gradient is needed"):
        leaves(problem).forward(out=torch.empty(T, B, H))


FREED = ["x", "state.c", "weight_ih", "bias_hh", "weight_peephole", "weight_hr", "weight_ln_cell", "noise.h", "start.h"]


@pytest.mark.parametrize("which", FREED)
@pytest.mark.parametrize("gradient", [False, True])
def test_memory_that_was_freed_is_refused(which: str, gradient: bool):
    """Every pointer that reaches native code is checked, not only those of the vanilla cell."""
    options: dict[str, Any] = {"reset": "some", "start": True, "noise": ("h",), "layer_norm": True, "proj_size": 5}
    problem = draw("peephole", T, B, D, H, **options)
    touched: list[str] = []

    def change(name: str, tensor: Tensor) -> Tensor:
        copy = tensor.detach().clone()
        if name == which:
            touched.append(name)
            copy.untyped_storage().resize_(0)
        return copy.requires_grad_(gradient and "noise" not in name)

    cut = problem.map(change)
    assert touched
    with pytest.raises(InputError, match="storage"):
        cut.forward()


@every_cell
@pytest.mark.usefixtures("isa")
def test_nothing_given_is_changed(cell: str | Cell):
    problem = draw(cell, T, B, D, H, "both", reset="some", start=True, noise=("recurrent",))
    kept = problem.map(lambda _, tensor: tensor.clone())
    weights = {name: value.clone() for name, value in problem.cotangents.items()}
    problem.run()
    check_same_bits(problem.leaves(), kept.leaves())
    check_same_bits(problem.cotangents, weights)


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.usefixtures("isa")
def test_weights_may_come_without_biases_whatever_the_variant_says(gradient: bool):
    problem = draw("peephole", T, B, D, H, bias=False)
    (direction,) = problem.directions
    weights = direction.weights._replace(weight_ih=direction.weights.weight_ih.clone().requires_grad_(gradient))
    values = [
        lstm(problem.x, direction.state, weights, variant("peephole", bias=bias), backend="native")[0]
        for bias in (False, True)
    ]
    assert torch.equal(*values)
    assert values[1].requires_grad == gradient


@pytest.mark.usefixtures("isa")
def test_calls_from_several_threads_do_not_mix():
    problems = [
        draw(cell, 9, 3 + n % 9, D, 10 + 3 * n, "both")
        for n, cell in enumerate(["lstm", "fgr", "slstm", "rnn", "cifg", "lstm", "peephole", "lstm-1997"])
    ]
    expected = [problem.run() for problem in problems]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for result, wanted in zip(pool.map(lambda p: p.run(), problems), expected, strict=True):
                check_same_bits(result.values, wanted.values)
                check_same_bits(result.gradients, wanted.gradients)


@pytest.mark.usefixtures("isa")
def test_the_weights_of_the_moment_are_used():
    """A kernel that packs weights must not keep them: an edit through .data is seen by nobody."""
    problem = draw("lstm", T, B, D, H).map(lambda _, tensor: tensor.clone())
    before = problem.run()
    problem.directions[0].weights.weight_hh.data.mul_(-1)
    check(problem, problem.run(), exact.__wrapped__(problem))
    problem.directions[0].weights.weight_hh.data.mul_(-1)
    check_same_bits(problem.run().gradients, before.gradients)


def test_a_state_that_is_also_a_weight_gets_both_gradients():
    """One tensor in several places: autograd adds up what each place is owed."""
    cell = variant("lstm")
    torch.manual_seed(0)
    both = torch.randn(4, 4)
    found: list[Tensor] = []
    for backend, dtype in (("native", torch.float32), ("reference", torch.float64)):
        shared = both.to(dtype).requires_grad_()
        weights = Weights(torch.cat([shared] * 4), torch.cat([shared] * 4))
        y, (_, c) = lstm(shared.expand(3, 4, 4), (shared, shared), weights, cell, backend=backend)
        found += torch.autograd.grad(y.square().sum() + c.sum(), [shared])
    assert (found[0] - found[1]).abs().max() <= 2e-6 * found[1].abs().max()

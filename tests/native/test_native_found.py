"""What was once wrong."""

import pytest
import torch
from native_problem import FUSED, Tensors, draw, exact, singles
from torch.utils.checkpoint import checkpoint

from gatewise import LSTM, LSTMCell, _native
from gatewise.errors import InputError
from gatewise.ops import Direction, Weights, layer


@pytest.mark.parametrize("rows", [1, 17])
@pytest.mark.parametrize("width", [61435, 61436, 62000])
@pytest.mark.usefixtures("isa")
def test_very_deep_sums_count_every_input(width: int, rows: int):
    """There were so many pieces that the first ones were lost."""
    torch.manual_seed(0)
    ours = LSTM(width, 4, backend="native")
    x = torch.randn(2, rows, width) / 50
    with torch.no_grad():
        exact = LSTM(width, 4, backend="reference", dtype=torch.float64)
        exact.load_state_dict(ours.state_dict())
        assert (ours(x)[0] - exact(x.double())[0]).abs().max() < 1e-4


@pytest.mark.usefixtures("isa")
def test_an_input_that_overlaps_itself_has_its_gradient():
    """The gradient took over strides that only an input may have."""
    torch.manual_seed(0)
    x = torch.randn(7).unfold(0, 5, 1).unsqueeze(1)
    found = []
    for backend in ("native", "reference"):
        torch.manual_seed(1)
        leaf = x.detach().requires_grad_()
        LSTM(5, 4, backend=backend)(leaf, lengths=[3])[0].sum().backward()
        found.append(leaf.grad)
    assert (found[0] - found[1]).abs().max() < 1e-6


@pytest.mark.usefixtures("isa")
def test_backward_leaves_the_outputs_alone():
    """Computing the gates again wrote h again, with whatever the weights were by then."""
    ours = LSTM(3, 4, save="states")
    y, _ = ours(torch.randn(6, 2, 3))
    before = y.detach().clone()
    ours.get_parameter("weight_hh_l0").data.add_(1)
    y.sum().backward()
    assert torch.equal(y, before)


def test_outputs_that_lost_their_memory_are_refused():
    state = (torch.zeros(2, 4), torch.zeros(2, 4))
    x = torch.randn(5, 2, 3, requires_grad=True)
    y = layer(x, [Direction(state, Weights(torch.randn(16, 3), torch.randn(16, 4)))], backend="native").y
    total = y.sum()
    y.untyped_storage().resize_(0)
    with pytest.raises(InputError, match="storage"):
        total.backward()


def test_resets_that_lost_their_memory_are_refused():
    reset = torch.zeros(5, 2, dtype=torch.bool)
    reset.untyped_storage().resize_(4)
    with pytest.raises(InputError, match="storage"), torch.no_grad():
        LSTM(3, 4, backend="native")(torch.randn(5, 2, 3), reset=reset)


@pytest.mark.parametrize("bad", [None, "junk"])
def test_a_state_with_a_part_too_many_is_refused(bad: object):
    h = torch.zeros(2, 4)
    with pytest.raises(InputError, match="hx must be"):
        LSTMCell(3, 4)(torch.randn(2, 3), (h, bad, h))  # pyright: ignore[reportArgumentType] - that is the point


@pytest.mark.parametrize("lengths", [None, [4, 7]], ids=["direct", "lengths"])
@pytest.mark.usefixtures("isa")
def test_checkpointing_keeps_nothing_and_computes_the_same(lengths: list[int] | None):
    """What the engine keeps is no tensor: the hooks that should do without it did not see it."""
    torch.manual_seed(0)
    ours = LSTM(3, 4, 2)
    x = torch.randn(7, 2, 3, requires_grad=True)

    def run(x: torch.Tensor) -> torch.Tensor:
        return ours(x, lengths=lengths)[0]

    plain = torch.autograd.grad(run(x).sum(), [x, *ours.parameters()])
    again = torch.autograd.grad(checkpoint(run, x, use_reentrant=False).sum(), [x, *ours.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


@pytest.mark.usefixtures("isa")
def test_threads_treat_the_smallest_numbers_as_the_caller_does():
    torch.manual_seed(0)
    ours = LSTM(8, 64, cell="rnn-relu", backend="native")
    x = torch.randn(20, 64, 8) * 1e-38
    found = []
    former = torch.get_num_threads()
    try:
        torch.set_flush_denormal(True)
        for threads in (1, 2):
            torch.set_num_threads(threads)
            with torch.no_grad():
                found.append(ours(x)[0])
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(former)
    assert torch.equal(*found)


@pytest.mark.skipif(len(FUSED) < 2, reason="this processor has only one instruction set that fuses")
def test_wide_gradients_of_many_windows_equal_the_narrow_ones():
    """Windows of steps followed the padding of an instruction set."""
    former, found = _native.isa(), []
    try:
        for isa in FUSED[:2]:
            _native.use_isa(isa)
            torch.manual_seed(0)
            ours = LSTM(5, 20, backend="native")
            ours(torch.randn(300, 32, 5))[0].sum().backward()
            found.append([parameter.grad for parameter in ours.parameters()])
    finally:
        _native.use_isa(former)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("cell", ["lstm", "cifg"])
@pytest.mark.usefixtures("isa")
def test_what_zoneout_lets_pass_costs_no_digit(cell: str):
    """Sums of a step's gradients began with what had passed by the cell, which is larger than what is added to it."""
    problem = draw(cell, 6, 23, 8, 49, noise=("h",))
    truth, peer = exact(problem, trace=False), singles(problem, trace=False)[0]

    def error(gradients: Tensors) -> float:
        return (gradients["0.state.h"].double() - truth.gradients["0.state.h"]).square().mean().sqrt().item()

    assert error(problem.run(trace=False).gradients) <= 2 * error(peer.gradients)

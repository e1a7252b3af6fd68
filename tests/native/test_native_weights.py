"""The engine computes with the weights of the moment, whatever changed them since the call before.

Each test calls a module, changes its weights and calls it again. A second module, made afterwards and never called
before, has to give the same bits; the reference has to give the same numbers.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from native_stack import BACKEND, assert_near, assert_same, error
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrizations, parametrize

from gatewise import LSTM, LSTMCell
from gatewise.errors import InputError
from gatewise.ops import ShapeError

D, H = 3, 5
STACK: dict[str, Any] = {"num_layers": 2, "bidirectional": True}
NAMES = list(LSTM(D, H, **STACK).state_dict())
# One step of one row and a few of a few take the direct path; the last is large enough for any other.
SIZES = [(1, 1), (3, 2), (20, 9)]
pytestmark = pytest.mark.usefixtures("isa")


def build(**options: Any) -> LSTM:
    """Build a layer all of whose parameters are random, those too that start as zeros or ones."""
    layer = LSTM(D, H, **options, backend=BACKEND)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return layer


def draw(T: int, B: int) -> Tensor:
    return torch.randn(T, B, D, generator=torch.Generator().manual_seed(T))


def twin(layer: LSTM) -> LSTM:
    """Build a stack with the same weights, in memory of its own."""
    fresh = LSTM(D, H, **STACK, backend=BACKEND)
    with torch.no_grad():
        for name in NAMES:
            fresh.get_parameter(name).copy_(getattr(layer, name))
    return fresh


def run(layer: Any, x: Tensor, gradient: bool) -> list[Tensor]:
    """Return outputs, final states and, if asked for, the gradients of the input and of the weights."""
    # In the cache a parametrized weight is the same tensor for the call and for its gradient.
    with torch.set_grad_enabled(gradient), parametrize.cached():
        x = x.clone().requires_grad_(gradient)
        state = torch.linspace(-1, 1, 4 * x.shape[1] * H, dtype=x.dtype).view(4, -1, H)
        y, (h, c) = layer(x, (state, state.flip(0)))
        if not gradient:
            return [y, h, c]
        weights = [getattr(layer, name) for name in NAMES]
        loss = (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum() + h.square().sum() + c.square().sum()
        found = torch.autograd.grad(loss, [x, *weights])
    assert all(bool(part.any()) for part in found)
    return [y.detach(), h.detach(), c.detach(), *found]


def assert_fresh(layer: LSTM, x: Tensor, gradient: bool) -> list[Tensor]:
    """Hold a call of a changed layer to a layer that never computed with other weights, and to the reference."""
    results = run(layer, x, gradient)
    fresh = twin(layer)
    assert_same(results, run(fresh, x, gradient))
    fresh.backend = "reference"
    assert_near(results, run(fresh, x, gradient), run(fresh.double(), x.double(), gradient))
    return results


@torch.no_grad()
def _copied(layer: LSTM) -> None:
    for parameter in layer.parameters():
        parameter.copy_(parameter.flip(0))


def _data(layer: LSTM) -> None:
    layer.get_parameter("weight_hh_l1").data.add_(0.2)


def _detached_view(layer: LSTM) -> None:
    layer.get_parameter("weight_ih_l0").detach().view(-1)[1::2].mul_(-1)


def _numpy_view(layer: LSTM) -> None:
    # Nothing of this passes through torch.
    layer.get_parameter("weight_hh_l0").detach().numpy()[2, :] *= -2


def _one_element(layer: LSTM) -> None:
    layer.get_parameter("weight_hh_l1_reverse").data[-1, -1] += 0.5


def _sum_kept(layer: LSTM) -> None:
    layer.get_parameter("weight_ih_l0").data[0, 0] += 0.5
    layer.get_parameter("weight_ih_l0").data[1, 1] -= 0.5


def _rows_exchanged(layer: LSTM) -> None:
    weight = layer.get_parameter("weight_hh_l0").data
    weight[[0, 1]] = weight[[1, 0]]


def _input_bias(layer: LSTM) -> None:
    layer.get_parameter("bias_ih_l0").data.add_(0.3)


def _recurrent_bias(layer: LSTM) -> None:
    layer.get_parameter("bias_hh_l1").data.neg_()


def _stepped(layer: LSTM, optimizer: torch.optim.Optimizer) -> None:
    layer(draw(3, 2))[0].square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def _sgd(layer: LSTM) -> None:
    _stepped(layer, torch.optim.SGD(layer.parameters(), lr=0.3))


def _fused(layer: LSTM) -> None:
    _stepped(layer, torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True))


def _foreach(layer: LSTM) -> None:
    _stepped(layer, torch.optim.AdamW(layer.parameters(), lr=0.1, foreach=True))


def _changed_dict(layer: LSTM) -> dict[str, Tensor]:
    return {name: value.flip(0).clone() for name, value in layer.state_dict().items()}


def _loaded(layer: LSTM) -> None:
    layer.load_state_dict(_changed_dict(layer))


def _assigned(layer: LSTM) -> None:
    layer.load_state_dict(_changed_dict(layer), assign=True)


def _new_parameter(layer: LSTM) -> None:
    layer.weight_hh_l0 = nn.Parameter(layer.get_parameter("weight_hh_l0").detach().flip(0).clone())


def _new_memory(layer: LSTM) -> None:
    # The old memory is freed first, so that the new may come to lie at its address.
    weight = layer.get_parameter("weight_hh_l0")
    values = (weight.detach().flip(0) + 0.1).tolist()
    weight.data = torch.empty(0)
    weight.data = torch.tensor(values)


def _swapped(layer: LSTM) -> None:
    other = nn.Parameter(layer.get_parameter("weight_ih_l0").detach().flip(0).clone())
    torch.utils.swap_tensors(layer.get_parameter("weight_ih_l0"), other)


def _rounded(layer: LSTM) -> None:
    layer.to(torch.bfloat16).float()


def _through_double(layer: LSTM) -> None:
    layer.double()
    layer.get_parameter("weight_hh_l0").data.mul_(1.5)
    layer.float()


def _sharing(layer: LSTM) -> None:
    layer.get_parameter("weight_hh_l0").data = layer.get_parameter("weight_hh_l1").data


def _transposed(layer: LSTM) -> None:
    for parameter in layer.parameters():
        if parameter.dim() == 2:
            parameter.data = (parameter.data + 0.1).t().contiguous().t()


def _expanded(layer: LSTM) -> None:
    layer.get_parameter("weight_hh_l0").data = torch.linspace(-0.5, 0.5, 4 * H)[:, None].expand(4 * H, H)
    layer.get_parameter("bias_ih_l0").data = torch.tensor([0.25]).expand(4 * H)


def _part_of_a_larger(layer: LSTM) -> None:
    canvas = torch.full((4 * H + 2, H + 3), torch.nan)
    canvas[1:-1, 2:-1] = layer.get_parameter("weight_hh_l0").detach().flip(0)
    layer.get_parameter("weight_hh_l0").data = canvas[1:-1, 2:-1]


def _resized(layer: LSTM) -> None:
    storage = layer.get_parameter("weight_hh_l0").untyped_storage()
    size = storage.nbytes()
    storage.resize_(0)
    storage.resize_(size)
    layer.get_parameter("weight_hh_l0").data.copy_(torch.linspace(-0.6, 0.6, 4 * H * H).view(4 * H, H))


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def _parametrized(layer: LSTM) -> None:
    parametrize.register_parametrization(layer, "weight_hh_l0", Doubled())


def _parametrized_and_moved(layer: LSTM) -> None:
    parametrizations.weight_norm(layer, "weight_hh_l0")
    layer(draw(1, 1))
    layer.get_parameter("parametrizations.weight_hh_l0.original0").data.mul_(1.7)


def _parametrized_and_freed(layer: LSTM) -> None:
    parametrize.register_parametrization(layer, "weight_ih_l1", Doubled())
    layer(draw(1, 1))
    parametrize.remove_parametrizations(layer, "weight_ih_l1", leave_parametrized=True)


CHANGES = [
    *(_copied, _data, _detached_view, _numpy_view, _one_element, _sum_kept, _rows_exchanged),
    *(_input_bias, _recurrent_bias, _sgd, _fused, _foreach, _loaded, _assigned, _new_parameter, _new_memory),
    *(_swapped, _rounded, _through_double, _sharing, _transposed, _expanded, _part_of_a_larger, _resized),
    *(_parametrized, _parametrized_and_moved, _parametrized_and_freed),
]


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("change", CHANGES)
def test_never_stale(change: Callable[[LSTM], None], size: tuple[int, int], gradient: bool):
    layer, x = build(**STACK), draw(*size)
    before = run(layer, x, gradient)
    change(layer)
    after = assert_fresh(layer, x, gradient)
    assert (after[0] - before[0]).abs().max() > 1e-4


KINDS: list[tuple[str, dict[str, Any]]] = [
    ("peephole", {"layer_norm": True, "proj_size": 2, "nonrecurrent_proj_size": 3}),
    ("fgr", {}),
    ("slstm", {}),
    ("cifg", {"layer_norm": True}),
]


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize(("cell", "options"), KINDS, ids=str)
def test_the_last_element_of_every_kind_of_parameter_counts(cell: str, options: dict[str, Any], gradient: bool):
    layer, x = build(cell=cell, **options), draw(3, 2)
    with torch.set_grad_enabled(gradient):
        before = layer(x)[0].detach()
        for name, parameter in layer.named_parameters():
            parameter.data.view(-1)[-1] += 0.5
            after = layer(x)[0].detach()
            assert (after - before).abs().max() > 1e-5, name
            before = after
        fresh = build(cell=cell, **options)
        fresh.load_state_dict(layer.state_dict())
        assert_same([before], [fresh(x)[0].detach()])


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_functional_call_uses_what_it_is_given_once(size: tuple[int, int], gradient: bool):
    layer, x = build(**STACK), draw(*size)
    other = {name: value.flip(0).clone() for name, value in layer.named_parameters()}
    with torch.set_grad_enabled(gradient):
        own = layer(x)[0].detach()
        given = functional_call(layer, other, (x,))[0].detach()
        again = layer(x)[0].detach()
        layer.load_state_dict(other)
        expected = layer(x)[0].detach()
    assert_same([given, again], [expected, own])
    assert (own - given).abs().max() > 1e-4


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("name", ["weight_ih", "weight_hh", "bias_ih", "bias_hh"])
def test_a_cells_weights_are_never_stale(name: str, gradient: bool):
    torch.manual_seed(0)
    cell, x = LSTMCell(D, H, backend=BACKEND), draw(2, 4)
    with torch.set_grad_enabled(gradient):
        before = cell(x[0], cell(x[1]))[0].detach()
        cell.get_parameter(name).data.add_(0.3)
        after = cell(x[0], cell(x[1]))[0].detach()
        cell.backend = "reference"
        expected = cell(x[0], cell(x[1]))[0].detach()
    assert error(after, expected.double()) <= 1e-6
    assert (after - before).abs().max() > 1e-4


def test_a_step_of_training_between_two_evaluations():
    layer, x = build(**STACK), draw(1, 1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    seen: list[Tensor] = []
    for _ in range(4):
        seen.append(assert_fresh(layer, x, False)[0])
        _stepped(layer, optimizer)
    assert all((a - b).abs().max() > 1e-5 for a, b in pairwise(seen))


def _shorter(weight: nn.Parameter) -> None:
    weight.data = weight.data[:-4].clone()


def _one_dimension(weight: nn.Parameter) -> None:
    weight.data = weight.data.view(-1)


def _double(weight: nn.Parameter) -> None:
    weight.data = weight.data.double()


def _freed(weight: nn.Parameter) -> None:
    weight.data = weight.data.clone()
    weight.untyped_storage().resize_(0)


WRONG: dict[str, tuple[Callable[[nn.Parameter], None], type[Exception], str]] = {
    "shape": (_shorter, ShapeError, r"weight_hh must have shape \[20, 5\], got \[16, 5\]"),
    "dimensions": (_one_dimension, ShapeError, "weight_hh must have 2 dimensions, got 1"),
    "dtype": (_double, ShapeError, "weight_hh has dtype torch.float64 but x has torch.float32"),
    "memory": (_freed, InputError, "storage is smaller than its shape"),
}


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("kind", WRONG)
def test_what_goes_wrong_after_a_good_call_is_refused(kind: str, gradient: bool):
    spoil, error, text = WRONG[kind]
    layer, x = build(), draw(2, 1)
    weight = layer.get_parameter("weight_hh_l0")
    good = weight.detach().clone()
    with torch.set_grad_enabled(gradient):
        before = layer(x)[0].detach()
        spoil(weight)
        with pytest.raises(error, match=text):
            layer(x)
        weight.data = good
        assert_same([layer(x)[0].detach()], [before])

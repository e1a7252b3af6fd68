"""First and second derivatives of torch's samples of nn.LSTM, checked as torch's own module tests check them."""

from typing import Any

import pytest
import torch
from conformance_torch import (
    SAMPLES,
    ModuleInput,
    arguments,
    assert_close,
    build,
    draw,
    gradcheck,
    gradgradcheck,
    leaves,
    projection_warning,
    twin,
)
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

pytestmark = projection_warning


class Function:
    """A sample's layer as a function of flat tensors: what forward takes, then every parameter."""

    def __init__(self, sample: ModuleInput) -> None:
        self.layer = build(sample, torch.float64)
        self.names, parameters = zip(*self.layer.named_parameters(), strict=True)
        given, self.shape = pytree.tree_flatten(arguments(sample))
        self.point = (*given, *(parameter.detach().clone().requires_grad_() for parameter in parameters))

    def __call__(self, *flat: Tensor) -> tuple[Tensor, ...]:
        split = self.shape.num_leaves
        parameters = dict(zip(self.names, flat[split:], strict=True))
        given = pytree.tree_unflatten(flat[:split], self.shape)
        return tuple(leaves(functional_call(self.layer, parameters, given)))


@pytest.mark.parametrize("index", SAMPLES)
def test_grad(index: int) -> None:
    """Backward, batched and with undefined gradients too, against finite differences."""
    function = Function(draw(index, torch.float64, requires_grad=True))
    assert all(tensor.requires_grad for tensor in function.point)
    assert gradcheck(function, function.point)


@pytest.mark.parametrize("index", SAMPLES)
def test_gradgrad(index: int) -> None:
    function = Function(draw(index, torch.float64, requires_grad=True))
    assert gradgradcheck(function, function.point)


@pytest.mark.parametrize("index", SAMPLES)
def test_whole_jacobian(index: int) -> None:
    """Entry by entry; the fast mode above projects on random vectors, where a wrong entry can hide."""
    function = Function(draw(index, torch.float64, requires_grad=True))
    sizes = [tensor.numel() for tensor in function.point]
    ours = jacobians(function.layer, function)
    theirs = jacobians(twin(draw(index, torch.float64), function.layer), function)
    assert [jacobian.shape[1] for jacobian in ours] == sizes
    assert_close(ours, theirs)


def jacobians(layer: nn.Module, function: Function) -> list[Tensor]:
    """Return, for each input and parameter, the derivative of each output by each of its entries."""
    split = function.shape.num_leaves
    flat = [tensor.detach().clone().requires_grad_() for tensor in function.point]
    parameters = dict(zip(function.names, flat[split:], strict=True))
    output = functional_call(layer, parameters, pytree.tree_unflatten(flat[:split], function.shape))
    entries = torch.cat([leaf.flatten() for leaf in leaves(output)])
    rows: list[tuple[Any, ...]] = [
        torch.autograd.grad(entry, flat, retain_graph=True, materialize_grads=True) for entry in entries
    ]
    return [torch.stack([part.flatten() for part in column]) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("index", SAMPLES)
def test_gradients_of_leaves_equal_torch(index: int, dtype: torch.dtype, mode: str) -> None:
    sample = draw(index, dtype, requires_grad=True)
    ours = build(sample, dtype).train(mode == "train")
    theirs = twin(sample, ours)
    for_ours, for_theirs = arguments(sample), arguments(sample)
    for layer, given in ((ours, for_ours), (theirs, for_theirs)):
        outputs = leaves(layer(*given))
        torch.manual_seed(1)
        torch.autograd.backward(outputs, [torch.randn_like(output) for output in outputs])
    reached = [leaf.grad for leaf in leaves(for_ours)]
    assert_close(reached, [leaf.grad for leaf in leaves(for_theirs)])
    assert_close([p.grad for p in ours.parameters()], [p.grad for p in theirs.parameters()])

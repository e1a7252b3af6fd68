"""Derivatives taken inside torch.compile and around it: right or refused, never zeros in silence."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from differentiated import assert_close, build, draw, gradients, leaves
from torch import Tensor
from torch._dynamo import compiled_autograd
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacrev, jvp, vjp, vmap

from gatewise import LSTM

# Said by torch when its own rules for forward mode are first loaded.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def transforms(layer: LSTM, functional: bool) -> dict[str, Callable[[Tensor], Tensor]]:
    """Every transform of the output by the input; functional: with the parameters as tensors that need no gradient."""
    parameters = {name: parameter.detach() for name, parameter in layer.named_parameters()}

    def output(x: Tensor) -> Tensor:
        return functional_call(layer, parameters, (x,))[0] if functional else layer(x)[0]

    def loss(x: Tensor) -> Tensor:
        return output(x).square().sum()

    return {
        "grad": grad(loss),
        "vjp": lambda x: vjp(loss, x)[1](torch.tensor(0.7, dtype=x.dtype))[0],
        "jvp": lambda x: jvp(output, (x,), (torch.ones_like(x),))[1],
        "jacrev": jacrev(output),
        "vmap": lambda x: vmap(output)(torch.stack([x, x / 2])),
        "vmap of grad": lambda x: vmap(grad(loss))(torch.stack([x, x / 2])),
    }


# Each once with parameters that want a gradient, and once where nothing seems to.
@pytest.mark.parametrize("name", ["grad", "vjp", "jvp", "jacrev", "vmap", "vmap of grad"])
@pytest.mark.parametrize(("functional", "mode"), [(False, torch.enable_grad), (True, torch.no_grad)])
def test_transforms_inside(name: str, functional: bool, mode: Any):
    layer = build("peephole")
    x = draw(layer, 2)[0]
    transform = transforms(layer, functional)[name]
    with mode():
        expected = transform(x)
        assert bool(expected.any())
        found = torch.compile(transform, fullgraph=True, backend="aot_eager")(x)
    assert_close([found], [expected])


def test_a_dual_tensor_keeps_its_tangent():
    layer = build("lstm").requires_grad_(False)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = draw(layer)[0]
    assert_close([compiled(x)[0]], [layer(x)[0]])
    tangents = []
    with forward_ad.dual_level():
        for call in (compiled, layer):
            found = forward_ad.unpack_dual(call(forward_ad.make_dual(x, torch.ones_like(x)))[0]).tangent
            assert found is not None
            tangents.append(found)
    assert bool(tangents[1].any())
    assert_close(tangents[:1], tangents[1:])


@pytest.mark.parametrize("cell", ["lstm", "peephole"])
def test_backward_inside_the_graph(cell: str):
    layer = build(cell)
    x = draw(layer)[0]

    def step(x: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(layer(x)[0].square().sum(), list(layer.parameters()))

    expected = step(x)
    assert all(bool(gradient.any()) for gradient in expected)
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        assert_close(torch.compile(step, fullgraph=True, backend="aot_eager")(x), expected)


@pytest.mark.parametrize("cell", ["lstm", "peephole"])
def test_compiled_autograd(cell: str):
    layer = build(cell)
    x = draw(layer)[0]
    expected = gradients([layer(x)[0]], layer.parameters())
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with compiled_autograd._enable(torch.compile(backend="aot_eager")):
        found = gradients([compiled(x)[0]], layer.parameters())
    assert_close(found, expected)


def test_second_derivatives_are_refused():
    layer = build("peephole")
    x = draw(layer)[0].requires_grad_()

    def penalty(call: Any) -> Tensor:
        # The second term alone has a gradient where the first is lost.
        y = call(x)[0]
        (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum() + y.sum(), x)[0]

    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with pytest.raises(RuntimeError, match="double backward"):
        penalty(compiled)
    # Not compiled it is right.
    slope = jacrev(lambda x: layer(x)[0].square().sum())
    assert_close([penalty(layer)], [jacrev(lambda x: slope(x).square().sum() + layer(x)[0].sum())(x)])


def test_leaves_are_reached_through_the_module():
    layer = build("slstm", num_layers=2)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x, *hx = (tensor.requires_grad_() for tensor in draw(layer))
    torch.stack([value.square().sum() for value in leaves(compiled(x, tuple(hx)))]).sum().backward()
    reached = [x.grad, *(part.grad for part in hx), *(parameter.grad for parameter in layer.parameters())]
    assert all(gradient is not None and bool(gradient.any()) for gradient in reached)

"""Transforms of torch.func and forward mode over exported programs: those of the layer, never zeros in silence."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from differentiated import BOTH, assert_close, build, draw
from test_nn_export import exported, operands
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.export import export
from torch.func import functional_call, grad, hessian, jacrev, jvp, vjp, vmap

from gatewise.errors import InputError

# Said by torch when its own rules for forward mode are first loaded.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

TRANSFORMS: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]] = {
    "grad": lambda loss, x: grad(loss)(x),
    "vjp": lambda loss, x: vjp(loss, x)[1](torch.tensor(0.7, dtype=x.dtype))[0],
    "jvp": lambda loss, x: jvp(loss, (x,), (torch.ones_like(x),))[1],
    "jacrev": lambda loss, x: jacrev(loss)(x),
    "hessian": lambda loss, x: hessian(loss)(x),
    "vmap": lambda loss, x: vmap(loss)(torch.stack([x, x / 2])),
    "vmap of grad": lambda loss, x: vmap(grad(loss))(torch.stack([x, x / 2])),
}


def loss_of(module: nn.Module, **keywords: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: sum((part.square().sum() for part in tensors_of(module(x, None, **keywords))), torch.zeros(()))


def tensors_of(result: Any) -> tuple[Tensor, ...]:
    output, state = result[:2]
    return output, *state


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize(
    ("cell", "options", "mode"),
    [
        ("lstm", BOTH, torch.no_grad),
        ("peephole", {"learned_state": True}, torch.enable_grad),
        ("slstm", {}, torch.enable_grad),
    ],
)
def test_transforms_by_the_input(transform: str, cell: str, options: dict[str, Any], mode: Any):
    layer = build(cell, **options)
    x = draw(layer, 3, 2)[0]
    # Of one size: torch's vmap knows no graph that asks for sizes.
    module = export(layer, (x, None)).module()
    with mode():
        expected = TRANSFORMS[transform](loss_of(layer), x)
        assert bool(expected.any())
        assert_close([TRANSFORMS[transform](loss_of(module), x)], [expected])


def test_lengths_resets_and_traces():
    layer = build("fgr", bidirectional=True)
    module = exported(layer, with_state=False, with_keywords=True).module()
    x = draw(layer, 5, 2)[0]
    keywords = {"lengths": torch.tensor([5, 2]), "reset": torch.eye(5, 2) > 0, "trace": True}
    expected = grad(loss_of(layer, **keywords))(x)
    assert bool(expected.any())
    assert_close([grad(loss_of(module, **keywords))(x)], [expected])
    with pytest.raises(InputError, match=r"lengths\[1\] is 9"):
        grad(loss_of(module, **keywords | {"lengths": torch.tensor([5, 9])}))(x)


def test_gradients_of_the_weights():
    layer = build("cifg", **BOTH)
    module = exported(layer, with_state=False, with_keywords=False).module()
    x = draw(layer, 3, 2)[0]
    found, expected = (
        grad(lambda p, m=m: functional_call(m, p, (x, None))[0].square().sum())(
            {name: parameter.detach() for name, parameter in m.named_parameters()}
        )
        for m in (module, layer)
    )
    assert found.keys() == expected.keys()
    assert all(bool(gradient.any()) for gradient in expected.values())
    assert_close(found.values(), (expected[name] for name in found))


def test_a_dual_tensor_keeps_its_tangent():
    layer = build("lstm").requires_grad_(False)
    module = exported(layer, with_state=False, with_keywords=False).module()
    x = draw(layer)[0]
    tangents = []
    with forward_ad.dual_level():
        for call in (module, layer):
            found = forward_ad.unpack_dual(call(forward_ad.make_dual(x, torch.ones_like(x)), None)[0]).tangent
            assert found is not None
            tangents.append(found)
    assert bool(tangents[1].any())
    assert_close(tangents[:1], tangents[1:])


def test_what_the_engine_serves_under_transforms_and_what_it_refuses():
    layer = build("lstm", torch.float32, backend="native").requires_grad_(False)
    module = exported(layer, with_state=False, with_keywords=False).module()
    x = draw(layer)[0]
    found = grad(loss_of(module))(x)
    assert bool(found.any())
    assert torch.equal(found, grad(loss_of(layer))(x))
    with pytest.raises(InputError, match=r"'native' cannot serve this call: forward-mode"):
        jvp(loss_of(module), (x,), (x,))


@pytest.mark.parametrize("transform", ["grad", "vmap", "jvp"])
def test_transforms_of_the_backward_operator_are_refused(transform: str):
    given, *rest = operands("peephole")
    ones = [torch.ones_like(y) for y in torch.ops.gatewise.layer_forward(given, *rest)]
    x, *others = given

    def loss(x: Tensor) -> Tensor:
        found = torch.ops.gatewise.layer_backward(ones, [x, *others], *rest, wanted=[True] * len(given))
        return found[0].sum()

    with pytest.raises(NotImplementedError, match=r"torch\.func cannot transform the backward of a compiled layer"):
        TRANSFORMS[transform](loss, x)

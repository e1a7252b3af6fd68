"""torch.func over the module, and forward-mode differentiation, against loops and finite differences."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from differentiated import BOTH, Function, assert_close, build, draw, gradients, leaves, weighed
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap

from gatewise import LSTM

# Said by torch when its own rules for forward mode are first loaded.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

VARIED = [
    ("lstm", {}),
    ("lstm", BOTH),
    ("peephole", BOTH),
    ("slstm", {}),
    ("slstm", BOTH),
    ("fgr", {}),
    ("cifg", {"bidirectional": True, "layer_norm": True}),
    ("rnn", {"bidirectional": True}),
    ("noaf", {"proj_size": 2, "nonrecurrent_proj_size": 1}),
]
varied = pytest.mark.parametrize(("cell", "options"), VARIED, ids=str)
LENGTHS = torch.tensor([[2, 0], [4, 3], [1, 4]])
RESET = torch.rand(3, 4, 2, generator=torch.Generator().manual_seed(0)) < 0.4


def parameters_of(layer: LSTM) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in layer.named_parameters()}


def batches(layer: LSTM, count: int = 3) -> tuple[Tensor, ...]:
    """Draw several batches: of the input and of each state one more dimension, in front."""
    return tuple(torch.stack(parts) for parts in zip(*(draw(layer, 4, 2) for _ in range(count)), strict=True))


def several(layer: LSTM) -> tuple[Tensor, ...]:
    return tuple(
        part * torch.tensor([1.0, 0.5, -0.7]).abs().reshape(3, *(1,) * (part.dim() - 1)) for part in batches(layer)
    )


def called(layer: LSTM) -> Callable[..., tuple[Tensor, ...]]:
    def function(parameters: dict[str, Tensor], x: Tensor, *hx: Tensor, **keywords: Any) -> tuple[Tensor, ...]:
        return leaves(functional_call(layer, parameters, (x, hx or None), keywords))

    return function


def stacked(runs: list[tuple[Tensor, ...]]) -> list[Tensor]:
    return [torch.stack(parts) for parts in zip(*runs, strict=True)]


@varied
def test_grad_equals_autograd(cell: str, options: dict[str, Any]):
    layer = build(cell, **options)
    function, parameters, (x, *hx) = called(layer), parameters_of(layer), draw(layer)
    found, at_x = grad(lambda p, x: weighed(function(p, x, *hx)), argnums=(0, 1))(parameters, x)
    expected = gradients(leaves(layer(x.requires_grad_(), tuple(hx))), [x, *layer.parameters()])
    assert_close([at_x, *found.values()], expected)


@varied
@pytest.mark.parametrize("trace", [False, True])
def test_vmap_over_data(cell: str, options: dict[str, Any], trace: bool):
    layer = build(cell, **options)
    function, parameters, data = called(layer), parameters_of(layer), several(layer)
    found = vmap(lambda *given: function(parameters, *given, trace=trace))(*data)
    assert_close(found, stacked([function(parameters, *(d[k] for d in data), trace=trace) for k in range(3)]))


@pytest.mark.parametrize(("in_dim", "out_dim"), [(0, 0), (1, 2), (2, 1), (-1, 0)])
@pytest.mark.parametrize("cell", ["lstm", "peephole", "slstm"])
def test_vmap_over_any_dimension(cell: str, in_dim: int, out_dim: int):
    layer = build(cell, bidirectional=True)
    x = several(layer)[0]
    found = vmap(lambda x: layer(x)[0], in_dims=in_dim, out_dims=out_dim)(x.movedim(0, in_dim))
    assert_close([found], [torch.stack([layer(part)[0] for part in x]).movedim(0, out_dim)])


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("cell", ["lstm", "fgr"])
def test_vmap_over_single_sequences_is_a_batch(cell: str, batch_first: bool):
    layer = build(cell, batch_first=batch_first, **BOTH)
    x = draw(layer, 4, 3)[0]
    dim = 0 if batch_first else 1
    assert_close([vmap(lambda x: layer(x)[0], dim, dim)(x)], [layer(x)[0]])


@varied
def test_vmap_over_lengths_and_resets(cell: str, options: dict[str, Any]):
    layer = build(cell, **options)
    function, parameters, data = called(layer), parameters_of(layer), several(layer)

    def run(lengths: Tensor, reset: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        return function(parameters, *given, lengths=lengths, reset=reset, trace=True)

    expected = stacked([run(LENGTHS[k], RESET[k], *(d[k] for d in data)) for k in range(3)])
    assert_close(vmap(run)(LENGTHS, RESET, *data), expected)
    same_data = stacked([run(LENGTHS[k], RESET[k], *(d[0] for d in data)) for k in range(3)])
    assert_close(vmap(lambda lengths, reset: run(lengths, reset, *(d[0] for d in data)))(LENGTHS, RESET), same_data)


@varied
@pytest.mark.parametrize("dims", [(0, None), (0, 0)], ids=["same data", "own data"])
def test_ensembles_of_weights(cell: str, options: dict[str, Any], dims: tuple[int | None, int | None]):
    layers = [build(cell, **options) for _ in range(3)]
    for scale, layer in enumerate(layers, 1):
        for parameter in layer.parameters():
            parameter.data.div_(scale)
    weights, _ = stack_module_state(list[torch.nn.Module](layers))
    data = several(layers[0])[0] if dims[1] == 0 else draw(layers[0])[0]
    found = vmap(called(layers[0]), in_dims=dims)(weights, data)
    expected = [leaves(layer(data[k] if dims[1] == 0 else data)) for k, layer in enumerate(layers)]
    assert not torch.allclose(expected[0][0], expected[1][0])
    assert_close(found, stacked(expected))


@varied
def test_gradients_of_an_ensemble(cell: str, options: dict[str, Any]):
    layer = build(cell, **options)
    weights = {name: torch.stack([value, value / 2]) for name, value in parameters_of(layer).items()}
    x = draw(layer)[0]
    function = called(layer)
    found = vmap(grad(lambda p: weighed(function(p, x))))(weights)
    for k in range(2):
        one = {name: value[k].clone().requires_grad_() for name, value in weights.items()}
        assert_close([value[k] for value in found.values()], gradients(function(one, x), one.values()))


@varied
def test_per_sample_gradients(cell: str, options: dict[str, Any]):
    layer = build(cell, **options)
    function, x = called(layer), draw(layer, 4, 3)[0]
    each = vmap(grad(lambda p, x: weighed(function(p, x))), in_dims=(None, 1))(parameters_of(layer), x)
    for k in range(3):
        expected = gradients(leaves(layer(x[:, k])), layer.parameters())
        assert_close([value[k] for value in each.values()], expected)


def test_per_sample_gradients_of_a_learned_state():
    layer = build("peephole", learned_state=True, **BOTH)
    function, x = called(layer), draw(layer, 4, 3)[0]
    each = vmap(grad(lambda p, x: weighed(function(p, x))), in_dims=(None, 1))(parameters_of(layer), x)
    for k in range(3):
        assert_close([value[k] for value in each.values()], gradients(leaves(layer(x[:, k])), layer.parameters()))


def test_per_sample_gradients_with_lengths():
    layer = build("peephole", **BOTH)
    function, x, lengths = called(layer), draw(layer, 4, 3)[0], torch.tensor([[4], [2], [3]])

    def loss(parameters: dict[str, Tensor], x: Tensor, lengths: Tensor) -> Tensor:
        return weighed(function(parameters, x[:, None], lengths=lengths))

    each = vmap(grad(loss), in_dims=(None, 1, 0))(parameters_of(layer), x, lengths)
    for k in range(3):
        expected = gradients(leaves(layer(x[:, k : k + 1], lengths=lengths[k])), layer.parameters())
        assert_close([value[k] for value in each.values()], expected)


def tangents(point: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    return tuple(torch.randn(part.shape, generator=generator, dtype=torch.float64).to(part.dtype) for part in point)


def slopes(function: Callable[..., tuple[Tensor, ...]], point: tuple[Tensor, ...]) -> list[Tensor]:
    """Central differences along the tangents, with an error of about 1e-9."""
    step = 1e-5
    ahead, behind = (
        function(*(p.detach() + side * step * v for p, v in zip(point, tangents(point), strict=True)))
        for side in (1, -1)
    )
    return [((a - b) / (2 * step)).detach() for a, b in zip(ahead, behind, strict=True)]


@varied
@pytest.mark.parametrize("keywords", [{}, {"lengths": LENGTHS[1], "reset": RESET[1], "trace": True}], ids=["", "all"])
def test_jvp(cell: str, options: dict[str, Any], keywords: dict[str, Any]):
    function = Function(build(cell, **options), **keywords)
    point = tuple(part.detach() for part in function.point())
    values, found, *_ = jvp(function, point, tangents(point))
    assert_close(values, function(*point))
    # Only y: after a reset, an exponential gate and the normaliser are exactly 1 whatever the input.
    assert bool(found[0].any())
    assert_close(found, slopes(function, point), tolerance=1e-7)
    jacobians = jacrev(function, argnums=tuple(range(len(point))))(*point)
    products = [
        sum(torch.tensordot(j, v, v.dim()) for j, v in zip(row, tangents(point), strict=True)) for row in jacobians
    ]
    assert_close(found, [torch.as_tensor(product) for product in products], tolerance=1e-11)


@pytest.mark.parametrize("needs_gradient", [False, True])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("cell", ["lstm", "peephole"])
def test_no_form_of_forward_mode_loses_its_tangent(cell: str, dtype: torch.dtype, mode: Any, needs_gradient: bool):
    # Where no gradient is wanted the default backend is the compiled kernel, which would drop a tangent in silence.
    layer = build(cell, dtype).requires_grad_(needs_gradient)
    x = draw(layer)[0]
    (v,) = tangents((x,))
    (expected,) = slopes(lambda x: (build(cell)(x)[0],), (x.double(),))
    tolerance = 1e-7 if dtype is torch.float64 else 1e-5
    with mode():
        assert_close([jvp(lambda x: layer(x)[0], (x,), (v,))[1]], [expected], tolerance)
        with forward_ad.dual_level():
            found = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, v))[0]).tangent
            assert found is not None
            assert_close([found], [expected], tolerance)


def test_tangents_of_weights_alone():
    layer = build("lstm").requires_grad_(False)
    function, parameters, x = called(layer), parameters_of(layer), draw(layer)[0]
    point = tuple(parameters.values())

    def run(*weights: Tensor) -> tuple[Tensor, ...]:
        return function(dict(zip(parameters, weights, strict=True)), x)

    found = jvp(run, point, tangents(point))[1]
    assert all(bool(part.any()) for part in found)
    assert_close(found, slopes(run, point), tolerance=1e-7)


@varied
def test_vjp_and_both_jacobians_agree(cell: str, options: dict[str, Any]):
    layer = build(cell, **options)
    x = draw(layer, 3, 1)[0]
    reverse, forward = (transform(lambda x: layer(x)[0])(x) for transform in (jacrev, jacfwd))
    assert bool(reverse.any())
    assert_close([forward], [reverse])
    y, pull, *_ = vjp(lambda x: layer(x)[0], x)
    (v,) = tangents((y.detach(),))
    assert_close(pull(v), [torch.tensordot(v, reverse, y.dim())])


@pytest.mark.parametrize("cell", ["lstm", "peephole", "slstm", "fgr"])
def test_hessian_equals_double_backward(cell: str):
    layer = build(cell, bidirectional=True)
    x = draw(layer, 3, 1)[0]
    found = hessian(lambda x: weighed(leaves(layer(x))))(x).reshape(x.numel(), x.numel())
    given = x.requires_grad_()
    (first,) = torch.autograd.grad(weighed(leaves(layer(given))), given, create_graph=True)
    rows = [torch.autograd.grad(entry, given, retain_graph=True)[0].flatten() for entry in first.flatten()]
    assert bool(found.any())
    assert_close([found], [torch.stack(rows)])


@pytest.mark.parametrize(
    "options",
    [{"num_layers": 2, "dropout": 0.5}, {"zoneout": 0.5}, {"recurrent_dropout": 0.5}, {"weight_drop": 0.5}],
    ids=str,
)
def test_randomness_under_vmap_is_torchs_choice(options: dict[str, Any]):
    layer = build("lstm", **options)
    torch.manual_seed(0)
    x = draw(layer)[0].expand(3, -1, -1, -1)
    for randomness, equal in (("same", True), ("different", False)):
        y = vmap(lambda x: layer(x)[0], randomness=randomness)(x)
        assert torch.equal(y[0], y[1]) is equal

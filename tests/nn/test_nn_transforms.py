"""Transforms of torch.func on the native engine, composed in many ways: what the reference gives in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from differentiated import BOTH, CELLS, assert_close, build, draw, leaves, weighed
from torch import Tensor
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap
from torch.utils.checkpoint import checkpoint

from gatewise import LSTM
from gatewise.errors import InputError
from gatewise.ops import Direction, Noise, Weights, layer

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

B = 3
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-12}


class Case:
    """A layer with one dtype and backend, its parameters, and inputs [B, T, 2, D]."""

    def __init__(self, backend: str, dtype: torch.dtype, cell: str, **options: Any) -> None:
        self.layer = build(cell, dtype, backend=backend, **options)
        self.parameters = {name: parameter.detach() for name, parameter in self.layer.named_parameters()}
        x, *self.hx = draw(self.layer)
        self.x = x * torch.tensor([1.0, 0.5, -0.7], dtype=dtype).reshape(B, 1, 1, 1)
        self.lengths = torch.tensor([[2, 0], [4, 3], [1, 4]])
        self.reset = torch.rand(B, 4, 2, generator=torch.Generator().manual_seed(0)) < 0.4

    def run(self, parameters: dict[str, Tensor], x: Tensor, *hx: Any, **keywords: Any) -> tuple[Tensor, ...]:
        return leaves(functional_call(self.layer, parameters, (x, hx or None), keywords))

    def loss(self, parameters: dict[str, Tensor], x: Tensor, *hx: Tensor, **keywords: Any) -> Tensor:
        return weighed(self.run(parameters, x, *hx, **keywords))

    def stacked(self, count: int = 4) -> dict[str, Tensor]:
        """The parameters of several members."""
        return {name: torch.stack([value / k for k in range(1, 1 + count)]) for name, value in self.parameters.items()}


def both(transform: Callable[[Case], Any], cell: str = "peephole", **options: Any) -> None:
    """Compare what a transform gives on the native engine with what it gives on the reference."""
    expected = leaves(transform(Case("reference", torch.float64, cell, **options)))
    assert any(bool(tensor.any()) for tensor in expected)
    for dtype, tolerance in TOLERANCES.items():
        assert_close(leaves(transform(Case("native", dtype, cell, **options))), expected, tolerance)


def cut(case: Case) -> Any:
    def run(x: Tensor, lengths: Tensor, reset: Tensor) -> Any:
        return case.loss(case.parameters, x, *case.hx, lengths=lengths, reset=reset, trace=True)

    return run


def _twice(case: Case) -> Any:
    y, pull, *_ = vjp(lambda p: case.run(p, case.x[0])[0], case.parameters)
    return pull(y), pull(y.cos())


FIRST: dict[str, Callable[[Case], Any]] = {
    "vmap": lambda c: vmap(lambda x: c.run(c.parameters, x, *c.hx))(c.x),
    "vmap in the middle": lambda c: vmap(lambda x: c.run(c.parameters, x)[0], 2, 3)(c.x.movedim(0, 2)),
    "vmap at the end": lambda c: vmap(lambda x: c.run(c.parameters, x)[0], -1, -1)(c.x.movedim(0, -1)),
    "vmap over lengths alone": lambda c: vmap(lambda n: c.run(c.parameters, c.x[0], lengths=n, trace=True))(c.lengths),
    "vmap over states alone": lambda c: vmap(lambda *hx: c.run(c.parameters, c.x[0], *hx))(
        *(torch.stack([part, part / 2]) for part in c.hx)
    ),
    "vmap of vmap": lambda c: vmap(vmap(lambda x: c.run(c.parameters, x)[0], 1, 1))(c.x),
    "vmap of vmap of states": lambda c: vmap(
        lambda x: vmap(lambda h: c.run(c.parameters, x, h, *c.hx[1:])[0])(torch.stack([c.hx[0], c.hx[0] / 2]))
    )(c.x),
    "chunks": lambda c: vmap(lambda x: c.run(c.parameters, x)[0], chunk_size=2)(c.x),
    "grad": lambda c: grad(c.loss, (0, 1))(c.parameters, c.x[0]),
    "vmap of grad": lambda c: vmap(grad(c.loss, (0, 1)), (None, 0))(c.parameters, c.x),
    "vmap of grad with everything": lambda c: vmap(grad(cut(c)), (0, 0, 0))(c.x, c.lengths, c.reset),
    "vmap of grad of parameters with everything": lambda c: vmap(
        grad(lambda p, x, n, r: c.loss(p, x, lengths=n, reset=r, trace=True)), (None, 0, 0, 0)
    )(c.parameters, c.x, c.lengths, c.reset),
    "samples": lambda c: vmap(grad(c.loss), (None, 1))(c.parameters, c.x[0]),
    "samples in chunks": lambda c: vmap(grad(c.loss), (None, 0), chunk_size=2)(c.parameters, c.x),
    "samples of samples": lambda c: vmap(vmap(grad(c.loss), (None, 1)), (None, 0))(c.parameters, c.x),
    "grad of vmap": lambda c: grad(lambda p: vmap(lambda x: c.loss(p, x))(c.x).square().sum())(c.parameters),
    "members": lambda c: vmap(c.run, (0, None))(c.stacked(), c.x[0]),
    "members with own rows": lambda c: vmap(c.run, (0, 0))(c.stacked(B), c.x),
    "grad of members": lambda c: vmap(grad(c.loss, (0, 1)), (0, None))(c.stacked(), c.x[0]),
    "members grad over one": lambda c: grad(lambda p: vmap(c.loss, (0, None))(p, c.x[0]).square().sum())(c.stacked()),
    "members of samples": lambda c: vmap(vmap(grad(c.loss), (None, 0)), (0, None))(c.stacked(), c.x),
    "samples of members": lambda c: vmap(vmap(grad(c.loss), (0, None)), (None, 0))(c.stacked(), c.x),
    "members of members": lambda c: vmap(vmap(grad(c.loss), (0, None)), (0, None))(
        {name: torch.stack([value, -value]) for name, value in c.stacked().items()}, c.x[0]
    ),
    "one weight alone": lambda c: vmap(lambda w: c.run({**c.parameters, "weight_hh_l0": w}, c.x[0]))(
        c.stacked()["weight_hh_l0"]
    ),
    "jacrev": lambda c: jacrev(lambda x: c.run(c.parameters, x)[0])(c.x[0]),
    "jacrev of parameters": lambda c: jacrev(lambda p: c.run(p, c.x[0])[0])(c.parameters),
    "jacrev in chunks": lambda c: jacrev(lambda x: c.run(c.parameters, x)[0], chunk_size=3)(c.x[0]),
    "vmap of jacrev": lambda c: vmap(jacrev(lambda x: c.run(c.parameters, x)[0][-1]))(c.x),
    "vjp twice": _twice,
    "vjp under vmap": lambda c: vmap(vjp(lambda p: c.run(p, c.x[0])[0], c.parameters)[1])(
        torch.stack([torch.ones_like(c.run(c.parameters, c.x[0])[0]) * k for k in range(3)])
    ),
}


@pytest.mark.parametrize("options", [{}, BOTH, {"save": "states", "layer_norm": True}], ids=str)
@pytest.mark.parametrize("name", FIRST)
def test_first_derivatives(name: str, options: dict[str, Any]):
    both(FIRST[name], **options)


@pytest.mark.parametrize("name", ["vmap of grad with everything", "samples", "grad of members", "jacrev"])
@pytest.mark.parametrize("cell", CELLS)
def test_every_cell(cell: str, name: str):
    both(FIRST[name], cell)


@pytest.mark.parametrize("name", ["samples", "grad of members"])
def test_projections(name: str):
    both(FIRST[name], "noaf", proj_size=2, nonrecurrent_proj_size=1)


def directional(case: Case) -> Any:
    return jvp(vmap(lambda x: case.run(case.parameters, x)[0]), (case.x,), (case.x.cos(),))


SECOND: dict[str, Callable[[Case], Any]] = {
    "hessian": lambda c: hessian(lambda x: c.loss(c.parameters, x))(c.x[0]),
    "grad of grad": lambda c: grad(lambda x: weighed([grad(lambda x: c.loss(c.parameters, x))(x)]))(c.x[0]),
    "jacrev of grad": lambda c: jacrev(grad(lambda x: c.loss(c.parameters, x)))(c.x[0]),
    "jacfwd": lambda c: jacfwd(lambda x: c.run(c.parameters, x)[0])(c.x[0]),
    "jvp of vmap": directional,
    "vmap of jvp": lambda c: vmap(lambda x: jvp(lambda x: c.run(c.parameters, x)[0], (x,), (x.cos(),)))(c.x),
    "jvp of samples": lambda c: jvp(lambda x: vmap(grad(c.loss), (None, 0))(c.parameters, x), (c.x,), (c.x.cos(),)),
    "jvp of a vjp": lambda c: jvp(
        lambda v: vjp(lambda x: c.run(c.parameters, x)[0], c.x[0])[1](v)[0],
        (c.run(c.parameters, c.x[0])[0],),
        (c.run(c.parameters, c.x[0])[0].cos(),),
    ),
    "tangents of a pull-back": lambda c: jacfwd(vjp(lambda x: c.run(c.parameters, x)[0], c.x[0])[1])(
        c.run(c.parameters, c.x[0])[0]
    ),
    "grad of samples": lambda c: grad(lambda p: weighed(vmap(grad(c.loss), (None, 0))(p, c.x).values()))(c.parameters),
    "grad of samples of members": lambda c: grad(
        lambda p: weighed(vmap(vmap(grad(c.loss), (None, 0)), (0, None))(p, c.x).values())
    )(c.stacked(2)),
    "samples of grad of grad": lambda c: vmap(grad(lambda p, x: weighed([grad(lambda x: c.loss(p, x))(x)])), (None, 0))(
        c.parameters, c.x
    ),
    "grad of a gradient of all inputs": lambda c: grad(
        lambda x: weighed(leaves(grad(c.loss, (0, 1))(c.parameters, x)))
    )(c.x[0]),
}


# Of the longest ones a cell is enough: what is looked at, the way to the reference, is the same for all.
@pytest.mark.parametrize(
    ("cell", "name"),
    [("peephole", name) for name in SECOND]
    + [("slstm", name) for name in SECOND if name not in {"hessian", "jacrev of grad", "jacfwd"}],
)
def test_what_the_reference_serves(cell: str, name: str):
    # Second derivatives cannot be asked of the engine by name where forward mode is on.
    expected = leaves(SECOND[name](Case("reference", torch.float64, cell)))
    assert any(bool(tensor.any()) for tensor in expected)
    for dtype, tolerance in TOLERANCES.items():
        assert_close(leaves(SECOND[name](Case("auto", dtype, cell))), expected, 3 * tolerance)


def test_autograd_outside():
    def differentiated(case: Case) -> Any:
        parameters = {name: value.clone().requires_grad_() for name, value in case.parameters.items()}
        samples = vmap(grad(case.loss), (None, 0))(parameters, case.x)
        y = vmap(lambda x: case.run(parameters, x)[0])(case.x)
        return *samples.values(), *torch.autograd.grad(weighed([*samples.values(), y]), list(parameters.values()))

    both(differentiated)


def test_checkpointed():
    def differentiated(case: Case) -> Any:
        parameters = {name: value.clone().requires_grad_() for name, value in case.parameters.items()}
        y = checkpoint(vmap(lambda x: case.run(parameters, x)[0]), case.x, use_reentrant=False)
        assert isinstance(y, Tensor)
        return torch.autograd.grad(weighed([y]), list(parameters.values()))

    both(differentiated)


def test_outputs_changed_in_place():
    def loss(case: Case) -> Callable[..., Tensor]:
        def changed(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
            y = case.run(parameters, x)[0]
            return weighed([y.mul_(2)])

        return changed

    both(lambda case: vmap(grad(loss(case)), (None, 0))(case.parameters, case.x))


def test_no_grad_inside():
    case = Case("native", torch.float32, "lstm")

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        with torch.no_grad():
            y = case.run(parameters, x)[0]
        return (y * x.sum()).sum()

    found = vmap(grad(loss), (None, 0))(case.parameters, case.x)
    assert not any(value.any() for value in found.values())


def test_inference_mode():
    with torch.inference_mode():
        both(FIRST["samples"])
        both(FIRST["members"])


@pytest.mark.parametrize("lengths", [[[2, 5]], [[-1, 2]]])
def test_lengths_that_do_not_fit_are_told_under_vmap_too(lengths: list[list[int]]):
    case = Case("native", torch.float32, "lstm")
    with pytest.raises(InputError, match="lengths must be from 0 to T, 4"):
        vmap(lambda n: case.run(case.parameters, case.x[0], lengths=n))(torch.tensor(lengths))


def test_an_ensemble_of_modules():
    layers = [LSTM(2, 3, backend="native") for _ in range(3)]
    parameters, buffers = stack_module_state(list[torch.nn.Module](layers))
    x = torch.randn(5, 2, 2)
    y = vmap(lambda p, b: functional_call(layers[0], (p, b), (x,))[0])(parameters, buffers)
    assert all(torch.equal(own, module(x)[0]) for own, module in zip(y, layers, strict=True))


@pytest.mark.parametrize("randomness", ["same", "different"])
@pytest.mark.parametrize("options", [{"zoneout": 0.5}, {"recurrent_dropout": 0.5}, {"weight_drop": 0.5}], ids=str)
def test_masks_are_drawn_as_vmap_says(options: dict[str, Any], randomness: str):
    module = build("lstm", torch.float32, backend="native", **options)
    exact = build("lstm", torch.float32, backend="reference", **options)
    x = draw(module)[0].expand(3, -1, -1, -1)
    torch.manual_seed(0)
    y = vmap(lambda x: module(x)[0], randomness=randomness)(x)
    assert torch.equal(y[0], y[1]) is (randomness == "same")
    torch.manual_seed(0)
    assert_close([y], [vmap(lambda x: exact(x)[0], randomness=randomness)(x)], TOLERANCES[torch.float32])
    with pytest.raises(RuntimeError, match="randomness"):
        vmap(lambda x: module(x)[0])(x)


def test_a_gradient_of_a_mask_is_the_references():
    generator = torch.Generator().manual_seed(0)
    x, mask = torch.randn(3, 2, 4, generator=generator), torch.rand(2, 5, generator=generator)
    weights = Weights(torch.randn(20, 4, generator=generator), torch.randn(20, 5, generator=generator))
    zeros = torch.zeros(2, 5)

    def loss(mask: Tensor, backend: str) -> Tensor:
        return layer(x, [Direction((zeros, zeros), weights, noise=Noise(mask))], backend=backend).y.sum()

    assert torch.equal(grad(loss)(mask, "auto"), grad(loss)(mask, "reference"))
    with pytest.raises(InputError, match="a gradient of a dropout or zoneout mask"):
        grad(loss)(mask, "native")

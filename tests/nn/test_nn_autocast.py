"""Autocast: computed in float32, returned in autocast's dtype; float64 stays what it is."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from differentiated import CELLS, assert_close, build, draw, gradients, leaves
from torch import Tensor

from gatewise import LSTM, _native, ops
from gatewise.errors import InputError
from gatewise.ops import Direction, Weights

LOW = [torch.bfloat16, torch.float16]
low = pytest.mark.parametrize("dtype", LOW, ids=str)
KEYWORDS = {
    "lengths": torch.tensor([4, 0, 2]),
    "reset": torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 0], [1, 0, 0]]).bool(),
}


def run(layer: LSTM, call: Any = None, **keywords: Any) -> tuple[Tensor, ...]:
    x, *hx = draw(layer, 4, 3)
    return leaves((layer if call is None else call)(x, tuple(hx), **keywords))


@pytest.fixture
def _float32_products() -> Iterator[None]:
    """Leave the processor's products of bfloat16 to tests/native/test_native_narrow.py."""
    former = _native.isa()
    if _native.multiplies_bfloat16():
        _native.use_isa("baseline")
    yield
    _native.use_isa(former)


@low
@pytest.mark.usefixtures("_float32_products")
@pytest.mark.parametrize("keywords", [{}, {**KEYWORDS, "trace": True}], ids=["", "all"])
@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_results_are_those_of_float32_rounded(cell: str, gradient: bool, keywords: dict[str, Any], dtype: torch.dtype):
    layer = build(cell, torch.float32, bidirectional=True)
    with torch.set_grad_enabled(gradient):
        exact = run(layer, **keywords)
        with torch.autocast("cpu", dtype):
            found = run(layer, **keywords)
    assert {value.dtype for value in exact} == {torch.float32}
    for a, b in zip(found, exact, strict=True):
        assert a.dtype == dtype
        assert torch.equal(a, b.to(dtype))


@low
@pytest.mark.parametrize("cell", ["lstm", "peephole", "slstm"])
def test_gradients_reach_weights_in_float32(cell: str, dtype: torch.dtype):
    layer = build(cell, torch.float32, bidirectional=True)
    inputs = [tensor.requires_grad_() for tensor in draw(layer, 4, 3)]
    wanted = [*inputs, *layer.parameters()]
    with torch.autocast("cpu", dtype):
        values = leaves(layer(inputs[0], tuple(inputs[1:])))
    found = gradients([value.float() for value in values], wanted)
    assert {gradient.dtype for gradient in found} == {torch.float32}
    # All that is low is what flows back, rounded once where the outputs were.
    exact = leaves(layer(inputs[0], tuple(inputs[1:])))
    weights = [torch.linspace(-1, 1.3, v.numel()).sin().reshape(v.shape).to(dtype).float() for v in exact]
    expected = torch.autograd.grad(exact, wanted, weights)
    assert_close(found, expected, tolerance=1e-6)


@low
def test_low_input_and_float32_weights(dtype: torch.dtype):
    layer = build("peephole", torch.float32)
    x = draw(layer, 4, 3)[0].to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype):
        y, state = layer(x)
    assert torch.equal(y, layer(x.float())[0].to(dtype))
    assert {y.dtype, *(part.dtype for part in state)} == {dtype}
    wanted = [x, *layer.parameters()]
    assert [gradient.dtype for gradient in gradients([y], wanted)] == [dtype, *(torch.float32 for _ in wanted[1:])]


@low
@pytest.mark.parametrize("backend", ["native", "torch", "reference"])
@torch.no_grad()
def test_given_outputs_are_of_the_dtype_that_autocast_returns(backend: str, dtype: torch.dtype):
    layer = build("lstm", torch.float32)
    x, *hx = draw(layer, 4, 3)
    direction = Direction(tuple(part[0] for part in hx), Weights(*layer.parameters()))

    def run(out: Tensor | None) -> Tensor:
        return ops.layer(x, [direction], out=out, backend=backend).y

    with torch.autocast("cpu", dtype):
        expected = run(None)
        # What the engine computes in has twice the bytes: nothing beyond the outputs may be written.
        memory = torch.full((2 * expected.numel(),), 7, dtype=dtype)
        out = memory[: expected.numel()].view(expected.shape)
        assert run(out) is out
        assert torch.equal(out, expected)
        assert bool((memory[expected.numel() :] == 7).all())
        for other in {torch.float16, torch.bfloat16, torch.float32, torch.float64} - {dtype}:
            with pytest.raises(InputError, match=f"out has dtype {other} but autocast returns {dtype}"):
                run(out.to(other))
        with torch.enable_grad(), pytest.raises(InputError, match="a gradient is needed"):
            run(out)


@low
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("cell", ["lstm", "slstm"])
def test_float64_is_untouched(cell: str, compiled: bool, dtype: torch.dtype):
    torch._dynamo.reset()
    layer = build(cell, bidirectional=True)
    call = torch.compile(layer, fullgraph=True, backend="aot_eager") if compiled else layer
    with torch.autocast("cpu", dtype):
        found = run(layer, call)
        of_layer = gradients(found, layer.parameters())
    assert {value.dtype for value in (*found, *of_layer)} == {torch.float64}
    expected = run(layer)
    assert_close([*found, *of_layer], [*expected, *gradients(expected, layer.parameters())])


@pytest.mark.parametrize(("inside", "dtype"), [(False, torch.bfloat16), (True, torch.bfloat16), (False, torch.float16)])
@pytest.mark.parametrize("cell", ["lstm", "peephole"])
def test_inside_compiled_code_as_outside(cell: str, inside: bool, dtype: torch.dtype):
    torch._dynamo.reset()
    layer = build(cell, torch.float32, bidirectional=True)

    def call(*given: Any) -> Any:
        if not inside:
            return layer(*given)
        with torch.autocast("cpu", dtype):
            return layer(*given)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    results = []
    for function in (compiled, call):
        with torch.autocast("cpu", dtype, enabled=not inside):
            values = run(layer, function)
        assert {value.dtype for value in values} == {dtype}
        results.append([*values, *gradients([value.float() for value in values], layer.parameters())])
    assert_close(results[0], results[1], tolerance=0)
    assert {gradient.dtype for gradient in results[0][len(values) :]} == {torch.float32}


@low
def test_stacks_stay_near_float32(dtype: torch.dtype):
    layer = build("peephole", torch.float32, num_layers=3, bidirectional=True)
    exact = run(layer)
    with torch.autocast("cpu", dtype):
        found = run(layer)
    # One rounding in each layer.
    assert_close(found, exact, tolerance=3 * torch.finfo(dtype).eps)


def test_autocast_that_is_off_or_for_another_device_changes_nothing():
    layer = build("lstm", torch.float32)
    with torch.autocast("cpu", torch.bfloat16), torch.autocast("cpu", enabled=False):
        found = run(layer)
    assert all(torch.equal(a, b) for a, b in zip(found, run(layer), strict=True))

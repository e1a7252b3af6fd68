"""What lies between the engine's forward and its backward: changes in place, hooks, memory, other calls."""

import gc
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from native_stack import (
    BACKEND,
    LENGTHS,
    RESET,
    B,
    D,
    H,
    T,
    accumulated,
    assert_right_or_refused,
    assert_same,
    build,
    draw,
    each_cell,
    each_save,
    run,
    weighed,
)
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gatewise import LSTM
from gatewise.errors import InputError
from gatewise.ops import Direction, Noise, Weights
from gatewise.ops import layer as functional
from gatewise.spec import variant


def _x(layer: LSTM, x: Tensor) -> None:
    x.mul_(2)


def _weight(layer: LSTM, x: Tensor) -> None:
    layer.get_parameter("weight_hh_l0").mul_(2)


def _stepped(layer: LSTM, x: Tensor) -> None:
    for parameter in layer.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.SGD(layer.parameters(), lr=0.1).step()
    layer.zero_grad()


@each_save
@pytest.mark.parametrize("change", [_x, _weight, _stepped])
@pytest.mark.usefixtures("isa")
def test_what_backward_needs_may_not_change_before_it(change: Callable[[LSTM, Tensor], None], save: str):
    layer = build(save=save)
    x, *state = draw(layer)
    y, _ = layer(x, tuple(state))
    with torch.no_grad():
        change(layer, x)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def _fewer_rows(weight: Tensor, x: Tensor) -> None:
    weight.data = weight.data[:-4].clone()


def _nothing(weight: Tensor, x: Tensor) -> None:
    weight.data = torch.empty(0)


def _double(weight: Tensor, x: Tensor) -> None:
    weight.data = weight.data.double()


def _freed(weight: Tensor, x: Tensor) -> None:
    weight.untyped_storage().resize_(0)


def _fewer_steps(weight: Tensor, x: Tensor) -> None:
    x.data = x.data[:2].clone()


def _freed_input(weight: Tensor, x: Tensor) -> None:
    x.untyped_storage().resize_(0)


@each_save
@pytest.mark.parametrize("change", [_fewer_rows, _nothing, _double, _freed, _fewer_steps, _freed_input])
def test_what_no_longer_fits_in_backward_is_an_error(change: Callable[[Tensor, Tensor], None], save: str):
    """Autograd does not see these changes; the engine would read past the ends."""
    layer = build(num_layers=1, save=save)
    x, *state = draw(layer)
    y, _ = layer(x, tuple(state))
    change(layer.get_parameter("weight_hh_l0"), x)
    with pytest.raises((InputError, RuntimeError)):
        y.sum().backward()


RESULTS: dict[str, Callable[[Any], Tensor]] = {
    "y": lambda results: results[0],
    "h": lambda results: results[1].h,
    "c": lambda results: results[1].c,
    "traced h": lambda results: results[2][0]["h"],
    "traced c": lambda results: results[2][0]["c"],
    "traced gate": lambda results: results[2][0]["f"],
}


@each_save
@pytest.mark.parametrize("name", RESULTS)
@pytest.mark.usefixtures("isa")
def test_a_result_changed_in_place_gives_the_right_gradient_or_an_error(name: str, save: str):
    def call(inplace: bool) -> list[Tensor]:
        layer = build(num_layers=1, bidirectional=False, save=save)
        x, *state = draw(layer)
        value = RESULTS[name](layer(x, tuple(state), trace=True))
        factor = value.detach() + 2
        value = value.mul_(factor) if inplace else value * factor
        return list(torch.autograd.grad(value.sum(), [x, *state, *layer.parameters()]))

    assert_right_or_refused(call)


@each_save
@pytest.mark.usefixtures("isa")
def test_lengths_that_grow_before_backward_change_nothing(save: str):
    """In memory that torch does not watch: what was kept is laid out by the lengths of the forward."""

    def call(change: bool) -> list[Tensor]:
        layer = build(save=save)
        x, *state = draw(layer)
        lengths = np.array([1, 0, 2])
        y, final = layer(x, tuple(state), lengths=torch.from_numpy(lengths))
        if change:
            lengths[:] = T
        return list(torch.autograd.grad(weighed([y, *final]), [x, *state, *layer.parameters()]))

    assert_same(call(True), call(False))


@each_save
@pytest.mark.parametrize("name", ["lengths", "reset", "recurrent", "h", "c", "h_0", "c_0"])
@pytest.mark.usefixtures("isa")
def test_data_changed_before_backward_gives_the_right_gradient_or_an_error(name: str, save: str):
    def call(change: bool) -> list[Tensor]:
        row, generator = variant("lstm"), torch.Generator().manual_seed(5)
        shapes = [(T, B, D), (B, H), (B, H), *row.shapes(D, H).values()]
        leaves = [(torch.randn(shape, generator=generator) / 2).requires_grad_() for shape in shapes]
        x, h, c, *weights = leaves
        # Of states that come from elsewhere, as the parts of a stack's do.
        h, c = h + 0, c + 0
        data = {"lengths": LENGTHS.clone(), "reset": RESET.clone(), "recurrent": torch.full((B, H), 0.7)}
        data |= {"h": torch.full((T, B, H), 0.4), "c": torch.full((T, B, H), 0.8)}
        direction = Direction((h, c), Weights(*weights), noise=Noise(data["recurrent"], data["h"], data["c"]))
        y = functional(x, [direction], row, lengths=data["lengths"], reset=data["reset"], backend=BACKEND).y
        if change:
            with torch.no_grad():
                (data | {"h_0": h, "c_0": c})[name].zero_()
        return list(torch.autograd.grad(weighed([y]), leaves))

    assert_right_or_refused(call)


def test_hooks_see_and_change_gradients():
    layer = build()
    x, *state = draw(layer)
    y, _ = layer(x, tuple(state))
    leaves = [x, *state, *layer.parameters()]
    plain = torch.autograd.grad(y.sum(), leaves, retain_graph=True)
    y.retain_grad()
    y.register_hook(lambda gradient: 2 * gradient)
    seen: dict[str, Tensor] = {}
    for name, parameter in layer.named_parameters():
        parameter.register_hook(partial(seen.__setitem__, name))
    y.sum().backward()
    assert (accumulated([y])[0] == 2).all()
    # Twice a number has the same digits.
    assert_same(accumulated(leaves), [2 * gradient for gradient in plain])
    assert_same([seen[name] for name, _ in layer.named_parameters()], accumulated(layer.parameters()))


Call = Callable[..., tuple[Tensor, ...]]


def _reentrant(call: Call, *arguments: Tensor) -> Any:
    return checkpoint(call, *arguments, use_reentrant=True)


def _anew(call: Call, *arguments: Tensor) -> Any:
    return checkpoint(call, *arguments, use_reentrant=False)


def _copied(call: Call, *arguments: Tensor) -> Any:
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, torch.clone):
        return call(*arguments)


@each_save
@pytest.mark.parametrize("way", [_reentrant, _anew, _copied])
@each_cell
@pytest.mark.usefixtures("isa")
def test_saved_tensors_may_be_computed_again_or_kept_elsewhere(cell: str, way: Callable[..., Any], save: str):
    layer = build(cell, save=save)

    def call(x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        y, final = layer(x, state)
        return y, *final

    values, found = run(layer)
    leaves = draw(layer)
    again = way(call, *leaves)
    assert_same(again, values)
    weighed(again).backward()
    assert_same(accumulated([*leaves, *layer.parameters()]), found)


@pytest.fixture
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Token:
    """Something whose end can be seen."""


def see(token: Token, *gradients: Any) -> None: ...


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("trace", [False, True])
@each_save
@pytest.mark.usefixtures("_no_collector")
def test_a_graph_ends_with_its_results(save: str, trace: bool, backward: bool):
    """Nothing may hold the memory of a step until Python's collector comes by."""
    layer = build(save=save)
    token = Token()
    # The layer's graph hangs on its input's.
    fed = draw(layer)[0] * 2
    assert fed.grad_fn is not None
    fed.grad_fn.register_hook(partial(see, token))
    end = weakref.ref(token)
    results = layer(fed, trace=trace)
    if backward:
        results[0].sum().backward()
    del token, fed
    assert end() is not None
    del results
    assert end() is None


@pytest.mark.parametrize("default", [torch.float64, torch.float16])
@each_save
@pytest.mark.usefixtures("isa")
def test_the_default_dtype_does_not_matter(save: str, default: torch.dtype):
    """Else what the engine writes would not fit the memory it is given."""
    layer = build(save=save)
    values, found = run(layer)
    x, *state = draw(layer)
    torch.set_default_dtype(default)
    try:
        y, final = layer(x, tuple(state))
        y_of_zeros, _ = layer(x)
        loss = weighed([y, *final])
        gradients = torch.autograd.grad(loss, [x, *state, *layer.parameters()])
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same([y, *final, y_of_zeros], [*values, layer(x)[0]])
    assert_same(gradients, found)


@each_save
def test_the_default_device_does_not_matter(save: str):
    layer = build(save=save)
    values, found = run(layer)
    x, *state = draw(layer)
    with torch.device("meta"):
        y, final = layer(x, tuple(state))
    loss = weighed([y, *final])
    with torch.device("meta"):
        gradients = torch.autograd.grad(loss, [x, *state, *layer.parameters()])
    assert_same([y, *final, *gradients], values + found)


LIVING = """
import torch, gatewise
layer = gatewise.LSTM(4, 4, num_layers=2, bidirectional=True, save="{save}", backend="{backend}")
x = torch.randn(3, 2, 4, requires_grad=True)
loss = layer(x)[0].sum()
loss.backward()
waiting, _ = layer(x, lengths=[3, 0])
(gradient,) = torch.autograd.grad(layer(x)[0].sum(), x, create_graph=True)
"""


@each_save
def test_a_program_may_end_with_graphs(save: str):
    code = LIVING.format(save=save, backend=BACKEND)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.usefixtures("isa")
def test_other_calls_inside_a_backward():
    """A function of autograd that calls a module, forward and backward, while the backward it stands in waits."""
    inner: list[list[Tensor]] = []

    class Calling(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: Tensor) -> Tensor:
            return value.clone()

        @staticmethod
        def backward(ctx: Any, *cotangents: Tensor) -> Tensor:
            with torch.enable_grad():
                inner.append(run(other)[1])
            return cotangents[0]

    layer, other = build(), build("peephole")
    expected, expected_inside = run(layer)[1], run(other)[1]
    x, *state = draw(layer)
    y, final = layer(Calling.apply(x), tuple(Calling.apply(part) for part in state))
    values = [Calling.apply(value) for value in (y, *final)]
    found = torch.autograd.grad(weighed(values), [x, *state, *layer.parameters()])
    assert_same(found, expected)
    assert len(inner) == 6
    for gradients in inner:
        assert_same(gradients, expected_inside)

"""The engine's gradients: graphs kept, freed and differentiated again; results and inputs of which few matter."""

import copy
import pickle
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from native_stack import (
    LENGTHS,
    RESET,
    B,
    D,
    H,
    T,
    accumulated,
    assert_exact,
    assert_same,
    build,
    draw,
    each_cell,
    each_save,
    run,
    scale,
    weighed,
)
from torch import Tensor, nn

from gatewise import LSTM
from gatewise.ops import Direction, Noise, Weights
from gatewise.ops import layer as functional
from gatewise.spec import variant

RAGGED: list[dict[str, Any]] = [{}, {"lengths": LENGTHS, "reset": RESET}]
pytestmark = pytest.mark.usefixtures("isa")


@each_save
@each_cell
def test_a_graph_that_is_kept_gives_the_same_again(cell: str, save: str):
    layer = build(cell, save=save)
    x, *state = draw(layer)
    y, final = layer(x, tuple(state), lengths=LENGTHS, reset=RESET)
    leaves = [x, *state, *layer.parameters()]
    loss = weighed([y, *final])
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    # What another call leaves in memory must not matter.
    run(build(cell, save=save))
    second = torch.autograd.grad(loss, leaves, retain_graph=True)
    loss.backward()
    assert all(gradient.any() for gradient in first)
    assert_same(second, first)
    assert_same(accumulated(leaves), first)


@each_save
@each_cell
def test_a_graph_that_is_freed_says_so(cell: str, save: str):
    layer = build(cell, save=save)
    y, _ = layer(draw(layer)[0])
    y.sum().backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        y.sum().backward()


@pytest.mark.parametrize("keywords", RAGGED, ids=["whole", "ragged"])
@each_cell
def test_both_ways_of_saving_give_the_same_bits(cell: str, keywords: dict[str, Any]):
    values, found = run(build(cell, save="all"), **keywords)
    lean_values, lean_found = run(build(cell, save="states"), **keywords)
    assert_same(lean_values + lean_found, values + found)


@each_save
@each_cell
def test_second_derivatives_are_the_references(cell: str, save: str):
    def call(backend: str, dtype: torch.dtype) -> list[Tensor]:
        layer = build(cell, save=save).to(dtype)
        layer.backend = backend
        x, *state = draw(layer, dtype)
        y, final = layer(x, tuple(state), lengths=LENGTHS)
        leaves = [x, *state, *layer.parameters()]
        found = torch.autograd.grad(weighed([y, *final]), leaves, create_graph=True)
        penalty = torch.stack([part.square().sum() for part in found]).sum()
        return [*found, *torch.autograd.grad(penalty, leaves)]

    # Rounding grows with every derivative.
    assert_exact(call, 5e-6)


@each_save
@each_cell
def test_gradients_are_finite_differences(cell: str, save: str):
    """Of the engine itself, in float64: nothing here goes through the reference."""
    layer = build(cell, save=save).double()
    x, *state = draw(layer, torch.float64)
    names, weights = zip(*layer.named_parameters(), strict=True)

    def run(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(names, rest[len(state) :], strict=True))
        call = (x, rest[: len(state)])
        y, final = torch.func.functional_call(layer, given, call, {"lengths": LENGTHS, "reset": RESET})
        return (y, *final)

    assert torch.autograd.gradcheck(run, (x, *state, *weights), fast_mode=True)


Run = Callable[[Tensor, Sequence[Tensor]], tuple[Tensor, tuple[Tensor, ...]]]


def _chained(layer: LSTM, run: Run, x: Tensor, state: Sequence[Tensor]) -> list[Tensor]:
    first, between = run(x[:2], state)
    second, final = run(x[2:], between)
    return [first, second, *final]


def _state_of_the_input(layer: LSTM, run: Run, x: Tensor, state: Sequence[Tensor]) -> list[Tensor]:
    y, final = run(x, [part * x.mean() for part in state])
    return [y, *final]


def _one_tensor_twice(layer: LSTM, run: Run, x: Tensor, state: Sequence[Tensor]) -> list[Tensor]:
    y, final = run(x, [state[0]] * len(state))
    return [y, *final]


def _tied(layer: LSTM, run: Run, x: Tensor, state: Sequence[Tensor]) -> list[Tensor]:
    layer.weight_hh_l0 = layer.weight_hh_l1
    y, final = run(x, state)
    return [y, *final]


def _input_of_the_weights(layer: LSTM, run: Run, x: Tensor, state: Sequence[Tensor]) -> list[Tensor]:
    y, final = run(x * layer.get_parameter("weight_hh_l0").sum().sin(), state)
    return [y, *final]


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.parametrize("use", [_chained, _state_of_the_input, _one_tensor_twice, _tied, _input_of_the_weights])
def test_no_path_counts_twice(use: Callable[..., list[Tensor]], trace: bool, create_graph: bool):
    """Arguments that hang on each other. A call with a trace takes another way than one without."""

    def call(backend: str, dtype: torch.dtype) -> list[Tensor]:
        layer = build().to(dtype)
        layer.backend = backend
        x, *state = draw(layer, dtype)

        def run(x: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
            y, final, *_ = layer(x, tuple(state), trace=trace)
            return y, final

        values = use(layer, run, x, state)
        leaves = [x, state[0], *layer.parameters()]
        found = torch.autograd.grad(weighed(values), leaves, create_graph=create_graph)
        if not create_graph:
            return list(found)
        penalty = torch.stack([part.square().sum() for part in found]).sum()
        return [*found, *torch.autograd.grad(penalty, leaves)]

    assert_exact(call, 5e-6)


@each_cell
def test_gradients_with_a_graph_of_their_own_are_the_same(cell: str):
    layer = build(cell)
    x, *state = draw(layer)
    y, final = layer(x, tuple(state))
    leaves = [x, *state, *layer.parameters()]
    graph = torch.autograd.grad(weighed([y, *final]), leaves, create_graph=True)
    for got, expected in zip(graph, run(layer)[1], strict=True):
        assert got.requires_grad
        assert (got - expected).abs().max() <= 2e-6 * scale(expected)


@pytest.mark.parametrize("wanted", ["x", "h", "c", "weight_ih_l1", "weight_hh_l0", "bias_ih_l1", "bias_hh_l0_reverse"])
def test_only_what_wants_a_gradient_gets_one(wanted: str):
    layer = build()
    x, h, c = draw(layer)
    leaves = {"x": x, "h": h, "c": c, **dict(layer.named_parameters())}
    y, final = layer(x, (h, c))
    expected = torch.autograd.grad(weighed([y, *final]), leaves[wanted])[0]
    for name, leaf in leaves.items():
        leaf.requires_grad_(name == wanted)
    y, final = layer(x, (h, c))
    weighed([y, *final]).backward()
    assert {name for name, leaf in leaves.items() if leaf.grad is not None} == {wanted}
    (got,) = accumulated([leaves[wanted]])
    assert (got - expected).abs().max() <= 1e-6 * scale(expected)


@each_save
@each_cell
def test_each_result_alone(cell: str, save: str):
    probe = build(cell, num_layers=1)
    states = probe.variant.cell.states
    traced = probe(draw(probe)[0], trace=True)[2][1]
    for place, name in enumerate(["y", *states, *traced]):

        def call(backend: str, dtype: torch.dtype, name: str = name, place: int = place) -> list[Tensor]:
            layer = build(cell, num_layers=1, save=save).to(dtype)
            layer.backend = backend
            x, *state = draw(layer, dtype)
            y, final, traces = layer(x, tuple(state), lengths=LENGTHS, trace=True)
            # Of a trace the backward direction's, so that nothing at all is asked of the other.
            value = [y, *final][place] if place <= len(states) else traces[1][name]
            leaves = [x, *state, *layer.parameters()]
            found = torch.autograd.grad(weighed([value]), leaves, allow_unused=True, materialize_grads=True)
            assert found[0].any(), name
            return list(found)

        assert_exact(call)


COTANGENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "expanded": lambda like: torch.tensor(0.7).expand_as(like),
    "expanded over time": lambda like: like[:1].expand_as(like),
    "last dimension first": lambda like: like.transpose(0, 2).contiguous().transpose(0, 2),
    "other rows first": lambda like: like.transpose(0, 1).contiguous().transpose(0, 1),
    "every second": lambda like: torch.stack([like, like * torch.nan], dim=-1).flatten(-2)[..., ::2],
    "negated lazily": getattr(torch, "_neg_view"),  # noqa: B009 - torch does not export it
    "negated lazily, with gaps": lambda like: torch.complex(like, like).conj().imag,
}


@pytest.mark.parametrize("kind", COTANGENTS)
@pytest.mark.parametrize("batch_first", [False, True])
def test_strides_of_what_comes_back_do_not_matter(kind: str, batch_first: bool):
    layer = build(batch_first=batch_first)
    x, *state = draw(layer)
    y, final = layer(x.transpose(0, 1) if batch_first else x, tuple(state))
    values = [y, *final]
    leaves = [x, *state, *layer.parameters()]
    given = [COTANGENTS[kind](value.detach()) for value in values]
    dense = [(cotangent + 0).contiguous() for cotangent in given]
    assert any(a.is_neg() or a.stride() != b.stride() for a, b in zip(given, dense, strict=True))
    found = torch.autograd.grad(values, leaves, given, retain_graph=True)
    assert_same(found, torch.autograd.grad(values, leaves, dense))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("keywords", RAGGED, ids=["whole", "ragged"])
@each_cell
def test_without_a_gradient_the_bits_are_the_same(
    cell: str, keywords: dict[str, Any], mode: Callable[[], AbstractContextManager[Any]]
):
    layer = build(cell)
    x, *state = draw(layer)
    y, final = layer(x, tuple(state), **keywords)
    assert y.grad_fn is not None
    with mode():
        plain, ended = layer(x, tuple(state), **keywords)
    assert not plain.requires_grad
    assert_same([plain, *ended], [y, *final])


def test_an_inference_tensor_is_data_like_any_other_without_gradients():
    layer = build().requires_grad_(False)
    with torch.inference_mode():
        x = draw(layer)[0].detach() + 0
    assert_same([layer(x)[0]], [layer(x.clone())[0]])


def test_gradients_accumulate_over_calls():
    layer = build()
    x, *state = draw(layer)
    leaves = [x, *state, *layer.parameters()]

    def losses() -> list[Tensor]:
        return [weighed([layer(factor * x, tuple(state))[0]]) for factor in (1, 2)]

    apart = [torch.autograd.grad(loss, leaves) for loss in losses()]
    together = [a + b for a, b in zip(*apart, strict=True)]
    assert_same(torch.autograd.grad(losses(), leaves), together)
    for loss in losses():
        loss.backward()
    assert_same(accumulated(leaves), together)


@each_cell
def test_a_sequence_in_pieces_has_the_gradients_of_the_whole(cell: str):
    layer = build(cell, bidirectional=False)
    x, *state = draw(layer)
    whole, final = layer(x, tuple(state))
    leaves = [x, *state, *layer.parameters()]
    expected = torch.autograd.grad(weighed([whole, *final]), leaves)
    first, between = layer(x[:2], tuple(state))
    second, end = layer(x[2:], between)
    pieces = [torch.cat([first, second]), *end]
    assert_same(pieces, [whole, *final])
    for got, wanted in zip(torch.autograd.grad(weighed(pieces), leaves), expected, strict=True):
        assert (got - wanted).abs().max() <= 2e-6 * scale(wanted)


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
}


@pytest.mark.parametrize("way", COPIES)
@each_cell
def test_a_trained_module_can_be_copied(cell: str, way: str):
    layer = build(cell, save="states")
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        x, *state = draw(layer)
        weighed([layer(x, tuple(state))[0]]).backward()
        optimizer.step()
    twin = COPIES[way](layer)
    values, found = run(layer)
    again, gradients = run(twin)
    assert_same(again + gradients, values + found)
    with torch.no_grad():
        twin.get_parameter("weight_hh_l0").mul_(-1)
    assert not torch.equal(run(twin)[0][0], values[0])
    assert_same(run(layer)[0], values)


def test_batched_cotangents_through_auto():
    """As ``torch.autograd.functional.jacobian(vectorize=True)`` sends them, by vmap over the backward."""
    layer = build()
    layer.backend = "auto"
    x, *state = draw(layer)
    y, _ = layer(x, tuple(state))
    leaves = [x, *state, *layer.parameters()]
    cotangents = torch.randn(3, *y.shape, generator=torch.Generator().manual_seed(8))
    batched = torch.autograd.grad(y, leaves, cotangents, retain_graph=True, is_grads_batched=True)
    for n, cotangent in enumerate(cotangents):
        expected = torch.autograd.grad(y, leaves, cotangent, retain_graph=True)
        for got, wanted in zip(batched, expected, strict=True):
            assert (got[n] - wanted).abs().max() <= 2e-6 * scale(wanted)


def test_a_mask_that_wants_a_gradient_is_refused_by_name_and_served_by_auto():
    row = variant("lstm")
    torch.manual_seed(0)
    weights = Weights(*(torch.randn(shape) / 2 for shape in row.shapes(D, H).values()))
    mask = torch.full((B, H), 0.5, requires_grad=True)
    direction = Direction((torch.ones(B, H), torch.ones(B, H)), weights, noise=Noise(mask))
    x = torch.randn(T, B, D)
    with pytest.raises(ValueError, match="backend 'native' cannot serve this call"):
        functional(x, [direction], row, backend="native")
    result = functional(x, [direction], row)
    assert torch.autograd.grad(result.y.sum(), mask)[0].any()


def test_a_learned_state_and_residuals_are_trained_through_a_head():
    def call(backend: str, dtype: torch.dtype) -> list[Tensor]:
        torch.manual_seed(0)
        layer = LSTM(D, H, 3, bidirectional=True, learned_state=True, residual=True, backend=backend)
        for name, parameter in layer.named_parameters():
            if name.startswith(("h_0", "c_0")):
                nn.init.normal_(parameter)
        head = nn.Linear(2 * H, 2).to(dtype)
        y, _ = layer.to(dtype)(draw(layer)[0].detach().to(dtype), reset=RESET, lengths=LENGTHS)
        found = torch.autograd.grad(weighed([head(y)]), [*layer.parameters(), *head.parameters()])
        assert all(gradient.any() for gradient in found)
        return list(found)

    assert_exact(call)

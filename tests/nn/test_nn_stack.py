"""Stacks of mixed layers: what running the layers by hand gives, and what LSTM's own stack gives."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import gatewise.nn.stack
from gatewise import LSTM, Stack
from gatewise.errors import InputError
from gatewise.nn.noise import drop
from gatewise.ops import ShapeError

T, B, D = 6, 4, 3
LENGTHS = [6, 1, 4, 2]
RESET = torch.tensor([[0, 0, 1, 0, 1, 0], [1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]).bool().T


def mixed(batch_first: bool = False) -> list[LSTM]:
    torch.manual_seed(0)
    common: dict[str, Any] = {"dtype": torch.float64, "batch_first": batch_first}
    return [
        LSTM(D, 5, cell="peephole", bidirectional=True, **common),
        LSTM(10, 4, cell="slstm", **common),
        LSTM(4, 6, 2, proj_size=3, nonrecurrent_proj_size=1, learned_state=True, **common),
        LSTM(4, 4, cell="rnn", **common),
    ]


def vanilla(count: int, **options: Any) -> tuple[Stack, LSTM]:
    """Make a stack of equal layers, and one module of as many layers with the same weights."""
    torch.manual_seed(0)
    batch_first = options.pop("batch_first", False)
    one = LSTM(5, 5, count, batch_first=batch_first, dtype=torch.float64, **options)
    layers = [LSTM(5, 5, batch_first=batch_first, dtype=torch.float64) for _ in range(count)]
    for k, layer in enumerate(layers):
        for name, parameter in layer.named_parameters():
            parameter.data.copy_(one.get_parameter(name.replace("_l0", f"_l{k}")))
    return Stack(*layers, **options), one


def inputs(width: int = D, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*(shape or (T, B)), width, generator=generator, dtype=torch.float64)


def initial(layers: list[LSTM]) -> tuple[Any, ...]:
    """A state for each layer but the second."""
    x = inputs()
    states = []
    for layer in layers:
        _, state = layer(x.new_zeros(1, B, layer.input_size))
        states.append(type(state)(*(torch.full_like(part, 0.3) for part in state)))
    return states[0], None, *states[2:]


def assert_equal(ours: Any, theirs: Any) -> None:
    """Compare nested results, in which every tensor must be the same to the bit."""
    assert type(ours) is type(theirs)
    if isinstance(ours, Tensor):
        assert torch.equal(ours, theirs)
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        assert_equal(list(ours.values()), list(theirs.values()))
    elif ours is not None:
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert_equal(a, b)


def by_hand(layers: list[LSTM], y: Any, hx: tuple[Any, ...], **options: Any) -> tuple[Any, ...]:
    results = []
    for layer, state in zip(layers, hx, strict=True):
        y, *rest = layer(y, state, **options)
        results.append(rest)
    return y, *(tuple(parts) for parts in zip(*results, strict=True))


CALLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "lengths": {"lengths": LENGTHS},
    "reset": {"reset": RESET},
    "lengths, reset and trace": {"lengths": LENGTHS, "reset": RESET, "trace": True},
    "trace": {"trace": True},
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("given", [False, True])
def test_it_is_its_layers_run_by_hand(name: str, given: bool):
    layers = mixed()
    hx = initial(layers) if given else (None,) * 4
    expected = by_hand(layers, inputs(), hx, **CALLS[name])
    ours = Stack(*layers)(inputs(), hx if given else None, **CALLS[name])
    assert_equal(ours, expected)
    assert ours[0].shape == (T, B, 4)
    assert [state._fields for state in ours[1]] == [("h", "c"), ("h", "c", "n", "m"), ("h", "c"), ("h",)]
    if len(ours) == 3:
        assert [[list(trace) for trace in traces][-1] for traces in ours[2]][1::2] == [list("ifgohcnm"), list("gh")]


@pytest.mark.parametrize("enforce_sorted", [False, True])
def test_a_packed_sequence_gives_what_lengths_give(enforce_sorted: bool):
    stack = Stack(*mixed())
    lengths = sorted(LENGTHS, reverse=True) if enforce_sorted else LENGTHS
    packed = pack_padded_sequence(inputs(), torch.tensor(lengths), enforce_sorted=enforce_sorted)
    hx = initial(mixed())
    y, states, traces = stack(packed, hx, trace=True)
    assert isinstance(y, PackedSequence)
    assert isinstance(traces[0][0]["i"], PackedSequence)
    expected, finals, _ = stack(inputs(), hx, lengths=lengths, trace=True)
    assert (pad_packed_sequence(y)[0] - expected).abs().max() <= 1e-12
    for ours, theirs in zip(states, finals, strict=True):
        assert all((a - b).abs().max() <= 1e-12 for a, b in zip(ours, theirs, strict=True))


def test_batch_first_swaps_the_first_two_dimensions():
    layers, swapped = mixed(), mixed(batch_first=True)
    hx, x = initial(layers), inputs()
    y, states = Stack(*layers)(x, hx, lengths=LENGTHS, reset=RESET)
    other, same = Stack(*swapped)(x.transpose(0, 1), hx, lengths=LENGTHS, reset=RESET.T)
    assert torch.equal(y, other.transpose(0, 1))
    assert_equal(same, states)


def test_a_single_sequence_is_a_batch_of_one():
    stack = Stack(*mixed())
    y, states = stack(inputs()[:, 0])
    whole, same = stack(inputs()[:, :1])
    assert torch.equal(y, whole[:, 0])
    for ours, theirs in zip(states, same, strict=True):
        assert_equal(list(ours), [part[:, 0] for part in theirs])


@pytest.mark.parametrize("shape", [(0, 2), (3, 0), (0, 0)])
def test_empty_batches_and_sequences(shape: tuple[int, int]):
    y, states = Stack(*mixed())(inputs(D, *shape))
    assert y.shape == (*shape, 4)
    assert [state.h.shape[::2] for state in states] == [(2, 5), (1, 4), (2, 3), (1, 4)]
    assert all(state.h.shape[1] == shape[1] for state in states)


@pytest.mark.filterwarnings("ignore:residual=True acts from the third layer up")
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("residual", [False, True])
def test_equal_layers_are_a_module_of_as_many(batch_first: bool, count: int, residual: bool):
    stack, one = vanilla(count, batch_first=batch_first, residual=residual)
    hx = torch.rand(2, count, 4, 5, dtype=torch.float64)
    x = inputs(5, 4, T) if batch_first else inputs(5)
    split = tuple((hx[0, k : k + 1], hx[1, k : k + 1]) for k in range(count))
    for options in ({}, {"lengths": LENGTHS}):
        y, states = stack(x, split, **options)
        expected, (h, c) = one(x, tuple(hx), **options)
        assert torch.equal(y, expected)
        assert torch.equal(torch.cat([state.h for state in states]), h)
        assert torch.equal(torch.cat([state.c for state in states]), c)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_dropout_acts_where_a_module_of_as_many_layers_drops(own: bool, residual: bool):
    def results(module: nn.Module, generator: torch.Generator | None) -> list[Tensor]:
        torch.manual_seed(3)
        if generator is not None:
            generator.manual_seed(3)
        return [module(inputs(5))[0], module.eval()(inputs(5))[0], module.train()(inputs(5))[0]]

    generator = torch.Generator() if own else None
    modules = vanilla(4, dropout=0.4, residual=residual, generator=generator)
    ours, theirs = (results(module, generator) for module in modules)
    assert_equal(ours, theirs)
    assert not any(torch.equal(ours[a], ours[b]) for a, b in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize("residual", [False, True])
def test_dropout_and_residual_of_a_packed_sequence(residual: bool):
    layers = vanilla(3)[0].layers
    stack = Stack(*layers, dropout=0.4, residual=residual)  # pyright: ignore[reportArgumentType] - all are LSTM
    packed = pack_padded_sequence(inputs(5), torch.tensor(LENGTHS), enforce_sorted=False)
    torch.manual_seed(3)
    y, _ = stack(packed)
    torch.manual_seed(3)
    first, _ = layers[0](packed)
    second, _ = layers[1](first._replace(data=drop(first.data, 0.4, None)))
    third, _ = layers[2](second._replace(data=drop(second.data, 0.4, None)))
    assert torch.equal(y.data, third.data + second.data if residual else third.data)
    assert y.unsorted_indices is packed.unsorted_indices


@pytest.mark.parametrize("residual", [False, True])
def test_derivatives(residual: bool):
    torch.manual_seed(0)
    stack = Stack(
        LSTM(2, 1, cell="peephole", bidirectional=True, dtype=torch.float64),
        LSTM(2, 2, cell="slstm", dtype=torch.float64),
        LSTM(2, 2, cell="rnn", dtype=torch.float64),
        residual=residual,
    )
    names = [name for name, _ in stack.named_parameters()]

    def run(x: Tensor, h: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        found = dict(zip(names, parameters, strict=True))
        y, states = torch.func.functional_call(stack, found, (x, (None, None, h)), {"lengths": [3, 2]})
        return y, *(part for state in states for part in state)

    leaves = [inputs(2, 3, 2), inputs(2, 1, 2), *stack.parameters()]
    leaves = [tensor.detach().clone().requires_grad_() for tensor in leaves]
    assert torch.autograd.gradcheck(run, leaves)


def test_the_state_dict_counts_the_layers():
    stack = Stack(*mixed())
    names = list(stack.state_dict())
    assert names == [f"layers.{k}.{name}" for k, layer in enumerate(mixed()) for name in layer.state_dict()]
    other = Stack(*mixed())
    other.reset_parameters()
    assert not any(
        torch.equal(a, b) for a, b in zip(stack.parameters(), other.parameters(), strict=True) if a.abs().sum() > 0
    )
    other.load_state_dict(stack.state_dict())
    twins: list[Stack] = [other, copy.deepcopy(stack), pickle.loads(pickle.dumps(stack))]
    for twin in twins:
        assert_equal(twin(inputs()), stack(inputs()))
        assert repr(twin) == repr(stack)


def test_layers_can_be_looked_at_and_repr_shows_them():
    layers = mixed()
    stack = Stack(*layers, dropout=0.25, residual=True)
    assert list(stack.layers) == layers
    assert stack.layers[1] is layers[1]
    assert repr(Stack(LSTM(2, 3), LSTM(3, 4))) == (
        "Stack(\n  (layers): ModuleList(\n    (0): LSTM(2, 3)\n    (1): LSTM(3, 4)\n  )\n)"
    )
    assert repr(stack).startswith("Stack(\n  dropout=0.25, residual=True\n")


def test_the_public_name():
    assert gatewise.Stack is gatewise.nn.stack.Stack


@pytest.mark.parametrize("gradient", [False, True])
def test_compiled_module(gradient: bool):
    stack = Stack(*mixed(), dropout=0.5, residual=True).eval()
    compiled = torch.compile(stack, backend="aot_eager", fullgraph=True)
    hx, lengths = initial(mixed()), torch.tensor(LENGTHS)
    with torch.set_grad_enabled(gradient):
        results = [module(inputs(), hx, lengths=lengths, reset=RESET)[0] for module in (compiled, stack)]
    gradients = [torch.autograd.grad(y.square().sum(), list(stack.parameters())) if gradient else () for y in results]
    for a, b in zip(*([y, *own] for y, own in zip(results, gradients, strict=True)), strict=True):
        assert (a - b).abs().max() <= 1e-12 * max(1.0, b.abs().max().item())


TWO = (LSTM(2, 3), LSTM(3, 4))
NARROWER = (LSTM(1, 2), LSTM(2, 2), LSTM(2, 3))
BAD_CONSTRUCTIONS: dict[str, tuple[type[Exception], str, tuple[Any, ...], dict[str, Any]]] = {
    "no layers": (InputError, "at least one layer", (), {}),
    "torch's layer": (TypeError, r"layers\[1\] must be .* got torch.nn.*LSTM", (LSTM(2, 3), nn.LSTM(3, 4)), {}),
    "a list": (TypeError, r"layers\[0\] must be a gatewise.LSTM, got builtins.list", (list(TWO),), {}),
    "width": (ShapeError, r"layers\[2\] has input_size=2, but layers\[1\] returns 4", (*TWO, LSTM(2, 3)), {}),
    "both directions": (ShapeError, "returns 6", (LSTM(2, 3, bidirectional=True), LSTM(3, 4)), {}),
    "projection": (ShapeError, "returns 1", (LSTM(2, 3, proj_size=1), LSTM(3, 4)), {}),
    "batch_first": (InputError, r"layers\[2\] must have batch_first=False", (*TWO, LSTM(4, 3, batch_first=True)), {}),
    "dropout": (InputError, "dropout must be a number from 0 to 1", TWO, {"dropout": 1.5}),
    "residual": (TypeError, "residual should be of type bool", TWO, {"residual": 1}),
    "residual width": (ShapeError, r"residual needs .* layers\[2\]: 2 to 3", NARROWER, {"residual": True}),
    "generator": (TypeError, "generator must be a torch.Generator", TWO, {"generator": 0}),
}


@pytest.mark.parametrize("case", BAD_CONSTRUCTIONS)
def test_bad_constructions_raise(case: str):
    error, text, layers, options = BAD_CONSTRUCTIONS[case]
    with pytest.raises(error, match=text):
        Stack(*layers, **options)


def test_residual_needs_equal_widths_from_the_third_layer_on_only():
    assert Stack(LSTM(2, 3), LSTM(3, 4), LSTM(4, 4), residual=True).residual


X = inputs().float()
BAD_CALLS: dict[str, tuple[type[Exception], str, tuple[Any, ...], dict[str, Any]]] = {
    "one state of two": (ShapeError, "one entry for each of the 2 layers, got 1 entries", (X, (None,)), {}),
    "a bare tensor": (ShapeError, "hx must be a tuple .* got Tensor", (X, torch.zeros(1, B, 5)), {}),
    "a state of another layer": (ShapeError, "h_0 must have shape", (X, (None, (torch.zeros(1, B, 5),) * 2)), {}),
    "width": (ShapeError, r"input.size\(-1\) must be equal to input_size", (X[..., :2],), {}),
    "lengths": (InputError, r"lengths\[0\] is 7", (X,), {"lengths": [7, 1, 1, 1]}),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_calls_raise(case: str):
    error, text, arguments, options = BAD_CALLS[case]
    with pytest.raises(error, match=text):
        Stack(LSTM(D, 5), LSTM(5, 4))(*arguments, **options)

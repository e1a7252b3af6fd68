"""The module against torch.nn.LSTM: results, gradients, parameters, errors."""

import copy
import itertools
import pickle

import pytest
import torch
from torch import Tensor, nn

from gatewise import LSTM
from gatewise.errors import InputError
from gatewise.ops import ShapeError

D = 5


def pair(hidden: int = 7, **options) -> tuple[LSTM, nn.LSTM]:
    torch.manual_seed(hidden)
    ours = LSTM(D, hidden, **options)
    options.pop("backend", None)
    torch.manual_seed(hidden)
    return ours, nn.LSTM(D, hidden, **options)


def draw(layer: LSTM, T: int, B: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(T + B)
    states = (layer.num_layers * (1 + layer.bidirectional), B, layer.hidden_size)
    x = torch.randn((B, T, D) if layer.batch_first else (T, B, D), generator=generator)
    return x, (torch.randn(states, generator=generator), torch.randn(states, generator=generator))


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    ours, theirs = ours.detach(), theirs.detach()
    assert (ours - theirs).abs().max() <= 1e-6 * max(1.0, theirs.abs().max().item())


STACKS = [
    {"num_layers": layers, "bidirectional": both, "bias": bias, "batch_first": batch_first}
    for layers, both, bias, batch_first in itertools.product([1, 2, 3], [False, True], [True, False], [False, True])
]


@pytest.mark.parametrize("options", STACKS, ids=str)
@pytest.mark.parametrize("T", [1, 7])
@pytest.mark.parametrize("B", [1, 5])
@pytest.mark.parametrize("hidden", [1, 16, 33])
def test_inference_equals_torch(options: dict[str, bool], T: int, B: int, hidden: int):
    ours, theirs = pair(hidden, backend="native", **options)
    x, state = draw(ours, T, B)
    with torch.no_grad():
        for hx in (None, state):
            (y, (h, c)), (y_t, (h_t, c_t)) = ours(x, hx), theirs(x, hx)
            for a, b in ((y, y_t), (h, h_t), (c, c_t)):
                assert_close(a, b)


@pytest.mark.parametrize("options", STACKS, ids=str)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_gradients_equal_torch(options: dict[str, bool], backend: str):
    ours, theirs = pair(7, backend=backend, **options)
    results: list[list[Tensor]] = []
    for layer in (ours, theirs):
        x, (h0, c0) = draw(ours, 7, 3)
        inputs = [tensor.requires_grad_() for tensor in (x, h0, c0)]
        y, (h, c) = layer(x, (h0, c0))
        loss = (y * torch.linspace(-1, 1, y.shape[-1])).sum() + h.square().sum() + c.sin().sum()
        results.append([y.detach(), h.detach(), c.detach(), *torch.autograd.grad(loss, [*inputs, *layer.parameters()])])
    for a, b in zip(*results, strict=True):
        assert (a - b).abs().max() <= 5e-6 * max(1.0, b.abs().max().item())


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("gradient", [False, True])
def test_a_single_sequence(batch_first: bool, gradient: bool):
    ours, theirs = pair(6, num_layers=2, bidirectional=True, batch_first=batch_first)
    x, h0, c0 = torch.randn(8, D), torch.randn(4, 6), torch.randn(4, 6)
    with torch.set_grad_enabled(gradient):
        (y, state), (y_t, state_t) = ours(x, (h0, c0)), theirs(x, (h0, c0))
    for a, b in ((y, y_t), *zip(state, state_t, strict=True)):
        assert_close(a, b)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(("T", "B"), [(0, 2), (3, 0), (0, 0)])
@pytest.mark.parametrize("gradient", [False, True])
def test_empty_batches_and_sequences(T: int, B: int, gradient: bool, backend: str):
    layer = LSTM(D, 4, num_layers=2, bidirectional=True, backend=backend)
    x, state = draw(layer, T, B)
    with torch.set_grad_enabled(gradient):
        y, final = layer(x, state)
    assert y.shape == (T, B, 8)
    if not T:
        assert all(torch.equal(a, b) for a, b in zip(final, state, strict=True))


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_dropout_draws_torchs_masks(gradient: bool, batch_first: bool):
    ours, theirs = pair(6, num_layers=3, dropout=0.4, batch_first=batch_first)
    x, _ = draw(ours, 5, 3)
    with torch.set_grad_enabled(gradient):
        torch.manual_seed(1)
        y, _ = ours(x)
        torch.manual_seed(1)
        y_t, _ = theirs(x)
        assert_close(y, y_t)
        assert not torch.equal(ours(x)[0], y)
        assert torch.equal(ours.eval()(x)[0], ours(x)[0])


@pytest.mark.parametrize("options", STACKS[::3], ids=str)
def test_parameters_and_state_dict_are_torchs(options: dict[str, bool]):
    ours, theirs = pair(3, **options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    fresh_ours, fresh_theirs = LSTM(D, 3, **options), nn.LSTM(D, 3, **options)  # pyright: ignore[reportArgumentType]
    fresh_ours.load_state_dict(theirs.state_dict())
    fresh_theirs.load_state_dict(ours.state_dict())
    x, _ = draw(ours, 4, 2)
    with torch.no_grad():
        assert_close(fresh_ours(x)[0], theirs(x)[0])
        assert_close(fresh_theirs(x)[0], ours(x)[0])


def test_float64_and_device_arguments():
    layer = LSTM(D, 4, device="cpu", dtype=torch.float64)
    y, _ = layer(torch.randn(3, 2, D, dtype=torch.float64))
    assert y.dtype == torch.float64
    assert LSTM(D, 4, device="meta")(torch.empty(3, 2, D, device="meta"))[0].shape == (3, 2, 4)


@torch.no_grad()
def _in_place(layer: LSTM) -> None:
    for parameter in layer.parameters():
        parameter.copy_(parameter.flip(0))


def _data(layer: LSTM) -> None:
    for parameter in layer.parameters():
        parameter.data.add_(0.1)


def _step(layer: LSTM) -> None:
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    layer(torch.ones(3, 2, D))[0].sum().backward()
    optimizer.step()


def _assign(layer: LSTM) -> None:
    other = {name: torch.full_like(value, 0.05) for name, value in layer.state_dict().items()}
    layer.load_state_dict(other, assign=True)


def _replace(layer: LSTM) -> None:
    layer.weight_hh_l0 = nn.Parameter(torch.zeros(24, 6))


def _parametrize(layer: LSTM) -> None:
    nn.utils.parametrizations.weight_norm(layer, "weight_hh_l0")
    layer.parametrizations.weight_hh_l0.original0.data.mul_(2)  # pyright: ignore


@pytest.mark.parametrize("change", [_in_place, _data, _step, _assign, _replace, _parametrize])
def test_weights_are_never_stale(change):
    layer = LSTM(D, 6, num_layers=2)
    x, state = draw(layer, 5, 3)
    with torch.no_grad():
        before, _ = layer(x, state)
    change(layer)
    with torch.no_grad():
        after, _ = layer(x, state)
        theirs = nn.LSTM(D, 6, num_layers=2)
        for name, _ in theirs.named_parameters():
            theirs.get_parameter(name).copy_(getattr(layer, name))
        assert_close(after, theirs(x, state)[0])
    assert not torch.allclose(before, after)


def test_copies_are_independent_and_pickling_keeps_everything():
    layer = LSTM(D, 6, num_layers=2, dropout=0.3, backend="reference").eval()
    x, _ = draw(layer, 5, 3)
    twins: list[LSTM] = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    for twin in twins:
        assert repr(twin) == repr(layer)
        assert torch.equal(twin(x)[0], layer(x)[0])
        twin.get_parameter("weight_hh_l0").data.zero_()
        assert layer.get_parameter("weight_hh_l0").abs().sum() > 0


def test_repr_shows_what_differs_from_the_defaults():
    assert repr(LSTM(3, 4)) == "LSTM(3, 4)"
    full = LSTM(3, 4, 2, bias=False, batch_first=True, dropout=0.5, bidirectional=True, backend="torch")
    assert (
        repr(full)
        == "LSTM(3, 4, num_layers=2, bias=False, batch_first=True, dropout=0.5, bidirectional=True, backend=torch)"
    )


def test_functional_call_and_per_sample_gradients():
    layer = LSTM(D, 4)
    x, _ = draw(layer, 3, 2)
    parameters: dict[str, Tensor] = dict(layer.named_parameters())

    def loss(parameters: dict[str, Tensor], sequence: Tensor) -> Tensor:
        return torch.func.functional_call(layer, parameters, (sequence,))[0].square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 1))(parameters, x)
    for b in range(2):
        expected = torch.autograd.grad(loss(parameters, x[:, b]), list(parameters.values()))
        for name, gradient in zip(parameters, expected, strict=True):
            torch.testing.assert_close(each[name][b], gradient, rtol=0, atol=1e-5)


@pytest.mark.parametrize("gradient", [False, True])
def test_code_for_torchs_layer_finds_what_it_calls(gradient: bool):
    layer = LSTM(D, 4)
    layer.flatten_parameters()
    with torch.set_grad_enabled(gradient):
        assert layer(torch.randn(3, 2, D))[0].requires_grad == gradient


BAD_CONSTRUCTIONS = {
    "size 0": (ValueError, "input_size must be at least 1", {"input_size": 0}),
    "hidden float": (TypeError, "hidden_size must be an int", {"hidden_size": 4.0}),
    "no layers": (ValueError, "num_layers", {"num_layers": 0}),
    "bias word": (TypeError, "bias must be a bool", {"bias": "yes"}),
    "dropout above 1": (ValueError, "dropout", {"dropout": 1.5}),
    "dropout bool": (ValueError, "dropout", {"dropout": True}),
    "projection": (InputError, "projections are not supported yet", {"proj_size": 2}),
    "backend": (InputError, "backend must be one of", {"backend": "cuda"}),
}


@pytest.mark.parametrize("case", BAD_CONSTRUCTIONS)
def test_bad_constructions_raise(case: str):
    error, text, changed = BAD_CONSTRUCTIONS[case]
    with pytest.raises(error, match=text):
        LSTM(**({"input_size": D, "hidden_size": 4} | changed))


def test_dropout_without_a_second_layer_warns_as_torch_does():
    with pytest.warns(UserWarning, match="between layers"):
        LSTM(D, 4, dropout=0.5)


H0 = torch.zeros(1, 2, 4)
BAD_CALLS = {
    "width": (RuntimeError, (torch.zeros(3, 2, D + 1),)),
    "one dimension": (ValueError, (torch.zeros(D),)),
    "four dimensions": (ValueError, (torch.zeros(1, 3, 2, D),)),
    "dtype": (ValueError, (torch.zeros(3, 2, D, dtype=torch.float64),)),
    "h of another batch": (RuntimeError, (torch.zeros(3, 2, D), (H0[:, :1], H0))),
    "c of another width": (RuntimeError, (torch.zeros(3, 2, D), (H0, H0[..., :3]))),
    "2-D state for a batch": (RuntimeError, (torch.zeros(3, 2, D), (H0[0], H0[0]))),
    "3-D state for one sequence": (RuntimeError, (torch.zeros(3, D), (H0, H0))),
}


@pytest.mark.parametrize("case", BAD_CALLS)
@pytest.mark.parametrize("gradient", [False, True])
def test_bad_calls_raise_what_torch_raises(case: str, gradient: bool):
    error, arguments = BAD_CALLS[case]
    for layer in (LSTM(D, 4), nn.LSTM(D, 4)):
        with torch.set_grad_enabled(gradient), pytest.raises(error) as caught:
            layer(*arguments)
        if isinstance(layer, LSTM):
            assert isinstance(caught.value, InputError)


def test_packed_sequences_are_refused_in_a_sentence():
    packed = nn.utils.rnn.pack_sequence([torch.zeros(3, D), torch.zeros(2, D)])
    with pytest.raises(InputError, match="PackedSequence is not supported yet"):
        LSTM(D, 4)(packed)  # pyright: ignore[reportArgumentType]


def test_shape_errors_are_both_kinds():
    assert issubclass(ShapeError, InputError)
    assert issubclass(ShapeError, RuntimeError)


def test_a_named_backend_that_cannot_serve_raises():
    with pytest.raises(InputError, match="a gradient is needed"):
        LSTM(D, 4, backend="native")(torch.zeros(3, 2, D))


@pytest.mark.parametrize("gradient", [False, True])
def test_compiled_module(gradient: bool):
    layer, theirs = pair(6, num_layers=2, bidirectional=True)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x, state = draw(layer, 3, 2)
    with torch.set_grad_enabled(gradient):
        y, y_t = compiled(x, state)[0], theirs(x, state)[0]
    assert_close(y, y_t)
    if gradient:
        y.square().sum().backward()
        y_t.square().sum().backward()
        for ours, expected in zip(layer.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, expected.grad, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(5, 3), (5, 2, 3)])
def test_a_state_that_is_no_pair_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="hx must be the pair"):
        LSTM(3, 4)(torch.zeros(shape), ())

"""The module as such: sizes, weights that change, copies, traces, errors. What torch computes: test_nn_equality."""

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
        == "LSTM(3, 4, num_layers=2, bias=False, batch_first=True, dropout=0.5, bidirectional=True, backend='torch')"
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
    "size 0": (ValueError, "input_size must be greater than zero", {"input_size": 0}),
    "hidden float": (TypeError, "hidden_size should be of type int", {"hidden_size": 4.0}),
    "no layers": (ValueError, "num_layers", {"num_layers": 0}),
    "bias word": (TypeError, "bias should be of type bool", {"bias": "yes"}),
    "dropout above 1": (ValueError, "dropout", {"dropout": 1.5}),
    "dropout bool": (ValueError, "dropout", {"dropout": True}),
    "projection as wide": (ValueError, "proj_size must be smaller than hidden_size, 4, got 4", {"proj_size": 4}),
    "projection below 0": (ValueError, "proj_size must be 0 or more", {"proj_size": -1}),
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


def test_shape_errors_are_both_kinds():
    assert issubclass(ShapeError, InputError)
    assert issubclass(ShapeError, RuntimeError)


def test_a_named_backend_that_cannot_serve_raises():
    with pytest.raises(InputError, match=r"'native' cannot serve this call: the tensors are not on a device"):
        LSTM(D, 4, backend="native", device="meta")(torch.zeros(3, 2, D, device="meta"))


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
    with pytest.raises(InputError, match=r"hx must be \(h_0, c_0\), .* got 0 parts"):
        LSTM(3, 4)(torch.zeros(shape), ())


@pytest.mark.parametrize(("cell", "fields"), [("rnn", "h"), ("lstm", "hc"), ("slstm", "hcnm"), ("fgr", "hcifo")])
def test_the_state_is_a_named_tuple(cell: str, fields: str):
    _, state = LSTM(D, 4, cell=cell)(torch.randn(3, 2, D))
    assert isinstance(state, tuple)
    assert "".join(state._fields) == fields  # pyright: ignore[reportAttributeAccessIssue]
    assert all(getattr(state, name) is part for name, part in zip(fields, state, strict=True))
    again = pickle.loads(pickle.dumps(state))
    assert type(again) is type(state)
    assert all(torch.equal(a, b) for a, b in zip(again, state, strict=True))


def test_a_cell_with_one_state_takes_it_bare():
    layer = LSTM(D, 4, cell="rnn")
    x, (h, _) = draw(layer, 3, 2)
    bare, wrapped = layer(x, h), layer(x, (h,))
    assert torch.equal(bare[0], wrapped[0])
    assert torch.equal(*bare[1], *wrapped[1])


TRACED = {
    "rnn": "g h",
    "rnn-relu": "g h",
    "lstm": "i f g o h c",
    "lstm-1997": "i g o h c",
    "peephole": "i f g o h c",
    "nig": "f g o h c",
    "nfg": "i g o h c",
    "nog": "i f g h c",
    "niaf": "i f g o h c",
    "noaf": "i f g o h c",
    "cifg": "i f g o h c",
    "np": "i f g o h c",
    "fgr": "i f g o h c",
    "slstm": "i f g o h c n m",
}


@pytest.mark.parametrize(("T", "B"), [(3, 2), (0, 2), (3, 0)])
@pytest.mark.parametrize("cell", TRACED)
def test_a_trace_has_every_gate_and_state_of_every_direction(cell: str, T: int, B: int):
    projection = 0 if cell in {"rnn", "rnn-relu", "slstm"} else 2
    layer = LSTM(D, 4, num_layers=2, bidirectional=True, cell=cell, proj_size=projection)
    _, _, traces = layer(torch.randn(T, B, D), trace=True)
    assert len(traces) == 4
    for trace in traces:
        assert sorted(trace) == sorted(TRACED[cell].split())
        for name, value in trace.items():
            assert value.shape == (T, B, projection if projection and name == "h" else 4)


@pytest.mark.parametrize("proj_size", [0, 2])
def test_a_trace_satisfies_the_equations(proj_size: int):
    layer = LSTM(D, 4, num_layers=2, bidirectional=True, proj_size=proj_size, dtype=torch.float64)
    x, width = torch.randn(6, 3, D, dtype=torch.float64), proj_size or 4
    hx = torch.randn(4, 3, width, dtype=torch.float64), torch.randn(4, 3, 4, dtype=torch.float64)
    output, state, traces = layer(x, hx, trace=True)
    pairs: list[tuple[Tensor, Tensor]] = []
    for index, (trace, weights) in enumerate(zip(traces, layer.all_weights, strict=True)):
        backward = index % 2 == 1
        # In the direction's own order of time, each step beside the one before.
        run = {name: value.flip(0) if backward else value for name, value in trace.items()}
        old = {name: torch.cat([part[index, None], run[name][:-1]]) for name, part in zip("hc", hx, strict=True)}
        w_ih, w_hh, b_ih, b_hh, *w_hr = weights
        pre = (x.flip(0) if backward else x) @ w_ih.T + old["h"] @ w_hh.T + b_ih + b_hh
        for name, value in zip("ifgo", pre.chunk(4, -1), strict=True):
            pairs.append((run[name], value.tanh() if name == "g" else value.sigmoid()))
        h = run["o"] * run["c"].tanh()
        pairs += [(run["c"], run["f"] * old["c"] + run["i"] * run["g"]), (run["h"], h @ w_hr[0].T if w_hr else h)]
        pairs += [(part[index], run[name][-1]) for name, part in zip("hc", state, strict=True)]
        if backward:
            x = torch.cat([traces[index - 1]["h"], trace["h"]], 2)
    for got, expected in [*pairs, (output, x)]:
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_trace_is_laid_out_as_the_outputs_are(batch_first: bool):
    layer, turned = (
        pair(4, num_layers=2, bidirectional=True, proj_size=2, batch_first=first, backend="reference")[0]
        for first in (False, batch_first)
    )
    x, lengths = torch.randn(5, 3, D), torch.tensor([2, 5, 3])
    output, state, traces = layer(x, lengths=lengths, trace=True)
    plain = layer(x, lengths=lengths)
    assert all(torch.equal(a, b) for a, b in zip((output, *state), (plain[0], *plain[1]), strict=True))
    given = x.transpose(0, 1) if batch_first else x
    packed = nn.utils.rnn.pack_padded_sequence(given, lengths, batch_first, enforce_sorted=False)
    batched, _, batch_traces = turned(given, lengths=lengths, trace=True)
    unrolled, _, packed_traces = turned(packed, trace=True)
    single, _, single_traces = turned(x[:2, 0], trace=True)
    for index, trace in enumerate(traces):
        for name, value in trace.items():
            batch_value, packed_value, single_value = (
                other[index][name] for other in (batch_traces, packed_traces, single_traces)
            )
            assert batch_value.shape[:2] == batched.shape[:2]
            assert_close(batch_value.transpose(0, 1) if batch_first else batch_value, value)
            assert torch.equal(packed_value.batch_sizes, unrolled.batch_sizes)
            assert_close(nn.utils.rnn.pad_packed_sequence(packed_value)[0], value)
            assert single_value.shape[0] == single.shape[0]
            assert_close(single_value, value[:2, 0])

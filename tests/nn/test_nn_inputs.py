"""Wrong inputs and torch's mistakes: what is raised, and that nothing else ever is."""

import itertools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_nn_arguments import OPTIONS
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from gatewise import LSTM
from gatewise.errors import InputError
from gatewise.ops import ShapeError
from gatewise.spec import CELLS

T, B, D, H = 5, 3, 4, 6
X = torch.zeros(T, B, D)
H0 = torch.zeros(1, B, H)

MISTAKES: dict[str, Callable[[Any], Any]] = {
    "sizes: input 0": lambda m: m(0, H),
    "sizes: hidden 0": lambda m: m(D, 0),
    "sizes: layers 0": lambda m: m(D, H, 0),
    "sizes: input negative": lambda m: m(-1, H),
    "sizes: hidden negative": lambda m: m(D, -1),
    "sizes: layers negative": lambda m: m(D, H, -1),
    "sizes: hidden float": lambda m: m(D, 6.0),
    "sizes: input word": lambda m: m("4", H),
    "sizes: layers float": lambda m: m(D, H, 2.0),
    "projection as wide": lambda m: m(D, H, proj_size=H),
    "projection negative": lambda m: m(D, H, proj_size=-1),
    "projection float": lambda m: m(D, H, proj_size=2.0),
    "bias number": lambda m: m(D, H, bias=1),
    "batch_first number": lambda m: m(D, H, batch_first=1),
    "dropout above 1": lambda m: m(D, H, 2, dropout=1.5),
    "dropout negative": lambda m: m(D, H, 2, dropout=-0.5),
    "dropout bool": lambda m: m(D, H, 2, dropout=True),
    "dropout word": lambda m: m(D, H, 2, dropout="much"),
    "dropout None": lambda m: m(D, H, 2, dropout=None),
    "dropout list": lambda m: m(D, H, 2, dropout=[0.5]),
    "dropout tensor": lambda m: m(D, H, 2, dropout=torch.tensor(0.5)),
    "input 0-D": lambda m: m(D, H)(torch.tensor(1.0)),
    "input 1-D": lambda m: m(D, H)(X[0, 0]),
    "input 4-D": lambda m: m(D, H)(X[None]),
    "input narrow": lambda m: m(D, H)(X[..., 1:]),
    "input narrow, one sequence": lambda m: m(D, H)(X[:, 0, 1:]),
    "input of float64": lambda m: m(D, H)(X.double()),
    "input of int64": lambda m: m(D, H)(X.long()),
    "input elsewhere": lambda m: m(D, H)(X.to("meta")),
    "state elsewhere": lambda m: m(D, H)(X, (H0.to("meta"), H0.to("meta"))),
    "state 2-D": lambda m: m(D, H)(X, (H0[0], H0[0])),
    "state 1-D": lambda m: m(D, H)(X, (H0[0, 0], H0[0, 0])),
    "state 3-D, one sequence": lambda m: m(D, H)(X[:, 0], (H0, H0)),
    "h of another batch": lambda m: m(D, H)(X, (H0[:, 1:], H0)),
    "c of another batch": lambda m: m(D, H)(X, (H0, H0[:, 1:])),
    "c of another width": lambda m: m(D, H)(X, (H0, H0[..., 1:])),
    "h as wide as c": lambda m: m(D, H, proj_size=2)(X, (H0, H0)),
    "h of more layers": lambda m: m(D, H)(X, (H0.expand(2, B, H), H0)),
    "state batch first": lambda m: m(D, H, batch_first=True)(X, (H0, H0)),
    "state of three parts": lambda m: m(D, H)(X, (H0, H0, H0)),
    "packed: narrow": lambda m: m(D, H)(pack_padded_sequence(X[..., 1:], [5, 4, 2])),
    "packed: too few rows": lambda m: m(D, H)(PackedSequence(X[0, :2], torch.tensor([2, 1]))),
    "packed: growing batch": lambda m: m(D, H)(PackedSequence(X[0], torch.tensor([1, 2]))),
    "packed: negative batch": lambda m: m(D, H)(PackedSequence(X[0], torch.tensor([4, -1]))),
    "packed: h of another batch": lambda m: m(D, H)(pack_padded_sequence(X, [5, 4, 2]), (H0[:, 1:], H0)),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("gradient", [False, True])
def test_torchs_mistakes_raise_torchs_types(mistake: str, gradient: bool):
    make = MISTAKES[mistake]
    with torch.set_grad_enabled(gradient):
        with pytest.raises((TypeError, ValueError, RuntimeError)) as theirs:
            make(nn.LSTM)
        kind = next(base for base in type(theirs.value).__mro__ if base in {TypeError, ValueError, RuntimeError})
        with pytest.raises(kind) as ours:
            make(LSTM)
    assert type(ours.value) in {InputError, ShapeError, TypeError}


Call = Callable[[], Any]
LAYER, BATCH_FIRST, RNN = LSTM(D, H), LSTM(D, H, batch_first=True), LSTM(D, H, cell="rnn")
SLSTM = LSTM(D, H, cell="slstm")
PACKED = pack_padded_sequence(X, [2, 5, 1], enforce_sorted=False)
RESET = torch.zeros(T, B, dtype=torch.bool)
NESTED = torch.nested.nested_tensor([X[:2, 0], X[:3, 0]], layout=torch.jagged)
WRONG_CALLS: dict[str, tuple[str, Call]] = {
    "input list": ("input must be a torch.Tensor, got list", lambda: LAYER(X.tolist())),
    "input numpy": ("input must be a torch.Tensor, got ndarray", lambda: LAYER(X.numpy())),
    "input None": ("input must be a torch.Tensor, got NoneType", lambda: LAYER(None)),
    "input sparse": ("input must be a dense tensor", lambda: LAYER(X.to_sparse())),
    "input nested": ("input must be a dense tensor", lambda: LAYER(NESTED)),
    "input complex": ("torch.complex64.*torch.float32", lambda: LAYER(X.to(torch.complex64))),
    "input half": ("torch.float16.*torch.float32", lambda: LAYER(X.half())),
    "input bool": ("torch.bool.*torch.float32", lambda: LAYER(X.bool())),
    "hx bare": (r"hx must be \(h_0, c_0\).*got Tensor", lambda: LAYER(X, H0)),
    "hx empty": ("got 0 parts", lambda: LAYER(X, ())),
    "hx one": ("got 1 parts", lambda: LAYER(X, (H0,))),
    "hx four": ("got 4 parts", lambda: LAYER(X, (H0,) * 4)),
    "hx word": ("hx must be.*got str", lambda: LAYER(X, "hc")),
    "hx of None": ("h_0 must be a torch.Tensor, got NoneType", lambda: LAYER(X, (None, None))),
    "hx numpy": ("c_0 must be a torch.Tensor, got ndarray", lambda: LAYER(X, (H0, H0.numpy()))),
    "hx sparse": ("h_0 must be a dense tensor", lambda: LAYER(X, (H0.to_sparse(), H0))),
    "hx dtype": ("c_0 has dtype torch.float64.*x has torch.float32", lambda: LAYER(X, (H0, H0.double()))),
    "hx of lstm for slstm": (r"\(h_0, c_0, n_0, m_0\).*'slstm', got 2 parts", lambda: SLSTM(X, (H0, H0))),
    "hx of slstm for lstm": (r"\(h_0, c_0\).*'lstm', got 4 parts", lambda: LAYER(X, tuple(SLSTM(X)[1]))),
    "hx of lstm for rnn": (r"\(h_0\).*'rnn', got 2 parts", lambda: RNN(X, (H0, H0))),
    "hx bare 2-D for rnn": ("h_0 must have shape", lambda: RNN(X, H0[0])),
    "lengths negative": (r"0 to T, 5; lengths\[1\] is -1", lambda: LAYER(X, lengths=[5, -1, 2])),
    "lengths past T": (r"0 to T, 5; lengths\[0\] is 6", lambda: LAYER(X, lengths=torch.tensor([6, 1, 1]))),
    "lengths float": ("whole numbers.*torch.float32", lambda: LAYER(X, lengths=[5.0, 1.0, 2.0])),
    "lengths bool": ("whole numbers.*torch.bool", lambda: LAYER(X, lengths=[True, False, True])),
    "lengths few": (r"shape \[3\].*got \[2\]", lambda: LAYER(X, lengths=[5, 1])),
    "lengths none": (r"shape \[3\].*got \[0\]", lambda: LAYER(X, lengths=[])),
    "lengths 2-D": (r"shape \[3\].*got \[3, 1\]", lambda: LAYER(X, lengths=torch.tensor([[1], [2], [3]]))),
    "lengths one number": (r"shape \[3\].*got \[\]", lambda: LAYER(X, lengths=5)),
    "lengths ragged": ("lengths must be", lambda: LAYER(X, lengths=[[1, 2], [3]])),
    "lengths words": ("lengths must be", lambda: LAYER(X, lengths=["1", "2", "3"])),
    "lengths huge": ("lengths must be", lambda: LAYER(X, lengths=[2**70, 1, 1])),
    "lengths of None": ("lengths must be", lambda: LAYER(X, lengths=[None] * 3)),
    "lengths sparse": ("lengths must be", lambda: LAYER(X, lengths=torch.tensor([1, 2, 3]).to_sparse())),
    "lengths elsewhere": ("lengths .*meta", lambda: LAYER(X, lengths=torch.tensor([1, 2, 3], device="meta"))),
    "lengths a set": ("lengths must be", lambda: LAYER(X, lengths={1, 2, 3})),
    "lengths time as batch": (r"shape \[5\].*got \[3\]", lambda: BATCH_FIRST(X, lengths=[1, 2, 3])),
    "lengths for one sequence": ("lengths is for batches", lambda: LAYER(X[:, 0], lengths=[3])),
    "lengths packed": ("lengths cannot go with a PackedSequence", lambda: LAYER(PACKED, lengths=[5, 2, 1])),
    "reset list": ("reset must be a torch.Tensor, got list", lambda: LAYER(X, reset=RESET.tolist())),
    "reset sparse": ("reset must be a dense tensor", lambda: LAYER(X, reset=RESET.to_sparse())),
    "reset float": ("reset must be bool, got torch.float32", lambda: LAYER(X, reset=RESET.float())),
    "reset int": ("reset must be bool, got torch.int64", lambda: LAYER(X, reset=RESET.long())),
    "reset 1-D": (r"shape \[5, 3\], got \[5\]", lambda: LAYER(X, reset=RESET[:, 0])),
    "reset 3-D": (r"shape \[5, 3\], got \[5, 3, 1\]", lambda: LAYER(X, reset=RESET[..., None])),
    "reset transposed": (r"shape \[5, 3\], got \[3, 5\]", lambda: LAYER(X, reset=RESET.T)),
    "reset batch first": (r"shape \[5, 3\], got \[3, 5\]", lambda: BATCH_FIRST(X, reset=RESET.T)),
    "reset 2-D, one sequence": (r"shape \[5\], got \[5, 1\]", lambda: LAYER(X[:, 0], reset=RESET[:, :1])),
    "reset elsewhere": ("reset is on meta but x is on cpu", lambda: LAYER(X, reset=RESET.to("meta"))),
    "reset packed": ("reset cannot go with a PackedSequence", lambda: LAYER(PACKED, reset=RESET)),
    "trace word": ("trace should be of type bool, got: str", lambda: LAYER(X, trace="yes")),  # pyright: ignore[reportArgumentType]
    "packed 3-D": ("PackedSequence must hold data", lambda: LAYER(PACKED._replace(data=PACKED.data[:, None]))),
    "packed dtype": ("torch.float64.*torch.float32", lambda: LAYER(PACKED._replace(data=PACKED.data.double()))),
    "packed empty": (
        "batch_sizes.*0 rows",
        lambda: LAYER(PackedSequence(X[0, :0], torch.tensor([], dtype=torch.int64))),
    ),
    "packed hx batch": ("h_0 must have shape", lambda: LAYER(PACKED, (H0[:, 1:], H0))),
    "packed hx more": ("h_0 must have shape", lambda: LAYER(PACKED, (H0.expand(1, B, H).repeat(1, 2, 1),) * 2)),
    "packed hx 1-D": ("h_0 must have shape", lambda: LAYER(PACKED, (H0[0, 0], H0[0, 0]))),
}


@pytest.mark.parametrize("case", WRONG_CALLS)
@pytest.mark.parametrize("gradient", [False, True])
def test_a_wrong_call_says_what_is_wrong(case: str, gradient: bool):
    text, wrong = WRONG_CALLS[case]
    with torch.set_grad_enabled(gradient), pytest.raises((InputError, TypeError), match=text) as caught:
        wrong()
    assert type(caught.value) in {InputError, ShapeError, TypeError}


def test_lengths_may_be_of_any_integers():
    expected = LAYER(X, lengths=torch.tensor([2, 0, 5]))[0]
    kinds: list[Any] = [[2, 0, 5], (2, 0, 5), np.array([2, 0, 5]), torch.tensor([2, 0, 5], dtype=torch.int8)]
    for lengths in kinds:
        assert torch.equal(LAYER(X, lengths=lengths)[0], expected)


EMPTY_SHAPES = [(0, B), (T, 0), (0, 0)]
EMPTY_OPTIONS: dict[str, dict[str, Any]] = {
    "projected": {"proj_size": 2, "nonrecurrent_proj_size": 3},
    "stacked": {"num_layers": 3, "residual": True, "dropout": 0.5},
    "noisy": {"recurrent_dropout": 0.5, "zoneout": 0.3, "weight_drop": 0.2},
    "learned": {"learned_state": True, "layer_norm": True, "peephole": True},
}
EMPTY_CASES = [*((cell, "plain") for cell in CELLS), *(("lstm", name) for name in EMPTY_OPTIONS)]


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize(("steps", "batch"), EMPTY_SHAPES)
@pytest.mark.parametrize(("cell", "options"), EMPTY_CASES)
def test_nothing_comes_back_from_nothing(cell: str, options: str, steps: int, batch: int, both: bool):
    chosen = EMPTY_OPTIONS.get(options, {})
    for batch_first, gradient, hinted in itertools.product([False, True], repeat=3):
        layer = LSTM(D, H, cell=cell, bidirectional=both, batch_first=batch_first, **chosen)
        count, shape = layer.num_layers * (1 + both), (batch, steps) if batch_first else (steps, batch)
        x = torch.zeros(*shape, D)
        state = tuple(torch.rand(count, batch, size) for size in layer.variant.state_sizes(H).values())
        hints: dict[str, Any] = (
            {"lengths": [0] * batch, "reset": torch.zeros(shape, dtype=torch.bool)} if hinted else {}
        )
        with torch.set_grad_enabled(gradient):
            y, final, traces = layer(x, state, trace=True, **hints)
            same, _ = layer(x, **hints)
        width = layer.variant.output_size(H) * (1 + both)
        assert y.shape == same.shape == (*shape, width)
        assert y.numel() == 0
        assert len(traces) == count
        for name, a, b in zip(layer.variant.cell.states, final, state, strict=True):
            # With no steps the states come back as they were given, to the bit.
            assert torch.equal(a, b)
            assert traces[0][name].shape == (*shape, b.shape[-1])


def test_one_sequence_of_no_steps():
    y, (h, c) = LAYER(X[:0, 0], (H0[:, 0] + 1, H0[:, 0] + 2))
    assert (y.shape, h.shape, c.shape) == ((0, H), (1, H), (1, H))
    assert (h == 1).all()
    assert (c == 2).all()


# Junk beside what fits, so that calls get past the first check.
SIZES = st.integers(0, 4)
DTYPES = st.sampled_from([torch.float64, torch.float16, torch.int64, torch.bool, torch.complex64])
NUMBERS = st.integers(-1, 6) | st.floats(-1, 6) | st.booleans() | st.none()
JUNK = st.none() | NUMBERS | st.text(max_size=2) | st.lists(NUMBERS, max_size=4) | st.just(np.zeros((2, 2)))


@st.composite
def any_tensor(draw: st.DrawFn, *shape: int) -> Any:
    """Draw a tensor of this shape, or now and then nearly, or something else."""
    what = draw(st.integers(1, 24))
    if what == 20:
        shape = tuple(draw(st.permutations([*shape, draw(SIZES)])))
    if what in {21, 22}:
        shape = shape[:-1] if what == 21 else (*shape[:-1], draw(SIZES))
    return draw(JUNK) if what == 23 else torch.zeros(shape).to(draw(DTYPES) if what == 24 else torch.float32)


@st.composite
def any_call(draw: st.DrawFn) -> tuple[LSTM, Any, dict[str, Any]]:
    """Draw a layer and what to call it with: mostly what fits, and something wrong in most of the calls."""
    cell = draw(st.sampled_from(list(CELLS)))
    options = draw(st.sets(st.sampled_from(sorted(CELLS[cell].options))))
    layer = LSTM(
        D, H, draw(st.integers(1, 2)), cell=cell, batch_first=draw(st.booleans()), bidirectional=draw(st.booleans()),
        recurrent_dropout=0.5, **{k: v for option in options for k, v in OPTIONS[option].items()},
    )  # fmt: skip
    steps, batch = draw(SIZES), draw(SIZES)
    shape = draw(st.sampled_from([(steps, batch), (steps, batch), (steps,)]))
    rows = shape[1 - layer.batch_first : 2 - layer.batch_first] if len(shape) == 2 else ()
    count = layer.num_layers * (1 + layer.bidirectional)
    state = st.tuples(*(any_tensor(count, *rows, size) for size in layer.variant.state_sizes(H).values()))
    right = st.lists(st.integers(0, steps), min_size=batch, max_size=batch)
    lengths = right | right | st.lists(NUMBERS, max_size=4)
    hints = {
        "hx": st.none() | state | state.map(list) | any_tensor(count, *rows, H),
        "lengths": st.none() | lengths | lengths.map(np.array) | any_tensor(*rows),
        "reset": st.none() | any_tensor(*shape).map(lambda mask: mask == 0) | any_tensor(*shape),
        "trace": st.booleans(),
    }
    return layer, draw(any_tensor(*shape, D)), draw(st.fixed_dictionaries(hints))


def result_or_error(call: Call) -> Any:
    try:
        return call()
    except (InputError, TypeError) as error:
        return error


@given(any_call(), st.booleans())
@settings(max_examples=400, deadline=None, derandomize=True)
def test_any_call_works_or_says_what_is_wrong(called: tuple[LSTM, Any, dict[str, Any]], gradient: bool):
    layer, x, hints = called
    with torch.set_grad_enabled(gradient):
        result = result_or_error(lambda: layer(x, **hints))
    if isinstance(result, Exception):
        assert type(result) in {InputError, ShapeError, TypeError}
        assert re.search("input|[hcnmifo]_0|hx|lengths|reset|dtype", str(result))
        return
    output, state, *traces = result
    assert output.shape == (*x.shape[:-1], layer.variant.output_size(H) * (1 + layer.bidirectional))
    assert output.isfinite().all()
    assert all(part.shape[0] == layer.num_layers * (1 + layer.bidirectional) for part in state)
    assert bool(traces) == hints["trace"]


@pytest.mark.parametrize("cell", ["lstm", "peephole"])
def test_lengths_out_of_range_are_refused_in_a_compiled_call(cell: str):
    compiled = torch.compile(LSTM(2, 3, cell=cell), backend="aot_eager", fullgraph=True)
    with pytest.raises(InputError, match=r"lengths\[0\] is 9"):
        compiled(torch.randn(4, 2, 2), lengths=torch.tensor([9, 1]))


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_a_bound_that_a_dtype_cannot_hold_is_no_bound(backend: str):
    x = torch.randn(4, 2, 2)
    layer = LSTM(2, 3, clip=1e300, backend=backend)
    free = LSTM(2, 3, backend=backend)
    free.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x)[0], free(x)[0])

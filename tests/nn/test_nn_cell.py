"""The cell stepped by hand: torch's cells, a loop that equals the layer, gradients, transforms, errors."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gatewise import LSTM, LSTMCell
from gatewise.errors import InputError
from gatewise.ops import ShapeError
from gatewise.spec import CELLS, variant

T, B, D, H = 5, 3, 4, 6
THEIRS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "lstm": (nn.LSTMCell, {}),
    "np": (nn.LSTMCell, {}),
    "rnn": (nn.RNNCell, {}),
    "rnn-relu": (nn.RNNCell, {"nonlinearity": "relu"}),
}
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-6}


def pair(cell: str, **arguments: Any) -> tuple[LSTMCell, Any]:
    kind, more = THEIRS[cell]
    torch.manual_seed(0)
    ours = LSTMCell(D, H, cell=cell, **arguments)
    torch.manual_seed(0)
    return ours, kind(D, H, **arguments, **more)


def spread(module: nn.Module) -> Any:
    """Give every parameter values that matter."""
    generator = torch.Generator().manual_seed(9)
    for parameter in module.parameters():
        parameter.data.uniform_(-0.9, 0.9, generator=generator)
    return module


def drawn(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 4) -> Tensor:
    return torch.rand(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed)) + 0.1


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    # Written so that a NaN fails.
    assert (ours - theirs).abs().max() <= TOLERANCES[ours.dtype] * max(1.0, theirs.abs().max().item())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("cell", THEIRS)
def test_seeds_and_state_dicts_are_torchs(cell: str, dtype: torch.dtype, bias: bool):
    ours, theirs = pair(cell, bias=bias, dtype=dtype)
    for (name, a), (other, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert name == other
        assert torch.equal(a, b)
    for source, target in itertools.permutations((ours, theirs)):
        spread(source)
        assert target.load_state_dict(source.state_dict(), strict=True) == ([], [])
        assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))
    torch.manual_seed(3)
    ours.reset_parameters()
    torch.manual_seed(3)
    theirs.reset_parameters()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize("given", ["zeros", "state"])
@pytest.mark.parametrize("shape", [(B,), (), (1,), (0,)], ids=["batch", "one", "batch of one", "empty"])
@pytest.mark.parametrize("backend", ["auto", "reference", "torch"])
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("cell", THEIRS)
def test_steps_and_gradients_are_torchs(
    cell: str, dtype: torch.dtype, backend: str, shape: tuple[int, ...], given: str
):
    if backend == "torch" and cell.startswith("rnn"):
        backend = "auto"
    ours, theirs = pair(cell, dtype=dtype)
    ours.backend = backend
    x = drawn(*shape, D, dtype=dtype).requires_grad_()
    parts = [drawn(*shape, H, dtype=dtype, seed=seed).requires_grad_() for seed, _ in enumerate(CELLS[cell].states)]
    hx = None if given == "zeros" else tuple(parts)
    single = cell.startswith("rnn")
    # torch's RNNCell takes and returns a bare tensor.
    expected = theirs(x, hx[0] if hx and single else hx)
    expected = (expected,) if single else expected
    got = ours(x, hx)
    assert got._fields == CELLS[cell].states
    leaves = [[x, *(parts if hx else ()), *module.parameters()] for module in (ours, theirs)]
    gradients: list[tuple[Tensor, ...]] = []
    for state, inputs in zip((got, expected), leaves, strict=True):
        loss = sum(((k + 1.0) * part * part.sin()).sum() for k, part in enumerate(state))
        assert isinstance(loss, Tensor)
        gradients.append(torch.autograd.grad(loss, inputs))
    for a, b in zip((*got, *gradients[0]), (*expected, *gradients[1]), strict=True):
        if b.numel():
            assert_close(a.detach(), b.detach())
        assert a.shape == b.shape
    with torch.no_grad():
        for a, b in zip(ours(x, hx), expected, strict=True):
            assert a.shape == b.shape
            assert not a.numel() or (a - b).abs().max() <= TOLERANCES[dtype]


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no bias": {"bias": False},
    "peephole": {"peephole": True},
    "no peephole": {"peephole": False},
    "clip": {"clip": 0.3},
    "layer_norm": {"layer_norm": True},
    "all": {"peephole": True, "clip": 0.5, "layer_norm": True},
}
ANYWHERE = {"plain", "no bias", "no peephole"}
CASES = [(cell, name) for cell in CELLS for name in OPTIONS if {name} <= ANYWHERE | CELLS[cell].options]
CASES += [(cell, "all") for cell in CELLS if {"peephole", "clip", "layer_norm"} <= CELLS[cell].options]


def both(cell: str, **options: Any) -> tuple[LSTM, LSTMCell]:
    layer = spread(LSTM(D, H, dtype=torch.float64, cell=cell, **options))
    single = LSTMCell(D, H, dtype=torch.float64, cell=cell, **options)
    single.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.state_dict().items()})
    return layer, single


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize(("cell", "option"), CASES)
def test_a_loop_over_the_cell_is_the_layer(cell: str, option: str, given: bool):
    layer, single = both(cell, **OPTIONS[option])
    x = drawn(T, B, D)
    start = tuple(drawn(B, H, seed=seed) for seed, _ in enumerate(CELLS[cell].states)) if given else None
    y, final = layer(x, tuple(part[None] for part in start) if start else None)
    state, outputs = start, []
    for one in x:
        state = single(one, state)
        outputs.append(state.h)
    assert_close(torch.stack(outputs).detach(), y.detach())
    assert state is not None
    assert type(state) is type(final)
    for a, b in zip(state, final, strict=True):
        assert_close(a.detach(), b[0].detach())
    losses = [value.square().sum() for value in (torch.stack(outputs), y)]
    grads = [torch.autograd.grad(loss, list(m.parameters())) for loss, m in zip(losses, (single, layer), strict=True)]
    for a, b in zip(*grads, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("cell", CELLS)
def test_one_row_alone_is_that_row_of_the_batch(cell: str):
    _, single = both(cell)
    x, state = drawn(B, D), tuple(drawn(B, H, seed=seed) for seed, _ in enumerate(CELLS[cell].states))
    whole = single(x, state)
    for b in range(B):
        row = single(x[b], tuple(part[b] for part in state))
        for name, a in zip(CELLS[cell].states, row, strict=True):
            assert_close(a, getattr(whole, name)[b])
    # Under vmap too.
    mapped = torch.func.vmap(lambda x, state: tuple(single(x, state)))(x, state)
    for a, b in zip(mapped, whole, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("option", ["plain", "all"])
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_are_finite_differences(cell: str, option: str):
    if (cell, option) not in CASES:
        option = "plain"
    _, single = both(cell, **(OPTIONS[option] | ({"clip": 50.0} if option == "all" else {})))
    names = list(dict(single.named_parameters()))
    state = tuple(drawn(2, H, seed=seed).requires_grad_() for seed, _ in enumerate(CELLS[cell].states))
    x = drawn(2, D).requires_grad_()
    weights = [parameter.detach().requires_grad_() for parameter in single.parameters()]
    split = len(state)

    def step(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        parameters = dict(zip(names, rest[split:], strict=True))
        return tuple(torch.func.functional_call(single, parameters, (x, rest[:split])))

    assert torch.autograd.gradcheck(step, (x, *state, *weights), fast_mode=True)
    assert torch.autograd.gradgradcheck(step, (x, *state, *weights), fast_mode=True)


# torch.compile says this of nn.LSTMCell too, when a state goes from one step to the next.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("cell", ["lstm", "rnn", "cifg", "slstm", "fgr"])
def test_a_compiled_cell_is_the_cell(cell: str, gradient: bool):
    torch.compiler.reset()
    _, single = both(cell)
    compiled = torch.compile(single, backend="aot_eager", fullgraph=True)
    for x in (drawn(B, D), drawn(D)):
        with torch.set_grad_enabled(gradient):
            first, expected = compiled(x), single(x)
            second, twice = compiled(x, first), single(x, expected)
        for a, b in zip((*first, *second), (*expected, *twice), strict=True):
            assert_close(a, b)
        if gradient:
            losses = [torch.cat(state, -1).square().sum() for state in (second, twice)]
            grads = [torch.autograd.grad(loss, list(single.parameters())) for loss in losses]
            for a, b in zip(*grads, strict=True):
                assert_close(a, b)


X = torch.zeros(B, D)
H0 = torch.zeros(B, H)
CELL, RNN, SLSTM = LSTMCell(D, H), LSTMCell(D, H, cell="rnn"), LSTMCell(D, H, cell="slstm")
WRONG: dict[str, tuple[str, Any]] = {
    "input 3-D": ("1 or 2 dimensions, got 3", lambda: CELL(X[None])),
    "input 0-D": ("1 or 2 dimensions, got 0", lambda: CELL(torch.tensor(1.0))),
    "input narrow": ("Expected 4, got 3", lambda: CELL(X[:, 1:])),
    "input list": ("input must be a torch.Tensor, got list", lambda: CELL(X.tolist())),
    "input sparse": ("input must be a dense tensor", lambda: CELL(X.to_sparse())),
    "input dtype": ("float64.*float32", lambda: CELL(X.double())),
    "input elsewhere": ("meta", lambda: CELL(X.to("meta"))),
    "hx bare": (r"hx must be \(h_0, c_0\).*got Tensor", lambda: CELL(X, H0)),
    "hx one": ("got 1 parts", lambda: CELL(X, (H0,))),
    "hx of lstm for slstm": (r"\(h_0, c_0, n_0, m_0\).*'slstm', got 2 parts", lambda: SLSTM(X, (H0, H0))),
    "hx of None": ("h_0 must be a torch.Tensor, got NoneType", lambda: CELL(X, (None, None))),
    "hx sparse": ("c_0 must be a dense tensor", lambda: CELL(X, (H0, H0.to_sparse()))),
    "hx dtype": ("c_0 has dtype torch.float64", lambda: CELL(X, (H0, H0.double()))),
    "hx elsewhere": ("h_0 is on meta", lambda: CELL(X, (H0.to("meta"), H0))),
    "hx batch": (r"h_0 must have shape \[3, 6\], got \[2, 6\]", lambda: CELL(X, (H0[1:], H0))),
    "hx width": (r"c_0 must have shape \[3, 6\], got \[3, 5\]", lambda: CELL(X, (H0, H0[:, 1:]))),
    "hx 3-D": (r"h_0 must have shape \[3, 6\], got \[1, 3, 6\]", lambda: CELL(X, (H0[None], H0[None]))),
    "hx 1-D for a batch": ("h_0 must have shape", lambda: CELL(X, (H0[0], H0[0]))),
    "hx 2-D for one": (r"h_0 must have shape \[6\], got \[1, 6\]", lambda: CELL(X[0], (H0[:1], H0[:1]))),
    "hx 2-D for one of rnn": (r"h_0 must have shape \[6\]", lambda: RNN(X[0], H0[:1])),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_call_says_what_is_wrong(case: str):
    text, wrong = WRONG[case]
    with pytest.raises((InputError, TypeError), match=text) as caught:
        wrong()
    assert type(caught.value) in {InputError, ShapeError, TypeError}


MISTAKES: dict[str, Any] = {
    "input 3-D": lambda m: m(D, H)(X[None]),
    "input narrow": lambda m: m(D, H)(X[:, 1:]),
    "hx batch": lambda m: m(D, H)(X, (H0[1:], H0[1:])),
    "hx width": lambda m: m(D, H)(X, (H0[:, 1:], H0[:, 1:])),
    "hx 3-D": lambda m: m(D, H)(X, (H0[None], H0[None])),
    "hx 2-D for one": lambda m: m(D, H)(X[0], (H0, H0)),
    "hidden float": lambda m: m(D, 6.0),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_torchs_mistakes_raise_torchs_types(mistake: str):
    with pytest.raises((TypeError, ValueError, RuntimeError)) as theirs:
        MISTAKES[mistake](nn.LSTMCell)
    kind = next(base for base in type(theirs.value).__mro__ if base in {TypeError, ValueError, RuntimeError})
    with pytest.raises(kind):
        MISTAKES[mistake](LSTMCell)


def test_a_bare_tensor_is_the_state_of_a_cell_with_one():
    x, h = drawn(B, D, dtype=torch.float32), drawn(B, H, dtype=torch.float32)
    assert torch.equal(RNN(x, h).h, RNN(x, (h,)).h)
    assert not torch.equal(RNN(x, h).h, RNN(x).h)


@pytest.mark.parametrize("cell", CELLS)
def test_the_state_dict_is_a_layers_without_the_ending(cell: str):
    layer, single = LSTM(D, H, cell=cell), LSTMCell(D, H, cell=cell)
    assert [f"{name}_l0" for name in single.state_dict()] == list(layer.state_dict())
    assert list(single.state_dict()) == list(variant(cell).shapes(D, H))

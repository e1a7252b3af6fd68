"""From torch's modules to ours and back: all arguments, dtypes, modes, copies, and what torch lacks."""

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from gatewise import LSTM, LSTMCell, from_torch, to_torch
from gatewise.errors import InputError
from gatewise.spec import CELLS

T, B, D, H = 4, 3, 5, 6
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-6}

STACKS: list[dict[str, Any]] = [
    {"num_layers": layers, "bias": bias, "batch_first": batch_first, "bidirectional": both}
    for layers, bias, batch_first, both in itertools.product([1, 2], [True, False], [False, True], [False, True])
]
LAYERS: list[tuple[type[nn.Module], dict[str, Any], str]] = [
    *((nn.LSTM, stack, "lstm") for stack in STACKS),
    *((nn.LSTM, stack | {"proj_size": 2}, "lstm") for stack in STACKS),
    *((nn.RNN, stack, "rnn") for stack in STACKS),
    *((nn.RNN, stack | {"nonlinearity": "relu"}, "rnn-relu") for stack in STACKS),
]
SINGLE: list[tuple[type[nn.Module], dict[str, Any], str]] = [
    (kind, {"bias": bias} | more, cell)
    for bias in (True, False)
    for kind, more, cell in (
        (nn.LSTMCell, {}, "lstm"),
        (nn.RNNCell, {}, "rnn"),
        (nn.RNNCell, {"nonlinearity": "relu"}, "rnn-relu"),
    )
]


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    # Written so that a NaN fails.
    assert (ours - theirs).abs().max() <= TOLERANCES[ours.dtype] * max(1.0, theirs.abs().max().item())


def run(module: Any) -> tuple[Tensor, ...]:
    """Return the outputs and states of any of the modules, unpacked alike."""
    dtype, generator = next(module.parameters()).dtype, torch.Generator().manual_seed(3)
    shape = (B, D) if isinstance(module, LSTMCell | nn.LSTMCell | nn.RNNCell) else (T, B, D)
    x = torch.randn(shape, dtype=dtype, generator=generator)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "LSTM with projections is not supported with oneDNN", UserWarning)
        result = module(x)
    if isinstance(module, LSTMCell | nn.LSTMCell | nn.RNNCell):
        return result if isinstance(result, tuple) else (result,)
    output, state = result
    return output, *(state if isinstance(state, tuple) else (state,))


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(("kind", "arguments", "cell"), [*LAYERS, *SINGLE], ids=str)
def test_there_and_back(kind: type[nn.Module], arguments: dict[str, Any], cell: str, dtype: torch.dtype):
    torch.manual_seed(0)
    theirs = kind(D, H, **arguments, dtype=dtype)
    ours = from_torch(theirs)
    assert ours.variant.cell.name == cell
    assert isinstance(ours, LSTMCell if kind in {nn.LSTMCell, nn.RNNCell} else LSTM)
    back = to_torch(ours)
    assert type(back) is kind
    assert repr(back) == repr(theirs)
    for module in (ours, back):
        named = dict(module.named_parameters())
        assert list(named) == [name for name, _ in theirs.named_parameters()]
        for name, parameter in theirs.named_parameters():
            assert torch.equal(named[name], parameter)
            assert named[name].dtype is dtype
            assert named[name].data_ptr() != parameter.data_ptr()
    for a, b, c in zip(run(ours), run(theirs), run(back), strict=True):
        assert_close(a, b)
        assert torch.equal(b, c)


@pytest.mark.parametrize(("kind", "arguments", "cell"), [LAYERS[0], LAYERS[-1], *SINGLE[:3]], ids=str)
def test_copies_are_independent(kind: type[nn.Module], arguments: dict[str, Any], cell: str):
    theirs = kind(D, H, **arguments)
    ours = from_torch(theirs)
    back = to_torch(ours)
    before = [[part.clone() for part in run(module)] for module in (theirs, ours, back)]
    for changed, others in ((ours, (theirs, back)), (theirs, (back,))):
        for parameter in changed.parameters():
            parameter.data.mul_(3)
        for other in others:
            expected = before[(theirs, ours, back).index(other)]
            assert all(torch.equal(a, b) for a, b in zip(run(other), expected, strict=True))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("kind", "cell"), [(nn.LSTM, "lstm"), (nn.RNN, "rnn")])
def test_mode_and_dropout_go_along(kind: type[nn.Module], cell: str, training: bool):
    theirs = kind(D, H, 2, dropout=0.25).train(training)
    ours = from_torch(theirs)
    assert isinstance(ours, LSTM)
    back = to_torch(ours)
    assert (ours.dropout, back.dropout, ours.training, back.training) == (0.25, 0.25, training, training)
    torch.manual_seed(1)
    expected = run(theirs)
    for module in (ours, back):
        torch.manual_seed(1)
        for a, b in zip(run(module), expected, strict=True):
            assert_close(a, b)


def test_torchs_own_arguments_are_carried_by_every_cell_that_torch_has():
    for cell in ("lstm", "np", "peephole", "niaf"):
        layer = LSTM(D, H, 3, False, True, 0.5, True, cell=cell, peephole=False)
        if cell == "niaf":
            with pytest.raises(InputError, match="torch has no cell 'niaf'"):
                to_torch(layer)
            continue
        theirs = to_torch(layer)
        assert repr(theirs) == (
            f"LSTM({D}, {H}, num_layers=3, bias=False, batch_first=True, dropout=0.5, bidirectional=True)"
        )
        for a, b in zip(run(layer.eval()), run(theirs.eval()), strict=True):
            assert_close(a, b)


@pytest.mark.parametrize(("kind", "arguments", "cell"), [LAYERS[0], *SINGLE[:2]], ids=str)
def test_devices_and_frozen_weights_go_along(kind: type[nn.Module], arguments: dict[str, Any], cell: str):
    theirs = kind(D, H, **arguments)
    names = [name for name, _ in theirs.named_parameters()]
    theirs.get_parameter(names[1]).requires_grad_(False)
    with torch.no_grad():
        modules = [from_torch(theirs), to_torch(from_torch(theirs))]
    for module in modules:
        assert [p.requires_grad for p in module.parameters()] == [name != names[1] for name in names]
    moved = to_torch(from_torch(theirs.to("meta")))
    assert {parameter.device.type for parameter in moved.parameters()} == {"meta"}
    half = to_torch(from_torch(kind(D, H, **arguments, dtype=torch.bfloat16)))
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}


CHANGED: dict[str, Callable[[nn.Module, str], Any]] = {
    "weight_norm of U": lambda module, end: parametrizations.weight_norm(module, f"weight_hh{end}"),
    "weight_norm of W": lambda module, end: parametrizations.weight_norm(module, f"weight_ih{end}"),
    "orthogonal": lambda module, end: parametrizations.orthogonal(module, f"weight_hh{end}"),
    "pruned": lambda module, end: prune.l1_unstructured(module, f"weight_hh{end}", 0.5),
}


@pytest.mark.parametrize("way", CHANGED)
@pytest.mark.parametrize(("kind", "end"), [(nn.LSTM, "_l0"), (nn.RNN, "_l0"), (nn.LSTMCell, "")])
def test_of_parametrized_and_pruned_weights_the_values_are_copied(kind: type[nn.Module], end: str, way: str):
    theirs: Any = kind(D, H, dtype=torch.float64)
    CHANGED[way](theirs, end)
    ours: Any = from_torch(theirs)
    CHANGED[way](ours, end)
    expected = run(theirs)
    for module in (from_torch(theirs), to_torch(ours), to_torch(from_torch(theirs))):
        plain = kind(D, H)
        assert list(module.state_dict()) == list(plain.state_dict())
        assert all(parameter.requires_grad for parameter in module.parameters())
        for a, b in zip(run(module), expected, strict=True):
            assert_close(a, b)


LACKED: dict[str, tuple[dict[str, Any], str]] = {
    "cell": ({"cell": "cifg"}, "cell 'cifg' with peepholes"),
    "cell without peepholes": ({"cell": "noaf", "peephole": False}, "cell 'noaf'"),
    "peephole": ({"peephole": True, "clip": 1.0}, "cell 'lstm' with peepholes, clip"),
    "clip": ({"clip": 1.0}, "clip"),
    "layer_norm": ({"layer_norm": True}, "layer_norm"),
    "nonrecurrent_proj_size": ({"proj_size": 3, "nonrecurrent_proj_size": 2}, "nonrecurrent_proj_size"),
    "residual": ({"residual": True, "num_layers": 3}, "residual"),
    "zoneout": ({"zoneout": (0.0, 0.1)}, "zoneout"),
    "recurrent_dropout": ({"recurrent_dropout": 0.1}, "recurrent_dropout"),
    "weight_drop": ({"weight_drop": 0.1}, "weight_drop"),
    "learned_state": ({"learned_state": True}, "learned_state"),
    "several": ({"residual": True, "num_layers": 3, "weight_drop": 0.1, "clip": 1.0}, "clip, residual, weight_drop"),
    "of rnn": ({"cell": "rnn", "clip": 1.0, "zoneout": 0.2}, "clip, zoneout"),
}


@pytest.mark.parametrize("case", LACKED)
def test_what_torch_lacks_is_named(case: str):
    arguments, text = LACKED[case]
    with pytest.raises(InputError, match=text) as caught:
        to_torch(LSTM(D, H, **arguments))
    # It names what is on, and nothing else.
    assert str(caught.value) == f"torch has no {text}."


@pytest.mark.parametrize("module", [LSTM, LSTMCell])
@pytest.mark.parametrize("cell", CELLS)
def test_only_torchs_cells_go_to_torch(cell: str, module: Any):
    if cell in {"lstm", "np", "rnn", "rnn-relu"}:
        to_torch(module(D, H, cell=cell))
        return
    with pytest.raises(InputError, match=f"torch has no .*'{cell}'"):
        to_torch(module(D, H, cell=cell))


@pytest.mark.parametrize("wrong", [nn.GRU(D, H), nn.GRUCell(D, H), nn.Linear(D, H), LSTM(D, H), None, "LSTM", nn.LSTM])
def test_other_modules_are_refused(wrong: Any):
    with pytest.raises(InputError, match=r"from_torch takes nn.LSTM, nn.RNN, nn.LSTMCell and nn.RNNCell, got \w+"):
        from_torch(wrong)
    if not isinstance(wrong, LSTM):
        with pytest.raises(InputError, match=r"to_torch takes gatewise.LSTM and gatewise.LSTMCell, got \w+"):
            to_torch(wrong)

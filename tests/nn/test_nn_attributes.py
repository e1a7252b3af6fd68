"""What modules show of their arguments, what may be changed afterwards, and arguments that would do nothing."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from gatewise import LSTM, ConvLSTM, LSTMCell, Stack
from gatewise.errors import InputError
from gatewise.spec import CELLS

D, H = 3, 5
CHOSEN: dict[str, Any] = {"cell": "nig", "peephole": False, "clip": 2.0, "layer_norm": True}
MODULES: dict[str, tuple[nn.Module, dict[str, Any]]] = {
    "LSTM": (LSTM(D, H, proj_size=2, nonrecurrent_proj_size=1, **CHOSEN), CHOSEN | {"nonrecurrent_proj_size": 1}),
    "defaults": (
        LSTM(D, H),
        {"cell": "lstm", "peephole": False, "clip": None, "layer_norm": False, "nonrecurrent_proj_size": 0},
    ),
    "LSTMCell": (LSTMCell(D, H, **CHOSEN), CHOSEN),
    "ConvLSTM": (ConvLSTM(D, H, 3, image_size=4, clip=1), {"cell": "peephole", "peephole": True, "clip": 1.0}),
}
ATTRIBUTES = [(case, name) for case, (_, shown) in MODULES.items() for name in shown]


@pytest.mark.parametrize(("case", "name"), ATTRIBUTES)
def test_arguments_are_attributes_that_cannot_be_set(case: str, name: str):
    module, shown = MODULES[case]
    assert getattr(module, name) == shown[name]
    assert type(getattr(module, name)) is type(shown[name])
    with pytest.raises(AttributeError, match=f"^{name} cannot be changed after construction; make another module"):
        setattr(module, name, shown[name])
    assert getattr(type(module), name).__doc__


@pytest.mark.parametrize("cell", CELLS)
def test_mode_is_torchs(cell: str):
    like: dict[str, nn.RNNBase] = {"rnn": nn.RNN(D, H), "rnn-relu": nn.RNN(D, H, nonlinearity="relu")}
    assert LSTM(D, H, cell=cell).mode == like.get(cell, nn.LSTM(D, H)).mode


def with_weights_of(layer: LSTM, **options: Any) -> LSTM:
    other = LSTM(D, H, **options)
    other.load_state_dict(layer.state_dict())
    return other


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("cell", "value", "pair"),
    [
        ("lstm", 0.3, (0.3, 0.3)),
        ("lstm", (0.0, 1), (0.0, 1.0)),
        ("lstm", 0, (0.0, 0.0)),
        ("rnn", 0.3, (0.3, 0.0)),
        ("rnn", (0.3, 0), (0.3, 0.0)),
    ],
)
def test_zoneout_may_be_set_afterwards(cell: str, value: Any, pair: tuple[float, float], training: bool):
    layer = LSTM(D, H, cell=cell, zoneout=0.8).train(training)
    before = layer(torch.ones(4, 2, D))[0]
    layer.zoneout = value
    made = with_weights_of(layer, cell=cell, zoneout=value).train(training)
    results = []
    for module in (layer, made, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert module.zoneout == pair
        torch.manual_seed(0)
        results.append(module(torch.ones(4, 2, D))[0])
    assert all(torch.equal(result, results[0]) for result in results)
    assert not torch.equal(results[0], before)


BAD_ZONEOUTS: list[tuple[str, Any, type[Exception], str]] = [
    ("lstm", 1.5, InputError, r"zoneout must be a number from 0 to 1, got 1\.5"),
    ("lstm", None, TypeError, "zoneout must be a number from 0 to 1, got None"),
    ("lstm", (0.1,), InputError, "or a pair of them"),
    ("slstm", 0.1, InputError, "zoneout is not defined for the cell 'slstm'"),
    ("rnn", (0.2, 0.1), InputError, r"zoneout=\(0.2, 0.1\) keeps an old c, but the cell 'rnn' has none"),
    ("rnn-relu", [0, 0.1], InputError, r"zoneout=\[0, 0.1\] keeps an old c, but the cell 'rnn-relu' has none"),
]


@pytest.mark.parametrize(("cell", "value", "error", "text"), BAD_ZONEOUTS)
def test_zoneouts_that_mean_nothing_are_refused_at_once(cell: str, value: Any, error: type[Exception], text: str):
    with pytest.raises(error, match=text):
        LSTM(D, H, cell=cell, zoneout=value)
    layer = LSTM(D, H, cell=cell)
    with pytest.raises(error, match=text):
        layer.zoneout = value
    assert layer.zoneout == (0.0, 0.0)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_residual_without_a_third_layer_warns(layers: int, recwarn: pytest.WarningsRecorder):
    LSTM(D, H, num_layers=layers, residual=True)
    Stack(*(LSTM(H, H) for _ in range(layers)), residual=True)
    found = list(recwarn)
    assert len(found) == (2 if layers < 3 else 0)
    for warning in found:
        assert str(warning.message).startswith("residual=True acts from the third layer up, and ")
        # It points at the user's line.
        assert warning.filename == __file__


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_dtypes_are_refused(dtype: torch.dtype):
    for make in (
        lambda: LSTM(D, H, dtype=dtype),
        lambda: LSTMCell(D, H, dtype=dtype),
        lambda: ConvLSTM(D, H, 3, cell="lstm", dtype=dtype),
    ):
        with pytest.raises(InputError, match=f"dtype must be real.* {dtype}"):
            make()

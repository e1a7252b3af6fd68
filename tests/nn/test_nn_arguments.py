"""Wrong arguments of the modules: each is named before anything is drawn."""

import inspect
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gatewise import LSTM, LSTMCell
from gatewise.errors import InputError
from gatewise.ops import ShapeError
from gatewise.spec import CELLS

D, H = 4, 6
HUGE = 10**400

NO_SIZES: list[Any] = [0, -1, True, None, 2.0, math.nan, "3", [3], torch.tensor(3), np.float64(3)]
NO_FLAGS: list[Any] = [0, 1, None, "yes", 1.0, [True]]
NO_PROBABILITIES: list[Any] = [-0.1, 1.1, True, None, "0.5", math.nan, math.inf, HUGE, [0.5], torch.tensor(0.5), 1j]
NO_BOUNDS: list[Any] = [0, 0.0, -1.0, True, "1", math.nan, math.inf, HUGE, [1.0], torch.tensor(1.0)]
BAD_ARGUMENTS: dict[str, list[Any]] = {
    "input_size": NO_SIZES,
    "hidden_size": NO_SIZES,
    "num_layers": NO_SIZES,
    "bias": NO_FLAGS,
    "batch_first": NO_FLAGS,
    "dropout": NO_PROBABILITIES,
    "bidirectional": NO_FLAGS,
    "proj_size": [-1, True, None, 2.0, "3", [3], H, H + 1],
    "cell": ["gru", "LSTM", "", None, 3, ["lstm"]],
    "peephole": [0, 1, "yes", []],
    "clip": NO_BOUNDS,
    "layer_norm": NO_FLAGS,
    "nonrecurrent_proj_size": [-1, True, None, 2.0, "3"],
    "residual": NO_FLAGS,
    "zoneout": [*(v for v in NO_PROBABILITIES if v != [0.5]), (), (0.1,), (0.1, 0.2, 0.3), (0.1, None), (2, 0), [0.1]],
    "recurrent_dropout": NO_PROBABILITIES,
    "weight_drop": NO_PROBABILITIES,
    "forget_bias": [True, "1", math.nan, math.inf, HUGE, [1.0], torch.tensor(1.0)],
    "init": ["xavier", "", None, 3, ["torch"]],
    "max_lag": [2, 0, -1, True, None, 3.0, "9"],
    "learned_state": NO_FLAGS,
    "generator": [0, "seed", torch.Generator, np.random.default_rng(0)],
    "save": ["some", "", None, 3, ["all"]],
    "backend": ["cuda", "", None, 3, ["auto"]],
}
CASES = [(name, value) for name, values in BAD_ARGUMENTS.items() for value in values]
CELL_CASES = [(name, value) for name, value in CASES if name in inspect.signature(LSTMCell).parameters]


def test_the_table_has_every_argument():
    assert set(BAD_ARGUMENTS) == set(inspect.signature(LSTM).parameters) - {"device", "dtype"}
    assert set(inspect.signature(LSTMCell).parameters) <= set(inspect.signature(LSTM).parameters)


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [*((LSTM, *case) for case in CASES), *((LSTMCell, *case) for case in CELL_CASES)],
    ids=lambda value: getattr(value, "__name__", str(value)[:30]),
)
def test_a_wrong_argument_is_named_before_anything_is_drawn(module: type[nn.Module], name: str, value: Any):
    state = torch.get_rng_state()
    with pytest.raises((InputError, TypeError)) as caught:
        module(**({"input_size": D, "hidden_size": H} | {name: value}))
    assert type(caught.value) in {InputError, ShapeError, TypeError}
    text = str(caught.value)
    assert name in text
    assert re.search(r"must|should|needs", text)
    shown = [value, *value] if isinstance(value, tuple) else [value]
    assert any(repr(part)[:40] in text or type(part).__name__ in text for part in shown)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("value", [np.float32(0.25), np.float64(0.25), 0, 1, 0.0, 1.0])
def test_any_real_number_is_a_probability(value: Any):
    names = ("dropout", "recurrent_dropout", "weight_drop")
    arguments: dict[str, Any] = dict.fromkeys(names, value)
    layer = LSTM(D, H, num_layers=2, **arguments)
    assert [getattr(layer, name) for name in names] == [float(value)] * 3
    assert LSTM(D, H, zoneout=value).zoneout == (value, value)
    assert LSTM(D, H, zoneout=[0.5, value]).zoneout == (0.5, value)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "arguments", [{"dtype": "float32"}, {"dtype": torch.int64}, {"device": "nowhere"}, {"device": 1.5}]
)
def test_devices_and_dtypes_are_torchs_to_refuse(arguments: dict[str, Any]):
    with pytest.raises((TypeError, RuntimeError)) as theirs:
        nn.LSTM(D, H, **arguments)
    with pytest.raises(type(theirs.value)):
        LSTM(D, H, **arguments)


OPTIONS: dict[str, dict[str, Any]] = {
    "peephole": {"peephole": True},
    "layer_norm": {"layer_norm": True},
    "clip": {"clip": 1.0},
    "projection": {"proj_size": 2},
    "zoneout": {"zoneout": 0.5},
    "learned_state": {"learned_state": True},
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("cell", CELLS)
def test_the_table_of_options_is_what_the_modules_take(cell: str, option: str):
    modules = [LSTM, LSTMCell] if option in {"peephole", "layer_norm", "clip"} else [LSTM]
    for module in modules:
        if option in CELLS[cell].options:
            module(D, H, cell=cell, **OPTIONS[option])
            continue
        with pytest.raises(InputError, match=f"{option} is not defined for the cell '{cell}'; it is for .*lstm") as e:
            module(D, H, cell=cell, **OPTIONS[option])
        able = str(e.value).split("it is for ")[1].rstrip(".").split(", ")
        assert able == [name for name, row in CELLS.items() if option in row.options]


@pytest.mark.parametrize(
    "options", [{"zoneout": 0.0}, {"zoneout": (0, 0)}, {"peephole": False}, {"clip": None}], ids=str
)
def test_options_that_are_off_fit_every_cell(options: dict[str, Any]):
    for cell in CELLS:
        LSTM(D, H, cell=cell, **options)


def test_dropout_without_a_layer_after_it_warns_as_torch_does():
    with pytest.warns(UserWarning, match="num_layers"):
        nn.LSTM(D, H, dropout=0.5)
    with pytest.warns(UserWarning, match="num_layers") as caught:
        LSTM(D, H, dropout=0.5)
    # It points at the user's line.
    assert [warning.filename for warning in caught] == [__file__]

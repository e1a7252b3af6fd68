"""The module in float64 against an independent transcription of each cell's equations."""

from typing import Any

import numpy as np
import pytest
import torch
from cell_problem import (
    CELLS,
    PLAIN,
    Problem,
    assert_close,
    assert_equals_transcription,
    assert_states_close,
    assert_traces_close,
    tensors,
)
from torch import nn
from transcription import network

Case = tuple[str, dict[str, Any]]

GATED = [cell for cell in CELLS if cell not in PLAIN]
BOTH = {"proj_size": 3, "nonrecurrent_proj_size": 2}
EVERYTHING = {"peephole": True, "layer_norm": True, "clip": 0.4, "zoneout": (0.3, 0.2), **BOTH}

DEFAULTS: list[Case] = [(cell, {}) for cell in CELLS]
SWITCHED: list[Case] = [(cell, {"peephole": on}) for cell in GATED for on in (True, False)]
CLIPPED: list[Case] = [(cell, {"clip": 0.4}) for cell in CELLS]
NO_BIAS: list[Case] = [(cell, {"bias": False}) for cell in CELLS]
ZONED: list[Case] = [(cell, {"zoneout": 0.3}) for cell in CELLS if cell != "slstm"]
PROJECTED: list[Case] = [(cell, options) for cell in GATED for options in ({"proj_size": 3}, BOTH)]
NORMED: list[Case] = [(cell, {"layer_norm": True}) for cell in GATED if cell != "fgr"]
MIXED: list[Case] = [
    ("lstm", {"zoneout": (0.0, 0.4)}),
    ("peephole", {"zoneout": (0.4, 0.0)}),
    ("lstm", {"layer_norm": True, "bias": False}),
    ("peephole", {"clip": 0.4, "proj_size": 3}),
    ("fgr", {"clip": 0.4, "zoneout": (0.3, 0.2), **BOTH}),
    *((cell, EVERYTHING) for cell in GATED if cell != "fgr"),
]
STACKS: list[Case] = [
    ("rnn", {"num_layers": 3, "bidirectional": True}),
    ("lstm", {"num_layers": 3, "residual": True}),
    ("lstm", {"num_layers": 4, "residual": True, "bidirectional": True}),
    ("nig", {"num_layers": 3, "residual": True, "layer_norm": True}),
    ("cifg", {"num_layers": 4, "residual": True, "bidirectional": True, **BOTH}),
    ("lstm-1997", {"num_layers": 3}),
    ("slstm", {"num_layers": 3, "residual": True, "bidirectional": True}),
    *((cell, {"num_layers": 2, "bidirectional": True}) for cell in CELLS),
]
CASES = DEFAULTS + SWITCHED + CLIPPED + NO_BIAS + ZONED + PROJECTED + NORMED + MIXED + STACKS


def name(value: object) -> str:
    return ",".join(f"{key}={option}" for key, option in value.items()) if isinstance(value, dict) else str(value)


@pytest.mark.parametrize("T", [1, 2, 17])
@pytest.mark.parametrize(("cell", "options"), CASES, ids=name)
def test_equals_transcription(cell: str, options: dict[str, Any], T: int):
    problem = Problem(cell, T, options=options)
    weights = problem.weights()
    assert_equals_transcription(problem, weights, problem.inputs(), problem.states())
    assert_equals_transcription(problem, weights, problem.inputs(), None)


@pytest.mark.parametrize("T", [1, 17])
@pytest.mark.parametrize(("cell", "options"), DEFAULTS + SWITCHED + CLIPPED + NORMED, ids=name)
@pytest.mark.parametrize(("B", "D"), [(1, 1), (3, 5)])
def test_one_hidden_unit(cell: str, options: dict[str, Any], T: int, B: int, D: int):
    problem = Problem(cell, T, B, D, 1, options)
    assert_equals_transcription(problem, problem.weights(), problem.inputs(), problem.states())


@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell != "slstm"])
def test_a_learned_state_is_where_a_run_starts(cell: str):
    problem = Problem(cell, options={"learned_state": True, "num_layers": 2, "bidirectional": True})
    weights, x = problem.weights(), problem.inputs()
    start = problem.zeros()
    for kind, value in start.items():
        for index, suffix in enumerate(("l0", "l0_reverse", "l1", "l1_reverse")):
            value[index] = weights[f"{kind}_0_{suffix}"]
    y, final, traces = problem.transcribe(x, start, weights)
    output, state, traced = problem.layer(weights)(torch.from_numpy(x), trace=True)
    assert_close(output, y, "output")
    assert_states_close(state, final)
    assert_traces_close(traced, traces)


@pytest.mark.parametrize("T", [1, 17])
def test_slstms_stabiliser_is_void_where_the_normaliser_is_zero(T: int):
    # A large m left beside n = 0 would make the first i' underflow to 0/0 if it counted.
    problem = Problem("slstm", T)
    states = problem.states()
    states["n"][:, ::2, ::3] = 0
    states["m"][:, ::2, ::3] = 1e4
    assert_equals_transcription(problem, problem.weights(), problem.inputs(), states)


def test_slstm_is_the_exponential_gate_without_its_stabiliser():
    # c and n are both scaled by exp(-m): unscaled, the stabiliser is gone, and h does not see the difference.
    problem = Problem("slstm", 17)
    weights, x, states = problem.weights(), problem.inputs(), problem.zeros()
    h, c, n = states["h"][0], states["c"][0], states["n"][0]
    outputs = []
    for x_t in x:
        v = x_t @ weights["weight_ih_l0"].T + h @ weights["weight_hh_l0"].T
        v_i, v_f, v_g, v_o = np.split(v + weights["bias_ih_l0"] + weights["bias_hh_l0"], 4, axis=1)
        f = 1 / (1 + np.exp(-v_f))
        c, n = f * c + np.exp(v_i) * np.tanh(v_g), f * n + np.exp(v_i)
        h = c / n / (1 + np.exp(-v_o))
        outputs.append(h)
    output, state = problem.layer(weights)(torch.from_numpy(x))
    assert_close(output, np.stack(outputs), "output")
    assert_close(state.c * state.m.exp(), c[None], "c")
    assert_close(state.n * state.m.exp(), n[None], "n")


TORCHS = [
    ("lstm", {}),
    ("lstm", {"num_layers": 3, "bidirectional": True}),
    ("lstm", {"bias": False}),
    ("lstm", {"num_layers": 2, "bidirectional": True, "proj_size": 3}),
    ("rnn", {"num_layers": 2, "bidirectional": True}),
    ("rnn-relu", {"num_layers": 2, "nonlinearity": "relu"}),
]


@pytest.mark.parametrize(("cell", "options"), TORCHS, ids=name)
def test_the_transcription_equals_torch(cell: str, options: dict[str, Any]):
    problem = Problem(cell, 17, options=options)
    weights, x, states = problem.weights(), problem.inputs(), problem.states()
    torchs: Any = nn.LSTM if cell == "lstm" else nn.RNN
    module = torchs(problem.D, problem.H, dtype=torch.float64, **options)
    module.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    output, final = module(torch.from_numpy(x), tensors(states) if cell == "lstm" else tensors(states)[0])
    known = {key: value for key, value in options.items() if key in ("num_layers", "bidirectional")}
    y, expected, _ = network(cell, x, states, weights, **known)
    assert_close(output, y, "output")
    for got, value in zip(final if cell == "lstm" else (final,), expected.values(), strict=True):
        assert_close(got, value, "final state")

"""Where the equations of two cells differ and where they must agree, and the options a cell does not have."""

from typing import Any

import numpy as np
import pytest
import torch
from cell_problem import CELLS, PEEPING, Problem, assert_close, tensors
from torch import Tensor
from transcription import Values, learned_gates

from gatewise import LSTM
from gatewise.errors import InputError

VANILLA = Problem("lstm", 6)
OPEN = 1e30  # a bias that makes a gate exactly one


def vanilla_weights(**biases: float) -> Values:
    """Draw vanilla's weights, with some gates' biases replaced, and their weights with them."""
    weights = VANILLA.weights()
    for gate, bias in biases.items():
        rows = gate_rows(gate)
        for name in weights:
            weights[name][rows] = bias if name == "bias_ih_l0" else 0
    return weights


def gate_rows(gate: str) -> slice:
    start = "ifgo".index(gate) * VANILLA.H
    return slice(start, start + VANILLA.H)


def shared(cell: str, weights: Values) -> Values:
    """Keep of vanilla's weights the rows of a cell's own gates."""
    rows = np.concatenate([np.arange(VANILLA.H) + gate_rows(gate).start for gate in learned_gates(cell)])
    return {name: value[rows] for name, value in weights.items()}


def run(cell: str, weights: Values, **options: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    problem = Problem(cell, VANILLA.T, options=options)
    # Every cell draws the same h and c; fgr's gates start from zero.
    states = {name: 0 * value if name in "ifo" else value for name, value in problem.states().items()}
    with torch.no_grad():
        return problem.layer(weights)(torch.from_numpy(VANILLA.inputs()), tensors(states))


DIFFERENT = [
    *((cell, {"peephole": False}) for cell in ("lstm-1997", "nig", "nfg", "nog", "niaf", "noaf", "cifg")),
    *((cell, {}) for cell in ("rnn", "rnn-relu", "slstm")),
]


@pytest.mark.parametrize(("cell", "options"), DIFFERENT, ids=str)
def test_a_variant_is_not_vanilla(cell: str, options: dict[str, Any]):
    weights = vanilla_weights()
    output, _ = run("lstm", weights)
    other, _ = run(cell, shared(cell, weights), **options)
    # From the first step on: no variant agrees with vanilla even there.
    assert all(float((a - b).abs().max()) > 1e-2 for a, b in zip(output, other, strict=True))


@pytest.mark.parametrize("cell", ["lstm", "peephole", "np"])
def test_peepholes_change_the_output(cell: str):
    weights = vanilla_weights()
    peephole = np.random.default_rng(0).uniform(-1, 1, 3 * VANILLA.H)
    output, _ = run("lstm", weights)
    other, _ = run(cell, {**weights, "weight_peephole_l0": peephole}, peephole=True)
    assert all(float((a - b).abs().max()) > 1e-2 for a, b in zip(output, other, strict=True))


def test_np_is_vanilla():
    (output, state), (other, same) = run("lstm", vanilla_weights()), run("np", vanilla_weights())
    assert torch.equal(output, other)
    assert all(torch.equal(a, b) for a, b in zip(state, same, strict=True))


@pytest.mark.parametrize("cell", ["lstm", "peephole", "np"])
def test_vanilla_is_the_peephole_cell_with_peepholes_of_zero_or_none(cell: str):
    weights = vanilla_weights()
    output, _ = run("lstm", weights)
    zero = {**weights, "weight_peephole_l0": np.zeros(3 * VANILLA.H)}
    for other in (run(cell, weights, peephole=False), run(cell, zero, peephole=True)):
        assert_close(other[0], output.numpy(), cell)


@pytest.mark.parametrize(("cell", "gate"), [("nig", "i"), ("nfg", "f"), ("nog", "o")])
def test_a_missing_gate_is_an_open_one(cell: str, gate: str):
    weights = vanilla_weights(**{gate: OPEN})
    output, (_, c) = run("lstm", weights)
    other, (_, same) = run(cell, shared(cell, weights), peephole=False)
    assert_close(other, output.numpy(), cell)
    assert_close(same, c.numpy(), cell)


def test_cifg_is_vanilla_whose_forget_gate_mirrors_the_input_gate():
    weights = vanilla_weights()
    for value in weights.values():
        value[gate_rows("f")] = -value[gate_rows("i")]
    output, _ = run("lstm", weights)
    assert_close(run("cifg", shared("cifg", weights), peephole=False)[0], output.numpy(), "cifg")


def test_the_cell_of_1997_is_vanilla_at_half_scale():
    # 4σ(x) - 2 = 2 tanh(x/2) and 2σ(c) - 1 = tanh(c/2): c/2 is the cell state of a vanilla cell that never forgets.
    weights = vanilla_weights(f=OPEN)
    x, (h, c) = torch.from_numpy(VANILLA.inputs()), tensors(VANILLA.states())
    half = {name: value.copy() for name, value in weights.items()}
    for value in half.values():
        value[gate_rows("g")] /= 2
    output, (_, halved) = VANILLA.layer(half)(x, (h, c / 2))
    other, (_, whole) = Problem("lstm-1997", VANILLA.T).layer(shared("lstm-1997", weights))(x, (h, c))
    assert_close(other, output.detach().numpy(), "output")
    assert_close(whole, 2 * halved.detach().numpy(), "c")


def test_fgr_sees_the_gates_of_the_step_before():
    weights = vanilla_weights()
    output, _ = run("lstm", weights)
    for size, equal in ((0.0, True), (1.0, False)):
        gates = np.random.default_rng(0).uniform(-size, size, (3 * VANILLA.H, 3 * VANILLA.H))
        other, _ = run("fgr", {**weights, "weight_gates_l0": gates}, peephole=False)
        # Its gates start from zero, so the first step is vanilla's either way.
        assert_close(other[0], output[0].numpy(), "first step")
        assert torch.allclose(other[1:], output[1:], rtol=0, atol=1e-12) == equal


@pytest.mark.parametrize("cell", CELLS)
def test_peepholes_are_on_where_the_paper_has_them(cell: str):
    names = dict(LSTM(2, 3, cell=cell).named_parameters())
    assert ("weight_peephole_l0" in names) == (cell in PEEPING)


REFUSED = [
    *((cell, {"peephole": True}) for cell in ("rnn", "rnn-relu", "slstm")),
    *((cell, {"layer_norm": True}) for cell in ("rnn", "rnn-relu", "slstm", "fgr")),
    *((cell, {"proj_size": 1}) for cell in ("rnn", "rnn-relu", "slstm")),
    *((cell, {"proj_size": 1, "nonrecurrent_proj_size": 1}) for cell in ("rnn", "rnn-relu", "slstm")),
    ("slstm", {"zoneout": 0.5}),
    ("slstm", {"learned_state": True}),
    ("lstm", {"clip": -1.0}),
    ("lstm", {"clip": float("nan")}),
    ("lstm", {"zoneout": 1.5}),
    ("lstm", {"zoneout": (0.5, -0.5)}),
    ("gru", {}),
]


@pytest.mark.parametrize(("cell", "options"), REFUSED, ids=str)
def test_options_a_cell_does_not_have_are_refused(cell: str, options: dict[str, Any]):
    with pytest.raises(InputError):
        LSTM(2, 3, cell=cell, **options)

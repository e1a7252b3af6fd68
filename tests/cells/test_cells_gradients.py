"""The module's gradients in float64 against complex steps of the transcription; saturated gates."""

from typing import Any

import numpy as np
import pytest
import torch
from cell_problem import CELLS, PLAIN, Problem, assert_equals_transcription, tensors
from transcription import Array, Values

EPSILON = 1e-30
BOTH = {"proj_size": 3, "nonrecurrent_proj_size": 2}

DIFFERENTIATED = [
    *((cell, {}) for cell in CELLS),
    *((cell, {"clip": 0.6}) for cell in CELLS),
    ("lstm", {"peephole": True, "layer_norm": True}),
    ("lstm", {"zoneout": (0.3, 0.2), **BOTH}),
    ("lstm", {"bias": False, "num_layers": 3, "residual": True, "bidirectional": True}),
    ("rnn", {"zoneout": 0.3, "num_layers": 2, "bidirectional": True}),
    ("peephole", {"clip": 0.6, "proj_size": 3}),
    ("lstm-1997", {"peephole": True, "layer_norm": True, **BOTH}),
    ("nig", {"layer_norm": True, "zoneout": 0.3}),
    ("noaf", {"layer_norm": True, "bidirectional": True}),
    ("cifg", {"num_layers": 3, "residual": True, **BOTH}),
    ("fgr", {"clip": 0.6, "zoneout": 0.3, "bidirectional": True, **BOTH}),
    ("slstm", {"num_layers": 3, "residual": True, "bidirectional": True}),
]


def loss_of(problem: Problem, values: Values) -> Any:
    """Weigh the outputs and final states of the transcription by fixed random numbers."""
    states = {name: values[f"{name} start"] for name in problem.state_shapes()}
    y, final, _ = problem.transcribe(values["x"], states, values)
    return sum((value * weigh(value.shape)).sum() for value in (y, *final.values()))


def weigh(shape: tuple[int, ...]) -> Array:
    return np.random.default_rng(7).uniform(-1, 1, shape)


def directions(shape: tuple[int, ...], rng: np.random.Generator) -> list[Array]:
    """Return three entries alone, and one direction that moves them all."""
    entries = np.eye(int(np.prod(shape)))[rng.integers(np.prod(shape), size=3)]
    return [*entries.reshape(-1, *shape), rng.uniform(-1, 1, shape)]


def gradients(problem: Problem, weights: Values, x: Array, states: Values) -> Values:
    layer = problem.layer(weights)
    inputs = [torch.from_numpy(x).requires_grad_(), *(state.requires_grad_() for state in tensors(states))]
    output, final = layer(inputs[0], tuple(inputs[1:]))
    loss = torch.stack([(value * torch.from_numpy(weigh(value.shape))).sum() for value in (output, *final)]).sum()
    loss.backward()
    named = {**dict(zip(["x", *(f"{name} start" for name in states)], inputs, strict=True)), **layer.state_dict()}
    named |= dict(layer.named_parameters())
    return {name: tensor.grad.numpy() for name, tensor in named.items() if tensor.grad is not None}


@pytest.mark.parametrize(("cell", "options"), DIFFERENTIATED, ids=str)
def test_gradients_equal_complex_steps(cell: str, options: dict[str, Any]):
    problem = Problem(cell, T=4, B=2, D=3, H=5, options=options)
    weights, x, states = problem.weights(), problem.inputs(), problem.states()
    found = gradients(problem, weights, x, states)
    values = {"x": x, **{f"{name} start": state for name, state in states.items()}, **weights}
    assert found.keys() == values.keys()
    rng = np.random.default_rng(0)
    for name, value in values.items():
        for direction in directions(value.shape, rng):
            moved = {**values, name: value + 1j * EPSILON * direction}
            slope = loss_of(problem, moved).imag / EPSILON
            assert (found[name] * direction).sum() == pytest.approx(slope, rel=1e-10, abs=1e-10), name


def test_slstms_gradients_start_from_nothing():
    # From zeros, m before the first step counts as -inf, which must leave no NaN behind.
    problem = Problem("slstm", B=2, D=3, H=5)
    weights, x, states = problem.weights(), problem.inputs(), problem.zeros()
    found = gradients(problem, weights, x, states)
    values = {"x": x, **{f"{name} start": state for name, state in states.items()}, **weights}
    rng = np.random.default_rng(0)
    for name in ("x", *weights):
        for direction in directions(values[name].shape, rng):
            slope = loss_of(problem, {**values, name: values[name] + 1j * EPSILON * direction}).imag / EPSILON
            assert (found[name] * direction).sum() == pytest.approx(slope, rel=1e-10, abs=1e-10), name
    assert all(np.isfinite(gradient).all() for gradient in found.values())


SIGNS = ["up", "down", "mixed"]
SATURATED = [
    *((cell, {}) for cell in CELLS),
    *((cell, {"peephole": True, "layer_norm": True, **BOTH}) for cell in CELLS if cell not in [*PLAIN, "fgr"]),
    ("lstm", {"bidirectional": True, "num_layers": 2}),
]


def push(problem: Problem, size: float, signs: str) -> Values:
    """Return weights whose biases push every pre-activation to ±size or up to twice as far.

    Not all equally far: the layer norm of niaf's equal cells of 1e30 would be a quotient of rounding errors.
    """
    weights = problem.weights()
    rng = np.random.default_rng(3)
    for name in weights:
        if name.startswith("bias_ih"):
            mixed = rng.choice([-1, 1], weights[name].shape)
            far = size * rng.uniform(1, 2, weights[name].shape)
            weights[name] += far * {"up": 1, "down": -1, "mixed": mixed}[signs]
    return weights


@pytest.mark.parametrize("size", [50, 1e30])
@pytest.mark.parametrize("signs", SIGNS)
@pytest.mark.parametrize(("cell", "options"), SATURATED, ids=str)
def test_gates_saturated_by_their_biases(cell: str, options: dict[str, Any], size: float, signs: str):
    problem = Problem(cell, 5, options=options)
    weights, x, states = push(problem, size, signs), problem.inputs(), problem.states()
    y, _, _ = problem.transcribe(x, states, weights)
    assert np.isfinite(y).all()
    assert_equals_transcription(problem, weights, x, states)
    assert all(np.isfinite(gradient).all() for gradient in gradients(problem, weights, x, states).values())


@pytest.mark.parametrize("size", [50, 1e30])
@pytest.mark.parametrize(("cell", "options"), SATURATED, ids=str)
def test_gates_saturated_by_the_input(cell: str, options: dict[str, Any], size: float):
    problem = Problem(cell, 5, options=options)
    weights, x = problem.weights(), size * problem.inputs()
    assert_equals_transcription(problem, weights, x, problem.states())
    assert_equals_transcription(problem, weights, x, None)


@pytest.mark.parametrize("size", [50, 1e30])
@pytest.mark.parametrize("signs", SIGNS)
@pytest.mark.parametrize(("cell", "options"), SATURATED, ids=str)
def test_saturated_gates_are_finite_in_float32(cell: str, options: dict[str, Any], size: float, signs: str):
    problem = Problem(cell, 5, options=options)
    layer = problem.layer(push(problem, size, signs), torch.float32)
    x, hx = torch.from_numpy(problem.inputs()).float(), tensors(problem.states(), torch.float32)
    for gradient in (False, True):
        with torch.set_grad_enabled(gradient):
            output, state, traces = layer(x, hx, trace=True)
        values = [layer(x, hx)[0], output, *state, *(value for trace in traces for value in trace.values())]
        assert all(bool(value.isfinite().all()) for value in values)

"""The printed equations are the definition: what they compute is what the reference computes."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from equation_reader import Array, Values, compute

from gatewise.reference import Weights, step
from gatewise.spec import CELLS, Cell, Gate, Variant, variant
from gatewise.spec.equations import equations, latex

B, D, H, P, N, Y, X = 3, 5, 7, 4, 2, 6, 5

PROJECTED = {"proj_size": P, "nonrecurrent_proj_size": N}
CONVOLUTION = {"kernel": (3, 5), "image": (Y, X)}
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("", {}),
    ("", {"peephole": False}),
    ("peephole", {"peephole": True}),
    ("layer_norm", {"layer_norm": True}),
    ("layer_norm", {"layer_norm": True, "bias": False}),
    ("clip", {"clip": 1 / 3}),
    ("clip", {"clip": 2.5e-7}),
    ("projection", {"proj_size": P}),
    ("projection", PROJECTED),
    ("layer_norm", {"peephole": True, "layer_norm": True, "clip": 0.4, **PROJECTED}),
    ("", {"bias": False}),
]
CASES = [(name, options) for name, cell in CELLS.items() for need, options in OPTIONS if {need} - {""} <= cell.options]
CASES += [(name, CONVOLUTION | {"clip": 0.4}) for name, cell in CELLS.items() if not cell.sees]

cases = pytest.mark.parametrize(("cell", "options"), CASES, ids=str)

LSTM = CELLS["lstm"]
I, F, G, O = LSTM.gates  # noqa: E741 - their names
MADE = [
    replace(LSTM, name="turned", gates=(O, G, F, I), peephole=True),
    replace(LSTM, name="coupled", gates=(Gate("i", "identity", "", "coupled", "f"), F, G, O), peephole=True),
    replace(LSTM, name="shown", gates=(I, F, G, replace(O, peeps="before")), peephole=True),
    replace(LSTM, name="candidate", gates=(I, F, replace(G, squash="relu", peeps="before"), O), peephole=True),
    replace(LSTM, name="squashed", output_squash="wide_sigmoid", gates=(replace(I, squash="exp"), F, G, O)),
    replace(LSTM, name="seeing", sees=("o", "g")),
    replace(CELLS["slstm"], name="seeing slstm", sees=("f",), output_squash="centred_sigmoid"),
]


def rows_of(cell: Cell) -> list[str]:
    return [gate.name for gate in cell.gates if gate.kind == "learned"]


def draw(chosen: Variant) -> tuple[dict[str, Array], dict[str, Array], Array]:
    """Return weights, states and an input; slstm's normaliser is positive, and zero in places."""
    rng = np.random.default_rng(11)
    weights = {name: rng.uniform(-0.9, 0.9, shape) for name, shape in chosen.shapes(D, H).items()}
    size = chosen.image or ()
    states = {name: rng.uniform(-1, 1, (B, width, *size)) for name, width in chosen.state_sizes(H).items()}
    if "n" in states:
        states["n"] = np.abs(states["n"])
        states["n"][:, ::2] = 0
        # Were m₋ to count there, i would underflow and h be 0/0.
        states["m"][:, ::2] = 1e4
    return weights, states, rng.uniform(-2, 2, (B, D, *size))


def symbols(chosen: Variant, weights: dict[str, Array]) -> Values:
    """Name each gate's rows of the parameters as the equations do."""
    rows = rows_of(chosen.cell)
    bias = weights["bias_ih"] + weights["bias_hh"] if chosen.bias else np.zeros(len(rows) * H)
    stacked = {"W": weights["weight_ih"], "U": weights["weight_hh"], "b": bias}
    named = dict(stacked)
    for letter, value in stacked.items():
        for gate, part in zip(rows, np.split(value, len(rows)), strict=True):
            named[f"{letter}_{gate}"] = part[:, None, None] if chosen.kernel and letter == "b" else part
    peeping = [gate.name for gate in chosen.cell.gates if gate.name in rows and gate.peeps] if chosen.peephole else []
    for index, gate in enumerate(peeping):
        named[f"p_{gate}"] = weights["weight_peephole"].reshape(len(peeping), H, *(chosen.image or ()))[index]
    for row, gate in enumerate(chosen.cell.sees):
        for column, other in enumerate(chosen.cell.sees):
            block = weights["weight_gates"].reshape(-1, H, len(chosen.cell.sees), H)[row, :, column]
            named[f"R_{gate}{other}"] = block
    names = {"W_hr": "weight_hr", "W_hp": "weight_hp", "γ_x": "weight_ln_ih", "γ_h": "weight_ln_hh"}
    names |= {"γ_c": "weight_ln_cell", "β_c": "bias_ln_cell"}
    return named | {symbol: weights[name] for symbol, name in names.items() if name in weights}


def assert_close(ours: torch.Tensor, theirs: Array, what: str) -> None:
    assert ours.shape == theirs.shape, what
    # Written so that a NaN fails.
    assert np.all(np.abs(ours.numpy() - theirs) <= 1e-12 * max(1.0, np.abs(theirs).max())), what


def assert_equations_are_the_step(chosen: Variant) -> None:
    weights, states, x = draw(chosen)
    tensors = Weights(**{name: torch.from_numpy(value) for name, value in weights.items()})
    output, new, gates = step(torch.from_numpy(x), tuple(map(torch.from_numpy, states.values())), tensors, chosen)
    known = symbols(chosen, weights) | {f"{name}₋": value for name, value in states.items()} | {"x": x}
    with np.errstate(over="ignore"):
        found = compute(equations(chosen), known, rows_of(chosen.cell))
    if chosen.cell.update == "recurrent":
        found["g"] = found["h"]
    for name, value in (dict(zip(chosen.cell.states, new, strict=True)) | gates).items():
        assert_close(value, found[name], name)
    assert_close(output, np.concatenate([found[name] for name in ("h", "p") if name in found], 1), "output")
    assert {gate.name for gate in chosen.cell.gates if gate.kind != "open"} == gates.keys()


@cases
def test_equations_are_the_step(cell: str, options: dict[str, Any]):
    assert_equations_are_the_step(variant(cell, **options))


@pytest.mark.parametrize("cell", MADE, ids=lambda cell: cell.name)
def test_equations_of_rows_that_the_table_has_not_are_the_step(cell: Cell):
    assert_equations_are_the_step(Variant(cell, cell.peephole))


@cases
def test_each_name_is_defined_once_and_in_the_order_of_the_field(cell: str, options: dict[str, Any]):
    chosen = variant(cell, **options)
    names = [line.split(" = ")[0] for line in equations(chosen)]
    order = {
        "recurrent": "vh",
        "additive": "vifgcomhp",
        "exponential": ["m₋", "ĩ", "f̃", *"gomifcnh"],
    }[chosen.cell.update]
    assert names == [name for name in order if name in names]
    gates = {gate.name for gate in chosen.cell.gates if gate.kind != "open"}
    assert {*chosen.cell.states, *(gates - {"g"} if chosen.cell.update == "recurrent" else gates)} <= set(names)


BACK = {
    r"\begin{aligned}": "",
    r"\end{aligned}": "",
    r" \\": "",
    "&=": "=",
    r"\tilde{i}": "ĩ",
    r"\tilde{f}": "f̃",
    r"\text{ where }": "where",
    r"\infty": "∞",
    r"\pm ": "±",
    r"\odot": "⊙",
    r"\sigma": "σ",
    r"\gamma": "γ",
    r"\beta": "β",
    "_{t-1}": "₋",
    ",t}": "}",
    "_t": "",
    "*": "∗",
    "-": "−",
}


def back_to_text(source: str) -> list[str]:
    for was, becomes in BACK.items():
        source = source.replace(was, becomes)
    source = re.sub(r"\\mathrm{(\w+)}|\\(tanh|exp|log|max)|(?<=_){(\w+)}", r"\1\2\3", source)
    source = re.sub(r" \\cdot 10\^{(−?)(\d+)}", lambda m: f"e{'-' if m[1] else '+'}{int(m[2]):02}", source)
    return source.strip().splitlines()


@cases
def test_latex_says_the_same(cell: str, options: dict[str, Any]):
    chosen = variant(cell, **options)
    source = latex(chosen)
    assert source.isascii()
    assert source.count("{") == source.count("}")
    assert source.count("(") == source.count(")")
    assert back_to_text(source) == list(equations(chosen))
    # GitHub's Markdown refuses this macro.
    assert "operatorname" not in source


@cases
def test_every_parameter_is_in_the_latex(cell: str, options: dict[str, Any]):
    chosen = variant(cell, **options)
    source, rows = latex(chosen), rows_of(chosen.cell)
    normed = chosen.layer_norm
    wanted = {
        "weight_ih": ["W x"] if normed else [f"W_{{{gate}}}" for gate in rows],
        "weight_hh": ["U h"] if normed else [f"U_{{{gate}}}" for gate in rows],
        "bias_ih": ["+ b "] if normed else [f"b_{{{gate}}}" for gate in rows],
        "weight_hr": ["W_{hr}"],
        "weight_hp": ["W_{hp}"],
        "weight_peephole": [f"p_{{{gate}}}" for gate in chosen.peeping],
        "weight_gates": [f"R_{{{gate}{other}}}" for gate in chosen.cell.sees for other in chosen.cell.sees],
        "weight_ln_ih": [r"\gamma_{x}"],
        "weight_ln_hh": [r"\gamma_{h}"],
        "weight_ln_cell": [r"\gamma_{c}"],
        "bias_ln_cell": [r"\beta_{c}"],
    }
    wanted["bias_hh"] = wanted["bias_ih"]
    present = chosen.shapes(D, H)
    for name, words in wanted.items():
        assert [word in source for word in words] == [name in present] * len(words), name

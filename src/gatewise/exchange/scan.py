"""One layer and direction as a Scan, for the cells that no ONNX node can say.

The equations are those of ``gatewise.reference``, written as operations. What does not recur, W x, is one product
before the loop; a mask tells where a row's own steps are.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from gatewise.exchange.graph import Graph
from gatewise.spec import Squash, Update, Variant

NORM_EPS = 1e-5
"""What layer normalisation adds to the variance, as in the reference."""

Names = dict[str, str]
Weights = Mapping[str, np.ndarray]
Pre = Callable[[str, str], str]
"""The pre-activation of a gate, by its name and by the cell state that it sees if it peeps."""


def scan_layer(
    graph: Graph,
    x: str,
    state: Names,
    weights: Weights,
    variant: Variant,
    *,
    reverse: bool = False,
    alive: str | None = None,
) -> tuple[str, Names]:
    """Add a layer to a graph.

    Args:
        graph: the graph.
        x: the input [T, B, D].
        state: the initial states [B, ·] by name.
        weights: of this layer and direction, by kind.
        variant: the cell and its options.
        reverse: whether to go from the last step to the first.
        alive: [T, B, 1], true at the steps of each row; None for all.

    Returns:
        The output [T, B, ·], zero past a row's end, and the final states.
    """
    v = graph.product(x, weights["weight_ih"])
    if variant.layer_norm:
        v = _normalised(graph, v, weights["weight_ln_ih"])
    if variant.bias:
        v = graph.op("Add", v, graph.constant(weights["bias_ih"] + weights["bias_hh"]))
    scanned = [v] if alive is None else [v, alive]
    body = _body(graph, weights, variant, masked=alive is not None)
    directions = {"scan_input_directions": [1] * len(scanned), "scan_output_directions": [1]} if reverse else {}
    *final, y = graph.ops(
        "Scan",
        *state.values(),
        *scanned,
        results=len(state) + 1,
        body=body.proto("step"),
        num_scan_inputs=len(scanned),
        **directions,
    )
    return y, dict(zip(state, final, strict=True))


def _body(outer: Graph, weights: Weights, variant: Variant, *, masked: bool) -> Graph:
    """One step: the states and W x in, the new states and the output out."""
    body = Graph(outer)
    rows, hidden = weights["weight_ih"].shape[0], weights["weight_ih"].shape[0] // len(variant.cell.learned)
    sizes = variant.state_sizes(hidden)
    old = {name: body.input(body.fresh(name), np.float32, ["batch", size]) for name, size in sizes.items()}
    v = body.input(body.fresh("v"), np.float32, ["batch", rows])
    alive = body.input(body.fresh("alive"), np.bool_, ["batch", 1]) if masked else ""
    pre = _pre_activations(body, v, old, weights, variant)
    gates, new = _UPDATE[variant.cell.update](body, pre, old, weights, variant)
    m = y = new["h"]
    if variant.proj_size:
        new["h"] = y = body.product(m, weights["weight_hr"])
    if variant.nonrecurrent_proj_size:
        y = body.op("Concat", y, body.product(m, weights["weight_hp"]), axis=1)
    new |= {name: gates[name] for name in variant.cell.sees}
    if masked:
        new = {name: body.op("Where", alive, new[name], old[name]) for name in old}
        y = body.op("Where", alive, y, body.constant(np.float32(0)))
    for name, size in sizes.items():
        body.output(body.fresh(name), new[name], ["batch", size])
    body.output(body.fresh("y"), y, ["batch", variant.output_size(hidden)])
    return body


def _pre_activations(body: Graph, v: str, old: Names, weights: Weights, variant: Variant) -> Pre:
    cell = variant.cell
    hidden = weights["weight_ih"].shape[0] // len(cell.learned)
    u = body.product(old["h"], weights["weight_hh"])
    if variant.layer_norm:
        u = _normalised(body, u, weights["weight_ln_hh"])
    sums = body.split(body.op("Add", v, u), [hidden] * len(cell.learned), axis=1)
    parts = dict(zip(cell.gate_names, sums, strict=True))
    if cell.sees:
        before = body.op("Concat", *(old[name] for name in cell.sees), axis=1)
        seen = body.split(body.product(before, weights["weight_gates"]), [hidden] * len(cell.sees), axis=1)
        parts |= {name: body.op("Add", parts[name], part) for name, part in zip(cell.sees, seen, strict=True)}
    peephole: dict[str, np.ndarray] = {}
    if variant.peeping:
        peephole = dict(zip(variant.peeping, weights["weight_peephole"].reshape(-1, hidden), strict=True))

    def pre(gate: str, c: str) -> str:
        value = parts[gate]
        if gate in peephole:
            value = body.op("Add", value, body.op("Mul", c, body.constant(peephole[gate])))
        if variant.clip is None:
            return value
        bound = np.float32(min(variant.clip, np.finfo(np.float32).max))
        return body.op("Clip", value, body.constant(-bound), body.constant(bound))

    return pre


def _normalised(graph: Graph, v: str, gain: np.ndarray, bias: np.ndarray | None = None) -> str:
    """LN(v) of each row."""
    inputs = [v, graph.constant(gain)] + ([] if bias is None else [graph.constant(bias)])
    return graph.op("LayerNormalization", *inputs, axis=-1, epsilon=NORM_EPS)


def _squash(body: Graph, squash: Squash, x: str) -> str:
    if squash == "identity":
        return x
    if squash in _SCALED:
        factor, term = (body.constant(np.float32(value)) for value in _SCALED[squash])
        return body.op("Add", body.op("Mul", body.op("Sigmoid", x), factor), term)
    return body.op(squash.capitalize(), x)


_SCALED: Mapping[Squash, tuple[float, float]] = MappingProxyType(
    {"wide_sigmoid": (4.0, -2.0), "centred_sigmoid": (2.0, -1.0)}
)


def _recurrent(body: Graph, pre: Pre, old: Names, weights: Weights, variant: Variant) -> tuple[Names, Names]:
    g = _squash(body, variant.cell.gate("g").squash, pre("g", ""))
    return {"g": g}, {"h": g}


def _additive(body: Graph, pre: Pre, old: Names, weights: Weights, variant: Variant) -> tuple[Names, Names]:
    cell = variant.cell
    gates = {
        gate.name: _squash(body, gate.squash, pre(gate.name, old["c"])) for gate in cell.learned if gate.name != "o"
    }
    for gate in cell.gates:
        if gate.kind == "coupled":
            gates[gate.name] = body.op("Sub", body.constant(np.float32(1)), gates[gate.complement])
    # An open gate is 1: what it would multiply passes as it is.
    kept = body.op("Mul", gates["f"], old["c"]) if "f" in gates else old["c"]
    c = body.op("Add", kept, body.op("Mul", gates["i"], gates["g"]) if "i" in gates else gates["g"])
    shown = c
    if variant.layer_norm:
        shown = _normalised(body, c, weights["weight_ln_cell"], weights["bias_ln_cell"])
    h = _squash(body, cell.output_squash, shown)
    output = cell.gate("o")
    if output.kind == "learned":
        gates["o"] = _squash(body, output.squash, pre("o", c if output.peeps == "after" else old["c"]))
        h = body.op("Mul", gates["o"], h)
    return gates, {"h": h, "c": c}


def _exponential(body: Graph, pre: Pre, old: Names, weights: Weights, variant: Variant) -> tuple[Names, Names]:
    cell = variant.cell
    # log σ(x) = −softplus(−x)
    log_i, log_f = pre("i", ""), body.op("Neg", body.op("Softplus", body.op("Neg", pre("f", ""))))
    # Nothing is remembered where n is zero: m₋ counts as −∞ there, whatever it holds.
    empty = body.op("Equal", old["n"], body.constant(np.float32(0)))
    before = body.op("Where", empty, body.constant(np.float32(-np.inf)), body.op("Add", log_f, old["m"]))
    m = body.op("Max", before, log_i)
    gates = {"i": body.op("Exp", body.op("Sub", log_i, m)), "f": body.op("Exp", body.op("Sub", before, m))}
    gates |= {name: _squash(body, cell.gate(name).squash, pre(name, "")) for name in ("g", "o")}
    kept = {name: body.op("Mul", gates["f"], old[name]) for name in ("c", "n")}
    c = body.op("Add", kept["c"], body.op("Mul", gates["i"], gates["g"]))
    n = body.op("Add", kept["n"], gates["i"])
    h = body.op("Mul", gates["o"], _squash(body, cell.output_squash, body.op("Div", c, n)))
    return gates, {"h": h, "c": c, "n": n, "m": m}


_UPDATE: Mapping[Update, Callable[[Graph, Pre, Names, Weights, Variant], tuple[Names, Names]]] = MappingProxyType(
    {"recurrent": _recurrent, "additive": _additive, "exponential": _exponential}
)

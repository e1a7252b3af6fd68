"""Which cells one ONNX node can say, and how: its activations, its coupling, its gates that are always open.

ONNX keeps the gates as i, o, f, c, where c is our g, and peepholes as i, o, f; all three peepholes are one input, and
absent ones zero. A gate that is always open has no weights here; there it has a bias so large that its sigmoid is 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from gatewise.spec import CELLS, Cell, Squash, Variant

GATES = "iofg"
PEEPHOLES = "iof"
OPEN_BIAS = 100.0
_SURELY_OPEN = 30.0  # σ(30) is 1 in float32

Activation = tuple[str, float | None, float | None]
"""Name, alpha and beta."""

ACTIVATIONS: Mapping[Squash, Activation] = MappingProxyType(
    {
        "sigmoid": ("Sigmoid", None, None),
        "tanh": ("Tanh", None, None),
        "relu": ("Relu", None, None),
        "identity": ("Affine", 1.0, 0.0),
        # 4σ(x) − 2 = 2 tanh(x/2), and 2σ(x) − 1 = tanh(x/2).
        "wide_sigmoid": ("ScaledTanh", 2.0, 0.5),
        "centred_sigmoid": ("ScaledTanh", 1.0, 0.5),
    }
)


@dataclass(frozen=True)
class Form:
    """How a node says a cell.

    Attributes:
        op: LSTM or RNN.
        activations: of one direction.
        coupled: whether f is 1 − i.
        open: the gates that are always 1.
    """

    op: str
    activations: tuple[Activation, ...]
    coupled: bool = False
    open: frozenset[str] = frozenset()


def form_of(options: Variant) -> Form | None:
    """Return how a node says a cell with its options, or None if none can.

    Example:
        >>> from gatewise.spec import variant
        >>> form_of(variant("noaf")).activations[2]
        ('Affine', 1.0, 0.0)
        >>> form_of(variant("slstm")) is None
        True
    """
    if options.cell.sees or options.layer_norm or options.proj_size or options.kernel is not None:
        return None
    form = _recurrent(options.cell) if options.cell.update == "recurrent" else _additive(options)
    if form is not None and form.open and options.clip is not None and options.clip < _SURELY_OPEN:
        return None  # the bias that keeps a gate open would be clipped
    return form


def _recurrent(cell: Cell) -> Form | None:
    activation = ACTIVATIONS.get(cell.gate("g").squash)
    return None if activation is None else Form("RNN", (activation,))


def _additive(options: Variant) -> Form | None:
    cell = options.cell
    if cell.update != "additive" or cell.gate("i").kind == "coupled":
        return None
    gates = [gate for gate in cell.learned if gate.name != "g"]
    squashes: set[Squash] = {gate.squash for gate in gates} or {"sigmoid"}
    # A node peeps as Gers et al. do, and has one activation for all gates.
    peeps = all(gate.peeps == ("after" if gate.name == "o" else "before") for gate in gates if gate.peeps)
    opened = frozenset(gate.name for gate in cell.gates if gate.kind == "open")
    if len(squashes) > 1 or (options.peephole and not peeps) or (opened and squashes != {"sigmoid"}):
        return None
    wanted: tuple[Squash, ...] = (squashes.pop(), cell.gate("g").squash, cell.output_squash)
    activations = tuple(ACTIVATIONS[squash] for squash in wanted if squash in ACTIVATIONS)
    if len(activations) < len(wanted):
        return None
    return Form("LSTM", activations, cell.gate("f").kind == "coupled", opened)


def find_cell(form: Form, peephole: bool) -> Cell | None:
    """Return the cell that a node says, one that peeps by itself if the node does; None if the table has none."""
    cells = [cell for cell in CELLS.values() if form_of(Variant(cell)) == form]
    cells = [cell for cell in cells if "peephole" in cell.options or not peephole]
    return next((cell for cell in cells if cell.peephole == peephole), cells[0] if cells else None)


def to_node(weights: Mapping[str, np.ndarray], options: Variant, form: Form) -> dict[str, np.ndarray]:
    """Return W, R, B and P of one direction, as far as they are needed, from the weights of a layer."""
    hidden = weights["weight_hh"].shape[1]
    names = GATES if form.op == "LSTM" else "g"

    def stacked(kind: str) -> np.ndarray:
        value = weights[kind]
        absent = np.zeros((hidden, *value.shape[1:]), np.float32)
        blocks = {gate: value[options.cell.rows(gate, hidden)] for gate in options.cell.gate_names}
        return np.concatenate([blocks.get(gate, absent) for gate in names])

    node = {"W": stacked("weight_ih"), "R": stacked("weight_hh")}
    if options.bias or form.open:
        opened = np.repeat(np.array([OPEN_BIAS if gate in form.open else 0 for gate in names], np.float32), hidden)
        none = np.zeros_like(opened)
        input_bias, recurrent_bias = (stacked(f"bias_{kind}") if options.bias else none for kind in ("ih", "hh"))
        node["B"] = np.concatenate([input_bias + opened, recurrent_bias])
    if options.peeping:
        blocks = dict(zip(options.peeping, weights["weight_peephole"].reshape(-1, hidden), strict=True))
        node["P"] = np.concatenate([blocks.get(gate, np.zeros(hidden, np.float32)) for gate in PEEPHOLES])
    return node


def from_node(node: Mapping[str, np.ndarray], options: Variant) -> dict[str, np.ndarray]:
    """Undo ``to_node``: the weights of a layer from W, R, B and P of one direction."""
    names = GATES if len(options.cell.gates) > 1 else "g"

    def chosen(value: np.ndarray, stacked: str, wanted: tuple[str, ...]) -> np.ndarray:
        blocks = dict(zip(stacked, np.split(value, len(stacked)), strict=True))
        return np.concatenate([blocks[gate] for gate in wanted])

    learned = options.cell.gate_names
    weights = {"weight_ih": chosen(node["W"], names, learned), "weight_hh": chosen(node["R"], names, learned)}
    if options.bias:
        halves = np.split(node["B"], 2)
        weights |= {
            kind: chosen(half, names, learned) for kind, half in zip(("bias_ih", "bias_hh"), halves, strict=True)
        }
    if options.peeping:
        weights["weight_peephole"] = chosen(node["P"], PEEPHOLES, options.peeping)
    return weights


def open_gates(node: Mapping[str, np.ndarray]) -> frozenset[str]:
    """The gates i, f and o of an LSTM node's direction that are 1 whatever comes in."""
    if "B" not in node:
        return frozenset()
    W, R = (np.split(node[slot], 4) for slot in "WR")
    bias = np.split(sum(np.split(node["B"], 2)), 4)
    P = dict(zip(PEEPHOLES, np.split(node["P"], 3), strict=True)) if "P" in node else {}
    found = set[str]()
    for gate, w, r, b in zip(GATES, W, R, bias, strict=True):
        silent = not (w.any() or r.any() or (gate in P and P[gate].any()))
        if gate != "g" and silent and (b >= _SURELY_OPEN).all():
            found.add(gate)
    return frozenset(found)

"""The nodes that compute, as blocks with their weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from gatewise.exchange.forms import ACTIVATIONS, Activation, Form, find_cell, from_node, open_gates
from gatewise.exchange.glue import GLUE, gather
from gatewise.exchange.values import INPUT_AXES, Final, Known, Lengths, Node, State, Step, Stream, Value, Zeros
from gatewise.format import Conv1d, Embedding, LayerNorm, Linear, Lstm, Scaling
from gatewise.spec import Variant

_DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "RNN": ("Tanh",)}
_TAKES_VALUES = ("Affine", "ScaledTanh")
_NAMES: Mapping[str, str] = MappingProxyType({name.lower(): name for name, _, _ in ACTIVATIONS.values()})
_ATTRIBUTES = (
    *("activations", "activation_alpha", "activation_beta", "clip"),
    *("direction", "hidden_size", "input_forget", "layout"),
)
_SLOTS = ("W", "R", "B", "lengths", "h", "c", "P")


def recurrent(node: Node) -> tuple[Value, ...]:
    """LSTM and RNN: one layer, in one direction or both."""
    x = node.stream()
    time, batch = (1, 0) if node.attributes.get("layout", 0) else (0, 1)
    if x.axes[2:] != ("features",) or x.take is not None or not set(x.axes[:2]) <= set(INPUT_AXES):
        node.refuse(f"its input has the axes {', '.join(x.axes)}; a layer reads time, batch and features.")
    halves, options, hidden = _cell(node)
    width = halves[0]["W"].shape[1]
    if x.sizes.get("features", width) != width:
        node.refuse(f"it reads {width} features and gets {x.sizes['features']}.")
    two = len(halves) == 2
    block = Lstm(
        *(width, hidden, 1, options.cell.name),
        bidirectional=two,
        bias=options.bias,
        peephole=options.peephole,
        clip=options.clip,
    )
    weights = {
        f"{kind}_l0{end}": value
        for half, end in zip(halves, ("", "_reverse"), strict=False)
        for kind, value in from_node(half, options).items()
    }
    start = _starts(node, options, len(halves), hidden)
    after = x.passed(Step(block, weights, start), hidden)
    after = replace(after, sizes={**after.sizes, "directions": len(halves)})
    axes = (x.axes[time], "directions", x.axes[batch], "features")
    y = replace(after, axes=axes if time == 0 else (x.axes[batch], x.axes[time], "directions", "features"))
    # The axes of what a final state stands for begin with time.
    plain = replace(after, axes=(x.axes[time], x.axes[batch], "features"))
    return (y, *(Final((plain,), name) for name in options.cell.states))


def _cell(node: Node) -> tuple[list[dict[str, np.ndarray]], Variant, int]:
    """The weights of each direction, checked, and the cell that they are of."""
    unknown = sorted(set(node.attributes) - set(_ATTRIBUTES))
    if unknown:
        node.refuse(f"it has the attributes {', '.join(unknown)}.")
    direction = node.attributes.get("direction", "forward")
    if direction not in {"forward", "bidirectional"}:
        node.refuse(f"its direction is {direction!r}; gatewise reads forward and bidirectional.")
    directions = 2 if direction == "bidirectional" else 1
    halves, hidden = _weights(node, directions)
    clip = node.attributes.get("clip")
    if clip is not None and not 0 < clip < np.inf:
        node.refuse(f"its clip is {clip}, which must be above 0.")
    coupled = node.attributes.get("input_forget", 0) != 0
    activations = _activations(node, directions)
    peephole = any("P" in half and bool(half["P"].any()) for half in halves)
    opened = frozenset[str]()
    if node.op == "LSTM" and (clip is None or clip >= 30):
        opened = frozenset.intersection(*(open_gates(half) for half in halves))
    for gates in (opened, frozenset[str]()):
        cell = find_cell(Form(node.op, activations, coupled, gates), peephole)
        if cell is not None:
            return halves, Variant(cell, peephole, clip=clip, bias="B" in halves[0]), hidden
    words = ", ".join(name if alpha is None else f"{name}({alpha:g}, {beta:g})" for name, alpha, beta in activations)
    return node.refuse(f"no cell of gatewise has its activations {words}.")


def _weights(node: Node, directions: int) -> tuple[list[dict[str, np.ndarray]], int]:
    given: dict[str, np.ndarray] = {}
    for index, slot in enumerate(_SLOTS, 1):
        if slot not in {"lengths", "h", "c"} and (slot in "WR" or node.input(index) is not None):
            given[slot] = node.array(index, slot)
    gates = 4 if node.op == "LSTM" else 1
    hidden, width = given["R"].shape[-1], given["W"].shape[-1]
    sizes = {
        "W": (gates * hidden, width),
        "R": (gates * hidden, hidden),
        "B": (2 * gates * hidden,),
        "P": (3 * hidden,),
    }
    for slot, value in given.items():
        if value.shape != (directions, *sizes[slot]) or value.dtype != np.float32 or 0 in value.shape:
            node.refuse(
                f"its {slot} must be float32 {[directions, *sizes[slot]]}, not {value.dtype} {list(value.shape)}."
            )
    if node.attributes.get("hidden_size", hidden) != hidden:
        node.refuse(f"its hidden_size is {node.attributes['hidden_size']}, its R is for {hidden}.")
    if not (node.input(4) is None or node.input(4) == Lengths()):
        node.refuse("its sequence_lens must be an input of the model.")
    return [{slot: value[k] for slot, value in given.items()} for k in range(directions)], hidden


def _activations(node: Node, directions: int) -> tuple[Activation, ...]:
    """The activations of one direction; both must have the same."""
    names = node.attributes.get("activations") or _DEFAULTS[node.op] * directions
    values = {name: list(node.attributes.get(f"activation_{name}", ())) for name in ("alpha", "beta")}
    found: list[Activation] = []
    for given in names:
        name = _NAMES.get(given.lower())
        if name is None:
            node.refuse(f"its activation {given!r} is none of {', '.join(sorted(set(_NAMES.values())))}.")
        if name in _TAKES_VALUES:
            if not (values["alpha"] and values["beta"]):
                node.refuse(f"its activation {given!r} has no alpha and beta.")
            found.append((name, values["alpha"].pop(0), values["beta"].pop(0)))
        else:
            found.append((name, None, None))
    one = tuple(found[: len(found) // directions])
    if one * directions != tuple(found) or len(one) != len(_DEFAULTS[node.op]):
        node.refuse(f"its activations must be {len(_DEFAULTS[node.op])}, the same for each direction.")
    return one


def _starts(node: Node, options: Variant, directions: int, hidden: int) -> dict[str, np.ndarray]:
    """The initial states [S, H] that the file holds, if they are not zero."""
    start: dict[str, np.ndarray] = {}
    for index, name in enumerate(options.cell.states, 5):
        given = node.input(index)
        if not isinstance(given, Zeros | State | Known | None):
            node.refuse(f"its initial_{name} must be an input of the model, or a constant.")
        array = given.array if isinstance(given, Known) else given.default if isinstance(given, State) else None
        if array is None or not array.any():
            continue
        if array.ndim != 3:
            node.refuse(f"its initial_{name} must have three axes, not {array.ndim}.")
        array = array.swapaxes(0, 1) if node.attributes.get("layout") else array
        if array.shape[::2] != (directions, hidden) or not (array == array[:, :1]).all():
            node.refuse(f"its initial_{name} must be the same for every row, [{directions}, rows, {hidden}].")
        start[name] = array[:, 0]
    return start


def linear(node: Node) -> Value:
    """MatMul of the data with a constant, and Gemm."""
    x = node.stream()
    weight = node.array(1, "the matrix")
    if node.op == "Gemm":
        if node.attributes.get("transA", 0) or {node.attributes.get(name, 1.0) for name in ("alpha", "beta")} != {1.0}:
            node.refuse("gatewise reads it with transA=0, alpha=1 and beta=1.")
        weight = weight if node.attributes.get("transB", 0) else weight.T
    else:
        weight = np.swapaxes(weight, -1, -2) if weight.ndim > 1 else weight
    if weight.ndim != 2 or weight.dtype != np.float32 or 0 in weight.shape:
        node.refuse(f"its matrix must be float32 with two axes, not {weight.dtype} {list(weight.shape)}.")
    _check_width(node, x, weight.shape[1])
    block = Linear(weight.shape[1], weight.shape[0], bias=False)
    after = x.passed(Step(block, {"weight": np.ascontiguousarray(weight)}), weight.shape[0])
    return after if node.input(2) is None else _added(node, after, node.array(2, "the bias"))


def add(node: Node) -> Value:
    """Add: the bias of a product, a shift, or the residual connection around a layer."""
    values = [node.value(index) for index in range(2)]
    if isinstance(values[0], Known):
        values.reverse()
    first, second = values
    if isinstance(first, Stream) and isinstance(second, Known):
        return _added(node, first, second.array)
    if isinstance(first, Stream) and isinstance(second, Stream):
        inner, outer = sorted((first, second), key=lambda value: len(value.steps))
        last = outer.steps[-1:]
        around = len(inner.steps) < len(outer.steps) and outer.steps[:-1] == inner.steps and outer.axes == inner.axes
        if around and isinstance(last[0].block, Lstm):
            return replace(outer, steps=(*inner.steps, replace(last[0], residual=True)))
    return node.refuse("gatewise reads sums with constants, and a layer's output with its input.")


def _added(node: Node, x: Stream, term: np.ndarray) -> Stream:
    last = x.steps[-1] if x.steps else None
    if last is not None and isinstance(last.block, Linear) and not last.block.bias:
        bias = _vector(node, term, last.block.out_features)
        step = Step(replace(last.block, bias=True), {**last.weights, "bias": bias})
        return replace(x, steps=(*x.steps[:-1], step))
    return _scaled(node, x, mean=term, inverse=True)


def affine(node: Node) -> Value:
    """Sub, Mul and Div with a constant, each for its feature."""
    values = (node.value(0), node.value(1))
    if node.op == "Mul" and isinstance(values[0], Known):
        values = values[::-1]
    x, given = values
    if not isinstance(x, Stream) or not isinstance(given, Known):
        node.refuse("gatewise reads it with the data first and a constant second.")
    if node.op == "Sub":
        return _scaled(node, x, mean=given.array)
    return _scaled(node, x, std=given.array, inverse=node.op == "Mul")


def _scaled(
    node: Node, x: Stream, *, mean: np.ndarray | None = None, std: np.ndarray | None = None, inverse: bool = False
) -> Stream:
    """Scale and shift each feature, in the block of the node before if that has the other half."""
    if x.axes[-1] != "features" or "features" not in x.sizes:
        node.refuse("the features are not the last axis, or their number is not known.")
    size = x.sizes["features"]
    last = x.steps[-1] if x.steps else None
    weights = {"mean": np.zeros(size, np.float32), "std": np.ones(size, np.float32)}
    given = {"std": std} if mean is None else {"mean": mean}
    # (x − mean) / std, or x · std + mean: the second node of each completes the first.
    second = "mean" if inverse else "std"
    half = last is not None and last.block == Scaling(size, inverse) and second in given
    if last is not None and half and (last.weights[second] == weights[second]).all():
        weights = dict(last.weights)
        x = replace(x, steps=x.steps[:-1])
    weights |= {name: _vector(node, value, size) for name, value in given.items() if value is not None}
    if not inverse and not weights["std"].all():
        node.refuse("it divides by zero.")
    return x.passed(Step(Scaling(size, inverse), weights), size)


def _vector(node: Node, value: np.ndarray, size: int) -> np.ndarray:
    """A constant of one number for each feature, or one for all."""
    if value.dtype != np.float32 or value.size not in {1, size} or value.shape[-1:] not in {(), (value.size,)}:
        node.refuse(f"its constant must be float32 with one number for each of {size} features.")
    return np.ascontiguousarray(np.broadcast_to(value.reshape(-1), (size,)))


def _check_width(node: Node, x: Stream, width: int) -> None:
    if x.axes[-1] != "features" or "directions" in x.axes or x.sizes.get("features", width) != width:
        sizes = ", ".join(axis if axis not in x.sizes else f"{axis} ({x.sizes[axis]})" for axis in x.axes)
        node.refuse(f"it reads {width} features, and gets {sizes}.")


def layer_norm(node: Node) -> Value:
    """LayerNormalization over the features."""
    x = node.stream()
    gain = node.array(1, "the scale")
    _check_width(node, x, gain.size)
    if node.axis(len(x.axes), -1) != len(x.axes) - 1 or node.results > 1:
        node.refuse("gatewise normalises over the features, with one result.")
    bias = np.zeros(gain.size, np.float32) if node.input(2) is None else node.array(2, "the bias")
    weights = {name: _vector(node, value, gain.size) for name, value in {"weight": gain, "bias": bias}.items()}
    epsilon = node.attributes.get("epsilon", 1e-5)
    if not 0 < epsilon < np.inf:
        node.refuse(f"its epsilon is {epsilon}, which must be above 0.")
    return x.passed(Step(LayerNorm(gain.size, float(epsilon)), weights), gain.size)


@dataclass(frozen=True)
class _Window:
    """The attributes of a convolution, with onnx's defaults."""

    pads: tuple[int, ...] = (0, 0)
    strides: tuple[int, ...] = (1,)
    dilations: tuple[int, ...] = (1,)
    group: int = 1
    auto_pad: str = "NOTSET"
    kernel_shape: tuple[int, ...] = ()


def convolution(node: Node) -> Value:
    """Conv over time, padded so that as many steps come out as go in."""
    x = node.stream()
    weight = node.array(1, "the kernel")
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in node.attributes.items()}
    if set(given) - set(_Window.__dataclass_fields__) or weight.ndim != 3 or 0 in weight.shape:
        node.refuse("gatewise reads convolutions over one axis, time.")
    window = _Window(**given)
    channels, width, size = weight.shape
    sizes = (len(window.strides), len(window.dilations), len(window.pads))
    if (
        x.axes[1:2] != ("features",)
        or len(x.axes) != 3
        or x.sizes.get("features", width) != width
        or sizes != (1, 1, 2)
    ):
        node.refuse(f"it must read batch, {width} features, time; it gets {', '.join(x.axes)}.")
    total = (size - 1) * window.dilations[0]
    ways = {(total, 0): True, (total // 2, total - total // 2): False}
    if window.pads not in ways or window.group != 1 or window.auto_pad != "NOTSET" or weight.dtype != np.float32:
        node.refuse(f"its pads must be {' or '.join(map(str, ways))}, in one group; they are {window.pads}.")
    block = Conv1d(width, channels, size, window.strides[0], window.dilations[0], ways[window.pads])
    bias = np.zeros(channels, np.float32) if node.input(2) is None else node.array(2, "the bias")
    return x.passed(Step(block, {"weight": weight, "bias": _vector(node, bias, channels)}), channels)


def looked_up(node: Node) -> Value:
    """Gather: an embedding if the data are tokens, else a piece of something."""
    table, tokens = node.value(0), node.value(1)
    if not isinstance(tokens, Stream):
        return gather(node)
    if (
        not isinstance(table, Known)
        or table.array.ndim != 2
        or table.array.dtype != np.float32
        or 0 in table.array.shape
    ):
        node.refuse("the table of an embedding must be a constant, float32 with two axes.")
    if "features" in tokens.axes or node.attributes.get("axis", 0) != 0:
        node.refuse("gatewise looks whole rows of a table up, for tokens.")
    rows, width = table.array.shape
    after = tokens.passed(Step(Embedding(rows, width), {"weight": table.array}), width)
    return replace(after, axes=(*tokens.axes, "features"))


TAKES: Mapping[str, Callable[[Node], Value | tuple[Value, ...]]] = MappingProxyType(
    {
        **GLUE,
        "Add": add,
        "Conv": convolution,
        "Div": affine,
        "Gather": looked_up,
        "Gemm": linear,
        "LSTM": recurrent,
        "LayerNormalization": layer_norm,
        "MatMul": linear,
        "Mul": affine,
        "RNN": recurrent,
        "Sub": affine,
    }
)
"""Every operator that is read."""

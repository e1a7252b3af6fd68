"""The recurrent layers of a block, as nodes: their states in and out, both directions, lengths, residuals."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from gatewise.exchange.forms import Form, form_of, to_node
from gatewise.exchange.graph import Graph
from gatewise.exchange.scan import scan_layer
from gatewise.format import Lstm

Names = dict[str, str]
Weights = Mapping[str, np.ndarray]

_INT64 = 7  # onnx.TensorProto.INT64

SLOTS = ("W", "R", "B", "lengths", "h", "c", "P")
"""The inputs of an LSTM node after X; those of an RNN node are all but the last two."""


class Lengths:
    """How many steps each row has, as the graph knows it; what follows from it is added where it is first needed.

    Args:
        graph: the graph.
        given: [B] int32, an input of the graph.
        like: a value whose first two axes are those of the input.
        time: which of them is time.
    """

    def __init__(self, graph: Graph, given: str, like: str, time: int):
        self.graph = graph
        self.given = given
        self.like = like
        self.time = time

    @cached_property
    def nonempty(self) -> str:
        """[1, B, 1], true for rows that have any steps."""
        return self.graph.op("Greater", self._rows, self.graph.constant(np.int64(0)))

    @cached_property
    def alive(self) -> str:
        """[T, B, 1], true at a row's own steps."""
        graph = self.graph
        zero, one = (graph.constant(np.int64(value)) for value in (0, 1))
        steps = graph.op("Squeeze", graph.size(self.like, self.time), graph.integers(0))
        time = graph.op("Unsqueeze", graph.op("Range", zero, steps, one), graph.integers(1, 2))
        return graph.op("Less", time, self._rows)

    @cached_property
    def _rows(self) -> str:
        whole = self.graph.op("Cast", self.given, to=_INT64)
        return self.graph.op("Unsqueeze", whole, self.graph.integers(0, 2))


def add_stack(
    graph: Graph,
    x: str,
    block: Lstm,
    weights: Weights,
    *,
    index: int,
    lengths: Lengths | None = None,
    states: bool = True,
) -> str:
    """Add the layers of a block, with the inputs and outputs for its states.

    Args:
        graph: the graph.
        x: the input [T, B, D].
        block: the block.
        weights: its weights.
        index: its position among the blocks, which the names of its states have.
        lengths: of the rows, or None.
        states: whether its states are inputs and outputs of the graph.

    Returns:
        The output [T, B, ·].
    """
    names = ends(block)
    directions = len(names) // block.num_layers
    state = _initial(graph, x, block, weights, index=index if states else None)
    final: dict[str, list[str]] = {name: [] for name in state}
    for layer in range(block.num_layers):
        rows = slice(layer * directions, (layer + 1) * directions)
        own = {n: graph.rows(part, rows) if block.num_layers > 1 else part for n, part in state.items()}
        here = [{kind: weights[kind + end] for kind in block.variant.shapes(1, 1)} for end in names[rows]]
        form = form_of(block.variant)
        if form is None:
            y, new = _add_scans(graph, x, own, here, block, lengths=lengths)
        else:
            y, new = _add_node(graph, x, own, here, block, form=form, lengths=lengths)
        for name, part in new.items():
            final[name].append(part)
        x = graph.op("Add", y, x) if block.residual and layer > 1 else y
    for name, size in block.variant.state_sizes(block.hidden_size).items() if states else ():
        parts = final[name]
        whole = graph.op("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]
        graph.output(f"state_out.{index}.{name}", whole, [len(names), "batch", size])
    return x


def ends(block: Lstm) -> list[str]:
    """What the names of the weights of each layer and direction end in, in the order of the states' first dimension."""
    directions = ("", "_reverse")[: 1 + block.bidirectional]
    return [f"_l{layer}{direction}" for layer in range(block.num_layers) for direction in directions]


def _initial(graph: Graph, x: str, block: Lstm, weights: Weights, *, index: int | None) -> Names:
    """The initial states [L·S, B, ·]; with an index each is an input, whose default is for one row, like all others."""
    names = ends(block)
    shape = graph.op("Concat", graph.integers(1), graph.size(x, 1), graph.integers(1), axis=0)
    state: Names = {}
    for name, size in block.variant.state_sizes(block.hidden_size).items():
        default = np.zeros((len(names), 1, size), np.float32)
        if block.learned_state:
            default = np.stack([weights[f"{name}_0{end}"] for end in names])[:, None]
        if index is None:
            given = graph.constant(default)
        else:
            given = graph.input(f"state.{index}.{name}", np.float32, [len(names), "batch", size], default)
        state[name] = graph.op("Expand", given, shape)
    return state


def _add_node(
    graph: Graph,
    x: str,
    state: Names,
    weights: Sequence[Weights],
    block: Lstm,
    *,
    form: Form,
    lengths: Lengths | None,
) -> tuple[str, Names]:
    """A layer as a single node; states are [S, B, ·]."""
    halves = [to_node(half, block.variant, form) for half in weights]
    given = {slot: graph.constant(np.stack([half[slot] for half in halves])) for slot in halves[0]} | state
    if lengths is not None:
        given["lengths"] = lengths.given
    slots = SLOTS if form.op == "LSTM" else SLOTS[:5]
    inputs = [given.get(slot, "") for slot in slots]
    while not inputs[-1]:
        inputs.pop()
    results = graph.ops(
        form.op, x, *inputs, results=1 + len(state), hidden_size=block.hidden_size, **_attributes(block, form)
    )
    y, final = results[0], dict(zip(state, results[1:], strict=True))
    if lengths is not None:
        # A row without steps keeps its state; onnxruntime would return zeros for it.
        final = {n: graph.op("Where", lengths.nonempty, part, state[n]) for n, part in final.items()}
    if not block.bidirectional:
        return graph.op("Squeeze", y, graph.integers(1)), final
    beside = graph.op("Transpose", y, perm=[0, 2, 1, 3])
    return graph.op("Reshape", beside, graph.integers(0, 0, -1)), final


def _attributes(block: Lstm, form: Form) -> dict[str, object]:
    directions = 1 + block.bidirectional
    attributes: dict[str, object] = {"direction": "bidirectional" if block.bidirectional else "forward"}
    attributes["activations"] = [name for name, _, _ in form.activations] * directions
    for name, place in {"activation_alpha": 1, "activation_beta": 2}.items():
        # An activation that has no such value takes none from the list.
        values = [activation[place] for activation in form.activations if activation[place] is not None]
        if values:
            attributes[name] = values * directions
    if block.clip is not None:
        attributes["clip"] = min(block.clip, float(np.finfo(np.float32).max))
    if form.coupled:
        attributes["input_forget"] = 1
    return attributes


def _add_scans(
    graph: Graph,
    x: str,
    state: Names,
    weights: Sequence[Weights],
    block: Lstm,
    *,
    lengths: Lengths | None,
) -> tuple[str, Names]:
    """A layer as one Scan for each direction; states are [S, B, ·]."""
    outputs: list[str] = []
    final: dict[str, list[str]] = {name: [] for name in state}
    for direction, own in enumerate(weights):
        position = graph.constant(np.int64(direction))
        start = {name: graph.op("Gather", part, position, axis=0) for name, part in state.items()}
        y, end = scan_layer(
            graph,
            x,
            start,
            own,
            block.variant,
            reverse=direction == 1,
            alive=None if lengths is None else lengths.alive,
        )
        outputs.append(y)
        for name, part in end.items():
            final[name].append(graph.op("Unsqueeze", part, graph.integers(0)))
    joined = {name: graph.op("Concat", *parts, axis=0) if len(parts) > 1 else parts[0] for name, parts in final.items()}
    return graph.op("Concat", *outputs, axis=2) if len(outputs) > 1 else outputs[0], joined

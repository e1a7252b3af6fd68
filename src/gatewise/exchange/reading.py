"""An ONNX file as an architecture and its weights.

The graph is not run: each node is asked what its result stands for, given what its inputs stand for. What comes out at
the end has passed a list of blocks, and these are the model.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gatewise.errors import InputError
from gatewise.exchange.blocks import joined
from gatewise.exchange.library import library
from gatewise.exchange.parsing import array_of, parse_file
from gatewise.exchange.taking import TAKES
from gatewise.exchange.values import INPUT_AXES, Final, Known, Lengths, Node, State, Stream, Value
from gatewise.format import ModelFile

if TYPE_CHECKING:
    from onnx import AttributeProto, ModelProto, NodeProto, ValueInfoProto

TASK = "sequence"
"""The task of a model of which no more is known than that it reads sequences."""

_COPIES = 8
"""The constants of a file may be turned and cut into this many times as many numbers, in all."""

_SMALL = 1 << 20
"""Or into this many, where a file has fewer."""


def import_blocks(path: str | Path) -> ModelFile:
    """Read an ONNX file that is made of LSTM nodes, linear parts, and what stands between those.

    Args:
        path: the file. Nothing beside it is opened.

    Returns:
        The blocks and their weights, for the task "sequence". The settings say how the graph lays its data out:
        ``batch_first`` of the input and ``output_batch_first``; whether it has an input for the ``lengths`` of rows;
        and ``take``: None, or the block after which only the end of each row is kept and which, the "last" step or the
        "final" state.

    Raises:
        InputError: the file is missing, damaged, or not to be trusted, or has a node that cannot be taken; the text
            names it. Or onnx is not installed.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from gatewise.exchange import export_blocks, import_blocks
        >>> from gatewise.format import Linear
        >>> path = tempfile.mkdtemp() + "/m.onnx"
        >>> export_blocks([Linear(3, 2, bias=False)], {"0.weight": np.ones((2, 3), np.float32)}, path)
        >>> import_blocks(path).architecture
        (Linear(in_features=3, out_features=2, bias=False),)
    """
    return _Reader(parse_file(path), path).read()


class _Reader:
    """One reading of one graph."""

    def __init__(self, model: "ModelProto", path: str | Path):
        self.graph = model.graph
        self.path = path
        self.initializers = {tensor.name: tensor for tensor in self.graph.initializer}
        self.values: dict[str, Value] = {}
        self.left = max(_SMALL, _COPIES * sum(_count(tensor.dims) for tensor in self.graph.initializer))
        self.time: str | None = None
        self.with_lengths: set[bool] = set()

    def read(self) -> ModelFile:
        """Follow the graph from its inputs to its outputs."""
        self._take_inputs()
        for node in self._needed():
            self._take(node)
        return self._result()

    def _take_inputs(self) -> None:
        # A graph may list its constants among its inputs; what has a value there and is used as a state is one.
        given = [info for info in self.graph.input if info.name not in self.initializers]
        if not given:
            raise InputError(f"{self.path} has no input.")
        for place, info in enumerate(given):
            if info.name in self.values:
                raise InputError(f"{self.path} has two inputs {info.name!r}.")
            self.values[info.name] = _data(info) if place == 0 else _further(info)
        for info in self.graph.input:
            if info.name in self.initializers and _dims(info)[1:2] and isinstance(_dims(info)[1], str):
                # The default of a state, for as many rows as come: its tensor is for one.
                self.values[info.name] = State(array_of(self.initializers[info.name], info.name))

    def _needed(self) -> Iterator["NodeProto"]:
        """The nodes that the outputs depend on, in their order."""
        wanted = {info.name for info in self.graph.output}
        needed: list[NodeProto] = []
        for node in reversed(self.graph.node):
            if wanted.intersection(node.output):
                needed.append(node)
                wanted.update(node.input)
        return reversed(needed)

    def _take(self, proto: "NodeProto") -> None:
        name = proto.name or next((result for result in proto.output if result), "")
        if proto.op_type not in TAKES:
            raise InputError(f"cannot take node {name!r} ({proto.op_type}): gatewise reads {', '.join(sorted(TAKES))}.")
        inputs = tuple(self._value(given, name) if given else None for given in proto.input)
        attributes = {item.name: _attribute(item, name) for item in proto.attribute}
        node = Node(name, proto.op_type, inputs, attributes, len(proto.output))
        self._spend(node, inputs)
        results = TAKES[proto.op_type](node)
        results = results if isinstance(results, tuple) else (results,)
        if len(proto.output) > len(results):
            node.refuse(f"gatewise knows {len(results)} of its {len(proto.output)} results.")
        self._note(node, results)
        for result, value in zip(proto.output, results, strict=False):
            if result in self.values or result in self.initializers:
                node.refuse(f"its result {result!r} is there already.")
            if result:
                self.values[result] = value

    def _value(self, name: str, node: str) -> Value:
        if name not in self.values:
            if name not in self.initializers:
                raise InputError(f"cannot take node {node!r}: nothing before it makes its input {name!r}.")
            self.values[name] = Known(array_of(self.initializers[name], name))
        return self.values[name]

    def _spend(self, node: Node, inputs: Iterable[Value | None]) -> None:
        """Bound what all nodes together may make of the file's numbers: no result is larger than its inputs."""
        if node.op not in {"LSTM", "RNN"}:
            self.left -= sum(value.array.size for value in inputs if isinstance(value, Known))
        if self.left < 0:
            node.refuse("the file makes far more numbers of its constants than it holds.")

    def _note(self, node: Node, results: tuple[Value, ...]) -> None:
        """Remember which axis is time, and whether rows have lengths: it must be the same for all layers."""
        time = None
        if node.op in {"LSTM", "RNN"}:
            time = next(value.layers[0].axes[0] for value in results if isinstance(value, Final))
            self.with_lengths.add(node.input(4) is not None)
        elif node.op == "Conv":
            time = node.stream().axes[2]
        if time is not None and self.time not in {None, time}:
            node.refuse("its time axis is the batch axis of a layer before.")
        self.time = time or self.time
        if len(self.with_lengths) > 1:
            node.refuse("some layers have sequence_lens and some have none.")

    def _result(self) -> ModelFile:
        outputs = [self._value(info.name, "the output") for info in self.graph.output]
        streams = [value for value in outputs if isinstance(value, Stream)]
        finals = [layer for value in outputs if isinstance(value, Final) for layer in value.layers]
        if len(streams) > 1 or not (streams or finals) or len(finals) + len(streams) < len(outputs):
            raise InputError(f"{self.path} must have one output that the blocks make, beside final states.")
        data = streams[0] if streams else max(finals, key=lambda value: len(value.steps))
        for layer in finals:
            if not _begins(data, layer):
                raise InputError(f"{self.path} gives the final states of layers that its other output does not need.")
        blocks, weights, places = joined(data.steps)
        take = None if data.take is None else [places[data.take[0] - 1], self._end(data.take[1])]
        settings = {
            "batch_first": self.time != INPUT_AXES[0],
            "output_batch_first": self._batch_first(data),
            "lengths": self.with_lengths == {True},
            "take": take,
        }
        file = ModelFile(TASK, blocks, weights, settings)
        if {name: value.shape for name, value in weights.items()} != file.shapes():
            raise InputError(f"{self.path} has weights that do not fit each other.")
        return file

    def _batch_first(self, data: Stream) -> bool:
        """Whether the output is [B, T, ·]; refuse one that is laid out in another way."""
        time = self.time or INPUT_AXES[1]
        axes = tuple(axis for axis in data.axes if axis not in {"one", "directions"})
        batch = INPUT_AXES[0] if time == INPUT_AXES[1] else INPUT_AXES[1]
        known: dict[tuple[str, ...], bool] = {(batch, time, "features"): True, (time, batch, "features"): False}
        if data.take is not None:
            known = {(batch, "features"): True}
        if axes not in known:
            raise InputError(f"{self.path} has an output with the axes {', '.join(data.axes)}.")
        return known[axes]

    def _end(self, take: str) -> str:
        word, _, axis = take.partition(" of ")
        if axis and axis != self.time:
            raise InputError(f"{self.path} takes the last row of the batch, not the last time step.")
        return word


def _begins(data: Stream, layer: Stream) -> bool:
    """Whether the data has passed the layer."""
    pairs = zip(layer.steps, data.steps, strict=False)
    return len(layer.steps) <= len(data.steps) and all(step.weights is own.weights for step, own in pairs)


def _count(dims: Iterable[int]) -> int:
    count = 1
    for dim in dims:
        count *= max(dim, 0)
    return count


def _dims(info: "ValueInfoProto") -> list[int | str | None]:
    shape = info.type.tensor_type.shape
    return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in shape.dim]


def _data(info: "ValueInfoProto") -> Stream:
    """What the first input is: sequences of features, or of tokens."""
    kind, dims = info.type.tensor_type.elem_type, _dims(info)
    types = library().TensorProto
    sizes = {axis: size for axis, size in zip((*INPUT_AXES, "features"), dims, strict=False) if isinstance(size, int)}
    if kind == types.FLOAT and len(dims) == 3:
        return Stream((*INPUT_AXES, "features"), sizes)
    if kind in {types.INT64, types.INT32} and len(dims) == 2:
        return Stream(INPUT_AXES, sizes)
    raise InputError(
        f"the first input {info.name!r} must be sequences: float32 with three axes, or whole numbers with two."
    )


def _further(info: "ValueInfoProto") -> Value:
    kind, rank = info.type.tensor_type.elem_type, len(_dims(info))
    types = library().TensorProto
    if kind in {types.INT64, types.INT32} and rank == 1:
        return Lengths()
    if kind == types.FLOAT and rank == 3:
        return State()
    raise InputError(
        f"the input {info.name!r} is neither the lengths of rows (whole numbers, one axis) nor a state (float32, three "
        "axes); a weight must be an initializer."
    )


def _attribute(item: "AttributeProto", node: str) -> Any:
    onnx = library()
    if item.type == onnx.AttributeProto.TENSOR:
        return array_of(item.t, f"{item.name} of {node}")
    kinds = onnx.AttributeProto
    if item.type in {kinds.INT, kinds.INTS}:
        return item.i if item.type == kinds.INT else list(item.ints)
    if item.type in {kinds.FLOAT, kinds.FLOATS}:
        # What was written as 1e-5 is float32 in the file: the shortest number that is the same one is meant.
        numbers = [float(str(np.float32(number))) for number in (item.f, *item.floats)]
        return numbers[0] if item.type == kinds.FLOAT else numbers[1:]
    if item.type == onnx.AttributeProto.STRING:
        return item.s.decode(errors="replace")
    if item.type == onnx.AttributeProto.STRINGS:
        return [text.decode(errors="replace") for text in item.strings]
    raise InputError(f"cannot take node {node!r}: gatewise does not read its attribute {item.name!r}.")

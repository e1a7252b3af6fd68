"""An architecture and its weights as an ONNX file: each block a few nodes, around a single one for each layer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from gatewise.errors import InputError
from gatewise.exchange.graph import INT_MAX, Graph
from gatewise.exchange.library import library
from gatewise.exchange.stack import Lengths, add_stack
from gatewise.format import (
    Block,
    Conv1d,
    Embedding,
    LayerNorm,
    Linear,
    Lstm,
    ModelFile,
    QuantileMix,
    Scaling,
    atomic_file,
)

if TYPE_CHECKING:
    from onnx import ModelProto

OPSETS = range(17, 23)
"""The versions of the operators that can be written; the first has them all."""

IR_VERSION = 8
"""The version of the file itself: what came with the first of the opsets."""

LARGEST_WEIGHTS = (1 << 31) - (1 << 24)
"""In bytes: an ONNX file is at most 2 GiB, of which the graph takes little."""

Weights = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Layout:
    """How a graph is laid out.

    Attributes:
        batch_first: whether input and output are [B, T, ·] instead of [T, B, ·].
        lengths: whether there is an input for the lengths of the rows.
    """

    batch_first: bool = True
    lengths: bool = False

    @property
    def dims(self) -> tuple[str, str]:
        """The names of the first two dimensions."""
        return ("batch", "time") if self.batch_first else ("time", "batch")

    @property
    def time(self) -> int:
        """The axis of time."""
        return 1 if self.batch_first else 0


@dataclass(frozen=True)
class Flow:
    """Data on its way through the blocks.

    Attributes:
        value: its name in the graph.
        width: of its last axis.
        layout: of the graph.
        batch_first: whether it is [B, T, ·] at this point.
        time: the name of its length.
        lengths: of its rows, or None.
        candidates: the forecasts that a mixture mixes; an input of the graph if there is none yet.
        states: whether the states of recurrent layers are inputs and outputs of the graph.
    """

    value: str
    width: int
    layout: Layout
    batch_first: bool
    time: str = "time"
    lengths: Lengths | None = None
    candidates: str = ""
    states: bool = True

    def turned(self, graph: Graph, batch_first: bool) -> "Flow":
        """The same data with batch or time first."""
        if self.batch_first == batch_first:
            return self
        return replace(self, value=graph.op("Transpose", self.value, perm=[1, 0, 2]), batch_first=batch_first)


def export_blocks(
    blocks: Sequence[Block],
    weights: Weights,
    path: str | Path,
    *,
    batch_first: bool = True,
    lengths: bool = False,
    opset: int = OPSETS[0],
) -> None:
    """Write an architecture and its weights as an ONNX file, which onnx's checker has passed.

    Args:
        blocks: the architecture.
        weights: the weights, named as in a model file.
        path: the file; what is there is replaced once the new one is complete.
        batch_first: whether input and output are [B, T, ·] instead of [T, B, ·].
        lengths: whether there is an input for the lengths of the rows.
        opset: the version of the operators.

    Raises:
        InputError: something cannot be said in ONNX, onnx is not installed, or the file cannot be written.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from gatewise.exchange import export_blocks
        >>> weights = {"0.weight": np.ones((2, 3), np.float32), "0.bias": np.zeros(2, np.float32)}
        >>> export_blocks([Linear(3, 2)], weights, tempfile.mkdtemp() + "/m.onnx")
    """
    write_model(build_model(blocks, weights, Layout(batch_first, lengths), opset), path)


def build_model(blocks: Sequence[Block], weights: Weights, layout: Layout, opset: int) -> "ModelProto":
    """Return the ONNX model of an architecture."""
    _check_weights(blocks, weights)
    graph = Graph()
    flow = add_blocks(graph, blocks, weights, _first(graph, blocks[0], layout))
    dims = ("batch", flow.time) if flow.batch_first else (flow.time, "batch")
    graph.output("y", flow.value, [*dims, flow.width])
    return finish(graph, opset)


def _check_weights(blocks: Sequence[Block], weights: Weights) -> None:
    """Refuse weights that are not those of the architecture, or not finite: no reader would take the file."""
    for name, shape in ModelFile("", tuple(blocks), {}).shapes().items():
        value = weights.get(name)
        if value is None or value.shape != shape or value.dtype != np.float32:
            given = "absent" if value is None else f"{value.dtype} {list(value.shape)}"
            raise InputError(f"the weight {name} must be float32 {list(shape)}, and is {given}.")
        if not np.isfinite(value).all():
            raise InputError(f"the weight {name} has values that are not finite.")


def finish(graph: Graph, opset: int) -> "ModelProto":
    """Return the model of a whole graph."""
    if type(opset) is not int or opset not in OPSETS:
        raise InputError(f"opset must be a whole number from {OPSETS[0]} to {OPSETS[-1]}, got {opset!r}.")
    helper = library().helper
    return helper.make_model(
        graph.proto("gatewise"),
        producer_name="gatewise",
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=IR_VERSION if opset < 19 else 10,
    )


def write_model(model: "ModelProto", path: str | Path) -> None:
    """Check a model and write it whole, or leave what is there.

    Raises:
        InputError: it is larger than ONNX files can be, or cannot be written.
    """
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if size > LARGEST_WEIGHTS:
        raise InputError(f"{path} cannot be written: an ONNX file holds 2 GiB, the weights are {size:,} bytes.")
    library().checker.check_model(model, full_check=True)
    with atomic_file(path) as file:
        file.write(model.SerializeToString())


def add_blocks(graph: Graph, blocks: Sequence[Block], weights: Weights, flow: Flow) -> Flow:
    """Add an architecture to a graph; return what comes out, laid out as the graph is."""
    for index, block in enumerate(blocks):
        own = {name: weights[f"{index}.{name}"] for name in block.shapes()}
        flow = _ADD[type(block)](graph, flow, block, own, index)
    return flow.turned(graph, flow.layout.batch_first)


def _first(graph: Graph, block: Block, layout: Layout) -> Flow:
    """The inputs of the graph, as the first block reads them."""
    width = _width(block)
    if isinstance(block, Embedding):
        x = graph.input("x", np.int64, layout.dims)
    else:
        x = graph.input("x", np.float32, [*layout.dims, width])
    flow = Flow(x, width, layout, layout.batch_first)
    if not layout.lengths:
        return flow
    given = graph.input("lengths", np.int32, ["batch"])
    return replace(flow, lengths=Lengths(graph, given, x, layout.time))


def _width(block: Block) -> int:
    """The width of what the first block reads."""
    match block:
        case Lstm():
            return block.input_size
        case Linear():
            return block.in_features
        case Conv1d():
            return block.in_channels
        case LayerNorm() | Scaling():
            return block.features
        case Embedding():
            return 0
        case QuantileMix():
            return block.quantiles + block.candidates


def _embedding(graph: Graph, flow: Flow, block: Embedding, weights: Weights, _: int) -> Flow:
    value = graph.op("Gather", graph.constant(weights["weight"]), flow.value, axis=0)
    return replace(flow, value=value, width=block.embedding_dim)


def _lstm(graph: Graph, flow: Flow, block: Lstm, weights: Weights, index: int) -> Flow:
    flow = flow.turned(graph, batch_first=False)
    value = add_stack(graph, flow.value, block, weights, index=index, lengths=flow.lengths, states=flow.states)
    return replace(flow, value=value, width=block.output_size)


def _linear(graph: Graph, flow: Flow, block: Linear, weights: Weights, _: int) -> Flow:
    value = graph.product(flow.value, weights["weight"])
    if block.bias:
        value = graph.op("Add", value, graph.constant(weights["bias"]))
    return replace(flow, value=value, width=block.out_features)


def _layer_norm(graph: Graph, flow: Flow, block: LayerNorm, weights: Weights, _: int) -> Flow:
    scale, bias = (graph.constant(weights[name]) for name in ("weight", "bias"))
    return replace(flow, value=graph.op("LayerNormalization", flow.value, scale, bias, axis=-1, epsilon=block.eps))


def _conv(graph: Graph, flow: Flow, block: Conv1d, weights: Weights, index: int) -> Flow:
    if flow.lengths is not None and (block.stride > 1 or not block.causal):
        why = f"with stride {block.stride}" if block.stride > 1 else "that reads past the end of a row"
        raise InputError(f"block {index}, a convolution {why}, cannot go with lengths.")
    flow = flow.turned(graph, batch_first=True)
    total = (block.kernel_size - 1) * block.dilation
    inputs = [graph.op("Transpose", flow.value, perm=[0, 2, 1])]
    inputs += [graph.constant(weights[name]) for name in ("weight", "bias")]
    pads = [total, 0] if block.causal else [total // 2, total - total // 2]
    channels = graph.op("Conv", *inputs, pads=pads, strides=[block.stride], dilations=[block.dilation])
    value = graph.op("Transpose", channels, perm=[0, 2, 1])
    time = flow.time if block.stride == 1 else f"{flow.time}_{index}"
    return replace(flow, value=value, width=block.out_channels, time=time)


def _scaling(graph: Graph, flow: Flow, block: Scaling, weights: Weights, _: int) -> Flow:
    mean, std = (graph.constant(weights[name]) for name in ("mean", "std"))
    if block.inverse:
        value = graph.op("Add", graph.op("Mul", flow.value, std), mean)
    else:
        value = graph.op("Div", graph.op("Sub", flow.value, mean), std)
    return replace(flow, value=value)


def _mixture(graph: Graph, flow: Flow, block: QuantileMix, weights: Weights, _: int) -> Flow:
    flow = flow.turned(graph, flow.layout.batch_first)
    axis = flow.layout.time
    candidates = flow.candidates
    if not candidates:
        dims = ("batch", "horizon") if flow.batch_first else ("horizon", "batch")
        candidates = graph.input("candidates", np.float32, [*dims, block.candidates])
    # They are for the last steps.
    start = graph.op("Neg", graph.size(candidates, axis))
    last = graph.op("Slice", flow.value, start, graph.integers(INT_MAX), graph.integers(axis))
    correction, logits = graph.split(last, [block.quantiles, block.candidates], axis=2)
    shares = graph.op("Mul", graph.op("Softmax", logits, axis=-1), candidates)
    mixture = graph.op("ReduceSum", shares, graph.integers(-1), keepdims=1)
    return replace(flow, value=graph.op("Add", mixture, correction), width=block.quantiles, time="horizon")


_ADD: Mapping[type, Callable[..., Flow]] = MappingProxyType(
    {
        Conv1d: _conv,
        Embedding: _embedding,
        LayerNorm: _layer_norm,
        Linear: _linear,
        Lstm: _lstm,
        QuantileMix: _mixture,
        Scaling: _scaling,
    }
)

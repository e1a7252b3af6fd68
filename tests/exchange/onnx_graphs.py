"""ONNX files made by hand: graphs around an LSTM node as other exporters write them, and broken ones."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

D, H = 3, 5


def weights(directions: int = 1, peephole: bool = False) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    shapes = {"W": (directions, 4 * H, D), "R": (directions, 4 * H, H), "B": (directions, 8 * H)}
    shapes |= {"P": (directions, 3 * H)} if peephole else {}
    return {name: rng.uniform(-1, 1, shape).astype(np.float32) for name, shape in shapes.items()}


def lstm(*inputs: str, outputs: Sequence[str] = ("Y", "Y_h", "Y_c"), **attributes: Any) -> NodeProto:
    attributes = {"hidden_size": H} | attributes
    return helper.make_node("LSTM", inputs or ("x", "W", "R", "B"), outputs, "layer", **attributes)


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    return helper.make_node(kind, inputs.split(), outputs.split(), name=f"{kind} of {outputs}", **attributes)


def model(
    nodes: Sequence[NodeProto],
    constants: Mapping[str, Any],
    outputs: Mapping[str, int],
    inputs: Mapping[str, Any] | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    """A model; inputs by name with their dims, "lengths" whole numbers, "tokens" too; outputs with their rank."""
    inputs = {"x": ["a", "b", D]} if inputs is None else inputs
    kinds = {"lengths": TensorProto.INT32, "tokens": TensorProto.INT64}
    infos = [helper.make_tensor_value_info(n, kinds.get(n, TensorProto.FLOAT), dims) for n, dims in inputs.items()]
    results = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * rank) for n, rank in outputs.items()]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(list(nodes), "hand-made", infos, results, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def plain() -> onnx.ModelProto:
    """The smallest model that is read: one node, and its two directions dropped."""
    squeezed = node("Squeeze", "Y axes", "y")
    return model([lstm(), squeezed], weights() | {"axes": np.array([1])}, {"y": 3})


def saved(proto: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return path

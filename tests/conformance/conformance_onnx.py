"""An ONNX backend for models of one LSTM node, computed by gatewise.LSTM.

It translates: ONNX keeps gates as i, o, f, c and peepholes as i, o, f, stacks directions first, and knows a lone
reverse direction, which a module does not. What it cannot translate it refuses with NotImplementedError: onnx's runner
takes its own BackendIsNotSupposedToImplementIt for a pass.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto, helper
from onnx.backend.base import Backend, BackendRep
from torch import Tensor

from gatewise import LSTM

GATES = "iofg"  # ONNX calls g c
PEEPHOLES = "iof"
DEFAULTS: dict[str, Any] = {"direction": "forward", "clip": None, "input_forget": 0, "layout": 0}

Feeds = Mapping[str, np.ndarray]


class GatewiseBackend(Backend):
    """What onnx's test runner drives."""

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device == "CPU"

    @classmethod
    def prepare(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> "LSTMRep":
        onnx.checker.check_model(model)
        if not cls.supports_device(device) or kwargs:
            raise NotImplementedError(f"device {device} with {kwargs}")
        return LSTMRep(model)


class LSTMRep(BackendRep):
    """A model ready to run; inputs and outputs are in the order of its graph."""

    def __init__(self, model: ModelProto) -> None:
        nodes = list(model.graph.node)
        if [node.op_type for node in nodes] != ["LSTM"] or model.graph.initializer:
            raise NotImplementedError("anything but one LSTM node that is fed all its inputs")
        self.node = nodes[0]
        self.inputs = [info.name for info in model.graph.input]
        self.outputs = [info.name for info in model.graph.output]

    def run(self, inputs: Sequence[np.ndarray], **kwargs: Any) -> tuple[np.ndarray, ...]:
        if kwargs:
            raise NotImplementedError(str(kwargs))
        values = run_node(self.node, dict(zip(self.inputs, inputs, strict=True)))
        return tuple(values[name] for name in self.outputs)


def run_node(node: NodeProto, feeds: Feeds) -> dict[str, np.ndarray]:
    """Compute an LSTM node; return its outputs by their names in the graph."""
    options = read_options(node)
    slots = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
    # A trailing input may be absent, one in the middle has the name "".
    given = {slot: torch.from_numpy(feeds[name]) for slot, name in zip(slots, node.input, strict=False) if name}
    layer = build_layer(given, options)
    output, (h_n, c_n) = layer(given["X"], initial_state(given, options), lengths=given.get("sequence_lens"))
    y = output.unflatten(-1, (-1, layer.hidden_size))  # [T, B, S, H], or [B, T, S, H], which is ONNX's layout 1
    if options["direction"] == "reverse":
        y, h_n, c_n = y[:, :, 1:], h_n[1:], c_n[1:]
    if options["layout"] == 0:
        y = y.transpose(1, 2)
    else:
        h_n, c_n = h_n.transpose(0, 1), c_n.transpose(0, 1)
    results = (tensor.detach().contiguous().numpy() for tensor in (y, h_n, c_n))
    return {name: result for name, result in zip(node.output, results, strict=False) if name}


def read_options(node: NodeProto) -> dict[str, Any]:
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute if a.name != "hidden_size"}
    unknown = given.keys() - DEFAULTS
    if unknown:
        raise NotImplementedError(f"attributes {sorted(unknown)}")
    given = {name: value.decode() if isinstance(value, bytes) else value for name, value in given.items()}
    return DEFAULTS | given


def build_layer(given: Mapping[str, Tensor], options: Mapping[str, Any]) -> LSTM:
    """Build the layer that a node describes."""
    W, P = given["W"], given.get("P")
    coupled = options["input_forget"] == 1
    layer = LSTM(
        W.shape[2],
        given["R"].shape[2],
        bias="B" in given,
        batch_first=options["layout"] == 1,
        bidirectional=options["direction"] != "forward",
        dtype=W.dtype,
        cell="cifg" if coupled else "lstm",
        peephole=P is not None,
        clip=options["clip"],
        backend="native",
    )
    weights = direction_weights(given, -1 if options["direction"] == "reverse" else 0, coupled)
    state_dict = {f"{kind}_l0": value for kind, value in weights.items()}
    if layer.bidirectional:
        # A module runs forward or both ways. A lone reverse direction is the backward half of both, with its own
        # weights in the forward half too.
        weights = direction_weights(given, -1, coupled)
        state_dict |= {f"{kind}_l0_reverse": value for kind, value in weights.items()}
    layer.load_state_dict(state_dict)
    return layer


def direction_weights(given: Mapping[str, Tensor], direction: int, coupled: bool) -> dict[str, Tensor]:
    # Coupled, f is 1 - i: ONNX still stores weights for f, and they must not matter.
    gates, peepholes = ("igo", "io") if coupled else ("ifgo", "ifo")
    weights = {"weight_ih": given["W"][direction], "weight_hh": given["R"][direction]}
    if "B" in given:
        weights["bias_ih"], weights["bias_hh"] = given["B"][direction].chunk(2)
    weights = {kind: reordered(value, GATES, gates) for kind, value in weights.items()}
    if "P" in given:
        weights["weight_peephole"] = reordered(given["P"][direction], PEEPHOLES, peepholes)
    return weights


def reordered(stacked: Tensor, names: str, wanted: str) -> Tensor:
    """Pick the equal blocks of rows that are wanted, in their order."""
    blocks = dict(zip(names, stacked.chunk(len(names)), strict=True))
    return torch.cat([blocks[name] for name in wanted])


def initial_state(given: Mapping[str, Tensor], options: Mapping[str, Any]) -> tuple[Tensor, Tensor] | None:
    """Return h and c as the module takes them, [S, B, H]; ONNX lets either be absent, which means zeros."""
    known = [given[name] for name in ("initial_h", "initial_c") if name in given]
    if not known:
        return None
    zeros = torch.zeros_like(known[0])
    h, c = (given.get(name, zeros) for name in ("initial_h", "initial_c"))
    if options["layout"] == 1:
        h, c = h.transpose(0, 1), c.transpose(0, 1)
    if options["direction"] == "reverse":
        h, c = (part.expand(2, -1, -1) for part in (h, c))
    return h, c

"""onnxruntime as the other side: sessions, layers with drawn weights, and what both make of the same inputs."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch

from gatewise import LSTM
from gatewise.spec import CELLS, variant

TOLERANCE = 1e-5  # times max(1, max|expected|); the largest difference seen is 2e-6
D, H = 3, 5


class Case(NamedTuple):
    """A layer to write: its cell and its arguments."""

    cell: str
    arguments: Mapping[str, Any]

    def __str__(self) -> str:
        return "-".join([self.cell, *(f"{name}={value}" for name, value in self.arguments.items())])

    def layer(self, **more: Any) -> LSTM:
        torch.manual_seed(3)
        layer = LSTM(D, H, cell=self.cell, **self.arguments, **more)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.uniform_(-0.7, 0.7)
        return layer


OPTIONS: list[dict[str, Any]] = [
    {},
    {"bidirectional": True, "num_layers": 2},
    {"clip": 0.3},
    {"clip": 50.0, "bias": False},
    {"peephole": True, "bias": False, "bidirectional": True},
    {"peephole": False},
    {"layer_norm": True, "num_layers": 2, "bidirectional": True},
    {"layer_norm": True, "bias": False, "clip": 0.5},
    {"proj_size": 2, "num_layers": 2, "bidirectional": True},
    {"proj_size": 2, "nonrecurrent_proj_size": 4, "peephole": True},
    {"learned_state": True, "num_layers": 2, "bidirectional": True},
    {"residual": True, "num_layers": 4},
]


def defined(cell: str, options: Mapping[str, Any]) -> bool:
    wanted = {"peephole": options.get("peephole"), "projection": options.get("proj_size"), "clip": options.get("clip")}
    wanted |= {name: options.get(name) for name in ("layer_norm", "learned_state")}
    return all(name in CELLS[cell].options for name, value in wanted.items() if value)


CASES = [Case(*row) for row in itertools.product(CELLS, OPTIONS) if defined(*row)]


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # it warns of every input that has a default
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(model: onnxruntime.InferenceSession, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
    arrays = {name: value.numpy() if isinstance(value, torch.Tensor) else value for name, value in feeds.items()}
    names = [output.name for output in model.get_outputs()]
    return dict(zip(names, (np.asarray(value) for value in model.run(names, arrays)), strict=True))


def draw_state(layer: LSTM, rows: int) -> dict[str, torch.Tensor]:
    """A state whose parts are all in (0.2, 1): such as every cell can have."""
    first = layer.num_layers * (1 + layer.bidirectional)
    sizes = variant(layer.cell, proj_size=layer.proj_size).state_sizes(layer.hidden_size)
    return {name: torch.rand(first, rows, size) * 0.8 + 0.2 for name, size in sizes.items()}


def named(state: Mapping[str, Any], index: int = 0) -> dict[str, Any]:
    return {f"state.{index}.{name}": value for name, value in state.items()}


def assert_close(actual: Any, expected: Any, name: str = "") -> None:
    actual, expected = (
        value.detach().numpy() if isinstance(value, torch.Tensor) else value for value in (actual, expected)
    )
    assert actual.shape == expected.shape
    atol = TOLERANCE * max(1.0, float(np.abs(expected).max(initial=0.0)))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=atol, err_msg=name)


def operators(path: Path) -> list[str]:
    """The operators of a file's graph, those inside loops not counted."""
    return [node.op_type for node in onnx.load(path).graph.node]

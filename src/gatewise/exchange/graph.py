"""A graph of ONNX nodes as it is written: each operation returns the name of its result."""

from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np

from gatewise.exchange.library import library

INT_MAX = np.iinfo(np.int64).max

Dims = Sequence[int | str]


class Graph:
    """Nodes, constants, inputs and outputs in the making.

    Args:
        outer: the graph around this one, if this is the body of a loop. It holds the constants of both, so that a body
            is only its operations, and no name is given twice.

    Example:
        >>> graph = Graph()
        >>> graph.op("Add", graph.input("x", np.float32, ["batch"]), graph.constant(np.float32(1)))
        'Add_1'
    """

    def __init__(self, outer: "Graph | None" = None):
        self._onnx = library()
        self._root = self if outer is None else outer._root
        self._names = count() if outer is None else self._root._names
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    def fresh(self, word: str) -> str:
        """A name that nothing has yet, neither here nor in the graph around."""
        return f"{word}_{next(self._names)}"

    def ops(self, kind: str, *inputs: str, results: int, **attributes: Any) -> list[str]:
        """Add a node with some results; an input "" is absent."""
        names = [self.fresh(kind) for _ in range(results)]
        self.nodes.append(self._onnx.helper.make_node(kind, list(inputs), names, name=names[0], **attributes))
        return names

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one result."""
        return self.ops(kind, *inputs, results=1, **attributes)[0]

    def constant(self, value: np.ndarray | np.generic) -> str:
        """Add a constant; equal ones are kept once."""
        value = np.ascontiguousarray(value) if value.ndim else np.asarray(value)
        key = (value.dtype.str, value.shape, value.tobytes())
        constants = self._root._constants
        if key not in constants:
            constants[key] = self.fresh("constant")
            self._root._keep(constants[key], value)
        return constants[key]

    def integers(self, *values: int) -> str:
        """Add a constant vector of int64: axes, sizes, positions."""
        return self.constant(np.array(values, np.int64))

    def input(self, name: str, dtype: Any, dims: Dims, default: np.ndarray | None = None) -> str:
        """Add an input; one with a default may be left out when the graph is run."""
        self.inputs.append(self._info(name, dtype, dims))
        if default is not None:
            self._keep(name, default)
        return name

    def output(self, name: str, value: str, dims: Dims, dtype: Any = np.float32) -> None:
        """Give a value to the outside under a name of its own."""
        self.nodes.append(self._onnx.helper.make_node("Identity", [value], [name], name=name))
        self.outputs.append(self._info(name, dtype, dims))

    def size(self, value: str, axis: int) -> str:
        """The size of a value along an axis, as a vector of one int64."""
        return self.op("Shape", value, start=axis, end=axis + 1)

    def rows(self, value: str, rows: slice, axis: int = 0) -> str:
        """Part of a value along an axis."""
        positions = (self.integers(rows.start), self.integers(rows.stop), self.integers(axis))
        return self.op("Slice", value, *positions)

    def split(self, value: str, sizes: Sequence[int], axis: int) -> list[str]:
        """A value cut into parts along an axis."""
        return self.ops("Split", value, self.integers(*sizes), results=len(sizes), axis=axis)

    def product(self, value: str, weight: np.ndarray) -> str:
        """W x, for x in the last axis."""
        return self.op("MatMul", value, self.constant(weight.T))

    def proto(self, name: str) -> Any:
        """The graph as onnx has it."""
        return self._onnx.helper.make_graph(self.nodes, name, self.inputs, self.outputs, self.initializers)

    def _keep(self, name: str, value: np.ndarray) -> None:
        self.initializers.append(self._onnx.numpy_helper.from_array(value, name))

    def _info(self, name: str, dtype: Any, dims: Dims) -> Any:
        kind = self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self._onnx.helper.make_tensor_value_info(name, kind, list(dims))

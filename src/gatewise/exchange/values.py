"""What the values of an ONNX graph stand for while it is read, and the nodes that make them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import numpy as np

from gatewise.errors import InputError
from gatewise.format import Block

INPUT_AXES = ("first", "second")
"""The first two axes of the input: which of them is time, the first recurrent layer tells."""


@dataclass(frozen=True, eq=False)
class Step:
    """A block that the data has passed. Each is equal to itself only.

    Attributes:
        block: the block; of a recurrent stack, one layer.
        weights: its weights, by their names in it.
        start: the state that it starts from if none is given, by name; empty for zeros.
        residual: whether its input is added to its output.
    """

    block: Block
    weights: Mapping[str, np.ndarray]
    start: Mapping[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    residual: bool = False


@dataclass(frozen=True)
class Stream:
    """The data, after some blocks.

    Attributes:
        axes: what each axis is: "first" or "second" of the input's, "directions", "features", or "one".
        sizes: of the axes whose size is known.
        steps: the blocks.
        take: after how many steps only the end of each row was kept, and which: the "last" step or the "final" state.
    """

    axes: tuple[str, ...]
    sizes: Mapping[str, int]
    steps: tuple[Step, ...] = ()
    take: tuple[int, str] | None = None

    def passed(self, step: Step, width: int) -> "Stream":
        """The data after one more block."""
        return replace(self, steps=(*self.steps, step), sizes={**self.sizes, "features": width})


@dataclass(frozen=True)
class Known:
    """Numbers that the file holds."""

    array: np.ndarray


@dataclass(frozen=True)
class Sizes:
    """Whole numbers of which some are the sizes of the data's axes: those are names."""

    dims: tuple[int | str, ...]
    scalar: bool = False


@dataclass(frozen=True)
class Zeros:
    """Zeros, as many as the batch asks for."""


@dataclass(frozen=True)
class State:
    """An initial state that is an input of the graph, or part of one; its default if it has one."""

    default: np.ndarray | None = None


@dataclass(frozen=True)
class Lengths:
    """The lengths of the rows; with ``positive``, whether they are above zero."""

    positive: bool = False


@dataclass(frozen=True)
class Final:
    """Final states, of one layer or of several on top of each other.

    Attributes:
        layers: the data after each of the layers.
        name: of the state: h or c.
    """

    layers: tuple[Stream, ...]
    name: str


Value = Stream | Known | Sizes | Zeros | State | Lengths | Final


@dataclass(frozen=True)
class Node:
    """A node with the values that it is given.

    Attributes:
        name: its name.
        op: its operator.
        inputs: its inputs; None where one is absent.
        attributes: its attributes; of text as str.
        results: how many results it has.
    """

    name: str
    op: str
    inputs: tuple[Value | None, ...]
    attributes: Mapping[str, Any]
    results: int

    def refuse(self, reason: str) -> NoReturn:
        """Say that this node cannot be taken, and why.

        Raises:
            InputError: always.
        """
        raise InputError(f"cannot take node {self.name!r} ({self.op}): {reason}")

    def value(self, index: int) -> Value:
        """An input that must be there."""
        given = self.input(index)
        return self.refuse(f"its input {index} is absent.") if given is None else given

    def input(self, index: int) -> Value | None:
        """An input that may be absent."""
        return self.inputs[index] if index < len(self.inputs) else None

    def array(self, index: int, what: str) -> np.ndarray:
        """An input that must be constant."""
        given = self.input(index)
        return given.array if isinstance(given, Known) else self.refuse(f"{what} must be a constant of the file.")

    def stream(self, index: int = 0) -> Stream:
        """An input that must be the data."""
        given = self.input(index)
        return (
            given if isinstance(given, Stream) else self.refuse(f"its input {index} must come from the model's input.")
        )

    def integers(self, name: str, index: int) -> tuple[int, ...] | None:
        """What older operators have as an attribute and newer ones as a constant input; None if it is absent."""
        if name in self.attributes:
            given = self.attributes[name]
            return tuple(given) if isinstance(given, list | tuple) else (int(given),)
        if self.input(index) is None:
            return None
        array = self.array(index, name)
        if array.dtype.kind != "i" or array.ndim > 1 or array.size > 8:
            self.refuse(f"{name} must be a few whole numbers.")
        return tuple(int(value) for value in array.reshape(-1))

    def axis(self, rank: int, default: int = 0) -> int:
        """The attribute ``axis``, counted from the front."""
        axis = self.attributes.get("axis", default)
        if not isinstance(axis, int) or not -rank <= axis < rank:
            self.refuse(f"its axis is {axis!r}, of {rank}.")
        return axis % rank

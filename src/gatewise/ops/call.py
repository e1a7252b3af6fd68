"""The arguments of one layer's call, as the modules here pass them on."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gatewise.reference import Noise, State, Weights, traced_names
from gatewise.spec import Variant, parse_variant


class Direction(NamedTuple):
    """What one direction of a layer starts from and computes with.

    Attributes:
        state: the initial states, each [B, ·].
        weights: the parameters.
        reverse: whether it goes from the last time step to the first.
        start: what a reset restarts from, each [B, ·]; None for zeros.
        noise: dropout and zoneout masks; those of h and c for cells with the option zoneout only.
    """

    state: State
    weights: Weights
    reverse: bool = False
    start: State | None = None
    noise: Noise = Noise()


class Call(NamedTuple):
    """Everything a backend needs to know; what each is says ``gatewise.ops.layer``."""

    x: Tensor
    directions: Sequence[Direction]
    variant: Variant = Variant()
    lengths: Tensor | None = None
    reset: Tensor | None = None
    trace: bool = False
    save: str = "all"
    narrow: bool = False
    """Whether numbers may be multiplied as bfloat16: they came as that, or autocast asks for it, and nobody wants a
    gradient."""


class Result(NamedTuple):
    """What a layer returns.

    Attributes:
        y: the outputs of its directions side by side [T, B, ·].
        states: the final states of each direction.
        traces: of each direction the gates and states over time by name, each [T, B, ·]; empty unless asked for.
    """

    y: Tensor
    states: Sequence[State]
    traces: Sequence[dict[str, Tensor]]


def tensors(call: Call) -> list[Tensor]:
    """Return every floating tensor of a call: x, then those of the directions."""
    return [call.x, *(tensor for direction in call.directions for _, tensor in named(direction))]


def named(direction: Direction) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a direction, with the name of its group or field."""
    for name, states in (("state", direction.state), ("start", direction.start or ())):
        yield from ((name, state) for state in states)
    for fields in (direction.weights, direction.noise):
        yield from ((name, tensor) for name, tensor in zip(fields._fields, fields, strict=True) if tensor is not None)


Row = tuple[bool, list[str]]
"""Of one direction whether it is reversed, and the names of its tensors, as ``named`` gives them."""


def rows_of(call: Call) -> list[Row]:
    """What ``assembled`` needs to know of the directions besides their tensors."""
    return [(direction.reverse, [name for name, _ in named(direction)]) for direction in call.directions]


def assembled(given: Iterable[Tensor], rows: Sequence[Row], call: Call) -> Call:
    """Return a call like another one, with these tensors in the order of ``tensors``."""
    x, *rest = given
    remaining = iter(rest)
    directions: list[Direction] = []
    for reverse, names in rows:
        pairs = [(name, next(remaining)) for name in names]
        state = tuple(tensor for name, tensor in pairs if name == "state")
        start = tuple(tensor for name, tensor in pairs if name == "start")
        weights = Weights(**{name: tensor for name, tensor in pairs if name in Weights._fields})
        noise = Noise(**{name: tensor for name, tensor in pairs if name in Noise._fields})
        directions.append(Direction(state, weights, reverse, start or None, noise))
    return call._replace(x=x, directions=directions)


def describe(call: Call, backend: str, places: Sequence[int]) -> str:
    """Everything of a call that is no tensor, as text: torch.compile can follow string operations, but not JSON's.

    Args:
        call: the call.
        backend: the backend it asks for.
        places: where each of ``tensors(call)`` stands in the list that ``rebuild`` will be given.
    """
    directions = [f"{d.reverse} {' '.join([name for name, _ in named(d)])}" for d in call.directions]
    numbers = " ".join([str(place) for place in places])
    words = [call.variant.text, backend, str(call.trace), call.save, str(call.narrow), numbers]
    return "\n".join([*words, *directions])


def rebuild(described: str, given: Sequence[Tensor], lengths: Tensor | None, reset: Tensor | None) -> tuple[Call, str]:
    """Return the call and the backend of a description, with these tensors at its places."""
    text, backend, trace, save, narrow, numbers, *lines = described.split("\n")
    ordered = [given[int(place)] for place in numbers.split()]
    rows = [(reverse == "True", names) for reverse, *names in (line.split() for line in lines)]
    call = Call(ordered[0], (), parse_variant(text), lengths, reset, trace == "True", save, narrow == "True")
    return assembled(ordered, rows, call), backend


def flat(result: Result) -> list[Tensor]:
    """Return every tensor of a result: y, the states of each direction, then the traces of each."""
    return [
        result.y,
        *(part for state in result.states for part in state),
        *(value for trace in result.traces for value in trace.values()),
    ]


def grouped(call: Call, values: Iterable[Any]) -> tuple[Any, list[list[Any]], list[dict[str, Any]]]:
    """Undo ``flat``, for the tensors of a call's result or what belongs to them: y's, the states', the traces'."""
    remaining = iter(values)
    y = next(remaining)
    states = [[next(remaining) for _ in direction.state] for direction in call.directions]
    names = traced_names(call.variant) if call.trace else ()
    return y, states, [{name: next(remaining) for name in names} for _ in call.directions if names]


def converted(call: Call, dtype: torch.dtype) -> Call:
    """Return a call with its floating tensors in another dtype."""
    return assembled([tensor.to(dtype) for tensor in tensors(call)], rows_of(call), call)


def rounded(result: Result, dtype: torch.dtype, out: Tensor | None) -> Result:
    """Return a result in another dtype; y goes to ``out``, which has it, unless that is None."""
    return Result(
        result.y.to(dtype) if out is None else out.copy_(result.y),
        [tuple([part.to(dtype) for part in state]) for state in result.states],
        [{name: value.to(dtype) for name, value in trace.items()} for trace in result.traces],
    )

"""The native engine on calls that have members and samples (``form``)."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gatewise import _native
from gatewise.errors import InputError
from gatewise.ops.call import Direction, grouped, named
from gatewise.ops.form import Ask, Form, Kept
from gatewise.ops.native import TRACES, addressed, empty
from gatewise.reference import Noise, Weights, traced_names
from gatewise.runtime.layers import described

_TOGETHER = 64
"""About so many rows go through forward again at once, where backward has nothing that was kept."""


def run(
    form: Form, lengths: Tensor | None, reset: Tensor | None, given: Sequence[Tensor]
) -> tuple[list[Tensor], Kept | None]:
    """Run a layer of any number of members.

    Args:
        form: what it is.
        lengths: as for ``layer``; they are checked here, because under vmap nobody could look at them before.
        reset: as for ``layer``.
        given: x and the tensors after it.

    Returns:
        The outputs in the order of ``flat``, and what was kept or None.
    """
    inputs = _Inputs(form, lengths, reset, given)
    variant, x = form.variant, inputs.x
    width = variant.output_size(inputs.hidden)
    y = _outputs(x, width * len(form.rows))
    widths = variant.state_sizes(inputs.hidden)
    names = traced_names(variant) if form.trace else ()
    outputs: list[Tensor] = [y]
    traces: list[Tensor] = []
    tapes: list[Any] = []
    forward = _native.forward_members_double if x.dtype is torch.float64 else _native.forward_members
    for number, direction in enumerate(inputs.directions):
        final = [empty(part.shape, x.dtype) for part in direction.state]
        trace = {name: empty((*x.shape[:-1], widths.get(name, inputs.hidden)), x.dtype) for name in names}
        tape = forward(
            inputs.layer,
            inputs.count,
            inputs.places(direction.weights),
            direction.reverse,
            inputs.numbers(y, number * width, direction),
            inputs.places(direction.state),
            inputs.places(direction.start),
            inputs.places(final),
            inputs.places([trace.get(name) for name in TRACES] if trace else []),
            form.keep,
            torch.get_num_threads(),
        )
        outputs += final
        traces += trace.values()
        tapes.append(tape)
    kept = None
    if form.keep != "nothing":
        kept = Kept(form, given, y, tapes, (inputs.lengths, inputs.reset))
    return [*outputs, *traces], kept


def differentiate(
    ask: Ask,
    lengths: Tensor | None,
    reset: Tensor | None,
    given: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
) -> list[Tensor]:
    """The wanted gradients, in the order of x and the tensors after it; of weights [members, samples, ·]."""
    form, kept = ask.form, ask.kept
    found = _results(ask, given)
    wanted = [tensor for tensor in found if tensor is not None]
    *members, _, rows, _ = given[0].shape
    if not rows or 0 in members:
        for tensor in wanted:
            tensor.zero_()
        return wanted
    if kept is not None and kept.fits(form, given):
        inputs = _Inputs(form, kept.lengths, kept.reset, given)
        _backward(ask, inputs, kept, gradients, found)
        return wanted
    for part in _slices(ask, rows):
        own_form = replace(form, trace=False, keep="all")
        own_given = [part.rows(axis, tensor) for axis, tensor in zip(form.batch_axes, given, strict=True)]
        own_lengths = None if lengths is None else part.rows(0, lengths)
        own_reset = None if reset is None else part.rows(1, reset)
        _, fresh = run(own_form, own_lengths, own_reset, own_given)
        assert fresh is not None
        inputs = _Inputs(own_form, fresh.lengths, fresh.reset, own_given)
        pairs = zip(form.output_axes, gradients, strict=True)
        own = [None if tensor is None else part.rows(axis, tensor) for axis, tensor in pairs]
        pairs = zip(form.batch_axes, found, strict=True)
        to = [None if tensor is None else part.results(axis, tensor) for axis, tensor in pairs]
        _backward(replace(ask, samples=part.samples), inputs, fresh, own, to)
    return wanted


class _Slice(NamedTuple):
    """Some samples of a call, or all rows of one that has none."""

    members: int
    first: int
    size: int
    each: int
    samples: int | None

    def rows(self, axis: int | None, tensor: Tensor) -> Tensor:
        if axis is None:
            return tensor
        return tensor.narrow(self.members + axis, self.first * self.each, self.size * self.each)

    def results(self, axis: int | None, tensor: Tensor) -> Tensor:
        if axis is None and self.samples is not None:
            return tensor.narrow(self.members, self.first, self.size)
        return self.rows(axis, tensor)


def _slices(ask: Ask, rows: int) -> Iterator[_Slice]:
    """As many samples at once as have about ``_TOGETHER`` rows: a Jacobian may have thousands."""
    members = int(ask.form.members)
    if ask.samples is None:
        yield _Slice(members, 0, 1, rows, None)
        return
    each = rows // ask.samples
    step = max(1, _TOGETHER // each)
    for first in range(0, ask.samples, step):
        count = min(step, ask.samples - first)
        yield _Slice(members, first, count, each, count)


def _results(ask: Ask, given: Sequence[Tensor]) -> list[Tensor | None]:
    """Memory for the wanted gradients."""
    form = ask.form

    def result(name: str, tensor: Tensor) -> Tensor:
        if name == "x":
            return _outputs(tensor, tensor.shape[-1])
        if name == "start":
            return torch.zeros(tensor.shape, dtype=tensor.dtype)
        if name == "state":
            return empty(tensor.shape, tensor.dtype)
        lead = int(form.members)
        samples = () if ask.samples is None else (ask.samples,)
        return empty((*tensor.shape[:lead], *samples, *tensor.shape[lead:]), tensor.dtype)

    pairs = zip(["x", *form.names], given, strict=True)
    return [result(name, tensor) if want else None for want, (name, tensor) in zip(ask.wanted, pairs, strict=True)]


def _backward(
    ask: Ask,
    inputs: "_Inputs",
    kept: Kept,
    gradients: Sequence[Tensor | None],
    found: Sequence[Tensor | None],
) -> None:
    """Write the gradients that are ``found``."""
    form = ask.form
    width = form.variant.output_size(inputs.hidden)
    y = _contiguous_last(kept.y)
    dx, *rest = found
    asked = form.call([inputs.x, *(tensor for d in inputs.directions for _, tensor in d.named)], None, None)
    dy, dfinals, dtraces = grouped(asked, gradients)
    dy = None if dy is None else _contiguous_last(dy)
    remaining = iter(rest)
    for number, direction in enumerate(inputs.directions):
        dfinal = [inputs.dense(part) for part in dfinals[number]]
        dtrace = {name: inputs.dense(part) for name, part in (dtraces[number] if dtraces else {}).items()}
        own = [(name, next(remaining)) for name, _ in direction.named]
        by_name = dict(own)
        dweights = [by_name.get(name) for name in Weights._fields]
        each = [0 if d is None else d.shape[form.members :].numel() // (ask.samples or 1) for d in dweights]
        _native.backward_members(
            inputs.layer,
            kept.tapes[number],
            inputs.places(direction.weights),
            direction.reverse,
            inputs.numbers(y, number * width, direction),
            inputs.places(direction.state),
            inputs.places(direction.start),
            inputs.series((dy, number * width), (dx, 0), [number]),
            inputs.places(dfinal),
            inputs.places([dtrace.get(name) for name in TRACES] if dtrace else []),
            inputs.places([d for name, d in own if name == "state"]),
            inputs.places([d for name, d in own if name == "start"]),
            inputs.places(dweights),
            ask.samples or 0,
            each,
            torch.get_num_threads(),
        )


class _Prepared:
    """A direction's tensors as the engine reads them."""

    def __init__(self, direction: Direction, inputs: "_Inputs") -> None:
        self.reverse = direction.reverse
        self.named = [(name, inputs.dense_tensor(tensor)) for name, tensor in named(direction)]
        by_name = dict(self.named)
        self.state = [tensor for name, tensor in self.named if name == "state"]
        self.start = [tensor for name, tensor in self.named if name == "start"]
        self.weights = [by_name.get(name) for name in Weights._fields]
        self.noise = [by_name.get(name) for name in Noise._fields]


class _Inputs:
    """A call's tensors as the engine reads them, which must outlive the call that is given their addresses."""

    def __init__(self, form: Form, lengths: Tensor | None, reset: Tensor | None, given: Sequence[Tensor]) -> None:
        call = form.call(given, lengths, reset)
        self.members = form.members
        self.x = _contiguous_last(call.x)
        self.count = self.x.shape[0] if form.members else 1
        self.lengths = None if lengths is None else _checked(lengths, self.x.shape[-3])
        self.reset = None if reset is None else addressed(reset).clone(memory_format=torch.contiguous_format)
        self.directions = [_Prepared(direction, self) for direction in call.directions]
        gates, bias = call.directions[0].weights.weight_ih.shape[-2], call.directions[0].weights.bias_ih
        self.hidden = gates // len(form.variant.cell.learned)
        self.layer = described(form.variant.text, self.x.shape[-1], self.hidden, bias is not None)

    def dense(self, tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else self.dense_tensor(tensor)

    def dense_tensor(self, tensor: Tensor) -> Tensor:
        """Return the tensor, or a copy of it, of which each member is in one piece."""
        tensor = addressed(tensor)
        if self.members and tensor.shape[0]:
            return tensor if tensor[0].is_contiguous() else tensor.contiguous()
        return tensor.contiguous()

    def places(self, given: Sequence[Tensor | None]) -> list[int]:
        """The addresses, and then how far it is from one member to the next."""
        return [0 if tensor is None else tensor.data_ptr() for tensor in given] + [self._step(t) for t in given]

    def numbers(self, y: Tensor, column: int, direction: _Prepared) -> list[int]:
        dense = [self.lengths, self.reset, *direction.noise]
        steps, rows, _ = self.x.shape[-3:]
        found = self.series((self.x, 0), (y, column), [])
        places, middle = self.places(dense), len(found) // 2
        return [steps, rows, *found[:middle], *places[: len(dense)], 0, 0, *found[middle:], *places[len(dense) :]]

    def series(self, one: tuple[Tensor | None, int], other: tuple[Tensor | None, int], more: list[int]) -> list[int]:
        """Of two [T, B, ·] tensors each the address of a column and the strides; then how far the next member's is."""
        found: list[int] = []
        for tensor, column in (one, other):
            if tensor is None:
                found += [0, 0, 0]
            else:
                found += [tensor.data_ptr() + column * tensor.element_size(), tensor.stride(-3), tensor.stride(-2)]
        steps = [0 for _ in more]
        return [*found, *more, self._step(one[0]), 0, 0, self._step(other[0]), 0, 0, *steps]

    def _step(self, tensor: Tensor | None) -> int:
        return tensor.stride(0) * tensor.element_size() if self.members and tensor is not None else 0


def _checked(lengths: Tensor, steps: int) -> Tensor:
    """A copy of the lengths, which has been looked at."""
    lengths = addressed(lengths).clone(memory_format=torch.contiguous_format)
    if lengths.numel() and not (int(lengths.min()) >= 0 and int(lengths.max()) <= steps):
        raise InputError(f"lengths must be from 0 to T, {steps}; they are {lengths.tolist()}.")
    return lengths


def _contiguous_last(tensor: Tensor) -> Tensor:
    """Return the tensor if its last dimension is contiguous, whatever its other strides, or else a copy."""
    tensor = addressed(tensor)
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def _outputs(x: Tensor, width: int) -> Tensor:
    """Return an uninitialised [members, T, B, width] in the memory order of x."""
    *lead, steps, rows, _ = x.shape
    if x.stride(-2) > x.stride(-3):
        return empty((*lead, rows, steps, width), x.dtype).transpose(-2, -3)
    return empty((*lead, steps, rows, width), x.dtype)

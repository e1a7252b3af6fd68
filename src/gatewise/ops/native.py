"""The native engine behind the functional door.

Memory: the engine reads and writes addresses, so everything it may assume is made true here. Shapes, dtypes and devices
have been checked before (``checks``, ``support``). What cannot be checked, here as in torch, is another thread that
resizes or replaces a tensor's memory during the call.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gatewise import _native
from gatewise.machine import isa
from gatewise.ops.call import Call, Direction, Result, assembled, flat, grouped, named, rows_of, tensors
from gatewise.ops.checks import check_storage
from gatewise.ops.derivative import by_reference, check_unchanged, frees_graph, has_memory, keeps
from gatewise.ops.plain import reference
from gatewise.reference import Noise, State, Weights, over_time, traced_names
from gatewise.runtime.layers import described

TRACES = ("i", "f", "o", "g", "h", "c", "n", "m")
"""What a trace may hold, in the engine's order."""

# A wrong GATEWISE_ISA is told when the engine is first needed.
isa()


def forward(call: Call, out: Tensor | None) -> Result:
    """Run a layer, with its gradients if any are needed."""
    given = tensors(call)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given):
        y, states, traces = grouped(call, _Layer.apply(call, *given))
        return Result(y, [tuple(state) for state in states], traces)
    return _run(call, out, keep="nothing").result


class _Run(NamedTuple):
    """A result with what backward needs: of each direction what the engine kept."""

    result: Result
    tapes: list[Any]


class _Layer(torch.autograd.Function):
    """The layer and its gradient. A second derivative goes through the reference."""

    @staticmethod
    def forward(ctx: Any, call: Call, *given: Tensor) -> tuple[Tensor, ...]:
        call = call._replace(narrow=False)  # of a program that was exported for no gradient
        run = _run(call, None, keep=keeps(call.save))
        ctx.set_materialize_grads(False)
        # Without its tensors, which ctx must get through save_for_backward or not at all. The others are copied: the
        # caller may change them.
        lengths, reset = (None if tensor is None else dense(tensor).clone() for tensor in (call.lengths, call.reset))
        ctx.call = call._replace(x=None, directions=(), lengths=lengths, reset=reset)
        ctx.rows = rows_of(call)
        ctx.shapes = [run.result.y.shape, *(tensor.shape for tensor in given)]
        ctx.dtype = run.result.y.dtype
        ctx.tapes = run.tapes
        ctx.save_for_backward(run.result.y, *given)
        return tuple(flat(run.result))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        y, *given = ctx.saved_tensors
        wanted = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled() or not has_memory(gradients):

            def again(inputs: list[Tensor]) -> list[Tensor]:
                return flat(reference(assembled(inputs, ctx.rows, ctx.call), None))

            return None, *by_reference(again, given, wanted, gradients)
        check_unchanged([y, *given], ctx.shapes, ctx.dtype)
        call = assembled(given, ctx.rows, ctx.call)
        if None in ctx.tapes:
            run = _run(call._replace(trace=False), None, keep="all")
            y, ctx.tapes = run.result.y, run.tapes
        found = _backward(call, _rows(y), ctx.tapes, wanted, gradients)
        if frees_graph():
            ctx.tapes = ()
        return None, *found


def _run(call: Call, out: Tensor | None, keep: str) -> _Run:
    inputs = _Inputs(call)
    variant = call.variant
    width = variant.output_size(inputs.hidden)
    y = out if out is not None and _rows(out) is out else _outputs(inputs.x, width * len(call.directions))
    states: list[State] = []
    traces: list[dict[str, Tensor]] = []
    tapes: list[Any] = []
    sizes = over_time(call.x, call.directions[0].state, call.directions[0].weights, variant)
    names = traced_names(variant) if call.trace else ()
    run = _native.forward_double if call.x.dtype is torch.float64 else _native.forward
    if call.narrow and _native.multiplies_bfloat16():
        run = _native.forward_narrow
    for number, direction in enumerate(inputs.directions):
        final = tuple(torch.empty_like(part) for part in direction.state)
        trace = {name: call.x.new_empty(sizes[name]) for name in names}
        tape = run(
            inputs.layer,
            direction.weights,
            direction.reverse,
            inputs.numbers(y, number * width, direction),
            _addresses(direction.state),
            _addresses(direction.start),
            _addresses(final),
            _trace_addresses(trace),
            keep,
            torch.get_num_threads(),
        )
        tapes.append(tape)
        states.append(final)
        if call.trace:
            traces.append(trace)
    return _Run(Result(y if out is None or out is y else out.copy_(y), states, traces), tapes)


def _backward(
    call: Call, y: Tensor, tapes: Sequence[Any], wanted: Sequence[bool], gradients: Sequence[Tensor | None]
) -> list[Tensor | None]:
    inputs = _Inputs(call)
    width = call.variant.output_size(inputs.hidden)
    dy, dfinals, dtraces = grouped(call, gradients)
    dy = None if dy is None else _rows(dy)
    dx = _outputs(inputs.x, inputs.x.shape[2]) if wanted[0] else None
    found: list[Tensor | None] = [dx]
    at = 1
    for number, direction in enumerate(inputs.directions):
        dfinal = [None if part is None else dense(part) for part in dfinals[number]]
        dtrace = {n: None if part is None else dense(part) for n, part in (dtraces[number] if dtraces else {}).items()}
        own = [
            torch.zeros_like(tensor) if kind == "start" else torch.empty_like(tensor) if want else None
            for (kind, tensor), want in zip(direction.named, wanted[at:], strict=False)
        ]
        at += len(own)
        kinds = [kind for kind, _ in direction.named]
        _native.backward(
            inputs.layer,
            tapes[number],
            direction.weights,
            direction.reverse,
            inputs.numbers(y, number * width, direction),
            _addresses(direction.state),
            _addresses(direction.start),
            [*_series(dy, number * width), *_series(dx, 0), number],
            _addresses(dfinal),
            _trace_addresses(dtrace),
            _addresses([d for kind, d in zip(kinds, own, strict=True) if kind == "state"]),
            _addresses([d for kind, d in zip(kinds, own, strict=True) if kind == "start"]),
            _weight_addresses(dict(zip(kinds, own, strict=True))),
            torch.get_num_threads(),
        )
        found += own
    return found


class _Prepared(NamedTuple):
    """A direction with dense tensors, which must outlive the call that is given their addresses."""

    state: list[Tensor]
    start: list[Tensor]
    reverse: bool
    weights: list[int]
    noise: list[int]
    named: list[tuple[str, Tensor]]


class _Inputs:
    """A call's tensors as the engine reads them."""

    def __init__(self, call: Call):
        self.x = _rows(call.x)
        self.lengths = None if call.lengths is None else dense(call.lengths)
        self.reset = None if call.reset is None else dense(call.reset)
        self.directions = [_prepared(direction) for direction in call.directions]
        self.hidden = call.directions[0].weights.weight_ih.shape[0] // len(call.variant.cell.learned)
        has_bias = call.directions[0].weights.bias_ih is not None
        self.layer = described(call.variant.text, self.x.shape[2], self.hidden, has_bias)

    def numbers(self, y: Tensor, column: int, direction: _Prepared) -> list[int]:
        steps, rows, _ = self.x.shape
        lengths = 0 if self.lengths is None else self.lengths.data_ptr()
        reset = 0 if self.reset is None else self.reset.data_ptr()
        return [steps, rows, *_series(self.x, 0), *_series(y, column), lengths, reset, *direction.noise]


def _prepared(direction: Direction) -> _Prepared:
    pairs = [(name, dense(tensor)) for name, tensor in named(direction)]
    by_name = dict(pairs)
    return _Prepared(
        [tensor for name, tensor in pairs if name == "state"],
        [tensor for name, tensor in pairs if name == "start"],
        direction.reverse,
        _weight_addresses(by_name),
        [by_name[name].data_ptr() if name in by_name else 0 for name in Noise._fields],
        pairs,
    )


def _addresses(given: Sequence[Tensor | None]) -> list[int]:
    return [0 if tensor is None else tensor.data_ptr() for tensor in given]


def _trace_addresses(trace: Mapping[str, Tensor | None]) -> list[int]:
    return _addresses([trace.get(name) for name in TRACES]) if trace else []


def _weight_addresses(weights: Mapping[str, Tensor | None]) -> list[int]:
    return _addresses([weights.get(name) for name in Weights._fields])


def _series(tensor: Tensor | None, column: int) -> tuple[int, int, int]:
    """The address of a [T, B, ·] tensor's column, and its strides."""
    if tensor is None:
        return 0, 0, 0
    return tensor.data_ptr() + column * tensor.element_size(), tensor.stride(0), tensor.stride(1)


def _outputs(x: Tensor, width: int) -> Tensor:
    """Return an uninitialised [T, B, width] in the memory order of x, so that batch-major input gives the same."""
    steps, rows, _ = x.shape
    if x.stride(1) > x.stride(0):
        return empty((rows, steps, width), x.dtype).transpose(0, 1)
    return empty((steps, rows, width), x.dtype)


KEPT = 1 << 16
"""From how many elements on memory is the engine's: the system takes large pieces back and hands them out anew."""

_CPU = torch.device("cpu")


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return an uninitialised tensor, whatever torch's defaults are; torch cannot resize a large one."""
    count = math.prod(shape)
    if count < KEPT or torch.are_deterministic_algorithms_enabled():
        return torch.empty(shape, dtype=dtype, device=_CPU)
    if dtype is torch.float64:
        made = torch.from_numpy(_native.empty_double(count))
    elif dtype is torch.float32:
        made = torch.from_numpy(_native.empty(count))
    else:
        made = torch.from_numpy(_native.empty((count + 1) // 2)).view(dtype)[:count]
    # Else torch would take it for a view that was made without gradients, and refuse to change it in place.
    return made.view(shape).detach()


def _rows(tensor: Tensor) -> Tensor:
    """Return the tensor if its last dimension is contiguous, whatever its other strides, or else a copy."""
    tensor = addressed(tensor)
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def dense(tensor: Tensor) -> Tensor:
    """Return the tensor, or a copy of it, in one piece of memory that holds its values."""
    return addressed(tensor).contiguous()


def addressed(tensor: Tensor) -> Tensor:
    """Return a tensor whose memory exists and holds its values, at addresses that its dtype may have."""
    check_storage(tensor)
    if tensor.is_neg():
        tensor = tensor.resolve_neg()
    return tensor.clone() if tensor.data_ptr() % tensor.element_size() else tensor

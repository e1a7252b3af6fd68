"""The short way to the native engine: plain float32 tensors in an eager call, and nothing asked for but y and states.

The checks, the description of the call and the choice of a backend in ``layer`` take longer than a small call's
arithmetic. Here a module's layers are described once, each call checks only what may have changed, and all layers are
one node of the graph. A call that does not fit is not served, and takes the long way.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch._C import _functorch  # pyright: ignore[reportAttributeAccessIssue]
from torch.autograd import forward_ad
from torch.nn import Parameter

from gatewise import _native
from gatewise.errors import InputError
from gatewise.ops.call import Call, Direction
from gatewise.ops.derivative import by_reference, check_unchanged, frees_graph, has_memory, keeps
from gatewise.ops.native import dense, described, empty
from gatewise.ops.plain import reference
from gatewise.reference import State, Weights
from gatewise.spec import Variant

DIRECT = ("auto", "native")
"""The backends that this stands for."""

_FLOAT = 4


def undisturbed() -> bool:
    """Whether nothing is active that would have to see into native code."""
    return (
        not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._len_torch_function_stack() == 0
        and torch._C._get_tracing_state() is None
        and _functorch.peek_interpreter_stack() is None
        and forward_ad._current_level < 0
        and not torch._C._is_any_autocast_enabled()
    )


class Direct:
    """The layers of one module.

    Args:
        variant: the cell and its options.
        inputs: D.
        hidden: H.
        names: for each layer and direction the names of its parameters by their kind, layer by layer.
        directions: 1 or 2.
    """

    def __init__(
        self,
        variant: Variant,
        inputs: int,
        hidden: int,
        names: Sequence[Mapping[str, str]],
        directions: int,
    ):
        self._arguments = (variant, inputs, hidden, names, directions)
        self.variant = variant
        self.inputs = inputs
        self.directions = directions
        self.width = variant.output_size(hidden)
        self.sizes = list(variant.state_sizes(hidden).values())
        self.count = len(names)
        self.kinds = list(names[0])
        self.names: list[str] = []
        self.shapes: list[torch.Size] = []
        self.layers: list[Any] = []
        for number, named in enumerate(names):
            width = inputs if number < directions else self.width * directions
            self.layers.append(described(variant.text, width, hidden, variant.bias))
            shapes = variant.shapes(width, hidden)
            self.names += [named[kind] for kind in self.kinds]
            self.shapes += [torch.Size(shapes[kind]) for kind in self.kinds]
        self.places = [Weights._fields.index(kind) for kind in self.kinds]

    def __reduce__(self) -> tuple[Any, ...]:
        # What the engine was told is its own, and cannot be copied or pickled.
        return Direct, self._arguments

    def run(
        self, parameters: Mapping[str, Tensor | None], x: Tensor, hx: object, batch_first: bool, save: str
    ) -> tuple[Tensor, ...] | None:
        """Run the layers, or return None if the call does not fit.

        Args:
            parameters: the module's parameters by name.
            x: the inputs [T, B, D], or [B, T, D] with ``batch_first``.
            hx: the initial states, a tuple of [L·S, B, ·], or None for zeros.
            batch_first: whether the batch comes first.
            save: as for ``layer``.

        Returns:
            y laid out as x is, then the final states.
        """
        if not (hx is None or isinstance(hx, tuple)) or not undisturbed():
            return None
        try:
            weights = [parameters[name] for name in self.names]
        except KeyError:
            return None
        given = (x, *hx, *weights) if hx is not None else (x, *weights)
        if not self._fits(x, hx, weights, batch_first):
            return None
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given):  # pyright: ignore[reportOptionalMemberAccess] - they fit
            return _Stack.apply(self, batch_first, save, hx is not None, *given)
        return self.forward(x, hx, weights, batch_first, "nothing")[0]

    def _fits(self, x: Tensor, hx: State | None, weights: Sequence[Tensor | None], batch_first: bool) -> bool:
        if x.dim() != 3 or not _plain(x) or x.stride(2) != 1:
            return False
        first, second, inputs = x.shape
        last = x.storage_offset() + (first - 1) * x.stride(0) + (second - 1) * x.stride(1) + inputs
        if not (first and second) or inputs != self.inputs or last * _FLOAT > x.untyped_storage().nbytes():
            return False
        shapes = [(self.count, first if batch_first else second, size) for size in self.sizes]
        return _match(weights, self.shapes) and (hx is None or _match(hx, shapes))

    def forward(
        self, x: Tensor, hx: Sequence[Tensor] | None, weights: Sequence[Any], batch_first: bool, keep: str
    ) -> tuple[tuple[Tensor, ...], list[Tensor], list[Any]]:
        """Return y and the final states; the outputs of every layer; and what the engine kept."""
        first, second, _ = x.shape
        rows = first if batch_first else second
        final = [empty((self.count, rows, size)) for size in self.sizes]
        outputs: list[Tensor] = []
        tapes: list[Any] = []
        threads = torch.get_num_threads()
        for number, layer in enumerate(self.layers):
            side = number % self.directions
            if not side:
                outputs.append(empty((first, second, self.width * self.directions)))
            tapes.append(
                _native.forward(
                    layer,
                    self._weights(weights, number),
                    bool(side),
                    _call(outputs[-2] if len(outputs) > 1 else x, outputs[-1], side * self.width, batch_first),
                    _states(hx, number),
                    [],
                    _states(final, number),
                    [],
                    keep,
                    threads,
                )
            )
        return (outputs[-1], *final), outputs, tapes

    def _weights(self, weights: Sequence[Any], number: int) -> list[int]:
        addresses = [0] * len(Weights._fields)
        start = number * len(self.kinds)
        for offset, place in enumerate(self.places):
            weight = weights[start + offset]
            addresses[place] = 0 if weight is None else weight.data_ptr()
        return addresses

    def backward(
        self, ctx: Any, y: Tensor, given: Sequence[Tensor], gradients: Sequence[Tensor | None]
    ) -> tuple[Tensor | None, list[Tensor | None], list[Tensor | None]]:
        """Return the gradients of x, of the initial states and of the weights; None where none is wanted."""
        x, hx, weights = _parted(ctx, given)
        if not self._fits(x, cast("State | None", hx), weights, ctx.batch_first):
            raise InputError("a tensor that backward needs has changed its memory since the forward call.")
        batch_first, outputs = ctx.batch_first, [*ctx.inner, dense(y)]
        if None in ctx.tapes:
            _, outputs, ctx.tapes = self.forward(x, hx, weights, batch_first, "all")
        wants_x, wants_states, wants_weights = _wanted(ctx)
        dy = None if gradients[0] is None else dense(gradients[0])
        dfinal = [None if part is None else dense(part) for part in gradients[1:]]
        dweights = [empty(w.shape) if want else None for w, want in zip(weights, wants_weights, strict=True)]
        dstates = [empty(s.shape) if want else None for s, want in zip(hx or (), wants_states, strict=True)]
        threads = torch.get_num_threads()
        dx: Tensor | None = None
        for number in reversed(range(self.count)):
            side = number % self.directions
            below = number // self.directions - 1
            fed = x if below < 0 else outputs[below]
            here = outputs[below + 1]
            # The backward direction comes first here, and the forward one adds to what it wrote.
            adds = self.directions == 2 and not side
            if not adds and (below >= 0 or wants_x):
                dx = empty(fed.shape)
            _native.backward(
                self.layers[number],
                ctx.tapes[number],
                self._weights(weights, number),
                bool(side),
                _call(fed, here, side * self.width, batch_first),
                _states(hx, number),
                [],
                [*_series(dy, side * self.width, batch_first), *_series(dx, 0, batch_first), adds],
                _states(dfinal, number),
                [],
                _states(dstates, number),
                [],
                self._weights(dweights, number),
                threads,
            )
            if not side:
                dy, dx = dx, None
        return dy if wants_x else None, dstates, dweights


class _Stack(torch.autograd.Function):
    """All layers as one node. A second derivative goes through the reference."""

    @staticmethod
    def forward(
        ctx: Any, direct: Direct, batch_first: bool, save: str, given_state: bool, *given: Tensor
    ) -> tuple[Tensor, ...]:
        start = 1 + (len(direct.sizes) if given_state else 0)
        ctx.direct, ctx.batch_first, ctx.start = direct, batch_first, start
        ctx.set_materialize_grads(False)
        hx = given[1:start] if given_state else None
        results, outputs, ctx.tapes = direct.forward(given[0], hx, given[start:], batch_first, keeps(save))
        # The last output is the caller's, who may change it: it is saved as such, so that autograd watches it.
        ctx.inner = outputs[:-1] if None not in ctx.tapes else ()
        ctx.shapes = [outputs[-1].shape, *(tensor.shape for tensor in given)]
        ctx.save_for_backward(outputs[-1], *given)
        return results

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        y, *given = ctx.saved_tensors
        if torch.is_grad_enabled() or not has_memory(gradients):
            wanted = ctx.needs_input_grad[4:]
            return None, None, None, None, *by_reference(partial(_by_reference, ctx), given, wanted, gradients)
        check_unchanged([y, *given], ctx.shapes)
        dx, dstates, dweights = ctx.direct.backward(ctx, y, given, gradients)
        if frees_graph():
            ctx.tapes = ctx.inner = ()
        return None, None, None, None, dx, *dstates, *dweights


def _parted(ctx: Any, given: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor] | None, Sequence[Tensor]]:
    """x, the initial states or None, and the weights."""
    return given[0], given[1 : ctx.start] if ctx.start > 1 else None, given[ctx.start :]


def _wanted(ctx: Any) -> tuple[bool, tuple[bool, ...], tuple[bool, ...]]:
    wanted = ctx.needs_input_grad[4:]
    return wanted[0], wanted[1 : ctx.start], wanted[ctx.start :]


def _by_reference(ctx: Any, given: list[Tensor]) -> list[Tensor]:
    """What the layers compute, by the reference."""
    direct: Direct = ctx.direct
    x, hx, weights = _parted(ctx, given)
    y = x.transpose(0, 1) if ctx.batch_first else x
    final: list[State] = []
    for first in range(0, direct.count, direct.directions):
        directions: list[Direction] = []
        for number in range(first, first + direct.directions):
            own = weights[number * len(direct.kinds) : (number + 1) * len(direct.kinds)]
            state = tuple(y.new_zeros((y.shape[1], size)) for size in direct.sizes)
            if hx is not None:
                state = tuple(part[number] for part in hx)
            named = Weights(**dict(zip(direct.kinds, own, strict=True)))
            directions.append(Direction(state, named, number % direct.directions == 1))
        result = reference(Call(y, directions, direct.variant), None)
        y = result.y
        final += result.states
    y = y.transpose(0, 1) if ctx.batch_first else y
    return [y, *(torch.stack(parts) for parts in zip(*final, strict=True))]


def _plain(tensor: Any) -> bool:
    kind = type(tensor)
    return (
        (kind is Tensor or kind is Parameter)
        and tensor.dtype is torch.float32
        and tensor.is_cpu
        and tensor.layout is torch.strided
        and not tensor.is_nested
        and not tensor.is_neg()
        and tensor.data_ptr() % _FLOAT == 0
        and tensor.data_ptr() != 0
    )


def _match(tensors: Sequence[Tensor | None], shapes: Sequence[Sequence[int]]) -> bool:
    """Whether tensors are what the engine reads as it is, and have these shapes."""
    if len(tensors) != len(shapes):
        return False
    for tensor, shape in zip(tensors, shapes, strict=True):
        if tensor is None or not (_plain(tensor) and tensor.shape == shape and _dense(tensor)):
            return False
    return True


def _dense(tensor: Tensor) -> bool:
    """Whether a tensor lies in one piece within its storage."""
    end = (tensor.storage_offset() + tensor.numel()) * _FLOAT
    return tensor.is_contiguous() and end <= tensor.untyped_storage().nbytes()


def _call(x: Tensor, y: Tensor, column: int, batch_first: bool) -> list[int]:
    first, second, _ = x.shape
    sizes = (second, first) if batch_first else (first, second)
    return [*sizes, *_series(x, 0, batch_first), *_series(y, column, batch_first), 0, 0, 0, 0, 0]


def _series(tensor: Tensor | None, column: int, batch_first: bool) -> tuple[int, int, int]:
    """The address of a column, and the strides of time and rows."""
    if tensor is None:
        return 0, 0, 0
    a, b, _ = tensor.stride()
    return (tensor.data_ptr() + column * _FLOAT, b, a) if batch_first else (tensor.data_ptr() + column * _FLOAT, a, b)


def _states(parts: Sequence[Tensor | None] | None, number: int) -> list[int]:
    """The addresses of one layer and direction's part of tensors [L·S, B, ·]."""
    if parts is None:
        return []
    return [0 if part is None else part.data_ptr() + number * part.stride(0) * _FLOAT for part in parts]

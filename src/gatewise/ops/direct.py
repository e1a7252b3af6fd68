"""The short way to the native engine: plain tensors in an eager call, and nothing asked for but y and states.

The checks, the description of the call and the choice of a backend in ``layer`` take longer than a small call's
arithmetic. Here a module's layers are described once, the core itself reads torch's tensors and checks what may have
changed, and all layers are one node of the graph. A call that does not fit is not served, and takes the long way. All
calls do with a torch before 2.10, whose tensors cannot be read without Python.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C import (
    _functorch,  # pyright: ignore[reportAttributeAccessIssue]
    _get_tracing_state,
    _is_any_autocast_enabled,
    _len_torch_dispatch_stack,
    _len_torch_function_stack,
)
from torch.autograd import forward_ad
from torch.nn import Parameter

from gatewise import _native
from gatewise.errors import InputError
from gatewise.ops.call import Call, Direction
from gatewise.ops.derivative import by_reference, frees_graph, has_memory, keeps
from gatewise.ops.native import KEPT, dense, empty
from gatewise.ops.plain import reference
from gatewise.reference import State, Weights
from gatewise.runtime.layers import described
from gatewise.spec import Variant

DIRECT = ("auto", "native")
"""The backends that this stands for."""

_SAVES = ("all", "states")


def _dense(tensor: Tensor) -> Tensor:
    """The same as a dense tensor, and no more than that: a gradient may be of any class."""
    with torch._C.DisableTorchFunctionSubclass():
        return dense(tensor.as_subclass(Tensor))


_TORCH = _native.torch(
    getattr(Tensor, "__dlpack_c_exchange_api__", None), (Tensor, Parameter), KEPT, empty, torch.bfloat16, _dense
)


def undisturbed() -> bool:
    """Whether nothing is active that would have to see into native code, or to change dtypes."""
    return _unseen() and not _is_any_autocast_enabled()


def _unseen() -> bool:
    """The same but for autocast, which the engine can follow."""
    return (
        not torch.compiler.is_compiling()
        and _len_torch_dispatch_stack() == 0
        and _len_torch_function_stack() == 0
        and _get_tracing_state() is None
        and _functorch.peek_interpreter_stack() is None
        and forward_ad._current_level < 0
    )


def _to_bfloat16() -> bool:
    """Whether autocast, which is active, asks for bfloat16 here."""
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is torch.bfloat16


class Direct:
    """The layers of one module.

    Args:
        variant: the cell and its options.
        inputs: D.
        hidden: H.
        names: for each layer and direction the names of its parameters by their kind, layer by layer.
        directions: 1 or 2; or 0 for a single layer that is stepped: [B, D] and states [B, ·] in, states out.
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
        self.kinds = list(names[0])
        self.steps = not directions
        self.directions = directions or 1
        self.count = len(names)
        self.sizes = list(variant.state_sizes(hidden).values())
        self.stack: Any = None if _TORCH is None else self._stack(_TORCH, inputs, hidden, names)

    def __reduce__(self) -> tuple[Any, ...]:
        # What the engine was told is its own, and cannot be copied or pickled.
        return Direct, self._arguments

    def _stack(self, reader: Any, inputs: int, hidden: int, names: Sequence[Mapping[str, str]]) -> Any:
        variant = self.variant
        above = variant.output_size(hidden) * self.directions
        widths = [inputs if number < self.directions else above for number in range(self.count)]
        shapes = [variant.shapes(width, hidden) for width in widths]
        return _native.Stack(
            reader,
            [described(variant.text, width, hidden, variant.bias) for width in widths],
            self.directions,
            self.steps,
            [Weights._fields.index(kind) for kind in self.kinds],
            tuple(named[kind] for named in names for kind in self.kinds),
            [own[kind] for own in shapes for kind in self.kinds],
        )

    def run(
        self,
        parameters: Mapping[str, Tensor | None],
        x: Tensor,
        hx: object,
        batch_first: bool,
        save: str,
        *,
        lengths: object = None,
        reset: object = None,
    ) -> tuple[Tensor, ...] | None:
        """Run the layers, or return None if the call does not fit.

        Args:
            parameters: the module's parameters by name.
            x: the inputs [T, B, D], or [B, T, D] with ``batch_first``.
            hx: the initial states, a tuple of [L·S, B, ·], or None for zeros.
            batch_first: whether the batch comes first.
            save: as for ``layer``.
            lengths: as for ``layer``.
            reset: as for ``layer``, laid out as x is.

        Returns:
            y laid out as x is, then the final states; of a step only these.
        """
        autocast = _is_any_autocast_enabled()
        if not _unseen() or self.stack is None or save not in _SAVES or (autocast and not _to_bfloat16()):
            return None
        stack, batch_first = self.stack, bool(batch_first)
        pieces = None
        if lengths is not None or reset is not None:
            pieces = stack.cut(lengths, reset, batch_first)
            if pieces is None:
                return None
        if not torch.is_grad_enabled():
            return stack.infer(parameters, x, hx, batch_first, pieces, autocast, torch.get_num_threads())
        found = stack.gather(parameters, x, hx, batch_first, pieces, autocast)
        # Where hooks look after what is saved, the long way knows how to do without what they do not see.
        if found is None or (found[1] and keeps(save) != save):
            return None
        given, gradient = found
        if not gradient:
            return stack.forward(given, batch_first, pieces, autocast, "nothing", torch.get_num_threads())[0]
        return _apply(_Cut(self, batch_first, pieces, _copied(lengths), _copied(reset)), save, *given)


class _Cut(NamedTuple):
    """What a call is besides its tensors, with copies of lengths and resets in both forms."""

    direct: Direct
    batch_first: bool
    pieces: Any
    lengths: Tensor | None
    reset: Tensor | None


def _copied(tensor: Any) -> Tensor | None:
    return None if tensor is None else tensor.clone()


class _Stack(torch.autograd.Function):
    """All layers as one node. A second derivative goes through the reference."""

    @staticmethod
    def forward(ctx: Any, cut: _Cut, save: str, *given: Tensor) -> tuple[Tensor, ...]:
        direct, batch_first, pieces, _, _ = cut
        results, ctx.kept = direct.stack.forward(given, batch_first, pieces, False, save, torch.get_num_threads())
        ctx.cut = cut
        ctx.set_materialize_grads(False)
        # The outputs are the caller's, who may change them: they are saved as such, so that autograd watches them.
        ctx.save_for_backward(results[0], *given)
        return results

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        saved, wanted = ctx.saved_tensors, ctx.needs_input_grad
        if torch.is_grad_enabled() or not has_memory(gradients):
            return None, None, *by_reference(partial(_by_reference, ctx.cut), saved[1:], wanted[2:], gradients)
        found = ctx.cut.direct.stack.backward(ctx.kept, saved, wanted, gradients, torch.get_num_threads())
        if found is None:
            raise InputError(
                "a gradient cannot be read, or a tensor that backward needs has changed its shape or its memory since "
                "the forward call."
            )
        if frees_graph():
            ctx.kept = None
        return found


# Without a tenth of the node's time, in which torch looks for what ``run`` has not found.
_apply = super(torch.autograd.Function, _Stack).apply  # pyright: ignore[reportAttributeAccessIssue]


def _by_reference(cut: _Cut, given: Sequence[Tensor]) -> list[Tensor]:
    """What the layers compute, by the reference."""
    direct, batch_first, _, lengths, reset = cut
    count = direct.count * len(direct.kinds)
    x, *hx = given[:-count]
    weights = given[-count:]
    if direct.steps:
        x, hx = x.unsqueeze(0), [part.unsqueeze(0) for part in hx]
    y = x.transpose(0, 1) if batch_first else x
    reset = reset.transpose(0, 1) if reset is not None and batch_first else reset
    final: list[State] = []
    for first in range(0, direct.count, direct.directions):
        directions: list[Direction] = []
        for number in range(first, first + direct.directions):
            own = weights[number * len(direct.kinds) : (number + 1) * len(direct.kinds)]
            state = tuple(part[number] for part in hx) or tuple(y.new_zeros(y.shape[1], n) for n in direct.sizes)
            named = Weights(**dict(zip(direct.kinds, own, strict=True)))
            directions.append(Direction(state, named, number % direct.directions == 1))
        result = reference(Call(y, directions, direct.variant, lengths, reset), None)
        y = result.y
        final += result.states
    if direct.steps:
        return list(final[0])
    y = y.transpose(0, 1) if batch_first else y
    return [y, *(torch.stack(parts) for parts in zip(*final, strict=True))]

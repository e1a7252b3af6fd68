"""The functional door: one recurrent layer, in one direction or both.

Equations: ``gatewise.spec.equations``. Everything is time-major; a batch-major tensor comes as its transposed view,
which costs no copy.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._C import _functorch  # pyright: ignore[reportAttributeAccessIssue]
from torch.autograd import forward_ad

from gatewise.errors import InputError
from gatewise.ops.call import Call, Direction, Result, converted, rounded, tensors
from gatewise.ops.checks import check_call, check_save, check_tensor, checked_lengths
from gatewise.ops.plain import reference
from gatewise.ops.serve import serve
from gatewise.ops.support import OBSTACLES, Choice, check_backend, choose, obstacles
from gatewise.ops.traced import traced
from gatewise.reference import State, Weights
from gatewise.spec import Variant


def layer(
    x: Tensor,
    directions: Sequence[Direction],
    variant: Variant = Variant(),  # noqa: B008 - frozen
    *,
    lengths: Tensor | Sequence[int] | None = None,
    reset: Tensor | None = None,
    trace: bool = False,
    save: str = "all",
    backend: str = "auto",
    out: Tensor | None = None,
) -> Result:
    """Run one recurrent layer.

    Args:
        x: the inputs [T, B, D], any strides; no copy is made if the last dimension is contiguous. T and B may be 0.
        directions: initial states and weights of the one direction or the two, forward before backward.
        variant: the cell and its options (``gatewise.spec.variant``); the vanilla LSTM by default.
        lengths: how many steps of each row count [B], 0 to T in any order, or None for all. Past a row's end the
            output is zero; its final state is that of its own last step, and a backward direction starts there.
        reset: bool [T, B], true where a row restarts before the step, in place of the state it has, or None. In a
            backward direction each piece between restarts runs alone as well.
        trace: whether to return all gates and states over time.
        save: what the native engine keeps for backward: "all" it needs, or "states" to keep the states only and
            compute the gates again, which takes less memory and more time and gives the same bits.
        backend: a name from ``BACKENDS``, or "auto" for the first of them that can serve.
        out: where to write y, of the dtype that y has; must share memory with no argument. Not when a gradient is
            needed.

    Returns:
        The outputs of the directions side by side, their final states, their traces.

    Under autocast all is computed in float32 and returned in autocast's dtype; the native engine does the same with
    float16 and bfloat16, whose results and gradients are rounded once. Where the processor multiplies bfloat16
    (``gatewise.engine().bfloat16``) and nobody wants a gradient when the layer is called, or when a program is
    exported, what enters a product is rounded to it first; sums and states stay float32. Transforms compute in float32.

    Raises:
        ShapeError: a shape or device does not fit (also a RuntimeError, as in torch).
        InputError: a dtype or a length does not fit, or the backend cannot serve the call.

    Example:
        >>> import torch
        >>> from gatewise.ops import Direction, Weights, layer
        >>> from gatewise.spec import variant
        >>> cell = variant("cifg")
        >>> weights = Weights(**{name: torch.randn(shape) for name, shape in cell.shapes(3, 4).items()})
        >>> zeros = torch.zeros(2, 4)
        >>> result = layer(torch.randn(5, 2, 3), [Direction((zeros, zeros), weights)], cell, lengths=[5, 2])
        >>> result.y.shape, bool((result.y[1, 1] == result.states[0][0][1]).all())
        (torch.Size([5, 2, 4]), True)
    """
    call, autocast = _checked(Call(x, directions, variant, None, reset, trace, save), lengths, out)
    call = call._replace(narrow=(autocast or x.dtype) == torch.bfloat16 and not _differentiated(call))
    if autocast is None:
        return _run(call, backend, out)
    with torch.autocast(x.device.type, enabled=False):
        wide = None if out is None else torch.empty_like(out, dtype=torch.float32)
        return rounded(_run(converted(call, torch.float32), backend, wide), autocast, out)


def lstm(
    x: Tensor,
    state: State,
    weights: Weights,
    variant: Variant = Variant(),  # noqa: B008 - frozen
    *,
    reverse: bool = False,
    lengths: Tensor | Sequence[int] | None = None,
    reset: Tensor | None = None,
    save: str = "all",
    backend: str = "auto",
    out: Tensor | None = None,
) -> tuple[Tensor, State]:
    """Run one layer in one direction: ``layer`` for those who want y and the final state only.

    Args:
        x: the inputs [T, B, D].
        state: the initial states of the cell, h and c for most, each [B, ·].
        weights: the parameters, shaped as ``variant.shapes(D, H)`` says.
        variant: the cell and its options; the vanilla LSTM by default.
        reverse: whether to go from the last time step to the first. Outputs keep their time.
        lengths: as for ``layer``.
        reset: as for ``layer``.
        save: as for ``layer``.
        backend: as for ``layer``.
        out: as for ``layer``.

    Returns:
        y [T, B, ·] (in the memory order of x), and the final states.

    Example:
        >>> import torch
        >>> from gatewise.ops import Weights, lstm
        >>> state = (torch.zeros(2, 4), torch.zeros(2, 4))
        >>> y, (h, c) = lstm(torch.randn(5, 2, 3), state, Weights(torch.randn(16, 3), torch.randn(16, 4)))
        >>> y.shape, bool((y[-1] == h).all())
        (torch.Size([5, 2, 4]), True)
    """
    directions = [Direction(state, weights, reverse)]
    result = layer(x, directions, variant, lengths=lengths, reset=reset, save=save, backend=backend, out=out)
    return result.y, result.states[0]


def explain(
    x: Tensor,
    directions: Sequence[Direction],
    variant: Variant = Variant(),  # noqa: B008 - frozen
    *,
    lengths: Tensor | Sequence[int] | None = None,
    reset: Tensor | None = None,
    trace: bool = False,
    backend: str = "auto",
) -> Choice:
    """Tell which backend ``layer`` would use for this call, and why; raises what ``layer`` would raise."""
    call, autocast = _checked(Call(x, directions, variant, None, reset, trace), lengths, None)
    if autocast is None:
        return choose(backend, x, obstacles(call))
    with torch.autocast(x.device.type, enabled=False):
        call = converted(call, torch.float32)
        return choose(backend, call.x, obstacles(call))


def _checked(call: Call, lengths: Tensor | Sequence[int] | None, out: Tensor | None) -> tuple[Call, torch.dtype | None]:
    """Return a call with its lengths, all as the backends expect it, and what autocast returns; None without it."""
    check_tensor("x", call.x)
    check_save(call.save)
    if lengths is not None:
        call = call._replace(lengths=checked_lengths(lengths, call.x))
    autocast = torch.get_autocast_dtype(call.x.device.type) if _casts(call) else None
    check_call(call, out, autocast=autocast)
    return call, autocast


def _run(call: Call, backend: str, out: Tensor | None) -> Result:
    check_backend(backend)
    if not torch.compiler.is_compiling():
        return serve(call, backend, out)
    if not _transformed():
        result = traced(call, backend)
        return result if out is None else result._replace(y=out.copy_(result.y))
    # The transforms would not see into the operator; they follow the reference, step by step.
    if backend not in {"auto", "reference"}:
        raise InputError(f"backend {backend!r} cannot serve this call: {OBSTACLES['transform']}.")
    return reference(call, out)


@torch.compiler.assume_constant_result
def _transformed() -> bool:
    """Whether a transform of torch.func or forward mode is active; the compiler guards what this looks at."""
    return _functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def _casts(call: Call) -> bool:
    """Whether autocast is on, for tensors that it would touch."""
    device = call.x.device.type
    if not torch._C._is_any_autocast_enabled():
        return False
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return False
    return all(tensor.dtype in _CASTABLE for tensor in tensors(call))


def _differentiated(call: Call) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors(call))


_CASTABLE = (torch.float16, torch.bfloat16, torch.float32)

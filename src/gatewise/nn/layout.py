"""From the layouts that users have to the time-major one in which layers run, and back."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from gatewise.errors import InputError
from gatewise.nn import states
from gatewise.reference import State
from gatewise.spec import Cell, check_flag

Lengths = Tensor | Sequence[int] | None
Trace = list[dict[str, Tensor]]

Run = Callable[[Tensor, State | None, Lengths, Tensor | None, bool], tuple[Tensor, list[Tensor], Trace]]
"""All layers, time-major: x, initial state, lengths, resets, whether to trace; returns y, final state, traces."""


def laid_out(
    run: Run,
    input: Tensor,
    hx: object,
    cell: Cell,
    state: Callable[..., Any],
    *,
    batched: bool,
    batch_first: bool,
    lengths: Lengths,
    reset: Tensor | None,
    trace: bool,
) -> tuple[Any, ...]:
    """Run layers on what a user gave, and return what the user is promised.

    Args:
        run: the layers.
        input: [T, B, …], [B, T, …] with ``batch_first``, or [T, …] for a single sequence.
        hx: the initial state as the user gave it.
        cell: the cell.
        state: the named tuple of its states.
        batched: whether the input is a batch.
        batch_first: whether the batch comes first.
        lengths: the lengths of the rows.
        reset: where rows restart, laid out as the input is.
        trace: whether to return all gates and states.

    Returns:
        The outputs laid out as the input is, the final state, and with ``trace`` the traces.
    """
    check_flag("trace", trace)
    hx = states.parts(hx, cell)
    if not batched:
        if lengths is not None:
            raise InputError("lengths is for batches; cut a single sequence to its length instead.")
        x, hx = input.unsqueeze(1), states.unsqueezed(hx, cell, input.dim())
    else:
        x = input.transpose(0, 1) if batch_first else input
    if reset is not None:
        reset = states.time_major(reset, input.shape[: 2 if batched else 1], batch_first)
    y, final, traces = run(x, hx, lengths, reset, trace)

    def restore(tensor: Tensor) -> Tensor:
        return tensor.squeeze(1) if not batched else tensor.transpose(0, 1) if batch_first else tensor

    output = restore(y), state(*(part if batched else part.squeeze(1) for part in final))
    if not trace:
        return output
    return *output, [{name: restore(value) for name, value in values.items()} for values in traces]

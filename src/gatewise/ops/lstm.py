"""The LSTM layer as a function.

Equations: ``gatewise.spec.LSTM``. Everything is time-major; a batch-major tensor comes as its transposed view, which
costs no copy.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gatewise.ops import native
from gatewise.ops.call import Direction, Layer, tensors
from gatewise.ops.checks import check_layer
from gatewise.ops.support import Choice, choose, obstacles
from gatewise.reference import State, Weights, scan


def lstm(
    x: Tensor,
    state: State,
    weights: Weights,
    *,
    reverse: bool = False,
    backend: str = "auto",
    out: Tensor | None = None,
) -> tuple[Tensor, State]:
    """Run one LSTM layer in one direction.

    Args:
        x: the inputs [T, B, D], any strides; no copy is made if the last dimension is contiguous. T and B may be 0.
        state: the initial h and c [B, H].
        weights: w_ih [4H, D], w_hh [4H, H] and, both or neither, b_ih and b_hh [4H].
        reverse: whether to go from the last time step to the first. Outputs keep their time.
        backend: "native", "torch", "reference", or "auto" for the first of them that can serve.
        out: where to write y [T, B, H]; must share memory with no argument. Not when a gradient is needed.

    Returns:
        y [T, B, H] (in the memory order of x), and the final (h, c) [B, H].

    Raises:
        ShapeError: a shape or device does not fit (also a RuntimeError, as in torch).
        InputError: a dtype does not fit, or the backend cannot serve the call.

    Example:
        >>> import torch
        >>> from gatewise.ops import Weights, lstm
        >>> state = (torch.zeros(2, 4), torch.zeros(2, 4))
        >>> y, (h, c) = lstm(torch.randn(5, 2, 3), state, Weights(torch.randn(16, 3), torch.randn(16, 4)))
        >>> y.shape, bool((y[-1] == h).all())
        (torch.Size([5, 2, 4]), True)
    """
    y, (final,) = _run(x, [Direction(state, weights, reverse)], backend, out)
    return y, final


def bilstm(
    x: Tensor,
    states: tuple[State, State],
    weights: tuple[Weights, Weights],
    *,
    backend: str = "auto",
    out: Tensor | None = None,
) -> tuple[Tensor, tuple[State, State]]:
    """Run one LSTM layer in both directions.

    Args are those of ``lstm``, with a pair of states and weights: forward in time, then backward. y is [T, B, 2H],
    the outputs of the two directions side by side.
    """
    directions = [Direction(states[0], weights[0], False), Direction(states[1], weights[1], True)]
    y, (forward, backward) = _run(x, directions, backend, out)
    return y, (forward, backward)


def explain(x: Tensor, state: State, weights: Weights, *, backend: str = "auto") -> Choice:
    """Tell which backend ``lstm`` would use for this call, and why; raises what ``lstm`` would raise."""
    directions = [Direction(state, weights, False)]
    check_layer(x, directions, None)
    return choose(backend, x, obstacles(tensors(x, directions), steps=x.shape[0]))


def _run(x: Tensor, directions: Sequence[Direction], backend: str, out: Tensor | None) -> Layer:
    check_layer(x, directions, out)
    found = obstacles(tensors(x, directions), steps=x.shape[0], out=out is not None)
    return _SERVE[choose(backend, x, found).backend](x, directions, out)


def _torch(x: Tensor, directions: Sequence[Direction], out: Tensor | None) -> Layer:
    # torch knows one direction, forward, or both: a single backward one is a forward one on flipped time.
    flipped = len(directions) == 1 and directions[0].reverse
    h0, c0 = (torch.stack(parts) for parts in zip(*(d.state for d in directions), strict=True))
    flat = [w for d in directions for w in d.weights if w is not None]
    bias = directions[0].weights.b_ih is not None
    y, h, c = torch.lstm(x.flip(0) if flipped else x, (h0, c0), flat, bias, 1, 0.0, False, len(directions) == 2, False)
    return _written(y.flip(0) if flipped else y, out), list(zip(h.unbind(), c.unbind(), strict=True))


def _reference(x: Tensor, directions: Sequence[Direction], out: Tensor | None) -> Layer:
    runs = [scan(x, state, weights, reverse=reverse) for state, weights, reverse in directions]
    return _written(torch.cat([y for y, _ in runs], dim=-1), out), [final for _, final in runs]


def _written(y: Tensor, out: Tensor | None) -> Tensor:
    return y if out is None else out.copy_(y)


_SERVE: dict[str, Callable[[Tensor, Sequence[Direction], Tensor | None], Layer]] = {
    "native": native.forward,
    "torch": _torch,
    "reference": _reference,
}

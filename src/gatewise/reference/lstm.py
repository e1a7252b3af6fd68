"""The vanilla LSTM (Gers et al. 2000), one step and a whole sequence.

Equations and gate order: ``gatewise.spec.LSTM``. Differentiable any number of times, in both modes, and under vmap.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor
from torch.nn.functional import linear

from gatewise.spec import LSTM, Squash

SQUASH: Mapping[Squash, Callable[[Tensor], Tensor]] = MappingProxyType({"sigmoid": torch.sigmoid, "tanh": torch.tanh})


class Weights(NamedTuple):
    """The weights of one layer and direction.

    Shapes: ``w_ih`` [4H, D], ``w_hh`` [4H, H], ``b_ih`` and ``b_hh`` [4H], both or neither. Rows are in the order of
    ``gatewise.spec.LSTM.gates``.
    """

    w_ih: Tensor
    w_hh: Tensor
    b_ih: Tensor | None = None
    b_hh: Tensor | None = None


State = tuple[Tensor, Tensor]
"""(h, c), each [B, H]."""


def step(x: Tensor, state: State, weights: Weights) -> tuple[State, dict[str, Tensor]]:
    """Compute one step.

    Args:
        x: the input [B, D].
        state: h and c [B, H] of the step before.
        weights: the layer's weights.

    Returns:
        The new (h, c), and the gate activations [B, H] by name.
    """
    h, c = state
    pre = linear(x, weights.w_ih, weights.b_ih) + linear(h, weights.w_hh, weights.b_hh)
    hidden = h.shape[-1]
    gates = {gate.name: SQUASH[gate.squash](pre[..., LSTM.rows(gate.name, hidden)]) for gate in LSTM.gates}
    c = gates["f"] * c + gates["i"] * gates["g"]
    h = gates["o"] * SQUASH[LSTM.output_squash](c)
    return (h, c), gates


@overload
def scan(
    x: Tensor, state: State, weights: Weights, *, reverse: bool = False, trace: Literal[False] = False
) -> tuple[Tensor, State]: ...
@overload
def scan(
    x: Tensor, state: State, weights: Weights, *, reverse: bool = False, trace: Literal[True]
) -> tuple[Tensor, State, dict[str, Tensor]]: ...
def scan(
    x: Tensor, state: State, weights: Weights, *, reverse: bool = False, trace: bool = False
) -> tuple[Tensor, State] | tuple[Tensor, State, dict[str, Tensor]]:
    """Run the cell over a sequence.

    Args:
        x: the inputs [T, B, D]; T may be 0, then the outputs are empty and the state comes back.
        state: the initial h and c [B, H].
        weights: the layer's weights.
        reverse: whether to go from the last time step to the first. Outputs keep their time: y[t] belongs to x[t].
        trace: whether to return everything the cell computed as well.

    Returns:
        y [T, B, H] and the final (h, c) [B, H]. With ``trace``, also a mapping from each gate's name (activations,
        after squashing) and each state's name to its values over time [T, B, H].
    """
    times = range(x.shape[0])
    steps: list[dict[str, Tensor]] = []
    for t in reversed(times) if reverse else times:
        state, gates = step(x[t], state, weights)
        steps.append(gates | dict(zip(LSTM.states, state, strict=True)))
    if reverse:
        steps.reverse()
    empty = x.new_empty((0, *state[0].shape))
    history = {
        name: torch.stack([values[name] for values in steps]) if steps else empty
        for name in (*LSTM.gate_names, *LSTM.states)
        if trace or name == LSTM.states[0]
    }
    y = history[LSTM.states[0]]
    return (y, state, history) if trace else (y, state)

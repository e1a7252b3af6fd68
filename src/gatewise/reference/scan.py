"""A whole sequence, step by step: padding, resets, masks, both directions of time."""

from typing import NamedTuple

import torch
from torch import Tensor

from gatewise.reference.cell import State, Values, Weights, step
from gatewise.spec import Variant


class Noise(NamedTuple):
    """The masks of one layer and direction, given as data so that every engine computes the same.

    Attributes:
        recurrent: what h₋ is multiplied by where it enters U h₋, one mask for the whole sequence [B, R].
        h: M in h = h₋ + M ⊙ (h̃ − h₋), for each step [T, B, R]; zoneout (Krueger et al. 2017).
        c: the same for c [T, B, H].
    """

    recurrent: Tensor | None = None
    h: Tensor | None = None
    c: Tensor | None = None


class Scan(NamedTuple):
    """What a scan returns: outputs [T, B, ·], final states, and the trace by name, each [T, B, ·]."""

    y: Tensor
    state: State
    trace: Values


def scan(
    x: Tensor,
    state: State,
    weights: Weights,
    variant: Variant = Variant(),  # noqa: B008 - frozen
    *,
    reverse: bool = False,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    start: State | None = None,
    noise: Noise = Noise(),  # noqa: B008 - frozen
    trace: bool = False,
) -> Scan:
    """Run a cell over a sequence.

    Args:
        x: the inputs [T, B, D]; T may be 0, then the outputs are empty and the state comes back.
        state: the initial states, each [B, ·].
        weights: the layer's weights.
        variant: the cell and its options; the vanilla LSTM by default.
        reverse: whether to go from the last time step to the first. Outputs keep their time: y[t] belongs to x[t].
        lengths: how many steps of each row count [B], 0 to T, or None for all. Past a row's end y is zero, and its
            state is that of its own last step; in reverse the row starts there.
        reset: [T, B], true where a row restarts before the step, or None. In reverse each piece between restarts
            runs alone as well; the initial state enters the last one.
        start: what a restart starts from, each [B, ·]; None for zeros.
        noise: dropout and zoneout masks.
        trace: whether to return everything the cell computed.

    Returns:
        The outputs, the final states, and with ``trace`` the activations of the gates and the states over time.
    """
    steps = x.shape[0]
    order = range(steps - 1, -1, -1) if reverse else range(steps)
    alive = None if lengths is None else torch.arange(steps, device=x.device)[:, None] < lengths
    if alive is not None:
        # What stands in the padding must not reach a gradient: NaN times zero is NaN.
        x = _pick(alive, x, torch.zeros_like(x))
    restart = None if reset is None else _restarts(reset, alive, reverse)
    start = tuple(torch.zeros_like(part) for part in state) if start is None else start
    inputs = x.unbind()
    history: list[Values] = []
    for t in order:
        if restart is not None:
            state = tuple(_pick(restart[t], a, b) for a, b in zip(start, state, strict=True))
        y, new, gates = step(inputs[t], state, weights, variant, noise.recurrent)
        if noise.h is not None or noise.c is not None:
            new = _zoned(state, new, {"h": noise.h, "c": noise.c}, t, variant)
            # The second projection, if there is one, is not zoned out.
            y = torch.cat([new[0], y[:, new[0].shape[1] :]], 1)
        state = new if alive is None else tuple(_pick(alive[t], a, b) for a, b in zip(new, state, strict=True))
        named = dict(zip(variant.cell.states, new, strict=True))
        history.append({"y": y, **(gates | named if trace else {})})
    if reverse:
        history.reverse()
    names = traced_names(variant) if trace else ()
    if not history:
        empty = {name: x.new_empty(shape) for name, shape in over_time(x, state, weights, variant).items()}
        return Scan(empty["y"], state, {name: empty[name] for name in names})
    values = {name: torch.stack([step[name] for step in history]) for name in ("y", *names)}
    if alive is not None:
        values = {name: _pick(alive, value, torch.zeros_like(value)) for name, value in values.items()}
    return Scan(values.pop("y"), state, values)


def _zoned(old: State, new: State, masks: dict[str, Tensor | None], t: int, variant: Variant) -> State:
    """The new state where the masks are one, the old where they are zero."""
    rows = zip((masks.get(name) for name in variant.cell.states), old, new, strict=True)
    return tuple(after if mask is None else before + mask[t] * (after - before) for mask, before, after in rows)


def over_time(x: Tensor, state: State, weights: Weights, variant: Variant) -> dict[str, tuple[int, ...]]:
    """The shapes of the outputs "y" and of everything in a trace."""
    hidden = weights.weight_ih.shape[0] // len(variant.cell.learned)
    sizes = {"y": variant.output_size(hidden)} | dict.fromkeys(traced_names(variant), hidden)
    sizes |= variant.state_sizes(hidden)
    return {name: (*x.shape[:2], size, *state[0].shape[2:]) for name, size in sizes.items()}


def traced_names(variant: Variant) -> tuple[str, ...]:
    """The names in a trace: the gates that are not open, then the states that are not gates."""
    gates = [gate.name for gate in variant.cell.gates if gate.kind != "open"]
    return (*gates, *(state for state in variant.cell.states if state not in gates))


def _restarts(reset: Tensor, alive: Tensor | None, reverse: bool) -> Tensor:
    """Where a row restarts before a step, in the direction of the run."""
    if not reverse:
        return reset if alive is None else reset & alive
    # A piece ends before the next reset; the row's own end is no restart, the initial state enters there.
    later = torch.cat([reset[1:], torch.zeros_like(reset[:1])])
    return later if alive is None else later & torch.cat([alive[1:], torch.zeros_like(alive[:1])])


def _pick(mask: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``a`` where the mask is true, ``b`` elsewhere; the mask has the first dimensions of both."""
    return torch.where(mask.reshape(*mask.shape, *(1,) * (a.dim() - mask.dim())), a, b)

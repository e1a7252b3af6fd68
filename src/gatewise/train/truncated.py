"""Truncated backpropagation through time: a loss that carries the state from window to window.

Williams and Peng (1990): BPTT(h; h′), where the state is never cut but the gradient is.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from gatewise.train.group import Group, Part
from gatewise.train.streams import Streams, Window

State = Sequence[Tensor]
"""What goes on from step to step: tensors with the rows in their second dimension, as LSTM has them."""


@final
class Truncated:
    """The loss of windows of streams; give ``loss`` and ``batch`` to ``train``, and itself as ``carried``.

    Args:
        streams: what is read.
        step: the sum of a window's losses over the steps that are ``scored``, how many values that is, and the state
            after the window's last step. It is given the window and the state before it, None at the beginning, and
            must obey ``window.reset`` and ``window.lengths``.

    Raises:
        RuntimeError: of ``loss``, if a window is not preceded by the one before it.

    Example:
        >>> import numpy as np
        >>> from gatewise import LSTM
        >>> from gatewise.train import Plan, Streams, Truncated, train
        >>> wave = np.sin(np.arange(400) / 5).astype(np.float32)
        >>> streams = Streams(wave[:-1, None], wave[1:, None], [0, 200, 399], rows=2, window=20, backward=10)
        >>> layer, head = LSTM(1, 8), torch.nn.Linear(8, 1)
        >>> def step(window, state):
        ...     output, state = layer(window.x, state, lengths=window.lengths, reset=window.reset)
        ...     error = (head(output) - window.y)[window.scored]
        ...     return error.square().sum(), len(error), state
        >>> truncated = Truncated(streams, step)
        >>> model = torch.nn.ModuleList([layer, head])
        >>> plan = Plan(epochs=2, steps=streams.windows)
        >>> history = train(model, truncated.loss, truncated.batch, plan, carried=truncated)
        >>> history.best
        2
    """

    def __init__(self, streams: Streams, step: Callable[[Window, State | None], tuple[Tensor, int, State]]):
        self._streams, self._step = streams, step
        self._states: dict[Part, tuple[Tensor, ...]] = {}
        self._loaded: tuple[Tensor, ...] | None = None

    def batch(self, epoch: int, step: int, part: Part) -> Window:
        """A part of a window."""
        return self._streams.window(epoch, step, part)

    def loss(self, window: Window) -> tuple[Tensor, int]:
        """The sum of the window's losses and how many values that is; its state is kept for the next."""
        state = None if window.first else self._before(window)
        size, backward = self._streams.size, self._streams.backward
        if backward > size:
            # The state of the next window's beginning lies within this one, and the gradient flows through there.
            total, count, between = self._step(window.steps(0, size), state)
            more, others, _ = self._step(window.steps(size, backward), between)
            self._states[window.part] = _cut(between)
            return total + more, count + others
        total, count = window.x.new_zeros(()), 0
        for start in range(0, size, backward):
            more, others, state = self._step(window.steps(start, min(start + backward, size)), state)
            total, count, state = total + more, count + others, _cut(state)
        assert state is not None
        self._states[window.part] = tuple(state)
        return total, count

    def state_dict(self) -> dict[str, Any]:
        """The states of this process' rows, rows first."""
        parts = [self._states[part] for part in sorted(self._states, key=lambda part: part.index)]
        if not parts:
            parts = [self._loaded] if self._loaded is not None else []
        return {
            str(i): torch.cat(each, 1).transpose(0, 1).contiguous() for i, each in enumerate(zip(*parts, strict=True))
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with these states."""
        self._states = {}
        self._loaded = tuple(state[str(i)].transpose(0, 1).contiguous() for i in range(len(state))) or None

    def _before(self, window: Window) -> tuple[Tensor, ...]:
        if window.part not in self._states:
            if self._loaded is None:
                raise RuntimeError("the window before this one was not run: its state is needed")
            rows = self._streams.rows
            mine, first = window.part.rows(rows), Group().part().rows(rows).start
            self._states[window.part] = tuple(
                value[:, mine.start - first : mine.stop - first].contiguous() for value in self._loaded
            )
        return self._states[window.part]


def _cut(state: State) -> tuple[Tensor, ...]:
    return tuple(value.detach() for value in state)

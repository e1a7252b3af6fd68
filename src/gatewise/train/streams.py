"""Streams longer than a window: laid side by side in rows, read window by window.

A row holds whole streams, one after the other. Each window of an epoch begins where the one before ended, so that a
row's state can be carried on; a reset marks where a stream begins.
"""

from dataclasses import dataclass
from heapq import heapify, heapreplace
from typing import final

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from gatewise.errors import InputError
from gatewise.train.group import WHOLE, Part

Whole = NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """Some steps of some rows, time first.

    Attributes:
        x: [T, B, …] inputs.
        y: [T, B, …] targets.
        reset: bool [T, B], where a stream begins: the state is dropped before that step.
        scored: bool [T, B], which steps count for the loss.
        lengths: int64 [B], how many steps each row has; what follows is padding.
        part: which part of the batch this is.
        first: whether it is the first of its epoch.
    """

    x: Tensor
    y: Tensor
    reset: Tensor
    scored: Tensor
    lengths: Tensor
    part: Part
    first: bool

    def steps(self, start: int, stop: int) -> "Window":
        """The steps from ``start`` to before ``stop``."""
        cut = slice(start, stop)
        lengths = (self.lengths - start).clamp(0, max(0, stop - start))
        return Window(
            self.x[cut], self.y[cut], self.reset[cut], self.scored[cut], lengths, self.part, self.first and not start
        )


@final
class Streams:
    """N streams in B rows of about equal length.

    Which streams share a row follows from their lengths; their order within it is drawn anew for each epoch, a function
    of seed, epoch and row. Nothing is copied but the window that is asked for, so ``x`` and ``y`` may be memory-mapped.

    Args:
        x: inputs [R, …], the streams one after the other.
        y: targets [R, …].
        offsets: [N+1] where each stream begins, and R.
        rows: B, at least 1.
        window: steps from one update of the weights to the next, at least 1.
        backward: steps that the gradient flows back, at least 1; by default the window. A shorter one cuts the gradient
            within the window. For a longer one, the steps before the window are run again, from the state of that time
            and without counting for the loss (Williams and Peng 1990).
        carry: steps after which a state is dropped, even within a stream, at least 1; by default never. Streams are cut
            there, so that a long one can be shared among rows.
        seed: of the order; None keeps the streams in theirs.

    Attributes:
        windows: how many make an epoch.

    Raises:
        InputError: a size is out of range, or the arrays do not fit each other.

    Example:
        >>> streams = Streams(np.arange(10.0), np.arange(10.0), [0, 7, 10], rows=2, window=4, seed=None)
        >>> streams.windows
        2
        >>> window = streams.window(1, 1)
        >>> window.x.T, window.lengths
        (tensor([[0., 1., 2., 3.],
                [7., 8., 9., 0.]], dtype=torch.float64), tensor([4, 3]))
    """

    def __init__(
        self,
        x: ArrayLike,
        y: ArrayLike,
        offsets: ArrayLike,
        *,
        rows: int,
        window: int,
        backward: int | None = None,
        carry: int | None = None,
        seed: int | None = 0,
    ):
        self._x, self._y = np.asanyarray(x), np.asanyarray(y)
        for name, value in (("rows", rows), ("window", window), ("backward", backward), ("carry", carry)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise InputError(f"{name} must be a whole number from 1, not {value!r}.")
        self.rows, self._window, self._seed = rows, window, seed
        self.backward = window if backward is None else backward
        self._starts, self._lengths = _pieces(_checked(offsets, self._x, self._y), carry)
        self._row_of, loads = _shared_out(self._lengths, rows)
        self._loads = loads
        self.windows = -(-int(loads.max()) // window)
        self._epoch: tuple[int, Whole, Whole] | None = None

    @property
    def size(self) -> int:
        """Steps from one update to the next."""
        return self._window

    def window(self, epoch: int, step: int, part: Part = WHOLE) -> Window:
        """A part of a window, by epoch and step (both from 1)."""
        pieces, begins = self._order(epoch)
        lead = max(0, self.backward - self._window)
        first = (step - 1) * self._window
        rows = np.arange(self.rows)[part.rows(self.rows)]
        at = np.arange(first - lead, first + self._window)[:, None] + np.zeros_like(rows)
        held = (at >= 0) & (at < self._loads[rows])
        # Rows lie one after the other on one axis, so that one search finds the piece of every step.
        place = np.clip(at, 0, np.maximum(self._loads[rows] - 1, 0)) + self._origins()[rows]
        piece = np.searchsorted(begins, place, side="right") - 1
        into = place - begins[piece]
        source = np.where(held, self._starts[pieces[piece]] + into, 0)
        return Window(
            x=_taken(self._x, source, held),
            y=_taken(self._y, source, held),
            reset=torch.from_numpy(held & (into == 0)),
            scored=torch.from_numpy(held & (at >= first)),
            lengths=torch.from_numpy(np.clip(self._loads[rows] - first + lead, 0, len(at))),
            part=part,
            first=step == 1,
        )

    def _origins(self) -> Whole:
        return np.concatenate([[0], np.cumsum(self._loads)[:-1]]).astype(np.int64)

    def _order(self, epoch: int) -> tuple[Whole, Whole]:
        """The pieces in the order of the rows and of the epoch, and where each begins on the common axis."""
        if self._epoch is None or self._epoch[0] != epoch:
            count = len(self._lengths)
            keys = np.arange(count) if self._seed is None else np.random.default_rng((self._seed, epoch)).random(count)
            pieces = np.lexsort((keys, self._row_of))
            lengths = self._lengths[pieces]
            self._epoch = epoch, pieces, np.cumsum(lengths) - lengths
        return self._epoch[1], self._epoch[2]


def _checked(offsets: ArrayLike, x: NDArray[np.generic], y: NDArray[np.generic]) -> Whole:
    ends = np.asarray(offsets)
    whole = ends.ndim == 1 and ends.dtype.kind in "iu" and len(ends) >= 2
    if not whole or ends[0] != 0 or (np.diff(ends) < 0).any() or not ends[-1]:
        raise InputError("offsets must be ascending whole numbers from 0, one more than there are streams.")
    if x.ndim < 1 or y.ndim < 1 or not len(x) == len(y) == ends[-1]:
        raise InputError(
            f"x and y must have a row for each of the {ends[-1]} steps that offsets tell, not {list(x.shape)} and "
            f"{list(y.shape)}."
        )
    return ends.astype(np.int64)


def _pieces(offsets: Whole, carry: int | None) -> tuple[Whole, Whole]:
    """Start and length of each stream, or of the pieces of at most ``carry`` steps that it is cut into."""
    starts, lengths = offsets[:-1], np.diff(offsets)
    if carry is not None:
        counts = -(-lengths // carry)
        ahead = (np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)) * carry
        starts, lengths = np.repeat(starts, counts) + ahead, np.minimum(np.repeat(lengths, counts) - ahead, carry)
    held = lengths > 0
    return starts[held], lengths[held]


def _shared_out(lengths: Whole, rows: int) -> tuple[Whole, Whole]:
    """The row of each piece and the length of each row: the longest first, each to the row that is shortest so far."""
    row_of = np.empty(len(lengths), np.int64)
    heap = [(0, row) for row in range(rows)]
    heapify(heap)
    for piece in np.argsort(-lengths, kind="stable").tolist():
        load, row = heap[0]
        row_of[piece] = row
        heapreplace(heap, (load + int(lengths[piece]), row))
    loads = np.zeros(rows, np.int64)
    loads[[row for _, row in heap]] = [load for load, _ in heap]
    return row_of, loads


def _taken(values: NDArray[np.generic], source: Whole, held: NDArray[np.bool_]) -> Tensor:
    taken = values[source]
    taken[~held] = 0
    return torch.from_numpy(np.ascontiguousarray(taken))

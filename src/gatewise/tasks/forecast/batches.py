"""The batches of a training: windows drawn at random, gathered for some steps at once."""

from typing import NamedTuple, final

import numpy as np

from gatewise.data.windows import OriginRanges
from gatewise.runtime.windows import Batch, Origins, Windows
from gatewise.train import Part

STEPS_AT_ONCE = 16
"""Drawing and gathering cost about the same for one small batch as for several: half of it is calls."""

VALUES_AT_ONCE = 4_000_000
"""Fewer steps at once where windows are large."""


class Drawn(NamedTuple):
    """A part of a batch, and which windows it is."""

    origins: Origins
    windows: Batch


@final
class Batches:
    """The windows of each step, a function of seed, epoch and step.

    Args:
        ranges: all windows.
        inputs: where they are gathered.
        size: B, windows in a batch.
        seed: of the draws.
        steps: in an epoch.
    """

    def __init__(self, ranges: OriginRanges, inputs: Windows, size: int, seed: int, steps: int):
        self._ranges, self._inputs, self._size, self._seed, self._steps = ranges, inputs, size, seed, steps
        values = size * (inputs.shape.window + inputs.shape.horizon) * len(inputs.channels)
        self._at_once = max(1, min(STEPS_AT_ONCE, VALUES_AT_ONCE // values))
        self._gathered: dict[Part, tuple[tuple[int, int], list[Drawn]]] = {}

    def batch(self, epoch: int, step: int, part: Part) -> Drawn:
        """A part of a batch."""
        first = (step - 1) // self._at_once * self._at_once + 1
        if self._gathered.get(part, (None,))[0] != (epoch, first):
            self._gathered[part] = (epoch, first), self._burst(epoch, first, part)
        return self._gathered[part][1][step - first]

    def _burst(self, epoch: int, first: int, part: Part) -> list[Drawn]:
        last = min(first + self._at_once, self._steps + 1)
        draws = [self._ranges.draw(self._size, (self._seed, epoch, step)) for step in range(first, last)]
        rows = [part.rows(len(draw)) for draw in draws]
        origins = self._ranges.numbered(np.concatenate([draw[own] for draw, own in zip(draws, rows, strict=True)]))
        windows, end = self._inputs.gather(origins), 0
        burst: list[Drawn] = []
        for own in rows:
            begin, end = end, end + own.stop - own.start
            burst.append(Drawn(origins.take(slice(begin, end)), windows.take(slice(begin, end))))
        return burst

"""The rows of series as windows read them: in stretches, each of one series, wherever the rows may lie."""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gatewise.runtime.encoding import Floats

Doubles = NDArray[np.float64]
Whole = NDArray[np.int64]


class Rows(Protocol):
    """N series as a forecaster's windows are cut from them.

    B stretches are read at once: the ``count`` rows from ``first`` [B] on, of the series [B]. What a stretch holds
    outside its series is anything; who reads it knows where the series begins and stops.
    """

    @property
    def starts(self) -> Whole:
        """[N] the first row of each series."""
        ...

    @property
    def stops(self) -> Whole:
        """[N] the row after the last of each series, those of its future among them."""
        ...

    @property
    def static(self) -> Floats:
        """[N, S] static covariates, encoded."""
        ...

    def shown(self, series: Whole, first: Whole, count: int) -> Doubles:
        """[B, count] the target of rows of the history; NaN where it is missing."""
        ...

    def filled(self, series: Whole, first: Whole, count: int) -> Doubles:
        """[B, count] the last target up to rows of the history; NaN before a series' first."""
        ...

    def truths(self, series: Whole, first: Whole, count: int) -> Doubles:
        """[B, count] the target to score and train on: NaN where it is unknown, and where it was filled in."""
        ...

    def spread(self, rows: Whole) -> Doubles:
        """[B] the largest minus the smallest target of the series up to some rows [B] of its history."""
        ...

    def past(self, series: Whole, first: Whole, count: int) -> Floats:
        """[B, count, P] past covariates, encoded."""
        ...

    def known(self, series: Whole, first: Whole, count: int) -> Floats:
        """[B, count, K] what is known in advance, encoded; NaN where it is not."""
        ...


@dataclass(frozen=True)
class ArrayRows:
    """Rows that lie in arrays, R in all.

    Attributes:
        offsets: int64 [N+1]; series i has the rows offsets[i] to offsets[i+1], those of its future among them.
        y: [R] target; NaN where it is unknown.
        targets: [R] target to score and train on: NaN where y was filled in, too.
        before: float32 [R, P] past covariates, encoded.
        ahead: float32 [R, K] what is known in advance, encoded.
        static: float32 [N, S] static covariates, encoded.
    """

    offsets: Whole
    y: Doubles
    targets: Doubles
    before: Floats
    ahead: Floats
    static: Floats

    @property
    def starts(self) -> Whole:
        """[N] the first row of each series."""
        return self.offsets[:-1]

    @property
    def stops(self) -> Whole:
        """[N] the row after the last of each series."""
        return self.offsets[1:]

    @cached_property
    def _filled(self) -> Doubles:
        return forward_filled(self.y, self.offsets)

    @cached_property
    def _spread(self) -> Doubles:
        return np.nan_to_num(np.diff(extremes_so_far(self._filled, self.offsets), axis=1)[:, 0])

    def shown(self, series: Whole, first: Whole, count: int) -> Doubles:
        """[B, count]; see ``Rows``."""
        return stretches(self.y, first, count)

    def filled(self, series: Whole, first: Whole, count: int) -> Doubles:
        """[B, count]; see ``Rows``."""
        return stretches(self._filled, first, count)

    def truths(self, series: Whole, first: Whole, count: int) -> Doubles:
        """[B, count]; see ``Rows``."""
        return stretches(self.targets, first, count)

    def spread(self, rows: Whole) -> Doubles:
        """[B]; see ``Rows``."""
        return self._spread[rows]

    def past(self, series: Whole, first: Whole, count: int) -> Floats:
        """[B, count, P]; see ``Rows``."""
        return stretches(self.before, first, count)

    def known(self, series: Whole, first: Whole, count: int) -> Floats:
        """[B, count, K]; see ``Rows``."""
        return stretches(self.ahead, first, count)


def stretches(values: NDArray[Any], first: Whole, count: int) -> NDArray[Any]:
    """A copy of ``count`` rows [B, count, …] from each of ``first`` [B] on; beyond the ends some row is repeated.

    Example:
        >>> stretches(np.arange(5), np.array([1, 3]), 3)
        array([[1, 2, 3],
               [3, 4, 4]])
    """
    rooms = len(values) - count + 1
    if not len(first) or first.min() < 0 or first.max() >= rooms or not values.flags.c_contiguous:
        return values[np.clip(first[:, None] + np.arange(count), 0, len(values) - 1)]
    # Every stretch of the rows is a row of this view (as of as_strided's, which takes longer than the copy), so that no
    # row needs an index of its own.
    step, *inner = values.strides
    view = np.ndarray((rooms, count, *values.shape[1:]), values.dtype, values, 0, (step, step, *inner))
    return view[first]


def forward_filled(values: Doubles, offsets: Whole) -> Doubles:
    """Each NaN replaced by the last value before it in its series; NaN only before a series' first value."""
    rows = np.arange(len(values))
    before = np.maximum.accumulate(np.where(np.isnan(values), -1, rows)) if len(values) else rows
    start = np.repeat(offsets[:-1], np.diff(offsets))
    return np.where(before >= start, values[before], np.nan)


def extremes_so_far(filled: NDArray[Any], offsets: Whole) -> NDArray[Any]:
    """[R, 2] the smallest and the largest value of each series up to each row; NaN before its first value."""
    extremes = np.empty((len(filled), 2), filled.dtype)
    for start, stop in pairwise(offsets.tolist()):
        values = filled[start:stop]
        np.fmin.accumulate(values, out=extremes[start:stop, 0])
        np.fmax.accumulate(values, out=extremes[start:stop, 1])
    return extremes

"""The frequency of a table that nobody has named: the most common step between neighbours.

It is counted part by part, so that a table too large for the memory has the frequency that it would have as a whole.
"""

from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import polars as pl

from gatewise.data.frequency import Frequency, tick_of, ticks_of
from gatewise.errors import InputError

_MOST_STEPS = 1_000_000

Part = tuple[pl.Series, np.ndarray]
"""Stamps of some whole series, one after the other, and the first row of each."""


def infer_frequency(times: pl.Series, starts: np.ndarray) -> Frequency:
    """The most common step between neighbours within the series.

    Args:
        times: Stamps of all series, one after the other, each in ascending order: whole numbers, dates or datetimes.
        starts: First row of each series; a last entry equal to the number of rows is allowed.

    Raises:
        InputError: No series has two stamps.

    Example:
        >>> infer_frequency(pl.Series([0, 2, 4, 100, 102]), np.array([0, 3])).text
        '2'
    """
    return infer_over(lambda: iter([(times, starts)]))


def infer_over(parts: Callable[[], Iterator[Part]]) -> Frequency:
    """The same over parts of a table that is too large to be looked at as a whole.

    Args:
        parts: Gives the parts from the first, as often as it is called.

    Raises:
        InputError: No series has two stamps, or there are more than a million different steps.

    Example:
        >>> parts = [(pl.Series([0, 2, 4]), np.array([0])), (pl.Series([100, 102]), np.array([0]))]
        >>> infer_over(lambda: iter(parts)).text
        '2'
    """
    wall, elapsed, seen = Counter[int](), Counter[int](), _Weekends()
    dtype, zoned, neighbours = None, False, False
    for times, starts in parts():
        inner = _inner(times, starts)
        dtype, zoned = times.dtype, getattr(times.dtype, "time_zone", None) is not None
        neighbours |= bool(inner.any())
        ticks = ticks_of(times, wall=not times.dtype.is_integer())
        _count_steps(wall, ticks, inner)
        if zoned:
            _count_steps(elapsed, ticks_of(times, wall=False), inner)
        if not times.dtype.is_integer():
            seen.add(ticks // (tick_of(pl.Date()) // tick_of(times.dtype)), inner)
    if not neighbours or dtype is None:
        raise InputError("the frequency cannot be seen: no series has two rows. Give longer series.")
    step = _most_common(wall)
    if dtype.is_integer():
        return Frequency(str(step))
    unit, day = tick_of(dtype), tick_of(pl.Date()) // tick_of(dtype)
    if step >= 28 * day:
        found = _infer_months(parts, Frequency(f"{step * unit}ns") if step % day else Frequency(f"{step // day}d"))
        if found:
            return found
    if step == day and seen.skipped():
        return Frequency("1bd")
    if step % day == 0:
        return Frequency(f"{step // day}d")
    return Frequency(f"{_most_common(elapsed if zoned else wall) * unit}ns")


def _inner(times: pl.Series, starts: np.ndarray) -> np.ndarray:
    """Whether each row has a row of its own series before it."""
    inner = np.ones(len(times), bool)
    inner[np.asarray(starts)[np.asarray(starts) < len(times)]] = False
    return inner


def _infer_months(parts: Callable[[], Iterator[Part]], fixed: Frequency) -> Frequency | None:
    """The step by calendar months that explains at least as many neighbours as the fixed step does."""
    steps = Counter[int]()
    for times, starts in parts():
        _count_steps(steps, Frequency("1mo").index(times)[0], _inner(times, starts))
    step = _most_common(steps)
    choices = [Frequency(f"{step}mo"), Frequency(f"{step}mo-end"), fixed]
    explained = [0] * len(choices)
    for times, starts in parts():
        inner = _inner(times, starts)
        for place, choice in enumerate(choices):
            explained[place] += _explained(choice, times, inner)
    best = choices[int(np.argmax(explained))]
    return None if best is fixed else best


def _explained(frequency: Frequency, times: pl.Series, inner: np.ndarray) -> int:
    position, phase = frequency.index(times)
    return int(np.sum((np.diff(position) == 1) & (np.diff(phase) == 0) & inner[1:]))


class _Weekends:
    """Whether stamps leave out the weekends: none lies on one, and some neighbours have one between them."""

    def __init__(self) -> None:
        self._on, self._crossed = False, False

    def add(self, days: np.ndarray, inner: np.ndarray) -> None:
        if not self._on:
            self._on = bool(((days - 4) % 7 >= 5).any())
            self._crossed |= bool(((np.diff((days - 4) // 7) > 0) & inner[1:]).any())

    def skipped(self) -> bool:
        return self._crossed and not self._on


def _count_steps(counts: Counter[int], ticks: np.ndarray, inner: np.ndarray) -> None:
    """Adds the positive steps between neighbours."""
    steps = np.diff(ticks)[inner[1:]]
    steps = steps[steps > 0]
    if len(steps) and (steps == steps[0]).all():
        counts[int(steps[0])] += len(steps)
        return
    for step, number in zip(*(found.tolist() for found in np.unique(steps, return_counts=True)), strict=True):
        counts[step] += number
    if len(counts) > _MOST_STEPS:
        raise InputError("irregular frequency: the stamps have more than a million different steps between them.")


def _most_common(counts: Counter[int]) -> int:
    """The most common step, the shortest of several; 1 if there is none."""
    return min(counts, key=lambda step: (-counts[step], step)) if counts else 1

"""Windows as index ranges: where they may start, a random draw of them, and their rows.

A window is a series and an origin, the row of its first forecast step. Nothing is copied until a batch is gathered.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar, overload

import numpy as np
import polars as pl

from gatewise.data.panel import Panel
from gatewise.data.store import AnyPanel, Store
from gatewise.runtime.windows import Origins

SomePanel = TypeVar("SomePanel", Panel, Store)


@dataclass(frozen=True)
class OriginRanges:
    """All windows whose origins lie in first[i] … last[i] (both included) of series i; none where last < first."""

    first: np.ndarray
    last: np.ndarray

    def counts(self) -> np.ndarray:
        """int64 [N], windows of each series."""
        return np.maximum(self.last - self.first + 1, 0)

    @cached_property
    def _begins(self) -> np.ndarray:
        """int64 [N+1], windows of all series before each, and of all."""
        return np.concatenate([[0], np.cumsum(self.counts())])

    def draw(self, size: int, seed: tuple[int, ...]) -> np.ndarray:
        """The numbers of at most ``size`` windows, drawn without replacement: a function of the seed alone."""
        total = int(self._begins[-1])
        return np.random.default_rng(seed).choice(total, min(size, total), replace=False)

    def parts(self, size: int) -> Iterator[Origins]:
        """All windows in order, at most ``size`` at a time."""
        total = int(self._begins[-1])
        for begin in range(0, total, size):
            yield self.numbered(np.arange(begin, min(begin + size, total)))

    def numbered(self, chosen: np.ndarray) -> Origins:
        """Windows by their numbers among all."""
        series = np.searchsorted(self._begins[1:], chosen, side="right")
        return Origins(series, self.first[series] + chosen - self._begins[series])

    def every(self, stride: int) -> Origins:
        """Each series' last window and every ``stride``-th before it, in time order."""
        counts = -(-self.counts() // stride)
        series = np.repeat(np.arange(len(counts)), counts)
        ends = np.cumsum(counts)
        back = np.repeat(ends, counts) - 1 - np.arange(len(series))
        return Origins(series, self.last[series] - back * stride)

    def onward(self, stride: int) -> Origins:
        """Each series' first window and every ``stride``-th after it, in time order."""
        counts = -(-self.counts() // stride)
        series = np.repeat(np.arange(len(counts)), counts)
        begins = np.cumsum(counts) - counts
        return Origins(series, self.first[series] + (np.arange(len(series)) - begins[series]) * stride)


@overload
def extend(panel: Panel, steps: int) -> Panel: ...
@overload
def extend(panel: Store, steps: int) -> Store: ...
def extend(panel: AnyPanel, steps: int) -> AnyPanel:
    """Add future rows so that every series has at least ``steps`` of them; their covariates are unknown (NaN)."""
    return panel.extended(steps) if isinstance(panel, Store) else _extended(panel, steps)


def _extended(panel: Panel, steps: int) -> Panel:
    have = panel.offsets[1:] - panel.ends
    need = np.maximum(steps - have, 0)
    if not need.any():
        return panel
    sizes = np.diff(panel.offsets)
    offsets = np.concatenate([[0], np.cumsum(sizes + need)]).astype(np.int64)
    old = np.arange(len(panel.y)) + np.repeat(offsets[:-1] - panel.offsets[:-1], sizes)
    stamps = panel.frequency.future(panel.time.gather(panel.offsets[1:] - 1), steps)
    new = np.arange(steps) < need[:, None]
    rows = (offsets[:-1] + sizes)[:, None] + np.arange(steps)
    order = np.argsort(np.concatenate([old, rows[new]]), kind="stable")
    # Small whole numbers may outgrow their type; every other stamp keeps it.
    time = pl.concat([panel.time.cast(stamps.dtype), stamps.filter(pl.Series(new.ravel()))]).gather(order)

    def spread(values: np.ndarray, fill: float) -> np.ndarray:
        out = np.full((offsets[-1], *values.shape[1:]), fill, values.dtype)
        out[old] = values
        return out

    return replace(
        panel,
        offsets=offsets,
        time=time,
        y=spread(panel.y, np.nan),
        ends=panel.ends + offsets[:-1] - panel.offsets[:-1],
        past=spread(panel.past, np.nan),
        future=spread(panel.future, np.nan),
        missing=spread(panel.missing, False),
    )

"""Windows as index ranges: where they may start, a random draw of them, and their rows.

A window is a series and an origin, the row of its first forecast step. Nothing is copied until a batch is gathered.
"""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from gatewise.data.panel import Panel
from gatewise.runtime.windows import Origins


@dataclass(frozen=True)
class OriginRanges:
    """All windows whose origins lie in first[i] … last[i] (both included) of series i; none where last < first."""

    first: np.ndarray
    last: np.ndarray

    def counts(self) -> np.ndarray:
        """int64 [N], windows of each series."""
        return np.maximum(self.last - self.first + 1, 0)

    def draw(self, size: int, seed: tuple[int, ...]) -> Origins:
        """A random draw without replacement of at most ``size`` windows, a function of the seed alone."""
        counts = self.counts()
        starts = np.cumsum(counts) - counts
        total = int(counts.sum())
        chosen = np.random.default_rng(seed).choice(total, min(size, total), replace=False)
        series = np.searchsorted(starts + counts, chosen, side="right")
        return Origins(series, self.first[series] + chosen - starts[series])

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


def extend(panel: Panel, steps: int) -> Panel:
    """Add future rows so that every series has at least ``steps`` of them; their covariates are unknown (NaN)."""
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

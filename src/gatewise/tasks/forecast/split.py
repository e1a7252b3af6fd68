"""Which rows of each series train the model, which validate it, and which are kept to score it."""

from dataclasses import dataclass

import numpy as np

from gatewise.data import AnyPanel
from gatewise.data.windows import OriginRanges
from gatewise.errors import InputError
from gatewise.runtime.windows import Origins

LONGEST_VALIDATION = 0.1
MOST_VALIDATION_WINDOWS = 2048


@dataclass(frozen=True)
class Split:
    """Absolute rows [N]: training before ``train_ends``, validation before ``cutoffs``, scoring before ``ends``."""

    starts: np.ndarray
    train_ends: np.ndarray
    cutoffs: np.ndarray
    ends: np.ndarray
    window: int
    horizon: int

    @classmethod
    def of(cls, panel: AnyPanel, window: int, horizon: int, holdout: int) -> "Split":
        """Split every series as far as its length allows.

        A series keeps ``window + horizon`` rows for training before it gives any to scoring, then to validation.
        """
        starts, ends = panel.starts, panel.ends
        need = window + horizon
        cutoffs = np.where(ends - holdout - starts >= need, ends - holdout, ends)
        length = cutoffs - starts
        wanted = np.maximum(horizon, (LONGEST_VALIDATION * length).astype(np.int64))
        validation = np.where(length - wanted >= need, wanted, np.where(length - horizon >= need, horizon, 0))
        return cls(starts, cutoffs - validation, cutoffs, ends, window, horizon)

    def training(self) -> OriginRanges:
        """Windows whose truth lies before ``train_ends``."""
        # A series shorter than window + horizon, allowed by padding, gives the windows it has.
        context = np.minimum(self.window, np.maximum(1, self.train_ends - self.starts - self.horizon))
        ranges = OriginRanges(self.starts + context, self.train_ends - self.horizon)
        if not ranges.counts().any():
            longest = int((self.train_ends - self.starts).max(initial=0))
            raise InputError(
                f"no series is long enough to train on: {self.horizon} steps of forecast and at least one before are "
                f"needed, and the longest has {longest}. Use a shorter horizon."
            )
        return ranges

    def validation(self) -> Origins:
        """Windows whose truth lies from ``train_ends`` to ``cutoffs``: the last of every series, and some before.

        Beyond a number that would slow the training down, series are left out evenly.
        """
        last = np.where(self.cutoffs > self.train_ends, self.cutoffs - self.horizon, self.train_ends - 1)
        ranges = OriginRanges(self.train_ends, last)
        counts = ranges.counts()
        each = max(1, MOST_VALIDATION_WINDOWS // max(1, int((counts > 0).sum())))
        origins = ranges.every(max(1, self.horizon // 4, -(-int(counts.max(initial=0)) // each)))
        return origins.take(slice(None, None, max(1, -(-len(origins) // MOST_VALIDATION_WINDOWS))))

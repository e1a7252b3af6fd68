"""Forecasts of a saved forecaster: its windows, scaling and quantiles, in the units of the table.

The task's own code predicts through here too, so that a forecast has the same bits wherever it is made.
"""

from collections.abc import Sequence

import numpy as np

from gatewise.format import Block, Linear, Lstm, QuantileMix
from gatewise.runtime.encoding import Encoding
from gatewise.runtime.model import Model
from gatewise.runtime.windows import Doubles, Origins, Shape, Windows, channels

TASK = "forecast"
PREDICT_BATCH = 256
_LARGEST = 1_000_000
"""Of a window and a lag."""


def forecast_windows(model: Model, windows: Windows, origins: Origins) -> Doubles:
    """float64 [n, h, Q]: the quantiles of n windows in the units of the table, ascending."""
    parts = [np.empty((0, windows.shape.horizon, model.architecture[-1].output_size))]
    for start in range(0, len(origins), PREDICT_BATCH):
        batch = windows.gather(origins.take(slice(start, start + PREDICT_BATCH)))
        parts.append(batch.unscale(model.run(batch.x, candidates=batch.candidates)))
    # Quantiles that were learned one by one may cross; sorting never makes them worse (Chernozhukov et al. 2010).
    return np.sort(np.concatenate(parts), axis=-1)


def architecture(channels: int, hidden: int, layers: int, shape: Shape, levels: int) -> tuple[Block, ...]:
    """LSTM, a linear layer at every step, and the mixture of candidate forecasts."""
    return (
        Lstm(channels, hidden, layers),
        Linear(hidden, levels + shape.candidates),
        QuantileMix(shape.candidates, levels),
    )


def fits(blocks: Sequence[Block], shape: Shape, encoding: Encoding, levels: int) -> bool:
    """Whether a forecaster's settings are in range, and of the sizes that its blocks have."""
    first = blocks[0]
    sizes = (shape.window, shape.horizon, *shape.lags)
    if not isinstance(first, Lstm) or not all(type(size) is int and 1 <= size <= _LARGEST for size in sizes):
        return False
    inputs = len(channels(shape, encoding))
    return tuple(blocks) == architecture(inputs, first.hidden_size, first.num_layers, shape, levels)

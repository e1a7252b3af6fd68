"""Forecasts of a saved forecaster: its windows, scaling and quantiles, in the units of the table.

The task's own code predicts through here too, so that a forecast has the same bits wherever it is made.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast, final

import numpy as np

from gatewise.errors import InputError
from gatewise.format import Block, Linear, Lstm, QuantileMix
from gatewise.runtime.encoding import Encoding
from gatewise.runtime.model import Model
from gatewise.runtime.rows import Doubles
from gatewise.runtime.series import Series, rows_of
from gatewise.runtime.windows import Origins, Shape, Windows, channels

TASK = "forecast"
PREDICT_BATCH = 256
_LARGEST = 1_000_000
"""Of a window and a lag."""


@final
class Forecaster:
    """A saved forecaster that takes plain arrays: no torch, no tables.

    What it returns has the bits of ``gatewise predict`` on a table of the same series. Rows must be a step of the
    model's frequency apart; arrays do not tell, so that is not checked.

    Args:
        model: of a file that ``gatewise fit`` or ``gatewise.Forecaster`` has written.

    Attributes:
        window: W, the steps that the model reads before a forecast.
        horizon: h, the steps that it forecasts.
        levels: of its Q quantiles.
        past: names of the covariates that it needs up to the forecast.
        future: names of those that it needs for the horizon too.
        static: names of those that do not change within a series.
        calendar: names of its calendar features; if there are any, it needs the time.

    Raises:
        InputError: the model is for another task, or damaged.

    Example::

        forecaster = runtime.Forecaster(runtime.load("runs/load"))
        quantiles = forecaster.predict([runtime.Series(y)])      # [1, h, Q]
    """

    def __init__(self, model: Model):
        if model.task != TASK:
            raise InputError(f"this is a model for the task {model.task!r}; a forecast needs one for {TASK!r}.")
        try:
            self._read(cast("Mapping[str, Any]", model.settings))
            complete = fits(model.architecture, self._shape, self._encoding, len(self.levels))
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            raise InputError(f"the model is damaged: its settings are not complete ({error!r}).") from None
        if not complete:
            raise InputError("the model is damaged: its settings do not fit its architecture.")
        self._model = model

    def predict(self, series: Sequence[Series]) -> Doubles:
        """Forecast the steps after the end of each series.

        Args:
            series: N of them.

        Returns:
            float64 [N, h, Q], in the units of y, ascending along the quantiles.

        Raises:
            InputError: a series lacks something, or does not fit; the text says which and what.
        """
        rows = rows_of(series, self._encoding, self._shape, self._missing, self._short)
        origins = Origins(np.arange(len(series)), rows.offsets[1:] - self.horizon)
        return forecast_windows(self._model, Windows(rows, self._encoding, self._shape), origins)

    def _read(self, settings: Mapping[str, Any]) -> None:
        self._shape = Shape(settings["window"], settings["horizon"], tuple(settings["lags"]))
        self._encoding = Encoding.from_dict(settings["encoding"])
        self._missing, self._short = settings["missing"], settings["short"]
        self.window, self.horizon = self._shape.window, self._shape.horizon
        self.levels = tuple(map(float, settings["levels"]))
        self.past, self.future, self.static = (
            tuple(covariate.name for covariate in covariates)
            for covariates in (self._encoding.past, self._encoding.future, self._encoding.static)
        )
        self.calendar = self._encoding.calendar


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

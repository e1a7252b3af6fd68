"""Saved models without torch: whole sequences, one stream, or many streams at once.

::

    m = runtime.load("model.safetensors")
    y = m.run(x)                        # [B, T, D] to [B, T, O]
    s = m.stream()
    y_t = s.step(x_t)                   # [D] to [O], the same bits
    q = runtime.Forecaster(m).predict([runtime.Series(y)])      # of a forecaster, [N, h, Q]

Needs numpy and safetensors only.
"""

from typing import TYPE_CHECKING

from gatewise.runtime.model import Model, load
from gatewise.runtime.streams import Pool, Stream

if TYPE_CHECKING:
    from gatewise.runtime.forecast import Forecaster
    from gatewise.runtime.series import Series

__all__ = ["Forecaster", "Model", "Pool", "Series", "Stream", "load"]


def __getattr__(name: str) -> object:
    # What only forecasts need is not read by a process that wants its first step soon.
    if name == "Forecaster":
        from gatewise.runtime.forecast import Forecaster

        return Forecaster
    if name == "Series":
        from gatewise.runtime.series import Series

        return Series
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Saved models without torch: whole sequences, one stream, or many streams at once.

::

    m = runtime.load("model.safetensors")
    y = m.run(x)                        # [B, T, D] to [B, T, O]
    s = m.stream()
    y_t = s.step(x_t)                   # [D] to [O], the same bits
    q = runtime.Forecaster(m).predict([runtime.Series(y)])      # of a forecaster, [N, h, Q]

Needs numpy and safetensors only.
"""

from gatewise.runtime.forecast import Forecaster
from gatewise.runtime.model import Model, load
from gatewise.runtime.series import Series
from gatewise.runtime.streams import Pool, Stream

__all__ = ["Forecaster", "Model", "Pool", "Series", "Stream", "load"]

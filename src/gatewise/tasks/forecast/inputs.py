"""From a panel to the rows from which windows are gathered."""

import numpy as np

from gatewise.data import Panel
from gatewise.runtime.encoding import Encoding
from gatewise.runtime.windows import Rows, Shape, Windows
from gatewise.tasks.forecast.encoding import constant, known, unknown


def windows_of(panel: Panel, encoding: Encoding, shape: Shape) -> Windows:
    """The windows of a panel.

    Args:
        panel: N series, each with at least the horizon in future rows wherever a window is gathered at its end.
        encoding: of the covariates.
        shape: of the windows.
    """
    rows = Rows(
        offsets=panel.offsets,
        y=panel.y,
        # Filled cells are read, but they are nobody's truth.
        truths=np.where(panel.missing, np.nan, panel.y),
        past=unknown(encoding, panel),
        known=known(encoding, panel),
        static=constant(encoding, panel),
    )
    return Windows(rows, encoding, shape)

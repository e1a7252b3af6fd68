"""From a panel to the rows from which windows are gathered."""

import numpy as np

from gatewise.data import AnyPanel, Store
from gatewise.runtime.encoding import Encoding
from gatewise.runtime.rows import ArrayRows
from gatewise.runtime.windows import Shape, Windows
from gatewise.tasks.forecast.encoding import constant, known, unknown
from gatewise.tasks.forecast.stored import StoreRows


def windows_of(panel: AnyPanel, encoding: Encoding, shape: Shape) -> Windows:
    """The windows of a panel.

    Args:
        panel: N series, each with at least the horizon in future rows wherever a window is gathered at its end.
        encoding: of the covariates.
        shape: of the windows.
    """
    if isinstance(panel, Store):
        return Windows(StoreRows(panel, encoding), encoding, shape)
    rows = ArrayRows(
        offsets=panel.offsets,
        y=panel.y,
        # Filled cells are read, but they are nobody's truth.
        targets=np.where(panel.missing, np.nan, panel.y),
        before=unknown(encoding, panel),
        ahead=known(encoding, panel),
        static=constant(encoding, panel),
    )
    return Windows(rows, encoding, shape)

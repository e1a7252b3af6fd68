"""Long tables for the tests of panels, and what holds for every panel."""

from datetime import date

import numpy as np
import polars as pl
import pytest

from gatewise.data import Columns, Panel, build_panel
from gatewise.errors import InputError

NAN = float("nan")
LONG = Columns("y", id="unique_id", time="ds")
DAYS = [date(2020, 1, day) for day in range(1, 6)]


def long(*series: tuple, **more: list) -> pl.DataFrame:
    """A long table of (name, times, values) series with further columns."""
    rows = [(name, time, value) for name, times, values in series for time, value in zip(times, values, strict=True)]
    frame = pl.DataFrame(rows, schema=["unique_id", "ds", "y"], orient="row", strict=False)
    return frame.with_columns(pl.Series(name, values, strict=False) for name, values in more.items())


def refuses(message: str, df: pl.DataFrame, columns: Columns = LONG, **options) -> None:
    with pytest.raises(InputError, match=f"(?s){message}") as caught:
        build_panel(df, columns, **options)
    assert "\n" not in str(caught.value)


def check_whole(panel: Panel) -> None:
    """What holds for every panel."""
    sizes = np.diff(panel.offsets)
    assert panel.offsets[0] == 0
    assert panel.offsets[-1] == len(panel.y) == len(panel.time) == len(panel.past) == len(panel.future)
    assert len(panel.ids) == len(panel.ends) == len(sizes)
    assert (panel.lengths() > 0).all()
    assert (panel.lengths() <= sizes).all()
    assert panel.y.dtype == np.float64
    assert panel.past.dtype == panel.future.dtype == np.float32
    assert panel.offsets.dtype == panel.ends.dtype == np.int64
    assert not np.isnan(panel.y[panel.ends - 1]).any()
    for i in range(len(sizes)):
        assert np.isnan(panel.y[panel.ends[i] : panel.offsets[i + 1]]).all()
        times = panel.time[panel.offsets[i] : panel.offsets[i + 1]]
        position, phase = panel.frequency.index(times)
        assert (np.diff(position) == 1).all()
        assert np.ptp(phase) == 0

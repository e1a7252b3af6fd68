"""Panels and models for the tests of forecasts."""

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import torch

from gatewise.data import Columns, Frequency, Panel, build_panel
from gatewise.data.windows import extend
from gatewise.models import Network
from gatewise.runtime.forecast import architecture
from gatewise.runtime.windows import Shape, channels
from gatewise.tasks.forecast.encoding import fit_encoding
from gatewise.tasks.forecast.model import ForecastModel, moments

NAN = float("nan")
RICH = Columns("y", "unique_id", "ds", past=("wind", "load"), future=("rain",), static=("size", "kind"))


def bare_panel(y: list[list[float]], ahead: int = 0, frequency: str = "1") -> Panel:
    """Series without anything but targets, and rows of their future."""
    sizes = [len(values) + ahead for values in y]
    offsets = np.cumsum([0, *sizes]).astype(np.int64)
    rows = int(offsets[-1])
    flat = np.concatenate([np.array([*values, *[NAN] * ahead], float) for values in y])
    return Panel(
        columns=Columns(id="unique_id", time="ds"),
        ids=pl.Series("unique_id", [f"s{i}" for i in range(len(y))]),
        offsets=offsets,
        time=pl.Series("ds", np.concatenate([np.arange(size) for size in sizes])),
        y=flat,
        ends=offsets[1:] - ahead,
        past=np.empty((rows, 0), np.float32),
        future=np.empty((rows, 0), np.float32),
        static=pl.DataFrame(),
        frequency=Frequency(frequency),
        missing=np.zeros(rows, bool),
    )


def rich_frame(lengths: tuple[int, ...], ahead: int, seed: int = 0, gaps: bool = True) -> pl.DataFrame:
    """Hourly series with every kind of covariate, missing targets, and known-future covariates ahead."""
    rng = np.random.default_rng(seed)
    parts = []
    for i, length in enumerate(lengths):
        rows = length + ahead
        y = rng.normal(10 * i, 1 + i, rows)
        if gaps:
            hidden = rng.random(rows) < 0.2
            hidden[[0, length - 1]] = False
            y[hidden] = NAN
        y[length:] = NAN
        past = rng.normal(size=(rows, 2))
        past[length:] = NAN
        begin = datetime(2021, 3, 1, 5) + timedelta(hours=7 * i)
        part = {
            "unique_id": [f"s{i}"] * rows,
            "ds": [begin + timedelta(hours=k) for k in range(rows)],
            "y": y,
            "wind": past[:, 0],
            "load": past[:, 1] * 50 + 1000,
            "rain": rng.normal(3, 2, rows),
            "size": [float(i * i)] * rows,
            "kind": ["north" if i % 2 else "south"] * rows,
        }
        parts.append(pl.DataFrame(part, nan_to_null=True))
    return pl.concat(parts)


def rich_panel(lengths: tuple[int, ...], ahead: int, seed: int = 0, gaps: bool = True) -> Panel:
    return build_panel(rich_frame(lengths, ahead, seed, gaps), RICH, missing="mask")


def rich_model(shape: Shape, panel: Panel, seed: int = 0, **changes: Any) -> ForecastModel:
    """A forecaster with random weights for the panels above."""
    encoding = fit_encoding(panel, panel.ends)
    levels = (0.1, 0.5, 0.9)
    torch.manual_seed(seed)
    blocks = architecture(len(channels(shape, encoding)), 6, 2, shape, len(levels))
    ends = moments(panel.time)[panel.ends - 1].tolist()
    fields: dict[str, Any] = {
        "blocks": blocks,
        "weights": Network(blocks).weights(),
        "shape": shape,
        "season": max(1, shape.lags[0] if shape.lags else 1),
        "levels": levels,
        "columns": panel.columns,
        "frequency": panel.frequency,
        "encoding": encoding,
        "missing": "mask",
        "short": "pad",
        "cutoffs": dict(zip(panel.ids, ends, strict=True)),
        "training": {"seconds": 1.0, "settings": {"horizon": shape.horizon}},
    }
    return ForecastModel(**{**fields, **changes})


def ready(panel: Panel, shape: Shape) -> Panel:
    return extend(panel, shape.horizon)

"""Forecasts by several processes, each for its share of the series. No torch, unless torchrun started them."""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl

from gatewise.data import AnyPanel
from gatewise.errors import InputError
from gatewise.machine import process
from gatewise.tasks.forecast.model import ForecastModel


def share(panel: AnyPanel, index: int, count: int) -> AnyPanel:
    """One of ``count`` shares of the series, counted from 0.

    Shares one after the other are all series in their order; they differ by at most one series, and may be empty.

    Example:
        >>> from gatewise.data import Columns, build_panel
        >>> panel = build_panel(pl.DataFrame({"id": ["a", "b", "c"], "y": [1.0, 2.0, 3.0]}), Columns(id="id"))
        >>> [share(panel, index, 2).ids.to_list() for index in range(2)]
        [['a', 'b'], ['c']]
    """
    size, longer = divmod(len(panel.ids), count)
    begin = index * size + min(index, longer)
    chosen = np.zeros(len(panel.ids), bool)
    chosen[begin : begin + size + (index < longer)] = True
    return panel.select(chosen)


def parse_shard(text: str) -> tuple[int, int]:
    """Index (from 0) and count of a shard that is written as i/n, i from 1 to n.

    Raises:
        InputError: it is not written so.

    Example:
        >>> parse_shard("2/4")
        (1, 4)
    """
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    index, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= index <= count:
        raise InputError(f"--shard {text} is not i/n with i from 1 to n, such as 2/4 for the second of four.")
    return index - 1, count


def part_path(path: str | Path, index: int, count: int) -> Path:
    """Where a share of a table goes: parts sorted by name are in order.

    Example:
        >>> part_path("forecast.parquet", 1, 12).name
        'forecast.02-of-12.parquet'
    """
    path = Path(path)
    return path.with_name(f"{path.stem}.{index + 1:0{len(str(count))}}-of-{count}{path.suffix}")


def predict_together(model: ForecastModel, panel: AnyPanel) -> Iterable[pl.DataFrame] | None:
    """The forecast of all series by torchrun's processes together: for the first, in parts; None for the others.

    Without torchrun this process forecasts alone.

    Args:
        model: what predicts.
        panel: all series, the same in every process.

    Raises:
        InputError: a known-future covariate of the horizon is missing.
        LostProcessError: another process has ended.
    """
    if process().size == 1:
        return model.predict_parts(panel)

    # Here, because it brings torch, which forecasts alone do not need.
    from gatewise.train import joined_group

    with joined_group() as group:
        return group.gather(model.predict(share(panel, group.rank, group.size))) or None

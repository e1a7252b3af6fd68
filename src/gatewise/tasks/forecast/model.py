"""A trained forecaster: the weights and all that is needed to read a table, as one model file. No torch."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, overload

import numpy as np
import polars as pl

from gatewise.data import AnyPanel, Columns, Frequency, Panel, Store, build_panel
from gatewise.data.windows import SomePanel, extend
from gatewise.errors import InputError
from gatewise.format import Block, ModelFile, load_model, model_path, save_model
from gatewise.runtime import Model
from gatewise.runtime.encoding import Encoding
from gatewise.runtime.forecast import TASK, fits, forecast_windows
from gatewise.runtime.windows import Origins, Shape, Windows
from gatewise.tasks.forecast.inputs import windows_of
from gatewise.tasks.forecast.resolve import check_store, drop_short
from gatewise.tasks.forecast.settings import Settings

LARGEST_CUTOFFS = 90_000_000
"""Of the 100 million bytes that the header of a safetensors file may have."""
STEPS_AT_ONCE = 2**18
"""Of forecasts: 6 MiB of them with three levels."""

_UNSAVED = "0" * 64
"""In the place of a file's SHA-256, which only states of streams would need."""


@dataclass(frozen=True)
class ForecastModel:
    """What predicts.

    Attributes:
        blocks: the architecture.
        weights: by the names of the model file.
        shape: how windows are cut.
        season: steps in a season, 1 for none.
        levels: of the quantiles.
        columns: roles of the table's columns.
        frequency: of the table.
        encoding: of the covariates.
        missing: policy for missing cells.
        short: policy for short series.
        cutoffs: for each series by name, the last moment used in training (see ``moments``).
        training: the training record.
    """

    blocks: tuple[Block, ...]
    weights: Mapping[str, np.ndarray]
    shape: Shape
    season: int
    levels: tuple[float, ...]
    columns: Columns
    frequency: Frequency
    encoding: Encoding
    missing: str
    short: str
    cutoffs: Mapping[str, int]
    training: Mapping[str, Any]

    @overload
    def read(self, table: pl.DataFrame, *, forecasting: bool = True) -> tuple[Panel, tuple[str, ...]]: ...
    @overload
    def read(self, table: pl.DataFrame | Store, *, forecasting: bool = True) -> tuple[AnyPanel, tuple[str, ...]]: ...
    def read(self, table: pl.DataFrame | Store, *, forecasting: bool = True) -> tuple[AnyPanel, tuple[str, ...]]:
        """The panel of a table, with the horizon added to every series, and what was left out, in words.

        Args:
            table: a table or a store with the columns, the frequency and, where forecasts of its future are wanted,
                the known covariates of the horizon.
            forecasting: whether known-future covariates of the horizon are needed.
        """
        need_future = self.shape.horizon if forecasting else 0
        if isinstance(table, Store):
            check_store(table, self.columns, self.frequency, self.missing, need_future)
            return self._ready(table)
        return self._ready(
            build_panel(table, self.columns, frequency=self.frequency, missing=self.missing, need_future=need_future)
        )

    def _ready(self, panel: SomePanel) -> tuple[SomePanel, tuple[str, ...]]:
        need = f"{self.shape.window} rows of the model's window"
        remedy = "Give more of their history, or fit the model with a shorter window, or with --short pad or drop."
        panel, notes = drop_short(panel, self.shape.window, self.short, need, remedy)
        return extend(panel, self.shape.horizon), notes

    def inputs(self, panel: AnyPanel) -> Windows:
        """The windows of a panel."""
        return windows_of(panel, self.encoding, self.shape)

    def forecast(self, inputs: Windows, origins: Origins) -> np.ndarray:
        """float64 [n, h, Q]: the quantiles of n windows in the units of the table, ascending."""
        # Made for each call, which is little beside a forecast: what is kept is plain data.
        return forecast_windows(Model(self.file(), _UNSAVED), inputs, origins)

    def predict(self, panel: AnyPanel, inputs: Windows | None = None) -> pl.DataFrame:
        """The forecast of every series' future as a table: its id, its time, and a column for each level.

        Raises:
            InputError: a known-future covariate of the horizon is missing.
        """
        return pl.concat(self.predict_parts(panel, inputs))

    def predict_parts(self, panel: AnyPanel, inputs: Windows | None = None) -> Iterator[pl.DataFrame]:
        """``predict``, some series at a time."""
        inputs = inputs or self.inputs(panel)
        horizon, origins = self.shape.horizon, ends_of(panel)
        for part in some(inputs, origins):
            ready = inputs.ready(part)
            if not ready.all():
                series = int(part.series[np.argmin(ready)])
                raise InputError(
                    f"future covariates are missing in the horizon of series {panel.ids[series]!r}: the forecast "
                    f"needs {', '.join(self.columns.future)} for all its {horizon} steps."
                )
        return (self._predicted(panel, part, self.forecast(inputs, part)) for part in some(inputs, origins))

    def _predicted(self, panel: AnyPanel, origins: Origins, quantiles: np.ndarray) -> pl.DataFrame:
        horizon = self.shape.horizon
        series = np.repeat(origins.series, horizon)
        ids = panel.ids.gather(series)
        time = panel.stamps(series, (origins.row[:, None] + np.arange(horizon)).ravel())
        columns = {f"q{level}": quantiles[..., i].ravel() for i, level in enumerate(self.levels)}
        return pl.DataFrame({ids.name: ids, time.name: time, **columns})

    def file(self) -> ModelFile:
        """All of it as a model file holds it."""
        settings = {
            "window": self.shape.window,
            "horizon": self.shape.horizon,
            "lags": list(self.shape.lags),
            "season": self.season,
            "levels": list(self.levels),
            "columns": dict(vars(self.columns)),
            "frequency": self.frequency.text,
            "encoding": self.encoding.as_dict(),
            "missing": self.missing,
            "short": self.short,
            "cutoffs": dict(self.cutoffs),
        }
        return ModelFile(TASK, self.blocks, self.weights, settings, self.training)

    def save(self, path: str | Path) -> None:
        """Write the model file."""
        save_model(self.file(), path)

    @classmethod
    def load(cls, path: str | Path) -> "ForecastModel":
        """Read a model file, or the one in a run folder."""
        file = load_model(model_path(path))
        if file.task != TASK:
            raise InputError(f"{path} is a model for the task {file.task!r}; a forecast needs one for {TASK!r}.")
        try:
            model = cls._from_settings(cast("dict[str, Any]", file.settings), file)
            fits = model._fits()
        except InputError as error:
            raise InputError(f"model file {path} is damaged: {error}") from None
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            raise InputError(f"model file {path} is damaged: its settings are not complete ({error!r}).") from None
        if not fits:
            raise InputError(f"model file {path} is damaged: its settings do not fit its architecture.")
        return model

    def _fits(self) -> bool:
        """Whether the settings are of the sizes that the blocks were built for."""
        cutoffs = all(type(moment) is int for moment in self.cutoffs.values())
        return cutoffs and fits(self.blocks, self.shape, self.encoding, len(self.levels))

    @classmethod
    def _from_settings(cls, settings: dict[str, Any], file: ModelFile) -> "ForecastModel":
        columns: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in settings["columns"].items()
        }
        given = {name: settings[name] for name in ("horizon", "window", "season", "missing", "short")}
        Settings(**given, quantiles=tuple(settings["levels"])).check()
        return cls(
            blocks=file.architecture,
            weights=file.weights,
            shape=Shape(settings["window"], settings["horizon"], tuple(settings["lags"])),
            season=settings["season"],
            levels=tuple(settings["levels"]),
            columns=Columns(**columns),
            frequency=Frequency.parse(settings["frequency"]),
            encoding=Encoding.from_dict(settings["encoding"]),
            missing=settings["missing"],
            short=settings["short"],
            cutoffs=dict(settings["cutoffs"]),
            training=file.training,
        )


def some(inputs: Windows, origins: Origins) -> Iterator[Origins]:
    """As many windows at a time as have forecasts that are small in memory; at least one part."""
    size = max(1, STEPS_AT_ONCE // inputs.shape.horizon)
    return (origins.take(slice(at, at + size)) for at in range(0, max(len(origins), 1), size))


def ends_of(panel: AnyPanel) -> Origins:
    """The window at the end of every series."""
    return Origins(np.arange(len(panel.ids)), panel.ends)


def names_of(panel: AnyPanel) -> list[str]:
    """The names of the series as text; whole numbers that came as floats are written as whole numbers."""
    ids = panel.ids
    text = ids.cast(pl.String)
    if ids.dtype.is_float():
        whole = ids.cast(pl.Int64, strict=False)
        text = whole.cast(pl.String).zip_with(whole.cast(ids.dtype).eq(ids).fill_null(False), text)
    return text.to_list()


def moments_of(panel: AnyPanel, rows: np.ndarray) -> dict[str, int]:
    """The moment of one row [N] of each series, by the name of the series."""
    stamps = panel.stamps(np.arange(len(panel.ids)), rows)
    return dict(zip(names_of(panel), moments(stamps).tolist(), strict=True))


def check_cutoffs(cutoffs: Mapping[str, int]) -> None:
    """Raises `InputError` if a model file cannot keep so many: better before the training than after."""
    # As they will stand there: JSON as a string inside JSON.
    size = len(json.dumps(json.dumps(cutoffs, separators=(",", ":"))))
    if size > LARGEST_CUTOFFS:
        raise InputError(
            f"{len(cutoffs):,} series are too many for one model file, which keeps name and last training moment of "
            f"each: these take {size:,} bytes, and {LARGEST_CUTOFFS:,} fit. Give shorter names, or train on some of "
            "the series; the model forecasts series that it has not seen, too."
        )


def moments(time: pl.Series) -> np.ndarray:
    """int64: whole numbers as they are, stamps in microseconds since 1970 (UTC)."""
    if time.dtype == pl.Date or isinstance(time.dtype, pl.Datetime):
        time = time.cast(pl.Datetime("us")) if time.dtype == pl.Date else time.dt.cast_time_unit("us")
        return time.to_physical().to_numpy().astype(np.int64)
    return time.to_numpy().astype(np.int64)

"""Forecasting: direct multi-step quantiles from one LSTM over all series of a table.

Public names load on first use: ``Settings`` is there for the command line without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from gatewise.tasks.forecast.settings import Settings
from gatewise.tasks.forecast.space import SPACES, Range, Space

if TYPE_CHECKING:
    from gatewise.tasks.forecast.estimator import Forecaster
    from gatewise.tasks.forecast.tuning import Tuned, tune

__all__ = ["SPACES", "Forecaster", "Range", "Settings", "Space", "Tuned", "tune"]


def __getattr__(name: str) -> object:
    if name == "Forecaster":
        return import_module("gatewise.tasks.forecast.estimator").Forecaster
    if name in {"Tuned", "tune"}:
        try:
            return getattr(import_module("gatewise.tasks.forecast.tuning"), name)
        except ModuleNotFoundError as error:
            if error.name != "optuna":
                raise
            raise ModuleNotFoundError("tune needs optuna: pip install 'gatewise[tune]'", name="optuna") from error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Forecasting: direct multi-step quantiles from one LSTM over all series of a table.

Public names load on first use: ``Settings`` is there for the command line without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from gatewise.tasks.forecast.settings import Settings

if TYPE_CHECKING:
    from gatewise.tasks.forecast.estimator import Forecaster

__all__ = ["Forecaster", "Settings"]


def __getattr__(name: str) -> object:
    if name == "Forecaster":
        return import_module("gatewise.tasks.forecast.estimator").Forecaster
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

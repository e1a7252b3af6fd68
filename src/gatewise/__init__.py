"""gatewise: the LSTM, whole.

Public names load on first use, so that ``import gatewise`` stays cheap and torch is imported only by what needs it.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str
    from gatewise.nn import LSTM
    from gatewise.tasks.forecast import Forecaster

_HOME = {
    "Forecaster": "gatewise.tasks.forecast",
    "LSTM": "gatewise.nn",
}

__all__ = ["LSTM", "Forecaster", "__version__"]


def __getattr__(name: str) -> object:
    if name == "__version__":
        return version("gatewise")
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'gatewise' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

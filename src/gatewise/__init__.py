"""gatewise: the LSTM, whole.

Public names load on first use, so that ``import gatewise`` stays cheap and torch is imported only by what needs it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gatewise.machine import engine
    from gatewise.models import export_onnx, from_onnx
    from gatewise.nn import LSTM, ConvLSTM, LSTMCell, Stack, from_torch, to_torch
    from gatewise.tasks.forecast import Forecaster

    __version__: str

# Where each public name lives, and the extra that brings what it needs.
_HOME = {
    "ConvLSTM": ("gatewise.nn", "torch"),
    "Forecaster": ("gatewise.tasks.forecast", "train"),
    "LSTM": ("gatewise.nn", "torch"),
    "LSTMCell": ("gatewise.nn", "torch"),
    "Stack": ("gatewise.nn", "torch"),
    "engine": ("gatewise.machine", ""),
    "export_onnx": ("gatewise.models", "torch"),
    "from_onnx": ("gatewise.models", "torch"),
    "from_torch": ("gatewise.nn", "torch"),
    "to_torch": ("gatewise.nn", "torch"),
}

__all__ = [
    "LSTM",
    "ConvLSTM",
    "Forecaster",
    "LSTMCell",
    "Stack",
    "__version__",
    "engine",
    "export_onnx",
    "from_onnx",
    "from_torch",
    "to_torch",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("gatewise")
    if name not in _HOME:
        raise AttributeError(f"module 'gatewise' has no attribute {name!r}")
    from importlib import import_module

    home, extra = _HOME[name]
    try:
        return getattr(import_module(home), name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"gatewise.{name} needs {error.name}: pip install 'gatewise[{extra}]'", name=error.name
        ) from error


def __dir__() -> list[str]:
    return sorted(__all__)

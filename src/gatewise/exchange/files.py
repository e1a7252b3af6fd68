"""A model file as an ONNX file."""

from pathlib import Path

from gatewise.errors import InputError
from gatewise.exchange.forecast import TASK, export_forecast
from gatewise.exchange.writing import OPSETS, export_blocks
from gatewise.format import load_model

MODEL_NAME = "model.safetensors"
"""The model file of a run folder."""


def export_file(
    model: str | Path,
    path: str | Path,
    *,
    batch_first: bool | None = None,
    lengths: bool = False,
    opset: int = OPSETS[0],
) -> None:
    """Write a model file as an ONNX file.

    Args:
        model: a model file or a run folder. The graph of a forecaster has its scaling and its head inside.
        path: the file; what is there is replaced once the new one is complete.
        batch_first: whether input and output are [B, T, ·], which is the default, instead of [T, B, ·].
        lengths: whether there is an input for the lengths of the rows.
        opset: the version of the operators.

    Raises:
        InputError: the model file cannot be read, something cannot be said in ONNX, onnx is not installed, or the file
            cannot be written.
    """
    model = Path(model)
    file = load_model(model / MODEL_NAME if model.is_dir() else model)
    if file.task == TASK:
        if batch_first is not None or lengths:
            raise InputError(
                f"{model} forecasts windows of one length: its graph has no layout and no lengths to choose."
            )
        export_forecast(file, path, opset=opset)
        return
    first = True if batch_first is None else batch_first
    export_blocks(file.architecture, file.weights, path, batch_first=first, lengths=lengths, opset=opset)

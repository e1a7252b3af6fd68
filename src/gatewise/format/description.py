"""What a model file says of itself, as plain data."""

import math
from pathlib import Path
from typing import Any

from gatewise.format.blocks import describe_block
from gatewise.format.file import model_path, read_model


def describe(path: str | Path) -> dict[str, Any]:
    """Describe a model file, or the one in a run folder, once it has passed every check.

    Returns:
        JSON data: ``file``, ``bytes``, ``format``, ``task``, ``weights`` (their number), ``blocks`` (each with its
        fields and its number of ``weights``), ``settings``, ``vocabulary``, ``training`` and ``sha256``.

    Raises:
        InputError: as ``load_model``.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from gatewise.format import Linear, ModelFile, save_model
        >>> path = tempfile.mkdtemp() + "/model.safetensors"
        >>> weights = {"0.weight": np.ones((2, 3), np.float32)}
        >>> save_model(ModelFile("demo", (Linear(3, 2, bias=False),), weights), path)
        >>> describe(path)["blocks"]
        [{'block': 'linear', 'in_features': 3, 'out_features': 2, 'bias': False, 'weights': 6}]
    """
    path = model_path(path)
    model, description, size = read_model(path)
    blocks = [
        {**describe_block(block), "weights": sum(map(math.prod, block.shapes().values()))}
        for block in model.architecture
    ]
    return {
        "file": str(path),
        "bytes": size,
        "format": description["format"],
        "task": model.task,
        "weights": sum(value.size for value in model.weights.values()),
        "blocks": blocks,
        "settings": model.settings,
        "vocabulary": list(model.vocabulary),
        "training": model.training,
        "sha256": description["sha256"],
    }

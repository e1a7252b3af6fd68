"""Model files made by hand: what a person with a hex editor and a hash function could write."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from gatewise.errors import InputError
from gatewise.format import Linear, Lstm, ModelFile, QuantileMix, load_model

BLOCKS = (Lstm(3, 2, 2), Linear(2, 5), QuantileMix(2, 3))


def model(**training: object) -> ModelFile:
    rng = np.random.default_rng(0)
    empty = ModelFile("forecast", BLOCKS, {})
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in empty.shapes().items()}
    settings = {"levels": [0.1, 0.5, 0.9], "name": 'quoted " and \\ and 目', "nothing": None, "deep": {"a": [1, {}]}}
    return ModelFile("forecast", BLOCKS, weights, settings, training or {"seconds": 1.5})


def description() -> dict:
    return {
        "format": 1,
        "task": "forecast",
        "architecture": [
            {"block": "lstm", "input_size": 3, "hidden_size": 2, "num_layers": 2, "cell": "lstm"},
            {"block": "linear", "in_features": 2, "out_features": 5},
            {"block": "quantile_mix", "candidates": 2, "quantiles": 3},
        ],
        "settings": {},
        "training": {},
        "sha256": "0" * 64,
    }


def write(path: Path, text: object, weights: dict | None = None) -> Path:
    """A file whose SHA-256 is right, around any description and any arrays."""
    text = text if isinstance(text, str) else json.dumps(text, sort_keys=True, separators=(",", ":"))
    return sign(path, save(dict(model().weights) if weights is None else weights, metadata={"gatewise": text}))


def sign(path: Path, data: bytes) -> Path:
    assert data.count(b"0" * 64) == 1
    path.write_bytes(data.replace(b"0" * 64, hashlib.sha256(data).hexdigest().encode()))
    return path


def refused(path: Path, message: str) -> None:
    """The file is refused with a sentence that names it."""
    with pytest.raises(InputError, match=f"(?s){message}") as caught:
        load_model(path)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    assert text.endswith((".", "upgrade gatewise"))

"""Model files made by hand: what a person with a hex editor and a hash function could write."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from gatewise.errors import InputError
from gatewise.format import Linear, Lstm, ModelFile, QuantileMix, describe_block, load_model

BLOCKS = (Lstm(3, 2, 2), Linear(2, 5), QuantileMix(2, 3))


def model(**training: object) -> ModelFile:
    rng = np.random.default_rng(0)
    empty = ModelFile("forecast", BLOCKS, {})
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in empty.shapes().items()}
    settings = {"levels": [0.1, 0.5, 0.9], "name": 'quoted " and \\ and 目', "nothing": None, "deep": {"a": [1, {}]}}
    return ModelFile("forecast", BLOCKS, weights, settings, training or {"seconds": 1.5})


def description() -> dict:
    return {
        "format": 2,
        "task": "forecast",
        "architecture": [describe_block(block) for block in BLOCKS],
        "settings": {},
        "training": {},
        "vocabulary": [],
        "sha256": "0" * 64,
    }


def first_description() -> dict:
    """The same in format 1."""
    given = {name: value for name, value in description().items() if name != "vocabulary"}
    architecture = [
        {"block": "lstm", "input_size": 3, "hidden_size": 2, "num_layers": 2, "cell": "lstm"},
        {"block": "linear", "in_features": 2, "out_features": 5},
        {"block": "quantile_mix", "candidates": 2, "quantiles": 3},
    ]
    return given | {"format": 1, "architecture": architecture}


def unsigned(text: object = None) -> bytes:
    """The bytes of a file whose SHA-256 is still blank, around a description."""
    given = json.dumps(description() if text is None else text, sort_keys=True, separators=(",", ":"))
    return save(dict(model().weights), metadata={"gatewise": given})


def split_header(data: bytes) -> tuple[dict, bytes]:
    """The header of a file as JSON, and the bytes after it."""
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def with_header(header: bytes, body: bytes) -> bytes:
    """The bytes of a file with any header."""
    return len(header).to_bytes(8, "little") + header + body


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

"""The model file: written whole or not at all, checked whole before anything in it is used.

Nothing here runs code from a file: safetensors holds arrays only, and the description is JSON.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from gatewise.errors import InputError
from gatewise.format.atomic import atomic_file
from gatewise.format.blocks import Block, Shapes, describe_block, parse_blocks

FORMAT_VERSION = 1
_KEY = "gatewise"
_BLANK = "0" * 64
# The JSON text stands as a string inside the JSON of the header, so its quotes are escaped there.
_SHA = re.compile(rb'\\"sha256\\":\\"([0-9a-f]{64})\\"')
# The length of a header of 896 bytes starts like a pickle too, but ends in zeros before a brace.
_PICKLE = re.compile(rb"PK\x03\x04|\x80[\x00-\x05](?!\x00{6}\{)")
_LENGTH_BYTES = 8


@dataclass(frozen=True)
class ModelFile:
    """What a model file holds.

    Attributes:
        task: what the model does, for instance "forecast".
        architecture: the blocks, in the order in which data passes through them.
        weights: arrays, named ``{position of the block}.{name of the weight}``.
        settings: what the task needs around the blocks (scaling, columns, …), as plain data.
        training: the training record, as plain data.
    """

    task: str
    architecture: tuple[Block, ...]
    weights: Mapping[str, np.ndarray]
    settings: Mapping[str, object] = field(default_factory=dict[str, object])
    training: Mapping[str, object] = field(default_factory=dict[str, object])

    def shapes(self) -> Shapes:
        """Name and shape of every weight that the architecture has."""
        return {
            f"{index}.{name}": shape
            for index, block in enumerate(self.architecture)
            for name, shape in block.shapes().items()
        }


def save_model(model: ModelFile, path: str | Path) -> None:
    """Write a model file; on any failure the file that was there before is untouched.

    Raises:
        InputError: the weights are not those of the architecture, or the file cannot be written.
    """
    _check_weights(model, str(path))
    text = _canonical(
        {
            "format": FORMAT_VERSION,
            "task": model.task,
            "architecture": [describe_block(block) for block in model.architecture],
            "settings": model.settings,
            "training": model.training,
            "sha256": _BLANK,
        }
    )
    weights = {name: np.ascontiguousarray(value) for name, value in model.weights.items()}
    data = save_arrays(weights, metadata={_KEY: text})
    start, end = _digest_span(data, str(path))
    digest = hashlib.sha256(data).hexdigest().encode()
    with atomic_file(path) as file:
        file.write(data[:start] + digest + data[end:])


def load_model(path: str | Path) -> ModelFile:
    """Read and check a model file.

    Raises:
        InputError: the file is missing, damaged, of a newer format, or not a model file (a pickle, say, which is not
            opened).
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"model file {path} does not exist.") from None
    except OSError as error:
        raise InputError(f"model file {path} cannot be read: {error.strerror}.") from None
    if _PICKLE.match(data):
        raise InputError(f"{path} is a pickle, which can run code when it is opened; gatewise reads .safetensors only.")
    header = _header(data, path)
    description = _description(header, path)
    _check_digest(data, path)
    model = _parse(description, _arrays(data, path), path)
    _check_weights(model, str(path))
    return model


def _canonical(value: object) -> str:
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"the model's description cannot be written as JSON: {error}.") from error


def _header(data: bytes, path: Path) -> bytes:
    size = int.from_bytes(data[:_LENGTH_BYTES], "little")
    header = data[_LENGTH_BYTES : _LENGTH_BYTES + size]
    if len(data) < _LENGTH_BYTES or not header.startswith(b"{"):
        raise InputError(f"{path} is not a model file: it is not in the safetensors format.")
    if len(header) < size:
        raise InputError(f"model file {path} is damaged: it ends before its header does.")
    return header


def _description(header: bytes, path: Path) -> dict[str, object]:
    try:
        text = cast("dict[str, dict[str, str]]", json.loads(header)).get("__metadata__", {}).get(_KEY)
    except (ValueError, AttributeError, RecursionError):
        raise InputError(f"model file {path} is damaged: its header is not JSON.") from None
    if not isinstance(text, str):
        raise InputError(f"{path} holds weights but no gatewise model; gatewise reads the files that it wrote.")
    try:
        description = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(f"model file {path} is damaged: its description is not JSON.") from None
    if not isinstance(description, dict):
        raise InputError(f"model file {path} is damaged: its description is not an object.")
    description = cast("dict[str, object]", description)
    version = description.get("format")
    if type(version) is not int or version < 1:
        raise InputError(f"model file {path} is damaged: it has no format version.")
    if version > FORMAT_VERSION:
        raise InputError(
            f"model file {path} has format {version}, from a newer gatewise; this one reads up to format "
            f"{FORMAT_VERSION}. Update with: pip install --upgrade gatewise"
        )
    return description


def _digest_span(data: bytes, path: str) -> tuple[int, int]:
    header_end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
    found = list(_SHA.finditer(data, 0, header_end))
    if len(found) != 1:
        raise InputError(f"model file {path} is damaged: it must state its SHA-256 once, not {len(found)} times.")
    return found[0].span(1)


def _check_digest(data: bytes, path: Path) -> None:
    start, end = _digest_span(data, str(path))
    blanked = data[:start] + _BLANK.encode() + data[end:]
    if hashlib.sha256(blanked).hexdigest().encode() != data[start:end]:
        raise InputError(f"model file {path} is damaged: its content does not match its SHA-256. Copy it again.")


def _arrays(data: bytes, path: Path) -> dict[str, np.ndarray]:
    try:
        return load_arrays(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"model file {path} is damaged: {error}.") from None


def _parse(description: dict[str, object], weights: dict[str, np.ndarray], path: Path) -> ModelFile:
    task, settings, training = (description.get(name) for name in ("task", "settings", "training"))
    if not isinstance(task, str) or not isinstance(settings, dict) or not isinstance(training, dict):
        raise InputError(f"model file {path} is damaged: task, settings or training record is missing.")
    try:
        architecture = parse_blocks(description.get("architecture"))
    except InputError as error:
        raise InputError(f"model file {path}: {error}") from None
    return ModelFile(
        task, architecture, weights, cast("dict[str, object]", settings), cast("dict[str, object]", training)
    )


def _check_weights(model: ModelFile, path: str) -> None:
    expected = model.shapes()
    if set(expected) != set(model.weights):
        odd = ", ".join(sorted(set(expected) ^ set(model.weights))[:3])
        raise InputError(f"model file {path}: the weights are not those of its architecture ({odd}).")
    for name, shape in expected.items():
        value = model.weights[name]
        if value.dtype != np.float32 or value.shape != shape:
            raise InputError(
                f"model file {path}: weight {name} must be float32 {list(shape)}, not {value.dtype} "
                f"{list(value.shape)}."
            )
        if not np.isfinite(value).all():
            raise InputError(f"model file {path}: weight {name} has values that are not finite.")

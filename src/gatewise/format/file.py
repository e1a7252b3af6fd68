"""The model file: written whole or not at all, checked whole before anything in it is used.

Nothing here runs code from a file: safetensors holds arrays only, and the description is JSON.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from gatewise.errors import InputError
from gatewise.format.architecture import FORMAT_VERSION, check_chain, parse_blocks
from gatewise.format.atomic import atomic_file
from gatewise.format.blocks import Block, Scaling, describe_block
from gatewise.format.container import METADATA, check_arrays, check_stated, header_end, read_header, read_object
from gatewise.format.fields import shown
from gatewise.spec import Shapes

MODEL_NAME = "model.safetensors"
"""The model file of a run folder."""

_KEY = "gatewise"
_BLANK = "0" * 64
# The JSON text stands as a string inside the JSON of the header, so its quotes are escaped there.
_SHA = re.compile(rb'\\"sha256\\":\\"([0-9a-f]{64})\\"')
# The length of a header of 896 bytes starts like a pickle too, but ends in zeros before a brace.
_PICKLE = re.compile(rb"PK\x03\x04|\x80[\x00-\x05](?!\x00{6}\{)")


@dataclass(frozen=True)
class ModelFile:
    """What a model file holds.

    Attributes:
        task: what the model does, for instance "forecast".
        architecture: the blocks, in the order in which data passes through them.
        weights: arrays, named ``{position of the block}.{name of the weight}``.
        settings: what the task needs around the blocks (scaling, columns, …), as plain data.
        training: the training record, as plain data.
        vocabulary: the symbols that the whole numbers of an input or output stand for, each once; empty for none.
    """

    task: str
    architecture: tuple[Block, ...]
    weights: Mapping[str, np.ndarray]
    settings: Mapping[str, object] = field(default_factory=dict[str, object])
    training: Mapping[str, object] = field(default_factory=dict[str, object])
    vocabulary: tuple[str, ...] = ()

    def shapes(self) -> Shapes:
        """Name and shape of every weight that the architecture has."""
        return _shapes(self.architecture)


class Reading(NamedTuple):
    """A model file that has passed every check, with what is said of the file itself.

    Attributes:
        model: what it holds.
        description: the JSON of its metadata, as it stands there.
        size: its bytes.
    """

    model: ModelFile
    description: Mapping[str, Any]
    size: int


def save_model(model: ModelFile, path: str | Path) -> None:
    """Write a model file; on any failure the file that was there before is untouched.

    Raises:
        InputError: the blocks do not fit each other, the weights are not those of the architecture, or the file cannot
            be written.
    """
    check_chain(model.architecture)
    _check_vocabulary(model.vocabulary, str(path))
    stated = {name: (str(value.dtype), value.shape) for name, value in model.weights.items()}
    check_stated(stated, model.shapes(), str(path))
    _check_values(model, str(path))
    text = _canonical(
        {
            "format": FORMAT_VERSION,
            "task": model.task,
            "architecture": [describe_block(block) for block in model.architecture],
            "settings": model.settings,
            "training": model.training,
            "vocabulary": model.vocabulary,
            "sha256": _BLANK,
        }
    )
    read_object(text, "description", str(path))
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
    return read_model(path).model


def model_path(path: str | Path) -> Path:
    """The model file that a run folder holds, or the path itself."""
    path = Path(path)
    return path / MODEL_NAME if path.is_dir() else path


def read_model(path: str | Path) -> Reading:
    """``load_model``, and the description and size of the file."""
    data, path = _bytes(Path(path)), str(path)
    header = read_header(data, path)
    description = _description(header, path)
    _check_digest(data, path)
    parts = _parts(description, path)
    architecture = _architecture(description, path)
    # A short file can list a million layers: no more names need be made than it has arrays.
    check_arrays(header, _shapes(architecture, most=len(header)), data, path)
    model = ModelFile(architecture=architecture, weights=_arrays(data, path), **parts)
    _check_values(model, path)
    return Reading(model, description, len(data))


def _shapes(blocks: Sequence[Block], most: int | None = None) -> Shapes:
    """Name and shape of every weight; with ``most``, not many more than that."""
    shapes: Shapes = {}
    for index, block in enumerate(blocks):
        shapes |= {f"{index}.{name}": shape for name, shape in block.shapes().items()}
        if most is not None and len(shapes) > most:
            break
    return shapes


def _canonical(value: object) -> str:
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"the model's description cannot be written as JSON: {error}.") from error


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"model file {path} does not exist: give a run folder or a model file.") from None
    except OSError as error:
        raise InputError(f"model file {path} cannot be read: {error.strerror}.") from None
    if _PICKLE.match(data):
        raise InputError(f"{path} is a pickle, which can run code when it is opened; gatewise reads .safetensors only.")
    return data


def _description(header: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The description, of a version that can be read."""
    metadata = header.get(METADATA)
    text = cast("dict[str, object]", metadata).get(_KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise InputError(f"{path} holds weights but no gatewise model; gatewise reads the files that it wrote.")
    description = read_object(text, "description", path)
    version = description.get("format")
    if type(version) is not int or version < 1:
        raise InputError(f"model file {path} is damaged: it has no format version.")
    if version > FORMAT_VERSION:
        raise InputError(
            f"model file {path} has format {shown(version)}, from a newer gatewise; this one reads up to format "
            f"{FORMAT_VERSION}. Update with: pip install --upgrade gatewise"
        )
    return description


def _digest_span(data: bytes, path: str) -> tuple[int, int]:
    found = list(_SHA.finditer(data, 0, header_end(data)))
    if len(found) != 1:
        raise InputError(f"model file {path} is damaged: it must state its SHA-256 once, not {len(found)} times.")
    return found[0].span(1)


def _check_digest(data: bytes, path: str) -> None:
    start, end = _digest_span(data, path)
    view = memoryview(data)
    digest = hashlib.sha256(view[:start])
    digest.update(_BLANK.encode())
    digest.update(view[end:])
    if digest.hexdigest().encode() != data[start:end]:
        raise InputError(f"model file {path} is damaged: its content does not match its SHA-256. Copy it again.")


def _parts(description: Mapping[str, Any], path: str) -> dict[str, Any]:
    """All of a description that is about the model and not its blocks."""
    parts: dict[str, tuple[type, str]] = {
        "task": (str, "text"),
        "settings": (dict, "an object"),
        "training": (dict, "an object"),
    }
    if description["format"] > 1:
        parts["vocabulary"] = (list, "a list")
    known = {"format", "architecture", "sha256", *parts}
    if set(description) != known:
        raise InputError(f"model file {path} is damaged: its description must have {', '.join(sorted(known))}.")
    for name, (kind, text) in parts.items():
        if not isinstance(description[name], kind):
            raise InputError(f"model file {path} is damaged: {name} must be {text}.")
    vocabulary = tuple(description.get("vocabulary", ()))
    _check_vocabulary(vocabulary, path)
    return {name: description[name] for name in parts} | {"vocabulary": vocabulary}


def _check_vocabulary(vocabulary: Sequence[object], path: str) -> None:
    if not all(isinstance(symbol, str) for symbol in vocabulary) or len(set(vocabulary)) < len(vocabulary):
        raise InputError(f"model file {path}: the vocabulary must hold texts, and each once.")


def _architecture(description: Mapping[str, Any], path: str) -> tuple[Block, ...]:
    try:
        return parse_blocks(description["architecture"], description["format"])
    except InputError as error:
        raise InputError(f"model file {path}: {error}") from None


def _arrays(data: bytes, path: str) -> dict[str, np.ndarray]:
    try:
        return load_arrays(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"model file {path} is damaged: {error}.") from None


def _check_values(model: ModelFile, path: str) -> None:
    for name, value in model.weights.items():
        if not np.isfinite(value).all():
            raise InputError(f"model file {path}: weight {name} has values that are not finite.")
    for index, block in enumerate(model.architecture):
        if isinstance(block, Scaling) and not (model.weights[f"{index}.std"] > 0).all():
            raise InputError(f"model file {path}: weight {index}.std of the scaling must be above 0 everywhere.")

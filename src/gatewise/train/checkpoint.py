"""Checkpoints: all that a training run needs to go on as if it had never stopped, in one file each.

A file is a line with its name and version, a line with the SHA-256 of what follows, and a safetensors container whose
metadata hold everything that is no tensor, as JSON. Reading one runs no code.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from gatewise.errors import InputError
from gatewise.format import atomic_file

KEPT = 2
_MAGIC = b"gatewise checkpoint 1\n"
_DIGEST_BYTES = 64
_NAME = re.compile(r"step-(\d{10})\.checkpoint")
_KIND = "~"


class DamagedCheckpointError(InputError):
    """A checkpoint that is not what was saved."""


@final
class Checkpoints:
    """The checkpoints of one run: a folder with the last two.

    Args:
        folder: where they are; made when the first is saved. What a save that was killed left there is removed.
        resume: whether to go on from the last one; otherwise those of an earlier run are removed when training begins.
        identity: what a run must share with the one that it continues, as plain data by name: of its data, its model.
            A checkpoint of another is refused.

    Example:
        >>> import tempfile
        >>> checkpoints = Checkpoints(tempfile.mkdtemp(), resume=True)
        >>> _ = checkpoints.save(100, {"weights": torch.ones(3), "epoch": 1})
        >>> state, notes = checkpoints.last()
        >>> state["weights"], state["epoch"], notes
        (tensor([1., 1., 1.]), 1, [])
    """

    def __init__(self, folder: str | Path, *, resume: bool = False, identity: Mapping[str, Any] | None = None):
        self.folder = Path(folder)
        self.resume = resume
        self.identity = dict(identity or {})
        self._damaged: list[Path] = []

    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        """Write the state after a step, durably, and remove all but the last two.

        Args:
            step: counted over all epochs, from 0.
            state: tensors, arrays, numbers, texts and None, in mappings, lists and tuples.

        Raises:
            InputError: it cannot be written; the ones before are untouched.
        """
        path = self.folder / f"step-{step:010d}.checkpoint"
        data = _packed({"identity": self.identity, **state})
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.folder} cannot be made: {error.strerror}.") from error
        with atomic_file(path) as file:
            file.write(_MAGIC + hashlib.sha256(data).hexdigest().encode() + b"\n")
            file.write(data)
        # What was passed over when the run went on must not take the place of a good one.
        for superfluous in {*self._damaged, *self._paths()[KEPT + len(self._damaged) :]} - {path}:
            superfluous.unlink(missing_ok=True)
        self._damaged = []
        return path

    def last(self) -> tuple[dict[str, Any] | None, list[str]]:
        """The state of the last checkpoint that is whole, None if there is none, and what was passed over, in words.

        Raises:
            InputError: there are checkpoints, but all are damaged; or the last is of another run.
        """
        notes: list[str] = []
        self._damaged = []
        for path in self._paths():
            try:
                state = read_checkpoint(path)
            except DamagedCheckpointError as error:
                notes.append(str(error))
                self._damaged.append(path)
                continue
            self._check_identity(path, state["identity"])
            return state, notes
        if notes:
            raise InputError(f"no checkpoint in {self.folder} can be read: {' '.join(notes)} Begin anew.")
        return None, []

    def clear(self) -> None:
        """Remove what saves that were killed left; without ``resume`` the checkpoints, too."""
        leftovers = self.folder.glob(".*.tmp") if self.folder.is_dir() else []
        for path in [*leftovers, *([] if self.resume else self._paths())]:
            path.unlink(missing_ok=True)

    def _paths(self) -> list[Path]:
        """The newest first."""
        found = self.folder.iterdir() if self.folder.is_dir() else []
        return sorted((path for path in found if _NAME.fullmatch(path.name)), reverse=True)

    def _check_identity(self, path: Path, saved: Mapping[str, Any]) -> None:
        # As it comes back from JSON, where tuples and lists are one.
        mine = json.loads(json.dumps(self.identity))
        saved = json.loads(json.dumps(saved))
        for name in sorted({*saved, *mine}):
            if saved.get(name) != mine.get(name):
                raise InputError(
                    f"{path} is of another run: {name} was {saved.get(name)!r} and is {mine.get(name)!r} now. Go on "
                    "with the same, or begin anew."
                )


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read one checkpoint.

    Raises:
        DamagedCheckpointError: it is not as it was saved; the text names the file.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DamagedCheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    head = len(_MAGIC) + _DIGEST_BYTES + 1
    if not data.startswith(_MAGIC):
        raise DamagedCheckpointError(f"{path} is damaged, or no checkpoint of this version.")
    body = memoryview(data)[head:]
    if data[len(_MAGIC) : head] != hashlib.sha256(body).hexdigest().encode() + b"\n":
        raise DamagedCheckpointError(f"{path} is damaged: it is not the bytes that were saved.")
    try:
        return _unpacked(bytes(body))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpointError(f"{path} is damaged: {error}.") from None


def _packed(state: Mapping[str, Any]) -> bytes:
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_plain(state, tensors))
    return save(tensors, metadata={"state": tree})


def _unpacked(data: bytes) -> dict[str, Any]:
    size = int.from_bytes(data[:8], "little")
    tree = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["state"])
    return _rebuilt(tree, load(data))


def _plain(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The value as JSON has it, its tensors put aside; what JSON lacks becomes an object with its kind."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor | np.ndarray):
        name = str(len(tensors))
        kind = "tensor" if isinstance(value, Tensor) else "array"
        # A copy, because tensors that share memory cannot be saved apart.
        tensors[name] = torch.as_tensor(value).detach().cpu().clone().contiguous()
        return {_KIND: kind, "name": name}
    if isinstance(value, Mapping):
        return {_KIND: "dict", "items": [[_plain(k, tensors), _plain(v, tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {_KIND: kind, "items": [_plain(item, tensors) for item in value]}
    raise TypeError(f"a checkpoint cannot hold {type(value).__name__}")


def _rebuilt(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    kind = value[_KIND]
    if kind in {"tensor", "array"}:
        tensor = tensors[value["name"]]
        return tensor if kind == "tensor" else tensor.numpy()
    items: Iterator[Any] = iter(value["items"])
    if kind == "dict":
        return {_rebuilt(k, tensors): _rebuilt(v, tensors) for k, v in items}
    return (list if kind == "list" else tuple)(_rebuilt(item, tensors) for item in items)

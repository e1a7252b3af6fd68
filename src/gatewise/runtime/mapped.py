"""Packed weights in a file that several processes map."""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gatewise import _native
from gatewise.errors import InputError
from gatewise.format import atomic_file

_LAYOUT = 2
"""Changes whenever the core's packing does."""


def mapped(
    folder: Path, identity: str, model: _native.Model, pack: Callable[[NDArray[np.float32]], object]
) -> NDArray[np.float32]:
    """Return the packed weights of a model, mapped from a file, which is written if it is not there.

    Args:
        folder: where the file is; its name tells the model, the instruction set and the layout.
        identity: tells the model file, by its SHA-256, and how its weights are kept.
        model: whose packing it is.
        pack: packs the weights into an array.

    Raises:
        InputError: the file cannot be written or read, or is damaged.
    """
    path = folder / f"{identity}-{model.isa}-{_LAYOUT}.packed"
    count = max(model.packed_size, 1)
    if not os.path.exists(path):
        with _turn(folder):
            if not os.path.exists(path):
                _write(path, count, pack)
    try:
        data = np.memmap(path, np.uint8, mode="r")
    except (OSError, ValueError) as error:
        raise InputError(f"the shared weights {path} cannot be read: {error}.") from None
    values, digest = data[: 4 * count], data[4 * count :].tobytes()
    if hashlib.sha256(values.data).digest() != digest:
        raise InputError(f"the shared weights {path} are damaged: remove the file, and the next load writes it anew.")
    return values.view(np.float32)


def _write(path: Path, count: int, pack: Callable[[NDArray[np.float32]], object]) -> None:
    # Zeros, because packing leaves gaps, and what memory held before is nobody's to read.
    weights = np.zeros(count, np.float32)
    pack(weights)
    with atomic_file(path) as file:
        file.write(weights.data)
        file.write(hashlib.sha256(weights.data).digest())


@contextlib.contextmanager
def _turn(folder: Path) -> Generator[None]:
    """Keep other processes waiting: two that began together would map a file each."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise InputError(f"the folder for shared weights, {folder}, cannot be used: {error.strerror}.") from None
    try:
        # Some folders on a network have no locks; the worst is a second copy in memory.
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)

"""The states of named streams in one file, so that the streams go on in another process."""

import hashlib
import struct
from collections.abc import Mapping
from pathlib import Path

from gatewise.errors import InputError
from gatewise.format import atomic_file

_HEAD = struct.Struct("<4sHHI")
"""Magic, version, zero, number of streams."""
_ENTRY = struct.Struct("<iI")
"""Bytes of the name in UTF-8, −1 for the unnamed stream; bytes of the state. The two follow."""
_MAGIC, _VERSION = b"gwss", 1
_DIGEST = hashlib.sha256().digest_size

States = Mapping[str | None, bytes]


def write_states(states: States, path: str | Path) -> None:
    """Write the states of streams, by name."""
    data = _HEAD.pack(_MAGIC, _VERSION, 0, len(states))
    for name, state in states.items():
        text = b"" if name is None else name.encode()
        data += _ENTRY.pack(-1 if name is None else len(text), len(state)) + text + state
    with atomic_file(path) as file:
        file.write(data + hashlib.sha256(data).digest())


def read_states(path: str | Path) -> dict[str | None, bytes]:
    """Read what ``write_states`` wrote.

    Raises:
        InputError: the file cannot be read, is none of states, of a newer version, or damaged.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"the states {path} cannot be read: {error.strerror}.") from None
    if len(data) < _HEAD.size + _DIGEST or not data.startswith(_MAGIC):
        raise InputError(f"{path} is not a file of streams' states.")
    _, version, _, count = _HEAD.unpack_from(data)
    if version > _VERSION:
        raise InputError(f"the states {path} have version {version}, from a newer gatewise; this reads {_VERSION}.")
    body, digest = data[:-_DIGEST], data[-_DIGEST:]
    if hashlib.sha256(body).digest() != digest:
        raise InputError(f"the states {path} are damaged: the content does not match its SHA-256.")
    states: dict[str | None, bytes] = {}
    at = _HEAD.size
    for _ in range(count):
        named, size = _ENTRY.unpack_from(body, at)
        at += _ENTRY.size
        name = None if named < 0 else body[at : at + named].decode()
        at += max(named, 0)
        states[name] = body[at : at + size]
        at += size
    return states

"""The states of a stream as bytes that know where they belong."""

import struct
import zlib
from typing import cast

from gatewise.errors import InputError

_MAGIC = b"gwst"
_VERSION = 1
_HEADER = struct.Struct("<4sHH32sI")
"""Magic, version, zero, SHA-256 of the model file, bytes of values."""
_CHECKSUM = struct.Struct("<I")
"""The last bytes: CRC-32 of all before them."""


def write_state(values: bytes, identity: str) -> bytes:
    """Return the states of a stream between a header and a checksum.

    Args:
        values: float32, little-endian, in the core's order.
        identity: the SHA-256 that the model file states.
    """
    data = _HEADER.pack(_MAGIC, _VERSION, 0, bytes.fromhex(identity), len(values)) + values
    return data + _CHECKSUM.pack(zlib.crc32(data))


def read_state(data: object, identity: str, size: int) -> bytes:
    """Return the values of ``write_state``.

    Args:
        data: the bytes that it returned.
        identity: of the model that is to go on.
        size: the bytes of values that it has.

    Raises:
        InputError: they are no states, damaged, of a newer version, or of another model.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise InputError(f"a state must be the bytes that state or snapshot gave, not {type(data).__name__}.")
    data = bytes(cast("bytes", data))
    if len(data) < _HEADER.size or not data.startswith(_MAGIC):
        raise InputError("these bytes are not the state of a stream.")
    _, version, _, model, count = _HEADER.unpack_from(data)
    if version > _VERSION:
        raise InputError(f"the state has version {version}, from a newer gatewise; this one reads up to {_VERSION}.")
    rest, checksum = data[: -_CHECKSUM.size], data[-_CHECKSUM.size :]
    values = rest[_HEADER.size :]
    if len(values) != count or _CHECKSUM.pack(zlib.crc32(rest)) != checksum:
        raise InputError("the state is damaged: its bytes do not match its checksum.")
    if model.hex() != identity or count != size:
        raise InputError(f"the state is of another model ({model.hex()[:12]}…), not of this one ({identity[:12]}…).")
    return values

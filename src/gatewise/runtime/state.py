"""The states of a stream as bytes that know where they belong."""

import struct
import zlib

from gatewise.errors import InputError

_MAGIC = b"gwst"
_VERSION = 1
_HEADER = struct.Struct("<4sHH32sII")
"""Magic, version, zero, SHA-256 of the model file, bytes of values, CRC-32 of the values."""


def write_state(values: bytes, identity: str) -> bytes:
    """Return the states of a stream with a header.

    Args:
        values: float32, little-endian, in the core's order.
        identity: the SHA-256 that the model file states.
    """
    header = _HEADER.pack(_MAGIC, _VERSION, 0, bytes.fromhex(identity), len(values), zlib.crc32(values))
    return header + values


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
    data = bytes(data)
    if len(data) < _HEADER.size or not data.startswith(_MAGIC):
        raise InputError("these bytes are not the state of a stream.")
    _, version, _, model, count, checksum = _HEADER.unpack_from(data)
    if version > _VERSION:
        raise InputError(f"the state has version {version}, from a newer gatewise; this one reads up to {_VERSION}.")
    values = data[_HEADER.size :]
    if len(values) != count or zlib.crc32(values) != checksum:
        raise InputError("the state is damaged: its values do not match its header.")
    if model.hex() != identity or count != size:
        raise InputError(f"the state is of another model ({model.hex()[:12]}…), not of this one ({identity[:12]}…).")
    return values

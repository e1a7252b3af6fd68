"""The safetensors container, read as text and numbers: nothing of its size is believed before it is checked.

A file is 8 bytes with the length of the header, the header (a JSON object that names each array's type, shape and
place), and the arrays' bytes.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn, cast

from gatewise.errors import InputError
from gatewise.format.fields import shown
from gatewise.spec import Shapes

LENGTH_BYTES = 8
MAX_HEADER = 100_000_000
"""As the safetensors library has it."""
MAX_DEPTH = 64
METADATA = "__metadata__"
FLOAT32 = "float32"
_FLOAT32_BYTES = 4
_NAMES = {"F16": "float16", "F32": FLOAT32, "F64": "float64", "I32": "int32", "I64": "int64"}

Stated = Mapping[str, tuple[str, tuple[int, ...]]]
"""Type and shape of each array by its name."""


def header_end(data: bytes) -> int:
    """Where the header ends, as its first bytes state it."""
    return LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "little")


def read_header(data: bytes, path: str) -> dict[str, Any]:
    """Read the header.

    Raises:
        InputError: the file is not of this format, or its header is cut off, too large or not a JSON object.
    """
    end = header_end(data)
    size = end - LENGTH_BYTES
    if len(data) < LENGTH_BYTES or not data.startswith(b"{", LENGTH_BYTES) or not size:
        raise InputError(f"{path} is not a model file: it is not in the safetensors format.")
    if len(data) < end:
        raise InputError(f"model file {path} is damaged: it ends before its header does.")
    if size > MAX_HEADER:
        raise InputError(f"model file {path} is damaged: its header has {size:,} bytes, more than {MAX_HEADER:,}.")
    return read_object(data[LENGTH_BYTES:end], "header", path)


def read_object(text: str | bytes, what: str, path: str) -> dict[str, Any]:
    """Read a JSON object; a name twice in one object, NaN and infinity are refused, which Python lets pass.

    Raises:
        InputError: it is not JSON, or not an object; ``what`` names it.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except _ForeignJsonError as error:
        raise InputError(f"model file {path} is damaged: its {what} {error}.") from None
    except (ValueError, RecursionError):
        raise InputError(f"model file {path} is damaged: its {what} is not JSON.") from None
    if not isinstance(value, dict):
        raise InputError(f"model file {path} is damaged: its {what} is not an object.")
    if _deeper(value, MAX_DEPTH):
        raise InputError(f"model file {path} is damaged: its {what} is nested deeper than {MAX_DEPTH} levels.")
    return cast("dict[str, Any]", value)


def check_arrays(header: Mapping[str, Any], expected: Shapes, data: bytes, path: str) -> None:
    """Refuse arrays that are not the expected ones, float32, in the bytes after the header, each byte in one of them.

    Raises:
        InputError: the text says what is wrong with which array.
    """
    places = {name: value for name, value in header.items() if name != METADATA}
    check_stated({name: _stated(name, value, path) for name, value in places.items()}, expected, path)
    end = 0
    spans = {name: _span(name, value, path) for name, value in places.items()}
    for name, (start, stop) in sorted(spans.items(), key=lambda item: item[1]):
        size = _FLOAT32_BYTES * math.prod(expected[name])
        if stop - start != size:
            held = shown(stop - start)
            raise InputError(f"model file {path} is damaged: weight {name} has {held} bytes, not {size}.")
        if start != end:
            fault = "overlaps the one before" if start < end else f"leaves {shown(start - end)} bytes unused before it"
            raise InputError(f"model file {path} is damaged: weight {name} {fault}.")
        end = stop
    held = len(data) - header_end(data)
    if end != held:
        raise InputError(f"model file {path} is damaged: its weights have {end} bytes, but it holds {held}.")


def check_stated(stated: Stated, expected: Shapes, path: str) -> None:
    """Refuse arrays of other names, types or shapes than expected.

    Raises:
        InputError: the text names some of them.
    """
    if set(expected) != set(stated):
        odd = ", ".join(name if name.isprintable() else shown(name) for name in sorted(set(expected) ^ set(stated))[:3])
        raise InputError(f"model file {path}: the weights are not those of its architecture ({odd}).")
    for name, shape in expected.items():
        if stated[name] != (FLOAT32, shape):
            kind, other = stated[name]
            raise InputError(
                f"model file {path}: weight {name} must be float32 {list(shape)}, not {kind} {shown(list(other))}."
            )


def _stated(name: str, value: object, path: str) -> tuple[str, tuple[int, ...]]:
    if not isinstance(value, dict) or set(cast("dict[str, Any]", value)) != {"dtype", "shape", "data_offsets"}:
        raise InputError(f"model file {path} is damaged: the header's entry {shown(name)} is not an array's.")
    entry = cast("dict[str, Any]", value)
    dtype = entry["dtype"]
    kind = _NAMES.get(dtype, shown(dtype)) if isinstance(dtype, str) else shown(dtype)
    return kind, tuple(_numbers(name, entry["shape"], path))


def _span(name: str, value: Mapping[str, Any], path: str) -> tuple[int, int]:
    numbers = _numbers(name, value["data_offsets"], path)
    if len(numbers) != 2:
        raise InputError(f"model file {path} is damaged: the place of weight {name} must be two whole numbers.")
    return numbers[0], numbers[1]


def _numbers(name: str, value: object, path: str) -> list[int]:
    items: list[Any] = cast("list[Any]", value) if isinstance(value, list) else [None]
    if not all(type(item) is int and item >= 0 for item in items):
        raise InputError(
            f"model file {path} is damaged: shape and place of weight {shown(name)} must be whole numbers from 0."
        )
    return items


def _deeper(value: Any, levels: int) -> bool:
    """Whether objects and lists are nested deeper than that; whoever walks them by recursion relies on it."""
    inside: list[Any] = [value]
    for _ in range(levels):
        held: list[Any] = [item.values() if isinstance(item, dict) else item for item in inside]
        inside = [item for items in held for item in items if isinstance(item, dict | list)]
    return bool(inside)


class _ForeignJsonError(ValueError):
    """JSON that Python reads and others do not."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise _ForeignJsonError("states a name twice in one object")
    return result


def _no_constant(name: str) -> NoReturn:
    raise _ForeignJsonError(f"holds {name}, which is not JSON")

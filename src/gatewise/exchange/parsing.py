"""A file as an ONNX model, none of which is trusted: what it may cost is known before it is parsed.

Nothing beside the file itself is ever opened. onnx's own loader would follow the paths that a file names.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gatewise.errors import InputError
from gatewise.exchange.library import library

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

LARGEST_FILE = 1 << 31
"""In bytes: no ONNX file is larger, because protobuf has this limit."""

MOST_FIELDS = 200_000
"""A message of two bytes becomes an object of 155. Real models have some thousand fields beside their numbers."""

MOST_NODES = 4096
OPSETS = range(9, 26)
DOMAINS = ("", "ai.onnx")


def parse_file(path: str | Path) -> "ModelProto":
    """Read a file as an ONNX model.

    Raises:
        InputError: it is missing, no ONNX file, too large, or has what gatewise does not open: external data,
            functions, subgraphs, operators of other domains.
    """
    path = Path(path)
    data = _content(path)
    model = library().ModelProto()
    try:
        _check_fields(data, model.DESCRIPTOR, path)
        model.ParseFromString(data)
    except InputError:
        raise
    except (ValueError, IndexError, _decode_error()):
        raise InputError(f"{path} is not an ONNX file, or is damaged.") from None
    _check_model(model, path)
    return model


def _decode_error() -> type[Exception]:
    from google.protobuf.message import DecodeError  # comes with onnx

    return DecodeError


def _content(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path} is not a file.")
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > LARGEST_FILE:
                raise InputError(f"{path} is larger than 2 GiB, which no ONNX file is.")
            return file.read()
    except FileNotFoundError:
        raise InputError(f"ONNX file {path} does not exist.") from None
    except OSError as error:
        raise InputError(f"ONNX file {path} cannot be read: {error.strerror}.") from None


def _check_fields(data: bytes, descriptor: Any, path: Path) -> None:
    """Refuse a file that would become many more objects than it has a reason for, before it does."""
    count = 0
    spans = [(descriptor, 0, len(data))]
    while spans:
        kind, start, end = spans.pop()
        for number, first, last in _fields(data, start, end):
            count += 1
            if count > MOST_FIELDS:
                raise InputError(f"{path} has more than {MOST_FIELDS:,} parts; gatewise reads models of LSTM layers.")
            field = kind.fields_by_number.get(number)
            if field is None or first == last:
                continue
            if field.message_type is not None:
                spans.append((field.message_type, first, last))
            elif field.type == field.TYPE_STRING:
                data[first:last].decode()  # the parser lets through what is no text


def _fields(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number and extent of each field of a message; the extent is empty for what has no length of its own."""
    while start < end:
        tag, start = _varint(data, start)
        wire, first = tag & 7, start
        if wire == 0:
            _, start = _varint(data, start)
            first = start
        elif wire in {1, 5}:
            start += 8 if wire == 1 else 4
            first = start
        elif wire == 2:
            size, first = _varint(data, start)
            start = first + size
        else:
            raise ValueError("a group, or no field at all")
        if start > end:
            raise ValueError("a field that ends beyond its message")
        yield tag >> 3, first, start


def _varint(data: bytes, start: int) -> tuple[int, int]:
    value = 0
    for place in range(10):
        byte = data[start + place]
        value |= (byte & 127) << (7 * place)
        if byte < 128:
            return value, start + place + 1
    raise ValueError("a number that does not end")


def _check_model(model: "ModelProto", path: Path) -> None:
    if not model.graph.node:
        raise InputError(f"{path} is not an ONNX file, or has no nodes.")
    versions = [entry.version for entry in model.opset_import if entry.domain in DOMAINS]
    if len(versions) != 1 or versions[0] not in OPSETS:
        raise InputError(f"{path} must have one opset of ONNX's own, {OPSETS[0]} to {OPSETS[-1]}, not {versions}.")
    if len(model.graph.node) > MOST_NODES:
        raise InputError(f"{path} has {len(model.graph.node):,} nodes; gatewise reads up to {MOST_NODES:,}.")
    for what in ("functions", "training_info"):
        if getattr(model, what):
            raise InputError(f"{path} has {what}; gatewise reads plain graphs.")
    if model.graph.sparse_initializer:
        raise InputError(f"{path} has sparse weights; gatewise reads dense ones.")
    for tensor in model.graph.initializer:
        _check_inside(tensor, path)
    for node in model.graph.node:
        if node.domain not in DOMAINS:
            raise InputError(f"cannot take node {node.name!r} ({node.op_type}): it is of the domain {node.domain!r}.")
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs:
                raise InputError(
                    f"cannot take node {node.name!r} ({node.op_type}): it holds a graph; gatewise reads plain graphs, "
                    "without loops and branches."
                )
            for tensor in (attribute.t, *attribute.tensors):
                _check_inside(tensor, path)


def _check_inside(tensor: "TensorProto", path: Path) -> None:
    """Refuse a tensor whose numbers are in another file, which is never opened."""
    if tensor.external_data or tensor.data_location != 0:
        raise InputError(
            f"{path} keeps the weight {tensor.name!r} in another file; gatewise reads ONNX files that hold their own "
            "weights (save with save_as_external_data=False)."
        )


def array_of(tensor: "TensorProto", where: str) -> np.ndarray:
    """Return the numbers of a tensor once its sizes are those of its data.

    Raises:
        InputError: they are not, or it is of a type that no model of LSTM layers needs.
    """
    onnx = library()
    types = {onnx.TensorProto.FLOAT: "float_data", onnx.TensorProto.INT64: "int64_data"}
    types |= {onnx.TensorProto.INT32: "int32_data", onnx.TensorProto.BOOL: "int32_data"}
    name = tensor.name or where
    if tensor.data_type not in types:
        kinds = onnx.TensorProto.DataType
        got = kinds.Name(tensor.data_type) if tensor.data_type in kinds.values() else tensor.data_type
        raise InputError(f"the constant {name!r} has the type {got}; gatewise reads FLOAT, INT64, INT32 and BOOL.")
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    stated = 1
    for dim in tensor.dims:
        stated *= max(dim, 0)  # Python's whole numbers do not overflow
    has = len(tensor.raw_data) // dtype.itemsize if tensor.raw_data else len(getattr(tensor, types[tensor.data_type]))
    if any(dim < 0 for dim in tensor.dims) or has != stated or len(tensor.raw_data) % dtype.itemsize:
        raise InputError(f"the constant {name!r} states the sizes {list(tensor.dims)} but holds {has:,} numbers.")
    value = onnx.numpy_helper.to_array(tensor)
    if dtype.kind == "f" and not np.isfinite(value).all():
        raise InputError(f"the constant {name!r} has values that are not finite.")
    return value

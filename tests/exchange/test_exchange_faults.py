"""Fault 17: files that point outside, that lie about their sizes, or that would become far more than they are.

Refused with a sentence, in bounded memory, and nothing beside the file is opened.
"""

import contextlib
import os
import sys
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx_graphs import D, lstm, model, node, plain, saved, weights

from gatewise import LSTM, export_onnx
from gatewise.errors import InputError
from gatewise.exchange import import_blocks

AXES = {"axes": np.array([1])}


def refused(proto: onnx.ModelProto | bytes, folder: Path, reason: str) -> None:
    path = folder / "m.onnx"
    path.write_bytes(proto if isinstance(proto, bytes) else proto.SerializeToString())
    with pytest.raises(InputError, match=reason):
        import_blocks(path)


def outside(name: str) -> onnx.ModelProto:
    """A model whose weight W is in another file."""
    proto = plain()
    tensor = next(tensor for tensor in proto.graph.initializer if tensor.name == "W")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=name)
    return proto


def by_path(folder: Path, secret: Path) -> str:
    return os.path.relpath(secret, folder)


def by_symlink(folder: Path, secret: Path) -> str:
    (folder / "weights.bin").symlink_to(secret)
    return "weights.bin"


def by_hard_link(folder: Path, secret: Path) -> str:
    os.link(secret, folder / "weights.bin")
    return "weights.bin"


def beside(folder: Path, secret: Path) -> str:
    (folder / "weights.bin").write_bytes(secret.read_bytes())
    return "weights.bin"


@pytest.mark.parametrize("way", [by_path, by_symlink, by_hard_link, beside])
def test_fault_17_weights_in_another_file(way: Callable[[Path, Path], str], tmp_path: Path) -> None:
    folder, secret = tmp_path / "models", tmp_path / "secret"
    folder.mkdir()
    secret.write_bytes(weights()["W"].tobytes())
    proto = outside(way(folder, secret))
    saved(proto, folder)
    opened: list[str] = []

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and watching:
            opened.append(str(arguments[0]))

    watching = False
    sys.addaudithook(watch)
    watching = True
    try:
        refused(proto, folder, "keeps the weight 'W' in another file; gatewise reads ONNX files that hold their own")
    finally:
        watching = False
    assert set(opened) == {str(folder / "m.onnx")}


@pytest.mark.parametrize("place", ["initializer", "attribute"])
@pytest.mark.parametrize("sign", ["location", "flag"])
def test_one_sign_of_another_file_is_enough(place: str, sign: str, tmp_path: Path) -> None:
    proto = plain()
    tensor = proto.graph.initializer[0]
    if place == "attribute":
        proto.graph.node.append(node("Constant", "", "k", value=numpy_helper.from_array(np.ones(1, np.float32), "k")))
        tensor = proto.graph.node[-1].attribute[0].t
    if sign == "flag":
        tensor.data_location = TensorProto.EXTERNAL
    else:
        tensor.external_data.add(key="location", value="m.onnx")
    refused(proto, tmp_path, "in another file")


@pytest.mark.parametrize(
    "dims", [[1 << 40, 1 << 40], [1 << 62, 1 << 62, 4], [-1, 20, 3], [1, 20, 4], [1, 20, 2], [0], [], [1 << 31] * 60]
)
def test_fault_17_sizes_that_lie(dims: list[int], tmp_path: Path) -> None:
    proto = plain()
    tensor = next(tensor for tensor in proto.graph.initializer if tensor.name == "W")
    del tensor.dims[:]
    tensor.dims.extend(dims)
    refused(proto, tmp_path, r"the constant 'W' states the sizes \[.*\] but holds 60 numbers")
    tensor.raw_data += b"\0"
    refused(proto, tmp_path, "the constant 'W' states the sizes")


def test_numbers_that_are_not_finite(tmp_path: Path) -> None:
    for value in (np.nan, np.inf):
        W = weights()["W"]
        W[0, 3, 1] = value
        proto = model([lstm(), node("Squeeze", "Y axes", "y")], weights() | AXES | {"W": W}, {"y": 3})
        refused(proto, tmp_path, "the constant 'W' has values that are not finite")


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    data = plain().SerializeToString()
    for size in range(len(data)):
        refused(
            data[:size], tmp_path, "is not an ONNX file|is damaged|must have one opset|must have one output|no input"
        )


@settings(
    deadline=None, derandomize=True, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_damaged_bytes_are_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever a byte becomes, an InputError is all that comes of it."""
    content = bytearray(plain().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with contextlib.suppress(InputError):
        import_blocks(path)


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"garbage that is no protobuf", b"\x80\x04K\x01.", b"PK\x03\x04", b"\xff" * 99]
)
def test_garbage_is_refused(data: bytes, tmp_path: Path) -> None:
    refused(data, tmp_path, "is not an ONNX file")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        import_blocks(tmp_path / "absent.onnx")
    for path in (tmp_path, Path("/dev/zero")):
        with pytest.raises(InputError, match="is not a file"):
            import_blocks(path)


def test_fault_17_a_file_larger_than_any(tmp_path: Path) -> None:
    with open(tmp_path / "m.onnx", "wb") as file:
        file.truncate((1 << 31) + 1)  # sparse: it takes no room
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="is larger than 2 GiB"):
            import_blocks(tmp_path / "m.onnx")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_fault_17_ten_thousand_nodes(tmp_path: Path) -> None:
    names = ["x", *(f"x{place}" for place in range(10_000))]
    nodes = [helper.make_node("Identity", [a], [b]) for a, b in pairwise(names)]
    refused(
        model([*nodes, *plain().graph.node], {}, {"y": 3}), tmp_path, "has 10,002 nodes; gatewise reads up to 4,096"
    )


def test_fault_17_a_bomb_of_empty_messages(tmp_path: Path) -> None:
    """Two bytes each: parsed, they would be a hundred times as much."""
    graph = b"\x0a\x00" * 4_000_000  # empty nodes
    data = b"\x08\x08" + wrapped(b"\x3a", graph)  # ir_version, graph
    (tmp_path / "m.onnx").write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="has more than 200,000 parts"):
            import_blocks(tmp_path / "m.onnx")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(data)


def test_fault_17_constants_that_double(tmp_path: Path) -> None:
    """Thirty nodes that each join a constant with itself ask for a billion times its size."""
    nodes = [node("Concat", f"k{place} k{place}", f"k{place + 1}", axis=0) for place in range(40)]
    nodes.append(node("Add", "x k40", "y"))
    constants = {"k0": np.zeros((1000, D), np.float32)}
    tracemalloc.start()
    try:
        refused(model(nodes, constants, {"y": 3}), tmp_path, "far more numbers of its constants than it holds")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20


@pytest.mark.parametrize("kind", ["ConstantOfShape", "Expand", "Gather"])
def test_fault_17_constants_of_any_size(kind: str, tmp_path: Path) -> None:
    huge = np.array([1 << 30, 1 << 30, D])
    inputs = {"ConstantOfShape": "huge", "Expand": "one huge", "Gather": "one places"}[kind]
    constants = {"huge": huge, "one": np.ones((1, D), np.float32), "places": np.zeros(100_000, np.int64)}
    proto = model([node(kind, inputs, "k"), node("Add", "x k", "y")], constants, {"y": 3})
    refused(proto, tmp_path, rf"cannot take node '{kind} of k'|cannot take node 'Add of y'")


def test_fault_17_graphs_inside_graphs(tmp_path: Path) -> None:
    inner = plain().graph
    for _ in range(3):
        outer = helper.make_graph([helper.make_node("Loop", [], ["y"], body=inner)], "outer", [], [])
        inner = outer
    proto = plain()
    proto.graph.node.append(helper.make_node("If", ["x"], ["z"], name="deep", then_branch=inner, else_branch=inner))
    refused(proto, tmp_path, r"cannot take node 'deep' \(If\): it holds a graph")
    graph = b""
    for _ in range(2000):  # deeper than any parser follows: node, attribute, graph
        graph = wrapped(b"\x0a", wrapped(b"\x2a", wrapped(b"\x32", graph)))
    refused(b"\x08\x08" + wrapped(b"\x3a", graph), tmp_path, "is not an ONNX file")


def wrapped(tag: bytes, body: bytes) -> bytes:
    """A field of protobuf: its tag, its length, itself."""
    size, length = len(body), b""
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return tag + length + bytes([size]) + body


def test_what_gatewise_does_not_open(tmp_path: Path) -> None:
    proto = plain()
    proto.functions.add(name="f", domain="d")
    refused(proto, tmp_path, "has functions; gatewise reads plain graphs")
    proto = plain()
    proto.graph.node[0].domain = "com.microsoft"
    refused(proto, tmp_path, r"cannot take node 'layer' \(LSTM\): it is of the domain 'com.microsoft'")
    proto = plain()
    proto.graph.sparse_initializer.add()
    refused(proto, tmp_path, "has sparse weights")
    for opsets in ([], [8], [17, 17], [99]):
        proto = plain()
        del proto.opset_import[:]
        proto.opset_import.extend(helper.make_opsetid("", version) for version in opsets)
        refused(proto, tmp_path, "must have one opset of ONNX's own, 9 to 25")


def test_names_that_do_not_fit(tmp_path: Path) -> None:
    proto = plain()
    proto.graph.node[1].input[0] = "elsewhere"
    refused(proto, tmp_path, "nothing before it makes its input 'elsewhere'")
    proto = plain()
    proto.graph.node.append(proto.graph.node[1])
    refused(proto, tmp_path, "its result 'y' is there already")
    proto = plain()
    proto.graph.node.reverse()
    refused(proto, tmp_path, "nothing before it makes its input 'Y'|must have one output")
    proto = plain()
    del proto.graph.output[:]
    refused(proto, tmp_path, "must have one output")


def test_a_scan_of_our_own_is_named(tmp_path: Path) -> None:
    export_onnx(LSTM(3, 4, cell="slstm"), tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"\(Scan\): it holds a graph; gatewise reads plain graphs, without loops"):
        import_blocks(tmp_path / "m.onnx")

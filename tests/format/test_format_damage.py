"""Files whose bytes lie: cut, flipped, swollen, crafted. Each is refused with a sentence, before it takes memory."""

import contextlib
import json
import tracemalloc
from pathlib import Path

import pytest
from crafted import description, model, refused, sign, split_header, unsigned, with_header, write
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from gatewise.errors import InputError
from gatewise.format import Linear, Lstm, describe_block, load_model, save_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "model.safetensors"
    save_model(model(), path)
    return path


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "model.safetensors"


def test_a_cut_at_any_byte_is_refused(saved: Path, scratch: Path) -> None:
    data = saved.read_bytes()
    for size in [*range(16), *range(16, len(data), 3), len(data) - 1]:
        scratch.write_bytes(data[:size])
        refused(scratch, "not a model file|damaged")


def test_a_flip_of_any_byte_is_refused(saved: Path, scratch: Path) -> None:
    data = saved.read_bytes()
    for at in [*range(16), *range(16, len(data), 2)]:
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        scratch.write_bytes(changed)
        with pytest.raises(InputError):
            load_model(scratch)


@pytest.mark.parametrize("more", [b"\0", b"x", bytes(4096)])
def test_trailing_bytes_are_refused(saved: Path, scratch: Path, more: bytes) -> None:
    scratch.write_bytes(saved.read_bytes() + more)
    refused(scratch, "damaged")
    unsigned = save(dict(model().weights), metadata={"gatewise": json.dumps(description(), separators=(",", ":"))})
    refused(sign(scratch, unsigned + more), "damaged")


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.binary(max_size=200))
def test_random_bytes_are_refused(tmp_path_factory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "random"
    path.write_bytes(data)
    with pytest.raises(InputError):
        load_model(path)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.binary(max_size=200), st.integers(-2, 2))
def test_random_headers_are_refused(tmp_path_factory, body: bytes, off: int) -> None:
    path = tmp_path_factory.getbasetemp() / "random"
    path.write_bytes(max(0, len(body) + 1 + off).to_bytes(8, "little") + b"{" + body)
    with pytest.raises(InputError):
        load_model(path)


@pytest.mark.parametrize("size", [2**63, 2**64 - 1, 2**40, 10**8 + 1])
def test_a_header_that_claims_to_be_huge(saved: Path, scratch: Path, size: int) -> None:
    scratch.write_bytes(size.to_bytes(8, "little") + saved.read_bytes()[8:])
    refused(scratch, "damaged: it ends before its header does")


def test_a_header_that_is_huge(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = int.from_bytes(saved.read_bytes()[:8], "little")
    monkeypatch.setattr("gatewise.format.container.MAX_HEADER", size)
    load_model(saved)
    monkeypatch.setattr("gatewise.format.container.MAX_HEADER", size - 1)
    refused(saved, f"damaged: its header has {size:,} bytes, more than {size - 1:,}")


@pytest.mark.parametrize("size", [0, 1, 2, 100])
def test_a_header_that_claims_to_be_short(saved: Path, scratch: Path, size: int) -> None:
    scratch.write_bytes(size.to_bytes(8, "little") + saved.read_bytes()[8:])
    refused(scratch, "not a model file|damaged")


@pytest.mark.parametrize("header", [b"{", b"{]", b'{"a": }', b"{\xff\xfe}", b'{"a":' * 50_000])
def test_a_header_that_is_not_json(scratch: Path, header: bytes) -> None:
    scratch.write_bytes(with_header(header, b""))
    refused(scratch, "damaged: its header is not JSON")


@pytest.mark.parametrize("metadata", [None, [], "text", 1])
def test_metadata_of_another_type(scratch: Path, metadata: object) -> None:
    scratch.write_bytes(with_header(json.dumps({"__metadata__": metadata}).encode(), b""))
    refused(scratch, "damaged|no gatewise model")


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}])
def test_weights_without_a_description(scratch: Path, metadata: dict | None) -> None:
    scratch.write_bytes(save(dict(model().weights), metadata=metadata))
    refused(scratch, "weights but no gatewise model")


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3", "F8_E5M2", "F99", "C64", 1, None, "f32", "float32", ["F32"]])
def test_weights_of_types_that_are_not_float32(scratch: Path, dtype: object) -> None:
    header, body = split_header(unsigned())
    header["1.bias"]["dtype"] = dtype
    refused(sign(scratch, with_header(json.dumps(header).encode(), body)), r"1.bias must be float32 \[5\], not .*5")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("overlap", "weight 1.bias overlaps the one before"),
        ("outside", "weight .* leaves 20 bytes unused before it"),
        ("reversed", "weight 1.bias has -20 bytes, not 20"),
        ("negative", "shape and place of weight '1.bias' must be whole numbers from 0"),
        ("three", "the place of weight 1.bias must be two whole numbers"),
        ("float", "shape and place of weight '1.bias' must be whole numbers from 0"),
        ("gap", "weight .* leaves 20 bytes unused before it"),
        ("long", "weight 1.bias has 24 bytes, not 20"),
        ("entry", "the header's entry '1.bias' is not an array's"),
        ("more", "the header's entry '1.bias' is not an array's"),
        ("trailing", "its weights have [0-9]+ bytes, but it holds [0-9]+"),
        ("missing", "its weights have [0-9]+ bytes, but it holds [0-9]+"),
    ],
)
def test_arrays_that_lie_where_they_must_not(scratch: Path, change: str, message: str) -> None:
    header, body = split_header(unsigned())
    start, end = header["1.bias"]["data_offsets"]
    changed = {
        "overlap": [start - 4, end - 4],
        "outside": [2**40, 2**40 + end - start],
        "reversed": [end, start],
        "negative": [-20, 0],
        "three": [start, end, end],
        "float": [float(start), float(end)],
        "gap": [len(body), len(body) + 20],
        "long": [start, end + 4],
    }
    if change in changed:
        header["1.bias"]["data_offsets"] = changed[change]
    elif change == "entry":
        header["1.bias"] = [start, end]
    elif change == "more":
        header["1.bias"]["strides"] = [1]
    else:
        body = body + bytes(8) if change == "trailing" else body[:-4]
    refused(sign(scratch, with_header(json.dumps(header).encode(), body)), f"damaged: {message}")


@pytest.mark.parametrize("shape", [[2**62, 2**62], [2**63], [int("7" * 300)], [5, 1], [], [5, 0]])
def test_shapes_that_no_memory_holds_are_refused_by_name(scratch: Path, shape: list[int]) -> None:
    header, body = split_header(unsigned())
    header["1.bias"]["shape"] = shape
    path = sign(scratch, with_header(json.dumps(header).encode(), body))
    refused(path, r"weight 1.bias must be float32 \[5\], not float32 ")


def test_an_entry_stated_twice(scratch: Path) -> None:
    header, body = split_header(unsigned())
    text = json.dumps(header)[:-1] + ', "1.bias": ' + json.dumps(header["1.bias"]) + "}"
    refused(sign(scratch, with_header(text.encode(), body)), "its header states a name twice in one object")


@pytest.mark.parametrize(
    "blocks",
    [
        [Lstm(2**24, 2**24, 1024, bidirectional=True)],
        [Linear(2**24, 2**24)] * 2000,
        # Each of these has four thousand names of weights.
        [Lstm(3, 3, 1024)] * 500,
    ],
    ids=["wide", "many", "long"],
)
def test_an_architecture_larger_than_the_file_takes_no_memory(scratch: Path, blocks: list) -> None:
    path = write(scratch, {**description(), "architecture": [describe_block(block) for block in blocks]})
    tracemalloc.start()
    refused(path, "the weights are not those of its architecture")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**25


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_any_damage_is_refused_even_where_it_is_signed(tmp_path_factory, data: st.DataObject) -> None:
    """Bytes changed, inserted or cut out; then the SHA-256 of what is left may be put right as well."""
    content = bytearray(unsigned())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    path = tmp_path_factory.getbasetemp() / "damaged"
    if content.count(b"0" * 64) == 1 and data.draw(st.booleans()):
        sign(path, bytes(content))
    else:
        path.write_bytes(content)
    # Nothing but an InputError may come out. What passes is a whole model: damage may have made another of it.
    with contextlib.suppress(InputError):
        back = load_model(path)
        assert {name: value.shape for name, value in back.weights.items()} == back.shapes()

"""States as bytes: they go on anywhere, and what is no state of this model changes nothing."""

import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_problem import build, draw, same_bits, stepped

from gatewise.errors import InputError
from gatewise.format import Block, Conv1d, Embedding, Linear, Lstm
from gatewise.spec import BUILT_IN, CELLS

BLOCKS: tuple[Block, ...] = (Conv1d(3, 4, 3, dilation=2), Lstm(4, 5, 2, cell="peephole"), Linear(5, 2))


@pytest.mark.parametrize("cell", BUILT_IN)
def test_a_stream_goes_on_from_any_step_in_a_stream_or_a_slot(cell: str) -> None:
    learned = "learned_state" in CELLS[cell].options
    blocks = (Conv1d(3, 4, 2, dilation=3), Lstm(4, 5, 2, cell=cell, learned_state=learned))
    model, x = build(*blocks), draw(blocks, 9)
    whole, first, second, pool = model.run(x), model.stream(), model.stream(), model.streams(3)
    for t in range(len(x) + 1):
        saved = first.state
        assert type(saved) is bytes
        second.state = saved
        slot = pool.open(saved)
        assert second.state == pool.snapshot(slot) == saved
        for at in range(t, len(x)):
            assert same_bits(second.step(x[at]), whole[at])
            assert same_bits(pool.step([slot], x[at : at + 1])[0], whole[at])
        pool.close(slot)
        if t < len(x):
            first.step(x[t])


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 20), max_size=4), st.booleans())
def test_a_sequence_cut_at_any_points_is_the_whole(cuts: list[int], afresh: bool) -> None:
    model, x = build(*BLOCKS), draw(BLOCKS, 20)
    stream, pieces = model.stream(), []
    for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), 20], strict=True):
        # The same model read again, as after a restart.
        model = build(*BLOCKS) if afresh else model
        state, stream = stream.state, model.stream()
        stream.state = bytearray(state)  # pyright: ignore[reportAttributeAccessIssue]
        pieces += [stepped(stream, x[begin:end])] if end > begin else []
    assert same_bits(np.concatenate(pieces), model.run(x))


def test_reset_begins_anew() -> None:
    blocks = (Lstm(3, 5, learned_state=True),)
    model, x = build(*blocks), draw(blocks, 4)
    stream = model.stream()
    fresh = stream.state
    stepped(stream, x)
    assert stream.state != fresh
    stream.reset()
    assert stream.state == fresh == model.stream().state
    assert same_bits(stepped(stream, x), model.run(x))


def test_a_model_without_memory_has_a_state_too() -> None:
    model = build(Embedding(4, 2))
    stream = model.stream()
    pool = model.streams(1)
    stream.state = pool.snapshot(pool.open(stream.state))
    assert same_bits(stream.step(np.array([3])), model.run([3])[0])


def _forged(data: bytes, at: int, more: bytes) -> bytes:
    """Other bytes at a place, with the checksum that belongs to them."""
    changed = data[:at] + more + data[at + len(more) : -4]
    return changed + struct.pack("<I", zlib.crc32(changed))


WRONG: dict[str, tuple[Callable[[bytes], object], str]] = {
    "empty": (lambda data: b"", "these bytes are not the state of a stream"),
    "text": (lambda data: data.hex(), "a state must be the bytes that state or snapshot gave, not str"),
    "none": (lambda data: None, "not NoneType"),
    "array": (lambda data: np.zeros(3), "not ndarray"),
    "other bytes": (lambda data: b"x" * len(data), "these bytes are not the state of a stream"),
    "a header alone": (lambda data: data[:48], "the state is damaged"),
    "cut off": (lambda data: data[:-1], "the state is damaged"),
    "too long": (lambda data: data + b"\0", "the state is damaged"),
    "newer": (lambda data: _forged(data, 4, b"\2\0"), "version 2, from a newer gatewise; this one reads up to 1"),
    "another model's": (
        lambda data: build(*BLOCKS, identity="cd" * 32).stream().state,
        "of another model .cdcdcdcdcdcd",
    ),
    "another size": (lambda data: build(Lstm(3, 4)).stream().state, "of another model"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_state_of_this_model_changes_nothing(name: str) -> None:
    make, says = WRONG[name]
    model, x = build(*BLOCKS), draw(BLOCKS, 2)
    stream, pool = model.stream(), model.streams(2)
    stepped(stream, x)
    before, wrong = stream.state, make(stream.state)
    slot = pool.open(before)
    with pytest.raises(InputError, match=says):
        stream.state = wrong  # pyright: ignore[reportAttributeAccessIssue]
    if wrong is not None:
        with pytest.raises(InputError, match=says):
            pool.open(wrong)  # pyright: ignore[reportArgumentType]
    assert len(pool) == 1
    assert stream.state == pool.snapshot(slot) == before


def test_any_bit_that_flips_is_seen() -> None:
    stream = build(Lstm(1, 2)).stream()
    stream.step(np.ones(1, np.float32))
    before = stream.state
    for bit in range(8 * len(before)):
        flipped = bytearray(before)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(InputError, match=r"the state|these bytes"):
            stream.state = bytes(flipped)
    assert stream.state == before

"""Streams and pools: what they take, what they refuse, and many threads at once."""

import gc
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from runtime_problem import Array, alone, build, draw, resident, same_bits, stepped

from gatewise.errors import InputError
from gatewise.format import Block, Embedding, Linear, Lstm
from gatewise.runtime import Pool

BLOCKS: tuple[Block, ...] = (Lstm(3, 5, 2), Linear(5, 4))
TOKENS: tuple[Block, ...] = (Embedding(7, 3), Lstm(3, 5))


def _misaligned(x: Array) -> Array:
    raw = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    raw[...] = x
    assert not raw.flags.aligned
    return raw


def _read_only(x: Array) -> Array:
    x = x.copy()
    x.flags.writeable = False
    return x


SAME: dict[str, Callable[[Array], Any]] = {
    "read-only": _read_only,
    "strided": lambda x: np.repeat(x, 2, -1)[..., ::2],
    "reversed": lambda x: x[..., ::-1].copy()[..., ::-1],
    "Fortran order": np.asfortranarray,
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "misaligned": _misaligned,
    "wider": lambda x: x.astype(np.float64 if x.dtype.kind == "f" else np.uint64),
    "narrower": lambda x: x.astype(np.float16).astype(x.dtype) if x.dtype.kind == "f" else x.astype(np.int8),
    "a list": lambda x: x.tolist(),
}


@pytest.mark.parametrize("change", SAME)
@pytest.mark.parametrize("blocks", [BLOCKS, TOKENS], ids=["numbers", "tokens"])
def test_any_array_steps_as_its_clean_copy_or_is_refused(blocks: tuple[Block, ...], change: str) -> None:
    model, x = build(*blocks), draw(blocks, 4)
    other = SAME[change](x)
    clean = np.array(other, x.dtype)
    pool, same, stream = model.streams(4), model.streams(4), model.stream()
    slots = [pool.open() for _ in range(4)]
    assert [same.open() for _ in range(4)] == slots
    expected, fresh = same.step(slots, clean), stream.state
    if change == "misaligned":
        with pytest.raises(ValueError, match="x must be an aligned"):
            pool.step(slots, other)
        assert {pool.snapshot(slot) for slot in slots} == {fresh}
    else:
        assert same_bits(pool.step(slots, other), expected)
    row = other[:1] if x.ndim == 1 else other[0]
    # A stream takes no time to convert anything.
    if isinstance(row, np.ndarray) and row.dtype == x.dtype and row.flags.c_contiguous and row.flags.aligned:
        assert same_bits(stream.step(row), expected[0])
    else:
        with pytest.raises((TypeError, ValueError), match="x must be a"):
            stream.step(row)  # pyright: ignore[reportArgumentType]
        assert stream.state == fresh


@pytest.mark.parametrize("change", ["read-only", "reversed"])
def test_what_is_often_given_is_not_refused(change: str) -> None:
    model, x = build(*BLOCKS), draw(BLOCKS, 4)
    pool = model.streams(4)
    slots = np.array([pool.open() for _ in range(4)], np.int32)
    assert same_bits(pool.step(slots[::-1], SAME[change](x)), alone(model, x[:, None])[:, 0])


def test_outputs_go_where_they_are_wanted() -> None:
    model, x = build(*BLOCKS), draw(BLOCKS, 2)
    stream, pool = model.stream(), model.streams(2)
    out = np.full((2, 4), np.nan, np.float32)
    assert stream.step(x[0], out[0]) is not None
    expected = out[0].copy()
    assert pool.step([pool.open(), pool.open()], x, out=out) is out
    assert same_bits(out[0], expected)
    assert np.isfinite(out).all()


def _frozen(shape: tuple[int, ...]) -> Array:
    return _read_only(np.zeros(shape, np.float32))


BAD_OUT: dict[str, tuple[Callable[[tuple[int, ...]], Any], type[Exception], str]] = {
    "not writable": (_frozen, TypeError, "out must be a NumPy array in one piece .* that can be written to"),
    "float64": (np.zeros, ValueError, "out must be an aligned float32 array of shape"),
    "int32": (lambda shape: np.zeros(shape, np.int32), ValueError, "out must be an aligned float32"),
    "big-endian": (lambda shape: np.zeros(shape, ">f4"), ValueError, "out must be an aligned float32"),
    "misaligned": (lambda shape: _misaligned(np.zeros(shape, np.float32)), ValueError, "out must be an aligned"),
    "too long": (lambda shape: np.zeros((*shape[:-1], 5), np.float32), ValueError, r"out must be .*4\]"),
    "one more axis": (lambda shape: np.zeros((1, *shape), np.float32), ValueError, "out must be an aligned"),
    "strided": (lambda shape: np.zeros((*shape[:-1], 8), np.float32)[..., ::2], TypeError, "out must be a NumPy"),
    "a list": (lambda shape: [0.0] * 4, TypeError, "out must be a NumPy array"),
}


@pytest.mark.parametrize("name", BAD_OUT)
def test_a_bad_out_changes_nothing(name: str) -> None:
    make, kind, says = BAD_OUT[name]
    model, x = build(*BLOCKS), draw(BLOCKS, 2)
    stream, pool = model.stream(), model.streams(2)
    slots, fresh = [pool.open(), pool.open()], stream.state
    with pytest.raises(kind, match=says):
        stream.step(x[0], make((4,)))
    with pytest.raises(kind, match=says):
        pool.step(slots, x, make((2, 4)))
    assert stream.state == pool.snapshot(0) == pool.snapshot(1) == fresh


def test_x_and_out_may_not_share_memory() -> None:
    model, memory = build(*BLOCKS), np.zeros(16, np.float32)
    stream, pool = model.stream(), model.streams(1)
    slot, fresh = pool.open(), stream.state
    for out in (memory[:4], memory[2:6]):
        with pytest.raises(ValueError, match="x and out must not share memory"):
            stream.step(memory[:3], out)
        with pytest.raises(ValueError, match="x and out must not share memory"):
            pool.step([slot], memory[None, :3], out[None])
    assert stream.state == pool.snapshot(slot) == fresh
    # Side by side is apart.
    assert same_bits(stream.step(memory[:3], memory[3:7]), model.run(np.zeros((1, 3)))[0])


BAD_X: list[tuple[Any, str]] = [
    (np.zeros(4, np.float32), "x must be an aligned float32 array of shape .3."),
    (np.zeros((1, 3), np.float32), "x must be an aligned float32"),
    (np.zeros(0, np.float32), "x must be an aligned float32"),
    (np.zeros(3, np.int64), "x must be an aligned float32"),
    (np.zeros(3, np.complex64), "x must be an aligned float32"),
    (np.array([None] * 3), "x must be a"),
    (None, "x must be a NumPy array"),
    (b"abc", "x must be an aligned float32"),
]


@pytest.mark.parametrize(("x", "says"), BAD_X)
def test_a_stream_refuses_what_is_no_input(x: Any, says: str) -> None:
    stream = build(*BLOCKS).stream()
    fresh = stream.state
    with pytest.raises((TypeError, ValueError), match=says):
        stream.step(x)
    assert stream.state == fresh


@pytest.mark.parametrize("token", [-1, 7, 2**62, -(2**63)])
def test_a_token_out_of_range_changes_nothing(token: int) -> None:
    model = build(*TOKENS)
    stream, pool = model.stream(), model.streams(3)
    slots, fresh = [pool.open() for _ in range(3)], stream.state
    says = f"x must be from 0 to 6, got {token}"
    out = np.full(5, np.float32(7))
    with pytest.raises(ValueError, match=says):
        stream.step(np.array([token]), out)
    with pytest.raises(ValueError, match=says):
        pool.step(slots, np.array([6, 0, token]))
    with pytest.raises(ValueError, match="x must be from 0 to 6, got"):
        model.run([[0, token]])
    assert (out == 7).all()
    assert {stream.state, *map(pool.snapshot, slots)} == {fresh}


def _pool() -> tuple[Pool, list[bytes]]:
    """Slots 0 and 2 are open, 1 was closed, 3 never was open."""
    model = build(*BLOCKS)
    pool = model.streams(4)
    slots = [pool.open() for _ in range(3)]
    pool.step(slots, draw(BLOCKS, 3))
    pool.close(1)
    return pool, [pool.snapshot(0), pool.snapshot(2)]


@pytest.mark.parametrize(
    ("slots", "says"),
    [
        ([0, 1, 2], r"slots\[1\] is 1, which is not open"),
        ([0, 3, 2], r"slots\[1\] is 3, which is not open"),
        ([0, 2, 0], r"slots\[2\] is 0, which comes twice"),
        ([0, 2, 4], r"slots\[2\] is 4, which is not open"),
        ([-1, 2, 0], r"slots\[0\] is -1, which is not open"),
        ([0, 2, 2**62], r"slots\[2\] is \d+, which is not open"),
        ([0, 2], "x must be an aligned float32 array of shape .2, 3."),
        ([[0, 2, 1]], "slots must be an aligned int64 array of shape .3."),
        ([0.5, 2, 1], "slots must be whole numbers, got float64"),
        (["0", "2", "1"], "slots must be whole numbers"),
        ([[0], [2, 1]], "slots is no array"),
    ],
)
def test_nothing_steps_unless_all_do(slots: Any, says: str) -> None:
    pool, before = _pool()
    with pytest.raises(ValueError, match=says):
        pool.step(slots, draw(BLOCKS, 3))
    assert [pool.snapshot(0), pool.snapshot(2)] == before
    # The next call finds no trace of it.
    assert pool.step([2, 0], draw(BLOCKS, 2)).shape == (2, 4)


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (np.zeros((2, 4)), "x must be an aligned float32 array of shape .2, 3."),
        (np.zeros((3, 3)), "x must be"),
        (np.zeros((2, 3), np.complex128), "x must be real numbers, got complex128"),
        ([["a", "b", "c"]] * 2, "x must be real numbers"),
        ([[1.0], [1.0, 2.0]], "x is no array"),
    ],
)
def test_a_pool_refuses_what_is_no_input(x: Any, says: str) -> None:
    pool, before = _pool()
    with pytest.raises(ValueError, match=says):
        pool.step([0, 2], x)
    assert [pool.snapshot(0), pool.snapshot(2)] == before


def test_tokens_are_not_cut_off() -> None:
    pool = build(*TOKENS).streams(1)
    with pytest.raises(InputError, match="x must be whole numbers, got float64"):
        pool.step([pool.open()], [0.7])


def test_nobody_steps() -> None:
    pool, before = _pool()
    assert pool.step([], np.zeros((0, 3), np.float32)).shape == (0, 4)
    assert [pool.snapshot(0), pool.snapshot(2)] == before


def test_slots_open_and_close() -> None:
    pool, _ = _pool()
    assert len(pool) == 2
    for slot in (1, 3, 4, -1, True, 0.0, "0", None):
        for call in (pool.close, pool.snapshot):
            with pytest.raises(InputError, match=r"slot must be a whole number from 0 to 3|slot \d is not open"):
                call(slot)  # pyright: ignore[reportArgumentType]
    fresh = build(*BLOCKS).stream().state
    assert {pool.open(), pool.open()} == {1, 3}
    assert pool.snapshot(1) == pool.snapshot(3) == fresh
    with pytest.raises(InputError, match="all 4 streams of the pool are open: close one"):
        pool.open()
    assert len(pool) == 4
    pool.close(np.int64(2))  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="slot 2 is not open"):
        pool.close(2)
    assert pool.open() == 2
    assert pool.snapshot(2) == fresh


@pytest.mark.parametrize("capacity", [0, -1, True, 2.0, "3", None, 2**70])
def test_a_capacity_out_of_range_is_refused(capacity: Any) -> None:
    with pytest.raises(InputError, match="capacity must be a whole number from 1 to"):
        build(*BLOCKS).streams(capacity)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_many_opens_and_closes_keep_memory_flat() -> None:
    model = build(Linear(3, 2), Lstm(2, 32))
    pool, state = model.streams(4), model.stream().state

    def churn(turns: int) -> None:
        for turn in range(turns):
            slot = pool.open(state if turn % 2 else None)
            if turn % 10 == 0:
                assert model.stream().state == pool.snapshot(slot)
            pool.close(slot)
        gc.collect()

    churn(10_000)
    before = resident()
    churn(100_000)
    # Eleven bytes a turn would be more.
    assert resident() - before < 1 << 20
    assert len(pool) == 0


def test_threads_share_a_stream_whose_steps_are_long() -> None:
    """Long steps let other threads run meanwhile, which then wait for the stream."""
    blocks = (Linear(3, 1024), Linear(1024, 1024), Lstm(1024, 4))
    model, x = build(*blocks), draw(blocks, 1)
    stream, alike = model.stream(), model.stream()
    turns = 30
    states = [alike.state]
    for _ in range(4 * turns):
        alike.step(x[0])
        states.append(alike.state)
    seen: list[set[bytes]] = [set() for _ in range(4)]

    def work(number: int) -> None:
        for _ in range(turns):
            stream.step(x[0])
            seen[number].add(stream.state)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stream.state == states[-1]
    # Nobody saw half a step.
    assert set().union(*seen) <= set(states)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_all_streams_use_one_copy_of_the_weights() -> None:
    model = build(Linear(512, 2048))
    before = resident()
    streams = [model.stream() for _ in range(50)]
    pools = [model.streams(2) for _ in range(50)]
    for stream, pool in zip(streams, pools, strict=True):
        pool.step([pool.open()], np.ones((1, 512)))
        stream.step(np.ones(512, np.float32))
    # A hundred more would take 400 MiB.
    assert resident() - before < 40 << 20


def test_streams_keep_their_model() -> None:
    x = draw(BLOCKS, 3)
    expected = build(*BLOCKS).run(x)
    stream, pool = build(*BLOCKS).stream(), build(*BLOCKS).streams(1)
    gc.collect()
    _ = [np.full(4096, np.nan, np.float32) for _ in range(64)]
    assert same_bits(stepped(stream, x), expected)
    assert same_bits(pool.step([pool.open()], x[:1]), expected[:1])


def test_threads_share_a_pool_a_stream_and_a_model() -> None:
    blocks = (Lstm(3, 17, 2), Linear(17, 4))
    model, x = build(*blocks, threads=2), draw(blocks, 4, 60)
    whole, shared, pool = model.run(x), model.stream(), model.streams(4)
    results: dict[int, list[Array]] = {}
    faults: list[BaseException] = []

    def work(row: int) -> None:
        try:
            slot = pool.open()
            mine = model.stream()
            ys = [pool.step([slot], x[row, t : t + 1])[0] for t in range(30)]
            assert same_bits(model.run(x), whole)
            assert same_bits(stepped(mine, x[row]), whole[row])
            ys += [pool.step([slot], x[row, t : t + 1])[0] for t in range(30, 60)]
            for _ in range(60):
                shared.step(x[0, 0])
            results[row] = ys
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=work, args=(row,)) for row in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    for row in range(4):
        assert same_bits(np.stack(results[row]), whole[row])
    # Steps of one stream come one after the other: 240 of them, whoever took them.
    same = model.stream()
    for _ in range(240):
        same.step(x[0, 0])
    assert shared.state == same.state

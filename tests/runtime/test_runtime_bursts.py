"""``Stream.steps``: several steps in one call."""

import signal
import time
from typing import Any

import numpy as np
import pytest
from runtime_problem import build, draw, same_bits, stepped

from gatewise.errors import InputError
from gatewise.format import Block, Embedding, Linear, Lstm

BLOCKS: tuple[Block, ...] = (Lstm(3, 5), Linear(5, 2))
TOKENS: tuple[Block, ...] = (Embedding(7, 3), Lstm(3, 4))


@pytest.mark.parametrize("blocks", [BLOCKS, TOKENS], ids=["numbers", "tokens"])
@pytest.mark.parametrize("weights", ["f32", "bf16"])
@pytest.mark.parametrize("count", [0, 1, 5, 3000])
def test_a_burst_is_its_steps(blocks: tuple[Block, ...], weights: str, count: int) -> None:
    model = build(*blocks, weights=weights)
    x = draw(blocks, count + 2)
    burst, single = model.stream(), model.stream()
    # From the middle of a stream, and on afterwards.
    for stream in (single, burst):
        stepped(stream, x[:1])
    found = burst.steps(x[1:-1])
    assert found.shape == (count, blocks[-1].output_size)
    if count:
        assert same_bits(found, stepped(single, x[1:-1]))
    assert same_bits(stepped(burst, x[-1:]), stepped(single, x[-1:]))


def test_outputs_go_where_they_are_wanted() -> None:
    stream, alike = build(*BLOCKS).stream(), build(*BLOCKS).stream()
    x, out = draw(BLOCKS, 4), np.empty((4, 2), np.float32)
    assert stream.steps(x.astype(float), out) is out
    assert same_bits(out, stepped(alike, x))


@pytest.mark.parametrize(
    ("x", "error", "says"),
    [
        ([0, 1, 7], ValueError, "x must be from 0 to 6, got 7"),
        ([0, -1], ValueError, "x must be from 0 to 6, got -1"),
        ([*range(7)] * 300 + [8], ValueError, "x must be from 0 to 6, got 8"),
        ([0.7, 1.2], InputError, "x must be whole numbers, got float64"),
        ([[1]], ValueError, r"x must be an aligned int64 array of shape \[1\]"),
        (3, InputError, "x must have one entry for each step, got 3 alone"),
        (["x"], InputError, "x must be whole numbers"),
        ([[1], [2, 3]], InputError, "x is no array"),
    ],
    ids=str,
)
def test_what_cannot_be_taken_takes_no_step(x: Any, error: type[Exception], says: str) -> None:
    stream = build(*TOKENS).stream()
    stream.steps([1, 2])
    before = stream.state
    with pytest.raises(error, match=says):
        stream.steps(x)
    assert stream.state == before


def test_ctrl_c_comes_between_steps() -> None:
    stream = build(Lstm(64, 64)).stream()
    x = np.zeros((2_000_000, 64), np.float32)
    out = np.empty_like(x)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    begin = time.perf_counter()
    try:
        with pytest.raises(KeyboardInterrupt):
            stream.steps(x, out)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    # All of it takes four seconds or more.
    assert time.perf_counter() - begin < 1
    stream.step(x[0])

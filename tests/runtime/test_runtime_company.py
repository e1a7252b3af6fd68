"""Thousands of streams in one pool, and a million that come and go."""

import gc
import sys

import numpy as np
import pytest
from runtime_problem import build, draw, pooled, resident, same_bits

from gatewise.format import Block, Conv1d, Linear, Lstm

BLOCKS: tuple[Block, ...] = (Conv1d(3, 4, 3), Lstm(4, 8, 2, cell="peephole"), Linear(8, 2))
STREAMS = 4096


def test_streams_do_not_notice_each_other() -> None:
    model = build(*BLOCKS)
    x = draw(BLOCKS, STREAMS, 5)
    assert same_bits(pooled(model, x), model.run(x))


def test_a_row_without_numbers_stays_alone() -> None:
    model = build(*BLOCKS)
    x = draw(BLOCKS, STREAMS, 3)
    clean = model.run(x)
    x[1234, 1] = np.nan
    found = pooled(model, x)
    assert np.isnan(found[1234, 1:]).all()
    others = np.delete(np.arange(STREAMS), 1234)
    assert same_bits(found[others], clean[others])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_million_streams_leave_no_memory_behind() -> None:
    model = build(Lstm(1, 2))
    pool, x, out = model.streams(8), np.ones((1, 1), np.float32), np.empty((1, 2), np.float32)
    slots = np.zeros(1, np.int64)

    def churn(turns: int) -> None:
        for _ in range(turns):
            slots[0] = slot = pool.open()
            pool.step(slots, x, out)
            pool.close(slot)
        gc.collect()

    churn(10_000)
    before = resident()
    churn(1_000_000)
    # Two bytes a turn would be more.
    assert resident() - before < 1 << 20
    assert len(pool) == 0

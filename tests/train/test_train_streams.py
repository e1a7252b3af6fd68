"""Streams laid in rows: every step once, in order, and windows that are a function of epoch and step."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gatewise.errors import InputError
from gatewise.train import Part, Streams, Window


def _streams(lengths: list[int], **options) -> Streams:
    offsets = np.cumsum([0, *lengths])
    steps = np.arange(offsets[-1])
    return Streams(steps.astype(np.float32), steps, offsets, **options)


def _rows(streams: Streams, epoch: int) -> list[Window]:
    return [streams.window(epoch, step) for step in range(1, streams.windows + 1)]


@given(
    lengths=st.lists(st.integers(0, 23), min_size=1, max_size=9).filter(any),
    rows=st.integers(1, 5),
    window=st.integers(1, 9),
    backward=st.integers(1, 20),
    carry=st.one_of(st.none(), st.integers(1, 12)),
    seed=st.one_of(st.none(), st.integers(0, 5)),
    epoch=st.integers(1, 3),
)
def test_an_epoch_holds_every_step_once_and_every_stream_in_order(
    *, lengths: list[int], rows: int, window: int, backward: int, carry: int | None, seed: int | None, epoch: int
) -> None:
    streams = _streams(lengths, rows=rows, window=window, backward=backward, carry=carry, seed=seed)
    starts = set(np.cumsum([0, *lengths])[:-1][np.array(lengths) > 0].tolist())
    lead = max(0, backward - window)
    seen: list[list[int]] = [[] for _ in range(rows)]
    begun: list[list[int]] = [[] for _ in range(rows)]
    for number, part in enumerate(_rows(streams, epoch)):
        assert part.x.shape == part.y.shape == part.reset.shape == part.scored.shape == (window + lead, rows)
        assert part.first == (number == 0)
        for row in range(rows):
            scored = part.scored[:, row]
            mine = part.y[scored, row].tolist()
            assert part.x[scored, row].tolist() == mine
            # What counts lies behind the lead, without gaps, and within the row's length.
            assert scored.nonzero().ravel().tolist() == list(range(lead, lead + len(mine)))
            assert (int(part.lengths[row]) == lead + len(mine)) if mine else (part.lengths[row] <= lead)
            seen[row] += mine
            begun[row] += part.y[scored & part.reset[:, row], row].tolist()
            # The lead repeats what came before, where there was something.
            before = seen[row][: len(seen[row]) - len(mine)]
            if mine and lead:
                behind = part.y[:lead, row].tolist()
                have = min(lead, len(before))
                assert behind[lead - have :] == before[len(before) - have :]
                assert behind[: lead - have] == [0] * (lead - have)
                assert not part.reset[: lead - have, row].any()
    flat = [step for row in seen for step in row]
    assert sorted(flat) == list(range(sum(lengths)))
    for row, resets in zip(seen, begun, strict=True):
        jumps = {row[0]} if row else set()
        jumps |= {after for before, after in pairwise(row) if after != before + 1}
        assert jumps <= set(resets)
        assert {step for step in row if step in starts} <= set(resets)
        if carry is None:
            assert set(resets) <= starts
        else:
            places = [row.index(step) for step in resets] + [len(row)]
            assert max(np.diff(places), default=0) <= carry


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 6), st.integers(1, 4))
def test_parts_are_the_rows_of_the_whole(lengths: list[int], rows: int, count: int) -> None:
    streams = _streams(lengths, rows=rows, window=7, backward=9)
    whole = streams.window(2, streams.windows)
    parts = [streams.window(2, streams.windows, Part(index, count)) for index in range(count)]
    for name in ("x", "y", "reset", "scored"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts], 1), getattr(whole, name))
    assert torch.equal(torch.cat([part.lengths for part in parts]), whole.lengths)


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    lengths = [5] * 12

    def order(seed: int | None, epoch: int) -> list[int]:
        streams = _streams(lengths, rows=2, window=10, seed=seed)
        streams.window(9, 1)  # what was asked for before does not matter
        return [step for part in _rows(streams, epoch) for step in part.y.T.ravel().tolist()]

    assert order(1, 1) == order(1, 1)
    assert order(1, 1) != order(1, 2)
    assert order(1, 1) != order(2, 1)
    assert order(None, 1) == order(None, 2)


def test_rows_are_of_about_equal_length() -> None:
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 200, 300).tolist()
    streams = _streams(lengths, rows=16, window=1)
    assert streams.windows <= 1.01 * sum(lengths) / 16 + 1


def test_many_features_come_as_they_are_and_nothing_else_is_copied() -> None:
    x = np.arange(60, dtype=np.float32).reshape(10, 3, 2)
    x.flags.writeable = False
    streams = Streams(x, np.arange(10), [0, 4, 10], rows=2, window=3, seed=None)
    window = streams.window(1, 2)
    assert window.x.shape == (3, 2, 3, 2)
    assert torch.equal(window.x[0, 0], torch.from_numpy(x[7].copy()))
    assert window.steps(1, 2).lengths.tolist() == [1, 0]
    assert window.lengths.tolist() == [3, 1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": 0}, "rows must be a whole number from 1, not 0"),
        ({"window": 1.5}, "window must be a whole number from 1, not 1.5"),
        ({"backward": 0}, "backward must be a whole number from 1"),
        ({"carry": -1}, "carry must be a whole number from 1, not -1"),
        ({"offsets": [0, 3]}, r"must have a row for each of the 3 steps .* not \[4\] and \[4\]"),
        ({"offsets": [1, 4]}, "offsets must be ascending whole numbers from 0"),
        ({"offsets": [0, 3, 2, 4]}, "offsets must be ascending whole numbers from 0"),
        ({"offsets": [0.0, 4.0]}, "offsets must be ascending whole numbers from 0"),
        ({"offsets": [0]}, "one more than there are streams"),
        ({"x": np.zeros(0), "y": np.zeros(0), "offsets": [0, 0]}, "offsets must be"),
        ({"y": np.zeros(3)}, r"not \[4\] and \[3\]"),
    ],
)
def test_wrong_sizes(change: dict, said: str) -> None:
    options = {"x": np.zeros(4), "y": np.zeros(4), "offsets": [0, 1, 4], "rows": 2, "window": 3} | change
    with pytest.raises(InputError, match=said):
        Streams(**options)

"""Stretches of rows: what indexing every row would give, as a copy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatewise.runtime.rows import extremes_so_far, stretches


@settings(deadline=None, derandomize=True)
@given(
    st.integers(1, 12),
    st.integers(1, 15),
    st.lists(st.integers(-20, 20), max_size=5),
    st.sampled_from([(), (1,), (3,)]),
)
def test_stretches_are_the_rows_that_indices_give(
    rows: int, count: int, first: list[int], shape: tuple[int, ...]
) -> None:
    values = np.arange(rows * int(np.prod(shape)), dtype=np.float32).reshape(rows, *shape)
    begins = np.array(first, np.int64)
    got = stretches(values, begins, count)
    index = begins[:, None] + np.arange(count)
    expected = values[np.clip(index, 0, rows - 1)]
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_array_equal(got, expected)
    kept = values.copy()
    got[:] = -1
    np.testing.assert_array_equal(values, kept)


@pytest.mark.parametrize("values", [np.arange(40.0)[::2], np.arange(40.0).reshape(2, 20).T, np.arange(20.0)[::-1]])
def test_rows_that_do_not_lie_together(values: np.ndarray) -> None:
    first = np.array([0, 3, 12])
    np.testing.assert_array_equal(stretches(values, first, 5), values[first[:, None] + np.arange(5)])


def test_rows_that_cannot_be_written_give_copies_that_can() -> None:
    values = np.arange(9.0)
    values.flags.writeable = False
    got = stretches(values, np.array([2]), 3)
    got += 1
    assert values[2] == 2


def test_extremes_are_those_of_each_series_so_far() -> None:
    values = np.array([3, 1, 2, 9, -4, 5, np.nan, 7], np.float32)
    extremes = extremes_so_far(values, np.array([0, 3, 6, 8]))
    assert extremes.dtype == np.float32
    expected = [[3, 3], [1, 3], [1, 3], [9, 9], [-4, 9], [-4, 9], [np.nan, np.nan], [7, 7]]
    np.testing.assert_array_equal(extremes, expected)

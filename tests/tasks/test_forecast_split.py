"""Training, validation and scoring rows never touch, whatever the lengths."""

from itertools import pairwise

import numpy as np
import pytest
from forecast_panels import bare_panel
from hypothesis import given, settings
from hypothesis import strategies as st

from gatewise.errors import InputError
from gatewise.runtime.windows import Origins
from gatewise.tasks.forecast.split import MOST_VALIDATION_WINDOWS, Split


def _split(lengths: list[int], window: int, horizon: int, holdout: int) -> Split:
    return Split.of(bare_panel([[1.0] * n for n in lengths], ahead=horizon), window, horizon, holdout)


def _parts(split: Split) -> list[list[int]]:
    """Rows of training, validation and scoring, for each series."""
    cuts = (split.starts, split.train_ends, split.cutoffs, split.ends)
    return [[int(b - a) for a, b in pairwise(row)] for row in zip(*cuts, strict=True)]


@settings(deadline=None, derandomize=True)
@given(
    st.lists(st.integers(2, 120), min_size=1, max_size=6), st.integers(1, 30), st.integers(1, 12), st.integers(0, 30)
)
def test_no_row_serves_two_ends(lengths: list[int], window: int, horizon: int, holdout: int) -> None:
    split = _split(lengths, window, horizon, holdout)
    need = window + horizon
    for length, (training, validation, scoring) in zip(lengths, _parts(split), strict=True):
        assert training + validation + scoring == length
        assert scoring in {0, holdout}
        assert validation == 0 or validation >= horizon
        assert training >= min(length, need)
        # Nothing is held back only where there is not enough.
        assert scoring == holdout or length - holdout < need
        assert validation or length - scoring - horizon < need
        assert validation <= max(horizon, 0.1 * (length - scoring))

    validation = split.validation()
    assert len(validation) <= MOST_VALIDATION_WINDOWS
    assert (validation.row >= split.train_ends[validation.series]).all()
    assert (validation.row + horizon <= split.cutoffs[validation.series]).all()
    scored = np.flatnonzero(split.cutoffs > split.train_ends)
    # The last window of every series that can validate, and every step back of a quarter of the horizon (there are
    # few enough for it).
    assert sorted(set(validation.series.tolist())) == scored.tolist()
    for i in scored:
        rows = validation.row[validation.series == i]
        assert rows[-1] == split.cutoffs[i] - horizon
        assert (np.diff(rows) == max(1, horizon // 4)).all()
        assert rows[0] - split.train_ends[i] < max(1, horizon // 4)

    if max(lengths) <= horizon:
        with pytest.raises(InputError, match="no series is long enough"):
            split.training()
        return
    training = split.training().every(1)
    assert (training.row + horizon <= split.train_ends[training.series]).all()
    context = training.row - split.starts[training.series]
    for i, (size, _, _) in enumerate(_parts(split)):
        mine = context[training.series == i]
        if size >= need:
            assert mine.tolist() == list(range(window, size - horizon + 1))
        else:
            assert mine.tolist() == ([size - horizon] if size > horizon else [])


@pytest.mark.parametrize(
    ("length", "parts"),
    [
        (200, [160, 20, 20]),  # 10 % of 180 is less than the horizon
        (1000, [882, 98, 20]),
        (90, [50, 20, 20]),
        (89, [69, 0, 20]),  # no room for validation
        (70, [50, 0, 20]),
        (69, [69, 0, 0]),  # no room for scoring, nor then for validation: 69 − 20 < 50
        (50, [50, 0, 0]),
        (35, [35, 0, 0]),  # shorter than window + horizon: padding
    ],
)
def test_what_a_series_gives_by_its_length(length: int, parts: list[int]) -> None:
    assert _parts(_split([length], window=30, horizon=20, holdout=20)) == [parts]


def test_series_are_split_one_by_one() -> None:
    split = _split([200, 35, 1000], window=30, horizon=20, holdout=20)
    assert _parts(split) == [[160, 20, 20], [35, 0, 0], [882, 98, 20]]
    assert split.starts.tolist() == [0, 220, 275]


def test_no_holdout_leaves_all_for_training_and_validation() -> None:
    assert _parts(_split([100], window=30, horizon=20, holdout=0)) == [[80, 20, 0]]


def test_many_validation_windows_are_thinned_within_series_first() -> None:
    split = _split([400] * 300, window=20, horizon=8, holdout=8)
    validation = split.validation()
    # 39 rows of validation give 32 windows. Of 2,048, each of 300 series may have 6: every 6th, which is 6 windows.
    assert len(validation) == 1800
    ends = np.arange(300) * 408 + 392
    expected = (ends - 8)[:, None] - np.arange(5, -1, -1) * 6
    assert validation.row.tolist() == expected.ravel().tolist()
    assert validation.series.tolist() == np.repeat(np.arange(300), 6).tolist()


def test_more_series_than_validation_windows_are_left_out_evenly() -> None:
    split = _split([60] * 5000, window=20, horizon=8, holdout=8)
    validation = split.validation()
    # One window each, the last, of every third series.
    assert validation.series.tolist() == list(range(0, 5000, 3))
    assert (validation.row == split.cutoffs[validation.series] - 8).all()


def test_as_many_series_as_validation_windows_have_one_each() -> None:
    split = _split([60] * MOST_VALIDATION_WINDOWS, window=20, horizon=8, holdout=8)
    validation = split.validation()
    assert validation.series.tolist() == list(range(MOST_VALIDATION_WINDOWS))
    assert (validation.row == split.cutoffs - 8).all()


def _by_hand(split: Split, most: int) -> list[tuple[int, int]]:
    """The validation windows, one series at a time."""
    rows = [
        [row for row in range(int(begin), int(end)) if row + split.horizon <= end]
        for begin, end in zip(split.train_ends, split.cutoffs, strict=True)
    ]
    having = [i for i, some in enumerate(rows) if some]
    if not having:
        return []
    share = most // len(having) or 1
    stride = max(split.horizon // 4, 1)
    while any(len(some) > stride * share for some in rows):
        stride += 1
    kept = [(i, row) for i in having for row in reversed(rows[i][::-1][::stride])]
    step = 1
    while len(kept) > step * most:
        step += 1
    return kept[::step]


def _pairs(origins: Origins) -> list[tuple[int, int]]:
    return list(zip(origins.series.tolist(), origins.row.tolist(), strict=True))


@pytest.mark.parametrize("most", [1, 2, 7, 20, 100])
def test_validation_windows_are_what_plain_code_makes(monkeypatch, most: int) -> None:
    monkeypatch.setattr("gatewise.tasks.forecast.split.MOST_VALIDATION_WINDOWS", most)
    rng = np.random.default_rng(most)
    thinned = 0  # how many of the splits
    for _ in range(60):
        lengths = rng.integers(2, 400, rng.integers(1, 12)).tolist()
        window, horizon, holdout = (int(rng.integers(1, high)) for high in (30, 13, 30))
        split = _split(lengths, window, horizon, holdout)
        validation = split.validation()
        assert _pairs(validation) == _by_hand(split, most)
        assert len(validation) <= most
        series = set(np.flatnonzero(split.cutoffs > split.train_ends).tolist())
        thinned += len(validation) < len(_by_hand(split, 10**6))
        if len(series) <= most:
            # No series is without its last window.
            last = {(i, int(split.cutoffs[i]) - horizon) for i in series}
            assert last <= set(_pairs(validation))
    assert thinned > 5


def test_without_room_there_is_no_validation() -> None:
    assert len(_split([35, 40], window=30, horizon=20, holdout=20).validation()) == 0


@pytest.mark.parametrize("lengths", [[3], [5, 4]])
def test_series_that_are_all_too_short_say_what_is_needed(lengths: list[int]) -> None:
    with pytest.raises(InputError, match=f"5 steps of forecast and .* the longest has {max(lengths)}. Use a shorter"):
        _split(lengths, window=9, horizon=5, holdout=5).training()
    assert _split([6], 9, 5, 5).training().counts().tolist() == [1]

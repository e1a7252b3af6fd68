"""Frequencies: what is inferred continues what was seen, on every kind of grid."""

from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from polars.testing import assert_series_equal

from gatewise.data import Frequency, infer_frequency
from gatewise.errors import InputError

BERLIN = pl.Datetime("us", "Europe/Berlin")


def infer(times: pl.Series) -> str:
    return infer_frequency(times, np.array([0, len(times)])).text


@pytest.mark.parametrize(
    ("text", "spelled", "words"),
    [
        ("h", "1h", "hourly"),
        ("60m", "1h", "hourly"),
        ("15m", "15m", "every 15 minutes"),
        ("1m", "1m", "every minute"),
        ("24h", "1d", "daily"),
        ("7d", "1w", "weekly"),
        ("36h", "36h", "every 36 hours"),
        ("1mo", "1mo", "monthly"),
        ("1mo-end", "1mo-end", "monthly (end of month)"),
        ("q", "3mo", "quarterly"),
        ("1q-end", "3mo-end", "quarterly (end of month)"),
        ("12mo", "1y", "yearly"),
        ("2y", "2y", "every 2 years"),
        ("1bd", "1bd", "business days"),
        ("2bd", "2bd", "every 2 business days"),
        ("1", "1", "integer steps"),
        ("5", "5", "integer steps of 5"),
        ("250ms", "250ms", "every 250 milliseconds"),
    ],
)
def test_spelling_and_words(text: str, spelled: str, words: str) -> None:
    frequency = Frequency.parse(text)
    assert frequency.text == spelled
    assert frequency.describe() == words
    assert Frequency.parse(spelled) == frequency


@pytest.mark.parametrize("text", ["", "0h", "-1h", "1.5h", "hourly", "1h-end", "end", "-end", "0"])
def test_other_spellings_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a frequency"):
        Frequency.parse(text)


SEEN: list[tuple[str, list[Any], list[Any]]] = [
    ("1", [0, 1, 2], [3, 4]),
    ("5", [-10, -5, 0], [5, 10]),
    (
        "1h",
        [datetime(2020, 2, 28, 22), datetime(2020, 2, 28, 23)],
        [datetime(2020, 2, 29, 0), datetime(2020, 2, 29, 1)],
    ),
    ("15m", [datetime(1969, 12, 31, 23, 30), datetime(1969, 12, 31, 23, 45)], [datetime(1970, 1, 1)]),
    ("1d", [date(2020, 2, 26), date(2020, 2, 27), date(2020, 2, 28)], [date(2020, 2, 29), date(2020, 3, 1)]),
    ("1w", [date(2020, 1, 7), date(2020, 1, 14)], [date(2020, 1, 21)]),
    ("4w", [date(2020, 1, 7), date(2020, 2, 4), date(2020, 3, 3), date(2020, 3, 31)], [date(2020, 4, 28)]),
    ("1bd", [date(2020, 1, 9), date(2020, 1, 10), date(2020, 1, 13), date(2020, 1, 14)], [date(2020, 1, 15)]),
    ("1mo", [date(2019, 11, 1), date(2019, 12, 1), date(2020, 1, 1)], [date(2020, 2, 1), date(2020, 3, 1)]),
    ("1mo", [date(1969, 11, 15), date(1969, 12, 15)], [date(1970, 1, 15)]),
    ("1mo-end", [date(2019, 11, 30), date(2019, 12, 31), date(2020, 1, 31)], [date(2020, 2, 29), date(2020, 3, 31)]),
    ("3mo", [date(2019, 7, 1), date(2019, 10, 1), date(2020, 1, 1)], [date(2020, 4, 1)]),
    ("3mo-end", [date(2019, 6, 30), date(2019, 9, 30), date(2019, 12, 31)], [date(2020, 3, 31), date(2020, 6, 30)]),
    ("1y", [date(2018, 1, 1), date(2019, 1, 1), date(2020, 1, 1)], [date(2021, 1, 1)]),
    ("1y", [datetime(2018, 5, 17, 6), datetime(2019, 5, 17, 6)], [datetime(2020, 5, 17, 6)]),
]


@pytest.mark.parametrize(("text", "seen", "after"), SEEN)
def test_inferred_and_continued(text: str, seen: list, after: list) -> None:
    times = pl.Series("when", seen)
    frequency = infer_frequency(times, np.array([0]))
    assert frequency.text == text
    assert_series_equal(frequency.future(times[-1:], len(after)), pl.Series("when", after, dtype=times.dtype))


def test_many_series_go_on_series_by_series() -> None:
    last = pl.Series("ds", [datetime(2020, 1, 1), datetime(2021, 1, 1, 5)], dtype=pl.Datetime("ns"))
    got = Frequency("1h").future(last, 2)
    assert got.dtype == pl.Datetime("ns")
    assert got.dt.hour().to_list() == [1, 2, 6, 7]
    assert got.dt.year().to_list() == [2020, 2020, 2021, 2021]


def test_the_most_common_step_wins_over_series_and_gaps() -> None:
    times = pl.Series([0, 2, 4, 10, 12, 3, 5, 7, 8])
    assert infer_frequency(times, np.array([0, 5, 9])).text == "2"
    # The jump between two series is no step.
    assert infer_frequency(pl.Series([0, 2, 1, 3]), np.array([0, 2, 4])).text == "2"


def test_five_days_of_one_week_are_daily() -> None:
    assert infer(pl.Series([date(2020, 1, day) for day in range(6, 11)])) == "1d"
    assert infer(pl.Series([date(2020, 1, day) for day in range(6, 14)])) == "1d"


def test_no_two_rows_no_frequency() -> None:
    with pytest.raises(InputError, match="no series has two rows"):
        infer_frequency(pl.Series([1, 5]), np.array([0, 1, 2]))


@pytest.mark.parametrize(
    ("text", "step", "hours"),
    [("1h", timedelta(hours=1), [1, 3, 4]), ("1d", timedelta(days=1), None)],
)
def test_clock_changes(text: str, step: timedelta, hours: list[int] | None) -> None:
    # Berlin's clocks went forward on 29 March 2020 at 02:00.
    start = datetime(2020, 3, 28, 23) if text == "1h" else datetime(2020, 3, 27)
    utc = pl.Series("ds", [start + step * k for k in range(3)])
    if text == "1h":
        times = utc.dt.replace_time_zone("UTC").dt.convert_time_zone("Europe/Berlin")
        assert times.dt.hour().to_list()[1:] == [1, 3]
    else:
        times = utc.dt.replace_time_zone("Europe/Berlin")
    assert infer(times) == text
    position, phase = Frequency(text).index(times)
    assert np.diff(position).tolist() == [1, 1]
    assert np.ptp(phase) == 0
    got = Frequency(text).future(times[:1], 2)
    assert_series_equal(got, times[1:])
    if hours:
        assert times[1:].dt.hour().to_list() == hours[:2]


def test_a_day_whose_hour_is_skipped_moves_on_and_a_doubled_hour_is_the_first() -> None:
    spring = pl.Series([datetime(2020, 3, 28, 2, 30)]).dt.replace_time_zone("Europe/Berlin")
    assert Frequency("1d").future(spring, 2).dt.replace_time_zone(None).to_list() == [
        datetime(2020, 3, 29, 3, 30),
        datetime(2020, 3, 30, 2, 30),
    ]
    autumn = pl.Series([datetime(2020, 10, 24, 2, 30)]).dt.replace_time_zone("Europe/Berlin")
    got = Frequency("1d").future(autumn, 1)
    assert got.dt.convert_time_zone("UTC").dt.hour().to_list() == [0]


def test_whole_numbers_keep_their_type_until_they_outgrow_it() -> None:
    assert Frequency("1").future(pl.Series([5], dtype=pl.Int32), 1).dtype == pl.Int32
    assert Frequency("100").future(pl.Series([100], dtype=pl.Int8), 1).to_list() == [200]


@pytest.mark.parametrize(
    ("text", "dtype"), [("1h", pl.Date()), ("1", pl.Date()), ("1h", pl.Int64()), ("1us", pl.Datetime("ms"))]
)
def test_a_frequency_that_the_type_cannot_hold(text: str, dtype: pl.DataType) -> None:
    assert not Frequency(text).fits(dtype)
    with pytest.raises(InputError, match="cannot have the frequency"):
        Frequency(text).index(pl.Series([0]).cast(dtype))


def test_stamps_off_the_grid_have_another_phase() -> None:
    for text, values in {
        "1h": [datetime(2020, 1, 1, 1), datetime(2020, 1, 1, 2, 30)],
        "1bd": [date(2020, 1, 10), date(2020, 1, 11)],
        "1mo": [date(2020, 1, 1), date(2020, 2, 2)],
        "1mo-end": [date(2020, 1, 31), date(2020, 2, 28)],
        "3mo": [date(2020, 1, 1), date(2020, 2, 1)],
        "2": [0, 1],
    }.items():
        phase = Frequency(text).index(pl.Series(values))[1]
        assert phase[0] != phase[1], text


TEXTS = ["1", "7", "1s", "90s", "15m", "1h", "6h", "1d", "3d", "1w", "1bd", "1mo", "1mo-end", "3mo", "3mo-end", "1y"]
TYPES = {"int": [pl.Int64(), pl.Int32()], "date": [pl.Date()], "stamp": [pl.Datetime("ms"), pl.Datetime("ns"), BERLIN]}


@given(
    text=st.sampled_from(TEXTS),
    kind=st.sampled_from(["int", "date", "stamp"]),
    start=st.datetimes(datetime(1945, 1, 1), datetime(2024, 12, 31)),
    n=st.integers(2, 14),
    data=st.data(),
)
def test_future_continues_what_infer_saw(text: str, kind: str, start: datetime, n: int, data) -> None:
    frequency = Frequency(text)
    dtype = data.draw(st.sampled_from(TYPES[kind]))
    assume(frequency.fits(dtype))
    first = pl.Series("ds", [start.replace(microsecond=0)])
    if kind == "int":
        last = pl.Series("ds", [start.microsecond - 500_000], dtype=dtype)
    elif dtype == BERLIN:
        # Stamps at noon exist once on every day.
        last = first.dt.truncate("1d").dt.offset_by("12h").dt.replace_time_zone("Europe/Berlin")
    else:
        last = first.cast(dtype)
    if text == "1bd":
        assume(last.dt.weekday()[0] < 6)
    if text.endswith("-end"):
        last = last.dt.month_end()
    elif frequency.months:
        # Months without this day would bend the grid; that is tested apart.
        assume(last.dt.day()[0] < 28)
    whole = pl.concat([last, frequency.future(last, n + 3)])
    seen, after = whole[:n], whole[n:]
    assert seen.dtype == dtype
    found = infer_frequency(seen, np.array([0, n]))
    # Two or three ends of months may fall on one day, and a few business days lie within one week.
    sure = n >= 4 if frequency.months else text != "1bd"
    assert found == frequency or not sure
    if found == frequency:
        assert_series_equal(found.future(seen[-1:], 4), after)
    position, phase = frequency.index(whole)
    assert np.diff(position).tolist() == [1] * (n + 3)
    assert np.ptp(phase) == 0
    assert_series_equal(frequency.stamps(position, phase, whole), whole)


def test_a_day_that_a_month_lacks_becomes_its_last() -> None:
    got = Frequency("1mo").future(pl.Series([date(2020, 1, 30)]), 3)
    assert got.to_list() == [date(2020, 2, 29), date(2020, 3, 30), date(2020, 4, 30)]


def test_like_ignores_the_place_in_the_month() -> None:
    assert Frequency("1mo").like(Frequency("1mo-end"))
    assert not Frequency("1mo").like(Frequency("3mo"))
    assert not Frequency("1d").like(Frequency("1bd"))

"""Calendar features: the right cycles for a frequency, bounded, periodic, on the zone's own clock."""

from datetime import date, datetime

import numpy as np
import polars as pl
import pytest

from gatewise.data import Frequency, calendar_features

YEAR = pl.Series("ds", pl.datetime_range(datetime(2020, 1, 1), datetime(2020, 12, 31, 23), "1h", eager=True))


def names(text: str, times: pl.Series = YEAR) -> list[str]:
    got = calendar_features(times, Frequency(text))[1]
    assert [name.rsplit("_", 1)[1] for name in got] == ["sin", "cos"] * (len(got) // 2)
    return [name.removesuffix("_sin") for name in got[::2]]


@pytest.mark.parametrize(
    ("text", "cycles"),
    [
        ("1h", ["hour_of_day", "day_of_week", "day_of_year"]),
        ("15m", ["hour_of_day", "day_of_week", "day_of_year"]),
        ("1d", ["day_of_week", "day_of_month", "day_of_year"]),
        ("1bd", ["day_of_week", "day_of_month", "day_of_year"]),
        ("1w", ["day_of_year"]),
        ("1mo", ["month_of_year"]),
        ("3mo-end", ["month_of_year"]),
        ("1y", []),
        ("2y", []),
    ],
)
def test_cycles_of_a_frequency(text: str, cycles: list[str]) -> None:
    assert names(text) == cycles


def test_whole_numbers_have_no_calendar() -> None:
    features, labels = calendar_features(pl.Series([1, 2, 3]), Frequency("1"))
    assert features.shape == (3, 0)
    assert features.dtype == np.float32
    assert labels == ()


@pytest.mark.parametrize("text", ["1h", "1d", "1w", "1mo"])
def test_every_feature_lies_on_the_unit_circle(text: str) -> None:
    features, labels = calendar_features(YEAR, Frequency(text))
    assert features.dtype == np.float32
    assert features.shape == (len(YEAR), len(labels))
    assert np.abs(features).max() <= 1
    np.testing.assert_allclose(features[:, ::2] ** 2 + features[:, 1::2] ** 2, 1, atol=1e-6)
    assert (features.std(axis=0) > 0.3).all()


def test_known_places_on_the_circle() -> None:
    times = pl.Series([datetime(2020, 1, 6), datetime(2020, 1, 6, 6), datetime(2020, 1, 6, 12, 30)])
    features, _ = calendar_features(times, Frequency("30m"))
    angle = 2 * np.pi * np.array([0, 6, 12.5]) / 24
    np.testing.assert_allclose(features[:, 0], np.sin(angle), atol=1e-6)
    np.testing.assert_allclose(features[:, 1], np.cos(angle), atol=1e-6)
    # 6 January 2020 was a Monday, where the week begins.
    np.testing.assert_array_equal(features[:, 2:4], [[0, 1]] * 3)
    months, _ = calendar_features(pl.Series([date(2020, 1, 31), date(2020, 4, 30)]), Frequency("1mo-end"))
    np.testing.assert_array_equal(months, [[0, 1], [1, 0]])


def test_zoned_stamps_are_read_on_their_own_clock() -> None:
    naive = pl.Series([datetime(2020, 7, 1, 6), datetime(2020, 7, 1, 7)])
    zoned = naive.dt.replace_time_zone("Asia/Kolkata")
    here = calendar_features(zoned, Frequency("1h"))[0]
    np.testing.assert_array_equal(here, calendar_features(naive, Frequency("1h"))[0])
    elsewhere = calendar_features(zoned.dt.convert_time_zone("UTC"), Frequency("1h"))[0]
    assert np.abs(here - elsewhere).max() > 0.5


def test_weekdays_repeat_after_seven_days() -> None:
    days = pl.Series(pl.date_range(date(2020, 1, 1), date(2020, 1, 21), "1d", eager=True))
    features, _ = calendar_features(days, Frequency("1d"))
    np.testing.assert_array_equal(features[:7, :2], features[7:14, :2])
    assert len(np.unique(features[:7, :2], axis=0)) == 7

"""Covariates on their way into the network: statistics of the training rows, categories, calendar."""

import json
from dataclasses import replace
from datetime import date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from forecast_panels import NAN, bare_panel, rich_panel

from gatewise.data import Columns, Panel, build_panel
from gatewise.errors import InputError
from gatewise.runtime.encoding import LARGEST, Category, Encoding, Numeric
from gatewise.tasks.forecast.encoding import MAX_CATEGORIES, constant, fit_encoding, known, unknown


def test_statistics_are_those_of_the_training_rows() -> None:
    panel = rich_panel((20, 9, 14), ahead=3)
    train_ends = panel.offsets[:-1] + np.array([15, 9, 4])
    encoding = fit_encoding(panel, train_ends)
    rows = np.concatenate([np.arange(a, b) for a, b in zip(panel.offsets, train_ends, strict=False)])
    values = {"wind": panel.past[rows, 0], "load": panel.past[rows, 1], "rain": panel.future[rows, 0]}
    assert [c.name for c in (*encoding.past, *encoding.future)] == list(values)
    for covariate in (*encoding.past, *encoding.future):
        assert covariate.mean == pytest.approx(values[covariate.name].astype(float).mean(), rel=1e-12)
        assert covariate.std == pytest.approx(values[covariate.name].astype(float).std(), rel=1e-12)
    past, future = panel.past.copy(), panel.future.copy()
    later = np.setdiff1d(np.arange(len(panel.y)), rows)
    past[later], future[later] = 1e9, -1e9
    assert fit_encoding(replace(panel, past=past, future=future), train_ends) == encoding
    past[rows[0]] += 1
    assert fit_encoding(replace(panel, past=past), train_ends) != encoding


def test_encoded_training_rows_have_mean_0_and_deviation_1() -> None:
    panel = rich_panel((50, 30), ahead=0)
    encoding = fit_encoding(panel, panel.ends)
    for values in (unknown(encoding, panel), known(encoding, panel)[:, :1]):
        assert values.dtype == np.float32
        np.testing.assert_allclose(values.mean(0), 0, atol=1e-6)
        np.testing.assert_allclose(values.std(0), 1, rtol=1e-5)
    np.testing.assert_allclose(unknown(encoding, panel)[3, 1], (panel.past[3, 1] - 1000) / 50, atol=0.5)


def test_shapes_and_channels_of_every_kind() -> None:
    panel = rich_panel((20, 9, 14), ahead=3)
    encoding = fit_encoding(panel, panel.ends)
    assert unknown(encoding, panel).shape == (52, 2)
    assert known(encoding, panel).shape == (52, 5)
    assert constant(encoding, panel).shape == (3, 3)
    assert encoding.channels() == (
        "wind", "load", "rain", "hour_of_day_sin", "hour_of_day_cos", "day_of_week_sin", "day_of_week_cos",
        "size=value", "kind=north", "kind=south",
    )  # fmt: skip
    np.testing.assert_array_equal(constant(encoding, panel)[:, 1:], [[0, 1], [1, 0], [0, 1]])
    np.testing.assert_allclose(
        constant(encoding, panel)[:, 0], (np.array([0, 1, 4]) - 5 / 3) / np.std([0, 1, 4]), rtol=1e-6
    )


def test_nothing_is_a_panel_without_covariates() -> None:
    panel = bare_panel([[1.0, 2.0], [3.0]])
    encoding = fit_encoding(panel, panel.ends)
    assert encoding == Encoding((), (), (), ())
    assert encoding.channels() == ()
    assert unknown(encoding, panel).shape == known(encoding, panel).shape == (3, 0)
    assert constant(encoding, panel).shape == (2, 0)


def _static(values: list, dtype: pl.DataType | None = None) -> Panel:
    df = pl.DataFrame({"unique_id": list(range(len(values))), "y": [1.0] * len(values)})
    df = df.with_columns(pl.Series("k", values, dtype))
    return build_panel(df, Columns(id="unique_id", static=("k",)))


def _fit(panel: Panel) -> Encoding:
    return fit_encoding(panel, panel.ends)


@pytest.mark.parametrize("dtype", [None, pl.Categorical()])
def test_a_category_unseen_in_training_is_all_zero(dtype: pl.DataType | None) -> None:
    encoding = _fit(_static(["b", "a", "b"], dtype))
    assert encoding.static == (Category("k", ("a", "b")),)
    np.testing.assert_array_equal(
        constant(encoding, _static(["c", "b", "", "a"], dtype)), [[0, 0], [0, 1], [0, 0], [1, 0]]
    )


def test_truth_values_and_dates_as_statics() -> None:
    assert _fit(_static([True, False])).static == (Numeric("k", 0.5, 0.5),)
    encoding = _fit(_static([date(2020, 1, 2), date(2020, 1, 1)]))
    assert encoding.static == (Category("k", ("2020-01-01", "2020-01-02")),)
    np.testing.assert_array_equal(constant(encoding, _static([date(2020, 1, 1)])), [[1, 0]])


def test_a_number_that_became_a_name_is_refused() -> None:
    with pytest.raises(InputError, match="static covariate 'k' must be a number, as in training, not String"):
        constant(_fit(_static([1, 2])), _static(["a", "b"]))


def test_too_many_categories_are_refused() -> None:
    names = [f"n{i}" for i in range(MAX_CATEGORIES)]
    assert len(_fit(_static(names)).channels()) == MAX_CATEGORIES
    with pytest.raises(InputError, match="'k' has 101 different values; up to 100 are accepted"):
        _fit(_static([*names, "more"]))


@pytest.mark.parametrize("value", [0.1, 0.0, -3.3, 1e9 + 0.1])
@pytest.mark.parametrize("count", [1, 3, 10, 49])
def test_a_constant_covariate_is_zero_and_stays_tame(value: float, count: int) -> None:
    encoding = _fit(_static([value] * count))
    np.testing.assert_allclose(constant(encoding, _static([value] * count)), 0, atol=1e-6)
    assert abs(constant(encoding, _static([value + 1]))).item() == pytest.approx(1, rel=1e-5)


def test_a_constant_past_covariate_is_zero() -> None:
    df = pl.DataFrame({"y": [1.0] * 7, "p": [0.1] * 7})
    panel = build_panel(df, Columns(past=("p",)))
    encoding = _fit(panel)
    assert encoding.past[0].std == 1.0
    np.testing.assert_allclose(unknown(encoding, panel), 0, atol=1e-6)


def test_unknown_values_are_left_out_of_the_statistics() -> None:
    panel = rich_panel((9,), ahead=0)
    past = panel.past.copy()
    past[2, 0] = NAN
    encoding = _fit(replace(panel, past=past))
    assert encoding.past[0].mean == pytest.approx(np.delete(past[:, 0], 2).astype(float).mean(), rel=1e-12)
    past[:, 0] = NAN
    assert _fit(replace(panel, past=past)).past[0] == Numeric("wind", 0.0, 1.0)


# ---- calendar


def _calendar(step: timedelta, rows: int) -> tuple[str, ...]:
    times = [datetime(2020, 1, 1) + step * k for k in range(rows)]
    return _fit(build_panel(pl.DataFrame({"t": times, "y": [1.0] * rows}), Columns(time="t"))).calendar


def _pairs(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}_{part}" for name in names for part in ("sin", "cos"))


def test_the_year_counts_only_once_it_has_come_round() -> None:
    day = timedelta(days=1)
    # 1.5 years are 547.875 days.
    assert _calendar(day, 548) == _pairs("day_of_week", "day_of_month")
    assert _calendar(day, 549) == _pairs("day_of_week", "day_of_month", "day_of_year")
    assert _calendar(7 * day, 79) == ()
    assert _calendar(7 * day, 80) == _pairs("day_of_year")
    assert _calendar(timedelta(hours=1), 100) == _pairs("hour_of_day", "day_of_week")


@pytest.mark.parametrize(("rows", "names"), [(18, ()), (20, _pairs("month_of_year"))])
def test_months_of_the_year(rows: int, names: tuple[str, ...]) -> None:
    times = [date(2020 + k // 12, k % 12 + 1, 1) for k in range(rows)]
    panel = build_panel(pl.DataFrame({"t": times, "y": [1.0] * rows}), Columns(time="t"))
    assert _fit(panel).calendar == names


def test_a_short_table_uses_the_calendar_of_its_model() -> None:
    long = [date(2018, 1, 1) + timedelta(k) for k in range(800)]
    encoding = _fit(build_panel(pl.DataFrame({"t": long, "y": [1.0] * 800}), Columns(time="t")))
    short = build_panel(pl.DataFrame({"t": long[:3], "y": [1.0] * 3}), Columns(time="t"))
    values = known(encoding, short)
    assert values.shape == (3, 6)
    angle = 2 * np.pi * np.arange(3)
    expected = {"day_of_week": angle / 7, "day_of_month": angle / 31, "day_of_year": angle / 366}
    for k, name in enumerate(encoding.calendar):
        angles = expected[name[:-4]]
        np.testing.assert_allclose(values[:, k], np.sin(angles) if name.endswith("sin") else np.cos(angles), atol=1e-6)


def test_an_encoding_comes_back_from_plain_data() -> None:
    panel = rich_panel((20, 9, 14), ahead=3)
    encoding = _fit(panel)
    back = Encoding.from_dict(json.loads(json.dumps(encoding.as_dict())))
    assert back == encoding
    assert [type(c) for c in back.static] == [Numeric, Category]
    for encode in (known, unknown, constant):
        assert encode(back, panel).tobytes() == encode(encoding, panel).tobytes()


def test_a_value_beyond_float32_is_cut_and_an_unknown_one_stays_unknown() -> None:
    values = np.array([3e37, -3e37, NAN, 2e-6, 0.0], np.float32)
    encoded = Numeric("wind", 0.0, 1e-6).encode(values)
    assert encoded.dtype == np.float32
    np.testing.assert_array_equal(encoded[[0, 1, 2, 4]], [LARGEST, -LARGEST, NAN, 0.0])
    assert encoded[3] == pytest.approx(2.0)

"""exp, sigmoid and tanh hold the contract that csrc/math.h states: 2 ULP, exact limits, NaN kept."""

from collections.abc import Callable

import numpy as np
import pytest

from gatewise import _native

TRUTH: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "exp": np.exp,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
}
LIMITS = {"exp": (0.0, np.inf), "sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0)}
MAX_ULP = 2.0
STEP = 2003  # every 2003rd float32: about two million points, with all exponents and both signs

pytestmark = [
    pytest.mark.parametrize("isa", _native.available_isas()),
    pytest.mark.parametrize("name", TRUTH),
]


def _apply(name: str, isa: str, x: np.ndarray) -> np.ndarray:
    result = np.full_like(x, np.nan)
    _native.math(name, x.ctypes.data, result.ctypes.data, x.size, isa)
    return result


def _worst_ulp(name: str, isa: str, x: np.ndarray) -> float:
    with np.errstate(over="ignore"):
        truth = TRUTH[name](x.astype(np.float64))
    limits = np.finfo(np.float32)
    normal = (np.abs(truth) >= limits.tiny) & (np.abs(truth) <= limits.max)
    truth, ours = truth[normal], _apply(name, isa, x)[normal]
    _, exponent = np.frexp(truth)
    return float(np.max(np.abs(ours - truth) / np.ldexp(1.0, exponent - 24)))


def test_two_ulp_over_all_floats(name: str, isa: str):
    positive = np.arange(0, 0x7F800000, STEP, dtype=np.uint32).view(np.float32)
    assert _worst_ulp(name, isa, np.concatenate([positive, -positive])) <= MAX_ULP


def test_two_ulp_where_the_reduction_turns(name: str, isa: str):
    """Dense around multiples of ln2 / 2, where |r| is largest and n changes, and where tanh changes its formula."""
    centres = np.concatenate([np.arange(-40, 41) * np.log(2) / 4, [0.23, -0.23, 0.39, -0.39]])
    x = (centres[:, None] + np.linspace(-5e-3, 5e-3, 4001)).astype(np.float32).ravel()
    assert _worst_ulp(name, isa, x) <= MAX_ULP


def test_limits_and_nan(name: str, isa: str):
    low, high = LIMITS[name]
    x = np.array([-np.inf, np.inf, -3e38, 3e38, np.nan, -np.nan], dtype=np.float32)
    result = _apply(name, isa, x)
    assert result[:4].tolist() == [low, high, low, high]
    assert np.isnan(result[4:]).all()


def test_around_zero(name: str, isa: str):
    x = np.array([0.0, -0.0, 1e-45, -1e-45, 1e-30, -1e-30], dtype=np.float32)
    result = _apply(name, isa, x)
    if name == "tanh":
        assert np.array_equal(result.view(np.int32), x.view(np.int32))
    else:
        assert (result == {"exp": 1.0, "sigmoid": 0.5}[name]).all()


def test_every_count_writes_exactly_that_many(name: str, isa: str):
    x = np.linspace(-3, 3, 40, dtype=np.float32)
    whole = _apply(name, isa, x)
    for count in range(40):
        result = np.full(41, 7, dtype=np.float32)
        _native.math(name, x.ctypes.data, result.ctypes.data, count, isa)
        assert np.array_equal(result[:count], whole[:count])
        assert (result[count:] == 7).all()

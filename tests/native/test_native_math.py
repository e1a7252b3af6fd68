"""exp, sigmoid and tanh hold the contract that csrc/math.h states: 2 ULP, exact limits, NaN kept.

2 ULP where the true result is a normal number; below, the smallest normal number in absolute terms.
"""

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
ISAS = _native.available_isas()
MAX_ULP = 2.0
STEP = 97  # every 97th float32 of either sign: 44 million points, with all exponents and subnormals
CHUNK = 1 << 21
FLOAT = np.finfo(np.float32)
SMALLEST, LARGEST = float(FLOAT.tiny), float(FLOAT.max)

each_function = pytest.mark.parametrize("name", TRUTH)
each_isa = pytest.mark.parametrize("isa", ISAS)


def _apply(name: str, isa: str, x: np.ndarray) -> np.ndarray:
    result = np.full_like(x, np.nan)
    _native.math(name, x.ctypes.data, result.ctypes.data, x.size, isa)
    return result


def _check(name: str, x: np.ndarray) -> None:
    """Hold the results of finite numbers to the contract."""
    with np.errstate(over="ignore"):
        truth = TRUTH[name](x.astype(np.float64))
    size = np.abs(truth)
    # The unit in the last place of the true result; the exponent field of a float64 is 11 bits from the 52nd.
    ulp = np.ldexp(1.0, ((size.view(np.int64) >> 52) - 1023 - 23).astype(np.int32))
    allowed = np.where(size >= SMALLEST, MAX_ULP * ulp, SMALLEST)
    low, high = LIMITS[name]
    for isa in ISAS:
        ours = _apply(name, isa, x)
        # Written so that a NaN fails. What is above the largest float32 is infinite.
        with np.errstate(invalid="ignore"):
            good = (np.abs(ours - truth) <= allowed) | ((truth > LARGEST) & np.isposinf(ours))
        bad = x[~(good & (low <= ours) & (ours <= high))]
        assert not bad.size, (isa, bad[:5].tolist(), _apply(name, isa, bad[:5]).tolist())


@each_function
def test_the_contract_over_all_floats(name: str):
    for sign in (0, 0x80000000):
        for first in range(0, 0x7F800000, CHUNK * STEP):
            last = min(first + CHUNK * STEP, 0x7F800000)
            _check(name, (np.arange(first, last, STEP, dtype=np.uint32) | np.uint32(sign)).view(np.float32))


# Where results become subnormal or zero, where they overflow, where they reach 1, where formulas change.
EDGES = [-103.97, -103.28, -88.72, -88.0, -87.34, -87.0, -16.64, -9.01, -8.66, -0.6931472, -0.55, -0.125]
EDGES += [0.125, 0.55, 0.6931472, 8.66, 9.01, 10.0, 16.64, 17.33, 87.0, 88.0, 88.72, 89.0, 104.0]


@each_function
def test_the_contract_around_powers_of_two_and_at_the_edges(name: str):
    """All 4096 neighbours of every power of two, of zero, of the largest floats, and of places that are special."""
    powers = np.arange(1, 255, dtype=np.int64) << 23
    special = np.array(EDGES, dtype=np.float32).view(np.uint32).astype(np.int64) & 0x7FFFFFFF
    centres = np.concatenate([[0, 0x7F800000], powers, special])
    places = (centres[:, None] + np.arange(-2048, 2048)).ravel()
    magnitude = places[(places >= 0) & (places < 0x7F800000)].astype(np.uint32)
    for sign in (0, 0x80000000):
        _check(name, (magnitude | np.uint32(sign)).view(np.float32))


@each_function
def test_subnormal_numbers(name: str):
    magnitude = np.arange(0, 0x800000, 31, dtype=np.uint32)
    x = magnitude.view(np.float32)
    _check(name, np.concatenate([x, -x]))
    for isa in ISAS:
        ours = _apply(name, isa, np.concatenate([x, -x]))
        assert np.array_equal(ours, np.concatenate([x, -x]) if name == "tanh" else np.full_like(ours, ours[0]))


@each_function
def test_two_ulp_where_the_reduction_turns(name: str):
    """Dense around multiples of ln2 / 2, where |r| is largest and n changes, and where tanh changes its formula."""
    centres = np.concatenate([np.arange(-40, 41) * np.log(2) / 4, [0.23, -0.23, 0.39, -0.39]])
    x = (centres[:, None] + np.linspace(-5e-3, 5e-3, 4001)).astype(np.float32).ravel()
    _check(name, x)


@each_function
@each_isa
def test_limits_and_nan(name: str, isa: str):
    low, high = LIMITS[name]
    x = np.array([-np.inf, np.inf, -3e38, 3e38], dtype=np.float32)
    assert _apply(name, isa, x).tolist() == [low, high, low, high]
    # Quiet and signalling, with either sign, with the smallest and the largest payload, at every place of a vector.
    patterns = [0x7FC00000, 0xFFC00000, 0x7F800001, 0xFF800001, 0x7FFFFFFF, 0xFFFFFFFF]
    for pattern in patterns:
        for place in range(19):
            x = np.linspace(-2, 2, 19, dtype=np.float32)
            clean = _apply(name, isa, x)
            x.view(np.uint32)[place] = pattern
            result = _apply(name, isa, x)
            assert np.isnan(result[place])
            others = np.arange(19) != place
            assert np.array_equal(result[others], clean[others])


@each_function
@each_isa
def test_around_zero(name: str, isa: str):
    x = np.array([0.0, -0.0, 1e-45, -1e-45, 1e-30, -1e-30], dtype=np.float32)
    result = _apply(name, isa, x)
    if name == "tanh":
        assert np.array_equal(result.view(np.int32), x.view(np.int32))
    else:
        assert (result == {"exp": 1.0, "sigmoid": 0.5}[name]).all()


@each_function
@each_isa
def test_every_count_writes_exactly_that_many(name: str, isa: str):
    x = np.linspace(-3, 3, 40, dtype=np.float32)
    whole = _apply(name, isa, x)
    for count in range(40):
        result = np.full(41, 7, dtype=np.float32)
        _native.math(name, x.ctypes.data, result.ctypes.data, count, isa)
        assert np.array_equal(result[:count], whole[:count])
        assert (result[count:] == 7).all()

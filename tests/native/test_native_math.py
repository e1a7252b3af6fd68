"""exp, sigmoid and tanh hold the contract that csrc/math.h states: 2 ULP, exact limits, NaN kept.

2 ULP where the true result is a normal number; below, the smallest normal number in absolute terms. The truth is
computed in the next larger type; where long double is no larger than double, float64 is not tested.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

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
CHUNK = 1 << 21


class Kind(NamedTuple):
    """A type of numbers, and what is special about it.

    Attributes:
        dtype: its dtype.
        whole: the unsigned integers of its size.
        larger: the type of the truth.
        run: the engine's functions.
        step: from one tested number to the next, of all numbers as integers.
        dense: the same where functions bend, between 2⁻⁴⁰ and 2¹⁰.
        edges: where results become subnormal or zero, where they overflow, where they reach 1, where formulas change.
        nans: quiet and signalling, of either sign, with the smallest and the largest payload.
    """

    dtype: type[np.floating[Any]]
    whole: type[np.unsignedinteger[Any]]
    larger: type[np.floating[Any]]
    run: Callable[[str, int, int, int, str], None]
    step: int
    dense: int
    edges: tuple[float, ...]
    nans: tuple[int, ...]

    @property
    def limits(self) -> Any:
        return np.finfo(self.dtype)

    @property
    def infinity(self) -> int:
        return int(self.one(np.inf).view(self.whole)[0])

    def one(self, value: float) -> np.ndarray:
        return np.array([value], self.dtype)

    def numbers(self, magnitudes: np.ndarray) -> np.ndarray:
        """The numbers of these bits, with either sign."""
        x = magnitudes.astype(self.whole).view(self.dtype)
        return np.concatenate([x, -x])


BENDS = (0.125, 0.173, 0.22, 0.25, 0.39, 0.52, 0.55, 0.6931471805599453)
KINDS = {
    "float32": Kind(
        np.float32,
        np.uint32,
        np.float64,
        _native.math,
        97,  # 44 million points, with all exponents and subnormals
        CHUNK,
        (*BENDS, 8.66, 9.01, 10.0, 16.64, 17.33, 87.0, 87.34, 88.0, 88.72, 89.0, 103.28, 103.97, 104.0),
        (0x7FC00000, 0xFFC00000, 0x7F800001, 0xFF800001, 0x7FFFFFFF, 0xFFFFFFFF),
    ),
    "float64": Kind(
        np.float64,
        np.uint64,
        np.longdouble,
        _native.math_double,
        0x7FF0000000000000 // 250_007,
        (50 << 52) // 3_000_017,
        (*BENDS, 18.37, 19.06, 20.0, 36.74, 37.43, 708.0, 708.4, 709.0, 709.78, 710.0, 744.44, 745.13, 746.0),
        (0x7FF8 << 48, 0xFFF8 << 48, (0x7FF0 << 48) + 1, (0xFFF0 << 48) + 1, (1 << 63) - 1, (1 << 64) - 1),
    ),
}

every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
each_function = pytest.mark.parametrize("name", TRUTH)
each_isa = pytest.mark.parametrize("isa", ISAS)


def _apply(kind: Kind, name: str, isa: str, x: np.ndarray) -> np.ndarray:
    result = np.full_like(x, np.nan)
    kind.run(name, x.ctypes.data, result.ctypes.data, x.size, isa)
    return result


def _check(kind: Kind, name: str, x: np.ndarray) -> None:
    """Hold the results of finite numbers to the contract."""
    assert x.dtype == kind.dtype
    if np.finfo(kind.larger).nmant < kind.limits.nmant + 8:
        pytest.skip("long double is no larger than double here: there is no truth to compare float64 with")
    smallest, largest = kind.larger(kind.limits.tiny), kind.larger(kind.limits.max)
    with np.errstate(over="ignore", under="ignore"):
        truth = TRUTH[name](x.astype(kind.larger))
        size = np.abs(truth)
        # The unit in the last place of the true result.
        ulp = np.ldexp(kind.larger(1), np.frexp(size)[1] - 1 - kind.limits.nmant)
    allowed = np.where(size >= smallest, MAX_ULP * ulp, smallest)
    low, high = LIMITS[name]
    for isa in ISAS:
        ours = _apply(kind, name, isa, x)
        # Written so that a NaN fails. What is above the largest number is infinite.
        with np.errstate(invalid="ignore"):
            good = (np.abs(ours - truth) <= allowed) | ((truth > largest) & np.isposinf(ours))
        bad = x[~(good & (low <= ours) & (ours <= high))]
        assert not bad.size, (isa, bad[:5].tolist(), _apply(kind, name, isa, bad[:5]).tolist())


@every_kind
@each_function
def test_the_contract_over_all_floats(name: str, kind: Kind):
    for first in range(0, kind.infinity, CHUNK * kind.step):
        last = min(first + CHUNK * kind.step, kind.infinity)
        _check(kind, name, kind.numbers(np.arange(first, last, kind.step, dtype=kind.whole)))


@every_kind
@each_function
def test_the_contract_where_functions_bend(name: str, kind: Kind):
    first, last = (int(kind.one(end).view(kind.whole)[0]) for end in (2.0**-40, 2.0**10))
    for start in range(first, last, CHUNK * kind.dense):
        stop = min(start + CHUNK * kind.dense, last)
        _check(kind, name, kind.numbers(np.arange(start, stop, kind.dense, dtype=kind.whole)))


@every_kind
@each_function
def test_the_contract_around_powers_of_two_and_at_the_edges(name: str, kind: Kind):
    """Neighbours of every power of two, of zero, of the largest floats, and of places that are special."""
    wide = 2048 if kind.dtype is np.float32 else 256
    powers = np.arange(1, 2 * kind.limits.maxexp - 1, dtype=np.int64) << kind.limits.nmant
    special = np.array(kind.edges, dtype=kind.dtype).view(kind.whole).astype(np.int64)
    centres = np.concatenate([[0, kind.infinity], powers, special])
    places = (centres[:, None] + np.arange(-wide, wide)).ravel()
    _check(kind, name, kind.numbers(places[(places >= 0) & (places < kind.infinity)]))


@every_kind
@each_function
def test_subnormal_numbers(name: str, kind: Kind):
    smallest = int(kind.one(kind.limits.tiny).view(kind.whole)[0])
    x = kind.numbers(np.arange(0, smallest, smallest // 270_601, dtype=kind.whole))
    _check(kind, name, x)
    for isa in ISAS:
        ours = _apply(kind, name, isa, x)
        assert np.array_equal(ours, x if name == "tanh" else np.full_like(ours, ours[0]))


@every_kind
@each_function
def test_two_ulp_where_the_reduction_turns(name: str, kind: Kind):
    """Dense around multiples of ln2 / 2, where |r| is largest and n changes, and where tanh changes its formula."""
    centres = np.concatenate([np.arange(-40, 41) * np.log(2) / 4, [0.23, -0.23, 0.39, -0.39]])
    x = (centres[:, None] + np.linspace(-5e-3, 5e-3, 4001)).astype(kind.dtype).ravel()
    _check(kind, name, x)


@every_kind
@each_function
@each_isa
def test_limits_and_nan(name: str, isa: str, kind: Kind):
    low, high = LIMITS[name]
    largest = float(kind.limits.max)
    x = np.array([-np.inf, np.inf, -largest, largest], dtype=kind.dtype)
    assert _apply(kind, name, isa, x).tolist() == [low, high, low, high]
    for pattern in kind.nans:
        # At every place of a vector.
        for place in range(19):
            x = np.linspace(-2, 2, 19, dtype=kind.dtype)
            clean = _apply(kind, name, isa, x)
            x.view(kind.whole)[place] = pattern
            result = _apply(kind, name, isa, x)
            assert np.isnan(result[place])
            others = np.arange(19) != place
            assert np.array_equal(result[others], clean[others])


@every_kind
@each_function
@each_isa
def test_around_zero(name: str, isa: str, kind: Kind):
    least = float(kind.limits.smallest_subnormal)
    x = np.array([0.0, -0.0, least, -least, 1e-30, -1e-30], dtype=kind.dtype)
    result = _apply(kind, name, isa, x)
    if name == "tanh":
        assert np.array_equal(result.view(kind.whole), x.view(kind.whole))
    else:
        assert (result == {"exp": 1.0, "sigmoid": 0.5}[name]).all()


@every_kind
@each_function
@each_isa
def test_every_count_writes_exactly_that_many(name: str, isa: str, kind: Kind):
    x = np.linspace(-3, 3, 40, dtype=kind.dtype)
    whole = _apply(kind, name, isa, x)
    for count in range(40):
        result = np.full(41, 7, dtype=kind.dtype)
        kind.run(name, x.ctypes.data, result.ctypes.data, count, isa)
        assert np.array_equal(result[:count], whole[:count])
        assert (result[count:] == 7).all()

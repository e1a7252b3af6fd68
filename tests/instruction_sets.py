"""One instruction set after the other, for the tests of several folders."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gatewise import _native

ISAS = _native.available_isas()


@contextmanager
def computed_on(isa: str) -> Iterator[None]:
    """Have the engine compute on this one, for a while."""
    former = _native.isa()
    _native.use_isa(isa)
    try:
        yield
    finally:
        _native.use_isa(former)


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test on one instruction set after the other."""
    with computed_on(request.param):
        yield request.param

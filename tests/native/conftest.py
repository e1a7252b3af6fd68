"""Poisoned memory, one thread, every instruction set in turn, and the rows that the table does not have."""

from collections.abc import Iterator

import pytest
import torch
from native_problem import ISAS
from native_rows import registered

from gatewise import _native

# These tensors are tiny, and a team of threads that waits for a busy core takes a hundred times longer.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Fill every fresh tensor with NaN, so that an element the engine forgets to write is seen."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def rows() -> Iterator[None]:
    with registered():
        yield


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test on one instruction set after the other."""
    former = _native.isa()
    _native.use_isa(request.param)
    yield request.param
    _native.use_isa(former)

"""Poisoned memory, one thread, every instruction set in turn, and the rows that the table does not have."""

from collections.abc import Iterator

import pytest
import torch
from native_problem import DTYPES
from native_rows import registered

from instruction_sets import computed_on, isa

__all__ = ["isa"]  # passed on

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


@pytest.fixture(params=DTYPES, ids=lambda pair: f"{pair[0]}-{str(pair[1])[6:]}")
def dtype(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    """Run the test in float32 on one instruction set after the other, and in float64 on one of each family."""
    isa, dtype = request.param
    with computed_on(isa):
        yield dtype

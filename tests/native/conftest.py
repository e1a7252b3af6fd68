"""Problems for the native kernel, and poisoned memory."""

from collections.abc import Iterator

import pytest
import torch

# These tensors are tiny, and a team of threads that waits for a busy core takes a hundred times longer.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Fill every fresh tensor with NaN, so that an element the kernel forgets to write is seen."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)

"""Every backend × dtype × shape × gradient: it serves as the reference does, or it says why not."""

import pytest
import torch

from gatewise.errors import InputError
from gatewise.ops import BACKENDS, Weights, lstm
from gatewise.reference import scan

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.complex64]
SHAPES = [(0, 2, 3, 4), (1, 1, 1, 1), (2, 0, 3, 4), (3, 1, 5, 7), (4, 5, 3, 16), (2, 3, 1, 33)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("gradient", [False, True], ids=["plain", "gradient"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_contract(backend: str, dtype: torch.dtype, shape: tuple[int, int, int, int], gradient: bool, reverse: bool):
    T, B, D, H = shape
    generator = torch.Generator().manual_seed(0)
    sizes = [(T, B, D), (B, H), (B, H), (4 * H, D), (4 * H, H), (4 * H,), (4 * H,)]
    drawn = [torch.randn(size, generator=generator) / 2 for size in sizes]
    tensors = [tensor.to(dtype).requires_grad_(gradient and dtype.is_floating_point) for tensor in drawn]
    presented = {"gradient"} if tensors[0].requires_grad else set[str]()
    presented |= set() if T else {"no steps"}
    row = BACKENDS[backend]
    arguments = tensors[0], (tensors[1], tensors[2]), Weights(*tensors[3:])
    if dtype not in row.dtypes or presented & row.stopped_by:
        with pytest.raises(InputError, match=f"backend '{backend}' cannot serve this call"):
            lstm(*arguments, reverse=reverse, backend=backend)
        return
    y, (h, c) = lstm(*arguments, reverse=reverse, backend=backend)
    assert (y.dtype, h.dtype, c.dtype) == (dtype, dtype, dtype)
    exact = [tensor.detach().double() for tensor in tensors]
    truth, (h_n, c_n), _ = scan(exact[0], (exact[1], exact[2]), Weights(*exact[3:]), reverse=reverse)
    tolerance = 16 * torch.finfo(dtype).eps
    for ours, theirs in ((y, truth), (h, h_n), (c, c_n)):
        torch.testing.assert_close(ours.detach().double(), theirs, rtol=0, atol=tolerance)
    if gradient and T * B:
        (y.sum() + c.sum()).backward()
        assert all(tensor.grad is not None and tensor.grad.isfinite().all() for tensor in tensors)

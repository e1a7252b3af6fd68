"""No memory is an error, not an abort; and no byte past the ends is touched."""

import ctypes
import mmap
import subprocess
import sys

import pytest
import torch
from native_problem import ISAS, Problem, assert_same_bits

EXHAUST = """
import resource, torch
from gatewise.ops import Weights, lstm
H = 1500
state = (torch.zeros(1, H), torch.zeros(1, H))
weights = Weights(torch.zeros(4 * H, H), torch.zeros(4 * H, H))
x = torch.zeros(2, 1, H)
small = Weights(torch.ones(4, 1), torch.ones(4, 1)), (torch.zeros(1, 1), torch.zeros(1, 1))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 20), resource.RLIM_INFINITY))
try:
    lstm(x, state, weights, backend="native")
except MemoryError:
    print("MemoryError", lstm(torch.ones(1, 1, 1), small[1], small[0], backend="native")[0].isfinite().all().item())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_too_little_memory_raises():
    run = subprocess.run([sys.executable, "-c", EXHAUST], capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "MemoryError True", run.stderr


class Guarded:
    """A copy of a tensor that ends where an unreadable page begins."""

    PAGE = mmap.PAGESIZE

    def __init__(self, tensor: torch.Tensor):
        size = tensor.numel() * 4
        pages = -(-size // self.PAGE)
        self.memory = mmap.mmap(-1, (pages + 1) * self.PAGE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mprotect(ctypes.c_void_p(address + pages * self.PAGE), self.PAGE, 0) == 0
        offset = pages * self.PAGE - size
        self.tensor = torch.frombuffer(self.memory, dtype=torch.float32, count=tensor.numel(), offset=offset)
        self.tensor = self.tensor.view(tensor.shape).copy_(tensor)


@pytest.mark.skipif(sys.platform != "linux", reason="uses mprotect")
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("B", "D", "H"), [(1, 1, 1), (3, 3, 7), (7, 5, 9), (4, 1, 17)])
def test_nothing_is_read_or_written_past_the_end(isa: str, B: int, D: int, H: int):
    problem = Problem.draw(3, B, D, H)
    guards: list[Guarded] = []

    def guarded(tensor: torch.Tensor) -> torch.Tensor:
        guards.append(Guarded(tensor))
        return guards[-1].tensor

    out = guarded(torch.zeros(3, B, H))
    assert_same_bits(problem.map(guarded).native(isa, out), problem.native(isa))

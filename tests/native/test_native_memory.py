"""No memory is an error, not an abort; and no byte past the ends is touched."""

import ctypes
import mmap
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from native_problem import Problem, check_same_bits, draw
from native_rows import name_of
from torch import Tensor

from gatewise import _native
from gatewise.spec import CELLS, Cell

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
    lstm(x.requires_grad_({gradient}), state, weights, backend="native")
except MemoryError:
    print("MemoryError", lstm(torch.ones(1, 1, 1), small[1], small[0], backend="native")[0].isfinite().all().item())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("gradient", [False, True])
def test_too_little_memory_raises(gradient: bool):
    code = EXHAUST.format(gradient=gradient)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "MemoryError True", run.stderr


ALIVE = """
import torch
from gatewise.ops import Weights, lstm
zeros = torch.zeros(2, 4), torch.zeros(2, 4)
weights = Weights(torch.ones(16, 4, requires_grad=True), torch.ones(16, 4), torch.ones(16), torch.ones(16))
y, _ = lstm(torch.ones(3, 2, 4), zeros, weights, backend="native")
print(y.requires_grad)
"""


def test_a_graph_that_lives_to_the_end_of_the_program_says_nothing():
    run = subprocess.run([sys.executable, "-c", ALIVE], capture_output=True, text=True, check=False)
    assert (run.stdout.strip(), run.stderr) == ("True", "")


HUGE_PAGE = 2 << 20


def flags_at(address: int) -> list[str]:
    """What the system was told about the memory at an address."""
    here = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *rest = line.split()
        if "-" in name:
            first, last = (int(part, 16) for part in name.split("-"))
            here = first <= address < last
        elif here and name == "VmFlags:":
            return rest
    raise AssertionError(f"{address:x} is nowhere")


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage/enabled").exists(), reason="a system without transparent huge pages"
)
def test_large_pieces_ask_for_huge_pages():
    large, small = _native.empty(HUGE_PAGE), _native.empty(1000)
    assert large.ctypes.data % HUGE_PAGE == 0
    assert "hg" in flags_at(large.ctypes.data)
    assert small.ctypes.data % 64 == 0


class Guarded:
    """A copy of a tensor between two unreadable pages, at the end of its own or, ``first``, at its beginning."""

    PAGE = mmap.PAGESIZE

    def __init__(self, tensor: Tensor, first: bool):
        size = tensor.numel() * tensor.element_size()
        pages = max(1, -(-size // self.PAGE))
        self.memory = mmap.mmap(-1, (pages + 2) * self.PAGE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        libc = ctypes.CDLL(None, use_errno=True)
        for page in (0, pages + 1):
            assert libc.mprotect(ctypes.c_void_p(address + page * self.PAGE), self.PAGE, 0) == 0
        offset = self.PAGE if first else (pages + 1) * self.PAGE - size
        whole = torch.frombuffer(self.memory, dtype=tensor.dtype, count=tensor.numel(), offset=offset)
        self.tensor = whole.view(tensor.shape).copy_(tensor)


SHAPES = [(1, 1, 1), (3, 3, 7), (7, 5, 9), (8, 16, 16), (9, 1, 17)]
EVERYTHING: dict[str, Any] = {"reset": "some", "start": True, "noise": ("recurrent", "h", "c")}
GUARDED: list[tuple[str, dict[str, Any]]] = [
    *((cell, {}) for cell in CELLS),
    ("lstm", {"layer_norm": True, "peephole": True, "proj_size": 3, "nonrecurrent_proj_size": 2, **EVERYTHING}),
    ("cifg", {"proj_size": 17, "clip": 1.0, "bias": False, **EVERYTHING}),
    ("fgr", EVERYTHING),
    ("rnn", EVERYTHING),
]


def show(value: object) -> str:
    return name_of(value) if isinstance(value, str | Cell) else " ".join(value) if isinstance(value, dict) else ""


@pytest.mark.skipif(sys.platform != "linux", reason="uses mprotect")
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(("cell", "wanted"), GUARDED, ids=show)
@pytest.mark.usefixtures("isa")
def test_nothing_is_read_or_written_beyond_the_ends(cell: str, wanted: dict[str, Any], first: bool):
    for B, D, H in SHAPES:
        problem = draw(cell, 3, B, D, H, "both", lengths=(3, 0, 1, 3, 2, 3, 1, 2, 3)[:B], **wanted)
        guards: list[Guarded] = []

        def guarded(tensor: Tensor, guards: list[Guarded] = guards) -> Tensor:
            guards.append(Guarded(tensor, first))
            return guards[-1].tensor

        moved = problem.map(lambda _, tensor, guarded=guarded: guarded(tensor.contiguous()))
        cotangents = {name: guarded(value) for name, value in problem.cotangents.items()}
        moved = Problem(**{**vars(moved), "cotangents": cotangents})
        ours, theirs = moved.run(), problem.run()
        check_same_bits(ours.values, theirs.values)
        check_same_bits(ours.gradients, theirs.gradients)
        out = guarded(torch.zeros_like(theirs.values["y"], memory_format=torch.contiguous_format))
        check_same_bits(moved.forward(out=out), theirs.values, moved.forward())
        check_same_bits({"y": out}, theirs.values, ["y"])

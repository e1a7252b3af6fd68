"""Steady training takes few page faults in the engine: its memory is kept from step to step, not given back.

With glibc's default malloc, in a process of its own. Fresh pages fault when they are touched for the first time, so
faults count the fresh memory of a call. What a call returns (outputs and gradients) is torch's to allocate, and may
fault. torch.nn.LSTM takes 14,600 of them in the first case below. Huge pages are off, of which one fault would bring
what hundreds stand for.
"""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from native_stack import BACKEND

MEASURE = """
import ctypes, json, resource, sys
import torch
from torch import nn
import gatewise

PR_SET_THP_DISABLE = 41
assert ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0
which, cell, save, ragged, T, B, D, H = json.loads(sys.argv[1])
torch.set_num_threads(1)
torch.manual_seed(0)
options = {"cell": cell, "save": save, "backend": which}
layer = nn.LSTM(D, H, 2) if which == "theirs" else gatewise.LSTM(D, H, 2, **options)
head = nn.Linear(H, 1)
optimizer = torch.optim.SGD([*layer.parameters(), *head.parameters()], lr=1e-3)
x = torch.randn(T, B, D, requires_grad=True)

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def step():
    optimizer.zero_grad()
    x.grad = None
    keywords = {"lengths": torch.randint(1, T + 1, (B,))} if ragged else {}
    first = faults()
    y, _ = layer(x, **keywords)
    forward = faults() - first
    cotangent = torch.autograd.grad(head(y).square().mean(), y, retain_graph=True)[0]
    first = faults()
    y.backward(cotangent)
    backward = faults() - first
    optimizer.step()
    return forward + backward

for _ in range(4):
    step()
steps = sorted(step() for _ in range(7))
print(json.dumps(steps[3]))
"""


def faults(which: str, *arguments: Any) -> int:
    """The median number of minor page faults in the forward and backward of a step."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", MEASURE, json.dumps([which, *arguments])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="counts the faults of glibc's malloc")
@pytest.mark.parametrize(
    ("cell", "save", "ragged", "shape"),
    [
        ("lstm", "all", False, (100, 64, 64, 128)),
        ("peephole", "states", True, (100, 32, 32, 64)),
    ],
)
def test_steady_training_takes_few_page_faults(cell: str, save: str, ragged: bool, shape: tuple[int, int, int, int]):
    T, B, _, H = shape
    # Gates and cell state over time of two layers: where those were fresh, there would be this many faults and more.
    touched = 2 * 5 * T * B * H * 4 // os.sysconf("SC_PAGESIZE")
    assert faults(BACKEND, cell, save, ragged, *shape) <= touched // 10

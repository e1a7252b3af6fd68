"""Ctrl-C during long per-sample gradients and long ensembles, in processes of their own."""

import subprocess
import sys

import pytest

SCRIPT = """
import os, signal, sys, threading, time
import torch
from gatewise import LSTM
from torch.func import functional_call, grad, vmap

# A shell has what it starts in the background ignore the signal, and so would this process.
signal.signal(signal.SIGINT, signal.default_int_handler)
kind, threads = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(threads)
torch.manual_seed(0)
D, H, N = 8192, 8, 4
layer = LSTM(D, H, backend="native")
weights = {name: value.detach() for name, value in layer.named_parameters()}
stacked = {name: torch.stack([value] * N) for name, value in weights.items()}
row = torch.randn(D)

def loss(weights, x):
    return functional_call(layer, weights, (x,))[0].sum()

# Long in time but small in memory: x is one row, expanded.
def run(T):
    if kind == "samples":
        return vmap(grad(loss), (None, 0))(weights, row.expand(N, T, D))
    return vmap(grad(loss), (0, None))(stacked, row.expand(T, 2, D))

run(50)
before = run(3)
begin = time.thread_time()  # on a busy machine the calls take longer, not shorter
run(1000)
T = int(4000 / (time.thread_time() - begin))
sent = []

def send():
    time.sleep(1.5)
    sent.append(time.perf_counter())
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=send, daemon=True).start()
try:
    run(T)
except KeyboardInterrupt:
    assert time.perf_counter() - sent[0] < 1, "took too long"
else:
    raise SystemExit("was not interrupted")
assert all(torch.equal(value, before[name]) for name, value in run(3).items())
print("done")
"""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["samples", "members"])
def test_an_interrupt_ends_the_call(kind: str, threads: int):
    command = [sys.executable, "-c", SCRIPT, kind, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"

"""Signals during long calls: Ctrl-C ends them within a second, other handlers run, and nothing is left broken.

In processes of their own. The calls are long in time but small in memory: x is one row of many columns, expanded.
"""

import json
import signal
import subprocess
import sys
from typing import Any

import pytest
from native_stack import BACKEND

COMMON = """
import json, os, signal, sys, threading, time
import torch
from gatewise import LSTM

backend, threads, gradient, save, cell, dtype, H = json.loads(sys.argv[1])
torch.set_default_dtype(getattr(torch, dtype))
torch.set_num_threads(threads)
torch.manual_seed(0)
D, B = 8192, 4
layer = LSTM(D, H, cell=cell, save=save, backend=backend)
row = torch.randn(D)

def forward(T):
    with torch.set_grad_enabled(gradient):
        return layer(row.expand(T, B, D))[0]

def backward(y):
    return torch.autograd.grad(y, list(layer.parameters()), torch.ones_like(y))

def timed(function, *arguments):
    begin = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - begin, result

@torch.enable_grad()
def small():
    y, state = layer(torch.linspace(-1, 1, 3 * 2 * D).view(3, 2, D))
    found = torch.autograd.grad(y.sum() + state[0].sin().sum(), list(layer.parameters()))
    return [part.detach() for part in (y, *state, *found)]

def same(ours, theirs):
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))

def estimate(T):
    took, y = timed(forward, T)
    return took, timed(backward, y)[0] if gradient else 0.0

sent = []

def interrupt(seconds):
    # Nothing tells from outside that a call is under way: it is given time to begin.
    def send():
        time.sleep(seconds)
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=send, daemon=True).start()

estimate(50)
probe = 1000
forward_time, backward_time = (part / probe for part in estimate(probe))
before = small()
"""

INTERRUPT = (
    COMMON
    + """
signal.signal(signal.SIGINT, signal.default_int_handler)

# Only what is left of the call after the signal has to be long.
T = int(3 / backward_time if gradient else 5.5 / forward_time)
try:
    if gradient:
        y = forward(T)
        interrupt(0.3)
        backward(y)
    else:
        interrupt(0.3)
        forward(T)
    outcome = "not interrupted"
except KeyboardInterrupt:
    outcome = "KeyboardInterrupt"
waited = time.perf_counter() - sent[0]
again = small()
trained = LSTM(4, 4, cell=cell, save=save, backend=backend)
trained(torch.ones(2, 3, 4))[0].sum().backward()
print(json.dumps([outcome, waited, same(again, before), bool(trained.weight_ih_l0.grad.any())]))
"""
)


def in_process(
    code: str, threads: int, gradient: bool, save: str, cell: str, *, dtype: str = "float32", hidden: int = 8
) -> Any:
    arguments = json.dumps([BACKEND, threads, gradient, save, cell, dtype, hidden])
    command = [sys.executable, "-c", code, arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("threads", "gradient", "save", "cell", "dtype"),
    [
        (1, False, "all", "peephole", "float32"),
        (2, True, "all", "lstm", "float32"),
        (1, True, "states", "cifg", "float64"),
        (1, False, "all", "lstm", "bfloat16"),
    ],
)
def test_control_c_ends_a_long_call(threads: int, gradient: bool, save: str, cell: str, dtype: str):
    check_interrupted(threads, gradient, save, cell, dtype=dtype)


def test_control_c_ends_a_call_whose_steps_threads_share():
    check_interrupted(2, False, "all", "lstm", hidden=96)


def check_interrupted(*arguments: Any, **options: Any) -> None:
    outcome, waited, same, trains = in_process(INTERRUPT, *arguments, **options)
    assert outcome == "KeyboardInterrupt"
    assert waited < 1
    assert same
    assert trains


WAITING = (
    COMMON
    + """
signal.signal(signal.SIGINT, signal.default_int_handler)
rows = 16

def uneven(T):
    lengths = torch.ones(rows, dtype=torch.int64)
    lengths[: rows // 2] = T
    with torch.no_grad():
        return layer(row.expand(T, rows, D), lengths=lengths)

T = int(3 * 500 / timed(uneven, 500)[0])
waits = []
for _ in range(4):
    interrupt(0.3)
    try:
        uneven(T)
    except KeyboardInterrupt:
        waits.append(time.perf_counter() - sent[-1])
print(json.dumps([waits, same(small(), before)]))
"""
)


@pytest.mark.parametrize("others", [0, 2])
def test_control_c_ends_a_call_whose_caller_waits_for_another_thread(others: int):
    """Of two threads one has the long rows, the other next to nothing; who is who is a matter of chance.

    With ``others``, processes that want the cores as well: a caller that waits is then without one most of the time.
    """
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(others)]
    try:
        waits, same = in_process(WAITING, 2, False, "all", "lstm")
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert len(waits) == 4
    assert max(waits) < 1
    assert same


HANDLERS = (
    COMMON
    + """
T = int(1 / (forward_time + backward_time))
quiet = [forward(T)]
quiet += backward(quiet[0])
inner, ran = [], []

def handler(number, frame):
    # A call inside a call, of the same thread: scratch memory must not be shared between them.
    ran.append(time.perf_counter())
    inner.append(small())

signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
begin = time.perf_counter()
noisy = [forward(T)]
middle = time.perf_counter()
noisy += backward(noisy[0])
end = time.perf_counter()
signal.setitimer(signal.ITIMER_REAL, 0)

class Stop(Exception):
    pass

def stop(number, frame):
    raise Stop

signal.signal(signal.SIGALRM, stop)
signal.setitimer(signal.ITIMER_REAL, 0.3)
try:
    forward(4 * T)
    stopped = False
except Stop:
    stopped = True

def amid(first, last):
    third = (last - first) / 4
    return any(first + third < stamp < last - third for stamp in ran)

print(json.dumps([
    amid(begin, middle) and amid(middle, end),
    same(noisy, quiet),
    all(same(results, before) for results in inner),
    stopped and same(small(), before),
]))
"""
)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs setitimer")
def test_other_handlers_run_during_a_call_and_may_call_the_engine():
    amid, same, nested, stopped = in_process(HANDLERS, 2, True, "all", "lstm")
    assert amid
    assert same
    assert nested
    assert stopped

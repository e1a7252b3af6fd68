"""The engine under threads and after forks: its own, Python's, a DataLoader's; the same bits everywhere."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest
import torch
from native_problem import Tensors, check_same_bits, draw
from native_stack import BACKEND, assert_same, build, each_cell, run
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gatewise import LSTM


@pytest.fixture(autouse=True)
def _one_thread_again() -> Iterator[None]:
    yield
    torch.set_num_threads(1)


# Chunks of eight rows: less than one, one, one and a part, and several for each of three threads.
ROWS = [1, 5, 8, 9, 16, 17, 33, 64]
KINDS: dict[str, dict[str, Any]] = {
    "lstm": {},
    "peephole": {"layer_norm": True, "proj_size": 7, "nonrecurrent_proj_size": 2},
    "fgr": {"clip": 1.0},
    "slstm": {},
}


def everything(cell: str, B: int, *, save: str, **options: Any) -> Tensors:
    """Values and gradients of rows of unequal lengths that restart, in both directions."""
    lengths = tuple((17 * row + 33) % 41 for row in range(B))
    noise = () if cell == "slstm" else ("recurrent", "h")
    # Large enough for the work to be shared out; 49 hidden units are no multiple of a vector.
    problem = draw(cell, 40, B, 20, 49, "both", lengths=lengths, reset="some", start=True, noise=noise, **options)
    outcome = problem.run(BACKEND, save=save)
    return outcome.values | {f"d {name}": gradient for name, gradient in outcome.gradients.items()}


@pytest.mark.parametrize("save", ["all", "states"])
@pytest.mark.parametrize("cell", KINDS)
def test_the_number_of_threads_changes_no_bit(cell: str, save: str):
    for B in ROWS:
        torch.set_num_threads(1)
        expected = everything(cell, B, save=save, **KINDS[cell])
        for threads in (2, 3, 5):
            torch.set_num_threads(threads)
            check_same_bits(everything(cell, B, save=save, **KINDS[cell]), expected)


@pytest.mark.parametrize("save", ["all", "states"])
def test_threads_may_change_between_forward_and_backward(save: str):
    layer = LSTM(64, 96, cell="peephole", save=save, backend=BACKEND)
    x = torch.randn(30, 25, 64, generator=torch.Generator().manual_seed(0))
    found: list[list[Tensor]] = []
    for before, after in ((1, 1), (1, 3), (3, 1), (2, 5)):
        torch.set_num_threads(before)
        y, _ = layer(x, lengths=[30 - row for row in range(25)])
        torch.set_num_threads(after)
        found.append(list(torch.autograd.grad(y, list(layer.parameters()), torch.ones_like(y))))
    for gradients in found[1:]:
        assert_same(gradients, found[0])


@pytest.mark.parametrize("threads", [1, 2])
def test_a_larger_layer_has_the_same_bits_on_two_threads(threads: int):
    """Large enough that the work is worth sharing, whatever else decides about that."""
    problem = draw("lstm", 40, 48, 64, 128)
    expected = problem.run(BACKEND, trace=False)
    torch.set_num_threads(threads)
    for _ in range(3):
        outcome = problem.run(BACKEND, trace=False)
        check_same_bits(outcome.values, expected.values)
        check_same_bits(outcome.gradients, expected.gradients)
        # An operator of torch's on the same team between the calls.
        assert torch.ones(300, 300).mm(torch.ones(300, 300))[0, 0] == 300


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_share_the_work(threads: int):
    """What the process computes in the meantime beside the calling thread is about a half, or nothing."""
    problem = draw("lstm", 100, 64, 64, 192)
    torch.set_num_threads(threads)
    problem.run(BACKEND, trace=False)
    # What is left of a team's spinning ends meanwhile.
    time.sleep(0.1)
    whole, own = time.process_time(), time.thread_time()
    for _ in range(3):
        problem.run(BACKEND, trace=False)
    whole, own = time.process_time() - whole, time.thread_time() - own
    others = (whole - own) / whole
    assert 0.3 < others < 0.7 if threads == 2 else others < 0.05


def in_threads(count: int, work: Callable[[int], list[Tensor]]) -> list[list[Tensor]]:
    """Run in so many Python threads, all of which begin at the same moment."""
    gate = threading.Barrier(count)

    def begin(n: int) -> list[Tensor]:
        gate.wait(30)
        return work(n)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(begin, range(count)))


@pytest.mark.parametrize("threads", [1, 2])
@each_cell
def test_calls_of_one_module_from_several_threads(cell: str, threads: int):
    torch.set_num_threads(threads)
    layer = build(cell)
    values, found = run(layer)

    def work(_: int) -> list[Tensor]:
        again, gradients = run(layer)
        with torch.no_grad():
            run_once = layer(torch.ones(1, 1, 4))[0]
        return [*again, *gradients, run_once]

    alone = work(0)
    assert_same(alone[:-1], values + found)
    for results in in_threads(4, work) + in_threads(3, work):
        assert_same(results, alone)


@pytest.mark.parametrize("threads", [1, 2])
def test_calls_of_different_modules_from_several_threads(threads: int):
    torch.set_num_threads(threads)
    # Sizes of scratch memory that differ much.
    problems = [
        draw("lstm", 20, 24, 30, 64),
        draw("peephole", 3, 40, 70, 50, "both", layer_norm=True),
        draw("slstm", 30, 3, 2, 17),
        draw("cifg", 1, 17, 130, 150, proj_size=9),
    ]

    def work(n: int) -> list[Tensor]:
        outcome = problems[n % len(problems)].run(BACKEND)
        return [*outcome.values.values(), *outcome.gradients.values()]

    alone = [work(n) for n in range(8)]
    for _ in range(3):
        for results, expected in zip(in_threads(8, work), alone, strict=True):
            assert_same(results, expected)


def test_a_backward_may_run_in_another_thread_than_its_forward():
    layer = build()
    x = torch.randn(5, 9, 4, requires_grad=True)
    y, _ = layer(x)
    leaves = [x, *layer.parameters()]
    expected = torch.autograd.grad(y.sum(), leaves, retain_graph=True)
    for found in in_threads(3, lambda _: list(torch.autograd.grad(y.sum(), leaves, retain_graph=True))):
        assert_same(found, expected)


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_another_thread_goes_on_during_a_call(threads: int, gradient: bool):
    """Each of forward and backward takes long enough for hundreds of ticks; a held lock would leave none."""
    torch.set_num_threads(threads)
    layer = LSTM(2048, 8, backend=BACKEND)
    x = torch.randn(2048, generator=torch.Generator().manual_seed(0)).expand(4000, 4, -1)
    ticks: list[float] = []
    done = threading.Event()

    def tick() -> None:
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    ticker = threading.Thread(target=tick)
    ticker.start()
    try:
        spans = [time.perf_counter()]
        with torch.set_grad_enabled(gradient):
            y, _ = layer(x)
            spans.append(time.perf_counter())
            if gradient:
                y.backward(torch.ones_like(y))
                spans.append(time.perf_counter())
    finally:
        done.set()
        ticker.join()
    for begin, end in pairwise(spans):
        assert end - begin > 0.02
        # In the inner half: what Python does before and after the native code does not count.
        quarter = (end - begin) / 4
        inside = [stamp for stamp in ticks if begin + quarter < stamp < end - quarter]
        assert len(inside) >= 3


FORK = """
import os, signal, sys, torch
from gatewise import LSTM

torch.set_num_threads(2)
torch.manual_seed(0)
layer = LSTM(8, 24, num_layers=2, bidirectional=True, cell="peephole", backend=sys.argv[1])
wide = LSTM(8, 200, backend=sys.argv[1])  # threads share the steps of its row
x, cotangent = torch.randn(20, 40, 8), torch.randn(20, 40, 48)

def results():
    y, state = layer(x)
    found = torch.autograd.grad(y, list(layer.parameters()), cotangent)
    with torch.no_grad():
        few = layer(x[:1, :1])[0], wide(x[:, :1])[0]
    return b"".join(part.detach().contiguous().numpy().tobytes() for part in (y, *state, *few, *found))

def child(depth):
    # In a child, the team of threads is not there any more; a wait for it would never end.
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        signal.alarm(30)
        same = results() == expected and (not depth or child(depth - 1))
        os.write(writer, b"same" if same else b"other")
        os._exit(0)
    os.close(writer)
    said = os.fdopen(reader, "rb").read()
    os.waitpid(pid, 0)
    return said == b"same"

expected = results()
print(child(1), child(0), results() == expected)
"""


def test_a_fork_computes_the_same():
    command = [sys.executable, "-c", FORK, BACKEND]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["True", "True", "True"], done.stderr


TEAM = """
import os, gatewise, torch
torch.set_num_threads(2)
print(gatewise.engine().threads, gatewise.engine().team, flush=True)
if not os.fork():
    print(gatewise.engine().threads, gatewise.engine().team, flush=True)
    os._exit(0)
os.wait()
"""


def test_a_fork_says_that_it_works_alone():
    done = subprocess.run([sys.executable, "-c", TEAM], capture_output=True, text=True, timeout=60, check=False)
    parent, child = done.stdout.splitlines()
    assert parent.split()[0] == "2"
    assert parent.split()[1] in {"libgomp", "own"}
    assert child == "1 none"


AMID = """
import os, signal, sys, threading, torch
from gatewise import LSTM

torch.set_num_threads(2)
layers = [LSTM(64, 64, backend=sys.argv[1]), LSTM(64, 256, backend=sys.argv[1])]
inputs = [torch.randn(steps, 32, 64) for steps in (5, 300, 40, 800, 100)]
done = threading.Event()

def work():
    count = 0
    while not done.is_set():
        y, _ = layers[count % 2](inputs[count % 5])
        y.backward(torch.ones_like(y))
        count += 1

def child():
    pid = os.fork()
    if not pid:
        signal.alarm(20)
        with torch.no_grad():
            layers[0](inputs[0])
        os._exit(0)
    return os.waitpid(pid, 0)[1]

worker = threading.Thread(target=work)
worker.start()
print(any(child() for _ in range(120)))
done.set()
worker.join()
"""


def test_a_fork_amid_another_threads_calls():
    """Whatever lock that thread holds at this moment, nobody will open it in the child."""
    command = [sys.executable, "-c", AMID, BACKEND]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.stdout.split() == ["False"], done.stderr


class Encoded(Dataset[Tensor]):
    """Rows that a layer computes where they are asked for: in the workers."""

    def __init__(self, layer: LSTM) -> None:
        self.layer = layer

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Tensor:
        x = torch.linspace(-1, 1, 36).view(9, 4) * (index + 1)
        y, _ = self.layer(x)
        found = torch.autograd.grad(y.sum(), list(self.layer.parameters()))
        return torch.cat([y.detach().flatten(), *(gradient.flatten() for gradient in found)])


# Where JAX is loaded it warns of every fork, whatever the child does.
@pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called:RuntimeWarning")
def test_workers_of_a_data_loader():
    torch.set_num_threads(2)
    rows = Encoded(build("peephole"))
    expected = [rows[index] for index in range(len(rows))]
    loader = DataLoader(rows, batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60)
    assert_same(list(loader), expected)
    # The parent's own team goes on.
    assert_same([rows[index] for index in range(len(rows))], expected)

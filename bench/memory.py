"""Peak memory of a training step, beyond its inputs, its parameters and the gradients of both.

In a process of its own for each figure, started by ``bench.__main__`` with a malloc that returns every large block at
once, so that the pages in use are the blocks in use. The kernel keeps the peak; mapped files (code) do not count.
"""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from bench.cases import Problem
from bench.engines import TorchEngine, gatewise_engine, torch_engine, truth, yardstick
from bench.measure import Check
from bench.problem import Data, draw
from gatewise.errors import InputError

MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"}
STEPS = 3  # buffers that are kept show their cost in the second


def peak(engine: TorchEngine) -> int:
    """Return the bytes that steps take at their peak."""
    before = _status()["RssAnon"]
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is in use now
    for _ in range(STEPS):
        engine.clear()
        engine.forward_backward()
    after = _status()
    tensors = [engine.x, *engine.weights.values()]
    gradients = sum(tensor.grad.nbytes for tensor in tensors if tensor.grad is not None)
    return after["VmHWM"] - after["RssFile"] - before - gradients


def peak_of(run: Callable[[], Mapping[str, torch.Tensor]]) -> int:
    """The same of a function, beyond its results."""
    before = _status()["RssAnon"]
    Path("/proc/self/clear_refs").write_text("5")
    results: Mapping[str, torch.Tensor] = {}
    for _ in range(STEPS):
        results = {}
        results = run()
    after = _status()
    return after["VmHWM"] - after["RssFile"] - before - sum(tensor.nbytes for tensor in results.values())


def _status() -> dict[str, int]:
    lines = Path("/proc/self/status").read_text().splitlines()
    pairs = (line.split(":") for line in lines if line.endswith("kB"))
    return {name: int(value.split()[0]) * 1024 for name, value in pairs}


def _engine(name: str, problem: Problem, data: Data, threads: int, backend: str) -> TorchEngine:
    if name == "torch":
        return torch_engine(problem, data, threads)
    return gatewise_engine(problem, data, threads, backend)


def measure(name: str, problem: Problem, threads: int, backend: str) -> dict[str, int | str]:
    """Return the status of a row, and the bytes or why there are none."""
    torch.set_num_threads(threads)
    data = draw(problem)
    try:
        # Threads, thread-local memory and the like are there before the measured step.
        small = Problem(2, 2, 8, 8, training=True, save=problem.save)
        _engine(name, small, draw(small), threads, backend).forward_backward()
        found = peak(engine := _engine(name, problem, data, threads, backend))
    except InputError as error:
        return {"status": "unsupported", "why": str(error)}
    except Exception as error:  # the other rows go on; an OSError: the kernel does not tell
        return {"status": "failed", "why": f"{name}: {type(error).__name__}: {error}"[:300]}
    engine.clear()
    check = Check(lambda: yardstick(problem, data, threads), lambda: truth(problem, data, threads))
    why = check.differing(engine.results())
    return {"status": "refused" if why else "ok", "why": why, "bytes": found}


def main() -> None:
    task = json.load(sys.stdin)
    lines, sys.stdout = sys.stdout, sys.stderr
    print(json.dumps(measure(**(task | {"problem": Problem(**task["problem"])}))), file=lines)


if __name__ == "__main__":
    main()

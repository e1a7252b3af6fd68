"""Run by test_native_allocations.py with failing_new preloaded, without torch: threads that cannot be created.

Prints the team, how many calls gave the bits of one thread, and how many raised MemoryError.
"""

import ctypes
import sys

import numpy as np

from gatewise import _native
from gatewise.format import Block, Linear, Lstm, ModelFile
from gatewise.runtime import Model

SHIM = ctypes.CDLL(None)
SHIM.begin_counting.argtypes = (ctypes.c_long, ctypes.c_long)
SHIM.end_counting.restype = ctypes.c_long
SHIM.fail_threads.argtypes = (ctypes.c_long,)

BLOCKS: tuple[Block, ...] = (Lstm(3, 40), Linear(40, 2))


def main() -> None:
    rng = np.random.default_rng(0)
    shapes = ModelFile("demo", BLOCKS, {}).shapes().items()
    weights = {name: rng.uniform(-0.5, 0.5, shape).astype(np.float32) for name, shape in shapes}
    models = [Model(ModelFile("demo", BLOCKS, weights), "5a" * 32, threads=threads) for threads in (1, 2, 3, 4)]
    x = rng.normal(size=(64, 40, 3)).astype(np.float32)
    expected = models[0].run(x).tobytes()
    right = refused = 0
    # The team grows by one thread with each model; each of its threads fails to come once, and what it is made of too.
    for model in models[1:]:
        for failing in (100, 1):
            SHIM.fail_threads(failing)
            right += model.run(x).tobytes() == expected
            SHIM.fail_threads(0)
        for n in range(1, 1000):
            SHIM.begin_counting(n, n)
            try:
                right += model.run(x).tobytes() == expected
            except MemoryError:
                refused += 1
            if SHIM.end_counting() < n:
                break
            right += model.run(x).tobytes() == expected
        else:
            sys.exit("there is no end of allocations.")
    print(_native.team(), right, refused)


if __name__ == "__main__":
    main()

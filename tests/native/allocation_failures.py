"""Run by test_native_allocations.py with failing_new preloaded: every allocation of the core fails, one at a time.

    LD_PRELOAD=failing_new.so python tests/native/allocation_failures.py forward backward …

Of each call first the n-th allocation fails alone, then it and all that follow, for n = 1, 2, … until none is left.
Either the call raises MemoryError, or it does without and gives the right bits; nothing stays behind, and afterwards
the call gives them again. Prints of each call how many allocations it has, and how many it did without.
"""

import ctypes
import gc
import itertools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.func import functional_call, grad, stack_module_state, vmap

from gatewise import LSTM, LSTMCell, _native
from gatewise.format import Block, Conv1d, Linear, Lstm, ModelFile
from gatewise.ops import Direction, Weights, layer
from gatewise.runtime import Model
from gatewise.spec import variant

SHIM = ctypes.CDLL(None)
SHIM.begin_counting.argtypes = (ctypes.c_long, ctypes.c_long)
SHIM.end_counting.restype = ctypes.c_long
SHIM.live_blocks.restype = ctypes.c_long
EVER = 1 << 40

Call = Callable[[], Sequence[np.ndarray]]
"""The same every time, up to what fails; its results."""


def failing(call: Call, first: int, last: int) -> tuple[Sequence[np.ndarray] | None, int]:
    """Run a call whose allocations from first to last fail: its results, or None for MemoryError; and how many."""
    SHIM.begin_counting(first, last)
    try:
        results = call()
    except MemoryError:
        results = None
    finally:
        count = SHIM.end_counting()
    return results, count


def let_go() -> int:
    """Have the engine give back all memory that it keeps; the number of blocks in use then."""
    gc.collect()  # objects that refer to each other, such as a graph and its tensors
    # The second allocation is that of the memory itself, for whose lack it lets go of everything.
    SHIM.begin_counting(2, EVER)
    try:
        _native.empty(1 << 20)
    except MemoryError:
        pass
    finally:
        SHIM.end_counting()
    return SHIM.live_blocks()


def same(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> bool:
    return len(a) == len(b) and all(x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


def once(prepare: Callable[[], Call], expected: Sequence[np.ndarray], first: int, last: int) -> tuple[int, bool]:
    """Call once without the allocations from first to last: how many there were, and whether it did without."""
    call = prepare()
    let_go()
    results, count = failing(call, first, last)
    if results is not None:
        assert same(results, expected), f"other bits without allocation {first}"
        return count, True
    # The same objects once more, as a caller would who has made room.
    again, _ = failing(call, 0, 0)
    assert again is not None, f"no memory after allocation {first} failed"
    assert same(again, expected), f"other bits in the call after allocation {first} failed"
    return count, False


def attack(prepare: Callable[[], Call], expected: Sequence[np.ndarray]) -> tuple[int, int]:
    """Let each allocation fail, and count them. ``prepare`` makes what one call needs, none of which counts."""
    without = n = 0
    for alone in (True, False):
        for n in itertools.count(1):
            before = let_go()
            count, did_without = once(prepare, expected, n, n if alone else EVER)
            assert let_go() == before, f"{let_go() - before} blocks stay behind when allocation {n} fails"
            if count < n:
                break
            without += did_without
    return n - 1, without


def arrays(tensors: Sequence[torch.Tensor]) -> list[np.ndarray]:
    # NumPy has no bfloat16.
    bits = (t.detach().view(torch.int16) if t.dtype is torch.bfloat16 else t.detach() for t in tensors)
    return [tensor.numpy().copy() for tensor in bits]


def uniform(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape))) - 0.5


def long_way(*, gradient: bool, save: str = "all", dtype: torch.dtype = torch.float32) -> Callable[[], Call]:
    """The functional door; with a gradient, only backward counts."""
    cell = variant("peephole", proj_size=3, layer_norm=True)
    B, D, H = 11, 5, 9

    def prepare() -> Call:
        def leaf(*shape: int) -> torch.Tensor:
            return uniform(*shape).to(dtype).requires_grad_(gradient)

        x, state = leaf(6, B, D), (uniform(B, 3).to(dtype), uniform(B, H).to(dtype))
        weights = Weights(**{name: leaf(*shape) for name, shape in cell.shapes(D, H).items()})
        directions = [Direction(state, weights, reverse) for reverse in (False, True)]
        lengths = [6, 0, 3, 6, 1, 2, 6, 5, 4, 3, 2]

        def run() -> Any:
            return layer(x, directions, cell, lengths=lengths, save=save, backend="native")

        if not gradient:
            return lambda: arrays([run().y])
        loss = run().y.square().sum()
        leaves = [x, *(weight for weight in weights if weight is not None)]
        return lambda: arrays(torch.autograd.grad(loss, leaves, retain_graph=True))

    return prepare


def stack(*, backward: bool, dtype: torch.dtype = torch.float32, **options: Any) -> Callable[[], Call]:
    """The direct way, forward and, if told so, backward in one call."""
    torch.manual_seed(0)
    module = LSTM(4, 8, 3, bidirectional=True, backend="native", dtype=dtype, **options)
    x, lengths = uniform(5, 9, 4).to(dtype), torch.tensor([5, 0, 3, 5, 1, 2, 4, 5, 5])
    reset = torch.arange(45).view(5, 9) % 7 == 3

    def prepare() -> Call:
        def forward() -> list[np.ndarray]:
            with torch.no_grad():
                y, state = module(x, lengths=lengths, reset=reset)
            return arrays([y, *state])

        def both() -> list[np.ndarray]:
            y, state = module(x, lengths=lengths, reset=reset)
            loss = y.sum() + torch.stack([part.square().sum() for part in state]).sum()
            return arrays([y, *torch.autograd.grad(loss, list(module.parameters()))])

        return both if backward else forward

    return prepare


def mapped(*, members: bool) -> Callable[[], Call]:
    """The gradients of each sample, or those of each member of an ensemble, forward and backward in one call."""
    torch.manual_seed(0)
    modules, x = [LSTM(4, 8, cell="peephole", backend="native") for _ in range(3)], uniform(5, 9, 4)
    lengths = torch.tensor([5, 0, 3, 5, 1, 2, 4, 5, 5])
    weights, _ = stack_module_state(modules)
    weights = {name: (value if members else value[0]).detach() for name, value in weights.items()}

    def loss(weights: dict[str, torch.Tensor], x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        y, state = functional_call(modules[0], weights, (x,), {"lengths": lengths})
        return y.sum() + torch.stack([part.square().sum() for part in state]).sum()

    def each() -> list[np.ndarray]:
        if members:
            return arrays([*vmap(grad(loss), (0, None, None))(weights, x, lengths).values()])
        return arrays([*vmap(grad(loss), (None, 1, 0))(weights, x[:, :, None], lengths[:, None]).values()])

    return lambda: each


def cell() -> Callable[[], Call]:
    torch.manual_seed(0)
    module, x = LSTMCell(4, 8, backend="native"), uniform(3, 4)
    return lambda: lambda: arrays(module(x))


BLOCKS: tuple[Block, ...] = (Conv1d(3, 6, 3), Lstm(6, 8, 2, learned_state=True), Lstm(8, 7), Linear(7, 2))


def model(**options: Any) -> Model:
    rng = np.random.default_rng(0)
    shapes = ModelFile("demo", BLOCKS, {}).shapes().items()
    weights = {name: rng.uniform(-0.5, 0.5, shape).astype(np.float32) for name, shape in shapes}
    return Model(ModelFile("demo", BLOCKS, weights), "5a" * 32, threads=1, **options)


X = np.random.default_rng(1).normal(size=(5, 7, 3)).astype(np.float32)


def packing(weights: str) -> Callable[[], Call]:
    return lambda: lambda: [model(weights=weights).run(X)]


def whole() -> Callable[[], Call]:
    made = model()
    reset = np.arange(35).reshape(5, 7) % 4 == 0
    return lambda: lambda: [made.run(X, lengths=[7, 0, 3, 7, 1], reset=reset)]


def stream() -> Callable[[], Call]:
    """Opening a stream, steps, and its state carried to another."""
    made = model()

    def session() -> list[np.ndarray]:
        one, other = made.stream(), made.stream()
        first = [one.step(row) for row in X[0, :3]]
        other.state = one.state
        return [*first, other.steps(X[0, 3:])]

    return lambda: session


def pool() -> Callable[[], Call]:
    """A step of open streams: when it fails, none has stepped, so that the same step is right afterwards."""
    made = model()

    def prepare() -> Call:
        streams = made.streams(6)
        slots = [streams.open() for _ in range(5)]
        streams.step(slots, X[:, 0])
        return lambda: [streams.step(slots[::-1], X[:, 1])]

    return prepare


def opening() -> Callable[[], Call]:
    """Making a pool, opening, closing and carrying streams."""
    made = model()

    def session() -> list[np.ndarray]:
        streams = made.streams(4)
        slots = [streams.open() for _ in range(3)]
        first = streams.step(slots, X[:3, 0])
        saved = streams.snapshot(slots[1])
        streams.close(slots[1])
        slots[1] = streams.open(saved)
        assert len(streams) == 3
        return [first, streams.step(slots, X[:3, 1])]

    return lambda: session


KINDS: dict[str, Callable[[], Callable[[], Call]]] = {
    "forward": lambda: long_way(gradient=False),
    "backward": lambda: long_way(gradient=True),
    "forward-double": lambda: long_way(gradient=False, dtype=torch.float64),
    "backward-double": lambda: long_way(gradient=True, dtype=torch.float64),
    "backward-states": lambda: long_way(gradient=True, save="states"),
    "stack": lambda: stack(backward=False),
    "stack-rounded": lambda: stack(backward=False, dtype=torch.bfloat16),
    "stack-backward": lambda: stack(backward=True),
    "stack-states": lambda: stack(backward=True, save="states", cell="slstm"),
    "samples": lambda: mapped(members=False),
    "members": lambda: mapped(members=True),
    "cell": cell,
    "packing": lambda: packing("f32"),
    "packing-halved": lambda: packing("bf16"),
    "whole": whole,
    "stream": stream,
    "pool": pool,
    "opening": opening,
}


def main() -> None:
    torch.set_num_threads(1)
    gc.freeze()  # what the modules are made of need not be looked at again, thousands of times
    for kind in sys.argv[1:]:
        prepare = KINDS[kind]()
        # Twice before: what torch and Python make only the first time is made here.
        expected = prepare()()
        assert same(prepare()(), expected)
        print(kind, *attack(prepare, expected), flush=True)


if __name__ == "__main__":
    main()

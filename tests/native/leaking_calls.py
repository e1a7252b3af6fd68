"""Calls of every kind, over and over: what memory they leave behind. Linux only.

    python tests/native/leaking_calls.py 100000

Forward and backward of a module, of the functional door and of one step, the gradients of each sample, an ensemble, and
calls without gradients, in bfloat16 too; a stream's and a pool's steps, their opening, closing and states; and calls
that are refused. Prints what grew in the second half: resident memory, the bytes that malloc has given out, and
Python's blocks; and the calls made in it. Exits with 1 if resident memory grew by more than a MiB, malloc's by more
than a byte for each call, or the blocks by more than one for each hundred calls: one block of 32 bytes, or one object,
that one of the kinds loses at each call is more. The interpreter keeps some hundred blocks for later, so fewer than
some 60,000 calls tell nothing.
"""

import argparse
import ctypes
import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.func import functional_call, grad, stack_module_state, vmap

from gatewise import LSTM, LSTMCell
from gatewise.errors import InputError
from gatewise.format import Linear, Lstm, ModelFile
from gatewise.ops import Direction, Weights, layer
from gatewise.runtime import Model
from gatewise.spec import variant

_FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


class Mallinfo(ctypes.Structure):
    """``struct mallinfo2`` of glibc."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in _FIELDS)


def held() -> dict[str, int]:
    """Bytes in memory that belong to no file, bytes that malloc has given out, and Python's blocks."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = Mallinfo
    gc.collect()
    given = mallinfo()
    pages = Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]
    return {
        "resident": int(pages) * 1024,
        "malloc": given.uordblks + given.hblkhd,
        "blocks": sys.getallocatedblocks(),
    }


def refused(call: Callable[[], Any], *errors: type[Exception]) -> None:
    try:
        call()
    except errors:
        return
    raise AssertionError("a call that does not fit was taken.")


def calls() -> list[Callable[[], Any]]:
    torch.manual_seed(0)
    module, single = LSTM(4, 8, 2, bidirectional=True, backend="native"), LSTMCell(4, 8, backend="native")
    x, step = torch.randn(5, 3, 4, requires_grad=True), torch.randn(3, 4)
    cell = variant("peephole")
    weights = Weights(**{name: torch.randn(shape, requires_grad=True) for name, shape in cell.shapes(4, 8).items()})
    state, bad = (torch.zeros(3, 8), torch.zeros(3, 8)), torch.zeros(3, 7)
    blocks = (Lstm(4, 8, 2), Linear(8, 2))
    shapes = ModelFile("demo", blocks, {}).shapes().items()
    rng = np.random.default_rng(0)
    file = ModelFile("demo", blocks, {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes})
    model = Model(file, "5a" * 32, threads=2)
    stream, pool, row = model.stream(), model.streams(4), np.ones(4, np.float32)
    slots, rows = [pool.open(), pool.open()], np.ones((2, 4), np.float32)
    short = torch.tensor([5, 0, 2])

    def backward() -> None:
        y, _ = module(x, lengths=short)
        torch.autograd.grad(y.sum(), [x, *module.parameters()])

    def sparing() -> None:
        result = layer(x, [Direction(state, weights)], cell, lengths=[5, 1, 0], save="states", backend="native")
        torch.autograd.grad(result.y.sum(), [weights.weight_ih, weights.weight_hh])

    own = {name: parameter.detach() for name, parameter in module.named_parameters()}
    stacked, _ = stack_module_state([module, module])

    def loss(weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return functional_call(module, weights, (x,))[0].sum()

    @torch.no_grad()
    def sampling() -> None:
        vmap(grad(loss), (None, 1))(own, x)

    @torch.no_grad()
    def assembling() -> None:
        vmap(loss, (0, None))(stacked, x)

    def dropped() -> None:
        module(x)  # a graph of which nobody asks the gradient

    def carried() -> None:
        other = model.stream()
        other.state = stream.state
        slot = pool.open(pool.snapshot(slots[0]))
        pool.close(slot)

    inference, spread = torch.randn(5, 3, 4), torch.randn(5, 3, 8)[..., ::2]
    half, mixed = LSTM(4, 8, 2, backend="native", dtype=torch.bfloat16), inference.bfloat16()

    @torch.no_grad()
    def inferring() -> None:
        module(inference, lengths=short)
        module(spread)  # not as it is: the long way copies it
        single(step)

    @torch.no_grad()
    def rounding() -> None:
        half(mixed, lengths=short)
        with torch.autocast("cpu", torch.bfloat16):
            module(mixed)

    return [
        backward,
        sparing,
        sampling,
        assembling,
        dropped,
        carried,
        inferring,
        rounding,
        lambda: single(step),
        lambda: stream.step(row),
        lambda: stream.steps(rows),
        lambda: pool.step(slots, rows),
        lambda: model.run(rows[None], lengths=[1]),
        lambda: refused(lambda: layer(x, [Direction((bad, bad), weights)], cell, backend="native"), InputError),
        lambda: refused(lambda: module(x, lengths=[6, 0, 0]), InputError),
        lambda: refused(lambda: stream.step(np.ones(3, np.float32)), ValueError),
        lambda: refused(lambda: pool.step([slots[0]] * 2, rows), InputError),
        lambda: refused(lambda: pool.step([99, 1], rows), InputError),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="Memory that calls leave behind.")
    parser.add_argument("calls", type=int, help="how many, of all kinds together")
    count = parser.parse_args().calls
    torch.set_num_threads(2)
    each = calls()
    rounds = -(-count // len(each))
    for _ in range(rounds // 2):
        for call in each:
            call()
    before = held()
    for _ in range(rounds - rounds // 2):
        for call in each:
            call()
    made = (rounds - rounds // 2) * len(each)
    grown = {name: value - before[name] for name, value in held().items()}
    print(json.dumps(grown | {"calls": made}))
    allowed = {"resident": 1 << 20, "malloc": made, "blocks": made // 100}
    return int(any(value > allowed[name] for name, value in grown.items()))


if __name__ == "__main__":
    sys.exit(main())

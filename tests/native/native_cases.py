"""Cases that every instruction set must compute to the same bits: rows of the table, options, sizes, and numbers that
processors treat in ways of their own.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from native_problem import Problem, draw
from native_rows import EVERY, SEEING, name_of, row_of
from numpy.typing import NDArray
from torch import Tensor

from architectures import with_weights
from gatewise.format import Block, Conv1d, Embedding, LayerNorm, Linear, Lstm, ModelFile, QuantileMix, Scaling
from gatewise.spec import BUILT_IN, Cell

T, B, D, H = 5, 9, 5, 17
LENGTHS = (5, 0, 3) * 3
SIZES = (1, 7, 16, 17, 33)
MASKED: dict[str, Any] = {"noise": ("recurrent", "h", "c")}

FLUSHES = "smallest numbers"
"""How titles of cases begin that also run with subnormal numbers flushed to zero; just large enough for threads."""

# Single rows, many steps, sums or weights too large for a cache, more rows than fit together, several windows of
# backward; large enough that several threads share the work.
LARGE: list[tuple[str | Cell, tuple[int, int, int, int], dict[str, Any]]] = [
    ("lstm", (70, 1, 33, 17), {}),
    ("cifg", (70, 2, 33, 17), {}),
    ("lstm", (40, 5, 33, 70), {"lengths": (40, 40, 33, 3, 0)}),
    ("lstm", (6, 16, 33, 49), {}),
    ("lstm", (35, 3, 33, 110), {}),
    ("peephole", (34, 1, 16, 201), {}),
    ("lstm", (3, 9, 2300, 5), {}),
    ("fgr", (3, 2, 17, 350), {}),
    ("lstm", (2, 8, 100, 33), {}),
    ("lstm", (2, 100, 17, 64), {}),
    ("peephole", (5, 33, 5, 100), {"lengths": (5, 0, 3) * 11, "layer_norm": True}),
    ("lstm", (3, 33, 130, 130), {"lengths": (3, 0, 2) * 11, "layer_norm": True}),
    ("slstm", (5, 33, 5, 100), {"lengths": (5, 0, 3) * 11, "reset": "some"}),
    ("lstm", (24, 40, 9, 161), {"proj_size": 33}),
    ("lstm", (2, 19, 1500, 49), {"lengths": (2, 0, 1, 2, 2) * 3 + (1, 2, 0, 2)}),
    ("fgr", (2, 19, 17, 200), {}),
]


def layer_cases() -> Iterator[tuple[str, Problem]]:
    """Layers in both directions of time."""
    for cell in EVERY:
        for hidden in SIZES:
            yield f"{name_of(cell)} H={hidden}", draw(cell, T, B, D, hidden, "both", lengths=LENGTHS)
        yield f"{name_of(cell)} one step", draw(cell, 1, 1, D, H, "both")
        for options in _options(row_of(cell)):
            yield f"{name_of(cell)} {_told(options)}", draw(cell, T, B, D, H, "both", lengths=LENGTHS, **options)
            yield f"{name_of(cell)} {_told(options)} float64", doubled(draw(cell, T, B, D, H, "both", **options))
        yield f"{name_of(cell)} float64", doubled(draw(cell, T, B, D, H, "both", lengths=LENGTHS))
        for name, change in CHANGES.items():
            yield f"{name} {name_of(cell)}", draw(cell, T, B, D, H, "both", lengths=LENGTHS).map(change)
    for cell in SEEING:
        yield name_of(cell), draw(cell, T, B, D, H, "both", lengths=LENGTHS, reset="some", start=True)
    for cell, shape, options in LARGE:
        yield f"{name_of(cell)} {shape}", draw(cell, *shape, "both", **options)
    for cell, shape in (("lstm", (2, 17, 5, 100)), ("rnn-relu", (3, 33, 5, 110))):
        yield f"{FLUSHES} {cell}", draw(cell, *shape, "both").map(_subnormal)


def narrow_cases() -> Iterator[tuple[str, Problem]]:
    """Layers with products of bfloat16: what comes out is compared as numbers, so that there are few steps."""
    for cell in EVERY:
        yield f"{name_of(cell)} bfloat16", draw(cell, 2, B, D, H, "both", lengths=(2, 0, 1) * 3)
    for width in SIZES:
        yield f"bfloat16 widths {width}", draw("lstm", 2, B, width, width, "both")
    for options in ({"layer_norm": True}, {"proj_size": 7, "nonrecurrent_proj_size": 3}, MASKED):
        yield f"bfloat16 {_told(options)}", draw("peephole", 2, B, D, H, "both", **options)
    yield "bfloat16 one step", draw("lstm", 1, 1, D, H, "both")
    yield "bfloat16 large", draw("lstm", 2, 40, 70, 70, "both")


def doubled(problem: Problem) -> Problem:
    return problem.map(lambda _, v: v.double())


def _options(cell: Cell) -> list[dict[str, Any]]:
    """Each option that the cell has alone, then all together."""
    own: dict[str, dict[str, Any]] = {
        "peephole": {"peephole": not cell.peephole},
        "layer_norm": {"layer_norm": True},
        "clip": {"clip": 0.3},
        "projection": {"proj_size": 7, "nonrecurrent_proj_size": 3},
        "zoneout": MASKED,
    }
    found = [options for option, options in own.items() if option in cell.options]
    found += [{"bias": False}, {"reset": "some", "start": True}]
    everything = {name: value for options in found for name, value in options.items() if name != "bias"}
    return [*found, everything | ({"peephole": True} if "peephole" in everything else {})]


def _told(options: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}".replace(" ", "") for name, value in options.items())


def _saturated(name: str, v: Tensor) -> Tensor:
    return v * 50 if name == "x" or name.startswith("weight_ih") else v


def _huge(name: str, v: Tensor) -> Tensor:
    return v * 1e30 if name == "x" else v


def _not_a_number(name: str, v: Tensor) -> Tensor:
    if name != "x":
        return v
    v = v.clone()
    v[1, 2, 3] = torch.nan
    v[0, 5, 0] = torch.inf
    return v


def _subnormal(name: str, v: Tensor) -> Tensor:
    return v * 1e-38 if name == "x" or "state" in name or name.startswith("bias") else v


CHANGES: dict[str, Callable[[str, Tensor], Tensor]] = {
    "saturated": _saturated,
    "huge": _huge,
    "not a number in": _not_a_number,
    "subnormal": _subnormal,
}


def model_cases() -> Iterator[tuple[str, ModelFile, dict[str, Any], bool]]:
    """Models with the arguments of ``Model.run`` and whether recurrent weights are kept in half the memory."""
    stacks: list[tuple[Block, ...]] = [
        *((Lstm(5, 33, 2, cell), LayerNorm(33), Linear(33, 7)) for cell in BUILT_IN),
        (Embedding(11, 6), Lstm(6, 17, cell="peephole", proj_size=5), Linear(5, 11, bias=False)),
        (Scaling(4), Conv1d(4, 6, 3, 1, 2), Lstm(6, 16, 3, residual=True, learned_state=True), Linear(16, 3)),
        (Lstm(5, 17, layer_norm=True, clip=0.3), Scaling(17, inverse=True)),
        (Conv1d(5, 7, 4, 2, 1, causal=False), Lstm(7, 9, 2, bidirectional=True), Linear(18, 1)),
        (Lstm(5, 8), Linear(8, 9), QuantileMix(5, 4)),
    ]
    for number, blocks in enumerate(stacks):
        for halved in (False, True):
            for cut in (False, True):
                title = f"model {number} of {', '.join(block.kind for block in blocks)}"
                title += f"{', halved' * halved}{', with lengths and resets' * cut}"
                yield title, _weighted(blocks), _call(blocks, cut), halved


def _weighted(blocks: tuple[Block, ...]) -> ModelFile:
    model = with_weights(blocks)
    halves = {name: value if name.endswith("std") else value / 2 for name, value in model.weights.items()}
    return ModelFile(model.task, blocks, halves)


def _call(blocks: tuple[Block, ...], cut: bool) -> dict[str, Any]:
    rng, first, last = np.random.default_rng(len(blocks)), blocks[0], blocks[-1]
    if isinstance(first, Embedding):
        call: dict[str, Any] = {"x": rng.integers(first.num_embeddings, size=(9, 6))}
    else:
        call = {"x": rng.normal(size=(9, 6, first.input_size or 0)).astype(np.float32)}
    if isinstance(last, QuantileMix):
        return call | {"candidates": rng.normal(size=(9, 3, last.candidates)).astype(np.float32)}
    if not cut:
        return call
    skips = any(isinstance(block, Conv1d) and block.stride > 1 for block in blocks)
    return call | {"lengths": np.array((6, 0, 4) * 3)} | ({} if skips else {"reset": rng.random((9, 6)) < 0.3})


def math_cases() -> Iterator[tuple[str, NDArray[Any]]]:
    """Every 8191st float32 and as many float64, which are of all exponents and both signs, and NaN."""
    patterns = np.arange(0, 1 << 32, 8191, dtype=np.uint64)
    yield "exp, sigmoid and tanh", patterns.astype(np.uint32).view(np.float32)
    yield "exp, sigmoid and tanh, float64", (patterns << np.uint64(32) | patterns).view(np.float64)

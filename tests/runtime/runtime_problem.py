"""Models with random weights, inputs for them, and the ways to run them: whole, as a stream, in a pool."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from architectures import with_weights
from gatewise.format import Block, Embedding, ModelFile
from gatewise.runtime import Model, Stream

Array = NDArray[Any]
IDENTITY = "ab" * 32


def weighted(blocks: tuple[Block, ...], seed: int = 0) -> ModelFile:
    """Random weights of about the size that trained ones have: larger ones let the rounding grow at every step."""
    model = with_weights(blocks, seed)
    halves = {name: value if name.endswith("std") else value / 2 for name, value in model.weights.items()}
    return ModelFile(model.task, blocks, halves)


def build(*blocks: Block, seed: int = 0, identity: str = IDENTITY, **more: Any) -> Model:
    """A model of these blocks; on one thread unless told otherwise."""
    return Model(weighted(blocks, seed), identity, **{"threads": 1, **more})


def draw(blocks: Sequence[Block], *shape: int, seed: int = 1) -> Array:
    """Inputs [*shape, D], or whole numbers [*shape] for an embedding."""
    rng, first = np.random.default_rng(seed), blocks[0]
    if isinstance(first, Embedding):
        return rng.integers(first.num_embeddings, size=shape)
    return rng.normal(size=(*shape, first.input_size or 0)).astype(np.float32)


def same_bits(a: Array, b: Array) -> bool:
    """Whether two arrays have one shape, dtype and content; two NaN are the same if their bits are."""
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def one(x: Array) -> Array:
    """What a stream's step takes of one step of one row: a token stands in an array of its own."""
    return np.array(x).reshape(-1)


def stepped(stream: Stream, x: Array) -> Array:
    """One row [T, …] step by step."""
    return np.stack([stream.step(one(each)) for each in x])


def alone(model: Model, x: Array) -> Array:
    """Each row [B, T, …] as a stream of its own, step by step."""
    return np.stack([stepped(model.stream(), row) for row in x])


def pooled(model: Model, x: Array, seed: int = 0) -> Array:
    """Each row as a stream of one pool: at every turn some of them, in any order, among strangers, at any step."""
    rng, (rows, steps) = np.random.default_rng(seed), x.shape[:2]
    pool = model.streams(rows + 3)
    slots = rng.permutation([pool.open() for _ in range(rows + 3)])
    mine, strangers = slots[:rows], slots[rows:]
    y = np.full((rows, steps, model.architecture[-1].output_size), np.nan, np.float32)
    done = np.zeros(rows, np.int64)
    while (done < steps).any():
        turn = rng.permutation(np.flatnonzero((done < steps) & (rng.random(rows) < 0.6)))
        others = strangers[rng.random(3) < 0.5]
        company = x.reshape(-1, *x.shape[2:])[rng.integers(rows * steps, size=len(others))]
        given = np.concatenate([company, x[turn, done[turn]]])
        y[turn, done[turn]] = pool.step(np.concatenate([others, mine[turn]]), given)[len(others) :]
        done[turn] += 1
    return y


def resident() -> int:
    """The bytes of this process that are in memory; Linux only."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

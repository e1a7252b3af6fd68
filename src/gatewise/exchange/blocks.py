"""Layers one by one as stacks of layers: what nodes say singly, the blocks of an architecture say together."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gatewise.errors import InputError
from gatewise.exchange.stack import ends
from gatewise.exchange.values import Step
from gatewise.format import Block, Lstm

_RESIDUAL_FROM = 2
"""The first layer of a stack that may have a residual connection, counted from 0."""


def joined(steps: Sequence[Step]) -> tuple[tuple[Block, ...], dict[str, np.ndarray], list[int]]:
    """Return the blocks, their weights by the names of a model file, and in which block each step is."""
    groups: list[list[Step]] = []
    places: list[int] = []
    for step in steps:
        if groups and _continues(groups[-1], step):
            groups[-1].append(step)
        else:
            groups.append([step])
        places.append(len(groups) - 1)
    blocks: list[Block] = []
    weights: dict[str, np.ndarray] = {}
    for index, group in enumerate(groups):
        block, own = _stack(group) if isinstance(group[0].block, Lstm) else (group[0].block, group[0].weights)
        blocks.append(block)
        weights |= {f"{index}.{name}": np.ascontiguousarray(value) for name, value in own.items()}
    return tuple(blocks), weights, places


def _continues(group: list[Step], step: Step) -> bool:
    """Whether a layer is the next of a stack."""
    first, here = group[0].block, step.block
    if not (isinstance(first, Lstm) and isinstance(here, Lstm)):
        return False
    alike = replace(first, input_size=here.input_size) == here and here.input_size == first.output_size
    place = len(group)
    return alike and (place == _RESIDUAL_FROM or step.residual == (place > _RESIDUAL_FROM and group[-1].residual))


def _stack(group: list[Step]) -> tuple[Lstm, dict[str, np.ndarray]]:
    first = group[0].block
    assert isinstance(first, Lstm)
    if any(step.residual for step in group[:_RESIDUAL_FROM]):
        raise InputError("a residual connection must be around a layer that is like the two before it.")
    learned = any(step.start for step in group)
    block = replace(first, num_layers=len(group), residual=group[-1].residual, learned_state=learned)
    weights: dict[str, np.ndarray] = {}
    directions = 1 + block.bidirectional
    for row, end in enumerate(ends(block)):
        layer, direction = divmod(row, directions)
        step = group[layer]
        here = f"_l0{('', '_reverse')[direction]}"
        for kind in block.variant.shapes(1, 1):
            weights[kind + end] = step.weights[kind + here]
        for name, size in block.variant.state_sizes(block.hidden_size).items() if learned else ():
            start = step.start.get(name)
            weights[f"{name}_0{end}"] = np.zeros(size, np.float32) if start is None else start[direction]
    return block, weights

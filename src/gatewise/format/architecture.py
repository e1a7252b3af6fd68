"""Architectures from plain data: fields exactly those of each block, and widths that fit from block to block."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any, cast

from gatewise.errors import InputError
from gatewise.format.blocks import BLOCKS, Block, Embedding
from gatewise.format.fields import check_fields, constraints, shown

FORMAT_VERSION = 2

_FIRST: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "lstm": ("input_size", "hidden_size", "num_layers", "cell"),
        "linear": ("in_features", "out_features"),
        "quantile_mix": ("candidates", "quantiles"),
    }
)
"""The blocks of format 1 and their fields; the fields that came later have their defaults there."""


def parse_blocks(data: object, version: int = FORMAT_VERSION) -> tuple[Block, ...]:
    """Read an architecture from plain data.

    Args:
        data: a list of objects, one for each block.
        version: the format that they are written in.

    Raises:
        InputError: something is not a block that this version knows, a field is out of range, or a block gives
            another width than the next one takes.

    Example:
        >>> parse_blocks([{"block": "linear", "in_features": 3, "out_features": 2, "bias": False}])
        (Linear(in_features=3, out_features=2, bias=False),)
    """
    if not isinstance(data, list) or not data:
        raise InputError("the architecture must be a list of blocks.")
    blocks = tuple(_parse_block(item, version) for item in cast("Sequence[object]", data))
    check_chain(blocks)
    return blocks


def check_chain(blocks: Sequence[Block]) -> None:
    """Refuse blocks that cannot stand one after the other.

    Raises:
        InputError: there is none, a block gives another width than the next one takes, or whole numbers are wanted
            where only the first block can have them.
    """
    if not blocks:
        raise InputError("the architecture must be a list of blocks.")
    for index, (block, after) in enumerate(pairwise(blocks)):
        here, there = f"block {index} ({block.kind})", f"block {index + 1} ({after.kind})"
        if isinstance(after, Embedding):
            raise InputError(f"{there} takes whole numbers, which {here} does not give: it must be the first block.")
        if block.output_size != after.input_size:
            raise InputError(f"{here} gives a width of {block.output_size}, but {there} takes {after.input_size}.")


def _parse_block(data: object, version: int) -> Block:
    if not isinstance(data, dict):
        raise InputError("a block of the architecture must be an object.")
    values = dict(cast("dict[str, Any]", data))
    kind = values.pop("block", None)
    known = _FIRST if version == 1 else {name: tuple(constraints(block)) for name, block in BLOCKS.items()}
    if not isinstance(kind, str) or kind not in known:
        raise InputError(f"the architecture has a block {shown(kind)}; format {version} knows {', '.join(known)}.")
    if set(values) != set(known[kind]):
        raise InputError(f"the block {kind!r} must have the fields {', '.join(known[kind])}.")
    if version > 1:
        # A file says what is; only in Python may a value be left to a default.
        check_fields(BLOCKS[kind], kind, values)
    return BLOCKS[kind](**values)

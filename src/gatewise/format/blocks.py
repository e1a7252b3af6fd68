"""The closed list of blocks that an architecture is made of, and the weights each of them has.

A block says its sizes; the names and shapes of its weights follow from them, so a file can be checked before any of
its arrays is used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import Any, ClassVar, cast

from gatewise.errors import InputError
from gatewise.spec import CELLS, Shapes, variant

MAX_SIZE = 1 << 24
"""Larger sizes than any LSTM has; a file that states one is damaged."""

MAX_LAYERS = 1024
"""Every layer has a list of weights, which is made before the file's weights are looked at."""


@dataclass(frozen=True)
class Lstm:
    """A stack of recurrent layers of one cell, forward in time, with the cell's default peepholes.

    Attributes:
        input_size: D.
        hidden_size: H.
        num_layers: L.
        cell: a row of the spec.
    """

    kind: ClassVar[str] = "lstm"
    input_size: int
    hidden_size: int
    num_layers: int = 1
    cell: str = "lstm"

    def shapes(self) -> Shapes:
        """``weight_ih_l{k}`` [4H, D or H], ``weight_hh_l{k}`` [4H, H], ``bias_ih_l{k}`` and ``bias_hh_l{k}`` [4H].

        That is the vanilla cell; others have what ``Variant.shapes`` lists for them.
        """
        row = variant(self.cell)
        shapes: Shapes = {}
        for layer in range(self.num_layers):
            width = self.hidden_size if layer else self.input_size
            shapes |= {f"{kind}_l{layer}": shape for kind, shape in row.shapes(width, self.hidden_size).items()}
        return shapes


@dataclass(frozen=True)
class Linear:
    """y = W x + b, at every time step.

    Attributes:
        in_features: width of x.
        out_features: width of y.
    """

    kind: ClassVar[str] = "linear"
    in_features: int
    out_features: int

    def shapes(self) -> Shapes:
        """``weight`` [out, in] and ``bias`` [out]."""
        return {"weight": (self.out_features, self.in_features), "bias": (self.out_features,)}


@dataclass(frozen=True)
class QuantileMix:
    """Q quantiles = a mixture of K given candidates + Q corrections.

    The Q + K inputs are the corrections, then the logits of the mixture.

    Attributes:
        candidates: K.
        quantiles: Q.
    """

    kind: ClassVar[str] = "quantile_mix"
    candidates: int
    quantiles: int

    def shapes(self) -> Shapes:
        """It has no weights."""
        return {}


Block = Lstm | Linear | QuantileMix
"""Every block has a kind, and says the names and shapes of its weights."""

BLOCKS: Mapping[str, type[Block]] = MappingProxyType({block.kind: block for block in (Lstm, Linear, QuantileMix)})


def describe_block(block: Block) -> dict[str, object]:
    """The block as plain data."""
    return {"block": block.kind, **asdict(block)}


def parse_blocks(data: object) -> tuple[Block, ...]:
    """Read an architecture from plain data.

    Raises:
        InputError: something is not a block that this version knows, or a size is out of range.

    Example:
        >>> parse_blocks([{"block": "linear", "in_features": 3, "out_features": 2}])
        (Linear(in_features=3, out_features=2),)
    """
    if not isinstance(data, list) or not data:
        raise InputError("the architecture must be a list of blocks.")
    return tuple(_parse_block(item) for item in cast("Sequence[object]", data))


def _parse_block(data: object) -> Block:
    if not isinstance(data, dict):
        raise InputError("a block of the architecture must be an object.")
    sizes = dict(cast("dict[str, Any]", data))
    kind = sizes.pop("block", None)
    if not isinstance(kind, str) or kind not in BLOCKS:
        raise InputError(f"the architecture has a block {kind!r}; this version knows {', '.join(BLOCKS)}.")
    names = {field.name for field in fields(BLOCKS[kind])}
    if set(sizes) != names:
        raise InputError(f"the block {kind!r} must have the fields {', '.join(sorted(names))}.")
    for name, value in sizes.items():
        if name == "cell":
            if not isinstance(value, str) or value not in CELLS:
                raise InputError(f"the block {kind!r} has the cell {value!r}; this version knows {', '.join(CELLS)}.")
            continue
        largest = MAX_LAYERS if name == "num_layers" else MAX_SIZE
        if type(value) is not int or not 1 <= value <= largest:
            raise InputError(f"{name} of the block {kind!r} must be a whole number from 1 to {largest}.")
    return BLOCKS[kind](**sizes)

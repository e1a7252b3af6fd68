"""What the native core is told of a recurrent layer."""

from functools import lru_cache
from typing import Any

from gatewise import _native
from gatewise.spec import parse_variant

WEIGHTS = (
    "weight_ih",
    "weight_hh",
    "bias_ih",
    "bias_hh",
    "weight_hr",
    "weight_hp",
    "weight_peephole",
    "weight_gates",
    "weight_ln_ih",
    "weight_ln_hh",
    "weight_ln_cell",
    "bias_ln_cell",
)
"""The kinds of weights by the numbers that the core has for them (csrc/layer.h)."""


@lru_cache(maxsize=1024)
def described(text: str, inputs: int, hidden: int, has_bias: bool) -> _native.Layer:
    """Return the core's description of a layer, by ``Variant.text``, D, H and whether biases are given."""
    return _native.layer(*arguments(text, inputs, hidden, has_bias))


def arguments(text: str, inputs: int, hidden: int, has_bias: bool) -> tuple[Any, ...]:
    """Return what the core is told of a layer, as plain values."""
    variant = parse_variant(text)
    cell = variant.cell
    gates = [
        [gate.name, gate.kind, gate.squash, gate.peeps if variant.peephole and gate.peeps else "none"]
        for gate in (*cell.learned, *(gate for gate in cell.gates if gate.kind != "learned"))
    ]
    return (
        inputs,
        hidden,
        cell.update,
        gates,
        cell.output_squash,
        list(cell.sees),
        has_bias,
        variant.layer_norm,
        variant.clip,
        variant.proj_size,
        variant.nonrecurrent_proj_size,
    )

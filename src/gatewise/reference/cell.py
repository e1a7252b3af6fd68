"""One step of every cell.

The equations stand in ``docs/cells.md``, written from ``gatewise.spec``; the names here are theirs, with ``old``
for what carries ₋ there. Differentiable any number of times, in both modes, and under vmap.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import conv2d, layer_norm, linear, logsigmoid

from gatewise.spec import Squash, Update, Variant

SQUASH: Mapping[Squash, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "relu": torch.relu,
        "identity": lambda x: x,
        "wide_sigmoid": lambda x: 4 * torch.sigmoid(x) - 2,
        "centred_sigmoid": lambda x: 2 * torch.sigmoid(x) - 1,
        "exp": torch.exp,
    }
)

NORM_EPS = 1e-5
"""What layer normalisation adds to the variance, as in torch."""

_LARGE = 1e12


class Weights(NamedTuple):
    """The parameters of one layer and direction, by the names that modules give them.

    Which there are and which shapes they have says ``Variant.shapes``; rows are in the order of the cell's gates.
    """

    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor | None = None
    bias_hh: Tensor | None = None
    weight_hr: Tensor | None = None
    weight_hp: Tensor | None = None
    weight_peephole: Tensor | None = None
    weight_gates: Tensor | None = None
    weight_ln_ih: Tensor | None = None
    weight_ln_hh: Tensor | None = None
    weight_ln_cell: Tensor | None = None
    bias_ln_cell: Tensor | None = None


State = tuple[Tensor, ...]
"""One tensor [B, ·] for each name in ``Cell.states``, in that order."""

Values = dict[str, Tensor]

Pre = Callable[[str, Tensor | None], Tensor]
"""The pre-activation of a gate, by its name and by the cell state that it sees if it peeps."""


def step(
    x: Tensor, state: State, weights: Weights, variant: Variant, mask: Tensor | None = None
) -> tuple[Tensor, State, Values]:
    """Compute one step.

    Args:
        x: the input [B, D]; images [B, D, Y, X] for a convolutional cell.
        state: the states of the step before, each [B, ·].
        weights: the layer's weights.
        variant: the cell and its options.
        mask: what h₋ [B, R] is multiplied by where it enters U h₋ (recurrent dropout), or None.

    Returns:
        The output [B, ·], which is h and beside it the second projection if there is one; the new states; and the
        activations of the learned and the coupled gates by name.
    """
    old = dict(zip(variant.cell.states, state, strict=True))
    pre = _pre_activations(x, old, weights, variant, mask)
    gates, new = _UPDATE[variant.cell.update](pre, old, weights, variant)
    m = y = new["h"]
    if weights.weight_hr is not None:
        new["h"] = y = linear(m, weights.weight_hr)
    if weights.weight_hp is not None:
        y = torch.cat([y, linear(m, weights.weight_hp)], 1)
    new |= {name: gates[name] for name in variant.cell.sees}
    return y, tuple(new[name] for name in variant.cell.states), gates


def _pre_activations(x: Tensor, old: Values, weights: Weights, variant: Variant, mask: Tensor | None) -> Pre:
    h = old["h"] if mask is None else old["h"] * mask
    v = _products(x, h, weights, variant)
    cell = variant.cell
    # Cut up at once, not sliced: the gradient of a slice is a whole tensor, mostly zeros.
    parts = dict(zip(cell.gate_names, v.chunk(len(cell.learned), 1), strict=True))
    seen: Values = {}
    if weights.weight_gates is not None:
        sums = linear(torch.cat([old[name] for name in cell.sees], 1), weights.weight_gates)
        seen = dict(zip(cell.sees, sums.chunk(len(cell.sees), 1), strict=True))
    peephole: Values = {}
    if weights.weight_peephole is not None:
        peephole = dict(zip(variant.peeping, weights.weight_peephole.chunk(len(variant.peeping)), strict=True))

    def pre(gate: str, c: Tensor | None) -> Tensor:
        value = parts[gate]
        if gate in seen:
            value = value + seen[gate]
        if gate in peephole:
            value = value + peephole[gate] * _given(c)
        if variant.clip is None:
            return value
        bound = min(variant.clip, torch.finfo(value.dtype).max)
        return value.clamp(-bound, bound)

    return pre


def _products(x: Tensor, h: Tensor, weights: Weights, variant: Variant) -> Tensor:
    """W x + U h₋ + b, for all learned gates at once [B, rows, …]."""
    product = linear if variant.kernel is None else partial(conv2d, padding="same")
    if not variant.layer_norm:
        return product(x, weights.weight_ih, weights.bias_ih) + product(h, weights.weight_hh, weights.bias_hh)
    v = _normalised(linear(x, weights.weight_ih), weights.weight_ln_ih, None)
    v = v + _normalised(linear(h, weights.weight_hh), weights.weight_ln_hh, None)
    return v if weights.bias_ih is None else v + (weights.bias_ih + _given(weights.bias_hh))


def _given(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor


def _normalised(v: Tensor, gain: Tensor | None, bias: Tensor | None) -> Tensor:
    """LN(v) of each row."""
    # The variance of values beyond 1e19 would overflow float32. Scaling a row does not change its LN, and beside
    # such values the epsilon is nothing.
    largest = v.detach().abs().amax(1, keepdim=True)
    v = v * torch.where(largest > _LARGE, _LARGE / largest, 1.0)
    return layer_norm(v, v.shape[1:], gain, bias, NORM_EPS)


def _recurrent(pre: Pre, old: Values, weights: Weights, variant: Variant) -> tuple[Values, Values]:
    g = SQUASH[variant.cell.gate("g").squash](pre("g", None))
    return {"g": g}, {"h": g}


def _additive(pre: Pre, old: Values, weights: Weights, variant: Variant) -> tuple[Values, Values]:
    cell = variant.cell
    gates: Values = {}
    for gate in cell.learned:
        if gate.name != "o":
            gates[gate.name] = SQUASH[gate.squash](pre(gate.name, old["c"]))
    gates |= {gate.name: 1 - gates[gate.complement] for gate in cell.gates if gate.kind == "coupled"}
    # An open gate is 1: what it would multiply passes as it is.
    kept = gates["f"] * old["c"] if "f" in gates else old["c"]
    c = kept + (gates["i"] * gates["g"] if "i" in gates else gates["g"])
    shown = c
    if variant.layer_norm:
        shown = _normalised(c, weights.weight_ln_cell, weights.bias_ln_cell)
    h = SQUASH[cell.output_squash](shown)
    if cell.gate("o").kind == "learned":
        gates["o"] = SQUASH[cell.gate("o").squash](pre("o", c if cell.gate("o").peeps == "after" else old["c"]))
        h = gates["o"] * h
    return gates, {"h": h, "c": c}


def _exponential(pre: Pre, old: Values, weights: Weights, variant: Variant) -> tuple[Values, Values]:
    cell = variant.cell
    log_i, log_f = pre("i", None), logsigmoid(pre("f", None))
    # Nothing is remembered where n is zero: m₋ counts as −∞ there, whatever it holds.
    before = torch.where(old["n"] == 0, -torch.inf, log_f + old["m"])
    m = torch.maximum(before, log_i)
    gates = {"i": torch.exp(log_i - m), "f": torch.exp(before - m)}
    gates |= {name: SQUASH[cell.gate(name).squash](pre(name, None)) for name in ("g", "o")}
    c = gates["f"] * old["c"] + gates["i"] * gates["g"]
    n = gates["f"] * old["n"] + gates["i"]
    h = gates["o"] * SQUASH[cell.output_squash](c / n)
    return gates, {"h": h, "c": c, "n": n, "m": m}


_UPDATE: Mapping[Update, Callable[[Pre, Values, Weights, Variant], tuple[Values, Values]]] = MappingProxyType(
    {"recurrent": _recurrent, "additive": _additive, "exponential": _exponential}
)

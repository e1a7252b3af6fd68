"""A cell with the additive update, written by hand as a loop over torch's operators."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear

from gatewise.spec import Variant

SQUASH: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "identity": lambda x: x,
    "wide_sigmoid": lambda x: 4 * torch.sigmoid(x) - 2,
    "centred_sigmoid": lambda x: 2 * torch.sigmoid(x) - 1,
}


def loop(x: Tensor, w: Mapping[str, Tensor], variant: Variant) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, h, c from zero states."""
    cell, names = variant.cell, variant.cell.gate_names
    hidden = w["weight_hh"].shape[1]
    bias = w["bias_ih"] + w["bias_hh"]
    inputs = linear(x, w["weight_ih"], None if variant.layer_norm else bias)
    width = inputs.shape[2:]
    if variant.layer_norm:
        inputs = layer_norm(inputs, width, w["weight_ln_ih"]) + bias
    peepholes = {}
    if variant.peeping:
        peepholes = dict(zip(variant.peeping, w["weight_peephole"].chunk(len(variant.peeping)), strict=True))
    h = c = x.new_zeros(x.shape[1], hidden)
    seen = [h for _ in cell.sees]
    outputs: list[Tensor] = []
    for here in inputs.unbind():
        recurrent = linear(h, w["weight_hh"])
        if variant.layer_norm:
            recurrent = layer_norm(recurrent, width, w["weight_ln_hh"])
        pre = dict(zip(names, (here + recurrent).chunk(len(names), 1), strict=True))
        if cell.sees:
            more = linear(torch.cat(seen, 1), w["weight_gates"]).chunk(len(cell.sees), 1)
            pre |= {name: pre[name] + part for name, part in zip(cell.sees, more, strict=True)}
        gates = _before(pre, c, peepholes, variant)
        kept = gates["f"] * c if "f" in gates else c
        c = kept + (gates["i"] * gates["g"] if "i" in gates else gates["g"])
        shown = c
        if variant.layer_norm:
            shown = layer_norm(c, (hidden,), w["weight_ln_cell"], w["bias_ln_cell"])
        h = SQUASH[cell.output_squash](shown)
        if "o" in pre:
            o = pre["o"] + peepholes["o"] * c if "o" in peepholes else pre["o"]
            gates["o"] = SQUASH[cell.gate("o").squash](o)
            h = gates["o"] * h
        seen = [gates[name] for name in cell.sees]
        outputs.append(h)
    return torch.stack(outputs), h, c


def _before(
    pre: Mapping[str, Tensor], c: Tensor, peepholes: Mapping[str, Tensor], variant: Variant
) -> dict[str, Tensor]:
    """The gates that do not wait for the new cell state."""
    gates: dict[str, Tensor] = {}
    for gate in variant.cell.learned:
        if gate.name != "o":
            value = pre[gate.name] + peepholes[gate.name] * c if gate.name in peepholes else pre[gate.name]
            gates[gate.name] = SQUASH[gate.squash](value)
    for gate in variant.cell.gates:
        if gate.kind == "coupled":
            gates[gate.name] = 1 - gates[gate.complement]
    return gates

r"""The equations of a variant, written from its row: as text, and as LaTeX.

Text marks the step before with ₋: h₋ is what LaTeX writes h_{t-1}. ∗ is the convolution of a convolutional cell.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType

from gatewise.spec.cell import Gate, Squash
from gatewise.spec.variant import Variant

SQUASH: Mapping[Squash, str] = MappingProxyType(
    {
        "sigmoid": "σ({})",
        "tanh": "tanh({})",
        "relu": "relu({})",
        "identity": "{}",
        "wide_sigmoid": "4σ({}) − 2",
        "centred_sigmoid": "2σ({}) − 1",
        "exp": "exp({})",
    }
)
"""Each squashing function as text, with {} for what it squashes."""


def equations(variant: Variant) -> tuple[str, ...]:
    r"""Return one step as text, one line for each equation, in the order of computation.

    Example:
        >>> from gatewise.spec import variant
        >>> from gatewise.spec.equations import equations
        >>> print("\n".join(equations(variant("cifg", peephole=False))))
        i = σ(W_i x + U_i h₋ + b_i)
        f = 1 − i
        g = tanh(W_g x + U_g h₋ + b_g)
        c = f ⊙ c₋ + i ⊙ g
        o = σ(W_o x + U_o h₋ + b_o)
        h = o ⊙ tanh(c)
    """
    lines = ["v = LN(W x; γ_x) + LN(U h₋; γ_h)" + (" + b" if variant.bias else "")] if variant.layer_norm else []
    if variant.cell.update == "recurrent":
        return (*lines, f"h = {_gate(variant, variant.cell.gate('g'))}")
    if variant.cell.update == "exponential":
        return (*lines, *_exponential(variant))
    return (*lines, *_additive(variant))


def latex(variant: Variant) -> str:
    """Return one step as an ``aligned`` block of LaTeX."""
    lines = [_latex(line) for line in equations(variant)]
    return "\\begin{aligned}\n" + " \\\\\n".join(lines) + "\n\\end{aligned}"


def _additive(variant: Variant) -> list[str]:
    cell = variant.cell
    gates = {gate.name: _gate(variant, gate) for gate in cell.gates}
    before = ("f", "i", "g") if cell.gate("i").kind == "coupled" else ("i", "f", "g")
    lines = [f"{name} = {gates[name]}" for name in before if gates[name]]
    lines.append(f"c = {_times(gates, 'f', 'c₋')} + {_times(gates, 'i', 'g')}")
    if gates["o"]:
        lines.append(f"o = {gates['o']}")
    shown = "LN(c; γ_c, β_c)" if variant.layer_norm else "c"
    lines.append(f"{'m' if variant.proj_size else 'h'} = {_times(gates, 'o', _squashed(cell.output_squash, shown))}")
    if variant.proj_size:
        lines.append("h = W_hr m")
    if variant.nonrecurrent_proj_size:
        lines.append("p = W_hp m")
    return lines


def _exponential(variant: Variant) -> list[str]:
    cell = variant.cell
    return [
        "m₋ = −∞ where n₋ = 0",
        f"ĩ = {_pre(variant, cell.gate('i'))}",
        f"f̃ = {_pre(variant, cell.gate('f'))}",
        f"g = {_gate(variant, cell.gate('g'))}",
        f"o = {_gate(variant, cell.gate('o'))}",
        "m = max(log σ(f̃) + m₋, ĩ)",
        "i = exp(ĩ − m)",
        "f = exp(log σ(f̃) + m₋ − m)",
        "c = f ⊙ c₋ + i ⊙ g",
        "n = f ⊙ n₋ + i",
        f"h = o ⊙ {_squashed(cell.output_squash, 'c / n')}",
    ]


def _gate(variant: Variant, gate: Gate) -> str:
    """What a gate is; nothing for an open one."""
    if gate.kind == "open":
        return ""
    if gate.kind == "coupled":
        return f"1 − {gate.complement}"
    return _squashed(gate.squash, _pre(variant, gate))


def _pre(variant: Variant, gate: Gate) -> str:
    k, product = gate.name, "∗ " if variant.kernel else ""
    terms = [f"v_{k}"] if variant.layer_norm else [f"W_{k} {product}x", f"U_{k} {product}h₋"]
    if k in variant.cell.sees:
        terms += [f"R_{k}{other} {other}₋" for other in variant.cell.sees]
    if k in variant.peeping:
        terms.append(f"p_{k} ⊙ {'c' if gate.peeps == 'after' else 'c₋'}")
    if variant.bias and not variant.layer_norm:
        terms.append(f"b_{k}")
    pre = " + ".join(terms)
    return pre if variant.clip is None else f"clip({pre}, ±{repr(variant.clip).removesuffix('.0')})"


def _times(gates: dict[str, str], gate: str, what: str) -> str:
    return f"{gate} ⊙ {what}" if gates[gate] else what


def _squashed(squash: Squash, what: str) -> str:
    text = SQUASH[squash].format(what)
    return f"({text})" if squash in {"wide_sigmoid", "centred_sigmoid"} and what.startswith(("c", "LN")) else text


_WORDS = {
    "σ": r"\sigma",
    "⊙": r"\odot",
    "−": "-",
    "±": r"\pm ",
    "∗": "*",
    "∞": r"\infty",
    "where": r"\text{ where }",
    "γ": r"\gamma",
    "β": r"\beta",
    "tanh": r"\tanh",
    "exp": r"\exp",
    "log": r"\log",
    "max": r"\max",
    "relu": r"\mathrm{relu}",
    "clip": r"\mathrm{clip}",
    "LN": r"\mathrm{LN}",
}
_TOKEN = re.compile(
    r"tanh|exp|log|max|relu|clip|where|LN|[σ⊙−±∗∞]"
    r"|(?P<weight>[WUbpRγβv])_(?P<index>\w+)"
    r"|(?P<variable>[if]̃|ĩ|[a-zWUb])(?P<before>₋?)"
    r"|(?P<number>[\d.]+)e(?P<power>[+-]\d+)"
)


def _latex(line: str) -> str:
    left, right = line.split(" = ", 1)
    return f"{_TOKEN.sub(_token, left)} &= {_TOKEN.sub(_token, right)}"


def _token(match: re.Match[str]) -> str:
    weight, variable = match["weight"], match["variable"]
    if weight:
        time = ",t" if weight == "v" else ""
        return f"{_WORDS.get(weight, weight)}_{{{match['index']}{time}}}"
    if match["number"]:
        return rf"{match['number']} \cdot 10^{{{int(match['power'])}}}"
    if not variable:
        return _WORDS[match.group()]
    if variable in "WUb":
        return variable
    letter = {"ĩ": r"\tilde{i}", "f̃": r"\tilde{f}"}.get(variable, variable)
    return f"{letter}_{{t-1}}" if match["before"] else f"{letter}_t"

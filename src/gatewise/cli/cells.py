"""What ``gatewise cells`` prints from the spec: a table of the cells, one cell, and the page docs/cells.md."""

import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, get_args

from gatewise.spec import CELLS, Cell, Gate, Option, Variant, variant
from gatewise.spec.equations import SQUASH, equations, latex

COLUMNS = ("name", "gates", "states", "peep", "what it is", "options", "paper")
_WIDE = 110
"""The terminal's width from which each column has room; in a narrower one the last three share one."""

# Sizes to ask for shapes with, so that each letter can be read off its size.
_H, _D, _P, _N, _KERNEL, _IMAGE = 1000, 1, 2, 3, (4, 5), (6, 7)
_LETTERS = {_D: "D", _P: "P", _N: "N", 4: "k_y", 5: "k_x", 6: "Y", 7: "X"}

_SYMBOLS = {
    "weight_ih": "W",
    "weight_hh": "U",
    "bias_ih": "b, added to bias_hh",
    "bias_hh": "b, added to bias_ih",
    "weight_hr": "W_hr",
    "weight_hp": "W_hp",
    "weight_peephole": "p",
    "weight_gates": "R",
    "weight_ln_ih": "γ_x",
    "weight_ln_hh": "γ_h",
    "weight_ln_cell": "γ_c",
    "bias_ln_cell": "β_c",
}

_OPTIONS: list[tuple[str, str, dict[str, Any], str]] = [
    (
        "peephole=True",
        "peephole",
        {"peephole": True},
        "Gates see the cell state, each unit its own: i and f the old one, o the new one (Gers, Schraudolph and "
        "Schmidhuber 2002). The table above says which cells peep by themselves; `peephole=False` stops them.",
    ),
    (
        "layer_norm=True",
        "layer_norm",
        {"layer_norm": True},
        "The products, and the cell state where it is shown, are normalised (Ba, Kiros and Hinton 2016). LN subtracts "
        "the mean and divides by √(variance + 1e-5), over all rows of W x or of U h₋ together, and over the units of "
        "c; then it scales by γ and adds β. v holds the rows of all gates, v_i those of i.",
    ),
    (
        "clip=3",
        "clip",
        {"clip": 3.0},
        "What enters a gate's function is kept between −clip and clip, the peephole's part included. The cell state is "
        "not clipped.",
    ),
    (
        "proj_size=P",
        "projection",
        {"proj_size": _P},
        "h is a projection to the width P (Sak, Senior and Beaufays 2014), as in torch.nn.LSTM. It recurs, and it is "
        "the output.",
    ),
    (
        "nonrecurrent_proj_size=N",
        "projection",
        {"proj_size": _P, "nonrecurrent_proj_size": _N},
        "Beside `proj_size`, a second projection p to the width N, which does not recur: the output is h and p side by "
        "side (Sak, Senior and Beaufays 2014).",
    ),
    (
        "Convolution",
        "",
        {"peephole": True, "kernel": _KERNEL, "image": _IMAGE},
        "In `gatewise.ConvLSTM` the products with W and U are 2-D convolutions ∗ that keep the size of the image, D "
        "and H count channels, and a peephole weighs one pixel of one channel (Shi et al. 2015). Here with "
        "`peephole=True`. There is none with layer norm or a projection, and none of `fgr`.",
    ),
]
"""Each section: its heading, the option of a cell that allows it, the values to show it with, and what it does."""

_NOTATION = """\
x is the input of a time step, h₋ and c₋ are states of the step before; h is the output. ⊙ multiplies elementwise, and
σ(x) = 1 / (1 + exp(−x)). Shapes are written with D, the width of the input, and H, the width of the cell. Gates always
come in the order i, f, g, o; a gate that is open or coupled has no weights, and the rows of the others move up. W_i is
the rows of `weight_ih` that belong to i; U, p and R are `weight_hh`, `weight_peephole` and `weight_gates`, and b is the
sum of `bias_ih` and `bias_hh`.

`zoneout` and `learned_state` leave the equations of a step as they are: zoneout keeps a part of the old state after
the step, and a learned state is where a sequence starts."""


def show_table() -> None:
    """Print all cells: fitted to a terminal's width, or to a file with one line for each cell."""
    rows = [_row(cell) for cell in CELLS.values()]
    if not sys.stdout.isatty():
        print(_aligned([COLUMNS, *rows]))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console, columns = Console(), COLUMNS
    if console.width < _WIDE:
        columns = COLUMNS[:5]
        rows = [(*row[:4], f"{title}; {paper}; options: {options}") for *row, title, options, paper in rows]
    table = Table(box=None, padding=(0, 2, 0, 0))
    for index, name in enumerate(columns):
        table.add_column(name, no_wrap=index < 4, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def show_cell(name: str, peephole: bool | None) -> None:
    """Print one cell as text."""
    chosen = variant(name, peephole=peephole)
    cell = chosen.cell
    print(f"{cell.name}: {cell.title}\n{cell.paper}")
    gates = [(gate.name, _function(gate), gate.meaning) for gate in cell.gates]
    parameters = [(kind, _shape(shape), _rows(chosen, kind)) for kind, shape in _shapes(chosen).items()]
    print(f"\ngates\n{_aligned(gates, 2)}")
    print(f"\nstates     {', '.join(cell.states)}")
    print(f"peepholes  {_peepholes(chosen)}")
    print(f"options    {_options(cell)}")
    print(f"\nparameters of a layer and direction\n{_aligned(parameters, 2)}")
    print("\nequations\n" + "\n".join(f"  {line}" for line in equations(chosen)))


def show_latex(name: str, peephole: bool | None) -> None:
    """Print the equations of one cell as LaTeX."""
    print(latex(variant(name, peephole=peephole)))


def show_page() -> None:
    """Print docs/cells.md."""
    print("\n\n".join(_page()))


def _page() -> Iterable[str]:
    yield "# The cells"
    yield "<!-- Written by `gatewise cells --markdown > docs/cells.md` from gatewise.spec: edit that instead. -->"
    yield (
        '`gatewise.LSTM(D, H, cell="…")` runs each of these cells, and `gatewise cells NAME` prints one. The tables, '
        "equations and shapes are written from the rows in `gatewise.spec`, from which the code runs as well."
    )
    rows = [_row(cell) for cell in CELLS.values()]
    yield _markdown_table(COLUMNS, [(f"[`{name}`](#{name})", *rest) for name, *rest in rows])
    yield "## How to read the equations"
    yield _NOTATION
    for cell in CELLS.values():
        yield from _section(cell)
    yield "## Options"
    yield "What each changes, shown for the vanilla LSTM. Options combine."
    for section in _OPTIONS:
        yield from _option_section(*section)


def _section(cell: Cell) -> Iterable[str]:
    chosen = variant(cell.name)
    yield f"## {cell.name}"
    yield f"{cell.title[:1].upper()}{cell.title[1:]}. {cell.paper}"
    yield _math(chosen)
    yield _markdown_table(
        ("gate", "function", "what it does"),
        [(f"`{gate.name}`", _function(gate), gate.meaning) for gate in cell.gates],
    )
    yield (
        f"- states: {', '.join(cell.states)}\n"
        f"- peepholes: {_peepholes(chosen)}\n"
        f"- options: {_options(cell)}\n"
        f"- parameters: {_parameters(_shapes(chosen))}"
    )


def _option_section(heading: str, option: str, values: dict[str, Any], text: str) -> Iterable[str]:
    plain, chosen = variant(), variant(**values)
    before, old = equations(plain), _shapes(plain)
    changed = [line.split(" = ")[0] for line in equations(chosen) if line not in before]
    shapes = {kind: shape for kind, shape in _shapes(chosen).items() if old.get(kind) != shape}
    able = [cell.name for cell in CELLS.values() if option in cell.options]
    yield f"### {heading}"
    yield text
    yield _math(chosen)
    lines = [f"- equations that change: {', '.join(changed)}"]
    lines += [f"- parameters, new or of another shape: {_parameters(shapes)}"] if shapes else []
    lines += [f"- defined for: {', '.join(able)}"] if option else []
    yield "\n".join(lines)


def _row(cell: Cell) -> tuple[str, ...]:
    peeping = " ".join(variant(cell.name).peeping) or "–"
    return (cell.name, _gates(cell), " ".join(cell.states), peeping, cell.title, _options(cell), _short(cell.paper))


def _gates(cell: Cell) -> str:
    fixed = [f"{gate.name} = {_function(gate)}" for gate in cell.gates if gate.kind != "learned"]
    return ", ".join([" ".join(cell.gate_names), *fixed])


def _function(gate: Gate) -> str:
    """What becomes of a gate's pre-activation x; of a gate that has none, what it is."""
    if gate.kind == "open":
        return "1"
    return f"1 − {gate.complement}" if gate.kind == "coupled" else SQUASH[gate.squash].format("x")


def _peepholes(chosen: Variant) -> str:
    able = chosen.cell.options >= {"peephole"}
    seen = {"before": "the old c", "after": "the new c"}
    parts = [
        f"{' and '.join(names)} see{'s' * (len(names) == 1)} {text}"
        for when, text in seen.items()
        if (names := [gate.name for gate in chosen.cell.learned if able and gate.peeps == when])
    ]
    if not parts:
        return "none"
    return ", ".join(parts) + ("" if chosen.peephole else " (not unless asked for)")


def _options(cell: Cell) -> str:
    every: tuple[Option, ...] = get_args(Option)
    missing = [option for option in every if option not in cell.options]
    if not missing:
        return "all"
    defined = [option for option in every if option in cell.options]
    if len(missing) < len(defined):
        return f"all but {', '.join(missing)}"
    return ", ".join(defined) or "none"


def _short(paper: str) -> str:
    """Authors and year, as a text cites them."""
    match = re.match(r"(?P<authors>.+?) \((?P<year>\d{4}\w?)\)", paper)
    if not match:
        return paper
    authors = re.split(r", | and ", match["authors"])
    return f"{match['authors'] if len(authors) < 3 else f'{authors[0]} et al.'} {match['year']}"


def _shapes(chosen: Variant) -> dict[str, tuple[int, ...]]:
    return chosen.shapes(_D, _H)


def _shape(shape: tuple[int, ...]) -> str:
    letters = [_LETTERS.get(size) or ("H" if size == _H else f"{size // _H}H") for size in shape]
    return f"[{', '.join(letters)}]"


def _rows(chosen: Variant, kind: str) -> str:
    """The symbol of a parameter, and which gates its rows belong to."""
    gates: Sequence[str] = chosen.cell.gate_names
    if kind in {"weight_hr", "weight_hp", "weight_ln_cell", "bias_ln_cell"}:
        return _SYMBOLS[kind]
    if kind == "weight_peephole":
        gates = chosen.peeping
    if kind == "weight_gates":
        return f"{_SYMBOLS[kind]}; rows and columns {', '.join(chosen.cell.sees)}"
    return f"{_SYMBOLS[kind]}; rows {', '.join(gates)}"


def _parameters(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"`{kind}` {_shape(shape)}" for kind, shape in shapes.items())


def _aligned(rows: Sequence[Sequence[str]], indent: int = 0) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(" " * indent + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _math(chosen: Variant) -> str:
    return f"```math\n{latex(chosen)}\n```"


def _markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

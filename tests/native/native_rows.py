"""Rows that the table of cells does not have: unusual squashes, couplings, orders and peepholes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from gatewise.spec import CELLS, Cell, Gate, Variant, register, variant
from gatewise.spec.cell import EVERY_OPTION
from gatewise.spec.cells import _table

I, F, G, O = CELLS["lstm"].gates  # noqa: E741 - their names

ROWS = [
    replace(
        CELLS["lstm"],
        name="native-cfig",
        title="input gate coupled to the forget gate, exponential candidate",
        gates=(Gate("i", "identity", "", kind="coupled", complement="f"), F, replace(G, squash="exp"), O),
        peephole=True,
        options=EVERY_OPTION - {"layer_norm"},
    ),
    replace(
        CELLS["lstm"],
        name="native-turned",
        title="rows from o to i, which peep at the old cell",
        gates=(
            replace(O, squash="identity", peeps="before"),
            replace(G, squash="centred_sigmoid"),
            replace(F, squash="centred_sigmoid"),
            replace(I, squash="relu"),
        ),
        output_squash="wide_sigmoid",
        peephole=True,
    ),
    replace(
        CELLS["lstm"],
        name="native-candidate",
        title="a candidate that peeps, and not the forget gate",
        gates=(I, replace(F, peeps=None), replace(G, peeps="before"), O),
        peephole=True,
    ),
    replace(
        CELLS["lstm"],
        name="native-loud",
        title="gates without bounds",
        gates=(replace(I, squash="exp"), replace(F, squash="relu"), G, replace(O, squash="tanh")),
        output_squash="centred_sigmoid",
        options=EVERY_OPTION - {"peephole", "layer_norm"},
    ),
    replace(
        CELLS["lstm"],
        name="native-coupled",
        title="input gate coupled to the forget gate, wide candidate",
        gates=(
            Gate("i", "identity", "", kind="coupled", complement="f"),
            F,
            replace(G, squash="wide_sigmoid"),
            replace(O, peeps="before"),
        ),
        peephole=True,
    ),
    replace(
        CELLS["lstm"],
        name="native-sees",
        title="gates that see o and f, without an input gate",
        gates=(replace(I, kind="open", squash="identity", peeps=None), replace(F, squash="tanh"), G, O),
        output_squash="relu",
        sees=("o", "f"),
        options=CELLS["fgr"].options,
    ),
    replace(
        CELLS["slstm"],
        name="native-slstm",
        title="slstm, rows turned, otherwise squashed",
        gates=(
            replace(CELLS["slstm"].gate("o"), squash="relu"),
            replace(G, squash="identity", peeps=None),
            CELLS["slstm"].gate("f"),
            CELLS["slstm"].gate("i"),
        ),
        output_squash="centred_sigmoid",
    ),
    replace(CELLS["rnn"], name="native-rnn", title="centred units", gates=(Gate("g", "centred_sigmoid", ""),)),
]
SEEING = [
    replace(CELLS["lstm"], name=f"native-sees-{gates}", sees=tuple(gates), options=CELLS["fgr"].options)
    for gates in ("i", "f", "g", "o", "if", "oi", "fg", "goi", "ogfi")
]
EVERY: list[str | Cell] = [*CELLS, *ROWS]


def row(cell: str | Cell, **options: Any) -> Variant:
    """The cell with its options; ``gatewise.spec.variant`` knows only what is in the table."""
    if isinstance(cell, str):
        return variant(cell, **options)
    given: dict[str, Any] = {"peephole": cell.peephole, **options}
    return Variant(cell, **given)


def name_of(cell: str | Cell) -> str:
    return cell if isinstance(cell, str) else cell.name


def row_of(cell: str | Cell) -> Cell:
    return CELLS[cell] if isinstance(cell, str) else cell


@contextmanager
def registered() -> Iterator[None]:
    """Have the rows in the table, for a while."""
    for cell in (*ROWS, *SEEING):
        register(cell)
    try:
        yield
    finally:
        for cell in (*ROWS, *SEEING):
            del _table[cell.name]

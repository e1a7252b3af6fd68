"""The table of cells. A new cell is a new row."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from gatewise.errors import InputError
from gatewise.spec.cell import EVERY_OPTION, OPTIONS, Cell, Gate

_I = Gate("i", "sigmoid", "input gate: how much of the candidate enters the cell", peeps="before")
_F = Gate("f", "sigmoid", "forget gate: how much of the cell stays", peeps="before")
_G = Gate("g", "tanh", "candidate: what could enter the cell")
_O = Gate("o", "sigmoid", "output gate: how much of the cell is shown", peeps="after")

_ELMAN = "Elman (1990). Finding structure in time."
_HOCHREITER = "Hochreiter and Schmidhuber (1997). Long short-term memory."
_GERS = "Gers, Schmidhuber and Cummins (2000). Learning to forget: continual prediction with LSTM."
_PEEPHOLES = "Gers, Schraudolph and Schmidhuber (2002). Learning precise timing with LSTM recurrent networks."
_GREFF = "Greff, Srivastava, Koutník, Steunebrink and Schmidhuber (2017). LSTM: a search space odyssey."
_BECK = "Beck et al. (2024). xLSTM: extended long short-term memory."


def _open(gate: Gate) -> Gate:
    return replace(gate, kind="open", squash="identity", meaning=f"{gate.meaning} (always open)", peeps=None)


RNN = Cell(
    name="rnn",
    title="the simple recurrent network, which forgets",
    gates=(Gate("g", "tanh", "the new state"),),
    paper=_ELMAN,
    update="recurrent",
    output_squash="identity",
    options=OPTIONS["recurrent"],
)

LSTM = Cell(name="lstm", title="the vanilla LSTM, torch.nn.LSTM's", gates=(_I, _F, _G, _O), paper=_GERS)

PEEPHOLE = replace(LSTM, name="peephole", title="gates that see the cell state", peephole=True, paper=_PEEPHOLES)

_ODYSSEY = replace(PEEPHOLE, paper=_GREFF)

_ROWS = (
    RNN,
    replace(
        RNN,
        name="rnn-relu",
        title="the simple recurrent network with rectified units",
        gates=(replace(RNN.gates[0], squash="relu"),),
    ),
    LSTM,
    replace(
        LSTM,
        name="lstm-1997",
        title="the first LSTM: no forget gate, other squashing",
        gates=(_I, _open(_F), replace(_G, squash="wide_sigmoid"), _O),
        output_squash="centred_sigmoid",
        paper=_HOCHREITER,
    ),
    PEEPHOLE,
    replace(_ODYSSEY, name="nig", title="no input gate", gates=(_open(_I), _F, _G, _O)),
    replace(_ODYSSEY, name="nfg", title="no forget gate", gates=(_I, _open(_F), _G, _O)),
    replace(_ODYSSEY, name="nog", title="no output gate", gates=(_I, _F, _G, _open(_O))),
    replace(
        _ODYSSEY,
        name="niaf",
        title="no input activation function",
        gates=(_I, _F, replace(_G, squash="identity"), _O),
    ),
    replace(_ODYSSEY, name="noaf", title="no output activation function", output_squash="identity"),
    replace(
        _ODYSSEY,
        name="cifg",
        title="coupled input and forget gates",
        gates=(_I, replace(_F, kind="coupled", complement="i", squash="identity", peeps=None), _G, _O),
    ),
    replace(_ODYSSEY, name="np", title="no peepholes: the vanilla LSTM", peephole=False),
    replace(
        _ODYSSEY,
        name="fgr",
        title="full gate recurrence: gates see the gates of the step before",
        sees=("i", "f", "o"),
        options=EVERY_OPTION - {"layer_norm"},
    ),
    Cell(
        name="slstm",
        title="exponential gates with a normaliser and a stabiliser",
        gates=(
            Gate("i", "exp", "input gate: how much of the candidate enters the cell"),
            Gate("f", "sigmoid", "forget gate: how much of the cell stays"),
            _G,
            Gate("o", "sigmoid", "output gate: how much of the cell is shown"),
        ),
        paper=_BECK,
        update="exponential",
        output_squash="identity",
        options=OPTIONS["exponential"],
    ),
)

_table = {cell.name: cell for cell in _ROWS}

CELLS: Mapping[str, Cell] = MappingProxyType(_table)
"""Every cell by its name."""

BUILT_IN: tuple[str, ...] = tuple(_table)
"""The cells that are in the table everywhere, before any is registered: those that a file may name."""


def register(cell: Cell) -> Cell:
    """Add a cell to the table, so that everything which takes a cell's name takes this one.

    Args:
        cell: a row made of existing parts; see ``Cell`` and ``Gate``.

    Returns:
        The cell.

    Raises:
        InputError: another cell has this name.
        TypeError: it is no ``Cell``.

    Example:
        >>> from dataclasses import replace
        >>> from gatewise.spec import CELLS, register
        >>> cell = register(replace(CELLS["cifg"], name="cifg-linear", output_squash="identity"))
        >>> cell is CELLS["cifg-linear"]
        True
    """
    if not isinstance(cell, Cell):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"register takes a gatewise.spec.Cell, got {type(cell).__name__}.")
    if _table.setdefault(cell.name, cell) != cell:
        raise InputError(f"there is another cell named {cell.name!r}.")
    return cell


def find(name: object) -> Cell:
    """Return the cell of a name.

    Raises:
        InputError: no cell has this name; the text lists those there are.
    """
    if not isinstance(name, str) or name not in CELLS:
        raise InputError(f"cell must be one of {', '.join(CELLS)}, got {name!r}.")
    return CELLS[name]

"""The table of cells: what each row is, which rows are refused, registering, and no torch."""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from gatewise.errors import InputError
from gatewise.spec import CELLS, EVERY_OPTION, LSTM, Cell, Gate, register, variant
from gatewise.spec.cells import _table

NAMES = ["rnn", "rnn-relu", "lstm", "lstm-1997", "peephole", "nig", "nfg", "nog", "niaf", "noaf", "cifg", "np", "fgr"]
NAMES += ["slstm"]
LEARNED = {"rnn": "g", "rnn-relu": "g", "lstm-1997": "igo", "nig": "fgo", "nfg": "igo", "nog": "ifg", "cifg": "igo"}
STATES = {"rnn": "h", "rnn-relu": "h", "fgr": "hcifo", "slstm": "hcnm"}
PEEPING = {"peephole": "ifo", "nig": "fo", "nfg": "io", "nog": "if", "niaf": "ifo", "noaf": "ifo", "cifg": "io"}
PEEPING |= {"fgr": "ifo"}
PLAIN_OPTIONS = {"clip", "zoneout", "learned_state"}
OPTIONS = {"rnn": PLAIN_OPTIONS, "rnn-relu": PLAIN_OPTIONS, "fgr": EVERY_OPTION - {"layer_norm"}, "slstm": {"clip"}}

I, F, G, O = LSTM.gates  # noqa: E741 - their names
SLSTM, RNN = CELLS["slstm"], CELLS["rnn"]
OPEN = replace(I, kind="open")
COUPLED = replace(F, kind="coupled", complement="i")

every_cell = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def table() -> Iterator[dict[str, Cell]]:
    """The table itself, with what a test registers taken out again."""
    before = dict(_table)
    yield _table
    _table.clear()
    _table.update(before)


def test_the_table_has_these_cells_by_their_names():
    assert list(CELLS) == NAMES
    assert all(CELLS[name].name == name for name in NAMES)


@every_cell
def test_a_row_says_what_the_cell_has(name: str):
    cell = CELLS[name]
    assert "".join(cell.gate_names) == LEARNED.get(name, "ifgo")
    assert "".join(cell.states) == STATES.get(name, "hc")
    assert "".join(variant(name).peeping) == PEEPING.get(name, "")
    assert cell.options == OPTIONS.get(name, EVERY_OPTION)
    assert re.fullmatch(r"\S.* \((19|20)\d\d\)\. \S.*\.", cell.paper)
    assert all(text and not text.endswith(".") for text in (cell.title, *(gate.meaning for gate in cell.gates)))


@every_cell
def test_rows_of_the_learned_gates_tile_the_weights_in_order(name: str):
    cell, hidden = CELLS[name], 5
    covered = [row for gate in cell.gate_names for row in range(100)[cell.rows(gate, hidden)]]
    assert covered == list(range(len(cell.learned) * hidden))


@pytest.mark.parametrize(("cell", "gate"), [("lstm", "z"), ("cifg", "f"), ("nig", "i"), ("rnn", "i")])
def test_a_gate_without_weights_has_no_rows(cell: str, gate: str):
    with pytest.raises(ValueError, match="not in tuple"):
        CELLS[cell].rows(gate, 4)


def test_the_table_cannot_be_written_but_by_register():
    with pytest.raises(TypeError):
        CELLS["mine"] = LSTM  # type: ignore[index]


INVALID: list[tuple[Cell, dict[str, Any], str]] = [
    (LSTM, {"gates": (I, F, G)}, "a cell with the update 'additive' has the gates i, f, g, o."),
    (LSTM, {"gates": (I, F, G, O, G)}, "a cell with the update 'additive' has the gates i, f, g, o."),
    (LSTM, {"gates": (I, I, G, O)}, "a cell with the update 'additive' has the gates i, f, g, o."),
    (RNN, {"gates": LSTM.gates}, "a cell with the update 'recurrent' has the gates g."),
    (LSTM, {"gates": (I, F, replace(G, kind="open"), O)}, "the gate 'g' must be learned in a cell with the update"),
    (
        SLSTM,
        {"gates": (OPEN, *SLSTM.gates[1:])},
        "the gate 'i' must be learned in a cell with the update 'exponential'.",
    ),
    (LSTM, {"gates": (I, F, G, replace(O, kind="coupled", complement="i"))}, "the coupled gate 'o' must be i or f,"),
    (
        LSTM,
        {"gates": (I, replace(COUPLED, complement="o"), G, O)},
        "the coupled gate 'f' must be i or f, and one minus",
    ),
    (
        LSTM,
        {"gates": (I, replace(COUPLED, complement="f"), G, O)},
        "the coupled gate 'f' must be i or f, and one minus",
    ),
    (LSTM, {"gates": (I, replace(COUPLED, complement=""), G, O)}, "the coupled gate 'f' must be i or f, and one minus"),
    (LSTM, {"gates": (OPEN, COUPLED, G, O)}, "the coupled gate 'f' must be i or f, and one minus the other, learned"),
    (LSTM, {"gates": (replace(I, peeps="after"), F, G, O)}, "the gate 'i' cannot see the new cell state: it is needed"),
    (LSTM, {"peephole": True, "options": frozenset()}, "the cell 'lstm' peeps but does not allow peepholes."),
    (CELLS["cifg"], {"sees": ("f",)}, "the cell 'cifg' can see only its learned gates, and each once."),
    (LSTM, {"sees": ("z",)}, "the cell 'lstm' can see only its learned gates, and each once."),
    (LSTM, {"sees": ("i", "i")}, "the cell 'lstm' can see only its learned gates, and each once."),
    (RNN, {"output_squash": "tanh"}, "a cell with the update 'recurrent' has the output_squash 'identity' and sees no"),
    (RNN, {"sees": ("g",)}, "a cell with the update 'recurrent' has the output_squash 'identity' and sees no gates."),
    (RNN, {"options": EVERY_OPTION}, "layer_norm, peephole, projection cannot be defined for a cell with the update"),
    (SLSTM, {"options": frozenset({"zoneout"})}, "zoneout cannot be defined for a cell with the update 'exponential'."),
    (
        SLSTM,
        {"gates": (replace(SLSTM.gates[0], squash="sigmoid"), *SLSTM.gates[1:])},
        "a cell with the update 'exponential' has the squash 'exp' for i and 'sigmoid' for f.",
    ),
    (LSTM, {"update": "subtractive"}, "update must be one of recurrent, additive, exponential, got 'subtractive'."),
    (LSTM, {"output_squash": "sin"}, "output_squash must be one of sigmoid, tanh, relu, identity, wide_sigmoid, "),
    (LSTM, {"gates": (replace(I, squash="sin"), F, G, O)}, "squash must be one of sigmoid, tanh, relu, identity, "),
    (
        LSTM,
        {"gates": (replace(I, kind="closed"), F, G, O)},
        "kind must be one of learned, open, coupled, got 'closed'.",
    ),
    (LSTM, {"options": frozenset({"dropout"})}, "dropout cannot be defined for a cell with the update 'additive'."),
]


@pytest.mark.parametrize(("cell", "changes", "text"), INVALID)
def test_a_row_that_contradicts_itself_is_refused(cell: Cell, changes: dict[str, Any], text: str):
    with pytest.raises(InputError, match=f"^{re.escape(text)}"):
        replace(cell, **changes)


def test_register_adds_a_row_once(table: dict[str, Cell]):
    cell = replace(LSTM, name="mine", gates=(O, G, F, replace(I, kind="coupled", complement="f")))
    assert register(cell) is cell
    assert CELLS["mine"] is cell
    assert variant("mine").cell is cell
    assert cell.gate_names == ("o", "g", "f")
    assert list(range(9)[cell.rows("f", 3)]) == [6, 7, 8]
    assert register(replace(cell)) == cell
    assert list(CELLS) == [*NAMES, "mine"]


def test_register_refuses_a_name_that_is_taken(table: dict[str, Cell]):
    with pytest.raises(InputError, match=re.escape("there is another cell named 'lstm'.")):
        register(replace(LSTM, output_squash="identity"))
    assert CELLS["lstm"] is LSTM


@pytest.mark.parametrize("name", ["LSTM", "", "gru", None, 3, LSTM])
def test_a_name_that_is_none_lists_those_there_are(name: Any):
    with pytest.raises(InputError) as caught:
        variant(name)
    assert str(caught.value) == f"cell must be one of {', '.join(NAMES)}, got {name!r}."


def test_a_gate_is_learned_and_blind_unless_it_says_otherwise():
    gate = Gate("i", "sigmoid", "input gate")
    assert (gate.kind, gate.complement, gate.peeps) == ("learned", "", None)


def test_spec_does_not_import_torch():
    code = "import sys, gatewise.spec; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["", "  ", "a\nb", 3])
def test_a_name_that_is_no_printable_text_is_refused(name: object):
    with pytest.raises(InputError, match="the name of a cell must be printable text"):
        replace(LSTM, name=name)  # pyright: ignore[reportArgumentType]

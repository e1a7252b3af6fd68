"""The cell table: complete, consistent, and free of torch."""

import subprocess
import sys

import pytest

from gatewise.spec import CELLS, LSTM, Cell


@pytest.mark.parametrize("cell", CELLS.values(), ids=lambda cell: cell.name)
def test_rows_of_the_gates_tile_the_weights_in_order(cell: Cell):
    hidden = 5
    covered = [row for name in cell.gate_names for row in range(100)[cell.rows(name, hidden)]]
    assert covered == list(range(len(cell.gates) * hidden))


@pytest.mark.parametrize("cell", CELLS.values(), ids=lambda cell: cell.name)
def test_every_gate_and_state_has_an_equation(cell: Cell):
    defined = [equation.split(" = ")[0] for equation in cell.equations]
    assert sorted(defined) == sorted((*cell.gate_names, *cell.states))
    for gate in cell.gates:
        equation = next(text for text in cell.equations if text.startswith(f"{gate.name} = "))
        assert equation.split(" = ")[1].startswith({"sigmoid": "σ(", "tanh": "tanh("}[gate.squash])


def test_an_unknown_gate_is_refused():
    with pytest.raises(ValueError, match="not in tuple"):
        LSTM.rows("z", 4)


def test_names_are_unique_and_key_the_table():
    assert all(CELLS[cell.name] is cell for cell in CELLS.values())


def test_spec_does_not_import_torch():
    code = "import sys, gatewise.spec; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

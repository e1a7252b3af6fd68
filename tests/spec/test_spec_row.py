"""A row of a registered cell: what its fields may be, and that a variant's text carries it whole."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from gatewise.errors import InputError
from gatewise.spec import CELLS, LSTM, Cell, Gate, Variant, parse_variant, register, variant
from gatewise.spec.cells import _table

I, F, G, O = LSTM.gates  # noqa: E741 - their names
MINE = replace(
    CELLS["fgr"],
    name="mine: «α»",
    title='two\nlines and a "',
    gates=(O, replace(G, squash="relu"), replace(F, peeps=None), I),
    sees=("o", "f"),
    output_squash="centred_sigmoid",
    peephole=False,
    options=frozenset({"peephole", "clip", "projection"}),
)


@pytest.fixture(autouse=True)
def _table_as_it_was() -> Iterator[None]:
    before = dict(_table)
    yield
    _table.clear()
    _table.update(before)


@pytest.mark.parametrize("options", [{}, {"peephole": True, "clip": 0.5, "proj_size": 2}], ids=str)
@pytest.mark.parametrize("later", [None, replace(LSTM, name=MINE.name)], ids=["unknown", "another"])
def test_the_text_of_a_registered_cell_is_read_without_the_table(options: dict[str, Any], later: Cell | None):
    register(MINE)
    chosen = variant(MINE.name, **options)
    del _table[MINE.name]
    if later:
        register(later)
    parse_variant.cache_clear()
    again = parse_variant(chosen.text)
    assert again == chosen
    assert again.cell == MINE
    assert again.cell.gate_names == ("o", "g", "f", "i")
    assert again.cell.states == ("h", "c", "o", "f")
    assert again.text == chosen.text
    assert "\n" not in chosen.text


def test_another_process_reads_the_text():
    text = Variant(MINE).text
    code = "import sys; from gatewise.spec import parse_variant; print(parse_variant(sys.argv[1]).text)"
    result = subprocess.run([sys.executable, "-c", code, text], capture_output=True, text=True, check=True)
    assert result.stdout == text + "\n"


@pytest.mark.parametrize("cell", CELLS)
def test_the_text_of_a_cell_of_the_table_has_its_name_only(cell: str):
    assert json.loads(variant(cell).text)["cell"] == cell
    assert json.loads(Variant(replace(CELLS[cell])).text)["cell"] == cell


def test_the_text_of_a_row_that_differs_from_the_tables_has_the_row():
    own = replace(LSTM, output_squash="identity")
    assert parse_variant(Variant(own).text).cell == own != CELLS[own.name]


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"sees": ["z"]}, InputError, "can see only its learned gates"),
        ({"options": []}, InputError, "clip is not defined for the cell 'mine"),
        ({"learned": []}, TypeError, "learned"),
    ],
)
def test_a_written_row_is_checked(changes: dict[str, Any], error: type[Exception], text: str):
    written = json.loads(Variant(MINE, clip=0.5).text)
    with pytest.raises(error, match=text):
        parse_variant(json.dumps(written | {"cell": written["cell"] | changes}))


def test_lists_become_what_cannot_be_changed():
    given: dict[str, Any] = {"gates": [I, F, G, O], "sees": ["i", "o"], "options": ["clip", "zoneout"]}
    cell = replace(LSTM, **given)
    assert (cell.gates, cell.sees, cell.options) == ((I, F, G, O), ("i", "o"), {"clip", "zoneout"})
    assert cell == replace(LSTM, gates=(I, F, G, O), sees=("i", "o"), options=frozenset({"clip", "zoneout"}))
    assert isinstance(hash(cell), int)


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"gates": I}, TypeError, "gates must be a tuple of Gate, got Gate."),
    ({"gates": {I, F, G, O}}, TypeError, "gates must be a tuple of Gate, got set."),
    ({"gates": ("i", "f", "g", "o")}, TypeError, "gates must hold Gate only, got str."),
    ({"gates": None}, TypeError, "gates must be a tuple of Gate, got NoneType."),
    ({"sees": "io"}, TypeError, "sees must be a tuple of str, got str."),
    ({"sees": (O,)}, TypeError, "sees must hold str only, got Gate."),
    ({"options": "clip"}, TypeError, "options must be a frozenset of str, got str."),
    ({"options": [1]}, TypeError, "options must hold str only, got int."),
    ({"title": 3}, TypeError, "title must be text, got int."),
    ({"paper": None}, TypeError, "paper must be text, got NoneType."),
    ({"gates": (replace(I, meaning=b"in"), F, G, O)}, TypeError, "meaning must be text, got bytes."),  # pyright: ignore[reportArgumentType]
    ({"gates": (Gate("i", "sigmoid", "in", peeps="never"), F, G, O)}, InputError, "peeps must be one of before, after"),  # pyright: ignore[reportArgumentType]
    ({"gates": (replace(I, peeps=""), F, G, O)}, InputError, "peeps must be one of before, after, got ''."),  # pyright: ignore[reportArgumentType]
]


@pytest.mark.parametrize(("changes", "error", "text"), REFUSED, ids=[text for _, _, text in REFUSED])
def test_a_field_of_another_type_is_refused(changes: dict[str, Any], error: type[Exception], text: str):
    with pytest.raises(error) as caught:
        replace(LSTM, **changes)
    assert type(caught.value) is error
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize("cell", ["x", None, Cell, I, variant()])
def test_only_cells_are_registered(cell: Any):
    before = dict(CELLS)
    with pytest.raises(TypeError, match=f"register takes a gatewise.spec.Cell, got {type(cell).__name__}"):
        register(cell)
    assert before == CELLS

"""Modules of registered cells in a process that does not know the cell, or knows another of its name."""

import copy
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from differentiated import assert_close, build, draw, gradients, leaves

from gatewise import to_torch
from gatewise.errors import InputError
from gatewise.spec import CELLS, LSTM, Cell, register
from gatewise.spec.cells import _table

I, F, G, O = LSTM.gates  # noqa: E741 - their names
NAME = "from-afar"


@pytest.fixture
def cell() -> Iterator[Cell]:
    yield register(replace(LSTM, name=NAME, gates=(O, G, F, I), output_squash="identity", peephole=True))
    del _table[NAME]


CODE = """
import pickle, sys, torch
from dataclasses import replace
from gatewise.spec import CELLS, register
folder, known, tests = sys.argv[1:]
sys.path.append(tests)
from differentiated import gradients
if known == "another":
    register(replace(CELLS["cifg"], name="from-afar"))
elif known == "as wide":
    register(replace(CELLS["lstm"], name="from-afar", peephole=True))
layer, x = pickle.load(open(folder + "/layer.pickle", "rb"))
x.requires_grad_()
program = torch.export.load(folder + "/layer.pt2").module()
results = []
for call in (layer, torch.compile(layer, backend="aot_eager", fullgraph=True), program):
    y, state = call(x, None)
    values = [y, *state]
    results += [part.detach() for part in values]
    results += gradients(values, [x])
torch.save(results, folder + "/results.pt")
"""


@pytest.mark.parametrize("known", ["nothing", "as wide"])
def test_a_pickled_module_and_a_program_compute_their_own_cell(cell: Cell, known: str, tmp_path: Path):
    layer = build(cell.name)
    x = draw(layer)[0]
    (tmp_path / "layer.pickle").write_bytes(pickle.dumps((layer, x)))
    torch.export.save(torch.export.export(layer, (x, None)), tmp_path / "layer.pt2")
    x = x.clone().requires_grad_()
    values = leaves(layer(x))
    expected = [*values, *gradients(values, [x])]
    subprocess.run([sys.executable, "-c", CODE, str(tmp_path), known, str(Path(__file__).parent)], check=True)
    results = torch.load(tmp_path / "results.pt")
    count = len(expected)
    assert len(results) == 3 * count
    for first in range(0, len(results), count):
        assert_close(results[first : first + count], expected)


def test_a_module_whose_cell_has_left_the_table(cell: Cell):
    layer = build(cell.name)
    expected = gradients(leaves(layer(draw(layer)[0])), layer.parameters())
    same = copy.deepcopy(layer)
    _table[NAME] = replace(CELLS["lstm"], name=NAME)
    compiled = torch.compile(same, backend="aot_eager", fullgraph=True)
    assert_close(gradients(leaves(compiled(draw(same)[0])), same.parameters()), expected)
    # Not taken for the vanilla cell that has its name now.
    with pytest.raises(InputError, match=f"torch has no cell '{NAME}'"):
        to_torch(layer)

"""docs/onnx.md: its Python runs, and its table of nodes is what is written."""

import re
from pathlib import Path
from typing import Any

import pytest

from gatewise.exchange.forms import form_of
from gatewise.spec import CELLS, variant

PAGE = (Path(__file__).parents[2] / "docs" / "onnx.md").read_text()


def test_the_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, names)
    assert set(names["state"]) == {"state.0.h", "state.0.c"}


def test_the_table_of_nodes_has_every_cell_once() -> None:
    rows = re.findall(r"^\| (`.*?) \| (LSTM|RNN|Scan)", PAGE, re.MULTILINE)
    told = {cell: kind for cells, kind in rows for cell in re.findall(r"`(.+?)`", cells)}
    forms = {cell: form_of(variant(cell)) for cell in CELLS}
    assert told == {cell: "Scan" if form is None else form.op for cell, form in forms.items()}

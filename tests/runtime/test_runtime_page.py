"""docs/runtime.md: every example of the page gives what it says."""

import doctest
import re
import shutil
from pathlib import Path

import pytest

from gatewise.format import load_model
from gatewise.runtime import Model
from gatewise.runtime.lines import Lines

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "runtime.md"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the page's models are once its examples have run."""
    shutil.copy(ROOT / "tests" / "format" / "examples" / "v1.safetensors", tmp_path / "forecaster.safetensors")
    monkeypatch.chdir(tmp_path)

    result = doctest.testfile(str(PAGE), module_relative=False)
    assert result.attempted > 25
    assert result.failed == 0
    return tmp_path


def test_the_examples_and_the_lines_of_the_protocol(folder: Path) -> None:
    table = re.findall(r"^\| `([^`]*)`.*\| `(\{[^`]*\})` \|$", PAGE.read_text(), re.MULTILINE)
    lines = Lines(Model(load_model(folder / "model.safetensors"), "0" * 64))
    assert len(table) == 4
    for given, answer in table:
        assert re.sub(r"\[.*\]", "[...]", lines.answer(given.encode())) == answer
    assert re.sub(r'r": ".*?"', 'r": "..."', lines.answer(b"anything else")) == '{"error": "...", "line": 5}'

"""docs/model-file.md against the code: what a page says that no test reads goes stale."""

import json
import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from gatewise.format import BLOCKS, FORMAT_VERSION, Conv1d, Embedding, LayerNorm, Linear, Lstm, Scaling
from gatewise.format.container import MAX_DEPTH, MAX_HEADER
from gatewise.format.fields import constraints
from gatewise.spec import BUILT_IN

PAGE = (Path(__file__).parents[2] / "docs" / "model-file.md").read_text(encoding="utf-8")
SECTIONS = {part.partition("\n")[0]: part for part in re.split(r"^#+ ", PAGE, flags=re.MULTILINE)}
EXAMPLE = Path(__file__).parent / "examples" / "v2-scaled.safetensors"


def _rows(section: str, head: str) -> list[list[str]]:
    """The rows of the table whose header starts so, without the marks of code."""
    table = section[section.index(f"| {head} |") :].partition("\n\n")[0]
    return [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]


def test_every_block_has_its_section() -> None:
    assert set(BLOCKS) <= set(SECTIONS)
    assert f"The model file, format {FORMAT_VERSION}" in SECTIONS


@pytest.mark.parametrize("kind", BLOCKS)
def test_fields_defaults_and_ranges(kind: str) -> None:
    defaults = {
        field.name: "" if field.default is MISSING else str(json.loads(json.dumps(field.default)))
        for field in fields(BLOCKS[kind])
    }
    words = {"True": "true", "False": "false", "None": "null"}
    accepted = {
        name: constraint.text.replace(", ".join(BUILT_IN), "CELLS")
        for name, constraint in constraints(BLOCKS[kind]).items()
    }
    stated = [row[:3] for row in _rows(SECTIONS[kind], "field")]
    assert stated == [[name, words.get(value, value), accepted[name]] for name, value in defaults.items()]


@pytest.mark.parametrize(
    "block", [Embedding(2, 3), Linear(2, 3), LayerNorm(2), Conv1d(2, 3, 4), Scaling(2)], ids=lambda block: block.kind
)
def test_weights(block) -> None:
    rows = _rows(SECTIONS[block.kind], "weight")
    assert [name for name, *_ in rows] == list(block.shapes())
    assert [shape.count(",") + 1 for _, shape, _ in rows] == [len(shape) for shape in block.shapes().values()]


def test_weights_of_the_lstm() -> None:
    every = {name for cell in BUILT_IN for name in Lstm(2, 3, cell=cell).shapes()}
    every |= set(Lstm(2, 3, peephole=True, layer_norm=True, proj_size=1, nonrecurrent_proj_size=1).shapes())
    every |= {"h_0_l0", "c_0_l0"} & set(Lstm(2, 3, learned_state=True).shapes())
    stated = set(re.findall(r"\w+_l\{k\}", SECTIONS["lstm"]))
    assert {name.replace("{k}", "0") for name in stated} == every


def test_numbers_of_the_container() -> None:
    assert f"{MAX_HEADER:,} bytes" in SECTIONS["What a reader refuses"]
    assert f"deeper than {MAX_DEPTH} levels" in SECTIONS["The description"]


def test_the_names_of_the_description() -> None:
    data = EXAMPLE.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    names = {row[0] for row in _rows(SECTIONS["The description"], "name")}
    assert names == set(json.loads(header["__metadata__"]["gatewise"]))


def test_the_check_of_the_digest_is_the_one_of_files(tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?)```", SECTIONS["The SHA-256"], re.DOTALL)
    assert code
    space: dict = {}
    exec(code[1], space)
    assert space["is_whole"](EXAMPLE)
    data, changed = EXAMPLE.read_bytes(), tmp_path / "changed"
    changed.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert not space["is_whole"](changed)

"""gatewise show: what a model file holds, for a person and as JSON; no torch, and nothing that commands a terminal."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_tools import refuses, succeeds

from architectures import with_weights
from gatewise.format import Linear, Lstm, ModelFile, describe, save_model

EXAMPLES = Path(__file__).parents[1] / "format" / "examples"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def _sections(text: str) -> dict[str, list[str]]:
    first, *others = text.rstrip("\n").split("\n\n")
    return {"": first.splitlines()} | {part.partition("\n")[0]: part.splitlines()[1:] for part in others}


def test_all_of_a_forecaster_is_told() -> None:
    path = EXAMPLES / "v1.safetensors"
    sections = _sections(succeeds("show", path).raw_out)
    assert list(sections) == ["", "blocks", "settings", "training"]
    assert [line.split(maxsplit=1) for line in sections[""]] == [
        [str(path)],
        ["format", "1"],
        ["task", "forecast"],
        ["weights", "446 in 3 blocks"],
        ["bytes", f"{path.stat().st_size:,}"],
        ["vocabulary", "none"],
        ["sha256", describe(path)["sha256"]],
    ]
    assert [line.split(maxsplit=3) for line in sections["blocks"]] == [
        ["weights"],
        ["0", "lstm", "416", "input_size=10, hidden_size=4, num_layers=2, peephole=false"],
        ["1", "linear", "30", "in_features=4, out_features=6"],
        ["2", "quantile_mix", "0", "candidates=3, quantiles=3"],
    ]
    settings = dict(line.split(maxsplit=1) for line in sections["settings"])
    assert settings["columns"] == "future=open, id=unique_id, past=none, static=none, target=y, time=ds"
    assert {settings[name] for name in ("frequency", "horizon", "levels")} == {"1h", "4", "0.1, 0.5, 0.9"}
    assert dict(line.split(maxsplit=1) for line in sections["training"])["best_epoch"] == "1"


def test_a_vocabulary_and_options_are_told() -> None:
    text = succeeds("show", EXAMPLES / "v2-symbols.safetensors").raw_out
    assert "  vocabulary  6 symbols: 'a' 'b' 'c' ' ' 'é' '\\n'\n" in text
    assert "num_layers=2, cell=peephole, bidirectional=true, peephole=true\n" in text
    assert _sections(text)["training"] == ["  none"]
    assert "in_features=3, out_features=2, bias=false" in succeeds("show", EXAMPLES / "v2-scaled.safetensors").out


def test_the_weights_of_the_blocks_are_those_of_the_file(path: Path) -> None:
    model = with_weights((Lstm(3, 20, 2, bidirectional=True), Linear(40, 1)))
    save_model(model, path)
    sizes = [sum(value.size for name, value in model.weights.items() if name[0] == index) for index in "01"]
    told = describe(path)
    assert [block["weights"] for block in told["blocks"]] == sizes
    assert told["weights"] == sum(sizes)
    assert f"{sum(sizes):,} in 2 blocks" in succeeds("show", path).out
    assert f"0 lstm {sizes[0]:,} " in succeeds("show", path).out


def test_json_is_the_whole_description(trained: Path) -> None:
    told = json.loads(succeeds("show", trained / "run", "--json").raw_out)
    assert told == describe(trained / "run") == describe(trained / "run" / "model.safetensors")
    assert told["settings"]["horizon"] == 4
    assert told["file"] == str(trained / "run" / "model.safetensors")


def test_long_values_are_cut_and_many_items_counted(path: Path) -> None:
    settings = {
        "long": "x" * 1000,
        "many": list(range(100)),
        "nested": {"a": [1, 2], "b": [3], "c": {}, "d": None},
        "deep": [[[[1, 2], 3], 4], 5],
    }
    save_model(ModelFile("t", (Linear(1, 1, bias=False),), {"0.weight": np.ones((1, 1), "f4")}, settings), path)
    told = dict(line.split(maxsplit=1) for line in _sections(succeeds("show", path).raw_out)["settings"])
    assert told == {
        "deep": "(((1, 2), 3), 4), 5",
        "long": "x" * 99 + "…",
        "many": "0, 1, 2, 3, 4, 5, 6, 7, … (92 more)",
        "nested": "a=(1, 2), b=3, c=none, d=null",
    }


def test_what_a_file_holds_cannot_command_the_terminal(path: Path) -> None:
    bad = "\x1b[2J\x07\r\n\u202e\ud800"
    weights = {"0.weight": np.ones((1, 1), np.float32)}
    save_model(ModelFile(bad, (Linear(1, 1, bias=False),), weights, {bad: bad}, {bad: [bad]}, (bad,)), path)
    text = succeeds("show", path).raw_out
    assert "\\x1b[2J\\x07\\r\\n\\u202e\\ud800" in text
    assert text.replace("\n", "").isprintable()
    assert json.loads(succeeds("show", path, "--json").raw_out)["task"] == bad


def test_what_is_no_model_is_refused(path: Path) -> None:
    assert refuses("show", path) == f"model file {path} does not exist: give a run folder or a model file."
    assert refuses("show", path.parent) == f"model file {path} does not exist: give a run folder or a model file."
    path.write_bytes(b"\x80\x04.")
    assert "is a pickle, which can run code" in refuses("show", path)
    path.write_bytes((EXAMPLES / "v1.safetensors").read_bytes()[:-1])
    assert "is damaged" in refuses("show", path, "--json")


def test_it_runs_without_torch_and_polars() -> None:
    script = (
        "import sys\nfrom gatewise.cli import main\n"
        f"assert main(['show', {str(EXAMPLES / 'v2-symbols.safetensors')!r}]) == 0\n"
        "assert 'gatewise.format.file' in sys.modules\n"
        "print(sorted({'torch', 'polars', 'pandas', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\n[]\n")

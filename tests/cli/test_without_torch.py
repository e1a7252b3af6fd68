"""What is shipped needs no torch: forecasts, scores and streams in processes where it cannot be imported."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_tools import succeeds

from architectures import with_weights
from gatewise import runtime
from gatewise.format import Linear, Lstm, save_model
from gatewise.runtime.saved import read_states

BLOCKED = """
import sys

class Missing:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(f"{{name}} is not there", name=name)

sys.meta_path.insert(0, Missing())
from gatewise.cli import main
sys.exit(main())
"""


def without(names: list[str], folder: Path, *words: str, lines: str = "") -> str:
    """The output of a command in a process that cannot import some packages."""
    code = BLOCKED.format(names=names)
    result = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=folder, input=lines, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


@pytest.mark.parametrize("name", ["trained", "shops"])
def test_predict(name: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(name)
    table = next(folder.glob("*.csv")).name
    forecast = without(["torch"], folder, "predict", "run", table)
    assert forecast == (folder / "run" / "forecast.csv").read_text()


def test_evaluate(trained: Path) -> None:
    words = ("evaluate", "run", "table.csv", "--json", "-")
    here = succeeds(words[0], trained / "run", trained / "table.csv", *words[3:]).raw_out
    assert json.loads(without(["torch"], trained, *words)) == json.loads(here)


def test_stream(tmp_path: Path) -> None:
    save_model(with_weights((Lstm(2, 4), Linear(4, 1))), tmp_path / "model.safetensors")
    x = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    lines = "".join(f'{{"x": {row}, "id": "a"}}\n' for row in x.tolist())
    out = without(["torch", "polars"], tmp_path, "stream", "model.safetensors", "--state", "states", lines=lines)
    y = np.array([json.loads(line)["y"] for line in out.splitlines()]).astype(np.float32)
    np.testing.assert_array_equal(y, runtime.load(tmp_path).run(x))
    assert set(read_states(tmp_path / "states")) == {"a"}


@pytest.mark.parametrize(
    ("missing", "words", "extra"),
    [
        ("tyro", "predict run table.csv", "cli"),
        ("polars", "predict run table.csv", "cli"),
        ("torch", "fit t.csv", "train"),
    ],
)
def test_what_is_missing_is_named_with_its_extra(trained: Path, missing: str, words: str, extra: str) -> None:
    (trained / "t.csv").write_text("ds,y\n" + "".join(f"{i},{i % 7}\n" for i in range(200)))
    code = BLOCKED.format(names=[missing])
    command = [sys.executable, "-c", code, *words.split(), *(["--horizon", "3"] if missing == "torch" else [])]
    result = subprocess.run(command, cwd=trained, capture_output=True, text=True, timeout=120, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"gatewise: this command needs {missing}: pip install 'gatewise[{extra}]'\n"

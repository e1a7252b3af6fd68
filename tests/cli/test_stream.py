"""gatewise stream as a process: an answer for every line as it comes, exit codes, Ctrl-C."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli_tools import refuses

from architectures import with_weights
from gatewise.format import Linear, Lstm, save_model
from gatewise.runtime.saved import read_states

GATEWISE = shutil.which("gatewise", path=str(Path(sys.executable).parent)) or "gatewise"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(with_weights((Lstm(2, 4), Linear(4, 1))), tmp_path / "model.safetensors")
    return tmp_path


def process(folder: Path, *words: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    words = (GATEWISE, "stream", "model.safetensors", *words)
    return subprocess.Popen(words, cwd=folder, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_an_answer_comes_before_the_next_line_is_sent(folder: Path) -> None:
    with process(folder) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        for line, keys in (("[1, 2]", ["y"]), ('{"x": [1, 2], "id": "a"}', ["id", "y"]), ("[1]", ["error", "line"])):
            running.stdin.write(line + "\n")
            running.stdin.flush()
            assert sorted(json.loads(running.stdout.readline())) == keys
        out, err = running.communicate(timeout=60)
    assert (running.returncode, out, err) == (1, "", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_waits_keeps_the_states(folder: Path, number: signal.Signals) -> None:
    with process(folder, "--state", "states") as running:
        assert running.stdin is not None
        assert running.stdout is not None
        running.stdin.write('{"x": [1, 2], "id": "a"}\n')
        running.stdin.flush()
        running.stdout.readline()
        running.send_signal(number)
        # Standard input stays open: the signal alone ends it.
        assert running.wait(timeout=60) == 128 + number
        assert running.stderr is not None
        assert running.stderr.read() == ""
    assert set(read_states(folder / "states")) == {"a"}


def test_what_cannot_stream_is_refused(trained: Path, folder: Path) -> None:
    assert "this model cannot go step by step" in refuses("stream", trained / "run")
    assert "max_streams must be at least 1, not 0" in refuses("stream", folder, "--max-streams", 0)
    (folder / "states").write_bytes(b"something")
    assert "is not a file of streams' states" in refuses("stream", folder, "--state", folder / "states")

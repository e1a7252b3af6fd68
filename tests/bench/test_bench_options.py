"""What benches refuse on their command lines, before they measure anything."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from bench.options import destination

from bench import half_width, runtime, samples

BOTH = [half_width.main, samples.main]


@pytest.mark.parametrize("main", BOTH)
@pytest.mark.parametrize(
    "wrong",
    [
        ("--threads", "0", "the cases are for 1, 2, got '0'"),
        ("--threads", "1,x", "the cases are for 1, 2, got '1,x'"),
        ("--rounds", "0", "must be at least 1"),
        ("--rounds", "x", "invalid positive value: 'x'"),
    ],
)
def test_a_wrong_number(
    main: Callable[[], object],
    wrong: tuple[str, str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    option, value, told = wrong
    monkeypatch.setattr(sys, "argv", ["bench", option, value])
    with pytest.raises(SystemExit):
        main()
    assert f"argument {option}: {told}" in capsys.readouterr().err


@pytest.mark.parametrize("main", [half_width.main, runtime.main])
def test_a_file_that_cannot_be_written(
    main: Callable[[], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "file").write_text("kept")
    monkeypatch.setattr(sys, "argv", ["bench", "--json", str(tmp_path / "file" / "new.json")])
    with pytest.raises(SystemExit):
        main()
    assert "new.json cannot be written: " in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "kept"


def test_a_destination_is_as_it_was(tmp_path: Path):
    (tmp_path / "old.json").write_text("kept")
    assert destination(str(tmp_path / "old.json")).read_text() == "kept"
    assert not destination(str(tmp_path / "folder" / "new.json")).exists()

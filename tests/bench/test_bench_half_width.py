"""The bench of bfloat16: what it compares is the same computation, and its report; nothing here is timed."""

import json
import sys
from pathlib import Path

import pytest
import torch
from bench.half_width import SINGLE, TORCH

from bench import half_width


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half_width, "STEPS", 3)
    monkeypatch.setattr(half_width, "SECONDS", 0.0)
    monkeypatch.setattr(half_width, "SIZES", ((32, 128), (2, 8)))


def test_all_compute_the_same():
    for what, runs in half_width.works(3, 8).items():
        results = {name: run() for name, run in runs.items()}
        assert not half_width.differing(results), what
        assert ("weight_hh_l0" in results["ours"]) == what.startswith("training")
        assert results["ours"]["y"].dtype == torch.bfloat16


@pytest.mark.parametrize("who", ["ours", SINGLE, TORCH])
@pytest.mark.parametrize("value", [0.1, torch.nan])
def test_what_differs_is_refused(who: str, value: float):
    (runs,) = (runs for what, runs in half_width.works(3, 8).items() if what.startswith("training"))
    results = {name: run() for name, run in runs.items()}
    results[who] = results[who] | {"weight_hh_l0": results[who]["weight_hh_l0"] + value}
    assert half_width.differing(results).startswith(f"weight_hh_l0 of {who} is off by ")
    with pytest.raises(SystemExit, match=f"refused: a work: weight_hh_l0 of {who} is off by"):
        half_width.measure("a work", {name: lambda own=own: own for name, own in results.items()}, 1, 1, "")


def test_report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "new" / "half_width.json"
    monkeypatch.setattr(sys, "argv", ["half_width", "--threads", "1", "--rounds", "1", "--json", str(path)])
    half_width.main()
    report, printed = json.loads(path.read_text()), capsys.readouterr().out
    assert len(report["rows"]) == 2 * 3 * 2
    assert [(row["what"], row["against"]) for row in report["rows"] if row["wanted"]] == [
        ("inference, B, H = 32, 128, 1 thread", SINGLE)
    ]
    for row in report["rows"]:
        end = f"{row['wanted']} | {'yes' if row['ratio'] >= 1.7 else '**no**'} |" if row["wanted"] else " |  |"
        (line,) = (each for each in printed.splitlines() if each.startswith(f"| {row['what']} | {row['against']} |"))
        assert line.endswith(end)
    for error in report["errors"]:
        assert 0 < min(error["ours"], error["rounded"], error["torch"]) < 0.01
        assert f"| {error['what']} | {error['ours']:.1e} | {error['rounded']:.1e} |" in printed

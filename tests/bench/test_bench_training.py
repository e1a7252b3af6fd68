"""The training bench's plumbing; nothing here is timed for its figures."""

import json
import sys
from pathlib import Path

import polars as pl
import pytest
import torch
from bench.training_loop import PIECES, cost, table

from bench import hourly, training, training_ranks


@pytest.fixture
def m4(tmp_path: Path) -> Path:
    """A small table in the manner of M4 hourly: whole numbers for the time, test rows that follow."""
    df = table(3, 400).with_columns(ds=pl.int_range(1, 401, dtype=pl.Int64).over("unique_id"))
    df.filter(pl.col("ds") <= 394).write_parquet(tmp_path / "train.parquet")
    df.filter(pl.col("ds") > 394).write_parquet(tmp_path / "test.parquet")
    return tmp_path


def test_the_pieces_make_a_step():
    found = cost(2, 30, 4, 20)
    assert tuple(found.pieces) == PIECES
    assert min(found.pieces.values()) > 0
    assert 0 < found.network < found.whole < 2 * sum(found.pieces.values())
    assert found.spread[0] <= found.share <= found.spread[1] < 1


def test_our_side_of_m4_hourly(m4: Path):
    task = {
        "folder": str(m4),
        "horizon": 6,
        "length": 54,
        "season": 24,
        "windows": 4,
        "layers": 2,
        "hidden": 3,
        "steps": 100,
    }
    result = hourly.trained(task | {"threads": torch.get_num_threads()})
    assert result["seconds"] > 0
    assert result["processors"] > 0
    # Every row of the test was forecast, better than by naught (200 %) and worse than the noise allows.
    assert 1 < result["smape"] < 40
    with pytest.raises(ValueError, match="epochs of 100"):
        hourly.trained(task | {"steps": 150, "threads": 1})


def test_smape_by_hand():
    y, forecast = (pl.Series(values).to_numpy() for values in ([1.0, 2.0], [3.0, 2.0]))
    assert hourly.smape(y, forecast) == 50.0


def test_one_process_tells_its_step(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys, "argv", ["training_ranks", "2", "30", "4", "20"])
    training_ranks.main()
    found = json.loads(capsys.readouterr().out)
    assert min(found["seconds"], found["processors"]) > 0


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["training", *words])
    training.main()


def test_what_cannot_run_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    run(monkeypatch, "--cases", "hourly")
    assert "hourly: left out, no interpreter that has neuralforecast was named" in capsys.readouterr().out
    run(monkeypatch, "--cases", "hourly", "--neuralforecast", "python", "--m4", str(tmp_path))
    assert f"hourly: left out, {tmp_path} has no train.parquet (--m4)." in capsys.readouterr().out


def test_turns_and_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], m4: Path):
    asked: list[tuple[str, dict[str, int]]] = []

    def process(command: list[str], threads: int, task: str) -> training.Said:
        ours = command[1] == "-m"
        asked.append(("ours" if ours else "theirs", json.loads(task) | {"threads asked": threads}))
        return {"seconds": 10.0 if ours else 15.0, "processors": 19.0, "smape": 12.3, "process": 20.0, "others": 0.5}

    monkeypatch.setattr("bench.training._process", process)
    path = m4 / "new" / "training.json"
    run(
        monkeypatch, "--cases", "hourly", "--neuralforecast", "p", "--m4", str(m4), "--rounds", "2", "--json", str(path)
    )
    assert [who for who, _ in asked] == ["ours", "theirs", "theirs", "ours"] * 2
    assert [task["hidden"] for _, task in asked] == [32] * 4 + [128] * 4
    assert all(task["threads asked"] == task["threads"] == 2 for _, task in asked)
    printed = capsys.readouterr().out
    for hidden, verdict in ((32, "≥ 2 | **no** |"), (128, "≥ 1.5 | yes |")):
        work = f"| M4 hourly, table to model, 500 steps, H = {hidden}, 2 threads | neuralforecast's LSTM |"
        assert f"{work} 10 | 15 | 1.50 (1.50–1.50) | {verdict}" in printed
    assert (
        "- H = 32, gatewise: 10 s (19 s of processors), sMAPE 12.30; whole process 20.0 s, others used 0.50 cores"
        in printed
    )
    assert len(json.loads(path.read_text())["rows"]) == 2


def test_a_process_that_fails_is_told():
    with pytest.raises(SystemExit, match=r"(?s)ended with status 3:.*a reason"):
        training._process([sys.executable, "-c", "import sys; print('a reason', file=sys.stderr); sys.exit(3)"], 1, "")

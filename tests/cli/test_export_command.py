"""``gatewise export``: a run as an ONNX file."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import polars as pl
import pytest
from cli_tools import command, refuses, succeeds

from gatewise.data import calendar_features
from gatewise.data.frequency import Frequency


def test_a_run_forecasts_without_gatewise(trained: Path, tmp_path: Path) -> None:
    target = tmp_path / "m.onnx"
    result = succeeds("export", trained / "run", "-o", target)
    assert (result.out, result.err) == ("", f"{target} ({target.stat().st_size:,} bytes)")
    succeeds("predict", trained / "run", trained / "table.csv", "-o", tmp_path / "forecast.csv")
    expected = pl.read_csv(tmp_path / "forecast.csv")
    history = pl.read_csv(trained / "table.csv", try_parse_dates=True)
    ahead = pl.read_csv(tmp_path / "forecast.csv", try_parse_dates=True)
    session = onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
    for name in ("a", "b"):
        own = history.filter(unique_id=name)
        times = pl.concat([own["ds"].tail(12), ahead.filter(unique_id=name)["ds"]])
        # The model has its window of 12 and a calendar of the hours and the days of the week.
        calendar = calendar_features(times, Frequency("1h"))[0][None, :, :4]
        feeds = {"y": own["y"].to_numpy()[None], "calendar": calendar}
        (forecast,) = session.run(["forecast"], feeds)
        wanted = expected.filter(unique_id=name).select("q0.1", "q0.5", "q0.9").to_numpy()
        np.testing.assert_allclose(np.asarray(forecast)[0], wanted, rtol=0, atol=1e-4)


def test_the_options_are_not_for_forecasters(trained: Path, tmp_path: Path) -> None:
    for word in ("--lengths", "--time-first"):
        text = refuses("export", trained / "run", "-o", tmp_path / "m.onnx", word)
        assert text.endswith("its graph has no layout and no lengths to choose.")
    assert not list(tmp_path.iterdir())


def test_what_is_no_model_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"what was there")
    assert "does not exist" in refuses("export", tmp_path / "absent", "-o", tmp_path / "m.onnx")
    (tmp_path / "other").write_bytes(b"\x80\x04K\x01.")
    assert "is a pickle" in refuses("export", tmp_path / "other", "-o", tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").read_bytes() == b"what was there"


def test_a_target_is_needed() -> None:
    assert command("export", "runs/data").code == 2


def test_help_tells_the_options() -> None:
    text = succeeds("export", "--help").out
    for word in ("--output", "-o", "--lengths", "--time-first", "gatewise export runs/data -o model.onnx"):
        assert word in text


def test_without_onnx_the_extra_is_named(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    text = refuses("export", trained / "run", "-o", tmp_path / "m.onnx")
    assert text == "ONNX files need onnx: pip install 'gatewise[onnx]'"


def test_it_needs_no_torch(trained: Path, tmp_path: Path) -> None:
    """An engineer's machine need not have it."""
    words = ["export", str(trained / "run"), "-o", str(tmp_path / "m.onnx")]
    code = f"import sys; from gatewise.cli import main; main({words!r}); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)
    assert onnx.load(tmp_path / "m.onnx").producer_name == "gatewise"

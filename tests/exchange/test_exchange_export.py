"""Every cell with every option, written and run by onnxruntime, against our layer."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from exchange_tools import CASES, Case, D, H, assert_close, draw_state, named, operators, run, session
from torch import nn

from gatewise import LSTM, LSTMCell, export_onnx
from gatewise.errors import InputError

SIZES = [(7, 3), (1, 1), (4, 9)]
"""T and B; all through one session."""


def check(layer: LSTM, model, steps: int, rows: int, *, lengths: bool, state: bool) -> None:
    x = torch.randn(rows, steps, D) if layer.batch_first else torch.randn(steps, rows, D)
    counts = [(steps, 0, steps - 1, 1)[row % 4] for row in range(rows)]
    start = draw_state(layer, rows)
    feeds = {"x": x} | (named(start) if state else {}) | ({"lengths": np.array(counts, np.int32)} if lengths else {})
    with torch.no_grad():
        y, final = layer(x, tuple(start.values()) if state else None, lengths=counts if lengths else None)
    results = run(model, feeds)
    assert results.keys() == {"y", *(f"state_out.0.{name}" for name in start)}
    assert_close(results["y"], y, "y")
    for name, part in zip(start, final, strict=True):
        assert_close(results[f"state_out.0.{name}"], part, name)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_onnxruntime(case: Case, tmp_path: Path) -> None:
    for batch_first, lengths in ((False, False), (True, True)):
        layer = case.layer(batch_first=batch_first)
        export_onnx(layer, tmp_path / "m.onnx", lengths=lengths)
        model = session(tmp_path / "m.onnx")
        for steps, rows in SIZES:
            for state in (False, True):
                check(layer, model, steps, rows, lengths=lengths, state=state)


@pytest.mark.parametrize("cell", ["lstm", "nig", "fgr", "slstm"])
def test_every_opset_is_run(cell: str, tmp_path: Path) -> None:
    layer = Case(cell, {"num_layers": 2}).layer()
    for opset in range(17, 23):
        export_onnx(layer, tmp_path / "m.onnx", opset=opset, lengths=True)
        assert [entry.version for entry in onnx.load(tmp_path / "m.onnx").opset_import] == [opset]
        check(layer, session(tmp_path / "m.onnx"), 5, 3, lengths=True, state=True)


@pytest.mark.parametrize("case", [Case("peephole", {"num_layers": 2}), Case("slstm", {}), Case("fgr", {})], ids=str)
def test_a_stream_step_by_step_is_the_whole(case: Case, tmp_path: Path) -> None:
    layer = case.layer(batch_first=True)
    export_onnx(layer, tmp_path / "m.onnx")
    model = session(tmp_path / "m.onnx")
    x = torch.randn(2, 6, D).numpy()
    whole = run(model, {"x": x})
    state, parts = {}, []
    for t in range(x.shape[1]):
        results = run(model, {"x": x[:, t : t + 1]} | state)
        parts.append(results.pop("y"))
        state = {name.replace("state_out", "state"): value for name, value in results.items()}
    assert_close(np.concatenate(parts, 1), whole["y"])
    for name, value in state.items():
        assert_close(value, whole[name.replace("state", "state_out")], name)


def test_a_layer_is_one_node_wherever_onnx_can_say_it(tmp_path: Path) -> None:
    nodes = {}
    for case in CASES:
        export_onnx(case.layer(), tmp_path / "m.onnx")
        found = [kind for kind in operators(tmp_path / "m.onnx") if kind in {"LSTM", "RNN", "Scan"}]
        layers = case.arguments.get("num_layers", 1)
        directions = 1 + case.arguments.get("bidirectional", False)
        assert len(found) == layers * (directions if "Scan" in found else 1)
        nodes[str(case)] = found[0]
    plain = {name: kind for name, kind in nodes.items() if "layer_norm" not in name and "proj" not in name}
    # A gate that is always open has a large bias, which clipping at 0.3 would close.
    scanned = {name for name in plain if name.startswith(("fgr", "slstm"))}
    scanned |= {f"{cell}-clip=0.3" for cell in ("lstm-1997", "nig", "nfg", "nog")}
    assert {name for name, kind in plain.items() if kind == "Scan"} == scanned
    assert {kind for name, kind in plain.items() if name.startswith("rnn")} == {"RNN"}
    assert {kind for name, kind in nodes.items() if name not in plain} == {"Scan"}


def test_a_row_without_steps_keeps_its_state(tmp_path: Path) -> None:
    layer = Case("lstm", {}).layer()
    export_onnx(layer, tmp_path / "m.onnx", lengths=True)
    start = draw_state(layer, 2)
    feeds = {"x": torch.randn(3, 2, D), "lengths": np.array([0, 3], np.int32)} | named(start)
    results = run(session(tmp_path / "m.onnx"), feeds)
    for name, part in start.items():
        assert (results[f"state_out.0.{name}"][:, 0] == part[:, 0].numpy()).all()
        assert (results[f"state_out.0.{name}"][:, 1] != part[:, 1].numpy()).any()


def test_what_stands_in_the_padding_does_not_matter(tmp_path: Path) -> None:
    for cell in ("lstm", "slstm"):
        layer = Case(cell, {"bidirectional": True}).layer()
        export_onnx(layer, tmp_path / "m.onnx", lengths=True)
        x = torch.randn(4, 2, D)
        feeds = {"x": x, "lengths": np.array([2, 4], np.int32)}
        clean = run(session(tmp_path / "m.onnx"), feeds)["y"]
        x[2:, 0] = torch.nan
        dirty = run(session(tmp_path / "m.onnx"), feeds)["y"]
        assert (clean == dirty).all()


@pytest.mark.parametrize("module", [nn.LSTM(D, H, 2, bidirectional=True), nn.RNN(D, H, nonlinearity="relu")])
def test_torchs_own_layers_are_written_too(module: nn.Module, tmp_path: Path) -> None:
    export_onnx(module, tmp_path / "m.onnx")
    x = torch.randn(4, 2, D)
    assert_close(run(session(tmp_path / "m.onnx"), {"x": x})["y"], module(x)[0])


def test_the_layout_may_be_another_than_the_layers(tmp_path: Path) -> None:
    layer = Case("lstm", {}).layer()
    x = torch.randn(4, 2, D)
    export_onnx(layer, tmp_path / "m.onnx", batch_first=True)
    model = session(tmp_path / "m.onnx")
    assert [(item.name, item.shape) for item in model.get_inputs()] == [("x", ["batch", "time", D])]
    assert_close(run(model, {"x": x.transpose(0, 1).contiguous()})["y"], layer(x)[0].transpose(0, 1))


def test_saturated_gates(tmp_path: Path) -> None:
    for cell in ("lstm", "peephole", "nfg", "lstm-1997", "slstm", "fgr"):
        layer = Case(cell, {}).layer()
        with torch.no_grad():
            layer.get_parameter("weight_ih_l0").mul_(100)
        export_onnx(layer, tmp_path / "m.onnx")
        check(layer, session(tmp_path / "m.onnx"), 9, 4, lengths=False, state=False)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (LSTM(D, H, zoneout=0.1), "zoneout cannot be written"),
        (nn.Linear(2, 3), "not Linear"),
        (LSTMCell(2, 3), "not LSTMCell"),
    ],
)
def test_what_cannot_be_written_is_named(module: nn.Module, reason: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=reason):
        export_onnx(module, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("opset", [16, 23, 17.0, "17", True])
def test_other_opsets_are_refused(opset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="opset must be a whole number from 17 to 22"):
        export_onnx(LSTM(D, H), tmp_path / "m.onnx", opset=opset)
    assert not list(tmp_path.iterdir())


def test_a_file_that_fails_its_check_does_not_take_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.onnx").write_bytes(b"what was there")

    def broken(*_: object, **__: object) -> None:
        raise onnx.checker.ValidationError("no")

    monkeypatch.setattr(onnx.checker, "check_model", broken)
    with pytest.raises(onnx.checker.ValidationError):
        export_onnx(LSTM(D, H), tmp_path / "m.onnx")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"what was there"]

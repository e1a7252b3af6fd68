"""What was written by us is read by us: the same layer, its states, its lengths, to the bit."""

from pathlib import Path

import pytest
import torch
from exchange_tools import CASES, Case, D, assert_close, draw_state, operators
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatewise import LSTM, export_onnx, from_onnx
from gatewise.errors import InputError
from gatewise.exchange.forms import form_of

SAID = [case for case in CASES if form_of(case.layer().variant) is not None]


def check(layer: LSTM, path: Path, *, steps: int, rows: int) -> LSTM:
    back = from_onnx(path)
    assert back.batch_first is layer.batch_first
    lstm = back.network.lstm()
    x = torch.randn(rows, steps, D) if layer.batch_first else torch.randn(steps, rows, D)
    lengths = [(steps, 0, 1)[row % 3] for row in range(rows)]
    for state in (None, tuple(draw_state(layer, rows).values())):
        expected, final = layer(x, state, lengths=lengths)
        output, (after,) = back(x, None if state is None else [state], lengths=lengths)
        assert torch.equal(output, expected)
        assert all(torch.equal(a, b) for a, b in zip(after, final, strict=True))
    return lstm


@pytest.mark.parametrize("case", SAID, ids=str)
def test_a_layer_comes_back(case: Case, tmp_path: Path) -> None:
    for batch_first, lengths in ((False, False), (True, True)):
        layer = case.layer(batch_first=batch_first)
        export_onnx(layer, tmp_path / "m.onnx", lengths=lengths)
        lstm = check(layer, tmp_path / "m.onnx", steps=5, rows=4)
        same = ("hidden_size", "num_layers", "bidirectional", "clip", "peephole", "residual", "learned_state")
        assert [getattr(lstm, name) for name in same] == [getattr(layer, name) for name in same]
        # A table has several names for some cells, and an open gate may need the biases of the node.
        alike = {"np": "lstm", "lstm": "lstm", "peephole": "lstm"}
        assert alike.get(lstm.cell, lstm.cell) == alike.get(layer.cell, layer.cell)


def test_what_was_read_is_written_again(tmp_path: Path) -> None:
    layer = Case("cifg", {"num_layers": 2, "bidirectional": True}).layer()
    export_onnx(layer, tmp_path / "first.onnx")
    export_onnx(from_onnx(tmp_path / "first.onnx"), tmp_path / "second.onnx")
    assert operators(tmp_path / "first.onnx") == operators(tmp_path / "second.onnx")
    check(layer, tmp_path / "second.onnx", steps=4, rows=2)


@settings(deadline=None, derandomize=True, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cell=st.sampled_from(["rnn", "rnn-relu", "lstm", "peephole", "niaf", "noaf", "cifg", "nig", "lstm-1997"]),
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 4)),
    flags=st.fixed_dictionaries({name: st.booleans() for name in ("bidirectional", "learned_state", "batch_first")}),
    clip=st.none() | st.floats(40, 1e4, width=32),
)
def test_any_layer_comes_back(tmp_path: Path, cell, sizes, flags, clip) -> None:
    inputs, hidden, layers = sizes
    torch.manual_seed(1)
    layer = LSTM(inputs, hidden, layers, cell=cell, clip=clip, **flags)
    export_onnx(layer, tmp_path / "m.onnx")
    back = from_onnx(tmp_path / "m.onnx")
    x = torch.randn(3, 2, inputs)
    assert torch.equal(back(x)[0], layer(x)[0])
    assert back.network.lstm().num_layers == layers


def test_a_stream_goes_on_from_its_states(tmp_path: Path) -> None:
    layer = Case("lstm", {"num_layers": 2}).layer(batch_first=True)
    export_onnx(layer, tmp_path / "m.onnx")
    back = from_onnx(tmp_path / "m.onnx")
    x = torch.randn(2, 5, D)
    whole, states = back(x)
    state, parts = None, []
    for t in range(5):
        part, state = back(x[:, t : t + 1], state)
        parts.append(part)
    assert torch.equal(torch.cat(parts, 1), whole)
    assert state is not None
    assert torch.equal(state[0].c, states[0].c)
    with pytest.raises(InputError, match="one entry for each of 1 stacks, got 2"):
        back(x, [None, None])


def test_a_model_that_was_read_can_be_trained(tmp_path: Path) -> None:
    layer = Case("lstm", {}).layer()
    export_onnx(layer, tmp_path / "m.onnx")
    back = from_onnx(tmp_path / "m.onnx")
    x = torch.randn(4, 2, D)
    back(x)[0].sum().backward()
    layer(x)[0].sum().backward()
    assert_close(back.network.lstm().weight_hh_l0.grad, layer.weight_hh_l0.grad)

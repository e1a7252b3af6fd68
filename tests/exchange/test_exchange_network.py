"""Networks of all blocks, written and run by onnxruntime, and read back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from exchange_tools import assert_close, run, session

from gatewise import export_onnx, from_onnx
from gatewise.errors import InputError
from gatewise.exchange import export_blocks, import_blocks
from gatewise.format import (
    Block,
    Conv1d,
    Embedding,
    LayerNorm,
    Linear,
    Lstm,
    ModelFile,
    QuantileMix,
    Scaling,
    save_model,
)
from gatewise.models import from_file
from gatewise.runtime import Model

NETWORKS: dict[str, list[Block]] = {
    "linear": [Linear(3, 2)],
    "tagger": [Embedding(11, 4), Lstm(4, 5, 2, bidirectional=True), Linear(10, 7)],
    "scaled": [Scaling(3), Lstm(3, 5, cell="peephole"), LayerNorm(5), Linear(5, 2, bias=False), Scaling(2, True)],
    "causal": [Conv1d(3, 4, 3, dilation=2), Lstm(4, 5), Linear(5, 1)],
    "centred": [Linear(3, 4), Conv1d(4, 6, 4, causal=False), LayerNorm(6, 1e-3), Lstm(6, 5, cell="cifg"), Linear(5, 2)],
    "strided": [Conv1d(3, 4, 5, stride=2), Lstm(4, 5, cell="rnn")],
    "two stacks": [Lstm(3, 5, 2), Linear(5, 4), Lstm(4, 6, cell="noaf", clip=3.0), LayerNorm(6)],
}


def built(blocks: list[Block]) -> ModelFile:
    rng = np.random.default_rng(5)
    shapes = ModelFile("sequence", tuple(blocks), {}).shapes()
    weights = {
        name: rng.uniform(0.5, 1.5, shape) if name.endswith("std") else rng.uniform(-0.7, 0.7, shape)
        for name, shape in shapes.items()
    }
    return ModelFile("sequence", tuple(blocks), {name: w.astype(np.float32) for name, w in weights.items()})


def draw(blocks: list[Block], rows: int, steps: int) -> torch.Tensor:
    return torch.randint(0, 11, (rows, steps)) if isinstance(blocks[0], Embedding) else torch.randn(rows, steps, 3)


@pytest.mark.parametrize("name", NETWORKS)
def test_equals_onnxruntime_and_comes_back(name: str, tmp_path: Path) -> None:
    file = built(NETWORKS[name])
    network = from_file(file)
    for batch_first in (True, False):
        export_blocks(file.architecture, file.weights, tmp_path / "m.onnx", batch_first=batch_first)
        model, back = session(tmp_path / "m.onnx"), from_onnx(tmp_path / "m.onnx")
        recurrent = any(isinstance(block, Lstm | Conv1d) for block in file.architecture)
        assert back.batch_first is (batch_first or not recurrent)
        for rows, steps in ((3, 8), (1, 1), (2, 5)):
            x = draw(NETWORKS[name], rows, steps)
            with torch.no_grad():
                expected = network(x)
                given = x if batch_first else x.transpose(0, 1).contiguous()
                returned = back(given)[0]
            results = run(model, {"x": given})["y"]
            assert_close(results if batch_first else results.swapaxes(0, 1), expected)
            assert torch.equal(returned if batch_first else returned.transpose(0, 1), expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_blocks_come_back(name: str, tmp_path: Path) -> None:
    file = built(NETWORKS[name])
    export_blocks(file.architecture, file.weights, tmp_path / "m.onnx")
    back = import_blocks(tmp_path / "m.onnx")
    # Default names: an LSTM with peepholes is read as the cell that peeps by itself.
    assert back.architecture == file.architecture
    assert back.task == "sequence"
    for key, value in file.weights.items():
        assert back.weights[key].tobytes() == value.tobytes(), key


def test_lengths_reach_every_stack(tmp_path: Path) -> None:
    file = built(NETWORKS["two stacks"])
    export_blocks(file.architecture, file.weights, tmp_path / "m.onnx", lengths=True)
    back = from_onnx(tmp_path / "m.onnx")
    x, lengths = torch.randn(3, 6, 3), [6, 0, 2]
    results = run(session(tmp_path / "m.onnx"), {"x": x, "lengths": np.array(lengths, np.int32)})
    output, (first, second) = back(x, lengths=lengths)
    assert_close(results["y"], output)
    for name, part in {"0.h": first.h, "0.c": first.c, "2.h": second.h, "2.c": second.c}.items():
        assert_close(results[f"state_out.{name}"], part, name)


def test_a_mixture_of_candidates(tmp_path: Path) -> None:
    file = built([Lstm(3, 5), Linear(5, 5), QuantileMix(2, 3)])
    save_model(file, tmp_path / "m.safetensors")
    export_onnx(tmp_path / "m.safetensors", tmp_path / "m.onnx")
    x, candidates = torch.randn(4, 9, 3), torch.randn(4, 6, 2)
    with torch.no_grad():
        expected = from_file(file)(x, candidates)
    assert_close(run(session(tmp_path / "m.onnx"), {"x": x, "candidates": candidates})["y"], expected)


@pytest.mark.parametrize(
    ("name", "why"),
    [("strided", "0, a convolution with stride 2"), ("centred", "1, a convolution that reads past the end of a row")],
)
def test_some_convolutions_have_no_lengths(name: str, why: str, tmp_path: Path) -> None:
    file = built(NETWORKS[name])
    with pytest.raises(InputError, match=f"block {why}, cannot go with lengths"):
        export_blocks(file.architecture, file.weights, tmp_path / "m.onnx", lengths=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["tagger", "scaled", "causal", "two stacks"])
def test_rows_with_lengths_equal_the_runtimes(name: str, tmp_path: Path) -> None:
    file = built(NETWORKS[name])
    export_blocks(file.architecture, file.weights, tmp_path / "m.onnx", lengths=True)
    x, lengths = draw(NETWORKS[name], 4, 7).numpy(), np.array([7, 3, 1, 5])
    expected = Model(file, "0" * 64, threads=1).run(x, lengths=lengths)
    given = {"x": torch.from_numpy(x), "lengths": torch.from_numpy(lengths.astype(np.int32))}
    found = run(session(tmp_path / "m.onnx"), given)["y"]
    for row, length in enumerate(lengths):
        assert_close(found[row, :length], expected[row, :length])


@pytest.mark.parametrize(
    ("weight", "reason"),
    [
        (None, r"0\.weight must be float32 \[2, 3\], and is absent"),
        (np.ones((3, 2), np.float32), r"0\.weight must be float32 \[2, 3\], and is float32 \[3, 2\]"),
        (np.ones((2, 3)), r"and is float64 \[2, 3\]"),
        (np.full((2, 3), np.inf, np.float32), r"0\.weight has values that are not finite"),
    ],
)
def test_weights_that_are_not_those_of_the_blocks(weight: np.ndarray | None, reason: str, tmp_path: Path) -> None:
    weights = {} if weight is None else {"0.weight": weight}
    with pytest.raises(InputError, match=reason):
        export_blocks([Linear(3, 2, bias=False)], weights, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_tokens_with_lengths_reach_a_scan(tmp_path: Path) -> None:
    file = built([Embedding(11, 4), Lstm(4, 5, cell="slstm")])
    for batch_first in (True, False):
        export_blocks(file.architecture, file.weights, tmp_path / "m.onnx", batch_first=batch_first, lengths=True)
        tokens, lengths = torch.randint(0, 11, (3, 6)), [6, 0, 2]
        network = from_file(file)
        expected, state = network.lstm()(network.get_submodule("0")(tokens), lengths=lengths)
        given = tokens if batch_first else tokens.T.contiguous()
        results = run(session(tmp_path / "m.onnx"), {"x": given, "lengths": np.array(lengths, np.int32)})
        assert_close(results["y"] if batch_first else results["y"].swapaxes(0, 1), expected)
        assert_close(results["state_out.1.n"], state.n)

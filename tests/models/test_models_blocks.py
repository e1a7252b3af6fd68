"""Every block as a torch module, against its equations written out in NumPy float64."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings

import gatewise
from architectures import architectures, with_weights
from gatewise.errors import InputError
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
    load_model,
    save_model,
)
from gatewise.models import Network, from_file
from gatewise.spec import BUILT_IN, CELLS


def _run(*blocks: Block, x: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The output of a network with random weights, and its weights in float64."""
    model = with_weights(blocks)
    with torch.no_grad():
        y = from_file(model)(torch.from_numpy(x)).numpy()
    return y, {name: value.astype(np.float64) for name, value in model.weights.items()}


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def _convolved(x: np.ndarray, w: dict[str, np.ndarray], block: Conv1d) -> np.ndarray:
    """One product at a time."""
    steps, span = x.shape[1], (block.kernel_size - 1) * block.dilation
    left = span if block.causal else span // 2
    out = []
    for start in range(0, steps, block.stride):
        y = np.tile(w["0.bias"], (len(x), 1))
        for k in range(block.kernel_size):
            at = start + k * block.dilation - left
            if 0 <= at < steps:
                y += x[:, at] @ w["0.weight"][:, :, k].T
        out.append(y)
    return np.stack(out, 1)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(1, 1, 1), (3, 1, 1), (4, 1, 3), (2, 3, 2), (5, 2, 1)])
def test_a_convolution_is_its_equation(kernel: int, stride: int, dilation: int, causal: bool, steps: int) -> None:
    block, x = Conv1d(3, 5, kernel, stride, dilation, causal), _random(2, steps, 3)
    y, w = _run(block, x=x)
    assert y.shape == (2, -(-steps // stride), 5)
    np.testing.assert_allclose(y, _convolved(x.astype(np.float64), w, block), rtol=1e-5, atol=1e-5)


def test_a_causal_convolution_sees_no_later_step() -> None:
    x = _random(1, 9, 2)
    changed = np.concatenate([x[:, :6], x[:, 6:] + 1], 1)
    for causal, same in ((True, 6), (False, 4)):
        first, second = (_run(Conv1d(2, 3, 5, causal=causal), x=given)[0] for given in (x, changed))
        equal = (first == second).all((0, 2))
        assert equal[:same].all()
        assert not equal[same:].any()


def test_a_convolution_of_nothing_is_nothing() -> None:
    assert _run(Conv1d(3, 5, 4), x=_random(2, 0, 3))[0].shape == (2, 0, 5)


def test_scaling_and_back() -> None:
    x = _random(2, 4, 3)
    for inverse in (False, True):
        y, w = _run(Scaling(3, inverse), x=x)
        expected = x * w["0.std"] + w["0.mean"] if inverse else (x - w["0.mean"]) / w["0.std"]
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_statistics_are_no_parameters() -> None:
    network = Network([Scaling(3), Linear(3, 1)])
    assert [name for name, _ in network.named_parameters()] == ["1.weight", "1.bias"]
    x = torch.randn(2, 4, 3)
    torch.testing.assert_close(network(x), network.get_submodule("1")(x))


@pytest.mark.parametrize("eps", [1e-5, 0.5])
def test_layer_norm_is_its_equation(eps: float) -> None:
    x = _random(2, 4, 7)
    y, w = _run(LayerNorm(7, eps), x=x)
    centred = x - x.mean(-1, keepdims=True, dtype=np.float64)
    expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * w["0.weight"] + w["0.bias"]
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_an_embedding_and_a_linear_layer_without_bias() -> None:
    x = np.array([[0, 4, 2], [1, 1, 3]])
    y, w = _run(Embedding(5, 3), Linear(3, 2, bias=False), x=x)
    np.testing.assert_allclose(y, w["0.weight"][x] @ w["1.weight"].T, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cell", BUILT_IN)
@pytest.mark.parametrize("layers", [1, 3])
def test_an_lstm_has_all_that_its_block_says(cell: str, layers: int) -> None:
    options = CELLS[cell].options
    more: dict[str, Any] = {"bidirectional": True, "residual": True, "bias": layers == 1}
    more |= {"clip": 1.5} if "clip" in options else {}
    more |= {"proj_size": 2, "nonrecurrent_proj_size": 1} if "projection" in options else {}
    more |= {name: True for name in ("peephole", "layer_norm", "learned_state") if name in options}
    block, x = Lstm(3, 4, layers, cell, **more), _random(2, 6, 3)
    model = with_weights((block,))
    if layers == 1:
        more["residual"] = False
    module = gatewise.LSTM(3, 4, layers, batch_first=True, cell=cell, backend="reference", **more)
    module.load_state_dict({name[2:]: torch.from_numpy(value) for name, value in model.weights.items()})
    with torch.no_grad():
        expected = module.double()(torch.from_numpy(x).double())[0].numpy()
    y, _ = _run(block, x=x)
    assert y.shape == (2, 6, block.output_size)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_candidates_that_are_missing_are_asked_for() -> None:
    network = Network([Linear(3, 5), QuantileMix(2, 3)])
    with pytest.raises(InputError, match=r"call it with candidates \[B, T', K\] too"):
        network(torch.randn(2, 4, 3))


def test_blocks_that_do_not_fit_make_no_network() -> None:
    with pytest.raises(InputError, match="gives a width of 5"):
        Network([Linear(3, 5), Linear(4, 1)])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(architectures())
def test_any_architecture_is_a_network_and_comes_back_bit_for_bit(tmp_path_factory, blocks: tuple[Block, ...]) -> None:
    path = tmp_path_factory.getbasetemp() / "network"
    torch.manual_seed(0)
    network = Network(blocks).eval()
    weights = network.weights()
    assert {name: value.shape for name, value in weights.items()} == ModelFile("t", blocks, {}).shapes()
    save_model(ModelFile("t", blocks, weights), path)
    back = from_file(load_model(path))
    assert {name: value.tobytes() for name, value in back.weights().items()} == {
        name: value.tobytes() for name, value in weights.items()
    }
    if not any(isinstance(block, QuantileMix) for block in blocks):
        first = blocks[0]
        whole = isinstance(first, Embedding)
        x = torch.randint(first.num_embeddings, (2, 9)) if whole else torch.randn(2, 9, first.input_size)
        y = network(x)
        assert y.shape[-1] == blocks[-1].output_size
        assert torch.equal(back(x), y)

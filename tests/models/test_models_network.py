"""The network against its equations in float64, and its way through the model file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from gatewise.format import Linear, Lstm, ModelFile, QuantileMix, load_model, save_model
from gatewise.models import Network, QuantileMixture, from_file


def _by_hand(w: dict[str, np.ndarray], layers: int, x: np.ndarray, candidates: np.ndarray, quantiles: int):
    """One window [T, D] at a time, one step at a time, float64."""
    w = {name: value.astype(np.float64) for name, value in w.items()}
    hidden = w["0.weight_hh_l0"].shape[1]
    out = []
    for row, given in zip(x.astype(np.float64), candidates.astype(np.float64), strict=True):
        steps = list(row)
        for k in range(layers):
            h, c, after = np.zeros(hidden), np.zeros(hidden), []
            for step in steps:
                a = (
                    w[f"0.weight_ih_l{k}"] @ step
                    + w[f"0.bias_ih_l{k}"]
                    + w[f"0.weight_hh_l{k}"] @ h
                    + w[f"0.bias_hh_l{k}"]
                )
                i, f, g, o = (a[n * hidden : (n + 1) * hidden] for n in range(4))
                c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
                h = np.tanh(c) / (1 + np.exp(-o))
                after.append(h)
            steps = after
        rows = []
        for h, known in zip(steps[len(steps) - len(given) :], given, strict=True):
            y = w["1.weight"] @ h + w["1.bias"]
            share = np.exp(y[quantiles:]) / np.exp(y[quantiles:]).sum()
            rows.append(share @ known + y[:quantiles])
        out.append(rows)
    return np.array(out)


def _network(d: int, h: int, layers: int, k: int, q: int, *, seed: int = 0, dropout: float = 0.0) -> Network:
    torch.manual_seed(seed)
    return Network([Lstm(d, h, layers), Linear(h, q + k), QuantileMix(k, q)], dropout)


@pytest.mark.parametrize(
    ("b", "t", "ahead", "d", "h", "layers", "k", "q"),
    [(1, 1, 1, 1, 1, 1, 1, 1), (3, 11, 5, 7, 9, 1, 3, 5), (2, 6, 6, 3, 17, 3, 2, 1), (5, 9, 1, 2, 5, 2, 1, 4)],
)
def test_the_network_is_its_equations(b, t, ahead, d, h, layers, k, q) -> None:  # noqa: PLR0917
    network = _network(d, h, layers, k, q).eval()
    rng = np.random.default_rng(1)
    x = rng.normal(size=(b, t, d)).astype(np.float32)
    candidates = rng.normal(size=(b, ahead, k)).astype(np.float32)
    with torch.no_grad():
        y = network(torch.from_numpy(x), torch.from_numpy(candidates)).numpy()
    assert y.shape == (b, ahead, q)
    expected = _by_hand(network.weights(), layers, x, candidates, q)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=2e-6)


def test_a_mixture_whose_logits_agree_is_the_mean_of_the_candidates() -> None:
    mixture = QuantileMixture(QuantileMix(candidates=4, quantiles=2))
    x = torch.zeros(1, 3, 6)
    x[..., 0], x[..., 1] = 1.0, -2.0
    candidates = torch.tensor([[[1.0, 2.0, 3.0, 6.0], [0.0, 0.0, 0.0, 4.0]]])
    torch.testing.assert_close(mixture(x, candidates), torch.tensor([[[4.0, 1.0], [2.0, -1.0]]]))
    x[..., 5] = 80.0
    torch.testing.assert_close(mixture(x, candidates), torch.tensor([[[7.0, 4.0], [5.0, 2.0]]]))


def test_weights_have_the_names_and_shapes_of_the_file() -> None:
    network = _network(3, 5, 2, 2, 3)
    weights = network.weights()
    assert {name: value.shape for name, value in weights.items()} == ModelFile("t", network.blocks, {}).shapes()
    assert {value.dtype for value in weights.values()} == {np.dtype(np.float32)}


def test_a_network_comes_back_from_its_file_bit_for_bit(tmp_path: Path) -> None:
    network = _network(3, 17, 2, 2, 3)
    save_model(ModelFile("t", network.blocks, network.weights()), tmp_path / "m")
    back = from_file(load_model(tmp_path / "m"))
    assert not back.training
    assert back.blocks == network.blocks
    for name, value in network.weights().items():
        assert back.weights()[name].tobytes() == value.tobytes()
    x, candidates = torch.randn(4, 9, 3), torch.randn(4, 5, 2)
    with torch.no_grad():
        assert torch.equal(back(x, candidates), network.eval()(x, candidates))


def test_a_network_owns_its_weights() -> None:
    network = _network(2, 3, 1, 1, 1)
    file = ModelFile("t", network.blocks, network.weights())
    back = from_file(file)
    with torch.no_grad():
        for parameter in back.parameters():
            parameter.fill_(7.0)
    assert not any((value == 7.0).any() for value in file.weights.values())


@pytest.mark.parametrize("layers", [1, 3])
def test_forget_gates_start_open_and_nothing_else_is_touched(layers: int) -> None:
    h = 5
    weights = _network(3, h, layers, 1, 1, seed=4).lstm().state_dict()
    torch.manual_seed(4)
    plain = nn.LSTM(3, h, layers).state_dict()
    for name, value in weights.items():
        expected = plain[name].clone()
        if name.startswith("bias"):
            expected[h : 2 * h] = 1.0 if name.startswith("bias_ih") else 0.0
        assert torch.equal(value, expected)


@pytest.mark.parametrize("layers", [1, 2])
def test_dropout_acts_in_training_only(layers: int) -> None:
    network = _network(3, 8, layers, 2, 3, dropout=0.5)
    without = _network(3, 8, layers, 2, 3)
    x, candidates = torch.randn(4, 9, 3), torch.randn(4, 5, 2)
    network.eval()
    assert torch.equal(network(x, candidates), without(x, candidates))
    network.train()
    torch.manual_seed(1)
    first = network(x, candidates)
    assert not torch.equal(first, network(x, candidates))
    torch.manual_seed(1)
    assert torch.equal(first, network(x, candidates))
    without.train()
    assert torch.equal(without(x, candidates), without(x, candidates))


def test_dropout_reaches_the_outputs_of_the_last_layer() -> None:
    # With everything dropped, the linear layer sees zeros.
    network = _network(3, 8, 1, 2, 1, dropout=1.0).train()
    x, candidates = torch.randn(2, 6, 3), torch.zeros(2, 4, 2)
    bias = network.get_parameter("1.bias")[0]
    torch.testing.assert_close(network(x, candidates), bias.expand(2, 4, 1))


def test_the_lstm_is_the_one_of_the_network() -> None:
    network = _network(3, 8, 2, 2, 3)
    assert network.lstm() is network.get_submodule("0")
    assert (network.lstm().hidden_size, network.lstm().num_layers) == (8, 2)

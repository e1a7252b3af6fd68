"""What torch's own exporter writes, read back: layers, heads, states, lengths, with its constants folded and not."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from exchange_tools import assert_close
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from gatewise import from_onnx
from gatewise.errors import InputError
from gatewise.models import Imported

D, H = 3, 5


class Model(nn.Module):
    """An LSTM, and what is made of its results."""

    def __init__(self, head: Any, width: int = H, **arguments: Any):
        super().__init__()
        torch.manual_seed(2)
        self.lstm = nn.LSTM(D, H, **arguments)
        self.linear = nn.Linear(width, 2)
        self.head = head

    def forward(self, *inputs: Any) -> Any:
        return self.head(self, *inputs)


def read_back(
    model: nn.Module, inputs: tuple[Any, ...], names: list[str], path: Path, *, fixed: bool = False, **options: Any
) -> Imported:
    axes = {"x": {0: "a", 1: "b"}, "lengths": {0: "c"}, "h": {1: "d"}, "c": {1: "e"}}
    axes = {} if fixed else axes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls this exporter the old one
        torch.onnx.export(
            model.eval(), inputs, path, input_names=names, dynamic_axes=axes, dynamo=False, opset_version=17, **options
        )
    return from_onnx(path)


def sequences(model: Model, x: Tensor) -> Tensor:
    return model.linear(model.lstm(x)[0])


@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("layers", [1, 3])
def test_layers_and_a_linear_head(folded: bool, batch_first: bool, bidirectional: bool, layers: int, tmp_path: Path):
    arguments = {"num_layers": layers, "batch_first": batch_first, "bidirectional": bidirectional}
    model = Model(sequences, H * (1 + bidirectional), **arguments)
    options = {"do_constant_folding": folded}
    back = read_back(model, (torch.randn(4, 2, D),), ["x"], tmp_path / "m.onnx", **options)
    assert [type(block).__name__ for block in back.network.blocks] == ["Lstm", "Linear"]
    for shape in ((4, 2, D), (1, 7, D)):
        x = torch.randn(shape)
        assert_close(back(x)[0], model(x))


@pytest.mark.parametrize("bias", [True, False])
def test_states_in_and_out(bias: bool, tmp_path: Path) -> None:
    model = Model(lambda m, x, h, c: m.lstm(x, (h, c)), num_layers=2, bias=bias)
    x, h, c = torch.randn(4, 2, D), torch.randn(2, 2, H), torch.randn(2, 2, H)
    back = read_back(model, (x, h, c), ["x", "h", "c"], tmp_path / "m.onnx")
    output, (state,) = back(x, [(h, c)])
    expected, (h_n, c_n) = model(x, h, c)
    for actual, wanted in ((output, expected), (state.h, h_n), (state.c, c_n)):
        assert_close(actual, wanted)


HEADS = {
    "last step": lambda m, x: m.linear(m.lstm(x)[0][:, -1]),
    "final state": lambda m, x: m.linear(m.lstm(x)[1][0][-1]),
}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("layers", [1, 2])
def test_heads_on_the_end_of_each_row(name: str, layers: int, tmp_path: Path) -> None:
    model = Model(HEADS[name], num_layers=layers, batch_first=True)
    back = read_back(model, (torch.randn(4, 3, D),), ["x"], tmp_path / "m.onnx")
    for shape in ((4, 3, D), (2, 6, D)):
        x = torch.randn(shape)
        assert_close(back(x)[0], model(x))


def test_padded_sequences(tmp_path: Path) -> None:
    def packed(m: Model, x: Tensor, lengths: Tensor) -> Tensor:
        return pad_packed_sequence(m.lstm(pack_padded_sequence(x, lengths))[0])[0]

    model = Model(packed)
    x, lengths = torch.randn(5, 3, D), torch.tensor([5, 3, 1])
    back = read_back(model, (x, lengths), ["x", "lengths"], tmp_path / "m.onnx")
    assert_close(back(x, lengths=lengths)[0], model(x, lengths))


def test_an_embedding_and_dropout(tmp_path: Path) -> None:
    torch.manual_seed(0)
    lstm = nn.LSTM(4, H, batch_first=True)

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.lstm, self.dropout = nn.Embedding(9, 4), lstm, nn.Dropout()
            self.linear = nn.Linear(H, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(self.dropout(self.lstm(self.embedding(x))[0]))

    model = Tagger()
    tokens = torch.randint(0, 9, (2, 6))
    back = read_back(model, (tokens,), ["x"], tmp_path / "m.onnx")
    assert_close(back(tokens)[0], model(tokens))


def test_fixed_sizes_are_followed_too(tmp_path: Path) -> None:
    model = Model(sequences, 2 * H, bidirectional=True, batch_first=True)
    back = read_back(model, (torch.randn(4, 3, D),), ["x"], tmp_path / "m.onnx", fixed=True)
    x = torch.randn(2, 6, D)
    assert_close(back(x)[0], model(x))


def test_a_convolution_before_the_layer(tmp_path: Path) -> None:
    class Front(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.lstm = nn.Conv1d(D, 4, 3, padding=1), nn.LSTM(4, H, batch_first=True)
            self.norm = nn.LayerNorm(H)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.lstm(self.conv(x.transpose(1, 2)).transpose(1, 2))[0])

    model = Front()
    x = torch.randn(2, 6, D)
    back = read_back(model, (x,), ["x"], tmp_path / "m.onnx")
    assert_close(back(x)[0], model(x))


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (lambda m, x: m.linear(m.lstm(x)[0]).softmax(-1), r"\(Softmax\): gatewise reads Add, Cast, "),
        (lambda m, x: m.lstm(x)[0][0], r"\(Gather\): of the data, gatewise follows the last time step only"),
        (lambda m, x: m.lstm(x)[0][-1:], "takes the last row of the batch, not the last time step"),
        (lambda m, x: m.lstm(x)[0] + m.lstm(x.flip(0))[0], r"cannot take node .*\(Slice\)"),
        (lambda m, x: torch.cat([m.lstm(x)[0], x], -1), r"\(Concat\): it joins pieces of the data"),
        (lambda m, x: (m.lstm(x)[0], m.linear(m.lstm(x)[0])), "must have one output"),
        (lambda m, x: m.lstm(x)[1][1][-1], r"gatewise follows the h of the last layer only"),
        (lambda m, x: m.lstm(x * 2 + m.lstm.bias_hh_l0[:3])[0].mean(1), r"\(ReduceMean\)"),
        (lambda m, x: m.lstm(x.double().float())[0], r"\(Cast\): gatewise reads casts to"),
    ],
)
def test_what_cannot_be_taken_is_named(head: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=reason):
        read_back(Model(head, batch_first=True), (torch.randn(4, 2, D),), ["x"], tmp_path / "m.onnx")


def test_two_directions_end_at_different_ends(tmp_path: Path) -> None:
    model = Model(lambda m, x: m.lstm(x)[1][0][-1], bidirectional=True)
    with pytest.raises(InputError, match="two directions, which are at different ends"):
        read_back(model, (torch.randn(4, 2, D),), ["x"], tmp_path / "m.onnx")


@pytest.mark.parametrize("module", [nn.GRU(D, H), nn.LSTM(D, H, proj_size=2)])
def test_other_layers_are_named(module: nn.Module, tmp_path: Path) -> None:
    with pytest.raises((InputError, torch.onnx.errors.SymbolicValueError), match=r"GRU|LSTMs with projections"):
        read_back(module, (torch.randn(4, 2, D),), ["x"], tmp_path / "m.onnx")

"""The convolutional LSTM as a module: parameters, copies, compilation, refusals."""

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

import gatewise.nn.conv
from gatewise import LSTM, ConvLSTM
from gatewise.errors import InputError
from gatewise.ops import ShapeError

SIZES: dict[str, Any] = {"kernel_size": (3, 5), "image_size": (4, 6)}


def test_the_parameters_are_named_and_shaped_as_promised():
    layer = ConvLSTM(2, 3, **SIZES, num_layers=2, bidirectional=True)
    found = {name: tuple(value.shape) for name, value in layer.state_dict().items()}
    assert found == {
        name + f"_l{k}{end}": shape
        for k, channels in enumerate((2, 6))
        for end in ("", "_reverse")
        for name, shape in {
            "weight_ih": (12, channels, 3, 5),
            "weight_hh": (12, 3, 3, 5),
            "bias_ih": (12,),
            "bias_hh": (12,),
            "weight_peephole": (9, 4, 6),
        }.items()
    }
    assert [len(own) for own in layer.all_weights] == [5] * 4
    assert layer.all_weights[3][4] is layer.get_parameter("weight_peephole_l1_reverse")


@pytest.mark.parametrize(
    ("options", "missing"),
    [({"bias": False}, "bias"), ({"peephole": False}, "peephole"), ({"cell": "lstm"}, "peephole")],
)
def test_what_a_layer_does_not_have(options: dict[str, Any], missing: str):
    assert not [name for name in ConvLSTM(2, 3, **SIZES, **options).state_dict() if missing in name]


def test_parameters_start_within_their_bound_and_fill_it():
    layer = ConvLSTM(4, 8, 3, image_size=16)
    bound = 1 / math.sqrt(8 * 3 * 3)
    for name, parameter in layer.named_parameters():
        assert 0.8 * bound < parameter.abs().max() <= bound, name
    layer = ConvLSTM(4, 8, 3, image_size=16, forget_bias=1.5)
    assert torch.equal(layer.get_parameter("bias_ih_l0")[8:16], torch.full((8,), 1.5))
    assert torch.equal(layer.get_parameter("bias_hh_l0")[8:16], torch.zeros(8))
    before = [parameter.detach().clone() for parameter in layer.parameters()]
    layer.reset_parameters()
    assert not any(torch.equal(a, b) for a, b in zip(before, layer.parameters(), strict=True))


def test_on_one_pixel_parameters_start_as_the_layer_of_vectors_does():
    torch.manual_seed(5)
    conv = ConvLSTM(4, 8, 1, image_size=1)
    torch.manual_seed(5)
    lstm = LSTM(4, 8, cell="peephole")
    for ours, theirs in zip(conv.parameters(), lstm.parameters(), strict=True):
        assert torch.equal(ours.reshape(theirs.shape), theirs)


def test_copies_are_independent_and_pickling_keeps_everything():
    layer = ConvLSTM(2, 3, **SIZES, cell="cifg", bidirectional=True)
    x = torch.randn(3, 2, 2, 4, 6)
    y, state = layer(x)
    other = ConvLSTM(2, 3, **SIZES, cell="cifg", bidirectional=True)
    other.load_state_dict(layer.state_dict())
    twins: list[ConvLSTM] = [other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    for twin in twins:
        assert repr(twin) == repr(layer)
        assert torch.equal(twin(x)[0], y)
        twin.get_parameter("weight_hh_l0").data.zero_()
        assert torch.equal(layer(x)[0], y)
    assert pickle.loads(pickle.dumps(copy.copy(state)._replace(h=1, c=2)))._fields == ("h", "c")


def test_repr_shows_what_differs_from_the_defaults():
    assert repr(ConvLSTM(2, 3, 5, image_size=8)) == "ConvLSTM(2, 3, kernel_size=(5, 5), image_size=(8, 8))"
    full = ConvLSTM(2, 3, (3, 1), 2, False, True, True, cell="np", clip=4, peephole=True, image_size=(8, 9))
    assert repr(full) == (
        "ConvLSTM(2, 3, kernel_size=(3, 1), num_layers=2, bias=False, batch_first=True, bidirectional=True, "
        "image_size=(8, 9), cell='np', peephole=True, clip=4.0)"
    )
    assert repr(ConvLSTM(2, 3, 1, cell="lstm", forget_bias=1.0)).endswith("cell='lstm', forget_bias=1.0)")


def test_the_public_name():
    assert gatewise.ConvLSTM is gatewise.nn.conv.ConvLSTM


@pytest.mark.parametrize("gradient", [False, True])
def test_compiled_module(gradient: bool):
    torch.manual_seed(0)
    layer = ConvLSTM(2, 3, **SIZES, num_layers=2, bidirectional=True, dtype=torch.float64)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x = torch.randn(3, 2, 2, 4, 6, dtype=torch.float64)
    hx = tuple(torch.rand(4, 2, 3, 4, 6, dtype=torch.float64) for _ in "hc")
    lengths, reset = torch.tensor([3, 2]), torch.tensor([[False, True], [True, False], [False, False]])
    results: list[list[Tensor]] = []
    with torch.set_grad_enabled(gradient):
        for module in (compiled, layer):
            y, state, traces = module(x, hx, lengths=lengths, reset=reset, trace=True)
            found = [y, *state, *(value for trace in traces for value in trace.values())]
            if gradient:
                loss = sum((part.square().sum() for part in found), torch.zeros(()))
                found += torch.autograd.grad(loss, list(layer.parameters()))
            results.append(found)
    for a, b in zip(*results, strict=True):
        assert (a - b).abs().max() <= 1e-12 * max(1.0, b.abs().max().item())


def test_autocast_computes_in_float32_and_returns_its_dtype():
    layer = ConvLSTM(2, 3, **SIZES)
    x = torch.randn(3, 2, 2, 4, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = layer(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, layer(x)[0].bfloat16())


def test_device_and_dtype_arguments():
    layer = ConvLSTM(2, 3, **SIZES, device="meta", dtype=torch.float64)
    y, (h, _) = layer(torch.empty(5, 2, 2, 4, 6, device="meta", dtype=torch.float64))
    assert (y.shape, h.shape, y.dtype) == ((5, 2, 3, 4, 6), (1, 2, 3, 4, 6), torch.float64)


BAD_CONSTRUCTIONS: dict[str, tuple[type[Exception], str, dict[str, Any]]] = {
    "no channels": (InputError, "input_size must be greater than zero", {"input_size": 0}),
    "hidden float": (TypeError, "hidden_size should be of type int", {"hidden_size": 4.0}),
    "no layers": (InputError, "num_layers must be greater than zero", {"num_layers": 0}),
    "bias word": (TypeError, "bias should be of type bool", {"bias": "yes"}),
    "batch_first word": (TypeError, "batch_first should be of type bool", {"batch_first": "yes"}),
    "bidirectional word": (TypeError, "bidirectional should be of type bool", {"bidirectional": 1}),
    "even window": (InputError, "kernel_size must be odd", {"kernel_size": 4}),
    "window even in width": (InputError, "kernel_size must be odd", {"kernel_size": (3, 2)}),
    "empty window": (InputError, "kernel_size must be greater than zero", {"kernel_size": (3, 0)}),
    "negative window": (InputError, "kernel_size must be greater than zero", {"kernel_size": -1}),
    "window of three": (InputError, "kernel_size must be an int or a pair", {"kernel_size": (3, 3, 3)}),
    "float window": (TypeError, "kernel_size must be an int or a pair", {"kernel_size": 3.0}),
    "pair of floats": (TypeError, "kernel_size should be of type int", {"kernel_size": (3.0, 3)}),
    "window bool": (TypeError, "kernel_size should be of type int", {"kernel_size": True}),
    "no image size": (InputError, "give image_size", {"image_size": None}),
    "no image size for peepholes": (
        InputError,
        "give image_size",
        {"cell": "lstm", "peephole": True, "image_size": None},
    ),
    "empty image": (InputError, "image_size must be greater than zero", {"image_size": (0, 4)}),
    "image word": (TypeError, "image_size must be an int or a pair", {"image_size": "big"}),
    "fgr": (InputError, "'fgr' cannot be convolutional", {"cell": "fgr"}),
    "unknown cell": (InputError, "cell must be one of", {"cell": "gru"}),
    "peephole of slstm": (
        InputError,
        "peephole is not defined for the cell 'slstm'",
        {"cell": "slstm", "peephole": True},
    ),
    "peephole word": (TypeError, "peephole should be of type bool", {"peephole": 1}),
    "clip": (InputError, "clip must be", {"clip": 0.0}),
    "forget bias without a forget gate": (
        InputError,
        "forget_bias means nothing",
        {"cell": "cifg", "forget_bias": 1.0},
    ),
    "forget bias without biases": (InputError, "need biases", {"bias": False, "forget_bias": 1.0}),
}


@pytest.mark.parametrize("case", BAD_CONSTRUCTIONS)
def test_bad_constructions_raise(case: str):
    error, text, changed = BAD_CONSTRUCTIONS[case]
    sizes: dict[str, Any] = {"input_size": 2, "hidden_size": 3}
    with pytest.raises(error, match=text):
        ConvLSTM(**(sizes | SIZES | changed))


X, STATE = torch.zeros(3, 2, 2, 4, 6), torch.zeros(1, 2, 3, 4, 6)
BAD_CALLS: dict[str, tuple[type[Exception], str, tuple[Any, ...], dict[str, Any]]] = {
    "channels": (
        ShapeError,
        r"input.size\(-3\) must be equal to input_size. Expected 2, got 3",
        (X[:, :, [0, 0, 0]],),
        {},
    ),
    "image height": (
        ShapeError,
        r"image_size is \(4, 6\), but the images of the input are \(3, 6\)",
        (X[..., :3, :],),
        {},
    ),
    "image width": (ShapeError, r"the images of the input are \(4, 5\)", (X[..., :5],), {}),
    "three dimensions": (InputError, "input must have 4 or 5 dimensions, got 3", (X[0, 0],), {}),
    "six dimensions": (InputError, "input must have 4 or 5 dimensions, got 6", (X[None],), {}),
    "no tensor": (TypeError, "input must be a torch.Tensor", ([1.0],), {}),
    "dtype": (InputError, "does not match weight dtype", (X.double(),), {}),
    "one state of two": (ShapeError, r"hx must be \(h_0, c_0\)", (X, (STATE,)), {}),
    "h of another batch": (ShapeError, r"h_0 must have shape \[1, 2, 3, 4, 6\]", (X, (STATE[:, :1], STATE)), {}),
    "c of another image": (ShapeError, r"c_0 must have shape", (X, (STATE, STATE[..., :5])), {}),
    "state without images": (ShapeError, r"h_0 must have shape", (X, (STATE[..., 0, 0], STATE)), {}),
    "state of a batch for one": (ShapeError, "for a single sequence h_0 must have 4", (X[:, 0], (STATE, STATE)), {}),
    "lengths for one": (InputError, "lengths is for batches", (X[:, 0],), {"lengths": [3]}),
    "too long": (InputError, r"lengths\[1\] is 4", (X,), {"lengths": [3, 4]}),
    "three lengths": (ShapeError, "lengths must have shape", (X,), {"lengths": [3, 3, 3]}),
    "reset of another shape": (ShapeError, r"reset must have shape \[3, 2\]", (X,), {"reset": torch.zeros(2, 3) > 0}),
    "reset of numbers": (InputError, "reset must be bool", (X,), {"reset": torch.zeros(3, 2)}),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_calls_raise(case: str):
    error, text, arguments, options = BAD_CALLS[case]
    with pytest.raises(error, match=text):
        ConvLSTM(2, 3, **SIZES)(*arguments, **options)


def test_images_need_a_pixel():
    with pytest.raises(ShapeError, match="at least one pixel"):
        ConvLSTM(2, 3, 3, cell="lstm")(torch.zeros(3, 2, 2, 0, 4))

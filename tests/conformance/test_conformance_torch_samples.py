"""torch's samples of nn.LSTM: forward, and all that torch's own module tests ask of a module beside gradients."""

import copy
import io
import itertools
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from conformance_torch import (
    DTYPES,
    ERROR_SAMPLES,
    INFO,
    SAMPLES,
    ModuleErrorEnum,
    arguments,
    assert_close,
    assert_same,
    build,
    draw,
    error_samples,
    leaves,
    moved,
    projection_warning,
    samples,
    twin,
)
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from gatewise import LSTM

pytestmark = projection_warning
every_sample = pytest.mark.parametrize("index", SAMPLES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def test_the_samples_are_all_there_are() -> None:
    assert set(DTYPES) == {torch.float32, torch.float64}
    assert [len(samples(dtype)) for dtype in DTYPES] == [len(SAMPLES)] * 2
    # Bias, layout, directions and projection are crossed, with and without an initial state, and none is excused.
    described = {str(sample.constructor_input.kwargs) for sample in samples(torch.float32)}
    assert len(described) == len(SAMPLES) / 2
    assert [len(error_samples(dtype)) for dtype in DTYPES] == [ERROR_SAMPLES] * 2
    assert INFO.module_cls is LSTM
    assert not INFO.decorators


@pytest.mark.parametrize("gradient", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("mode", ["train", "eval"])
@every_dtype
@every_sample
@pytest.mark.usefixtures("isa")
def test_forward(index: int, dtype: torch.dtype, mode: str, gradient: bool) -> None:
    sample = draw(index, dtype)
    layer = build(sample, dtype).train(mode == "train")
    with torch.set_grad_enabled(gradient):
        output = layer(*arguments(sample))
        assert leaves(output)[0].requires_grad == gradient
        assert_close(output, twin(sample, layer)(*arguments(sample)))
        assert sample.reference_fn is not None  # the same sequence as a batch of one
        assert_close(output, sample.reference_fn(layer, *arguments(sample)))


@every_sample
@pytest.mark.usefixtures("isa")
def test_non_contiguous_inputs(index: int) -> None:
    sample = draw(index, torch.float64, requires_grad=True)
    layer = build(sample, torch.float64)
    expected, gradients = run_with_gradients(layer, arguments(sample))
    flat, shape = pytree.tree_flatten(arguments(sample))
    for which in itertools.product([False, True], repeat=len(flat)):
        given = [spread(leaf) if chosen else leaf for leaf, chosen in zip(flat, which, strict=True)]
        assert [leaf.is_contiguous() for leaf in given] == [not chosen for chosen in which]
        output, other_gradients = run_with_gradients(layer, pytree.tree_unflatten(given, shape))
        assert_close(output, expected)
        assert_close(other_gradients, gradients)


@every_sample
@pytest.mark.usefixtures("isa")
def test_non_contiguous_weights(index: int) -> None:
    sample = draw(index, torch.float64, requires_grad=True)
    layer = build(sample, torch.float64)
    expected, gradients = run_with_gradients(layer, arguments(sample))
    for name, parameter in list(layer.named_parameters()):
        setattr(layer, name, nn.Parameter(spread(parameter)))
    assert not any(parameter.is_contiguous() for parameter in layer.parameters())
    output, other_gradients = run_with_gradients(layer, arguments(sample))
    assert_close(output, expected)
    assert_close(other_gradients, gradients)


def run_with_gradients(layer: LSTM, given: tuple[Any, ...]) -> tuple[list[Tensor], list[Tensor]]:
    outputs = leaves(layer(*given))
    torch.manual_seed(1)
    weights = [torch.randn_like(output) for output in outputs]
    sources = [*leaves(given), *layer.parameters()]
    return [output.detach() for output in outputs], list(torch.autograd.grad(outputs, sources, weights))


def spread(tensor: Tensor) -> Tensor:
    """Return an equal leaf that lies in every second place of memory, with NaN between."""
    wide = torch.full((*tensor.shape, 2), torch.nan, dtype=tensor.dtype)
    wide[..., 0] = tensor.detach()
    return wide[..., 0].requires_grad_(tensor.requires_grad)


@every_sample
def test_repr_equals_torch(index: int) -> None:
    sample = draw(index)
    layer = build(sample, backend="auto")  # which torch's layer cannot show
    assert repr(layer) == str(layer) == repr(twin(sample, layer))


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("way", ["pickle", "torch.save", "deepcopy", "copy"])
@every_sample
def test_copies(index: int, way: str, mode: str) -> None:
    sample = draw(index)
    layer = build(sample).train(mode == "train")
    expected = layer(*arguments(sample))
    again = COPIES[way](layer)
    assert type(again) is LSTM
    assert again.training == layer.training
    assert repr(again) == repr(layer)
    assert_same(again.state_dict(), layer.state_dict())
    assert_same(again(*arguments(sample)), expected)
    if way != "copy":  # a shallow copy shares its parameters
        with torch.no_grad():
            for parameter in again.parameters():
                parameter.zero_()
        assert_same(layer(*arguments(sample)), expected)


def saved_and_loaded(layer: LSTM) -> LSTM:
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
    "torch.save": saved_and_loaded,
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


@every_sample
def test_state_dict_both_ways(index: int) -> None:
    sample = draw(index)
    layer = build(sample)
    file = io.BytesIO()
    torch.save(twin(sample, layer).state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    assert list(saved) == list(layer.state_dict())
    for assign in (False, True):
        other = build(sample)
        other(*arguments(sample))  # whatever it made of its own weights must go
        other.load_state_dict(saved, assign=assign)
        assert_same(other.state_dict(), layer.state_dict())
        assert_same(other(*arguments(sample)), layer(*arguments(sample)))


@pytest.mark.parametrize("swap", [False, True], ids=["set", "swapped"])
@pytest.mark.parametrize("name", ["double", "float", "half", "bfloat16"])
@every_sample
@pytest.mark.usefixtures("isa")
def test_dtype_moves(index: int, name: str, swap: bool) -> None:
    sample = draw(index)
    layer = build(sample)
    layer(*arguments(sample))
    identities = [id(parameter) for parameter in layer.parameters()]
    with swapping(swap):
        getattr(layer, name)()
    assert [id(parameter) for parameter in layer.parameters()] == identities
    dtype = {"double": torch.float64, "float": torch.float32, "half": torch.float16}.get(name, torch.bfloat16)
    assert {parameter.dtype for parameter in layer.parameters()} == {dtype}
    given = moved(arguments(sample), dtype)
    assert_close(layer(*given), twin(sample, layer)(*given))
    with swapping(swap):
        layer.to(torch.float32)
    assert {parameter.dtype for parameter in layer.parameters()} == {torch.float32}
    assert_close(layer(*arguments(sample)), twin(sample, layer)(*arguments(sample)))


@contextmanager
def swapping(swap: bool) -> Iterator[None]:
    """Let moves swap a parameter for another tensor behind the same object, instead of setting its data."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(swap)
    try:
        yield
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


@every_sample
def test_device_moves(index: int) -> None:
    """To the meta device and back; there is no other that every machine has."""
    sample = draw(index)
    layer = build(sample)
    state = copy.deepcopy(layer.state_dict())
    expected = layer(*arguments(sample))
    layer.to("meta")
    assert {parameter.device.type for parameter in layer.parameters()} == {"meta"}
    layer.to_empty(device="cpu")
    assert {parameter.device.type for parameter in layer.parameters()} == {"cpu"}
    layer.load_state_dict(state)
    assert_same(layer(*arguments(sample)), expected)


@every_sample
def test_shapes_without_data(index: int) -> None:
    sample = draw(index)
    layer = build(sample, device="meta", backend="auto")
    output = layer(*pytree.tree_map(lambda leaf: leaf.to("meta"), arguments(sample)))
    expected = build(sample)(*arguments(sample))
    assert [leaf.device.type for leaf in leaves(output)] == ["meta"] * 3
    assert [leaf.shape for leaf in leaves(output)] == [leaf.shape for leaf in leaves(expected)]


@pytest.mark.parametrize("device", ["cpu", "meta"])
@every_dtype
@every_sample
def test_factory_arguments(index: int, dtype: torch.dtype, device: str) -> None:
    sample = draw(index)
    layers = [build(sample, dtype, device=device)]
    with torch.device(device):
        layers.append(build(sample, dtype))
    for layer in layers:
        assert layer.state_dict().keys() == twin(sample, build(sample)).state_dict().keys()
        for tensor in layer.state_dict().values():
            assert (tensor.device.type, tensor.dtype) == (device, dtype)


@every_sample
def test_train_and_eval(index: int) -> None:
    """No sample has dropout, so the modes agree; a layer without dropout does not need to know its mode."""
    sample = draw(index)
    layer = build(sample)
    assert layer.training
    expected = layer(*arguments(sample))
    assert not layer.eval().training
    assert_same(layer(*arguments(sample)), expected)
    assert layer.train().training


@every_sample
def test_memory_format_is_of_no_consequence(index: int) -> None:
    sample = draw(index)
    layer = build(sample)
    expected = layer(*arguments(sample))
    layer.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - torch's stub lacks this overload
    assert_same(layer(*arguments(sample)), expected)


@every_sample
def test_inputs_are_left_alone(index: int) -> None:
    sample = draw(index)
    layer = build(sample)
    state, given = copy.deepcopy(layer.state_dict()), arguments(sample)
    layer(*given)
    assert_same(given, arguments(sample))
    assert_same(layer.state_dict(), state)


@pytest.mark.parametrize("index", range(ERROR_SAMPLES))
@every_dtype
def test_what_torch_refuses(dtype: torch.dtype, index: int) -> None:
    """The type of the error is torch's, and the sentence has the words that torch's own test looks for."""
    wrong = error_samples(dtype)[index]
    sample = wrong.module_error_input
    if wrong.error_on is ModuleErrorEnum.CONSTRUCTION_ERROR:
        with pytest.raises(wrong.error_type, match=wrong.error_regex):
            build(sample, dtype)
    else:
        layer = build(sample, dtype)
        with pytest.raises(wrong.error_type, match=wrong.error_regex):
            layer(*arguments(sample))

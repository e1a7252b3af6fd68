"""torch's own samples of nn.LSTM, described by a ModuleInfo for gatewise.LSTM, with nothing skipped or excused."""

import warnings
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import hypothesis
import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from gatewise import LSTM

_profile = hypothesis.settings.get_current_profile_name()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what torch's test helpers and all that they import warn of is not ours to mend
    from torch.testing._internal.common_modules import (
        ErrorModuleInput,
        ModuleErrorEnum,
        ModuleInfo,
        ModuleInput,
        module_error_inputs_torch_nn_RNN_GRU,
        module_inputs_torch_nn_LSTM,
    )
    from torch.testing._internal.common_utils import gradcheck, gradgradcheck
# Importing them switches hypothesis to a profile of ten examples; the other tests of this run are to keep theirs.
hypothesis.settings.load_profile(_profile)

__all__ = ["ModuleErrorEnum", "gradcheck", "gradgradcheck"]  # passed on

INFO = ModuleInfo(
    LSTM,
    module_inputs_func=module_inputs_torch_nn_LSTM,
    module_error_inputs_func=module_error_inputs_torch_nn_RNN_GRU,
    train_and_eval_differ=True,
)
DTYPES = tuple(INFO.supported_dtypes("cpu"))
SAMPLES = range(32)
ERROR_SAMPLES = 14
# torch says so once a process, wherever its own layer first projects.
projection_warning = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
TOLERANCES = {torch.float32: 1e-6, torch.float64: 1e-14, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def draw(index: int, dtype: torch.dtype = torch.float32, *, requires_grad: bool = False) -> ModuleInput:
    """Draw a sample; the same numbers each time."""
    return samples(dtype, requires_grad=requires_grad)[index]


def samples(dtype: torch.dtype, *, requires_grad: bool = False) -> list[ModuleInput]:
    torch.manual_seed(0)
    return INFO.module_inputs_func(INFO, device="cpu", dtype=dtype, requires_grad=requires_grad, training=True)


def error_samples(dtype: torch.dtype) -> list[ErrorModuleInput]:
    function: Callable[..., list[ErrorModuleInput]] | None = INFO.module_error_inputs_func
    assert function is not None
    return function(INFO, device="cpu", dtype=dtype, requires_grad=False, training=True)


def build(sample: ModuleInput, dtype: torch.dtype = torch.float32, **factory: Any) -> LSTM:
    """Build a layer on the engine, whatever else could serve it, if no other backend is named."""
    constructor = sample.constructor_input
    return INFO.module_cls(*constructor.args, **{"dtype": dtype, "backend": "native"} | constructor.kwargs | factory)


def twin(sample: ModuleInput, layer: LSTM) -> nn.LSTM:
    """Return torch's layer with the same weights."""
    constructor = sample.constructor_input
    theirs = nn.LSTM(*constructor.args, **constructor.kwargs, dtype=layer.weight_ih_l0.dtype)
    theirs.load_state_dict(layer.state_dict())
    return theirs.train(layer.training)


def arguments(sample: ModuleInput) -> tuple[Any, ...]:
    """Return copies of what the sample feeds to forward, so that no test sees what another did to them."""
    assert sample.forward_input is not None
    assert not sample.forward_input.kwargs
    return deepcopy(sample.forward_input.args)


def leaves(tree: Any) -> list[Tensor]:
    return pytree.tree_leaves(tree)


def moved(tree: Any, dtype: torch.dtype) -> Any:
    return pytree.tree_map(lambda leaf: leaf.detach().to(dtype), tree)


def assert_close(actual: Any, expected: Any) -> None:
    """Compare two trees of tensors: shapes, dtypes, devices, and values to tolerance times max(1, max|expected|)."""
    actual, expected = leaves(actual), leaves(expected)
    assert len(actual) == len(expected)
    for ours, theirs in zip(actual, expected, strict=True):
        scale = max(1.0, theirs.detach().abs().max().item())
        torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCES[theirs.dtype] * scale)


def assert_same(actual: Any, expected: Any) -> None:
    """Compare two trees of tensors bit by bit."""
    actual, expected = leaves(actual), leaves(expected)
    assert len(actual) == len(expected)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(actual, expected, strict=True))

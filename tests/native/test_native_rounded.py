"""The short way in bfloat16, of a module in bfloat16 and under autocast: the bits of the long way."""

from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

import pytest
import torch
from native_narrow import NARROW
from native_stack import BACKEND, CELLS, LENGTHS, RESET, B, D, H, T, build, draw, each_cell
from torch import Tensor

from gatewise import LSTM, LSTMCell, _native, ops
from gatewise.errors import InputError
from gatewise.ops import direct
from gatewise.ops.native import KEPT

Call = Callable[[], Any]

each_isa = pytest.mark.parametrize("isa", sorted({_native.isa(), "baseline", *NARROW}), indirect=True)
"""Those with the processor's products of bfloat16, and some without."""


def flat(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [tensor for part in result for tensor in flat(part)]


def short(call: Call) -> list[Tensor]:
    with patch.object(ops, "layer", side_effect=AssertionError("the long way")):
        return flat(call())


def long(call: Call) -> list[Tensor]:
    with patch.object(direct.Direct, "run", return_value=None):
        return flat(call())


def assert_one(call: Call) -> list[Tensor]:
    found, expected = short(call), long(call)
    assert [value.dtype for value in found] == [torch.bfloat16] * len(expected)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.isnan(), b.isnan())
        assert torch.equal(a.nan_to_num(0, torch.inf, -torch.inf), b.nan_to_num(0, torch.inf, -torch.inf))
        assert torch.equal(a.signbit() & ~a.isnan(), b.signbit() & ~b.isnan())
    return found


def half(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach().bfloat16() for tensor in tensors]


@each_isa
@each_cell
@pytest.mark.parametrize("keywords", [{}, {"lengths": LENGTHS}, {"reset": RESET}, {"lengths": LENGTHS, "reset": RESET}])
@torch.no_grad()
def test_of_a_module_in_bfloat16(isa: str, cell: str, keywords: dict[str, Tensor]):
    layer = build(cell, num_layers=4)
    x, *state = half(draw(layer))
    layer.bfloat16()
    assert_one(lambda: layer(x, tuple(state), **keywords))
    assert_one(lambda: layer(x, **keywords))


@each_isa
@each_cell
@pytest.mark.parametrize("which", ["nothing", "x", "states", "both"])
@torch.no_grad()
def test_under_autocast(isa: str, cell: str, which: str):
    layer = build(cell)
    x, *state = (tensor.detach() for tensor in draw(layer))
    if which in {"x", "both"}:
        x = x.bfloat16()
    if which in {"states", "both"}:
        state = half(state)
    with torch.autocast("cpu", torch.bfloat16):
        assert_one(lambda: layer(x, tuple(state), lengths=LENGTHS))


@each_isa
@pytest.mark.parametrize(("steps", "rows"), [(1, 1), (1, 40), (30, 1), (9, 33)])
@torch.no_grad()
def test_sizes_and_strides(isa: str, steps: int, rows: int):
    layer = LSTM(17, 33, 2, batch_first=True, backend=BACKEND).bfloat16()
    x = torch.randn(rows, 2 * steps, 19).bfloat16()
    views = [x[:, :steps, :17].contiguous(), x[:, ::2, 1:-1], x[:1, :steps, :17].expand(rows, -1, -1)]
    for view in (*views, x[:, :steps, :17].transpose(0, 1).contiguous().transpose(0, 1)):
        expected = assert_one(lambda: layer(view))  # noqa: B023 - called at once
        time_major = LSTM(17, 33, 2, backend=BACKEND).bfloat16()
        time_major.load_state_dict(layer.state_dict())
        assert torch.equal(short(lambda: time_major(view.transpose(0, 1)))[0].transpose(0, 1), expected[0])  # noqa: B023


@torch.no_grad()
def test_large_results_lie_in_kept_memory():
    layer = LSTM(3, 5, backend=BACKEND).bfloat16()
    x = torch.randn(KEPT // 5 + 2, 1, 3).bfloat16()
    torch.use_deterministic_algorithms(False)
    y = assert_one(lambda: layer(x))[0]
    assert y.numel() % 2
    assert y.numel() >= KEPT
    with pytest.raises(RuntimeError, match="not resizable"):
        y.untyped_storage().resize_(0)


@each_isa
@pytest.mark.parametrize("name", CELLS)
@torch.no_grad()
def test_of_a_step(isa: str, name: str):
    if "proj_size" in CELLS[name]:
        pytest.skip("a step has no projection")
    cell = LSTMCell(D, H, cell=CELLS[name].get("cell", "lstm"), backend=BACKEND)
    x = torch.randn(B, D)
    state = tuple(torch.rand(B, H) + 1 for _ in cell.variant.cell.states)
    with torch.autocast("cpu", torch.bfloat16):
        assert_one(lambda: cell(x, state))
        assert_one(lambda: cell(x.bfloat16()))
    cell.bfloat16()
    assert_one(lambda: cell(x.bfloat16(), tuple(half(state))))


@torch.no_grad()
def test_what_bfloat16_cannot_hold():
    """Ties, subnormal numbers, what rounds to infinity, and NaN, through an identity: relu of 1 times x."""
    values = [1 + 2.0**-8, 1 + 3 * 2.0**-8, 1 + 2.0**-8 + 2.0**-20, 3e-41, 2.0**-133, 3.3961e38, torch.inf, torch.nan]
    layer = LSTM(1, 1, cell="rnn-relu", bias=False, backend=BACKEND)
    layer.get_parameter("weight_ih_l0").fill_(1)
    layer.get_parameter("weight_hh_l0").zero_()
    x = torch.tensor(values).view(1, -1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        y = assert_one(lambda: layer(x))[0]
    if not _native.multiplies_bfloat16():
        assert torch.equal(y[0, :-1], x[0, :-1].bfloat16())
    assert bool(y[0, -1].isnan())


def test_without_gradients_in_grad_mode_and_with():
    layer, x = LSTM(D, H, backend=BACKEND).bfloat16(), torch.randn(T, B, D).bfloat16()
    run = layer._direct.run
    assert run(layer._parameters, x, None, False, "all") is None
    layer.requires_grad_(False)
    assert_one(lambda: layer(x))
    assert run(layer._parameters, x.clone().requires_grad_(), None, False, "all") is None
    layer.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert_one(lambda: layer(x))
        layer.requires_grad_()
        assert run(layer._parameters, x, None, False, "all") is None
        y, _ = layer(x)
    assert y.requires_grad


@torch.no_grad()
def test_other_dtypes_do_not_fit():
    layer, x = LSTM(D, H, backend=BACKEND), torch.randn(T, B, D)

    def fits(x: Tensor, state: tuple[Tensor, ...] | None = None) -> bool:
        return layer._direct.run(layer._parameters, x, state, False, "all") is not None

    wrong, zeros = [torch.float16, torch.float64, torch.int32], torch.zeros(1, B, H)
    assert not fits(x.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert fits(x, (zeros, zeros.bfloat16()))
        assert not any(fits(x.to(dtype)) or fits(x, (zeros, zeros.to(dtype))) for dtype in wrong)
    with torch.autocast("cpu", torch.float16):
        assert not fits(x)
    layer.bfloat16()
    assert fits(x.bfloat16())
    assert not any(fits(x.to(dtype)) for dtype in (torch.float32, *wrong))
    assert not fits(x.bfloat16(), (zeros.bfloat16(), zeros))


def test_saved_tensors_that_become_bfloat16_are_an_error():
    layer, x = LSTM(D, H, backend=BACKEND), torch.randn(T, B, D).requires_grad_()
    y, _ = layer(x)
    for tensor in (x, *layer.parameters()):
        tensor.data = tensor.data.bfloat16()
    with pytest.raises((InputError, RuntimeError)):
        y.sum().backward()

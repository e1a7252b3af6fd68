"""The short way in bfloat16, of a module in bfloat16 and under autocast: the bits of the long way."""

from collections.abc import Callable, Sequence
from dataclasses import replace
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
from gatewise.spec import CELLS as CELL_TABLE
from gatewise.spec import Gate
from gatewise.spec.cells import _table

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
    """Hold the short way to the long way's bits, and NaN to being one: torch rounds it in ways of its own."""
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


@torch.no_grad()
def test_more_than_is_rounded_between_two_looks_at_signals():
    layer, x = LSTM(64, 64, backend=BACKEND, dtype=torch.bfloat16), torch.randn(300, 64, 64).bfloat16()
    assert x.numel() > 2**20
    assert_one(lambda: layer(x))
    assert_one(lambda: layer(torch.cat([x, x], 2)[..., :64]))


@each_isa
@each_cell
@pytest.mark.parametrize("which", ["nothing", "x", "states", "weights", "all"])
@torch.no_grad()
def test_under_autocast(isa: str, cell: str, which: str):
    layer = build(cell)
    x, *state = (tensor.detach() for tensor in draw(layer))
    if which in {"x", "all"}:
        x = x.bfloat16()
    if which in {"states", "all"}:
        state = half(state)
    for number, weight in enumerate(layer.parameters()):
        if which == "all" or (which == "weights" and number % 3):
            weight.data = weight.data.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert_one(lambda: layer(x, tuple(state), lengths=LENGTHS))


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "dense": Tensor.clone,
    "time first": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "one row expanded": lambda x: x[:1].expand(x.shape),
    "gaps": lambda x: torch.stack([x, x], 2).flatten(1, 2)[:, ::2],
    "columns of a wider one": lambda x: torch.cat([x, x, x], 2)[..., 17:34],
}
"""Of [B, T, 17]."""


@each_isa
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("steps", "rows"), [(1, 1), (1, 40), (30, 1), (9, 33)])
@torch.no_grad()
def test_sizes_and_strides(isa: str, layout: str, steps: int, rows: int):
    layer, time_major = (LSTM(17, 33, 2, batch_first=first, backend=BACKEND).bfloat16() for first in (True, False))
    time_major.load_state_dict(layer.state_dict())
    x = LAYOUTS[layout](torch.randn(rows, steps, 17).bfloat16())
    wide = LAYOUTS[layout](x.float())
    expected = assert_one(lambda: layer(x))
    assert torch.equal(short(lambda: time_major(x.transpose(0, 1)))[0].transpose(0, 1), expected[0])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(assert_one(lambda: layer(wide))[0], expected[0])


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_large_results_may_be_changed_in_place(dtype: torch.dtype):
    """As torch's may, also where a gradient is wanted of what they become."""
    layer = LSTM(3, 5, backend=BACKEND, dtype=dtype)
    torch.use_deterministic_algorithms(False)
    with torch.no_grad():
        y, _ = layer(torch.randn(KEPT // 5 + 2, 1, 3, dtype=dtype))
    before, weight = y.clone(), torch.full((5,), 2.0, dtype=dtype, requires_grad=True)
    assert torch.equal(y.mul_(weight), 2 * before)


@each_isa
@pytest.mark.parametrize("name", [name for name, options in CELLS.items() if "proj_size" not in options])
@torch.no_grad()
def test_of_a_step(isa: str, name: str):
    cell = LSTMCell(D, H, cell=CELLS[name].get("cell", "lstm"), backend=BACKEND)
    x = torch.randn(B, D)
    state = tuple(torch.rand(B, H) + 1 for _ in cell.variant.cell.states)
    with torch.autocast("cpu", torch.bfloat16):
        assert_one(lambda: cell(x, state))
        assert_one(lambda: cell(x.bfloat16()))
    cell.bfloat16()
    assert_one(lambda: cell(x.bfloat16(), tuple(half(state))))


# Ties and what is beside them, subnormal numbers, the largest that is finite and what rounds to infinity.
HARD = [0x3F808000, 0x3F818000, 0x3F808001, 0xBF808000, 0x00008000, 0x00018000, 0x80018001, 0x80000000]
HARD += [0x7F7F7FFF, 0x7F7F8000, 0xFF7FFFFF, 0x7F800000, 0xFF800000]
NANS = [0x7F800001, 0x7FFFFFFF, 0x7FC00000, 0xFFFFFFFF]
"""Some of which a rounding of their bits alone would make numbers."""
IDENTITY = replace(CELL_TABLE["rnn"], name="native-identity", gates=(Gate("g", "identity", ""),))


@each_isa
@torch.no_grad()
def test_what_bfloat16_cannot_hold(isa: str, monkeypatch: pytest.MonkeyPatch):
    """An identity shows them, and a second layer that its input was rounded."""
    monkeypatch.setitem(_table, IDENTITY.name, IDENTITY)
    x = torch.tensor([i - (i >> 31 << 32) for i in HARD + NANS], dtype=torch.int32).view(torch.float32).view(1, -1, 1)
    layer = LSTM(1, 1, 2, cell=IDENTITY.name, bias=False, backend=BACKEND)
    for name, weight in layer.named_parameters():
        weight.fill_(float("_ih" in name))
    with torch.autocast("cpu", torch.bfloat16):
        y, h = assert_one(lambda: layer(x))
    assert bool(y[0, len(HARD) :].isnan().all())
    expected = x[0, : len(HARD)].bfloat16()
    if not _native.multiplies_bfloat16():  # which takes subnormal numbers for zeros
        assert torch.equal(y[0, : len(HARD)], expected)
        assert torch.equal(h[0, : len(HARD)], expected)


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
    # Of another device, which there need not be.
    with patch.object(direct, "_is_any_autocast_enabled", return_value=True):
        assert not fits(x)
    layer.bfloat16()
    assert fits(x.bfloat16())
    assert not any(fits(x.to(dtype)) for dtype in (torch.float32, *wrong))
    assert not fits(x.bfloat16(), (zeros.bfloat16(), zeros))


def _resized(tensor: Tensor, size: int) -> Tensor:
    tensor = tensor.clone()
    tensor.untyped_storage().resize_(size)
    return tensor


def _misaligned(tensor: Tensor) -> Tensor:
    memory = bytearray(1 + tensor.numel() * 2)
    return torch.frombuffer(memory, dtype=torch.bfloat16, offset=1).view(tensor.shape).copy_(tensor)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda tensor: _resized(tensor, tensor.numel() * 2 - 2),
        lambda tensor: _resized(tensor, 0),
        _misaligned,
        lambda tensor: tensor.transpose(-1, -2).contiguous().transpose(-1, -2),
        lambda tensor: torch._neg_view(-tensor),  # pyright: ignore[reportPrivateImportUsage]
        lambda tensor: tensor[:-1].clone(),
    ],
    ids=["shrunk", "freed", "misaligned", "transposed", "negated", "shorter"],
)
@pytest.mark.parametrize("autocast", [False, True])
@torch.no_grad()
def test_what_cannot_be_read_does_not_fit(spoil: Callable[[Tensor], Tensor], autocast: bool):
    layer, x, state = LSTM(D, H, backend=BACKEND), torch.randn(T, B, D).bfloat16(), torch.randn(1, B, H).bfloat16()
    if not autocast:
        layer.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):

        def fits(x: Tensor, *state: Tensor) -> bool:
            return layer._direct.run(layer._parameters, x, state, False, "all") is not None

        assert fits(x, state, state)
        wrong = spoil(x)
        assert fits(wrong, state, state) == (wrong.shape[0] == T - 1)  # fewer steps are a sequence too
        assert not fits(x, state, spoil(state))
        weight = layer.get_parameter("weight_hh_l0")
        weight.data = spoil(weight.data.bfloat16())
        assert not fits(x, state, state)


@torch.no_grad()
def test_bits_do_not_depend_on_the_threads():
    layer, x = LSTM(33, 70, 2, backend=BACKEND).bfloat16(), torch.randn(6, 40, 33).bfloat16()
    alone = assert_one(lambda: layer(x))
    torch.set_num_threads(3)
    try:
        assert all(torch.equal(a, b) for a, b in zip(assert_one(lambda: layer(x)), alone, strict=True))
    finally:
        torch.set_num_threads(1)


def test_saved_tensors_that_become_bfloat16_are_an_error():
    layer, x = LSTM(D, H, backend=BACKEND), torch.randn(T, B, D).requires_grad_()
    y, _ = layer(x)
    for tensor in (x, *layer.parameters()):
        tensor.data = tensor.data.bfloat16()
    with pytest.raises(InputError, match="changed its shape or its memory"):
        y.sum().backward()

"""Everything that is checked before a tensor reaches a backend."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gatewise.errors import InputError
from gatewise.ops.call import Direction, tensors
from gatewise.spec import LSTM


class ShapeError(InputError, RuntimeError):
    """A wrong shape or device: torch.nn.LSTM raises RuntimeError for these, so this error is one as well."""


def check_layer(x: Tensor, directions: Sequence[Direction], out: Tensor | None) -> None:
    """Refuse whatever no backend may see.

    Args:
        x: the inputs [T, B, D].
        directions: h and c [B, H] and the weights of each direction; H is read from the first ``w_hh``.
        out: where the outputs should go [T, B, H × directions], or None.

    Raises:
        ShapeError: a shape or a device does not fit.
        InputError: a dtype does not fit, a tensor is not dense, or ``out`` cannot be written.
        TypeError: an argument is not a tensor.
    """
    _check_tensor("x", x)
    if x.dim() != 3:
        raise ShapeError(f"x must have 3 dimensions [T, B, D], got {x.dim()}.")
    _, batch, inputs = x.shape
    w_hh = directions[0].weights.w_hh
    _check_tensor("w_hh", w_hh)
    if w_hh.dim() != 2:
        raise ShapeError(f"w_hh must have 2 dimensions [4H, H], got {w_hh.dim()}.")
    hidden = w_hh.shape[1]
    rows = len(LSTM.gates) * hidden
    if not (hidden and inputs):
        raise ShapeError(f"input and hidden sizes must be at least 1, got D={inputs}, H={hidden}.")
    if len({weight.b_ih is None for _, weight, _ in directions}) > 1:
        raise InputError("both directions must have biases, or neither.")
    for (h, c), weight, _ in directions:
        _check("h0", h, (batch, hidden), x)
        _check("c0", c, (batch, hidden), x)
        _check("w_ih", weight.w_ih, (rows, inputs), x)
        _check("w_hh", weight.w_hh, (rows, hidden), x)
        if (weight.b_ih is None) != (weight.b_hh is None):
            raise InputError("b_ih and b_hh must both be given or both be None.")
        if weight.b_ih is not None and weight.b_hh is not None:
            _check("b_ih", weight.b_ih, (rows,), x)
            _check("b_hh", weight.b_hh, (rows,), x)
    if out is not None:
        _check("out", out, (*x.shape[:2], hidden * len(directions)), x)
        _check_out(out, tensors(x, directions))


def _check_tensor(name: str, tensor: object) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}.")
    if tensor.layout is not torch.strided or tensor.is_nested:
        raise InputError(f"{name} must be a dense tensor; sparse and nested layouts are not supported.")


def _check(name: str, tensor: object, shape: tuple[int, ...], x: Tensor) -> None:
    _check_tensor(name, tensor)
    assert isinstance(tensor, Tensor)
    if tensor.shape != shape:
        raise ShapeError(f"{name} must have shape {list(shape)}, got {list(tensor.shape)}.")
    if tensor.dtype is not x.dtype and not torch._C._is_any_autocast_enabled():
        raise InputError(f"{name} has dtype {tensor.dtype} but x has {x.dtype}; convert one of them with .to().")
    if not (tensor.is_cpu and x.is_cpu) and tensor.device != x.device:
        raise ShapeError(f"{name} is on {tensor.device} but x is on {x.device}.")


def _check_out(out: Tensor, sources: Sequence[Tensor]) -> None:
    if out.requires_grad:
        raise InputError("out must not require a gradient.")
    if _overlaps_itself(out):
        raise InputError(f"out has elements that share memory (strides {out.stride()}).")
    # Whole storages are compared, not exact ranges: a false alarm costs one copy, a miss costs wrong results.
    first, last = _storage(out)
    if out.numel() and any(begin < last and first < end for begin, end in map(_storage, sources)):
        raise InputError("out must not share memory with an input, a state or a weight.")


def _storage(tensor: Tensor) -> tuple[int, int]:
    """The first address of a tensor's memory, and one past its last."""
    storage = tensor.untyped_storage()
    return storage.data_ptr(), storage.data_ptr() + storage.nbytes()


def _overlaps_itself(tensor: Tensor) -> bool:
    """Tell whether two elements may lie at the same address (true for expanded tensors)."""
    reach = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride < reach:
                return True
            reach = stride * (size - 1) + reach
    return False

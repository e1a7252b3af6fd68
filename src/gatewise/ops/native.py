"""The compiled kernel behind the functional door.

Memory: the kernel reads and writes addresses, so everything it may assume is made true here. Shapes, dtypes, devices
and the absence of gradients have been checked before (``checks``, ``support``). What cannot be checked, here as in
torch, is another thread that resizes or replaces a tensor's memory during the call.
"""

import torch
from torch import Tensor

from gatewise import _native
from gatewise.errors import InputError
from gatewise.ops.call import Call, Direction, Result
from gatewise.spec import LSTM

_ORDER = "".join(LSTM.gate_names)
_FLOAT = 4

try:
    ISA = _native.isa()
    """The instruction set in use."""
except ValueError as error:
    raise InputError(str(error)) from None


def forward(call: Call, out: Tensor | None, isa: str | None = None) -> Result:
    """Run a layer; ``isa`` overrides the instruction set for this call."""
    directions = call.directions
    hidden = directions[0].weights.weight_hh.shape[1]
    x = _rows(call.x)
    y = out if out is not None and _rows(out) is out else _outputs(x, hidden * len(directions))
    parts = y.split(hidden, dim=-1) if len(directions) > 1 else [y]
    final = [_direction(x, direction, part, isa) for direction, part in zip(directions, parts, strict=True)]
    return Result(y if out is None or out is y else out.copy_(y), final, [])


def _direction(x: Tensor, direction: Direction, y: Tensor, isa: str | None) -> tuple[Tensor, Tensor]:
    weights = direction.weights
    # Named, because a tensor made dense must outlive the call that reads its address.
    h0, c0 = (_dense(state) for state in direction.state)
    w_ih, w_hh = _dense(weights.weight_ih), _dense(weights.weight_hh)
    b_ih, b_hh = (None if bias is None else _dense(bias) for bias in (weights.bias_ih, weights.bias_hh))
    h_n, c_n = torch.empty_like(h0), torch.empty_like(c0)
    steps, rows, inputs = x.shape
    x_time, x_row, _ = x.stride()
    y_time, y_row, _ = y.stride()
    _native.lstm_forward(
        steps,
        rows,
        inputs,
        h0.shape[1],
        x.data_ptr(),
        x_time,
        x_row,
        h0.data_ptr(),
        c0.data_ptr(),
        w_ih.data_ptr(),
        w_hh.data_ptr(),
        0 if b_ih is None else b_ih.data_ptr(),
        0 if b_hh is None else b_hh.data_ptr(),
        y.data_ptr(),
        y_time,
        y_row,
        h_n.data_ptr(),
        c_n.data_ptr(),
        direction.reverse,
        _ORDER,
        isa,
    )
    return h_n, c_n


def _outputs(x: Tensor, width: int) -> Tensor:
    """Return an uninitialised [T, B, width] in the memory order of x, so that batch-major input gives the same."""
    steps, rows, _ = x.shape
    if x.stride(1) > x.stride(0):
        return x.new_empty((rows, steps, width)).transpose(0, 1)
    return x.new_empty((steps, rows, width))


def _rows(tensor: Tensor) -> Tensor:
    """Return the tensor if its last dimension is contiguous, whatever its other strides, or else a copy."""
    tensor = _plain(tensor)
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def _dense(tensor: Tensor) -> Tensor:
    return _plain(tensor).contiguous()


def _plain(tensor: Tensor) -> Tensor:
    """Return a tensor whose memory exists and holds its values, at addresses that float32 may have."""
    _check_storage(tensor)
    if tensor.is_neg():
        tensor = tensor.resolve_neg()
    return tensor.clone() if tensor.data_ptr() % _FLOAT else tensor


def _check_storage(tensor: Tensor) -> None:
    """Refuse a tensor of which some elements lie outside its storage."""
    count = tensor.numel()
    if not count:
        return
    if not tensor.is_contiguous():
        count = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    if not tensor.data_ptr() or (tensor.storage_offset() + count) * _FLOAT > tensor.untyped_storage().nbytes():
        raise InputError("a tensor's storage is smaller than its shape; it was freed or resized, or never allocated.")

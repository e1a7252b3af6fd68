"""Packed sequences, to padded ones and back, by indexing alone: differentiable any number of times."""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from gatewise.ops import ShapeError
from gatewise.ops.checks import readable


class Padded(NamedTuple):
    """A packed sequence laid out: x [T, B, …] with zeros past each end, lengths [B], valid [T, B]."""

    x: Tensor
    lengths: Tensor
    valid: Tensor


def unpack(packed: PackedSequence) -> Padded:
    """Lay a packed sequence out, its rows in packed order: longest first.

    Raises:
        ShapeError: its batch sizes contradict themselves or its data.
    """
    _check(packed)
    sizes = packed.batch_sizes.to(packed.data.device)
    rows = int(packed.batch_sizes[0])
    valid = torch.arange(rows, device=sizes.device) < sizes[:, None]
    return Padded(spread(packed.data, valid), valid.sum(0), valid)


def spread(data: Tensor, valid: Tensor) -> Tensor:
    """Lay packed data out as [T, B, …], zeros where nothing is valid."""
    # Packed data are the valid steps in this order, so the running count is each step's place in them.
    place = (valid.flatten().cumsum(0) - 1).clamp(min=0)
    x = data[place].unflatten(0, valid.shape)
    mask = valid.reshape(*valid.shape, *(1,) * (data.dim() - 1))
    return torch.where(mask, x, torch.zeros_like(x))


def _check(packed: PackedSequence) -> None:
    if not readable(packed.batch_sizes):
        return
    sizes = packed.batch_sizes.tolist()
    falling = all(later <= earlier for earlier, later in pairwise([*sizes, 0]))
    if not (sizes and falling and sum(sizes) == len(packed.data)):
        rows = len(packed.data)
        raise ShapeError(f"the batch_sizes of a PackedSequence must fall and add up to its {rows} rows, got {sizes}.")


def pack(y: Tensor, valid: Tensor, like: PackedSequence) -> PackedSequence:
    """Pack y [T, B, …] as ``like`` is packed."""
    return like._replace(data=y[valid])

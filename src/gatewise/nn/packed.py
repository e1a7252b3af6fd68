"""Packed sequences, to padded ones and back, by indexing alone: differentiable any number of times."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence


class Padded(NamedTuple):
    """A packed sequence laid out: x [T, B, …] with zeros past each end, lengths [B], valid [T, B]."""

    x: Tensor
    lengths: Tensor
    valid: Tensor


def unpack(packed: PackedSequence) -> Padded:
    """Lay a packed sequence out, its rows in packed order: longest first."""
    sizes = packed.batch_sizes.to(packed.data.device)
    rows = int(packed.batch_sizes[0])
    valid = torch.arange(rows, device=sizes.device) < sizes[:, None]
    # Packed data are the valid steps in this order, so the running count is each step's place in them.
    place = (valid.flatten().cumsum(0) - 1).clamp(min=0)
    spread = packed.data[place].unflatten(0, valid.shape)
    mask = valid.reshape(*valid.shape, *(1,) * (packed.data.dim() - 1))
    return Padded(torch.where(mask, spread, torch.zeros_like(spread)), valid.sum(0), valid)


def pack(y: Tensor, valid: Tensor, like: PackedSequence) -> PackedSequence:
    """Pack y [T, B, …] as ``like`` is packed."""
    return like._replace(data=y[valid])

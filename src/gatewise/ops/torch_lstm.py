"""torch's own LSTM as a backend: the vanilla cell, projected or not, padded or not."""

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from gatewise.ops.call import Call, Result
from gatewise.reference import State


def run(call: Call, out: Tensor | None) -> Result:
    """Run a layer."""
    # torch knows one direction, forward, or both: a single backward one is a forward one on flipped time.
    flipped = len(call.directions) == 1 and call.directions[0].reverse
    x = _flip(call.x, call.lengths) if flipped else call.x
    initial = [torch.stack(parts) for parts in zip(*(d.state for d in call.directions), strict=True)]
    if call.lengths is None and not call.variant.proj_size:
        y, *final = torch.lstm(x, initial, *_fixed(call))
    else:
        y, final = _ragged(call, x, initial)
    y = _flip(y, call.lengths) if flipped else y
    states: list[State] = list(zip(*(part.unbind() for part in final), strict=True))
    return Result(y if out is None else out.copy_(y), states, [])


def _fixed(call: Call) -> tuple[list[Tensor], bool, int, float, bool, bool, bool]:
    """The arguments after the state: one layer, no dropout, not training, time-major."""
    flat = [weight for direction in call.directions for weight in direction.weights if weight is not None]
    bias = call.directions[0].weights.bias_ih is not None
    return flat, bias, 1, 0.0, False, len(call.directions) == 2, False


def _ragged(call: Call, x: Tensor, initial: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Run rows of unequal lengths, or projected ones, of which torch warns in its other form."""
    steps, batch = x.shape[:2]
    lengths = torch.full((batch,), steps) if call.lengths is None else call.lengths.cpu()
    lengths, order = lengths.sort(descending=True, stable=True)
    # A packed batch has no rows without steps.
    count = int((lengths > 0).sum())
    rows = order[:count].to(x.device)
    packed = pack_padded_sequence(x[:, rows], lengths[:count])
    flat, *flags, _ = _fixed(call)
    state = [part[:, rows] for part in initial]
    data, *final = torch.lstm(packed.data, packed.batch_sizes, state, flat, *flags)  # pyright: ignore[reportCallIssue, reportArgumentType] - the flags are of several types
    y, _ = pad_packed_sequence(PackedSequence(data, packed.batch_sizes), total_length=steps)
    outputs = y.new_zeros((steps, batch, y.shape[2])).index_copy(1, rows, y)
    return outputs, [a.index_copy(1, rows, b) for a, b in zip(initial, final, strict=True)]


def _flip(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Turn each row's time around, within its length."""
    if lengths is None:
        return x.flip(0)
    time = torch.arange(x.shape[0], device=x.device)[:, None]
    index = torch.where(time < lengths, lengths - 1 - time, time)
    return x.gather(0, index[..., None].expand_as(x))

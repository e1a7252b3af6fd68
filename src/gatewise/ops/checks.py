"""Everything that is checked before a tensor reaches a backend."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._C import _functorch  # pyright: ignore[reportAttributeAccessIssue]

from gatewise.errors import InputError
from gatewise.ops.call import Call, tensors
from gatewise.reference import Noise, State, Weights


class ShapeError(InputError, RuntimeError):
    """A tensor of a wrong shape, layout, dtype or device.

    torch raises RuntimeError for these, so this error is one as well.
    """


def check_call(call: Call, out: Tensor | None, *, autocast: torch.dtype | None = None) -> None:
    """Refuse whatever no backend may see.

    Args:
        call: what is to be computed; H is read from the first ``weight_ih``.
        out: where the outputs should go, or None.
        autocast: what autocast returns, which makes all dtypes the same before anything is computed; None without it.

    Raises:
        ShapeError: a shape or a device does not fit.
        InputError: a dtype does not fit, a mask is not for this cell, a tensor is not dense, or ``out`` cannot be
            written.
        TypeError: an argument is not a tensor.
    """
    x, variant, casts = call.x, call.variant, autocast is not None
    axes = "[T, B, D]" if variant.kernel is None else "[T, B, D, Y, X]"
    dims = 3 if variant.kernel is None else 5
    if x.dim() != dims:
        raise ShapeError(f"x must have {dims} dimensions {axes}, got {x.dim()}.")
    if not 1 <= len(call.directions) <= 2:
        raise InputError(f"a layer has one direction or two, got {len(call.directions)}.")
    steps, batch, inputs, *image = x.shape
    hidden = _hidden(call)
    if not (hidden and inputs):
        raise ShapeError(f"input and hidden sizes must be at least 1, got D={inputs}, H={hidden}.")
    if variant.peephole and variant.image not in {None, tuple(image)}:
        raise ShapeError(f"x has images of {image}, but the peepholes are for {list(variant.image or ())}.")
    shapes = variant.shapes(inputs, hidden)
    if call.directions[0].weights.bias_ih is None:
        shapes = {name: shape for name, shape in shapes.items() if name not in {"bias_ih", "bias_hh"}}
    sizes = [(batch, size, *image) for size in variant.state_sizes(hidden).values()]
    for direction in call.directions:
        for state in (direction.state, direction.start):
            if state is not None:
                _check_state(state, sizes, call, casts)
        _check_weights(direction.weights, shapes, x, casts)
        _check_noise(direction.noise, sizes, call, casts)
    _check_reset(call)
    if out is not None:
        _check("out", out, (steps, batch, variant.output_size(hidden) * len(call.directions), *image), x, casts)
        if autocast is not None and out.dtype is not autocast:
            raise ShapeError(f"out has dtype {out.dtype} but autocast returns {autocast}.")
        _check_out(out, tensors(call))


def _check_state(state: State, sizes: Sequence[tuple[int, ...]], call: Call, casts: bool) -> None:
    cell = call.variant.cell
    if len(state) != len(cell.states):
        names = ", ".join(f"{name}_0" for name in cell.states)
        raise InputError(f"the state of the cell {cell.name!r} is ({names}), got {len(state)} parts.")
    for name, part, shape in zip(cell.states, state, sizes, strict=True):
        _check(f"{name}_0", part, shape, call.x, casts)


def _check_noise(noise: Noise, sizes: Sequence[tuple[int, ...]], call: Call, casts: bool) -> None:
    cell = call.variant.cell
    if noise.recurrent is not None:
        _check("the recurrent mask", noise.recurrent, sizes[0], call.x, casts)
    for name, mask in (("h", noise.h), ("c", noise.c)):
        if mask is None:
            continue
        if "zoneout" not in cell.options or name not in cell.states:
            raise InputError(f"a mask of {name} is for cells with a state {name} and zoneout, unlike {cell.name!r}.")
        _check(f"the mask of {name}", mask, (call.x.shape[0], *sizes[cell.states.index(name)]), call.x, casts)


def checked_lengths(lengths: Tensor | Sequence[int], x: Tensor) -> Tensor:
    """Return the lengths of the rows as int64 on x's device.

    Args:
        lengths: [B] whole numbers.
        x: the inputs [T, B, …].

    Raises:
        InputError: one is negative or longer than T, or they are no whole numbers.
        ShapeError: there are not B of them.
    """
    if isinstance(lengths, Tensor):
        check_tensor("lengths", lengths)
        if lengths.is_meta and not x.is_meta:
            raise ShapeError(f"lengths is on meta, where it has no values, but x is on {x.device}.")
    else:
        try:
            lengths = torch.as_tensor(lengths)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"lengths must be [B] whole numbers: {error}.") from None
        lengths = lengths.long() if not lengths.numel() else lengths
    if lengths.dtype not in _INTEGERS:
        raise InputError(f"lengths must be whole numbers (int64 or a smaller integer dtype), got {lengths.dtype}.")
    if x.dim() > 1 and lengths.shape != (x.shape[1],):
        raise ShapeError(f"lengths must have shape {[x.shape[1]]} (one for each row), got {list(lengths.shape)}.")
    if readable(lengths):
        if not _functorch.is_functorch_wrapped_tensor(lengths):
            check_storage(lengths)
        steps = x.shape[0]
        for row, length in enumerate(lengths.tolist()):
            if not 0 <= length <= steps:
                raise InputError(f"lengths must be from 0 to T, {steps}; lengths[{row}] is {length}.")
    return lengths.to(x.device, torch.int64)


def check_storage(tensor: Tensor) -> None:
    """Refuse a tensor of which some elements lie outside its storage."""
    count = tensor.numel()
    if not count:
        return
    if not tensor.is_contiguous():
        count = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    if (
        not tensor.data_ptr()
        or (tensor.storage_offset() + count) * tensor.element_size() > tensor.untyped_storage().nbytes()
    ):
        raise InputError("a tensor's storage is smaller than its shape; it was freed or resized, or never allocated.")


def readable(tensor: Tensor) -> bool:
    """Whether a tensor has values that can be looked at: not while tracing, under vmap, on meta or as a fake."""
    if torch.compiler.is_compiling():
        return False
    while _functorch.is_functorch_wrapped_tensor(tensor):
        if _functorch.is_batchedtensor(tensor):
            return False
        tensor = _functorch.get_unwrapped(tensor)
    return not tensor.is_meta and type(tensor) in {Tensor, torch.nn.Parameter}


def innermost(tensor: Tensor) -> Tensor:
    """Return the tensor that transforms of ``torch.func`` have wrapped."""
    while _functorch.is_functorch_wrapped_tensor(tensor):
        tensor = _functorch.get_unwrapped(tensor)
    return tensor


_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def _hidden(call: Call) -> int:
    weight_ih, weight_hh = call.directions[0].weights[:2]
    dims = 2 if call.variant.kernel is None else 4
    for name, weight in (("weight_ih", weight_ih), ("weight_hh", weight_hh)):
        check_tensor(name, weight)
        if weight.dim() != dims:
            raise ShapeError(f"{name} must have {dims} dimensions, got {weight.dim()}.")
    return weight_ih.shape[0] // len(call.variant.cell.learned)


def _check_weights(weights: Weights, shapes: dict[str, tuple[int, ...]], x: Tensor, casts: bool) -> None:
    for name, weight in zip(weights._fields, weights, strict=True):
        if name in shapes:
            if weight is None:
                raise InputError(f"{name} must be given: {_WHOLE}.")
            _check(name, weight, shapes[name], x, casts)
        elif weight is not None:
            raise InputError(f"{name} is given, but the layer has none: {_WHOLE}.")


_WHOLE = "weights must be what Variant.shapes lists, with both biases in every direction or none"


def _check_reset(call: Call) -> None:
    if call.reset is None:
        return
    check_tensor("reset", call.reset)
    if call.reset.dtype is not torch.bool:
        raise InputError(f"reset must be bool, got {call.reset.dtype}; reset != 0 makes it one.")
    if call.reset.shape != call.x.shape[:2]:
        raise ShapeError(f"reset must have shape {list(call.x.shape[:2])} [T, B], got {list(call.reset.shape)}.")
    if call.reset.device != call.x.device:
        raise ShapeError(f"reset is on {call.reset.device} but x is on {call.x.device}.")


def check_save(save: object) -> None:
    """Refuse what says nothing about what to keep for backward."""
    if save not in ("all", "states"):
        raise InputError(f"save must be one of all, states, got {save!r}.")


def check_tensor(name: str, tensor: object) -> None:
    """Refuse what is no dense tensor."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}.")
    if tensor.layout is not torch.strided or tensor.is_nested:
        raise ShapeError(f"{name} must be a dense tensor; sparse and nested layouts are not supported.")


def _check(name: str, tensor: object, shape: Sequence[int], x: Tensor, casts: bool) -> None:
    check_tensor(name, tensor)
    assert isinstance(tensor, Tensor)
    if tensor.shape != tuple(shape):
        raise ShapeError(f"{name} must have shape {list(shape)}, got {list(tensor.shape)}.")
    if tensor.dtype is not x.dtype and not casts:
        raise ShapeError(f"{name} has dtype {tensor.dtype} but x has {x.dtype}; convert one of them with .to().")
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

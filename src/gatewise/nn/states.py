"""What users hand over beside the input: initial states and restarts, checked and laid out time-major."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import _register_namedtuple as register_namedtuple

from gatewise.errors import InputError
from gatewise.ops import ShapeError
from gatewise.ops.checks import check_tensor
from gatewise.reference import State
from gatewise.spec import CELLS, Cell, state_type


def state_of(cell: Cell) -> type[tuple[Any, ...]]:
    """Return the named tuple of a cell's states.

    From the first time on, ``torch.load`` takes it in its safe mode, and exported programs that return it can be saved.
    """
    kind = state_type(cell.states)
    if kind not in _KNOWN:
        _KNOWN.add(kind)
        torch.serialization.add_safe_globals([kind])
        register_namedtuple(kind, serialized_type_name=f"{kind.__module__}.{kind.__name__}")
    return kind


_KNOWN: set[type] = set()

for _cell in CELLS.values():
    # Another process may load what it has not made.
    state_of(_cell)


def check_input(input: object, width: int, weight: Tensor) -> None:
    """Refuse what is no sequence or batch of sequences for a layer; arguments as for ``check_features``."""
    check_tensor("input", input)
    assert isinstance(input, Tensor)
    if input.dim() not in (2, 3):
        raise InputError(f"input must have 2 or 3 dimensions, got {input.dim()}.")
    check_features(input, width, weight)


def check_features(input: Tensor, width: int, weight: Tensor, dim: int = -1) -> None:
    """Refuse an input of another width or another dtype than the weights', in torch's words.

    Args:
        input: the input.
        width: D.
        weight: a weight of the layer.
        dim: the dimension of the input that D is the size of.
    """
    if input.shape[dim] != width:
        raise ShapeError(f"input.size({dim}) must be equal to input_size. Expected {width}, got {input.shape[dim]}.")
    if input.dtype is not weight.dtype and not torch._C._is_any_autocast_enabled():
        raise InputError(
            f"RNN input dtype ({input.dtype}) does not match weight dtype ({weight.dtype}). "
            f"Convert input: input.to({weight.dtype}), or convert model: model.to({input.dtype})."
        )


def parts(hx: object, cell: Cell) -> State | None:
    """Return the parts of an initial state, or None if there is none.

    Args:
        hx: a tuple with a tensor for each of the cell's states; for a cell with one state also that tensor; or None.
        cell: the cell.

    Raises:
        ShapeError: there are not as many parts as the cell has states.
        TypeError: a part is not a tensor.
    """
    if hx is None:
        return None
    if isinstance(hx, Tensor) and len(cell.states) == 1:
        hx = (hx,)
    if not isinstance(hx, tuple | list) or len(hx) != len(cell.states):
        what = f"{len(hx)} parts" if isinstance(hx, tuple | list) else type(hx).__name__
        wanted = ", ".join(f"{name}_0" for name in cell.states)
        raise ShapeError(f"hx must be ({wanted}), the state of the cell {cell.name!r}, got {what}.")
    for name, part in zip(cell.states, hx, strict=True):
        check_tensor(f"{name}_0", part)
    return tuple(hx)


def unsqueezed(hx: State | None, cell: Cell, dims: int) -> State | None:
    """Return the state of a single sequence, whose parts have this many dimensions, as that of a batch of one."""
    if hx is None:
        return None
    for name, part in zip(cell.states, hx, strict=True):
        if part.dim() != dims:
            raise ShapeError(f"for a single sequence {name}_0 must have {dims} dimensions, got {part.dim()}.")
    return tuple(part.unsqueeze(1) for part in hx)


def split(hx: State, shapes: Mapping[str, Sequence[int]]) -> list[State]:
    """Return the state of each layer and direction.

    Args:
        hx: the parts, layers and directions first.
        shapes: the shape that each of them must have, by the state's name.
    """
    check_shapes(hx, shapes)
    return list(zip(*(part.unbind() for part in hx), strict=True))


def check_shapes(hx: State, shapes: Mapping[str, Sequence[int]]) -> None:
    """Refuse a state of which a part has another shape than this, by the state's name."""
    for (name, shape), part in zip(shapes.items(), hx, strict=True):
        if part.shape != tuple(shape):
            raise ShapeError(f"{name}_0 must have shape {list(shape)}, got {list(part.shape)}.")


def time_major(reset: Tensor, shape: Sequence[int], batch_first: bool) -> Tensor:
    """Return a reset mask as [T, B].

    Args:
        reset: the mask as the user gave it.
        shape: what it must be shaped like: the input's dimensions of time and batch, in the input's order.
        batch_first: whether the batch comes first.
    """
    check_tensor("reset", reset)
    if reset.shape != tuple(shape):
        raise ShapeError(f"reset must have shape {list(shape)}, got {list(reset.shape)}.")
    if len(shape) == 1:
        return reset.unsqueeze(1)
    return reset.transpose(0, 1) if batch_first else reset

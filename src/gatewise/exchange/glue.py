"""The nodes around layers that compute nothing: they turn, cut and join, or make the sizes for those that do.

Each takes a node and returns what its result stands for. Numbers of the file are really turned and cut; the data and
the states are only followed.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from gatewise.exchange.values import INPUT_AXES, Final, Known, Lengths, Node, Sizes, State, Stream, Value, Zeros

_END = 1 << 30  # exporters write the largest int32 or int64 for the end
_FEW = 8  # sizes are handled up to this many; more are no shape


def turned(node: Node, work: Callable[[np.ndarray], np.ndarray]) -> Value | None:
    """The result for what is turned and cut as numbers are, or only followed; None for the data and for sizes."""
    value = node.value(0)
    try:
        if isinstance(value, Known):
            return Known(work(value.array))
        if isinstance(value, State):
            return value if value.default is None else State(work(value.default))
    except (ValueError, IndexError, TypeError, ZeroDivisionError) as error:
        node.refuse(f"its sizes do not fit: {error}.")
    return value if isinstance(value, Zeros | Lengths) else None


def sizes_of(node: Node, index: int) -> Sizes:
    """An input that must be a shape."""
    value = node.value(index)
    if isinstance(value, Sizes):
        return value
    if isinstance(value, Known) and value.array.dtype.kind == "i" and value.array.size <= _FEW and value.array.ndim < 2:
        return Sizes(tuple(int(size) for size in value.array.reshape(-1)), value.array.ndim == 0)
    return node.refuse(f"its input {index} must be a shape.")


def identity(node: Node) -> Value:
    """Identity, and Dropout as it is after training."""
    training = node.input(2)
    if node.op == "Dropout" and training is not None and (not isinstance(training, Known) or training.array.any()):
        node.refuse("it drops; gatewise reads models that are trained.")
    return node.value(0)


def cast(node: Node) -> Value:
    """Cast of sizes, lengths and constants."""
    types = {1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_}
    to = node.attributes.get("to")
    value = node.value(0)
    if to not in types:
        node.refuse("gatewise reads casts to float32, int32, int64 and bool.")
    if isinstance(value, Known):
        return Known(value.array.astype(types[to]))
    whole = isinstance(value, Sizes | Lengths) and to in {6, 7}
    tokens = isinstance(value, Stream) and "features" not in value.axes and to in {6, 7}
    same = isinstance(value, Stream | State | Final) and "features" in getattr(value, "axes", ("features",)) and to == 1
    if not (whole or tokens or same or isinstance(value, Zeros)):
        node.refuse("it changes the type of the data.")
    return value


def shape(node: Node) -> Value:
    """Shape of the data or of constants."""
    value = node.value(0)
    if isinstance(value, Known):
        dims: tuple[int | str, ...] = value.array.shape
    elif isinstance(value, Stream):
        dims = tuple(axis if axis in INPUT_AXES else size_of(node, value, axis) for axis in value.axes)
    else:
        node.refuse("gatewise follows the shape of the data only.")
    return Sizes(dims[slice(node.attributes.get("start", 0), node.attributes.get("end"))])


def size_of(node: Node, value: Stream, axis: str) -> int:
    """The size of an axis that must be known."""
    if axis == "one":
        return 1
    return value.sizes[axis] if axis in value.sizes else node.refuse(f"the size of the {axis} is not known.")


def squeeze(node: Node) -> Value:
    """Squeeze: of the data only axes that are certainly one."""
    axes = node.integers("axes", 1)
    value = node.value(0)
    if isinstance(value, Sizes):
        return Sizes(value.dims, scalar=len(value.dims) == 1)
    if isinstance(value, Final) and axes in {(0,), (-3,)}:
        return ended(node, value, 0, only=True)
    result = turned(node, lambda array: np.squeeze(array, axes))
    if result is not None or not isinstance(value, Stream):
        return result or node.refuse("gatewise does not follow this squeeze.")
    if axes is None:
        node.refuse("it does not say which axes.")
    gone = {axis % len(value.axes) for axis in axes}
    if any(_size(value, value.axes[axis]) != 1 for axis in gone):
        node.refuse(f"the axes {sorted(gone)} are not one wide.")
    return replace(value, axes=tuple(axis for k, axis in enumerate(value.axes) if k not in gone))


def _size(value: Stream, axis: str) -> int | None:
    return 1 if axis == "one" else value.sizes.get(axis)


def unsqueeze(node: Node) -> Value:
    """Unsqueeze of anything but the data."""
    axes = node.integers("axes", 1) or node.refuse("it does not say which axes.")
    value = node.value(0)
    if isinstance(value, Sizes):
        return Sizes(value.dims)
    return turned(node, lambda array: np.expand_dims(array, axes)) or node.refuse("it adds an axis to the data.")


def transpose(node: Node) -> Value:
    """Transpose."""
    value = node.value(0)
    perm = node.attributes.get("perm")
    if isinstance(value, Stream):
        perm = list(range(len(value.axes)))[::-1] if perm is None else perm
        if sorted(perm) != list(range(len(value.axes))):
            node.refuse(f"its perm is {perm}, the data has {len(value.axes)} axes.")
        return replace(value, axes=tuple(value.axes[axis] for axis in perm))
    if isinstance(value, Final):
        return value
    return turned(node, lambda array: np.transpose(array, perm)) or node.refuse("it turns what is no data.")


def reshape(node: Node) -> Value:
    """Reshape: of the data only to put directions and features side by side, or to drop an axis that is one wide."""
    value, wanted = node.value(0), sizes_of(node, 1).dims
    if isinstance(value, Stream):
        return _reshaped(node, value, wanted)
    if all(isinstance(size, int) for size in wanted):
        result = turned(
            node, lambda array: array.reshape([_copied(node, array, k, wanted) for k in range(len(wanted))])
        )
        if result is not None:
            return result
    return value if isinstance(value, Zeros) else node.refuse("gatewise does not follow this reshape.")


def _copied(node: Node, array: np.ndarray, axis: int, wanted: tuple[int | str, ...]) -> int:
    size = wanted[axis]
    if size == 0:
        return array.shape[axis]
    return size if isinstance(size, int) else node.refuse("its shape is not constant.")


def _reshaped(node: Node, value: Stream, wanted: tuple[int | str, ...]) -> Stream:
    wide = tuple(axis for axis in value.axes if axis in {*INPUT_AXES, "features"} or _size(value, axis) != 1)
    beside = value.axes[-2:] == ("directions", "features")
    merged = tuple(axis for axis in value.axes if axis != "directions") if beside else wide
    for axes in (value.axes, wide, merged):
        result = _beside(value, axes)
        if _says(value.axes, result, wanted):
            return result
    return node.refuse(f"it makes {list(wanted)} of the axes {', '.join(value.axes)}.")


def _says(before: tuple[str, ...], result: Stream, wanted: tuple[int | str, ...]) -> bool:
    """Whether a shape says the axes of a result: their sizes or names, 0 for what stays in its place, −1 for one."""
    return (
        len(result.axes) == len(wanted)
        and wanted.count(-1) <= 1
        and all(
            size in {-1, axis} or size == _size(result, axis) or (size == 0 and before[place : place + 1] == (axis,))
            for place, (axis, size) in enumerate(zip(result.axes, wanted, strict=True))
        )
    )


def _beside(value: Stream, axes: tuple[str, ...]) -> Stream:
    """The data with directions and features in one axis, if it had both."""
    if "directions" not in value.axes or "directions" in axes:
        return replace(value, axes=axes)
    width = value.sizes["directions"] * value.sizes["features"]
    return replace(value, axes=axes, sizes={**value.sizes, "features": width})


def gather(node: Node) -> Value:
    """Gather of one size, one state, one time step."""
    value = node.value(0)
    if isinstance(value, Zeros):
        return value
    position = node.array(1, "the position")
    if isinstance(value, Sizes):
        return _some_sizes(node, value, position)
    if isinstance(value, Stream):
        return _one_step(node, value, position)
    axis = node.attributes.get("axis", 0)
    if isinstance(value, Final) and axis == 0 and position.ndim == 0:
        return ended(node, value, int(position))
    return turned(node, lambda array: _taken(array, position, axis)) or node.refuse("gatewise does not follow it.")


def _some_sizes(node: Node, value: Sizes, position: np.ndarray) -> Sizes:
    try:
        dims = np.array(np.array(value.dims, object)[position], object)
    except IndexError:
        node.refuse("it asks for more sizes than there are.")
    return Sizes(tuple(dims.reshape(-1)), scalar=position.ndim == 0)


def _one_step(node: Node, value: Stream, position: np.ndarray) -> Stream:
    axis = node.axis(len(value.axes))
    if position.ndim == 0 and value.axes[axis] == "one" and int(position) in {0, -1}:
        return replace(value, axes=(*value.axes[:axis], *value.axes[axis + 1 :]))
    if position.ndim != 0 or int(position) != -1:
        node.refuse("of the data, gatewise follows the last time step only.")
    return _last(node, value, axis, keep=False)


def _taken(array: np.ndarray, position: np.ndarray, axis: int) -> np.ndarray:
    if position.size > array.shape[axis]:  # a short list of positions could otherwise ask for any amount of memory
        raise ValueError("it takes more than there is")
    return np.take(array, position, axis)


def ended(node: Node, value: Final, position: int, only: bool = False) -> Stream:
    """The data at the end of each row: the final h of the last of some layers."""
    count = len(value.layers)
    stream = value.layers[-1]
    if stream.sizes.get("directions", 1) != 1:
        node.refuse("it takes final states of two directions, which are at different ends of a row.")
    if value.name != "h" or position not in {-1, count - 1} or (only and count > 1):
        node.refuse("of final states, gatewise follows the h of the last layer only.")
    batch = next(axis for axis in stream.axes if axis in INPUT_AXES and axis != stream.axes[0])
    return replace(stream, axes=(batch, "features"), take=(len(stream.steps), "final"))


def _last(node: Node, value: Stream, axis: int, *, keep: bool) -> Stream:
    """The last time step. That the axis is time is checked where all is known."""
    if value.axes[axis] not in INPUT_AXES or value.take is not None:
        node.refuse("gatewise follows the last time step only.")
    left = ("one",) if keep else ()
    return replace(
        value,
        axes=(*value.axes[:axis], *left, *value.axes[axis + 1 :]),
        take=(len(value.steps), f"last of {value.axes[axis]}"),
    )


def cut(node: Node) -> Value:
    """Slice: of the data nothing, or the last time step."""
    value = node.value(0)
    starts, ends = (node.integers(name, index) for name, index in (("starts", 1), ("ends", 2)))
    axes, steps = (node.integers(name, index) for name, index in (("axes", 3), ("steps", 4)))
    if starts is None or ends is None or len(starts) != len(ends):
        node.refuse("its starts and ends are not constants of the file.")
    axes = tuple(range(len(starts))) if axes is None else axes
    steps = (1,) * len(starts) if steps is None else steps
    if len(axes) != len(starts) or len(steps) != len(starts) or 0 in steps:
        node.refuse("its starts, ends, axes and steps do not fit.")
    pieces = dict(zip(axes, (slice(*piece) for piece in zip(starts, ends, steps, strict=True)), strict=True))
    if isinstance(value, Sizes) and list(pieces) == [0]:
        return Sizes(value.dims[pieces[0]])
    if isinstance(value, Stream):
        return _stream_cut(node, value, pieces)
    result = turned(node, lambda array: array[_index(array.ndim, pieces)])
    return result or node.refuse("gatewise does not follow this slice.")


def _index(rank: int, pieces: Mapping[int, slice]) -> tuple[slice, ...]:
    places = {axis % rank: piece for axis, piece in pieces.items()}
    return tuple(places.get(axis, slice(None)) for axis in range(rank))


def _stream_cut(node: Node, value: Stream, pieces: Mapping[int, slice]) -> Stream:
    for axis, piece in pieces.items():
        if piece.step == 1 and piece.start == 0 and piece.stop >= _END:
            continue
        if piece.step != 1 or piece.start != -1 or piece.stop < _END or not -4 <= axis < len(value.axes):
            node.refuse("of the data, gatewise follows the last time step only.")
        value = _last(node, value, axis % len(value.axes), keep=True)
    return value


def split(node: Node) -> tuple[Value, ...]:
    """Split of constants and states."""
    value = node.value(0)
    if isinstance(value, Zeros):
        return (value,) * node.results
    array = value.array if isinstance(value, Known) else value.default if isinstance(value, State) else None
    if isinstance(value, State) and array is None:
        return (value,) * node.results
    if array is None:
        return node.refuse("it cuts the data.")
    axis = node.axis(array.ndim)
    sizes = node.integers("split", 1)
    places = node.results if sizes is None else np.cumsum(sizes)[:-1]
    try:
        parts = np.split(array, places, axis)
    except ValueError as error:
        return node.refuse(f"its sizes do not fit: {error}.")
    return tuple(Known(part) if isinstance(value, Known) else State(part) for part in parts)


def concat(node: Node) -> Value:
    """Concat of sizes, states and constants."""
    values = [node.value(index) for index in range(len(node.inputs))]
    if any(isinstance(value, Sizes) for value in values):
        return Sizes(tuple(size for index in range(len(values)) for size in sizes_of(node, index).dims))
    if all(isinstance(value, Final) for value in values):
        finals = [value for value in values if isinstance(value, Final)]
        if len({value.name for value in finals}) > 1 or node.attributes.get("axis") not in {0, -3}:
            node.refuse("it joins final states in a way that gatewise does not follow.")
        return Final(tuple(layer for value in finals for layer in value.layers), finals[0].name)
    if all(isinstance(value, Known) for value in values):
        arrays = [value.array for value in values if isinstance(value, Known)]
        try:
            return Known(np.concatenate(arrays, node.axis(max(1, arrays[0].ndim))))
        except ValueError as error:
            node.refuse(f"its sizes do not fit: {error}.")
    if all(isinstance(value, Zeros) for value in values):
        return Zeros()
    return node.refuse("it joins pieces of the data.")


def filled(node: Node) -> Value:
    """ConstantOfShape and Expand: zeros of any size, sizes of a few; what is written for initial states."""
    value = node.value(0)
    if node.op == "ConstantOfShape":
        sizes_of(node, 0)
        number = node.attributes.get("value")
        return Zeros() if number is None or not number.any() else node.refuse("gatewise follows zeros only.")
    if isinstance(value, State | Zeros):
        return value
    if isinstance(value, Known) and not value.array.any():
        return Zeros()
    if isinstance(value, Known) and isinstance(node.value(1), Sizes):
        return State(value.array)  # a start that is the same for every row
    return node.refuse("gatewise follows the expansion of states only.")


def greater(node: Node) -> Value:
    """Whether a row has any steps."""
    if node.value(0) == Lengths() and not node.array(1, "its bound").any():
        return Lengths(positive=True)
    return node.refuse("gatewise follows lengths > 0 only.")


def where(node: Node) -> Value:
    """The final states of rows that have steps, the initial ones of the others, which our layers return anyway."""
    condition, chosen, other = (node.value(index) for index in range(3))
    if condition == Lengths(positive=True) and isinstance(chosen, Final) and isinstance(other, State | Zeros):
        return chosen
    return node.refuse("gatewise follows the choice of final states by lengths only.")


def constant(node: Node) -> Value:
    """Constant."""
    values = [value for name, value in node.attributes.items() if name.startswith("value")]
    if len(values) != 1 or isinstance(values[0], str):
        node.refuse("it must hold numbers.")
    array = np.asarray(values[0])
    narrow = {"f": np.float32, "i": np.int64}
    plain = not isinstance(values[0], np.ndarray)  # value_float and the like
    return Known(array.astype(narrow[array.dtype.kind]) if plain else array)


GLUE: Mapping[str, Callable[[Node], Value | tuple[Value, ...]]] = MappingProxyType(
    {
        "Cast": cast,
        "Concat": concat,
        "Constant": constant,
        "ConstantOfShape": filled,
        "Dropout": identity,
        "Expand": filled,
        "Gather": gather,
        "Greater": greater,
        "Identity": identity,
        "Reshape": reshape,
        "Shape": shape,
        "Slice": cut,
        "Split": split,
        "Squeeze": squeeze,
        "Transpose": transpose,
        "Unsqueeze": unsqueeze,
        "Where": where,
    }
)

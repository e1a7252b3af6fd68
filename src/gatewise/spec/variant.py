"""A cell with its options: all that is fixed before a weight is known."""

import json
import sys
from collections import namedtuple
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache, lru_cache
from typing import Any

from gatewise.errors import InputError
from gatewise.spec.cell import Cell, Gate, Option
from gatewise.spec.cells import BUILT_IN, CELLS, LSTM, find

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Variant:
    """A cell with its options. Make one with ``variant``, which checks them.

    Attributes:
        cell: the row of the table.
        peephole: whether the gates see the cell state.
        layer_norm: whether the pre-activations and the cell state are normalised (Ba, Kiros and Hinton 2016).
        clip: the bound of the pre-activations, or None.
        proj_size: P, the width of the recurrent projection of the output (Sak, Senior and Beaufays 2014), or 0.
        nonrecurrent_proj_size: N, the width of Sak's second projection, which only the output has, or 0.
        bias: whether there are biases.
        kernel: height and width of the window, where products are 2-D convolutions (Shi et al. 2015); else None.
        image: height and width of the images, which peepholes of a convolutional cell are tied to; else None.
        peeping: the gates that peep, in the order of their rows.
        text: all of these as one line of JSON, which ``parse_variant`` reads; of a registered cell the whole row.
    """

    cell: Cell = LSTM
    peephole: bool = False
    layer_norm: bool = False
    clip: float | None = None
    proj_size: int = 0
    nonrecurrent_proj_size: int = 0
    bias: bool = True
    kernel: tuple[int, int] | None = None
    image: tuple[int, int] | None = None
    peeping: tuple[str, ...] = field(init=False, repr=False, compare=False)
    text: str = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.init}
        peeping = tuple(gate.name for gate in self.cell.learned if gate.peeps) if self.peephole else ()
        object.__setattr__(self, "peeping", peeping)
        object.__setattr__(self, "text", json.dumps(values | {"cell": _written(self.cell)}, sort_keys=True))

    @property
    def vanilla(self) -> bool:
        """Whether the arithmetic is torch.nn.LSTM's, projection aside."""
        plain = (self.cell.update, self.cell.gates, self.cell.output_squash, self.cell.sees)
        same = plain == (LSTM.update, LSTM.gates, LSTM.output_squash, LSTM.sees)
        return same and not (self.peephole or self.layer_norm or self.clip is not None or self.kernel)

    def state_sizes(self, hidden: int) -> dict[str, int]:
        """The width of each state: h is as wide as the projection, all else as wide as the cell."""
        return {name: self.proj_size or hidden if name == "h" else hidden for name in self.cell.states}

    def output_size(self, hidden: int) -> int:
        """The width of the output: h, and the second projection beside it."""
        return (self.proj_size or hidden) + self.nonrecurrent_proj_size

    def shapes(self, inputs: int, hidden: int) -> Shapes:
        """The parameters of one layer and direction, by name, in order.

        Args:
            inputs: D, the width of the input.
            hidden: H, the width of the cell.

        Example:
            >>> from gatewise.spec import variant
            >>> variant("cifg").shapes(2, 5)["weight_peephole"]
            (10,)
        """
        rows = len(self.cell.learned) * hidden
        kernel, image = self.kernel or (), self.image or ()
        recurrent = self.proj_size or hidden
        shapes: Shapes = {"weight_ih": (rows, inputs, *kernel), "weight_hh": (rows, recurrent, *kernel)}
        if self.bias:
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
        if self.proj_size:
            shapes["weight_hr"] = (self.proj_size, hidden)
        if self.nonrecurrent_proj_size:
            shapes["weight_hp"] = (self.nonrecurrent_proj_size, hidden)
        if self.peeping:
            shapes["weight_peephole"] = (len(self.peeping) * hidden, *image)
        if self.cell.sees:
            seen = len(self.cell.sees) * hidden
            shapes["weight_gates"] = (seen, seen)
        if self.layer_norm:
            shapes |= {"weight_ln_ih": (rows,), "weight_ln_hh": (rows,)}
            shapes |= {"weight_ln_cell": (hidden,), "bias_ln_cell": (hidden,)}
        return shapes


def variant(
    cell: str = "lstm",
    *,
    peephole: bool | None = None,
    layer_norm: bool = False,
    clip: float | None = None,
    proj_size: int = 0,
    nonrecurrent_proj_size: int = 0,
    bias: bool = True,
    kernel: tuple[int, int] | None = None,
    image: tuple[int, int] | None = None,
) -> Variant:
    """Choose a cell and its options.

    Args:
        cell: a name from ``CELLS``.
        peephole: whether gates see the cell state; None for the cell's own default.
        layer_norm: whether to normalise the pre-activations and the cell state.
        clip: a bound above 0 for the pre-activations, or None.
        proj_size: width of the recurrent projection, or 0 for none.
        nonrecurrent_proj_size: width of the second projection, or 0 for none; only beside the first.
        bias: whether there are biases.
        kernel: window of a convolutional cell.
        image: size of a convolutional cell's images; needed for its peepholes.

    Raises:
        InputError: no such cell, an option that is not defined for it, or a value out of range.

    Example:
        >>> from gatewise.spec import variant
        >>> variant("nig").peeping
        ('f', 'o')
    """
    return _checked(
        find(cell),
        peephole=peephole,
        layer_norm=layer_norm,
        clip=clip,
        proj_size=proj_size,
        nonrecurrent_proj_size=nonrecurrent_proj_size,
        bias=bias,
        kernel=kernel,
        image=image,
    )


def _checked(
    row: Cell,
    *,
    peephole: bool | None,
    layer_norm: bool,
    clip: float | None,
    proj_size: int,
    nonrecurrent_proj_size: int,
    bias: bool,
    kernel: tuple[int, int] | None,
    image: tuple[int, int] | None,
) -> Variant:
    check_flag("bias", bias)
    check_flag("layer_norm", layer_norm)
    _check_sizes(proj_size, nonrecurrent_proj_size)
    _check_clip(clip)
    if peephole is None:
        peephole = row.peephole
    else:
        check_flag("peephole", peephole)
    wanted: dict[Option, object] = {"peephole": peephole, "layer_norm": layer_norm, "projection": proj_size}
    for option, value in wanted.items():
        if value:
            check_option(row, option)
    if clip is not None:
        check_option(row, "clip")
    if kernel is not None:
        _check_convolution(row, wanted, image)
    elif image is not None:
        raise InputError("image is for convolutional cells: give kernel as well.")
    bound = None if clip is None else float(clip)
    return Variant(row, peephole, layer_norm, bound, proj_size, nonrecurrent_proj_size, bias, kernel, image)


def _check_sizes(proj_size: object, nonrecurrent_proj_size: object) -> None:
    for name, size in {"proj_size": proj_size, "nonrecurrent_proj_size": nonrecurrent_proj_size}.items():
        if not isinstance(size, int) or isinstance(size, bool):
            raise TypeError(f"{name} should be of type int, got: {type(size).__name__}.")
        if size < 0:
            raise InputError(f"{name} must be 0 or more, got {size}.")
    if nonrecurrent_proj_size and not proj_size:
        raise InputError("nonrecurrent_proj_size needs a recurrent projection beside it: give proj_size as well.")


def _check_clip(clip: object) -> None:
    if clip is None:
        return
    if isinstance(clip, bool) or not isinstance(clip, int | float) or not 0 < clip <= sys.float_info.max:
        raise InputError(f"clip must be a finite number above 0 or None, got {clip!r}.")


def _check_convolution(cell: Cell, wanted: Mapping[Option, object], image: object) -> None:
    for option in ("layer_norm", "projection"):
        if wanted[option]:
            raise InputError(f"{option} is not defined for convolutional cells.")
    if cell.sees:
        raise InputError(f"the cell {cell.name!r} cannot be convolutional.")
    if wanted["peephole"] and image is None:
        raise InputError(
            "the peepholes of a convolutional cell are tied to the size of its images: give image as well."
        )


@lru_cache(maxsize=64)
def parse_variant(text: str) -> Variant:
    """Read ``Variant.text``."""
    values: dict[str, Any] = json.loads(text)
    for name in ("kernel", "image"):
        if values[name] is not None:
            values[name] = tuple(values[name])
    cell: Any = values.pop("cell")
    return _checked(find(cell) if isinstance(cell, str) else _read(cell), **values)


def _written(cell: Cell) -> str | dict[str, Any]:
    """A cell as JSON knows it: its name, or its row where another process may have another cell of this name."""
    if cell.name in BUILT_IN and CELLS[cell.name] == cell:
        return cell.name
    values = asdict(cell)
    row = {item.name: values[item.name] for item in fields(cell) if item.init}
    return row | {"options": sorted(cell.options)}


def _read(row: dict[str, Any]) -> Cell:
    """Undo ``_written`` for a row."""
    gates: Any = [Gate(**gate) for gate in row.pop("gates")]
    return Cell(gates=gates, **row)


def check_option(cell: Cell, option: Option) -> None:
    """Refuse an option that is not defined for a cell; the text names the cells for which it is."""
    if option not in cell.options:
        able = ", ".join(row.name for row in CELLS.values() if option in row.options)
        raise InputError(f"{option} is not defined for the cell {cell.name!r}; it is for {able}.")


def check_flag(name: str, value: object) -> None:
    """Refuse a value that is no bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} should be of type bool, got: {type(value).__name__}.")


@cache
def state_type(states: tuple[str, ...]) -> type[tuple[Any, ...]]:
    """Return the named tuple of a cell's states, such as (h, c)."""
    name = "_".join(("State", *states))
    return namedtuple(name, states, module=__name__)  # pyright: ignore[reportUntypedNamedTuple] - known at run time


def __getattr__(name: str) -> type[tuple[Any, ...]]:
    # A pickled state names its class; this is where the class is found again.
    kind, *states = name.split("_")
    if kind != "State" or not states or not all(state.isidentifier() for state in states):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return state_type(tuple(states))

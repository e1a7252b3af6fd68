"""The parameters of the modules: their making, their names, and what they start as."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from gatewise.errors import InputError
from gatewise.nn.arguments import check_number
from gatewise.spec import Shapes, Variant

Scheme = Literal["torch", "orthogonal", "chrono"]


def create(
    module: nn.Module,
    variant: Variant,
    sizes: tuple[int, int, int, int],
    *,
    learned_state: bool = False,
    device: torch.device | str | int | None,
    dtype: torch.dtype | None,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Give a module the parameters of all its layers and directions, not yet drawn.

    Args:
        module: the module.
        variant: the cell and its options.
        sizes: D, H, the number of layers and that of directions.
        learned_state: whether there is a start for each state as well.
        device: where to create them.
        dtype: their dtype.

    Returns:
        The kinds of the weights, and what the names of each layer and direction end in, in the order of the states'
        first dimension.
    """
    inputs, hidden, layers, directions = sizes
    kinds: tuple[str, ...] = ()
    ends: list[str] = []
    for layer in range(layers):
        shapes = variant.shapes(directions * variant.output_size(hidden) if layer else inputs, hidden)
        kinds = tuple(shapes)
        if learned_state:
            shapes |= {f"{name}_0": (size,) for name, size in variant.state_sizes(hidden).items()}
        for end in (f"_l{layer}", f"_l{layer}_reverse")[:directions]:
            add(module, shapes, end, device=device, dtype=dtype)
            ends.append(end)
    return kinds, tuple(ends)


def add(
    module: nn.Module,
    shapes: Shapes,
    end: str,
    *,
    device: torch.device | str | int | None,
    dtype: torch.dtype | None,
) -> None:
    """Give a module a parameter of each shape, not yet drawn; ``end``: what its name has after the kind."""
    if isinstance(dtype, torch.dtype) and dtype.is_complex:
        raise InputError(f"dtype must be real, such as torch.float32; no cell is defined for {dtype}.")
    for kind, shape in shapes.items():
        module.register_parameter(kind + end, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))


def rows(module: nn.Module, kinds: Sequence[str], ends: Sequence[str]) -> list[list[Tensor]]:
    """Return a module's parameters of these kinds, of each layer and direction, whatever they are parametrized by."""
    return [[getattr(module, kind + end) for kind in kinds] for end in ends]


@dataclass(frozen=True)
class Init:
    """How the parameters of a layer start.

    Attributes:
        scheme: "torch" draws every weight and bias from U(−1/√H, 1/√H), in torch's order; "orthogonal" makes the
            recurrent matrix of each gate orthogonal after that; "chrono" sets the biases of the forget and input gates
            for memories of 1 to ``max_lag`` steps after that (Tallec and Ollivier 2018).
        forget_bias: the bias of the forget gate, or None to leave it as drawn.
        max_lag: the longest memory that "chrono" plans for, in steps; at least 3.
    """

    scheme: Scheme = "torch"
    forget_bias: float | None = None
    max_lag: int = 100

    def check(self, variant: Variant) -> None:
        """Refuse what is unknown, or means nothing for the cell.

        Raises:
            InputError: an unknown scheme, a value out of range, or a bias that the cell does not have.
        """
        if self.scheme not in get_args(Scheme):
            raise InputError(f"init must be one of {', '.join(get_args(Scheme))}, got {self.scheme!r}.")
        if isinstance(self.max_lag, bool) or not isinstance(self.max_lag, int) or self.max_lag < 3:
            raise InputError(f"max_lag must be a whole number of at least 3, got {self.max_lag!r}.")
        cell = variant.cell
        if self.forget_bias is not None:
            check_number("forget_bias", self.forget_bias)
            if "f" not in cell.gate_names:
                raise InputError(f"forget_bias means nothing for the cell {cell.name!r}: it learns no forget gate.")
        if self.scheme == "chrono":
            if cell.update != "additive" or cell.gate("f").kind == "open":
                raise InputError(f"init='chrono' means nothing for the cell {cell.name!r}: it has no such forget gate.")
            if self.forget_bias is not None:
                raise InputError("init='chrono' and forget_bias both set the bias of the forget gate: choose one.")
        if not variant.bias and (self.scheme == "chrono" or self.forget_bias is not None):
            raise InputError("init='chrono' and forget_bias need biases: they cannot go with bias=False.")

    def shown(self) -> dict[str, tuple[object, object]]:
        """The value and the default of each argument of the modules, by name."""
        return {
            "forget_bias": (self.forget_bias, Init.forget_bias),
            "init": (self.scheme, Init.scheme),
            "max_lag": (self.max_lag, Init.max_lag),
        }


@torch.no_grad()
def redraw(
    module: nn.Module, kinds: Sequence[str], ends: Sequence[str], *, variant: Variant, hidden: int, init: Init
) -> None:
    """Draw all parameters of a module anew.

    Args:
        module: the module. What it has parametrized is assigned, through the parametrization's inverse.
        kinds: the kinds of its parameters.
        ends: what the names of each layer and direction end in.
        variant: the cell and its options.
        hidden: H.
        init: how.
    """
    for end in ends:
        drawn = {kind: torch.empty_like(getattr(module, kind + end)) for kind in kinds}
        reset(drawn, variant, hidden, init)
        for kind, value in drawn.items():
            if is_parametrized(module, kind + end):
                setattr(module, kind + end, value)
            else:
                getattr(module, kind + end).copy_(value)


def reset(parameters: Mapping[str, Tensor], variant: Variant, hidden: int, init: Init) -> None:
    """Draw the parameters of one layer and direction.

    Args:
        parameters: the tensors by their kind, as ``Variant.shapes`` lists them; others start from zero.
        variant: the cell and its options.
        hidden: H.
        init: how. The bound is 1/√H, times the window's size under the root for a convolutional cell.
    """
    bound = 1 / math.sqrt(hidden * math.prod(variant.kernel or ()))
    for kind, parameter in parameters.items():
        if kind.startswith("weight_ln"):
            nn.init.ones_(parameter)
        elif kind.startswith(("weight", "bias_ih", "bias_hh")):
            nn.init.uniform_(parameter, -bound, bound)
        else:
            nn.init.zeros_(parameter)
    if init.scheme == "orthogonal":
        for block in parameters["weight_hh"].split(hidden):
            # QR is defined for these two dtypes only.
            kind = torch.float64 if block.dtype is torch.float64 else torch.float32
            block.copy_(nn.init.orthogonal_(torch.empty(block.shape, dtype=kind, device=block.device)))
    if init.forget_bias is not None:
        _set_bias(parameters, variant, hidden, "f", float(init.forget_bias))
    if init.scheme == "chrono":
        # A gate that keeps the cell for τ steps has the bias log(τ − 1).
        like = parameters["bias_ih"][:hidden]
        lag = torch.empty_like(like).uniform_(1, init.max_lag - 1).log()
        for gate, value in (("f", lag), ("i", -lag)):
            if gate in variant.cell.gate_names:
                _set_bias(parameters, variant, hidden, gate, value)


def _set_bias(
    parameters: Mapping[str, Tensor], variant: Variant, hidden: int, gate: str, value: Tensor | float
) -> None:
    """Give a gate's two biases this sum."""
    rows = variant.cell.rows(gate, hidden)
    parameters["bias_ih"][rows] = value
    parameters["bias_hh"][rows] = 0.0

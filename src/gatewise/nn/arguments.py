"""The arguments that the layers share, checked with one voice."""

import math
from collections.abc import Mapping
from numbers import Real
from operator import attrgetter

import torch
from torch import Tensor

from gatewise.errors import InputError
from gatewise.spec import Cell, Variant, check_option


def check_size(name: str, value: object) -> None:
    """Refuse what is no whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} should be of type int, got: {type(value).__name__}.")
    if value < 1:
        raise InputError(f"{name} must be greater than zero, got {value}.")


def check_projection(proj_size: int, hidden_size: int) -> None:
    """Refuse a projection that is no narrower than what it projects."""
    if proj_size >= hidden_size:
        raise InputError(f"proj_size must be smaller than hidden_size, {hidden_size}, got {proj_size}.")


def probability(name: str, value: object) -> float:
    """Return a probability of dropping something.

    Raises:
        InputError: it is no number from 0 to 1.
        TypeError: it is nothing like a number; torch tells the two apart as well.
    """
    if not isinstance(value, Real | str | Tensor):
        raise TypeError(f"{name} must be a number from 0 to 1, got {value!r}.")
    number = _float(value)
    if not 0 <= number <= 1:
        raise InputError(f"{name} must be a number from 0 to 1, got {value!r}.")
    return number


def zoneout_pair(value: object, cell: Cell) -> tuple[float, float]:
    """Return the probabilities that zoneout keeps an old h and an old c, from one number or two."""
    parts = value if isinstance(value, tuple | list) else (value, value)
    if len(parts) != 2:
        raise InputError(f"zoneout must be a number from 0 to 1 or a pair of them for h and c, got {value!r}.")
    pair = probability("zoneout", parts[0]), probability("zoneout", parts[1])
    if any(pair):
        check_option(cell, "zoneout")
    if "c" in cell.states:
        return pair
    if pair[1] and isinstance(value, tuple | list):
        raise InputError(f"zoneout={value!r} keeps an old c, but the cell {cell.name!r} has none: give one number.")
    return pair[0], 0.0


def of_variant(path: str, what: str) -> property:
    """Make a property of a module that reads its variant's, such as "cell.name"."""
    read = attrgetter(f"variant.{path}")

    def refuse(module: object, value: object) -> None:
        argument = path.removesuffix(".name")
        raise AttributeError(f"{argument} cannot be changed after construction; make another module.")

    return property(read, refuse, doc=what)


def check_generator(generator: object) -> None:
    """Refuse what is no generator of random numbers."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {type(generator).__name__}.")


def check_number(name: str, value: object) -> None:
    """Refuse what is no finite number."""
    if not math.isfinite(_float(value)):
        raise InputError(f"{name} must be a finite number or None, got {value!r}.")


def _float(value: object) -> float:
    """The value of a number, infinity if it is too large an int; NaN for all else."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def shown_cell(variant: Variant, default: str = "lstm") -> dict[str, tuple[object, object]]:
    """The value and the default of the arguments that choose the cell and what every module can do to it, by name."""
    return {
        "cell": (variant.cell.name, default),
        "peephole": (variant.peephole, variant.cell.peephole),
        "clip": (variant.clip, None),
        "layer_norm": (variant.layer_norm, False),
    }


def differing(shown: Mapping[str, tuple[object, object]]) -> str:
    """Write the arguments that differ from their defaults as torch prints them.

    Args:
        shown: value and default of each argument, by name.
    """
    return "".join(f", {name}={value!r}" for name, (value, default) in shown.items() if value != default)

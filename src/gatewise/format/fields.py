"""What the fields of a block may hold: a constraint beside each field, and one place that checks them all."""

import reprlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Protocol, get_type_hints

from gatewise.errors import InputError
from gatewise.spec import BUILT_IN

MAX_SIZE = 1 << 24
"""Larger sizes than any LSTM has; a file that states one is damaged."""

MAX_LAYERS = 1024
"""Every layer has a list of weights, which is made before the file's weights are looked at."""


MAX_SPAN = 1 << 16
"""Steps in time: padding is made of them, which no weight in the file pays for."""


class Constraint(Protocol):
    """What a field may hold."""

    @property
    def text(self) -> str:
        """What is accepted, to follow "must be"."""
        ...

    def accepts(self, value: object) -> bool:
        """Whether a value is."""
        ...


@dataclass(frozen=True)
class Whole:
    """A whole number, from ``least`` to ``most``."""

    least: int = 1
    most: int = MAX_SIZE

    @property
    def text(self) -> str:
        """What is accepted."""
        return f"a whole number from {self.least} to {self.most}"

    def accepts(self, value: object) -> bool:
        """Whether a value is: True is 1 in Python, but no number in JSON."""
        return type(value) is int and self.least <= value <= self.most


@dataclass(frozen=True)
class Positive:
    """A finite number above 0; ``or_none``: or none at all."""

    or_none: bool = False

    @property
    def text(self) -> str:
        """What is accepted."""
        return "a finite number above 0" + (" or null" if self.or_none else "")

    def accepts(self, value: object) -> bool:
        """Whether a value is."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            # An int may be too large to be a float.
            return 0 < value <= sys.float_info.max
        return self.or_none and value is None


@dataclass(frozen=True)
class Truth:
    """True or false."""

    text: str = "true or false"

    def accepts(self, value: object) -> bool:
        """Whether a value is."""
        return isinstance(value, bool)


@dataclass(frozen=True)
class BuiltInCell:
    """The name of a cell that every installation has."""

    text: str = f"one of {', '.join(BUILT_IN)} (registered cells are not for files)"

    def accepts(self, value: object) -> bool:
        """Whether a value is."""
        return isinstance(value, str) and value in BUILT_IN


Size = Annotated[int, Whole()]
Layers = Annotated[int, Whole(most=MAX_LAYERS)]
Span = Annotated[int, Whole(most=MAX_SPAN)]
Width = Annotated[int, Whole(least=0)]
Flag = Annotated[bool, Truth()]
Resolved = Annotated[bool | None, Truth()]
"""True or false in the end; None until the block has resolved it."""
CellName = Annotated[str, BuiltInCell()]
Number = Annotated[float, Positive()]
Bound = Annotated[float | None, Positive(or_none=True)]


@cache
def constraints(block: type) -> Mapping[str, Constraint]:
    """The fields of a block and what each may hold, from its annotations.

    Example:
        >>> from gatewise.format import Linear
        >>> constraints(Linear)["bias"].text
        'true or false'
    """
    hints = get_type_hints(block, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items() if hasattr(hint, "__metadata__")}


def check_fields(block: type, kind: str, values: Mapping[str, object]) -> None:
    """Refuse a value that a field of a block may not hold.

    Raises:
        InputError: the text names the block, the field and what is accepted.
    """
    for name, constraint in constraints(block).items():
        if not constraint.accepts(values[name]):
            raise InputError(f"{name} of the block {kind!r} must be {constraint.text}, not {shown(values[name])}.")


def shown(value: object) -> str:
    """Any value from a file, short and printable, for an error's text."""
    return reprlib.repr(value)

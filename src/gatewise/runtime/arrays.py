"""What the runtime takes for an array, in one place: refused by the argument's name, else of the core's dtype."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatewise.errors import InputError


def array(name: str, value: object) -> NDArray[Any]:
    """Return NumPy's view of an argument.

    Raises:
        InputError: it has none; of ragged lists, say.
    """
    try:
        return np.asarray(value)
    except ValueError as error:
        raise InputError(f"{name} is no array: {error}") from None


def float32(name: str, given: NDArray[Any]) -> NDArray[np.float32]:
    """Return real numbers as float32.

    Raises:
        InputError: they are something else.
    """
    if given.dtype.kind not in "fiub":
        raise InputError(f"{name} must be real numbers, got {given.dtype}.")
    return given.astype(np.float32, copy=False)


def int64(name: str, given: NDArray[Any]) -> NDArray[np.int64]:
    """Return whole numbers as int64; those above its range come out negative.

    Raises:
        InputError: they are something else, which would be cut off.
    """
    if given.dtype.kind not in "iu" and given.size:
        raise InputError(f"{name} must be whole numbers, got {given.dtype}.")
    return given.astype(np.int64, copy=False)

"""What a long stream needs on its way: columns of numbers on disk for a while, and work done ahead.

The files have no name, so that nothing of them is left, however the process ends.
"""

import contextlib
import os
import tempfile
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar, cast, final

import numpy as np

T = TypeVar("T")
_END = object()


@final
class Scratch:
    """A column that grows, or one of known length whose rows are written in any order.

    Args:
        folder: Where the file lies.
        dtype: Of the values.
        rows: The length, if it is known; its room on the disk is then taken at once.
        stack: Closes the file at its end.

    Raises:
        OSError: The disk is full, or the folder cannot be written.
    """

    def __init__(self, folder: Path, dtype: Any, stack: contextlib.ExitStack, rows: int | None = None):
        self.dtype, self.rows = np.dtype(dtype), rows or 0
        self._file = stack.enter_context(tempfile.TemporaryFile(dir=folder, buffering=0))  # noqa: SIM115
        if rows:
            self._reserve(rows * self.dtype.itemsize)

    def append(self, values: np.ndarray) -> None:
        """Adds values below."""
        data = np.ascontiguousarray(values, self.dtype).data.cast("B")
        while data:
            data = data[self._file.write(data) :]
        self.rows += len(values)

    def read(self, start: int, stop: int) -> np.ndarray:
        """The values of some rows, in memory."""
        out = np.empty(stop - start, self.dtype)
        view, at = out.data.cast("B"), start * self.dtype.itemsize
        while view:
            count = os.preadv(self._file.fileno(), [view], at)
            view, at = view[count:], at + count
        return out

    def mapped(self) -> np.ndarray:
        """All rows, to write in any order; pages of the file, not memory of the process."""
        return np.asarray(np.memmap(self._file, self.dtype, "r+", shape=(self.rows,)))

    def close(self) -> None:
        """Gives its room on the disk back."""
        self._file.close()

    def _reserve(self, size: int) -> None:
        # A page for which the disk has no room would end the process when it is written through the map.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._file.fileno(), 0, size)
            return
        zeros = bytes(2**20)
        for start in range(0, size, len(zeros)):
            self._file.write(zeros[: size - start])


def ahead(things: Generator[T]) -> Generator[T]:
    """The same things, each made by a second thread while the one before is worked on.

    Example:
        >>> list(ahead(x * x for x in range(4)))
        [0, 1, 4, 9]
    """
    with ThreadPoolExecutor(1, "gatewise-ahead") as pool, contextlib.closing(things) as making:
        coming = pool.submit(next, making, _END)
        try:
            while (thing := coming.result()) is not _END:
                coming = pool.submit(next, making, _END)
                yield cast(T, thing)
        finally:
            wait([coming])

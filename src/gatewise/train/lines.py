"""Lines of JSON at the end of a file that others read while it grows."""

import contextlib
import errno
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from io import FileIO
from numbers import Integral, Real
from pathlib import Path

from gatewise.errors import InputError

_PATIENCE = 1.0
"""Seconds that a reader, who looks whether a log is being written, may hold its lock; it takes microseconds."""


class LineFile:
    """Appends lines, each by one write that a reader sees at once, and outlives a full disk.

    A write that fails, which is said the first time, is tried no more, and the next line is again: it replaces what the
    failed one left, behind a line ``{"event": "gap", "lines": 3}`` that tells how many are missing. Lines are not
    synced to the disk: a kill loses none of them, a power cut the last.

    Args:
        path: the file; its folder is made.
        resume: append to what is there, without a last line that was cut.
        say: told that a line cannot be written.

    Raises:
        InputError: the file cannot be opened, or another process is writing it.
    """

    def __init__(self, path: Path, *, resume: bool, say: Callable[[str], None]):
        self._path, self._say = path, say
        self._lost, self._said = 0, False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: what is not on its way to the disk now would be lost with the process.
            self._file = FileIO(path, "a+")
        except OSError as error:
            raise InputError(f"the log {path} cannot be written: {error.strerror}.") from error
        try:
            _lock(self._file, path)
            self._size = _whole_lines(self._file) if resume else 0
            self._file.truncate(self._size)
        except BaseException as error:
            self._file.close()
            if isinstance(error, OSError):
                raise InputError(f"the log {path} cannot be written: {error.strerror}.") from error
            raise

    def write(self, line: str) -> None:
        """Append a line, or count it as lost."""
        gap = line_of("gap", {"lines": self._lost}) + "\n" if self._lost else ""
        data = f"{gap}{line}\n".encode()
        try:
            if self._lost:
                self._file.truncate(self._size)
            if self._file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._lost += 1
            if not self._said:
                self._said = True
                self._say(f"the log {self._path} cannot be written: {error.strerror}. The training goes on without it.")
            return
        self._size += len(data)
        self._lost = 0

    def close(self) -> None:
        """Close the file, without what a failed write left."""
        with contextlib.suppress(OSError):
            if self._lost:
                self._file.truncate(self._size)
        self._file.close()


def line_of(event: str, values: Mapping[str, object]) -> str:
    """One line: the event, the time in UTC, and the values as JSON can say them.

    Example:
        >>> line_of("step", {"loss": float("nan")})  # doctest: +ELLIPSIS
        '{"event": "step", "time": "...Z", "loss": null}'
    """
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps(_plain({"event": event, "time": now, **values}), allow_nan=False)


def _plain(value: object) -> object:
    """The value in JSON's types. Null for NaN and infinities: text among numbers would spoil a reader's column."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    return str(value)


def _whole_lines(file: FileIO) -> int:
    """The bytes up to the end of the last whole line."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 65536)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _lock(file: FileIO, path: Path) -> None:
    """Hold the file, so that nobody else writes it and a reader knows that the process lives.

    File systems without locks, and Windows, go without.
    """
    try:
        import fcntl
    except ImportError:
        return
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                return
            if time.monotonic() > until:
                raise InputError(f"another process is writing {path}: it trains in this folder.") from None
            time.sleep(0.01)
        else:
            return

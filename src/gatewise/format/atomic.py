"""Durable writing: a path holds either its old content or all of the new one, whatever happens in between."""

import contextlib
import os
import stat
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

from gatewise.errors import InputError


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Generator[BinaryIO]:
    """Open a file for writing that takes its place only once it is complete and on disk.

    Raises:
        InputError: the file cannot be written, or something that is no file is there; what was there before is
            untouched and nothing is left beside it. Or the file has its new content, but the folder cannot be made to
            last; the text says so.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "note.txt"
        >>> with atomic_file(target) as file:
        ...     _ = file.write(b"all of it")
        >>> target.read_bytes()
        b'all of it'
    """
    path = Path(path)
    _check_place(path)
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    try:
        sync_folder(path.parent)
    except OSError as error:
        raise InputError(f"{path} is written, but may not outlast a power cut: {error.strerror}.") from error


def _check_place(path: Path) -> None:
    """Refuse what no file can be called, and what is there and is none: a device would be replaced by a file."""
    if not path.name:
        raise InputError(f"{str(path)!r} cannot be written: it is not the name of a file.")
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # nothing is there, or opening tells why
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a device or a pipe"
        raise InputError(f"{path} cannot be written: it is {kind}, not a file.")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlast a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""The place of a run, checked before any work is done. No torch, so that a wrong one is told at once."""

import contextlib
import tempfile
from pathlib import Path

from gatewise.errors import InputError


def check_folder(folder: str | Path, *, force: bool) -> None:
    """Refuse a run folder that cannot be written, before any work is done.

    Raises:
        InputError: it exists and is not an empty folder (with ``force``: not a folder), or cannot be made.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; a run needs a folder of its own.")
    if not force and folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"the output folder {folder} is not empty: give another --out, or --force to replace the run.")
    made = [parent for parent in folder.parents if not parent.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.").cleanup()
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be made: {error.strerror}.") from error
    finally:
        # The fit may yet fail, and what fails leaves nothing behind.
        for parent in made:
            with contextlib.suppress(OSError):
                parent.rmdir()

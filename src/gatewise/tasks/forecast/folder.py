"""The place of a run, checked before any work is done. No torch, so that a wrong one is told at once."""

import contextlib
import tempfile
from pathlib import Path

from gatewise.errors import InputError
from gatewise.format import LOG_NAME, MODEL_NAME

CHECKPOINTS = "checkpoints"
"""The folder in a run folder from which a run goes on."""


def check_folder(folder: str | Path, *, force: bool, resume: bool = False) -> None:
    """Refuse a run folder that cannot be written, before any work is done.

    Args:
        folder: the run folder.
        force: whether it may hold a run, which is replaced.
        resume: whether it may hold checkpoints, from which the run goes on.

    Raises:
        InputError: it exists and is not an empty folder (with ``force``: not a folder; with ``resume``: holds no
            run), or cannot be made.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; a run needs a folder of its own.")
    if force and resume:
        raise InputError("give --force to replace the run or --resume to go on with it, not both.")
    if not force and folder.is_dir() and any(folder.iterdir()):
        _check_held(folder, resume=resume)
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


def _check_held(folder: Path, *, resume: bool) -> None:
    saved = (folder / CHECKPOINTS).is_dir()
    if resume and not saved and not (folder / LOG_NAME).exists():
        raise InputError(f"{folder} holds no run to go on with: begin one with --force, or give another --out.")
    if not resume and saved and not (folder / MODEL_NAME).exists():
        raise InputError(
            f"{folder} holds a run that was stopped: --resume goes on with it, --force replaces it, another --out "
            "leaves it."
        )
    if not resume:
        raise InputError(f"the output folder {folder} is not empty: give another --out, or --force to replace the run.")

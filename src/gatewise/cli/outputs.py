"""Where a command writes, looked at before any work is done."""

import glob
from pathlib import Path

from gatewise.errors import InputError


def check_output(output: str, *inputs: str | None) -> None:
    """Refuse to write over what the command reads: what is there otherwise is replaced, but a user's data never.

    Args:
        output: a file.
        inputs: files, run folders for the model in them, and None for what is not given.

    Raises:
        InputError: the output is one of them.
    """
    place = Path(output)
    if not place.is_file():
        return
    from gatewise.format import MODEL_NAME  # NumPy, which no help needs

    for given in inputs:
        if given is None:
            continue
        path = Path(given).expanduser()
        matched = map(Path, glob.glob(str(path), recursive=True))
        if any(each.is_file() and place.samefile(each) for each in (path, path / MODEL_NAME, *matched)):
            raise InputError(f"{output} is what the command reads, and would be replaced: write to another file.")

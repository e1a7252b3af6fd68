"""The command line: dataclass arguments become commands. No logic of its own, and no torch until a command runs.

Exit codes: 0 done, 1 something in the user's data or arguments is wrong, 2 the command was not understood, 130 stopped
with Ctrl-C.
"""

import sys
from collections.abc import Sequence

from gatewise.cli.codes import INTERRUPTED
from gatewise.errors import InputError, LostProcessError

_WITHOUT_TORCH = ("narwhals", "polars", "rich", "tyro", "uniplot")
"""What the commands need that do not train."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    if args == ["--version"]:
        from importlib.metadata import version

        print(f"gatewise {version('gatewise')}")
        return 0
    try:
        from gatewise.cli.commands import parse

        return parse(args).run(args)
    except ModuleNotFoundError as error:
        extra = "cli" if error.name in _WITHOUT_TORCH else "tune" if error.name == "optuna" else "train"
        return _fail(f"this command needs {error.name}: pip install 'gatewise[{extra}]'")
    except KeyboardInterrupt:
        if not _who():
            print("\nstopped; nothing was written.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (head, say) has what it wanted.
        sys.stderr.close()
        return 0
    except (InputError, LostProcessError, OSError) as error:
        return _fail(_said(error))


def _said(error: Exception) -> str:
    if not isinstance(error, OSError):
        return str(error)
    if error.filename is None:
        raise error
    # A name too long for a file, a folder that this user may not enter: found wherever a path is looked at first.
    return f"{error.filename} cannot be used: {error.strerror}. Check the path, and who may read it."


def _fail(text: str) -> int:
    # Whole in one write, because several processes may have the same to say.
    sys.stderr.write(f"gatewise{_who()}: {text}\n")
    return 1


def _who() -> str:
    """Which of torchrun's processes this is, in words; nothing for the first, or the only one."""
    from gatewise.machine import process

    try:
        rank, size = process()
    except InputError:
        return ""
    return f" (process {rank + 1} of {size})" if rank else ""

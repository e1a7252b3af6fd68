"""The command line: dataclass arguments become commands. No logic of its own, and no torch until a command runs.

Exit codes: 0 done, 1 something in the user's data or arguments is wrong, 2 the command was not understood, 130 stopped
with Ctrl-C.
"""

import sys
from collections.abc import Sequence

from gatewise.cli.codes import INTERRUPTED
from gatewise.errors import InputError

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
    except InputError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        print("\nstopped; nothing was written.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (head, say) has what it wanted.
        sys.stderr.close()
        return 0


def _fail(text: str) -> int:
    print(f"gatewise: {text}", file=sys.stderr)
    return 1

"""What several benches take on the command line, checked before anything is measured."""

import argparse
from pathlib import Path

from bench.cases import THREADS


def in_turns(name: str, description: str | None) -> argparse.ArgumentParser:
    """Parse the numbers of threads, and how many rounds of turns are made."""
    parser = argparse.ArgumentParser(
        f"python -m {name}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=thread_counts, default=THREADS, metavar="N[,N]", help="default: 1,2")
    parser.add_argument("--rounds", type=positive, default=7, metavar="N", help="rounds of turns (default: 7)")
    return parser


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def thread_counts(text: str) -> tuple[int, ...]:
    try:
        numbers = {int(part) for part in text.split(",")}
    except ValueError:
        numbers = {0}
    if not numbers <= set(THREADS):
        raise argparse.ArgumentTypeError(f"the cases are for {', '.join(map(str, THREADS))}, got {text!r}")
    return tuple(sorted(numbers))


def destination(text: str) -> Path:
    """A file that is written at the end: whether it can be is told now, not after minutes."""
    path = Path(text)
    there = path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
        if not there:
            path.unlink()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text} cannot be written: {error.strerror}") from None
    return path

"""Exit codes with a meaning of their own, and the signals behind them.

0 is done, 1 the user's data or arguments, 2 a command not understood.
"""

from collections.abc import Generator
from contextlib import contextmanager
from signal import Signals, signal
from types import FrameType

INTERRUPTED = 130
"""Ctrl-C, as a shell reports it."""


def stopped_by(number: int) -> int:
    """The code of a command that a signal has ended in good order, as a shell reports it: 130, 143 for SIGTERM."""
    return 128 + number


def name_of(number: int) -> str:
    """A signal for people."""
    return "Ctrl-C" if number == Signals.SIGINT else Signals(number).name


@contextmanager
def raised_on_sigterm(error: BaseException) -> Generator[None]:
    """SIGTERM raises an error, so that what is half done is removed."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise error

    before = signal(Signals.SIGTERM, stop)
    try:
        yield
    finally:
        signal(Signals.SIGTERM, before)

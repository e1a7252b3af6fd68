"""Exit codes with a meaning of their own; 0 is done, 1 the user's data or arguments, 2 a command not understood."""

from signal import Signals

INTERRUPTED = 130
"""Ctrl-C, as a shell reports it."""


def stopped_by(signal: int) -> int:
    """The code of a command that a signal has ended in good order, as a shell reports it: 130, 143 for SIGTERM."""
    return 128 + signal


def name_of(signal: int) -> str:
    """A signal for people."""
    return "Ctrl-C" if signal == Signals.SIGINT else Signals(signal).name

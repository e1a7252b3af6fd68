"""Exit codes with a meaning of their own; 0 is done, 1 the user's data or arguments, 2 a command not understood."""

INTERRUPTED = 130
"""Ctrl-C, as a shell reports it."""

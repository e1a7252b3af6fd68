"""The error class for what a user can mend (their data, arguments or files), and that of a group of processes."""


class InputError(ValueError):
    """Something in the user's data, arguments or files is wrong.

    The text is one or two sentences that name what is wrong, where, and what is accepted. The command line prints it
    without a traceback and exits with 1.
    """


class LostProcessError(RuntimeError):
    """Processes that work together cannot go on, because one of them has ended or cannot be reached."""

"""Ctrl-C and SIGTERM as wishes that are granted between two steps."""

import signal
import threading
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any, Self, final

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@final
class Stop:
    """While it is entered, the first Ctrl-C or SIGTERM is noted instead of obeyed.

    A second Ctrl-C raises KeyboardInterrupt at once. One that is entered inside another tells it too: the inner may be
    over before it could grant the wish. In threads other than the main one, which cannot take signals,
    nothing changes.

    Attributes:
        signal: the number of the signal that came, 0 for none.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.getsignal(number)
                signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            # None stands for a handler that was not set from Python, which cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def wishes(self) -> list[float]:
        """For each of SIGNALS whether it is the one that came, as numbers that processes can add up."""
        return [float(self.signal == number) for number in SIGNALS]

    @staticmethod
    def granted(wishes: Sequence[float]) -> int:
        """The signal that stops all processes, by the sums of their wishes; 0 for none."""
        # SIGTERM before Ctrl-C: whoever sends it waits for a few seconds only.
        return max((number for number, wish in zip(SIGNALS, wishes, strict=True) if wish), default=0)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or number
        outer = getattr(self._before[number], "__self__", None)
        if isinstance(outer, Stop):
            outer._note(number, frame)

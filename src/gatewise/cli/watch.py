"""``gatewise watch``: the curves of a run in the terminal, redrawn while it trains."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import tyro

from gatewise.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from gatewise.format import LogReader

_PAUSE = 0.5
"""Seconds from one picture to the next."""

_GRACE = 15.0
"""Seconds for torchrun, say, to start a killed process again."""


@dataclass
class Watch:
    """Draw the curves of a run in the terminal, and redraw them while it trains.

    RUN is a run folder, whose log.jsonl is read; the training takes no notice. The picture shows loss, learning rate,
    gradient norm (before clipping), values a second, time left, the best epoch and the last checkpoint. It ends with
    the training, or with Ctrl-C, which ends only the picture.

    Examples:
        gatewise watch runs/data

        gatewise watch runs/data --once
    """

    folder: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """a run folder"""
    once: bool = False
    """draw one picture and end, as when the output is no terminal"""

    def run(self, words: Sequence[str]) -> int:
        """Draw."""
        from rich.console import Console

        from gatewise.format import LogReader

        reader, console = LogReader(self.folder), Console()
        reader.read()
        if reader.log.damaged and not reader.log.last_time:
            raise InputError(f"{reader.path} is not the log of a run: give a run folder, or the log.jsonl of one.")
        if not self.once and console.is_terminal and not console.is_dumb_terminal:
            _follow(reader, console)
        sys.stdout.write(_printable(_draw(reader, console), console.encoding) + "\n")
        return 0


def _follow(reader: "LogReader", console: "Console") -> None:
    """Redraw until the run ends or Ctrl-C, on a screen of its own, so that the terminal is left as it was."""
    from rich.live import Live
    from rich.text import Text

    alive = time.monotonic()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        try:
            while reader.log.ending is None and time.monotonic() - alive < _GRACE:
                if reader.writing() is not False:
                    alive = time.monotonic()
                text = _printable(_draw(reader, console), console.encoding)
                live.update(Text.from_ansi(text, no_wrap=True, overflow="crop"), refresh=True)
                time.sleep(_PAUSE)
                reader.read()
        except KeyboardInterrupt:
            return


def _draw(reader: "LogReader", console: "Console") -> str:
    from gatewise.cli.curves import Look, picture

    width, height = console.size
    color = console.color_system is not None and not console.no_color
    look = Look(width, height, color, braille=console.encoding.lower().startswith("utf"))
    name = reader.path.resolve().parent.name
    return picture(reader.log, name, look, now=datetime.now(UTC), writing=reader.writing())


def _printable(text: str, encoding: str) -> str:
    """The text with a question mark for each letter that the output cannot have."""
    return text.encode(encoding, "replace").decode(encoding)

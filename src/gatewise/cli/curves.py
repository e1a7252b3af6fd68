"""The picture of a run in a terminal: how far it is, and the curves of its log, as plain text of a given size."""

import math
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any

import numpy as np
from uniplot import plot_to_string

from gatewise.cli.show import printable
from gatewise.format import Log
from gatewise.format.log import Line, number, time_of

SILENT = 120
"""Seconds without a new line that are worth a word; long epochs of many steps write one in ten."""

_SIDE_BY_SIDE = 76
"""Characters for three curves whose titles are not cut in the middle of a number."""

_RECENT = 5
"""Epochs that tell how long the next will take."""

_CODE = re.compile(r"\x1b\[[\d;]*m")
_FRAME = str.maketrans("┌┐└┘─│", "++++-|")

Curve = tuple[list[float], list[float]]
"""Epochs, where 2.5 is the middle of the third, and values."""


@dataclass(frozen=True)
class Look:
    """What the terminal can show.

    Attributes:
        width: in characters.
        height: in lines.
        color: whether lines are told apart by colour, otherwise by letters.
        braille: whether it has Unicode; otherwise the picture is ASCII.
    """

    width: int = 80
    height: int = 24
    color: bool = False
    braille: bool = True


def picture(log: Log, name: str, look: Look, *, now: datetime, writing: bool | None) -> str:
    """Draw a run.

    Args:
        log: what happened so far.
        name: of the run.
        look: what the terminal can show; the picture leaves its last line free, and leaves out curves if it is small.
        now: for the time since the last line.
        writing: whether a process still writes the log, if that is known.
    """
    width = max(look.width, 10)
    head = [*textwrap.wrap(printable(_state(log, name, writing)), width)]
    for text in (_times(log, now, writing), _marks(log, now)):
        head += textwrap.wrap(printable(text), width)
    small = _small_curves(log)
    free = look.height - 1 - len(head)
    if width >= _SIDE_BY_SIDE and free >= 15:
        # Each picture has four lines that are not its curves: frame, epochs, and title or legend.
        low = (free - 8) // 3
        lines = [*head, *_loss(log, look, width, free - 8 - low), *_row(small, look, width, low)]
    else:
        told = ", ".join(f"{title} {_short(curve[1][-1])}" for title, curve in small)
        head += textwrap.wrap(told, width)
        free = look.height - 1 - len(head)
        lines = [*head, *(_loss(log, look, width, free - 4) if width >= 30 and free >= 6 else ())]
    text = "\n".join(lines)
    return text if look.braille else text.translate(_FRAME)


def _state(log: Log, name: str, writing: bool | None) -> str:
    """How far it is, or how it ended."""
    ending = log.ending
    epoch, step = _position(log)
    plan = log.begin.get("plan", {})
    of_epochs, of_steps = (f" of {plan[key]}" if key in plan else "" for key in ("epochs", "steps"))
    if ending is None:
        here = f"epoch {epoch}{of_epochs}, step {step}{of_steps}" if step else f"epoch {epoch}{of_epochs}"
        return f"{name}: {'training' if writing is not False else 'stopped without a word (killed?) in'} {here}"
    done = f"after {len(log.epochs)}{of_epochs} epochs"
    how = {"end": "ended", "interrupted": f"interrupted ({ending.get('signal', 'by its user')})"}
    return f"{name}: {how.get(ending['event'], 'failed')} {done}{_colon(ending.get('error'))}"


def _colon(text: object) -> str:
    return f": {text}" if text else ""


def _times(log: Log, now: datetime, writing: bool | None) -> str:
    began, last = time_of(log.begin), log.last_time
    if began is None or last is None:
        return "the log has no beginning yet"
    if log.ending or writing is False:
        return f"took {_duration((last - began).total_seconds())}"
    parts = [f"for {_duration((now - began).total_seconds())}"]
    left = _left(log)
    if left is not None:
        parts.append(f"at most {_duration(left)} left")
    if (silence := (now - last).total_seconds()) > SILENT:
        parts.append(f"nothing written for {_duration(silence)}")
    return ", ".join(parts)


def _left(log: Log) -> float | None:
    """Seconds to the end, if it does not stop early; None without a plan or a step."""
    plan = log.begin.get("plan", {})
    epochs, steps = number(plan, "epochs"), number(plan, "steps")
    epoch, step = _position(log)
    recent = [number(line, "seconds") for line in log.epochs[-_RECENT:]]
    recent = recent or [number(line, "seconds") * steps for line in log.steps[-100:]]
    left = (epochs - epoch + 1 - step / steps) * float(np.mean(recent)) if recent and steps else math.nan
    return max(0.0, left) if math.isfinite(left) else None


def _marks(log: Log, now: datetime) -> str:
    """The best epoch, the last checkpoint, and what a reader should know of the log."""
    parts: list[str] = []
    if best := log.best:
        kind = "validation" if math.isfinite(number(best, "val_loss")) else "training"
        loss = number(best, "val_loss" if kind == "validation" else "train_loss")
        parts.append(f"best epoch {best.get('epoch')} ({kind} loss {_short(loss)})")
    if saved := log.last("checkpoint"):
        time = time_of(saved)
        ago = f", {_duration((now - time).total_seconds())} ago" if time and not log.ending else ""
        parts.append(f"last checkpoint: {_place(saved)}{ago}")
    if resumed := log.last("resume"):
        parts.append(f"resumed at {_place(resumed)}")
    if log.damaged:
        parts.append(f"{log.damaged} damaged line{'s' * (log.damaged != 1)} in the log")
    return ", ".join(parts)


def _place(line: Line) -> str:
    epoch, step = line.get("epoch", "?"), line.get("step", "?")
    return f"end of epoch {epoch - 1}" if step == 0 and isinstance(epoch, int) else f"epoch {epoch}, step {step}"


def _position(log: Log) -> tuple[int, int]:
    """The epoch it is in, and the steps of it that are done."""
    places = [(1, 0)]
    places += [(int(number(line, "epoch")), int(number(line, "step"))) for line in log.steps[-1:]]
    places += [(int(number(line, "epoch")) + 1, 0) for line in log.epochs[-1:]]
    return max(places)


def _small_curves(log: Log) -> list[tuple[str, Curve]]:
    def speed(line: Line) -> float:
        seconds = number(line, "seconds")
        return number(line, "values") / seconds if seconds > 0 else math.nan

    # Where epochs are short, few of their steps have a line.
    steps = _steps_per_epoch(log)
    lines = log.epochs if len(log.epochs) > len(log.steps) else log.steps
    curves = [
        ("learning rate", _curve(lines, steps, lambda line: number(line, "learning_rate"))),
        ("gradient norm", _curve(lines, steps, lambda line: number(line, "gradient_norm"))),
        ("values/s", _curve(lines, steps, speed)),
    ]
    return [(title, curve) for title, curve in curves if curve[0]]


def _curve(lines: Iterable[Line], steps: float, value: Callable[[Line], float]) -> Curve:
    points = [(_at(line, steps), value(line)) for line in lines]
    points = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    return [x for x, _ in points], [y for _, y in points]


def _at(line: Line, steps: float) -> float:
    """Where a line of a step or an epoch stands among the epochs."""
    epoch = number(line, "epoch")
    return epoch - 1 + number(line, "step") / steps if line["event"] == "step" else epoch


def _steps_per_epoch(log: Log) -> float:
    planned = number(log.begin.get("plan", {}), "steps")
    return planned if planned > 0 else max([1.0, *(number(line, "step") for line in log.steps)])


def _loss(log: Log, look: Look, width: int, height: int) -> list[str]:
    steps = _steps_per_epoch(log)
    validation = _curve(log.epochs, steps, lambda line: number(line, "val_loss"))
    training = _curve(log.epochs, steps, lambda line: number(line, "train_loss"))
    if len(training[0]) < _RECENT:
        # The first epochs are drawn from their steps, of which there may be very many.
        training = _curve(log.steps, steps, lambda line: number(line, "loss"))
    named = [("training loss", "t", training), ("validation loss", "v", validation)]
    named = [(title, letter, curve) for title, letter, curve in named if curve[0]]
    if not named:
        return ["no step is done yet"]
    options: dict[str, Any] = {
        "legend_labels": [f"{title} {_short(curve[1][-1])}" for title, _, curve in named],
        "color": ["green", "magenta"] if look.color else False,
        "force_ascii_characters": [letter for _, letter, _ in named],
    }
    known = [y for _, _, curve in named for y in curve[1]]
    # One first epoch far above all others would flatten the part that matters.
    options["y_as_log"] = 0 < 20 * min(known) < max(known)
    braille = look.braille and (look.color or len(named) == 1)
    curves = [curve for _, _, curve in named]
    lines = _plot(curves, width, height, braille, options)
    # In a narrow terminal each curve has a line of the legend.
    more = len(lines) - height - 4
    return _plot(curves, width, height - more, braille, options) if 0 < more < height else lines


def _row(curves: Sequence[tuple[str, Curve]], look: Look, width: int, height: int) -> list[str]:
    """Small curves side by side."""
    each = width // max(1, len(curves))
    blocks = [
        _plot([curve], each - 1, height, look.braille, {"title": f"{title} {_short(curve[1][-1])}"})
        for title, curve in curves
    ]
    return ["".join(line.ljust(each) for line in lines).rstrip() for lines in zip(*blocks, strict=True)]


def _plot(curves: Sequence[Curve], width: int, height: int, braille: bool, options: dict[str, Any]) -> list[str]:
    """Curves in a frame, of exactly ``height + 4`` lines with a title or a legend.

    The ends of the axes are written here: uniplot rounds its labels, and 0.4 and 0.6 become 0 and 1.
    """
    thinned = [_thin(curve, 2 * width) for curve in curves]
    (left, right), (low, high) = (_ends(chain.from_iterable(curve[axis] for curve in thinned)) for axis in (0, 1))
    bottom, top = _told_apart(low, high)
    inner = max(1, width - 3 - max(len(top), len(bottom)))
    # A curve at the edge of the window would be left out.
    aside, above = (right - left) / 1e3, (high - low) / 1e3
    floor, ceiling = (low / 1.001, high * 1.001) if options.get("y_as_log") else (low - above, high + above)
    text = plot_to_string(
        [y for _, y in thinned], [x for x, _ in thinned], lines=True, width=inner, height=height,
        x_min=left - aside, x_max=right + aside, y_min=floor, y_max=ceiling,
        character_set="braille" if braille else "ascii",
        x_labels=False, y_labels=False, x_gridlines=[], y_gridlines=[], **options,
    )  # fmt: skip
    lines = text.split("\n")
    first = next(k for k, line in enumerate(lines) if line.startswith("┌")) + 1
    lines[first + height - 1] += f" {bottom}"
    if height > 1:
        lines[first] += f" {top}"
    begin, end = f" epoch {_told_apart(left, right)[0]} ", _told_apart(left, right)[1]
    lines.insert(first + height + 1, begin + end.rjust(inner + 1 - len(begin)))
    return [_cut(line, width) for line in lines]


def _ends(values: Iterable[float]) -> tuple[float, float]:
    """The smallest and the largest, apart even where all are the same."""
    known = list(values)
    low, high = min(known), max(known)
    return (low, high) if low < high else (low - (abs(low) / 10 or 1), high + (abs(high) / 10 or 1))


def _cut(line: str, width: int) -> str:
    """A line that is too long, such as a legend, without its colours and its end."""
    plain = _CODE.sub("", line)
    return line if len(plain) <= width else plain[:width]


def _thin(curve: Curve, most: int) -> Curve:
    """Averages of neighbours, at most ``most``."""
    x, y = (np.array(values) for values in curve)
    starts = np.arange(0, len(x), -(-len(x) // most))
    sizes = np.diff(np.append(starts, len(x)))
    return (np.add.reduceat(x, starts) / sizes).tolist(), (np.add.reduceat(y, starts) / sizes).tolist()


def _told_apart(low: float, high: float) -> tuple[str, str]:
    """Both as short as they can be, with at least three digits, and still be different."""
    digits = next(d for d in range(3, 18) if d == 17 or _short(low, d) != _short(high, d))
    return _short(low, digits), _short(high, digits)


def _short(value: float, digits: int = 4) -> str:
    """With so many digits; large numbers with all before the point."""
    decimals = max(0, digits - len(f"{abs(value):.0f}"))
    return f"{value:,.{decimals}f}" if abs(value) >= 1000 else f"{value:.{digits}g}"


def _duration(seconds: float) -> str:
    """About how long, in the two largest units."""
    whole = max(0, round(seconds))
    for unit, size, lower, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {lower}"
    return f"{whole} s"

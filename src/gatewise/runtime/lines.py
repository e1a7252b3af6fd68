"""Streams driven by lines of JSON: a step comes in, its result goes out.

A line is an array of D numbers (for an embedding a whole number), which steps the unnamed stream; or an object::

    {"x": [0.1, 2], "id": "a"}                  a step of stream "a", which begins with its first line
    {"x": [0.1, 2], "id": "a", "reset": true}   the stream begins anew before this step
    {"id": "a", "close": true}                  the stream ends

Its answer is ``{"y": [...]}``, with the ``id`` if one was given, ``{"closed": true}``, or, for a line that is refused,
``{"error": "...", "line": n}``; then no stream has changed. Numbers are written so that float32 reads back the same
bits.
"""

import json
import math
import signal
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, cast

import numpy as np
from numpy.typing import NDArray

from gatewise.errors import InputError
from gatewise.format import Embedding
from gatewise.runtime.model import Model
from gatewise.runtime.saved import read_states, write_states
from gatewise.runtime.streams import Stream

MAX_STREAMS = 10_000
_LARGEST = float(np.finfo(np.float32).max)
_KEYS = ("x", "id", "reset", "close")


def _refuse_constant(text: str) -> NoReturn:
    raise InputError(f"{text} is not a number that JSON has: x must be finite.")


# Made once: the functions of json make one for each call that is not the plainest.
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
_ENCODER = json.JSONEncoder(allow_nan=False)


class Lines:
    """The streams of one model that lines are for.

    Args:
        model: what steps.
        max_streams: the most streams that are open at once, 1 or more.
        states: by name, of streams that go on here.

    Raises:
        InputError: the model cannot go step by step, or the states are of another model or too many.

    Example:
        >>> from gatewise.format import Linear, ModelFile
        >>> weights = {"0.weight": np.full((1, 2), 0.5, np.float32)}
        >>> model = Model(ModelFile("demo", (Linear(2, 1, bias=False),), weights), "0" * 64)
        >>> lines = Lines(model)
        >>> lines.answer(b"[1, 3]"), lines.answer(b"[1]")
        ('{"y": [2.0]}', '{"error": "x must be 2 numbers, got 1.", "line": 2}')
    """

    def __init__(
        self, model: Model, max_streams: int = MAX_STREAMS, states: Mapping[str | None, bytes] = MappingProxyType({})
    ):
        if max_streams < max(1, len(states)):
            raise InputError(f"max_streams must be at least {max(1, len(states)):,}, not {max_streams:,}.")
        model.stream()  # refuses a model that cannot, before there is any input
        self.count = 0
        self.refused = 0
        self._model, self._max = model, max_streams
        self._streams: dict[str | None, Stream] = {name: model.stream() for name in states}
        for name, state in states.items():
            self._streams[name].state = state

    @property
    def states(self) -> dict[str | None, bytes]:
        """All that the open streams remember, by name."""
        return {name: stream.state for name, stream in self._streams.items()}

    def answer(self, line: bytes) -> str:
        """Do what a line says and return the line that answers it, without its end."""
        self.count += 1
        try:
            return _ENCODER.encode(self._done(_request(line)))
        except InputError as error:
            self.refused += 1
            return _ENCODER.encode({"error": str(error), "line": self.count})

    def _done(self, request: Mapping[str, Any]) -> dict[str, Any]:
        name = request.get("id")
        told = {} if name is None else {"id": name}
        if request.get("close"):
            if name not in self._streams:
                raise InputError(f"{_called(name)} is not open.")
            del self._streams[name]
            return {**told, "closed": True}
        x = self._values(request["x"])
        stream = self._streams.get(name)
        if stream is None:
            if len(self._streams) >= self._max:
                raise InputError(f"all {self._max:,} streams are open: close one, or allow more.")
            stream = self._model.stream()
        before = stream.read()
        if request.get("reset"):
            stream.reset()
        y = stream.step(x).tolist()
        if not all(map(math.isfinite, y)):
            stream.write(before)
            raise InputError("the result is not finite: the inputs are too large for the model.")
        self._streams[name] = stream
        return {**told, "y": y}

    def _values(self, x: object) -> NDArray[Any]:
        """The inputs of a step as the core takes them."""
        first = self._model.architecture[0]
        if isinstance(first, Embedding):
            if type(x) is not int or not 0 <= x < first.num_embeddings:
                raise InputError(f"x must be a whole number from 0 to {first.num_embeddings - 1}, got {_short(x)}.")
            return np.array([x], np.int64)
        if not isinstance(x, list):
            raise InputError(f"x must be an array of {first.input_size} numbers, got {_short(x)}.")
        given = cast("list[object]", x)
        if len(given) != first.input_size:
            raise InputError(f"x must be {first.input_size} numbers, got {len(given)}.")
        return np.array([_number(value, index) for index, value in enumerate(given)], np.float32)


def stream_lines(
    model: Model,
    given: Iterable[bytes],
    write: Callable[[str], object],
    *,
    max_streams: int = MAX_STREAMS,
    state: str | Path | None = None,
) -> int:
    """Answer lines as ``answer_lines`` does, and keep the states of the streams in a file.

    Args:
        model: what steps.
        given: the lines.
        write: takes each answer.
        max_streams: the most streams that are open at once.
        state: the file. If it exists the streams in it go on; it is written at the end, however that comes.

    Returns:
        The exit status: 0, 1 if a line was refused, or 128 and the number of the signal that ended it.

    Raises:
        InputError: the model cannot go step by step, or the file cannot be used.
    """
    lines = Lines(model, max_streams, read_states(state) if state is not None and Path(state).exists() else {})
    if state is not None:
        write_states(lines.states, state)  # a place that cannot be written is told before any work is done
    try:
        stopped = answer_lines(lines, given, write)
    finally:
        if state is not None:
            write_states(lines.states, state)
    return 128 + stopped if stopped else min(lines.refused, 1)


def answer_lines(lines: Lines, given: Iterable[bytes], write: Callable[[str], object]) -> int:
    """Answer every line as soon as it has come; Ctrl-C and SIGTERM end it, after the line at hand.

    For the main thread, which alone is told of signals.

    Args:
        lines: the streams.
        given: the lines, with or without their ends.
        write: takes each answer, without its end, and must pass it on at once.

    Returns:
        0, or the number of the signal.
    """
    stopped, waiting = 0, True

    def stop(number: int, frame: object) -> None:
        nonlocal stopped
        if waiting or stopped:
            raise _StopNow(number)
        stopped = number

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for line in given:
            waiting = False
            write(lines.answer(line))
            waiting = True
            if stopped:
                break
    except _StopNow as stop_now:
        stopped = stop_now.number
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return stopped


class _StopNow(Exception):  # noqa: N818 - a signal is no error
    def __init__(self, number: int):
        self.number = number


def _request(line: bytes) -> Mapping[str, Any]:
    """A line as an object, all but the inputs checked."""
    try:
        data = _DECODER.decode(line.decode("utf-8").rstrip("\r\n"))
    except UnicodeDecodeError:
        raise InputError("the line is not UTF-8.") from None
    except RecursionError:
        raise InputError("the line is nested too deep.") from None
    except json.JSONDecodeError as error:
        raise InputError(f"the line is not JSON: {error.msg} (character {error.pos + 1}).") from None
    except ValueError as error:  # a whole number of thousands of digits
        raise InputError(f"the line cannot be read: {error}.") from None
    if not isinstance(data, dict):
        return {"x": data}
    request = cast("dict[str, object]", data)
    for key, value in request.items():
        if key not in _KEYS:
            raise InputError(f"the line has {_short(key)}; an object takes {', '.join(_KEYS)}.")
        if key == "id" and not (isinstance(value, str) and _whole(value)):
            raise InputError(f"id must be text, got {_short(value)}.")
        if key in {"reset", "close"} and not isinstance(value, bool):
            raise InputError(f"{key} must be true or false, got {_short(value)}.")
    if request.get("close") and ("x" in request or "reset" in request):
        raise InputError("close ends a stream: it goes with id only.")
    if not request.get("close") and "x" not in request:
        raise InputError("the line has no x.")
    return request


def _whole(text: str) -> bool:
    """Whether no half of a surrogate pair stands alone, which no file could hold."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _number(value: object, index: int) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"x[{index}] must be a number, got {_short(value)}.")
    if not abs(value) <= _LARGEST:
        raise InputError(f"x[{index}] must be within float32, got {_short(value)}.")
    return value


def _called(name: str | None) -> str:
    return "the unnamed stream" if name is None else f"stream {_short(name)}"


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:39]}…"

"""Lines of JSON as steps of streams: the bits of the whole sequence, refusals that change nothing, states in a file."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from architectures import with_weights
from gatewise.errors import InputError
from gatewise.format import Embedding, Linear, Lstm, ModelFile, Scaling
from gatewise.runtime import Model
from gatewise.runtime.lines import Lines, answer_lines, stream_lines
from gatewise.runtime.saved import read_states, write_states

NUMBERS = with_weights((Lstm(3, 5, 2), Linear(5, 2)))
SYMBOLS = with_weights((Embedding(7, 4), Lstm(4, 5)), seed=1)


def model(file: ModelFile = NUMBERS, identity: str = "ab" * 32) -> Model:
    return Model(file, identity)


def asked(lines: Lines, *requests: Any) -> list[Any]:
    return [json.loads(lines.answer(json.dumps(request).encode())) for request in requests]


def steps(count: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)


def bits(answers: list[Any]) -> bytes:
    return np.array([answer["y"] for answer in answers]).astype(np.float32).tobytes()


def test_lines_give_the_bits_of_the_whole_sequence() -> None:
    x, whole = steps(), model()
    assert bits(asked(Lines(whole), *x.tolist())) == whole.run(x).tobytes()
    symbols, tokens = model(SYMBOLS), [3, 0, 6, 6]
    assert bits(asked(Lines(symbols), 3, {"x": 0}, 6, {"x": 6})) == symbols.run(np.array(tokens)).tobytes()


def test_every_id_is_a_stream_of_its_own() -> None:
    lines, whole = Lines(model()), model()
    streams = {name: steps(seed=k) for k, name in enumerate(("a", "", "ü"))}
    answers: dict[str, list[Any]] = {name: [] for name in streams}
    for k in range(6):
        for name, x in streams.items():
            answers[name] += asked(lines, {"x": x[k].tolist(), "id": name})
    for name, x in streams.items():
        assert [answer["id"] for answer in answers[name]] == [name] * 6
        assert bits(answers[name]) == whole.run(x).tobytes()


def test_reset_begins_anew_before_the_step_and_close_ends() -> None:
    lines, x = Lines(model(), max_streams=1), steps().tolist()
    first, second, again, later = asked(
        lines, {"x": x[0], "id": "a"}, {"x": x[1], "id": "a"}, {"x": x[0], "id": "a", "reset": True},
        {"x": x[1], "id": "a", "reset": False},
    )  # fmt: skip
    assert (again, later) == (first, second)
    full = "all 1 streams are open: close one, or allow more."
    assert asked(lines, {"x": x[0], "id": "b"}, x[0]) == [{"error": full, "line": 5}, {"error": full, "line": 6}]
    assert asked(lines, {"id": "a", "close": True}, x[0], {"close": True}) == [
        {"id": "a", "closed": True}, {"y": first["y"]}, {"closed": True},
    ]  # fmt: skip
    assert asked(lines, {"x": x[0], "id": "a"}) == [first]


REFUSED = {
    b"": "the line is not JSON: Expecting value (character 1).",
    b"[1, 2\r\n": "the line is not JSON: Expecting ',' delimiter (character 6).",
    b"[1, 2, " + b"3" * 5000 + b"]": "the line cannot be read: Exceeds the limit",
    b"\xff": "the line is not UTF-8.",
    b"[" * 100_000: "nested too deep",
    b"[1, 2]": "x must be 3 numbers, got 2.",
    b"1": "x must be an array of 3 numbers, got 1.",
    b"null": "x must be an array of 3 numbers, got null.",
    b'[1, 2, "3"]': 'x[2] must be a number, got "3".',
    b"[1, true, 3]": "x[1] must be a number, got true.",
    b"[1, 2, [3]]": "x[2] must be a number, got [3].",
    b"[NaN, 2, 3]": "NaN is not a number that JSON has",
    b"[1, 2, -Infinity]": "-Infinity is not a number that JSON has",
    b"[1, 2, 1e400]": "x[2] must be within float32, got Infinity.",
    b"[1, 2, -1e39]": "x[2] must be within float32, got -1e+39.",
    b"[1, 2, 1" + b"0" * 400 + b"]": "x[2] must be within float32, got 1000",
    b"{}": "the line has no x.",
    b'{"x": [1, 2, 3], "ID": "a"}': 'the line has "ID"; an object takes x, id, reset, close.',
    b'{"x": [1, 2, 3], "id": 7}': "id must be text, got 7.",
    b'{"x": [1, 2, 3], "id": "\\ud800"}': "id must be text",
    b'{"x": [1, 2, 3], "reset": 1}': "reset must be true or false, got 1.",
    b'{"id": "a", "close": true, "x": [1, 2, 3]}': "close ends a stream: it goes with id only.",
    b'{"id": "b", "close": true}': 'stream "b" is not open.',
    b'{"id": "b", "x": [1]}': "x must be 3 numbers, got 1.",
}


@pytest.mark.parametrize(("line", "message"), REFUSED.items(), ids=range(len(REFUSED)))
def test_a_line_that_is_refused_changes_no_stream(line: bytes, message: str) -> None:
    lines = Lines(model(), max_streams=2)
    asked(lines, [1, 2, 3], {"x": [3, 2, 1], "id": "a"})
    before = lines.states
    answer = json.loads(lines.answer(line))
    assert message in answer.pop("error")
    assert answer == {"line": 3}
    assert lines.states == before
    assert lines.refused == 1


@pytest.mark.parametrize("x", ["7", "-1", "1.0", "true", '"a"', "[1]"])
def test_symbols_are_whole_numbers_of_the_vocabulary(x: str) -> None:
    answer = json.loads(Lines(model(SYMBOLS)).answer(x.encode()))
    assert answer == {"error": f"x must be a whole number from 0 to 6, got {x}.", "line": 1}


def test_a_result_that_is_not_finite_is_refused_and_the_state_is_as_before() -> None:
    blocks = (Scaling(1), Lstm(1, 2, cell="rnn-relu"))
    file = with_weights(blocks)
    lines = Lines(model(ModelFile("demo", blocks, {name: np.abs(v) for name, v in file.weights.items()})))
    asked(lines, [1])
    before = lines.states
    assert "not finite" in asked(lines, [3e38])[0]["error"]
    assert lines.states == before
    assert "y" in asked(lines, [2])[0]


def test_a_model_that_cannot_step_is_refused_before_any_line() -> None:
    both = model(with_weights((Lstm(3, 4, bidirectional=True),)))
    with pytest.raises(InputError, match="cannot go step by step"):
        Lines(both)
    with pytest.raises(InputError, match="max_streams must be at least 1, not 0"):
        Lines(model(), max_streams=0)


def told(given: Iterator[bytes] | list[bytes], **options: Any) -> tuple[int, list[Any]]:
    answers: list[str] = []
    return stream_lines(model(), given, answers.append, **options), [json.loads(answer) for answer in answers]


def test_states_go_on_from_a_file(tmp_path: Path) -> None:
    path, x = tmp_path / "states", steps()
    given = [json.dumps({"x": row, "id": name}).encode() for row in x.tolist() for name in ("a", "ü")]
    given += [json.dumps(row).encode() for row in x.tolist()]
    together = told(given)[1]
    apart = [told([line], state=path)[1][0] for line in given]
    assert apart == together
    assert set(read_states(path)) == {None, "a", "ü"}
    told([b'{"close": true, "id": "a"}'], state=path)
    assert set(read_states(path)) == {None, "ü"}
    with pytest.raises(InputError, match="max_streams must be at least 2, not 1"):
        told([], state=path, max_streams=1)


def test_states_of_another_model_and_damage_are_refused_and_left(tmp_path: Path) -> None:
    path = tmp_path / "states"
    told([b"[1, 2, 3]"], state=path)
    data = path.read_bytes()
    with pytest.raises(InputError, match="the state is of another model"):
        stream_lines(model(identity="cd" * 32), [], print, state=path)
    assert path.read_bytes() == data
    newer = data[:4] + b"\x02" + data[5:]
    bad = [b"", b"gwss", b"PK" + data, data[:-1], data + b"\0", newer]
    bad += [data[:k] + bytes([data[k] ^ 1]) + data[k + 1 :] for k in range(len(data))]
    for damaged in bad:
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"damaged|is not a file of|from a newer gatewise"):
            told([], state=path)
        assert path.read_bytes() == damaged
    with pytest.raises(InputError, match="cannot be written"):
        told([], state=tmp_path / "no" / "states")


def test_no_states_are_a_file_too(tmp_path: Path) -> None:
    write_states({}, tmp_path / "states")
    assert read_states(tmp_path / "states") == {}
    write_states({"": b"", None: b"\0"}, tmp_path / "states")
    assert read_states(tmp_path / "states") == {"": b"", None: b"\0"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_after_the_line_at_hand_and_keeps_the_states(number: int, tmp_path: Path) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    answers: list[str] = []

    def write(answer: str) -> None:
        if len(answers) == 1:
            os.kill(os.getpid(), number)
        answers.append(answer)

    status = stream_lines(model(), [b"[1, 2, 3]"] * 5, write, state=tmp_path / "states")
    assert (status, len(answers)) == (128 + number, 2)
    expected = Lines(model())
    asked(expected, [1, 2, 3], [1, 2, 3])
    assert read_states(tmp_path / "states") == expected.states

    def waiting() -> Iterator[bytes]:
        yield b"[1, 2, 3]"
        threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
        threading.Event().wait(30)
        raise AssertionError("the signal did not come")

    assert told(waiting())[0] == 128 + number
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_the_status_tells_of_refused_lines() -> None:
    assert told([b"[1, 2, 3]\n"])[0] == 0
    status, answers = told([b"[1]\n", b"\n", b"[1, 2, 3]\n"])
    assert status == 1
    assert [sorted(answer) for answer in answers] == [["error", "line"], ["error", "line"], ["y"]]


def test_what_cannot_be_written_still_keeps_the_states(tmp_path: Path) -> None:
    def broken(_: str) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        answer_lines(Lines(model()), [b"[1, 2, 3]"], broken)
    with pytest.raises(BrokenPipeError):
        stream_lines(model(), [b"[1, 2, 3]"], broken, state=tmp_path / "states")
    assert set(read_states(tmp_path / "states")) == {None}

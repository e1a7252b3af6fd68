"""The model file: what goes in comes out, and whatever is not such a file gets a sentence and runs nothing."""

import errno
import hashlib
import io
import json
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from crafted import description, first_description, model, refused, split_header, write
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from architectures import architectures, with_weights
from gatewise.errors import InputError
from gatewise.format import FORMAT_VERSION, Linear, ModelFile, Scaling, load_model, save_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "model.safetensors"
    save_model(model(), path)
    return path


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "model.safetensors"


def test_what_goes_in_comes_out(saved: Path) -> None:
    given, back = model(), load_model(str(saved))
    assert (back.task, back.architecture) == (given.task, given.architecture)
    assert (back.settings, back.training) == (given.settings, given.training)
    assert set(back.weights) == set(given.weights)
    for name, value in given.weights.items():
        assert back.weights[name].dtype == np.float32
        assert back.weights[name].tobytes() == value.tobytes()


def test_the_same_model_gives_the_same_bytes(saved: Path, scratch: Path) -> None:
    save_model(load_model(saved), scratch)
    assert scratch.read_bytes() == saved.read_bytes()


def test_weights_in_any_memory_order(scratch: Path) -> None:
    strided = {name: np.asfortranarray(np.repeat(value, 2, 0))[::2] for name, value in model().weights.items()}
    save_model(replace(model(), weights=strided), scratch)
    for name, value in load_model(scratch).weights.items():
        np.testing.assert_array_equal(value, strided[name])


def test_a_header_of_any_length(scratch: Path) -> None:
    # The length is the first bytes of the file, and some lengths look like the first bytes of a pickle.
    lengths = set()
    small = ModelFile("t", (Linear(1, 1),), {"0.weight": np.ones((1, 1), "f4"), "0.bias": np.ones(1, "f4")})
    for padding in range(0, 1300, 5):
        given = replace(small, training={"note": "x" * padding})
        save_model(given, scratch)
        lengths.add(int.from_bytes(scratch.read_bytes()[:8], "little"))
        assert load_model(scratch).training == given.training
    assert {640, 896, 1152, 1408} <= lengths


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.dictionaries(
        st.text(max_size=9),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
            max_leaves=8,
        ),
        max_size=4,
    )
)
def test_any_plain_data_comes_back(tmp_path_factory, data: dict) -> None:
    path = tmp_path_factory.getbasetemp() / "plain"
    save_model(replace(model(), settings=data), path)
    assert load_model(path).settings == data


def test_the_sha_covers_every_byte_but_its_own(saved: Path) -> None:
    data = saved.read_bytes()
    header, _ = split_header(data)
    stated = json.loads(header["__metadata__"]["gatewise"])["sha256"]
    assert data.count(stated.encode()) == 1
    blanked = data.replace(stated.encode(), b"0" * 64)
    assert hashlib.sha256(blanked).hexdigest() == stated


def test_a_file_made_by_hand_is_read(scratch: Path) -> None:
    back = load_model(write(scratch, description()))
    assert back.architecture == model().architecture


def test_the_file_can_be_read_by_safetensors_alone(saved: Path) -> None:
    weights = load(saved.read_bytes())
    assert set(weights) == set(model().weights)
    assert json.loads(split_header(saved.read_bytes())[0]["__metadata__"]["gatewise"])["format"] == FORMAT_VERSION


# ---- files that are not model files


def test_files_that_are_missing_empty_or_folders(tmp_path: Path) -> None:
    refused(tmp_path / "none", "does not exist")
    (tmp_path / "empty").write_bytes(b"")
    refused(tmp_path / "empty", "not a model file")
    refused(tmp_path, "cannot be read: Is a directory")


class _Canary:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_never_runs(tmp_path: Path, protocol: int) -> None:
    canary, path = tmp_path / "canary", tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps(_Canary(canary), protocol))
    refused(path, "a pickle, which can run code" if protocol > 1 else "not a model file")
    assert not canary.exists()
    pickle.loads(path.read_bytes())
    assert canary.exists(), "the canary cannot sing, so its silence says nothing"


@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_file_never_runs(tmp_path: Path, zipped: bool) -> None:
    canary, path = tmp_path / "canary", tmp_path / "model.pt"
    buffer = io.BytesIO()
    torch.save({"weights": _Canary(canary)}, buffer, _use_new_zipfile_serialization=zipped)
    path.write_bytes(buffer.getvalue())
    refused(path, "a pickle, which can run code")
    assert not canary.exists()


# ---- safetensors files whose header lies


@pytest.mark.parametrize("text", ["", "{", "nonsense", "{'a': 1}"])
def test_a_description_that_is_not_json(scratch: Path, text: str) -> None:
    scratch.write_bytes(save(dict(model().weights), metadata={"gatewise": text}))
    refused(scratch, "its description is not JSON")


@pytest.mark.parametrize("text", ["[]", "null", "1", '"x"'])
def test_a_description_that_is_not_an_object(scratch: Path, text: str) -> None:
    scratch.write_bytes(save(dict(model().weights), metadata={"gatewise": text}))
    refused(scratch, "its description is not an object")


@pytest.mark.parametrize("version", [None, 0, -1, 1.0, True, "1", [1]])
def test_a_format_version_that_is_none(scratch: Path, version: object) -> None:
    refused(write(scratch, {**description(), "format": version}), "it has no format version")


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 99])
def test_a_newer_format_says_so_whatever_else_has_changed(scratch: Path, version: int) -> None:
    refused(write(scratch, {**description(), "format": version}), f"format {version}, from a newer gatewise")
    scratch.write_bytes(save({}, metadata={"gatewise": json.dumps({"format": version})}))
    refused(scratch, "from a newer gatewise; this one reads up to format 2")


def test_a_sha_that_is_missing_wrong_or_stated_twice(scratch: Path) -> None:
    without = {key: value for key, value in description().items() if key != "sha256"}
    for text in (without, {**description(), "sha256": "0" * 63}, {**description(), "sha256": "g" * 64}):
        scratch.write_bytes(save(dict(model().weights), metadata={"gatewise": json.dumps(text, separators=(",", ":"))}))
        refused(scratch, "must state its SHA-256 once, not 0 times")
    twice = {**description(), "settings": {"sha256": "1" * 64}}
    refused(write(scratch, twice), "must state its SHA-256 once, not 2 times")
    scratch.write_bytes(
        save(dict(model().weights), metadata={"gatewise": json.dumps(description(), separators=(",", ":"))})
    )
    refused(scratch, "does not match its SHA-256")


@pytest.mark.parametrize("value", [None, 1, True])
@pytest.mark.parametrize(
    ("name", "kind"),
    [("task", "text"), ("settings", "an object"), ("training", "an object"), ("vocabulary", "a list")],
)
def test_a_description_whose_parts_have_other_types(scratch: Path, name: str, kind: str, value: object) -> None:
    refused(write(scratch, {**description(), name: value}), f"{name} must be {kind}")


@pytest.mark.parametrize("make", [description, first_description])
def test_a_description_has_exactly_its_parts(scratch: Path, make: Callable[[], dict]) -> None:
    load_model(write(scratch, make()))
    for name in set(make()) - {"format", "sha256"}:
        without = {key: value for key, value in make().items() if key != name}
        refused(write(scratch, without), f"its description must have .*{name}")
    for name in ("weights", "Task", "", "vocabulary")[: 3 if "vocabulary" in make() else 4]:
        refused(write(scratch, {**make(), name: []}), "its description must have ")


@pytest.mark.parametrize("symbols", [[1], ["a", "b", "a"], ["a", None], [["a"]]])
def test_a_vocabulary_holds_texts_each_once(scratch: Path, symbols: list) -> None:
    refused(write(scratch, {**description(), "vocabulary": symbols}), "the vocabulary must hold texts, and each once")
    with pytest.raises(InputError, match="the vocabulary must hold texts, and each once"):
        save_model(replace(model(), vocabulary=tuple(symbols)), scratch)


def test_a_vocabulary_comes_back(scratch: Path) -> None:
    symbols = ("", "a", "A", " ", "\n", "目", "\ud800", '"sha256":"' + "0" * 64 + '"')
    save_model(replace(model(), vocabulary=symbols), scratch)
    assert load_model(scratch).vocabulary == symbols


def test_a_file_of_format_1_is_read(scratch: Path) -> None:
    back = load_model(write(scratch, first_description()))
    assert back.architecture == model().architecture
    assert back.vocabulary == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format":2,"format":1}', "its description states a name twice in one object"),
        ('{"format":2,"settings":{"a":NaN}}', "its description holds NaN, which is not JSON"),
        ('{"format":2,"settings":' + '{"a":' * 64 + "0" + "}" * 65, "its description is nested deeper than 64 levels"),
        ('{"format":2,"settings":[-Infinity]}', "its description holds -Infinity, which is not JSON"),
    ],
)
def test_json_that_other_readers_read_otherwise(scratch: Path, text: str, message: str) -> None:
    scratch.write_bytes(save(dict(model().weights), metadata={"gatewise": text}))
    refused(scratch, message)


def test_an_architecture_that_is_not_known(scratch: Path) -> None:
    for architecture, message in (
        (None, "must be a list of blocks"),
        ([{"block": "gru"}], "a block 'gru'"),
        ([{**description()["architecture"][0], "hidden_size": 2.0}], "hidden_size of the block 'lstm'"),
        ([{**description()["architecture"][0], "x": 1}], "must have the fields"),
        (description()["architecture"][1:][::-1], "block 0 .* gives a width of 3, but block 1 .* takes 2"),
    ):
        refused(write(scratch, {**description(), "architecture": architecture}), message)


def _change(name: str, value: np.ndarray) -> dict:
    return {**model().weights, name: value}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "not those of its architecture"),
        (_change("3.weight", np.ones((1, 1), np.float32)), r"not those of its architecture \(3.weight\)"),
        (
            {("1.wait" if name == "1.weight" else name): value for name, value in model().weights.items()},
            r"\(1.wait, 1.weight\)",
        ),
        (_change("1.weight", np.ones((2, 5), np.float32)), r"1.weight must be float32 \[5, 2\], not float32 \[2, 5\]"),
        (_change("1.bias", np.ones((5, 1), np.float32)), r"1.bias must be float32 \[5\]"),
        (_change("1.bias", np.ones(5, np.float64)), "1.bias must be float32 .* not float64"),
        (_change("1.bias", np.ones(5, np.float16)), "not float16"),
        (_change("1.bias", np.ones(5, np.int32)), "not int32"),
        (_change("1.bias", np.array([0, 0, np.nan, 0, 0], np.float32)), "1.bias has values that are not finite"),
        (
            _change("0.weight_hh_l1", np.full((8, 2), -np.inf, np.float32)),
            "weight_hh_l1 has values that are not finite",
        ),
    ],
)
def test_weights_that_are_not_those_of_the_architecture(scratch: Path, weights: dict, message: str) -> None:
    refused(write(scratch, description(), weights), message)
    scratch.write_bytes(b"old")
    with pytest.raises(InputError, match=message):
        save_model(replace(model(), weights=weights), scratch)
    assert scratch.read_bytes() == b"old"


def test_statistics_that_are_missing_or_divide_by_zero(scratch: Path) -> None:
    given = with_weights((Scaling(3), Linear(3, 1), Scaling(1, inverse=True)))
    save_model(given, scratch)
    text = json.loads(split_header(scratch.read_bytes())[0]["__metadata__"]["gatewise"]) | {"sha256": "0" * 64}
    for index, size in ((0, 3), (2, 1)):
        for value in (0.0, -1.0):
            changed = {**given.weights, f"{index}.std": np.full(size, value, np.float32)}
            refused(write(scratch, text, changed), f"weight {index}.std of the scaling must be above 0 everywhere")
            with pytest.raises(InputError, match="must be above 0"):
                save_model(replace(given, weights=changed), scratch)
        without = {name: value for name, value in given.weights.items() if name != f"{index}.mean"}
        refused(write(scratch, text, without), f"not those of its architecture .{index}.mean")


# ---- any architecture, any damage


@settings(max_examples=60, deadline=None, derandomize=True)
@given(architectures(), st.lists(st.text(), unique=True, max_size=4))
def test_any_architecture_comes_back(tmp_path_factory, blocks, symbols: list[str]) -> None:
    path, again = tmp_path_factory.getbasetemp() / "any", tmp_path_factory.getbasetemp() / "again"
    built = replace(with_weights(blocks), vocabulary=tuple(symbols))
    save_model(built, path)
    back = load_model(path)
    assert (back.architecture, back.vocabulary, back.task) == (blocks, built.vocabulary, built.task)
    assert {name: value.tobytes() for name, value in back.weights.items()} == {
        name: value.tobytes() for name, value in built.weights.items()
    }
    save_model(back, again)
    assert again.read_bytes() == path.read_bytes()


# ---- saving


def test_what_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    circle: dict = {}
    circle["again"] = circle
    for value in ({"a": float("nan")}, {"a": float("inf")}, {"a": object()}, {"a": {1, 2}}, circle):
        with pytest.raises(InputError, match="cannot be written as JSON"):
            save_model(replace(model(), settings=value), tmp_path / "m")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("blocks", "message"), [((), "must be a list of blocks"), ((Linear(3, 2), Linear(3, 2)), "gives a width of 2")]
)
def test_blocks_that_do_not_fit_are_not_written(tmp_path: Path, blocks: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message):
        save_model(with_weights(blocks), tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_what_could_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    deep: dict = {}
    for _ in range(100):
        deep = {"a": [deep]}
    deepest: dict = {}
    for _ in range(100_000):
        deepest = {"a": deepest}
    for value, message in (
        ({1: 0, "1": 1}, "cannot be written as JSON"),
        (deep, "nested deeper than 64 levels"),
        (deepest, "cannot be written as JSON"),
    ):
        with pytest.raises(InputError, match=message):
            save_model(replace(model(), settings=value), tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_keeps_the_old_model(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "m"
    save_model(model(), path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="cannot be written: No space left on device"):
            save_model(model(seconds=2.0), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    assert load_model(path).training == {"seconds": 1.5}

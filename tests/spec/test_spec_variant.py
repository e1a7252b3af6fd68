"""A cell with its options: which are refused, what a variant has, and how it is written down."""

import json
import pickle
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from gatewise.errors import InputError
from gatewise.spec import CELLS, EVERY_OPTION, Option, Variant, check_option, parse_variant, state_type, variant

BOTH = {"proj_size": 3, "nonrecurrent_proj_size": 2}
CONVOLUTION = {"kernel": (3, 3), "image": (6, 5)}
ON: list[tuple[Option, dict[str, Any]]] = [
    ("peephole", {"peephole": True}),
    ("layer_norm", {"layer_norm": True}),
    ("clip", {"clip": 0.5}),
    ("projection", {"proj_size": 3}),
    ("projection", BOTH),
]
OPTIONS = [{}, {"peephole": False}, {"bias": False}, {"layer_norm": False, "clip": None, "proj_size": 0}]
DEFINED = [(name, on) for name, cell in CELLS.items() for option, on in ON if option in cell.options]
UNDEFINED = [(name, option, on) for name, cell in CELLS.items() for option, on in ON if option not in cell.options]
VALID = [(name, options) for name in CELLS for options in OPTIONS] + DEFINED
VALID += [("lstm", {"peephole": True, "layer_norm": True, "clip": 1 / 3, "bias": False, **BOTH}), ("nig", CONVOLUTION)]


@pytest.mark.parametrize(("cell", "option", "values"), UNDEFINED, ids=str)
def test_an_option_that_a_cell_has_not_is_refused(cell: str, option: Option, values: dict[str, Any]):
    able = [name for name, row in CELLS.items() if option in row.options]
    with pytest.raises(InputError) as caught:
        variant(cell, **values)
    assert str(caught.value) == f"{option} is not defined for the cell {cell!r}; it is for {', '.join(able)}."


@pytest.mark.parametrize("option", sorted(EVERY_OPTION))
@pytest.mark.parametrize("cell", CELLS.values(), ids=lambda cell: cell.name)
def test_check_option_is_the_table(cell: Any, option: Option):
    if option in cell.options:
        check_option(cell, option)
    else:
        with pytest.raises(InputError, match=f"^{option} is not defined for the cell '{cell.name}'; it is for "):
            check_option(cell, option)


CLIP = "clip must be a finite number above 0 or None, got "
BESIDE = "nonrecurrent_proj_size needs a recurrent projection beside it: give proj_size as well."
REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    *(({"clip": clip}, InputError, f"{CLIP}{clip!r}.") for clip in (0, -1.0, float("nan"), float("inf"), True, "3")),
    ({"proj_size": -1}, InputError, "proj_size must be 0 or more, got -1."),
    ({"proj_size": 3, "nonrecurrent_proj_size": -2}, InputError, "nonrecurrent_proj_size must be 0 or more, got -2."),
    ({"nonrecurrent_proj_size": 2}, InputError, BESIDE),
    ({"proj_size": 3.0}, TypeError, "proj_size should be of type int, got: float."),
    ({"proj_size": True}, TypeError, "proj_size should be of type int, got: bool."),
    (
        {"proj_size": 3, "nonrecurrent_proj_size": "2"},
        TypeError,
        "nonrecurrent_proj_size should be of type int, got: str.",
    ),
    ({"bias": 1}, TypeError, "bias should be of type bool, got: int."),
    ({"layer_norm": None}, TypeError, "layer_norm should be of type bool, got: NoneType."),
    ({"peephole": 1}, TypeError, "peephole should be of type bool, got: int."),
    ({"layer_norm": True, **CONVOLUTION}, InputError, "layer_norm is not defined for convolutional cells."),
    ({"proj_size": 3, **CONVOLUTION}, InputError, "projection is not defined for convolutional cells."),
    ({"cell": "fgr", **CONVOLUTION}, InputError, "the cell 'fgr' cannot be convolutional."),
    ({"image": (6, 5)}, InputError, "image is for convolutional cells: give kernel as well."),
    (
        {"peephole": True, "kernel": (3, 3)},
        InputError,
        "the peepholes of a convolutional cell are tied to the size of its images: give image as well.",
    ),
]


@pytest.mark.parametrize(("options", "error", "text"), REFUSED, ids=str)
def test_values_out_of_range_and_of_other_types_are_refused(options: dict[str, Any], error: type[Exception], text: str):
    with pytest.raises(error) as caught:
        variant(**options)
    assert type(caught.value) is error
    assert str(caught.value) == text


@pytest.mark.parametrize("cell", CELLS)
def test_peephole_is_the_cells_own_unless_it_is_said(cell: str):
    row = CELLS[cell]
    assert variant(cell).peephole is variant(cell, peephole=None).peephole is row.peephole
    assert variant(cell, peephole=False).peeping == ()
    if "peephole" in row.options:
        assert variant(cell, peephole=True).peeping == tuple(name for name in row.gate_names if name != "g")


@pytest.mark.parametrize(("cell", "options"), VALID, ids=str)
def test_a_variant_is_read_back_from_its_text(cell: str, options: dict[str, Any]):
    chosen = variant(cell, **options)
    again = parse_variant(chosen.text)
    assert again == chosen
    assert hash(again) == hash(chosen)
    assert again.text == chosen.text
    assert again.cell is CELLS[cell]
    assert "\n" not in chosen.text
    fields = json.loads(chosen.text)
    assert {name: fields[name] for name in options} == json.loads(json.dumps(options))


def test_a_text_that_is_no_variant_is_refused():
    chosen = json.loads(variant().text)
    with pytest.raises(InputError, match="cell must be one of rnn, "):
        parse_variant(json.dumps(chosen | {"cell": "gru"}))
    with pytest.raises(InputError, match="clip must be a finite number"):
        parse_variant(json.dumps(chosen | {"clip": -1}))
    with pytest.raises(TypeError, match="unexpected keyword argument 'dropout'"):
        parse_variant(json.dumps(chosen | {"dropout": 1}))


def test_a_variant_is_frozen_and_differs_by_any_option():
    chosen = variant()
    with pytest.raises(FrozenInstanceError):
        chosen.clip = 1.0  # type: ignore[misc]
    others = [variant(cell, **options) for cell, options in DEFINED] + [variant(bias=False), variant(kernel=(3, 3))]
    assert len({chosen, *others}) == len({other.text for other in (chosen, *others)})
    assert variant(clip=3).text == variant(clip=3.0).text
    assert variant() == Variant()


@pytest.mark.parametrize(("cell", "options"), VALID, ids=str)
def test_what_is_vanilla(cell: str, options: dict[str, Any]):
    chosen = variant(cell, **options)
    changed = {"peephole", "layer_norm", "clip", "kernel"} & {name for name, value in options.items() if value}
    assert chosen.vanilla is ((cell in {"lstm", "np"} or (cell == "peephole" and not chosen.peephole)) and not changed)


D, H = 5, 7
FOUR = {"weight_ih": (28, D), "weight_hh": (28, H), "bias_ih": (28,), "bias_hh": (28,)}
THREE = {"weight_ih": (21, D), "weight_hh": (21, H), "bias_ih": (21,), "bias_hh": (21,)}
SHAPES: list[tuple[str, dict[str, Any], dict[str, tuple[int, ...]]]] = [
    ("lstm", {}, FOUR),
    ("lstm", {"bias": False}, {"weight_ih": (28, D), "weight_hh": (28, H)}),
    ("lstm", {"peephole": True}, FOUR | {"weight_peephole": (21,)}),
    ("lstm", {"proj_size": 3}, FOUR | {"weight_hh": (28, 3), "weight_hr": (3, H)}),
    ("lstm", BOTH, FOUR | {"weight_hh": (28, 3), "weight_hr": (3, H), "weight_hp": (2, H)}),
    (
        "lstm",
        {"layer_norm": True},
        FOUR | {"weight_ln_ih": (28,), "weight_ln_hh": (28,), "weight_ln_cell": (H,), "bias_ln_cell": (H,)},
    ),
    ("cifg", {}, THREE | {"weight_peephole": (14,)}),
    ("nog", {"peephole": False}, THREE),
    ("rnn", {}, {"weight_ih": (7, D), "weight_hh": (7, H), "bias_ih": (7,), "bias_hh": (7,)}),
    ("fgr", {}, FOUR | {"weight_peephole": (21,), "weight_gates": (21, 21)}),
    ("slstm", {"clip": 1.0}, FOUR),
    (
        "peephole",
        {"kernel": (3, 1), "image": (6, 4)},
        FOUR | {"weight_ih": (28, D, 3, 1), "weight_hh": (28, H, 3, 1), "weight_peephole": (21, 6, 4)},
    ),
]


@pytest.mark.parametrize(("cell", "options", "shapes"), SHAPES, ids=str)
def test_shapes_of_the_parameters(cell: str, options: dict[str, Any], shapes: dict[str, tuple[int, ...]]):
    found = variant(cell, **options).shapes(D, H)
    assert found == shapes
    assert list(found) == list(shapes)


@pytest.mark.parametrize(("cell", "options"), VALID, ids=str)
def test_sizes_of_states_and_output(cell: str, options: dict[str, Any]):
    chosen, projected = variant(cell, **options), options.get("proj_size", 0)
    states = CELLS[cell].states
    assert chosen.state_sizes(H) == dict.fromkeys(states, H) | {"h": projected or H}
    assert chosen.output_size(H) == (projected or H) + options.get("nonrecurrent_proj_size", 0)


STATES = sorted({cell.states for cell in CELLS.values()})


@pytest.mark.parametrize("states", STATES, ids=str)
def test_a_state_is_a_named_tuple_that_pickles(states: tuple[str, ...]):
    assert state_type(states) is state_type(states)
    kind: Any = state_type(states)
    state = kind(*range(len(states)))
    assert state._asdict() == {name: index for index, name in enumerate(states)}
    assert repr(state).startswith(f"State_{'_'.join(states)}(h=0")
    again = pickle.loads(pickle.dumps(state))
    assert again == state
    assert type(again) is kind
    assert isinstance(state, tuple)


def test_a_pickled_state_is_read_by_another_process():
    kind: Any = state_type(("h", "c", "n", "m"))
    pickled = pickle.dumps(kind(1, 2, 3, 4))
    code = f"import pickle; print(pickle.loads({pickled!r}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "State_h_c_n_m(h=1, c=2, n=3, m=4)\n"


@pytest.mark.parametrize("name", ["Stat_h", "State", "State_", "State_h_", "State_1", "variants"])
def test_other_names_are_not_in_the_module(name: str):
    module = sys.modules[Variant.__module__]
    with pytest.raises(AttributeError, match=re.escape(f"has no attribute {name!r}")):
        getattr(module, name)

"""Architectures from plain data: the closed list of blocks, their fields, the weights that follow."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from torch import nn

import gatewise
from architectures import architectures
from gatewise.errors import InputError
from gatewise.format import (
    BLOCKS,
    Conv1d,
    Embedding,
    LayerNorm,
    Linear,
    Lstm,
    QuantileMix,
    Scaling,
    describe_block,
    parse_blocks,
)
from gatewise.spec import BUILT_IN, CELLS, register, variant

EXAMPLES = {
    block.kind: describe_block(block)
    for block in (
        Lstm(3, 8, 2),
        Embedding(5, 3),
        Linear(3, 2),
        LayerNorm(3),
        Conv1d(3, 2, 4),
        Scaling(3),
        QuantileMix(2, 3),
    )
}
LSTM, LINEAR = EXAMPLES["lstm"], EXAMPLES["linear"]
every_block = pytest.mark.parametrize("block", EXAMPLES.values(), ids=EXAMPLES)
SIZES = {
    "lstm": ("input_size", "hidden_size", "num_layers"),
    "embedding": ("num_embeddings", "embedding_dim"),
    "linear": ("in_features", "out_features"),
    "layer_norm": ("features",),
    "conv1d": ("in_channels", "out_channels", "kernel_size", "stride", "dilation"),
    "scaling": ("features",),
    "quantile_mix": ("candidates", "quantiles"),
}
FLAGS = {
    "lstm": ("bidirectional", "bias", "peephole", "layer_norm", "residual", "learned_state"),
    "embedding": (),
    "linear": ("bias",),
    "layer_norm": (),
    "conv1d": ("causal",),
    "scaling": ("inverse",),
    "quantile_mix": (),
}


def _refused(data: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_blocks(data)


def test_every_block_is_listed_by_its_kind() -> None:
    assert list(BLOCKS.values()) == [Lstm, Embedding, Linear, LayerNorm, Conv1d, Scaling, QuantileMix]
    assert list(BLOCKS) == list(EXAMPLES) == [block.kind for block in BLOCKS.values()]


@settings(deadline=None, derandomize=True)
@given(architectures())
def test_blocks_come_back_from_their_description(blocks) -> None:
    described = json.loads(json.dumps([describe_block(block) for block in blocks]))
    assert parse_blocks(described) == blocks


@settings(deadline=None, derandomize=True)
@given(architectures())
def test_the_first_width_and_the_last_are_those_of_the_weights(blocks) -> None:
    for block in blocks:
        if isinstance(block, Lstm):
            assert block.shapes()["weight_ih_l0"][1] == block.input_size
            assert Lstm(block.output_size, 2).shapes()["weight_ih_l0"][1] == block.output_size
        elif isinstance(block, Linear | Conv1d):
            assert block.shapes()["weight"][:2] == (block.output_size, block.input_size)


# ---- weights


@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 7, 1), (5, 2, 3)])
@pytest.mark.parametrize("more", [{}, {"bidirectional": True}, {"bias": False, "proj_size": 1}], ids=str)
def test_weights_of_an_lstm_are_those_of_torch(sizes: tuple[int, int, int], more: dict[str, Any]) -> None:
    if sizes[1] == 1 and "proj_size" in more:
        more = {"bias": False}
    expected = {name: tuple(value.shape) for name, value in nn.LSTM(*sizes, **more).state_dict().items()}
    assert Lstm(*sizes, **more).shapes() == expected


@pytest.mark.parametrize("cell", BUILT_IN)
def test_weights_of_every_cell_are_those_of_the_module(cell: str) -> None:
    row = CELLS[cell]
    more: dict[str, Any] = {"bidirectional": True}
    if "projection" in row.options:
        more |= {"proj_size": 3, "nonrecurrent_proj_size": 2}
    for name in ("peephole", "layer_norm", "learned_state"):
        more |= {name: True} if name in row.options else {}
    module = gatewise.LSTM(4, 5, 2, cell=cell, **more)
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    block = Lstm(4, 5, 2, cell, **more)
    assert block.shapes() == expected
    assert block.variant == module.variant
    assert block.output_size == (10 if "proj_size" in more else 2 * 5)


@pytest.mark.parametrize(
    ("block", "module"),
    [
        (Linear(3, 2), nn.Linear(3, 2)),
        (Linear(3, 2, bias=False), nn.Linear(3, 2, bias=False)),
        (Embedding(5, 3), nn.Embedding(5, 3)),
        (LayerNorm(3), nn.LayerNorm(3)),
        (Conv1d(3, 2, 4), nn.Conv1d(3, 2, 4)),
    ],
    ids=str,
)
def test_weights_of_the_other_blocks_are_those_of_torch(block, module: nn.Module) -> None:
    assert block.shapes() == {name: tuple(value.shape) for name, value in module.state_dict().items()}


def test_weights_of_the_blocks_that_torch_has_not() -> None:
    assert QuantileMix(2, 3).shapes() == {}
    assert Scaling(3).shapes() == {"mean": (3,), "std": (3,)}


@pytest.mark.parametrize("cell", BUILT_IN)
def test_peepholes_are_resolved_when_a_block_is_made(cell: str) -> None:
    assert Lstm(1, 2, cell=cell).peephole is CELLS[cell].peephole
    assert Lstm(1, 2, cell=cell).variant == variant(cell)
    assert Lstm(1, 2, cell=cell, peephole=False).peephole is False


def test_whole_numbers_become_floats_where_floats_belong() -> None:
    for value in (Lstm(1, 2, clip=3).clip, LayerNorm(1, eps=1).eps):
        assert type(value) is float


# ---- what is refused


@pytest.mark.parametrize("data", [None, [], {}, "lstm", 1, {"block": "linear"}, ()])
def test_an_architecture_is_a_list(data: object) -> None:
    _refused(data, "must be a list of blocks")


@pytest.mark.parametrize("item", [None, 1, "lstm", [], ["lstm"]])
def test_a_block_is_an_object(item: object) -> None:
    _refused([LINEAR, item], "must be an object")


@pytest.mark.parametrize("kind", [None, 1, "", "gru", "LSTM", ["lstm"], {}, "__class__", "x" * 1000])
def test_unknown_blocks_are_refused(kind: object) -> None:
    _refused([{**LINEAR, "block": kind}], "^.{0,80}; format 2 knows lstm, embedding, linear, layer_norm, conv1d")
    _refused([{"in_features": 3, "out_features": 2}], "None; format 2 knows lstm")


@every_block
def test_fields_are_exactly_those_of_the_block(block: dict) -> None:
    assert [describe_block(item) for item in parse_blocks([block])] == [block]
    for name in set(block) - {"block"}:
        _refused([{key: value for key, value in block.items() if key != name}], f"must have the fields .*{name}")
    for name in ("extra", "kind", "output_size"):
        _refused([{**block, name: 1}], "must have the fields")


@pytest.mark.parametrize("value", [0, -1, 2**24 + 1, 2**63, True, False, 1.0, 2.5, "3", None, [3], {}])
@every_block
def test_sizes_are_whole_numbers_in_range(block: dict, value: object) -> None:
    kind = block["block"]
    for name in SIZES[kind]:
        _refused([{**block, name: value}], f"^{name} of the block '{kind}' must be a whole number from 1 to .*, not ")


@pytest.mark.parametrize("value", [0, 1, "true", None, []])
@every_block
def test_flags_are_true_or_false(block: dict, value: object) -> None:
    kind = block["block"]
    for name in FLAGS[kind]:
        _refused([{**block, name: value}], f"^{name} of the block '{kind}' must be true or false, not ")


@pytest.mark.parametrize("value", [0, -1.0, True, "3", [3], float("inf"), float("nan"), 10**400])
@pytest.mark.parametrize(("kind", "name"), [("lstm", "clip"), ("layer_norm", "eps")])
def test_numbers_are_finite_and_above_zero(kind: str, name: str, value: object) -> None:
    _refused([{**EXAMPLES[kind], name: value}], f"^{name} of the block '{kind}' must be a finite number above 0")


def test_null_is_for_clip_alone() -> None:
    assert parse_blocks([{**LSTM, "clip": None}]) == (Lstm(3, 8, 2),)
    _refused(
        [{**EXAMPLES["layer_norm"], "eps": None}], "eps of the block 'layer_norm' must be a finite number above 0,"
    )


@pytest.mark.parametrize("value", [-1, 1.0, True, None, 2**24 + 1])
@pytest.mark.parametrize("name", ["proj_size", "nonrecurrent_proj_size"])
def test_projections_are_whole_numbers_or_zero(name: str, value: object) -> None:
    _refused([{**LSTM, name: value}], f"^{name} of the block 'lstm' must be a whole number from 0")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"proj_size": 8}, "^proj_size of the block 'lstm' must be smaller than its hidden_size, 8, not 8"),
        ({"nonrecurrent_proj_size": 2}, "^the block 'lstm': nonrecurrent_proj_size needs a recurrent projection"),
        ({"cell": "slstm", "layer_norm": True}, "^the block 'lstm': layer_norm is not defined for the cell 'slstm'"),
        ({"cell": "rnn", "peephole": True}, "^the block 'lstm': peephole is not defined for the cell 'rnn'"),
        ({"cell": "slstm", "learned_state": True}, "^the block 'lstm': learned_state is not defined for the cell"),
    ],
    ids=str,
)
def test_options_that_do_not_go_together(changes: dict, message: str) -> None:
    _refused([{**LSTM, **changes}], message)


def test_long_stacks_and_spans_are_refused_before_anything_is_made_of_them() -> None:
    # 2^24 layers are 2^26 names of weights: gigabytes, from a file of a few hundred bytes. So are 2^24 zeros before
    # a sequence.
    _refused([{**LSTM, "num_layers": 1025}], "num_layers of the block 'lstm' must be a whole number from 1 to 1024")
    for name in ("kernel_size", "stride", "dilation"):
        _refused([{**EXAMPLES["conv1d"], name: 2**16 + 1}], f"{name} of the block 'conv1d' must be .* from 1 to 65536")
    wide = {**EXAMPLES["conv1d"], "kernel_size": 257, "dilation": 256}
    assert parse_blocks([wide]) == (Conv1d(3, 2, 257, dilation=256),)
    _refused([{**wide, "dilation": 257}], "dilation of the block 'conv1d' must be at most 65536, not 65792")


@pytest.mark.parametrize("cell", ["gru", "", None, 1, "LSTM", ["lstm"], {"lstm": 1}])
def test_unknown_cells_are_refused(cell: object) -> None:
    _refused([{**LSTM, "cell": cell}], "^cell of the block 'lstm' must be one of rnn, .*slstm .*, not ")


def test_registered_cells_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatewise.spec.cells._table", dict(CELLS))
    cell = register(replace(CELLS["cifg"], name="of my own"))
    for make in (lambda: Lstm(3, 8, cell=cell.name), lambda: parse_blocks([{**LSTM, "cell": cell.name}])):
        with pytest.raises(InputError, match="registered cells are not for files"):
            make()


def test_blocks_are_checked_in_python_too() -> None:
    with pytest.raises(InputError, match="features of the block 'scaling' must be a whole number"):
        Scaling(0)


# ---- the chain


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([Lstm(3, 8), Linear(3, 2)], r"block 0 \(lstm\) gives a width of 8, but block 1 \(linear\) takes 3"),
        ([Lstm(3, 8, bidirectional=True), Linear(8, 2)], "gives a width of 16"),
        ([Lstm(3, 8, proj_size=2, nonrecurrent_proj_size=3), Linear(8, 2)], "gives a width of 5"),
        (
            [Embedding(9, 4), LayerNorm(4), Conv1d(5, 1, 2)],
            r"block 1 \(layer_norm\) .* 4, .* block 2 \(conv1d\) takes 5",
        ),
        ([Linear(3, 6), QuantileMix(3, 2)], "gives a width of 6, .* takes 5"),
        ([QuantileMix(3, 2), Scaling(5)], "gives a width of 2"),
        ([Scaling(3), Embedding(9, 4)], r"block 1 \(embedding\) takes whole numbers, .* must be the first block"),
    ],
)
def test_each_block_gives_the_width_that_the_next_one_takes(blocks: list, message: str) -> None:
    _refused([describe_block(block) for block in blocks], message)


# ---- format 1


def test_blocks_of_format_1_have_the_defaults_of_later_fields() -> None:
    first = [
        {"block": "lstm", "input_size": 3, "hidden_size": 8, "num_layers": 2, "cell": "peephole"},
        {"block": "linear", "in_features": 8, "out_features": 5},
        {"block": "quantile_mix", "candidates": 2, "quantiles": 3},
    ]
    assert parse_blocks(first, 1) == (Lstm(3, 8, 2, "peephole", peephole=True), Linear(8, 5), QuantileMix(2, 3))


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (EXAMPLES["scaling"], "a block 'scaling'; format 1 knows lstm, linear, quantile_mix"),
        (LSTM, "'lstm' must have the fields input_size, hidden_size, num_layers, cell"),
        (LINEAR, "'linear' must have the fields in_features, out_features"),
        ({"block": "linear", "in_features": 0, "out_features": 2}, "in_features of the block 'linear' must be"),
    ],
)
def test_format_1_has_nothing_that_came_later(block: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_blocks([block], 1)

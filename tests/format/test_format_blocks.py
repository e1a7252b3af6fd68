"""Architectures from plain data: the closed list of blocks, their sizes, the weights that follow."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gatewise.errors import InputError
from gatewise.format import BLOCKS, Linear, Lstm, QuantileMix, parse_blocks
from gatewise.format.blocks import describe_block

LSTM = {"block": "lstm", "input_size": 3, "hidden_size": 8, "num_layers": 2, "cell": "lstm"}
LINEAR = {"block": "linear", "in_features": 3, "out_features": 2}
MIX = {"block": "quantile_mix", "candidates": 2, "quantiles": 3}
size = st.integers(1, 1000)
layers = st.integers(1, 64)


def test_every_block_is_listed_by_its_kind() -> None:
    assert dict(BLOCKS) == {"lstm": Lstm, "linear": Linear, "quantile_mix": QuantileMix}


@settings(deadline=None, derandomize=True)
@given(
    st.lists(
        st.builds(Lstm, size, size, layers) | st.builds(Linear, size, size) | st.builds(QuantileMix, size, size),
        min_size=1,
    )
)
def test_blocks_come_back_from_their_description(blocks) -> None:
    assert parse_blocks([describe_block(block) for block in blocks]) == tuple(blocks)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 7, 1), (5, 2, 3)])
def test_weights_of_an_lstm_are_those_of_torch(sizes: tuple[int, int, int]) -> None:
    expected = {name: tuple(value.shape) for name, value in nn.LSTM(*sizes).state_dict().items()}
    assert Lstm(*sizes).shapes() == expected


def test_weights_of_the_other_blocks() -> None:
    assert Linear(3, 2).shapes() == {name: tuple(v.shape) for name, v in nn.Linear(3, 2).state_dict().items()}
    assert QuantileMix(2, 3).shapes() == {}


@pytest.mark.parametrize("data", [None, [], {}, "lstm", 1, {"block": "linear"}, ()])
def test_an_architecture_is_a_list(data: object) -> None:
    with pytest.raises(InputError, match="must be a list of blocks"):
        parse_blocks(data)


@pytest.mark.parametrize("item", [None, 1, "lstm", [], ["lstm"]])
def test_a_block_is_an_object(item: object) -> None:
    with pytest.raises(InputError, match="must be an object"):
        parse_blocks([LINEAR, item])


@pytest.mark.parametrize("kind", [None, 1, "", "gru", "LSTM", ["lstm"], {}, "__class__"])
def test_unknown_blocks_are_refused(kind: object) -> None:
    with pytest.raises(InputError, match="this version knows lstm, linear, quantile_mix"):
        parse_blocks([{**LINEAR, "block": kind}])
    with pytest.raises(InputError, match="None; this version knows lstm"):
        parse_blocks([{"in_features": 3, "out_features": 2}])


@pytest.mark.parametrize("block", [LSTM, LINEAR, MIX], ids=lambda block: block["block"])
def test_fields_are_exactly_those_of_the_block(block: dict) -> None:
    parse_blocks([block])
    for name in set(block) - {"block"}:
        with pytest.raises(InputError, match=f"must have the fields .*{name}"):
            parse_blocks([{key: value for key, value in block.items() if key != name}])
    with pytest.raises(InputError, match="must have the fields"):
        parse_blocks([{**block, "extra": 1}])
    with pytest.raises(InputError, match="must have the fields"):
        parse_blocks([{**block, "kind": "lstm"}])


@pytest.mark.parametrize("value", [0, -1, 2**24 + 1, 2**63, True, False, 1.0, 2.5, "3", None, [3], {}])
@pytest.mark.parametrize("block", [LSTM, LINEAR, MIX], ids=lambda block: block["block"])
def test_sizes_are_whole_numbers_in_range(block: dict, value: object) -> None:
    for name in set(block) - {"block", "cell"}:
        with pytest.raises(InputError, match=f"{name} of the block '{block['block']}' must be a whole number"):
            parse_blocks([{**block, name: value}])


def test_a_stack_of_more_layers_than_anyone_has_is_refused_before_its_weights_are_listed() -> None:
    # 2^24 layers are 2^26 names of weights: gigabytes, from a file of a few hundred bytes.
    with pytest.raises(InputError, match="num_layers of the block 'lstm' must be a whole number"):
        parse_blocks([{**LSTM, "num_layers": 2**24}])


@pytest.mark.parametrize("cell", ["gru", "", None, 1, "LSTM"])
def test_unknown_cells_are_refused(cell: object) -> None:
    with pytest.raises(InputError, match="this version knows rnn, "):
        parse_blocks([{**LSTM, "cell": cell}])


@pytest.mark.parametrize("cell", [["lstm"], {"lstm": 1}])
def test_cells_that_are_not_names_are_refused(cell: object) -> None:
    with pytest.raises(InputError, match="this version knows rnn, "):
        parse_blocks([{**LSTM, "cell": cell}])

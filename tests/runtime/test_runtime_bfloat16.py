"""Weights kept as bfloat16: float32's arithmetic on the rounded weights, whole, step by step and in pools."""

import numpy as np
import pytest
from runtime_problem import IDENTITY, Array, alone, build, draw, pooled, same_bits, weighted

from gatewise.errors import InputError
from gatewise.format import Block, Linear, Lstm, ModelFile, Scaling
from gatewise.runtime import Model
from gatewise.spec import BUILT_IN

CHANGE = 0.002

STACKS: dict[str, tuple[Block, ...]] = {
    **{cell: (Lstm(3, 17, 2, cell=cell),) for cell in BUILT_IN},
    "no bias": (Lstm(5, 8, bias=False), Linear(8, 3)),
    "peepholes": (Lstm(3, 9, peephole=True, clip=2.0),),
    "projections": (Lstm(3, 9, 2, proj_size=4, nonrecurrent_proj_size=3),),
    "layer norm": (Lstm(3, 9, layer_norm=True), Scaling(9)),
    "learned, residual": (Lstm(7, 7, 4, residual=True, learned_state=True),),
    "one unit": (Lstm(1, 1),),
    "wide": (Lstm(33, 40),),
}


def rounded(values: Array) -> Array:
    """The nearest bfloat16 of each number, ties to even, as float32."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def with_rounded(file: ModelFile) -> ModelFile:
    """The same model with the numbers that its layers keep rounded; their two biases are kept as one."""
    weights = dict(file.weights)
    for name, value in file.weights.items():
        kind = name.split(".")[1]
        if not isinstance(file.architecture[int(name.split(".")[0])], Lstm) or kind.startswith(
            ("h_0", "c_0", "n_0", "m_0")
        ):
            continue
        if kind.startswith("bias_hh"):
            weights[name] = np.zeros_like(value)
        elif kind.startswith("bias_ih"):
            weights[name] = rounded(value + file.weights[name.replace("bias_ih", "bias_hh")])
        else:
            weights[name] = rounded(value)
    return ModelFile(file.task, file.architecture, weights)


@pytest.mark.parametrize("name", STACKS)
def test_the_arithmetic_is_float32s_on_rounded_weights(name: str) -> None:
    blocks = STACKS[name]
    model = build(*blocks, weights="bf16")
    x = draw(blocks, 5, 7)
    expected = Model(with_rounded(weighted(blocks)), IDENTITY, threads=1).run(x)
    assert same_bits(model.run(x), expected)
    assert same_bits(alone(model, x), expected)
    assert same_bits(pooled(model, x), expected)
    assert not same_bits(build(*blocks).run(x), expected)


def test_both_directions() -> None:
    blocks = (Lstm(3, 6, 2, bidirectional=True),)
    x = draw(blocks, 4, 5)
    expected = Model(with_rounded(weighted(blocks)), IDENTITY, threads=1).run(x)
    assert same_bits(build(*blocks, weights="bf16").run(x), expected)


def test_they_take_half_the_memory() -> None:
    whole, half = build(Lstm(64, 64)).packed_bytes, build(Lstm(64, 64), weights="bf16").packed_bytes
    assert half == whole / 2


@pytest.mark.parametrize("largest", [3.4028235e38, -3.4028235e38, 3.3961775e38])
def test_the_largest_numbers_stay_finite(largest: float) -> None:
    blocks = (Lstm(1, 1, bias=False),)
    file = weighted(blocks)
    weights = {name: np.full_like(value, largest) for name, value in file.weights.items()}
    model = Model(ModelFile("t", blocks, weights), IDENTITY, weights="bf16", threads=1)
    # An infinite weight times nothing would be no number.
    assert np.isfinite(model.run(np.zeros((1, 1, 1)))).all()
    assert np.isfinite(model.stream().step(np.zeros(1, np.float32))).all()


def test_how_much_results_change() -> None:
    """What docs/runtime.md says of an LSTM of 64 units whose weights are drawn as torch draws them."""
    blocks = (Lstm(64, 64),)
    rng = np.random.default_rng(0)
    bound = 1 / np.sqrt(64)
    weights = {
        name: rng.uniform(-bound, bound, value.shape).astype("f4") for name, value in weighted(blocks).weights.items()
    }
    x = draw(blocks, 8, 100)
    whole, halved = (Model(ModelFile("t", blocks, weights), IDENTITY, weights=kept).run(x) for kept in ("f32", "bf16"))
    assert 0.0005 < np.abs(whole - halved).max() <= CHANGE


def test_shared_weights_are_kept_apart(tmp_path: object) -> None:
    blocks = (Lstm(3, 4),)
    x = draw(blocks, 2, 3)
    for weights in ("f32", "bf16"):
        here = build(*blocks, weights=weights, shared=tmp_path).run(x)
        assert same_bits(here, build(*blocks, weights=weights).run(x))


@pytest.mark.parametrize("weights", ["f16", "", None, 16, "BF16"])
def test_other_words_are_refused(weights: object) -> None:
    with pytest.raises(InputError, match="weights must be one of f32, bf16, not"):
        build(Lstm(3, 4), weights=weights)

"""One truth: whole, step by step, in a pool and as a torch network a model gives the same bits, and the right ones."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_problem import IDENTITY, Array, alone, build, draw, pooled, same_bits, weighted

from architectures import architectures
from gatewise import _native
from gatewise.errors import InputError
from gatewise.format import Block, Conv1d, Embedding, LayerNorm, Linear, Lstm, ModelFile, QuantileMix, Scaling
from gatewise.models import Network, from_file
from gatewise.nn import LSTM
from gatewise.runtime import Model
from gatewise.spec import BUILT_IN, CELLS

OPTIONS: dict[str, dict[str, Any]] = {
    "peephole": {"peephole": True},
    "clip": {"clip": 0.7},
    "layer_norm": {"layer_norm": True},
    "projection": {"proj_size": 2, "nonrecurrent_proj_size": 3},
    "learned_state": {"learned_state": True},
}


def _cases() -> list[Any]:
    cases = []
    for cell in BUILT_IN:
        able = {name: values for name, values in OPTIONS.items() if name in CELLS[cell].options}
        everything = {key: value for values in able.values() for key, value in values.items()}
        deep = {"num_layers": 4, "residual": True}
        chosen = {"plain": {}, "without bias": {"bias": False, "num_layers": 2}, **able, "all": {**everything, **deep}}
        for name, values in chosen.items():
            try:
                blocks = (Lstm(3, 5, cell=cell, **values),)
            except InputError:
                continue  # the options of some cells exclude each other
            cases.append(pytest.param(blocks, id=f"{cell}-{name}"))
    return cases


CELL_CASES = _cases()
MIXED: list[tuple[Block, ...]] = [
    (Linear(3, 17),),
    (Linear(33, 9, bias=False),),
    (LayerNorm(7, 0.5), LayerNorm(7)),
    (Scaling(3), Lstm(3, 17, 2), Linear(17, 1), Scaling(1, inverse=True)),
    (Embedding(11, 3),),
    (Embedding(11, 3), Conv1d(3, 5, 4, dilation=3), Lstm(5, 9, cell="peephole"), LayerNorm(9), Linear(9, 11)),
    (Conv1d(3, 5, 1), Conv1d(5, 2, 3)),
    (Lstm(3, 33, 3, residual=True), Conv1d(33, 4, 2, dilation=5), Lstm(4, 1, cell="slstm")),
]
WHOLE: list[tuple[tuple[Block, ...], str]] = [
    ((Lstm(3, 5, 2, bidirectional=True, learned_state=True), Linear(10, 2)), "both directions of time"),
    ((Conv1d(3, 5, 3, causal=False),), "reads what comes later"),
    ((Conv1d(3, 5, 3, stride=2), Lstm(5, 4)), "skips steps"),
    ((Conv1d(3, 5, 4, 2, 3, causal=False),), "reads what comes later"),
    ((Lstm(3, 5), Linear(5, 6), QuantileMix(2, 4)), "candidates of a whole forecast"),
]


def _names(blocks: object) -> str:
    return "-".join(block.kind for block in blocks) if isinstance(blocks, tuple) else ""


def _double(blocks: tuple[Block, ...], x: Array, *more: Array) -> Array:
    """The equations in float64, by torch, with gradients."""
    network = from_file(weighted(blocks)).double()
    wide = [torch.from_numpy(value) for value in (x, *more)]
    y = network(*(value.double() if value.is_floating_point() else value for value in wide))
    assert y.requires_grad or not list(network.parameters())
    return y.detach().numpy()


def _roundings(blocks: tuple[Block, ...], x: Array, *more: Array) -> tuple[float, float]:
    """How far the network's inference, and the equations in torch's own float32, are from float64 at worst.

    On the given numbers and on three drafts of them moved by a last place: a single run may be exact by luck.
    """
    ours, theirs = from_file(weighted(blocks)), from_file(weighted(blocks))
    for module in theirs.modules():
        if isinstance(module, LSTM):
            module.backend = "reference"
    errors: list[tuple[float, float]] = []
    for seed in range(4 if x.dtype.kind == "f" else 1):
        ends = np.random.default_rng(seed).choice([-np.inf, np.inf], x.shape)
        near = np.nextafter(x, ends.astype(x.dtype)) if seed else x
        given = [torch.from_numpy(value) for value in (near, *more)]
        exact = _double(blocks, near, *more)
        with torch.no_grad():
            y = ours(*given).numpy()
        errors.append((float(np.abs(y - exact).max()), float(np.abs(theirs(*given).detach().numpy() - exact).max())))
    return max(error for error, _ in errors), max(error for _, error in errors)


def _check(blocks: tuple[Block, ...], x: Array, y: Array, *more: Array) -> None:
    """The torch network in inference gives these bits; float64 is as near as the project says."""
    network = from_file(weighted(blocks))
    with torch.no_grad():
        assert same_bits(network(*(torch.from_numpy(value) for value in (x, *more))).numpy(), y)
    exact = _double(blocks, x, *more)
    if np.abs(y - exact).max() <= 1e-6 * max(1.0, float(np.abs(exact).max())):
        return
    # Deep and normalised ones magnify the rounding of any float32: no more than twice what torch's own comes to.
    error, own = _roundings(blocks, x, *more)
    assert error <= 2 * own


@pytest.mark.parametrize("blocks", [*CELL_CASES, *(pytest.param(blocks, id=_names(blocks)) for blocks in MIXED)])
def test_whole_stepped_pooled_and_torch_are_one(blocks: tuple[Block, ...]) -> None:
    model, x = build(*blocks), draw(blocks, 5, 9)
    y = model.run(x)
    assert y.shape == (5, 9, blocks[-1].output_size)
    assert np.isfinite(y).all()
    assert same_bits(alone(model, x), y)
    assert same_bits(pooled(model, x), y)
    _check(blocks, x, y)


@pytest.mark.parametrize(("blocks", "why"), WHOLE, ids=_names)
def test_what_cannot_go_step_by_step_says_why_and_runs_whole(blocks: tuple[Block, ...], why: str) -> None:
    model, x = build(*blocks), draw(blocks, 3, 9)
    more = [draw(blocks, 3, 4, seed=2)[..., :2]] if isinstance(blocks[-1], QuantileMix) else []
    _check(blocks, x, model.run(x, candidates=more[0] if more else None), *more)
    for begin in (model.stream, lambda: model.streams(2)):
        with pytest.raises(InputError, match=f"cannot go step by step: .*{why}. Use run"):
            begin()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(architectures(), st.integers(0, 4), st.integers(0, 9))
def test_any_architecture_is_one_with_its_network(blocks: tuple[Block, ...], rows: int, steps: int) -> None:
    model, x = build(*blocks), draw(blocks, rows, steps)
    mixes = [block.candidates for block in blocks if isinstance(block, QuantileMix)]
    if mixes:
        given = np.ones((rows, 1, mixes[0]), np.float32)
        if not steps or len(set(mixes)) > 1:
            with pytest.raises(InputError, match="candidates must be"):
                model.run(x, candidates=given)
            return
        y, network = model.run(x, candidates=given), (torch.from_numpy(x), torch.from_numpy(given))
    else:
        y, network = model.run(x), (torch.from_numpy(x),)
    with torch.no_grad():
        assert same_bits(from_file(weighted(blocks))(*network).numpy(), y)
    if not mixes and model._model.whole_only is None and rows and steps:
        assert same_bits(alone(model, x), y)
        assert same_bits(pooled(model, x), y)


def test_a_mixture_need_not_be_the_last_block() -> None:
    blocks = (Linear(3, 5), QuantileMix(2, 3), Linear(3, 1))
    model, x = build(*blocks), draw(blocks, 2, 6)
    given = np.random.default_rng(2).normal(size=(2, 4, 2)).astype(np.float32)
    y = model.run(x, candidates=given)
    assert y.shape == (2, 4, 1)
    _check(blocks, x, y, given)
    with pytest.raises(InputError, match="the model mixes candidates: give them"):
        model.run(x)


def test_candidates_are_for_the_steps_that_come_to_the_mixture() -> None:
    blocks = (Conv1d(3, 5, 3, stride=2), QuantileMix(2, 3))
    model, x = build(*blocks), draw(blocks, 2, 6)
    given = np.ones((2, 4, 2), np.float32)
    _check(blocks, x, model.run(x, candidates=given[:, :3]), given[:, :3])
    with pytest.raises(InputError, match=r"candidates must be \[2, T′, 2\] with T′ at most 3, got \[2, 4, 2\]"):
        model.run(x, candidates=given)


def test_a_network_in_inference_takes_only_what_fits() -> None:
    """What the executor would read past its end goes the way that torch checks."""
    network = Network([Linear(3, 5), QuantileMix(2, 3)]).eval()
    x = torch.randn(2, 6, 3)
    with torch.no_grad():
        for shape in ((2, 4, 3), (3, 4, 2)):
            with pytest.raises(RuntimeError):
                network(x, torch.randn(shape))
        with pytest.raises(InputError, match="candidates are for 7 steps, but only 6 come to the mixture"):
            network(x, torch.randn(2, 7, 2))
        each = torch.randn(1, 4, 2)
        assert torch.equal(network(x, each.expand(2, 4, 2)), network(x, each.expand(2, 4, 2).clone()))
        torch.testing.assert_close(network(x, each), network(x, each.expand(2, 4, 2)))


def test_a_network_in_inference_takes_any_view() -> None:
    network = from_file(weighted((Linear(3, 5), QuantileMix(2, 3))))
    # An imaginary part is a view that says of itself that it is negated.
    x, given = (torch.randn(2, 4, width, dtype=torch.complex64).conj().imag for width in (3, 2))
    assert x.is_neg()
    assert given.is_neg()
    with torch.no_grad():
        expected = network(x.clone(), given.clone())
        assert torch.equal(network(x, given), expected)
        assert torch.equal(network(x.mT.contiguous().mT, given.clone().requires_grad_()), expected)


@pytest.mark.parametrize("token", [-1, 4])
def test_a_network_in_inference_refuses_a_token_out_of_range(token: int) -> None:
    with torch.no_grad(), pytest.raises(ValueError, match=f"x must be from 0 to 3, got {token}"):
        Network([Embedding(4, 3)]).eval()(torch.tensor([[0, token]]))


@pytest.mark.parametrize("bad", [np.zeros((2, 5)), np.zeros((2, 4), np.float32), np.zeros((1, 2, 5), np.float32)])
def test_weights_that_are_not_the_blocks_are_not_read(bad: Array) -> None:
    blocks = (Lstm(3, 5), Linear(5, 2))
    file = weighted(blocks)
    with pytest.raises(InputError, match=r"weight 1.weight must be float32 \[2, 5\], got float"):
        Model(ModelFile(file.task, blocks, {**file.weights, "1.weight": bad}), IDENTITY)
    network = from_file(file)
    linear = network.get_submodule("1")
    assert isinstance(linear, torch.nn.Linear)
    linear.weight = torch.nn.Parameter(torch.zeros(2, 4))
    with torch.no_grad(), pytest.raises(InputError, match=r"weight 1.weight must be"):
        network(torch.zeros(1, 2, 3))


@pytest.mark.parametrize("isa", _native.available_isas())
def test_each_instruction_set_is_one_with_itself(isa: str) -> None:
    former = _native.isa()
    _native.use_isa(isa)
    try:
        for blocks in (MIXED[3], MIXED[5], (Lstm(3, 19, cell="slstm", layer_norm=False),)):
            model, x = build(*blocks), draw(blocks, 11, 5)
            y = model.run(x)
            assert model._model.isa == isa
            assert same_bits(alone(model, x), y)
            assert same_bits(pooled(model, x), y)
            _check(blocks, x, y)
    finally:
        _native.use_isa(former)

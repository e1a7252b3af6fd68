"""Lengths and resets: a padded batch whose rows restart computes what each piece of each row computes alone."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from torch import Tensor, nn

from gatewise import LSTM, ops
from gatewise.errors import InputError
from gatewise.ops import ShapeError
from gatewise.spec import CELLS, variant

T, B, D, H = 5, 4, 2, 3

Results = dict[str, Tensor]
Restarts = Sequence[Sequence[int]]

# Rows that restart at their end, past it, and without having begun.
LENGTHS, RESTARTS = [3, 5, 0, 2], [[0, 2, 3, 4], [3], [0, 2], [1, 2]]
SCHEDULES: dict[str, tuple[list[int] | None, Restarts | None]] = {
    "lengths": ([2, 0, 5, 3], None),
    "all empty": ([0, 0, 0, 0], None),
    "all full": ([5, 5, 5, 5], None),
    "resets": (None, [[0, 3], [], [1, 2, 4], [0, 1, 2, 3, 4]]),
    "lengths and resets": (LENGTHS, RESTARTS),
}
OPTIONS = {
    "layer_norm": {"layer_norm": True},
    "layer_norm with peepholes": {"layer_norm": True, "cell": "peephole"},
    "clip": {"clip": 0.5},
    "clip of slstm": {"clip": 0.5, "cell": "slstm"},
    "projection": {"proj_size": 2},
    "projection of fgr": {"proj_size": 2, "cell": "fgr"},
    "both projections": {"proj_size": 2, "nonrecurrent_proj_size": 1},
    "learned_state": {"learned_state": True},
    "learned_state of fgr": {"learned_state": True, "cell": "fgr"},
    "learned_state of rnn": {"learned_state": True, "cell": "rnn"},
    "zoneout": {"zoneout": (0.3, 0.2)},
    "zoneout of rnn": {"zoneout": 0.4, "cell": "rnn"},
    "residual": {"residual": True, "num_layers": 3},
    "residual of both projections": {"residual": True, "num_layers": 3, "proj_size": 2, "nonrecurrent_proj_size": 1},
    "many of cifg": {"cell": "cifg", "layer_norm": True, "clip": 0.5, "learned_state": True, "zoneout": 0.2},
}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    f"{cell}:{layers}": {"cell": cell, "num_layers": layers} for cell in CELLS for layers in (1, 2)
} | {name: {"num_layers": 2} | options for name, options in OPTIONS.items()}


def build(seed: int = 0, **options: Any) -> LSTM:
    """Make a layer in evaluation; every parameter is random, those too that start as ones or zeros."""
    layer = LSTM(D, H, dtype=torch.float64, **options).eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -0.8, 0.8, generator=generator)
    return layer


def sides(layer: LSTM) -> int:
    return 1 + layer.bidirectional


def draw(layer: LSTM, steps: int = T, rows: int = B) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Draw time-major inputs and a state of every kind; slstm's normaliser is a sum of positive terms."""
    generator = torch.Generator().manual_seed(steps)
    x = torch.randn(steps, rows, D, generator=generator, dtype=torch.float64, requires_grad=True)
    hx: list[Tensor] = []
    for name, size in layer.variant.state_sizes(H).items():
        part = torch.empty(layer.num_layers * sides(layer), rows, size, dtype=torch.float64)
        hx.append(part.uniform_(0.5 if name == "n" else -1, 1.5, generator=generator).requires_grad_())
    return x, tuple(hx)


def mask(restarts: Restarts, steps: int = T) -> Tensor:
    return torch.tensor([[t in row for row in restarts] for t in range(steps)])


def collect(output: Tensor, state: Sequence[Tensor], traces: list[dict[str, Tensor]] | None = None) -> Results:
    results = {"output": output} | {f"final {k}": part for k, part in enumerate(state)}
    for index, trace in enumerate(traces or []):
        results |= {f"{name} of {index}": value for name, value in trace.items()}
    return results


def starts(layer: LSTM) -> list[Tensor]:
    """What a piece begins with, for each state [L·S, ·]."""
    if not layer.learned_state:
        return [
            torch.zeros(layer.num_layers * sides(layer), size, dtype=torch.float64)
            for size in layer.variant.state_sizes(H).values()
        ]
    endings = [f"_l{k}{side}" for k in range(layer.num_layers) for side in ("", "_reverse")[: sides(layer)]]
    names = layer.variant.cell.states
    return [torch.stack([layer.get_parameter(f"{name}_0{ending}") for ending in endings]) for name in names]


def row_alone(layer: LSTM, x: Tensor, hx: Sequence[Tensor] | None, length: int, restarts: Sequence[int]) -> Results:
    """Run each piece of one row x [T, D] by itself, through the whole stack."""
    start = starts(layer)
    hx = start if hx is None else hx
    cuts = [0, *sorted({t for t in restarts if 0 < t < length}), length]
    pieces = list(pairwise(cuts)) if length else []
    backward = torch.arange(len(start[0])) % sides(layer) == 1
    runs: list[Results] = []
    for begin, end in pieces:
        first, last = begin == 0 and 0 not in restarts, end == length
        given = torch.where(backward, torch.tensor(last), torch.tensor(first))[:, None]
        enters = tuple(torch.where(given, a, b) for a, b in zip(hx, start, strict=True))
        runs.append(collect(*layer(x[begin:end], enters, trace=True)))
    if not runs:
        # The names and widths of what is zero everywhere; such a row leaves the state as it was.
        empty = collect(*layer(x[:0], tuple(hx), trace=True))
        runs.append(empty | {f"final {k}": part for k, part in enumerate(hx)})
    results: Results = {}
    for name, value in runs[0].items():
        if name.startswith("final"):
            results[name] = torch.where(backward[:, None], value, runs[-1][name])
        else:
            results[name] = torch.cat([run[name] for run in runs] + [value.new_zeros(len(x) - length, value.shape[1])])
    return results


def alone(
    layer: LSTM, x: Tensor, hx: Sequence[Tensor] | None, lengths: Sequence[int] | None, restarts: Restarts | None
) -> Results:
    steps, rows = x.shape[:2]
    each = [
        row_alone(
            layer,
            x[:, row],
            None if hx is None else [part[:, row] for part in hx],
            steps if lengths is None else lengths[row],
            () if restarts is None else restarts[row],
        )
        for row in range(rows)
    ]
    return {name: torch.stack([results[name] for results in each], 1) for name in each[0]}


def gradients(results: Results, leaves: dict[str, Tensor]) -> Results:
    """The gradients of a loss in which every number of the results weighs something else."""
    generator, loss = torch.Generator().manual_seed(2), torch.zeros((), dtype=torch.float64)
    for value in results.values():
        loss = loss + (value * torch.randn(value.shape, generator=generator, dtype=value.dtype)).sum()
    found = torch.autograd.grad(loss, [*leaves.values()], retain_graph=True, materialize_grads=True, allow_unused=True)
    return {f"gradient of {name}": part for name, part in zip(leaves, found, strict=True)}


def leaves_of(layer: LSTM, x: Tensor, hx: Sequence[Tensor] | None) -> dict[str, Tensor]:
    parts = {f"h{k}": part for k, part in enumerate(hx or ())}
    return {"input": x} | parts | dict(layer.named_parameters())


def assert_equal(ours: Results, theirs: Results) -> None:
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert ours[name].shape == expected.shape, name
        if expected.numel():
            # Written so that a NaN fails.
            assert (ours[name] - expected).abs().max() <= 1e-12 * max(1.0, expected.abs().max().item()), name


def assert_same(ours: Results, theirs: Results) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


both_directions = pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])
every_configuration = pytest.mark.parametrize("name", CONFIGURATIONS)


@pytest.mark.parametrize("schedule", SCHEDULES)
@both_directions
@every_configuration
def test_each_piece_runs_as_if_alone(name: str, bidirectional: bool, schedule: str):
    lengths, restarts = SCHEDULES[schedule]
    layer = build(**CONFIGURATIONS[name], bidirectional=bidirectional)
    x, hx = draw(layer)
    got = collect(*layer(x, hx, lengths=lengths, reset=None if restarts is None else mask(restarts), trace=True))
    expected = alone(layer, x, hx, lengths, restarts)
    assert_equal(got, expected)
    leaves = leaves_of(layer, x, hx)
    assert_equal(gradients(got, leaves), gradients(expected, leaves))
    ended = torch.arange(T)[:, None] >= torch.tensor([T] * B if lengths is None else lengths)
    assert not any(value[ended].any() for key, value in got.items() if not key.startswith("final"))


@st.composite
def batches(draw: st.DrawFn) -> dict[str, Any]:
    steps, rows = draw(st.integers(1, 7)), draw(st.integers(1, 4))
    return {
        "steps": steps,
        "lengths": draw(st.none() | st.lists(st.integers(0, steps), min_size=rows, max_size=rows)),
        "restarts": draw(st.lists(st.sets(st.integers(0, steps - 1)).map(sorted), min_size=rows, max_size=rows)),
        "given": draw(st.booleans()),
        "options": {
            **CONFIGURATIONS[draw(st.sampled_from(list(CONFIGURATIONS)))],
            "bidirectional": draw(st.booleans()),
        },
    }


@hypothesis.given(batches())
@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
def test_any_lengths_and_resets(batch: dict[str, Any]):
    layer, lengths, restarts = build(**batch["options"]), batch["lengths"], batch["restarts"]
    x, state = draw(layer, batch["steps"], len(restarts))
    hx = state if batch["given"] else None
    with torch.no_grad():
        got = collect(*layer(x, hx, lengths=lengths, reset=mask(restarts, batch["steps"]), trace=True))
        assert_equal(got, alone(layer, x, hx, lengths, restarts))


@both_directions
@every_configuration
def test_a_restart_before_the_first_step_is_a_start_without_a_state(name: str, bidirectional: bool):
    layer = build(**CONFIGURATIONS[name], bidirectional=bidirectional)
    x, hx = draw(layer)
    fresh = collect(*layer(x))
    begun = tuple(part[:, None].expand(-1, B, -1) for part in starts(layer))
    assert_same(collect(*layer(x, begun)), fresh)
    # A backward direction begins at the other end, where its state still enters.
    backward = torch.arange(len(hx[0]))[:, None, None] % sides(layer) == 1
    mixed = tuple(torch.where(backward, a, b) for a, b in zip(hx, begun, strict=True))
    restarted = collect(*layer(x, hx, reset=mask([[0]] * B)))
    assert_same(restarted, collect(*layer(x, mixed)))
    assert not torch.equal(restarted["output"], collect(*layer(x, hx))["output"])
    for part in torch.autograd.grad(restarted["output"].sum(), hx):
        assert not part[~backward.flatten()].any()


@pytest.mark.parametrize("cell", CELLS)
def test_a_backward_direction_is_a_forward_one_on_each_turned_piece(cell: str):
    """Against a layer of one direction: what the comparison above takes for granted."""
    layer, single = build(cell=cell, bidirectional=True), build(1, cell=cell)
    single.load_state_dict({name: layer.get_parameter(f"{name}_reverse") for name in single.state_dict()})
    x, hx = draw(layer, steps=5, rows=1)
    output, state = layer(x, hx, lengths=[4], reset=mask([[1, 3, 4]]))
    last, hx_last = single(x[3:4], tuple(part[1:] for part in hx))
    middle, _ = single(x[1:3].flip(0))
    first, final = single(x[:1])
    expected = torch.cat([first, middle.flip(0), last, torch.zeros_like(first)])
    assert_equal(collect(output[..., H:], [part[1:] for part in state]), collect(expected, final))
    assert not torch.equal(hx_last[0], final[0])


@pytest.mark.parametrize("cut", [0, 2, T])
@every_configuration
def test_a_sequence_may_be_cut_anywhere(name: str, cut: int):
    layer = build(**CONFIGURATIONS[name])
    x, hx = draw(layer)
    lengths, reset = torch.tensor([3, 5, 0, 1]), mask([[2], [1, 4], [0], []])
    leaves = leaves_of(layer, x, hx)
    for given in ({}, {"lengths": lengths, "reset": reset}):
        whole = collect(*layer(x, hx, **given))
        before, after = {}, {}
        if given:
            before = {"lengths": lengths.clamp(max=cut), "reset": reset[:cut]}
            after = {"lengths": (lengths - cut).clamp(min=0), "reset": reset[cut:]}
        head, state = layer(x[:cut], hx, **before)
        tail, state = layer(x[cut:], state, **after)
        parts = collect(torch.cat([head, tail]), state)
        assert_equal(parts, whole)
        assert_equal(gradients(parts, leaves), gradients(whole, leaves))


@pytest.mark.parametrize("options", [{}, {"cell": "fgr", "proj_size": 2}, {"backend": "torch"}], ids=str)
def test_batch_first_and_single_sequences_are_other_layouts(options: dict[str, Any]):
    reset = None if "backend" in options else mask(RESTARTS)
    layer = build(num_layers=2, bidirectional=True, **options)
    x, hx = draw(layer)
    output, state = layer(x, hx, lengths=LENGTHS, reset=reset)
    turned = build(num_layers=2, bidirectional=True, batch_first=True, **options)
    other, other_state = turned(x.transpose(0, 1), hx, lengths=LENGTHS, reset=None if reset is None else reset.T)
    assert_same(collect(other.transpose(0, 1), other_state), collect(output, state))
    output, state = layer(x, hx, reset=reset)
    for either in (layer, turned):
        single = either(x[:, 1], tuple(part[:, 1] for part in hx), reset=None if reset is None else reset[:, 1])
        assert_equal(collect(*single), collect(output[:, 1], [part[:, 1] for part in state]))


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize(
    "lengths",
    [tuple(LENGTHS), *(torch.tensor(LENGTHS, dtype=d) for d in (torch.uint8, torch.int8, torch.int32, torch.int64))],
    ids=lambda lengths: str(getattr(lengths, "dtype", "tuple")),
)
def test_lengths_may_be_any_whole_numbers(lengths: Any, backend: str):
    layer = build(backend=backend, bidirectional=True)
    x, hx = draw(layer)
    assert_same(collect(*layer(x, hx, lengths=lengths)), collect(*layer(x, hx, lengths=LENGTHS)))


@both_directions
def test_restarts_past_the_end_do_nothing(bidirectional: bool):
    layer = build(num_layers=2, bidirectional=bidirectional)
    x, hx = draw(layer)
    within = [[t for t in row if t < length] for row, length in zip(RESTARTS, LENGTHS, strict=True)]
    assert within != RESTARTS
    got, expected = (collect(*layer(x, hx, lengths=LENGTHS, reset=mask(rows))) for rows in (RESTARTS, within))
    assert_same(got, expected)


@pytest.mark.parametrize("lengths", [LENGTHS, [1, 2, 3, 4], [5, 5, 5, 5], [0, 0, 1, 0]], ids=str)
@pytest.mark.parametrize("options", [{}, {"proj_size": 2}, {"bias": False, "num_layers": 2}], ids=str)
@both_directions
def test_torchs_backend_takes_lengths(options: dict[str, Any], bidirectional: bool, lengths: list[int]):
    layer = build(**options, bidirectional=bidirectional, backend="torch")
    x, hx = draw(layer)
    got = collect(*layer(x, hx, lengths=lengths))
    leaves = leaves_of(layer, x, hx)
    expected = {
        name: value
        for name, value in alone(build(**options, bidirectional=bidirectional), x, hx, lengths, None).items()
        if name in got
    }
    assert_equal(got, expected)
    with torch.no_grad():
        assert_equal(collect(*layer(x, hx, lengths=lengths)), got)
    layer.backend = "reference"
    assert_equal(gradients(got, leaves), gradients(collect(*layer(x, hx, lengths=lengths)), leaves))


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=str)
@pytest.mark.parametrize("proj_size", [0, 2])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_single_direction_on_torchs_backend(reverse: bool, proj_size: int, lengths: list[int] | None):
    layer = build(proj_size=proj_size)
    x, hx = draw(layer)
    weights = ops.Weights(**{name.removesuffix("_l0"): value for name, value in layer.named_parameters()})
    direction, leaves = ops.Direction(tuple(part[0] for part in hx), weights, reverse), leaves_of(layer, x, hx)
    results: list[Results] = []
    for backend in ("torch", "reference"):
        y, (state,), _ = ops.layer(x, [direction], variant(proj_size=proj_size), lengths=lengths, backend=backend)
        results.append(collect(y, state))
    assert_equal(*results)
    assert_equal(*(gradients(result, leaves) for result in results))


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", [*CONFIGURATIONS, "torch"])
def test_rows_do_not_reach_each_other_nor_padding_a_row(name: str, poison: float):
    options: dict[str, Any] = {"backend": "torch"} if name == "torch" else CONFIGURATIONS[name]
    layer = build(**options, bidirectional=True)
    x, hx = draw(layer)
    lengths = [2, 5, 0, 3]
    clean = collect(*layer(x, hx, lengths=lengths))
    leaves = leaves_of(layer, x, hx)
    padded = x.detach().masked_fill((torch.arange(T)[:, None] >= torch.tensor(lengths))[..., None], poison)
    padded.requires_grad_()
    got = collect(*layer(padded, hx, lengths=lengths))
    assert_same(got, clean)
    assert_same(gradients(got, leaves | {"input": padded}), gradients(clean, leaves))
    spoiled = x.detach().index_fill(1, torch.tensor(3), poison).requires_grad_()
    others, undisturbed = (
        {key: value[:, :3] for key, value in results.items()}
        for results in (collect(*layer(spoiled, hx, lengths=lengths)), clean)
    )
    assert_same(others, undisturbed)
    reached, expected = (
        [part[:, :3] for part in gradients(results, leaves).values()]
        for results, leaves in ((others, {"input": spoiled}), (undisturbed, {"input": x}))
    )
    assert torch.equal(*reached, *expected)


PACKED = nn.utils.rnn.pack_sequence([torch.zeros(3, D, dtype=torch.float64), torch.zeros(2, D, dtype=torch.float64)])
X = torch.zeros(3, 2, D, dtype=torch.float64)
RESET = torch.zeros(3, 2, dtype=torch.bool)
WRONG = {
    "too long": (InputError, r"lengths must be from 0 to T, 3; lengths\[1\] is 4", X, {"lengths": [3, 4]}),
    "negative": (InputError, r"lengths\[0\] is -1", X, {"lengths": [-1, 2]}),
    "not whole": (InputError, "whole numbers", X, {"lengths": [1.0, 2.0]}),
    "bools": (InputError, "whole numbers", X, {"lengths": torch.tensor([True, True])}),
    "words": (InputError, "whole numbers", X, {"lengths": ["a", "b"]}),
    "too few lengths": (ShapeError, r"lengths must have shape \[2\]", X, {"lengths": [1]}),
    "lengths of one sequence": (InputError, "lengths is for batches", X[:, 0], {"lengths": [1]}),
    "lengths of packed": (InputError, "lengths cannot go with a PackedSequence", PACKED, {"lengths": [1, 1]}),
    "reset of packed": (InputError, "reset cannot go with a PackedSequence", PACKED, {"reset": RESET}),
    "reset of numbers": (InputError, "reset must be bool", X, {"reset": RESET.int()}),
    "reset as a list": (TypeError, "reset must be a torch.Tensor", X, {"reset": RESET.tolist()}),
    "batch-major reset": (ShapeError, r"reset must have shape \[3, 2\]", X, {"reset": RESET.T}),
    "reset of one sequence": (ShapeError, r"reset must have shape \[3\]", X[:, 0], {"reset": RESET}),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_lengths_and_resets_are_refused(case: str):
    error, text, x, given = WRONG[case]
    with pytest.raises(error, match=text):
        build()(x, **given)

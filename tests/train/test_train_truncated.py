"""Truncated BPTT against plain autograd over whole sequences, to the bit where it must be."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gatewise import LSTM
from gatewise.train import Part, Plan, Streams, Truncated, Window, train

LENGTHS = [23, 40, 9]


class Problem:
    """A layer, a head and streams with targets; ``step`` is what ``Truncated`` asks for."""

    def __init__(self, dtype: torch.dtype = torch.float32, **options: Any):
        torch.manual_seed(0)
        self.layer = LSTM(3, 7, cell="peephole", save=options.pop("save", "all")).to(dtype)
        self.head = nn.Linear(7, 2).to(dtype)
        self.model = nn.ModuleList([self.layer, self.head])
        generator = np.random.default_rng(1)
        kind = {torch.float32: np.float32, torch.float64: np.float64}[dtype]
        lengths = options.pop("lengths", LENGTHS)
        self.x = generator.standard_normal((sum(lengths), 3)).astype(kind)
        self.y = generator.standard_normal((sum(lengths), 2)).astype(kind)
        self.offsets = np.cumsum([0, *lengths])
        self.streams = Streams(self.x, self.y, self.offsets, **options)
        self.outputs: list[tuple[Window, Tensor]] = []

    def step(self, window: Window, state: Any) -> tuple[Tensor, int, Any]:
        output, state = self.layer(window.x, state, lengths=window.lengths, reset=window.reset)
        self.outputs.append((window, output.detach()))
        error = (self.head(output) - window.y)[window.scored]
        return error.square().sum(), error.numel(), state

    def gradients(self) -> list[Tensor]:
        return [p.grad.clone() for p in self.model.parameters() if p.grad is not None]

    def windows(self) -> Iterator[tuple[Truncated, Window]]:
        truncated = Truncated(self.streams, self.step)
        for number in range(1, self.streams.windows + 1):
            yield truncated, truncated.batch(1, number, Part())


@pytest.mark.parametrize("save", ["all", "states"])
def test_a_window_of_the_whole_sequence_is_full_bptt_to_the_bit(save: str) -> None:
    problem = Problem(rows=3, window=max(LENGTHS), seed=None, save=save)
    assert problem.streams.windows == 1
    ((truncated, window),) = problem.windows()
    total, count = truncated.loss(window)
    total.backward()
    mine = problem.gradients()

    whole = Problem(rows=3, window=1, seed=None)
    x, y = torch.zeros(40, 3, 3), torch.zeros(40, 3, 2)
    # The longest streams were given out first.
    for row, stream in enumerate([1, 0, 2]):
        rows = slice(whole.offsets[stream], whole.offsets[stream + 1])
        x[: LENGTHS[stream], row], y[: LENGTHS[stream], row] = map(torch.from_numpy, (whole.x[rows], whole.y[rows]))
    lengths = torch.tensor([40, 23, 9])
    output, _ = whole.layer(x, lengths=lengths)
    counted = torch.arange(40)[:, None] < lengths
    expected = (whole.head(output) - y)[counted].square().sum()
    expected.backward()
    assert (total.item(), count) == (expected.item(), 2 * sum(LENGTHS))
    assert all(map(torch.equal, mine, whole.gradients()))


@pytest.mark.parametrize(("window", "backward", "rows"), [(7, 7, 2), (8, 3, 2), (5, 12, 3), (4, 40, 1), (1, 1, 3)])
def test_the_state_that_is_carried_is_that_of_one_long_run(window: int, backward: int, rows: int) -> None:
    problem = Problem(rows=rows, window=window, backward=backward)
    carried = np.zeros((sum(LENGTHS), 7), np.float32)
    place = np.full(sum(LENGTHS), -1)
    x_of = {problem.x[row].tobytes(): row for row in range(len(problem.x))}
    for truncated, part in problem.windows():
        problem.outputs.clear()
        with torch.no_grad():
            truncated.loss(part)
        for piece, output in problem.outputs:
            for at, row in piece.scored.nonzero().tolist():
                source = x_of[piece.x[at, row].numpy().tobytes()]
                carried[source], place[source] = output[at, row].numpy(), row
    assert (place >= 0).all()
    with torch.no_grad():
        for start, stop in zip(problem.offsets[:-1], problem.offsets[1:], strict=True):
            output, _ = problem.layer(torch.from_numpy(problem.x[start:stop, None]))
            assert torch.equal(output[:, 0], torch.from_numpy(carried[start:stop]))


@pytest.mark.parametrize(("window", "backward"), [(6, 6), (6, 4), (6, 1), (4, 10), (4, 5), (3, 60)])
def test_the_gradient_flows_as_far_back_as_it_may(window: int, backward: int) -> None:
    problem = Problem(torch.float64, rows=1, window=window, backward=backward, lengths=[29])
    for number, (truncated, part) in enumerate(problem.windows()):
        problem.model.zero_grad()
        truncated.loss(part)[0].backward()
        first, last = number * window, min((number + 1) * window, 29)
        # By hand: pieces whose losses share a beginning, from which on the gradient flows.
        if backward <= window:
            pieces = [(start, start, min(start + backward, last)) for start in range(first, last, backward)]
        else:
            pieces = [(max(0, first + window - backward), first, last)]
        mine = problem.gradients()
        problem.model.zero_grad()
        for begin, scored, end in pieces:
            x, y = (torch.from_numpy(values[:, None]) for values in (problem.x, problem.y))
            with torch.no_grad():
                _, state = problem.layer(x[:begin])
            output, _ = problem.layer(x[begin:end], state)
            (problem.head(output) - y[begin:end])[scored - begin :].square().sum().backward()
        for got, wanted in zip(mine, problem.gradients(), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)


def test_a_state_is_dropped_where_a_stream_or_its_carry_ends() -> None:
    problem = Problem(rows=1, window=5, carry=8, seed=None, lengths=[20])
    outputs = []
    for truncated, part in problem.windows():
        with torch.no_grad():
            truncated.loss(part)
        outputs.append(problem.outputs[-1][1][:, 0])
    pieces = [problem.layer(torch.from_numpy(problem.x[k : k + 8, None]))[0][:, 0] for k in (0, 8, 16)]
    assert torch.equal(torch.cat(outputs), torch.cat(pieces))


def test_whole_sequences_of_thousands_of_steps_keep_states_only() -> None:
    # One sequence as long as a day of minutes, its gradient flowing all the way, equal to the one that keeps all.
    gradients = []
    for save in ("all", "states"):
        problem = Problem(rows=1, window=5000, lengths=[5000], save=save)
        ((truncated, window),) = problem.windows()
        truncated.loss(window)[0].backward()
        gradients.append(problem.gradients())
    assert all(map(torch.equal, *gradients))
    assert all(gradient.abs().max() > 0 for gradient in gradients[0])


@pytest.mark.parametrize("accumulate", [2, 3])
def test_turns_carry_the_states_of_their_own_rows(accumulate: int) -> None:
    def run(turns: int) -> list[Tensor]:
        problem = Problem(rows=3, window=6)
        truncated = Truncated(problem.streams, problem.step)
        plan = Plan(2, problem.streams.windows, accumulate=turns, clip_norm=None)
        train(problem.model, truncated.loss, truncated.batch, plan, carried=truncated)
        return list(problem.model.state_dict().values())

    for one, many in zip(run(1), run(accumulate), strict=True):
        torch.testing.assert_close(one, many, rtol=1e-4, atol=1e-6)


def test_a_window_without_the_one_before_is_refused() -> None:
    problem = Problem(rows=2, window=6)
    truncated = Truncated(problem.streams, problem.step)
    with pytest.raises(RuntimeError, match="the window before this one was not run"):
        truncated.loss(truncated.batch(1, 2, Part()))

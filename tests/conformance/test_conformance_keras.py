"""Keras' golden values: the expected numbers that Keras 3's LSTM layer tests state, entered here as data.

Source: keras/src/layers/rnn/lstm_test.py (Keras 3), rounded as they stand there. Inputs [B, T, D] count up from 0.
Weights are constants: input kernel 0.01, recurrent kernel 0.02, bias 0.03, but a forget bias of 1 where Keras'
unit_forget_bias holds. All units of a layer then agree, so one number stands for a row of units unless their initial
states differ.
"""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from gatewise import LSTM

TOLERANCE = 1e-5
pytestmark = pytest.mark.usefixtures("isa")


class Case(NamedTuple):
    shape: tuple[int, int, int]
    hidden: int
    last: list[float] | list[list[float]]
    bias: bool = True
    unit_forget_bias: bool = True
    backwards: bool = False
    calls: int = 1  # on the same input, the state carried over
    counted_state: bool = False  # h and c count up from 0 instead of being zeros
    lengths: list[int] | None = None
    skip_first: list[int] | None = None  # steps masked at the start of each row
    sequence: list[list[float]] | None = None


CASES = {
    "last": Case((3, 6, 4), 3, [0.6288687, 0.86899155, 0.9460773]),
    "backwards": Case((3, 6, 4), 3, [0.35622165, 0.74789524, 0.8872726], backwards=True),
    "no unit forget bias": Case((3, 6, 4), 3, [0.57019705, 0.8661914, 0.9459622], unit_forget_bias=False),
    "no bias": Case((3, 6, 4), 3, [0.54986924, 0.86226785, 0.9443936], bias=False, unit_forget_bias=False),
    "stateful": Case((2, 3, 4), 4, [0.3124785, 0.6863672], calls=2),
    "state": Case((2, 4, 3), 2, [[0.20574439, 0.3558822], [0.64930826, 0.66276]], counted_state=True),
    "state, backwards": Case(
        (2, 4, 3), 2, [[0.13281618, 0.2790356], [0.5839337, 0.5992567]], counted_state=True, backwards=True
    ),
    "lengths": Case(
        (2, 4, 3),
        2,
        [0.11755939, 0.28556206],
        lengths=[3, 2],
        sequence=[[0.0158891, 0.05552048, 0.11755939, 0.0], [0.14185596, 0.28556206, 0.0, 0.0]],
    ),
    "masked start, backwards": Case((2, 4, 3), 2, [0.15341201, 0.3844719], backwards=True, skip_first=[1, 2]),
}
BACKWARDS = [name for name, case in CASES.items() if case.backwards]

Result = tuple[Tensor, Tensor]  # output [B, T, H], final h [B, H]


@pytest.mark.parametrize("gradient", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("name", CASES)
def test_golden(name: str, gradient: bool) -> None:
    with torch.set_grad_enabled(gradient):
        output, last = run(CASES[name])
    compare(CASES[name], output, last)


@pytest.mark.parametrize("gradient", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("name", BACKWARDS)
def test_golden_by_the_backward_direction(name: str, gradient: bool) -> None:
    with torch.set_grad_enabled(gradient):
        output, last = run_backward_direction(CASES[name])
    compare(CASES[name], output, last)


def run(case: Case) -> Result:
    """Run the case in one direction; backwards in time is forwards on flipped time, as in Keras."""
    layer = build(case)
    x, state, lengths = count(case.shape), initial_state(case), case.lengths
    if case.backwards:
        x = x.flip(1)
    if case.skip_first:  # flipped, the masked steps come last
        lengths = kept_lengths(case)
    output = x
    for _ in range(case.calls):
        output, state = layer(x, state, lengths=lengths)
    assert state is not None
    return output, state[0][0]


def run_backward_direction(case: Case) -> Result:
    """Run the case as the backward half of a layer that goes both ways; Keras returns its outputs in running order."""
    layer = build(case, bidirectional=True)
    x, one, lengths = count(case.shape), initial_state(case), None
    if case.skip_first:
        # Padding is at the end here, so each row moves up by the steps that Keras masks at its start.
        lengths = kept_lengths(case)
        x = torch.stack([row.roll(-skip, 0) for row, skip in zip(x, case.skip_first, strict=True)])
    # The forward half gets another state and is not looked at.
    state = None if one is None else tuple(torch.cat([-part, part]) for part in one)
    output, final = layer(x, state, lengths=lengths)
    return output[..., case.hidden :].flip(1), final[0][1]


def build(case: Case, *, bidirectional: bool = False) -> LSTM:
    forget_bias = 1.0 if case.unit_forget_bias else None
    layer = LSTM(
        case.shape[2],
        case.hidden,
        bias=case.bias,
        batch_first=True,
        bidirectional=bidirectional,
        forget_bias=forget_bias,
        backend="native",
    )
    forget_rows = slice(case.hidden, 2 * case.hidden)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            kind = name.split("_l")[0]
            kept = parameter[forget_rows].clone() if case.unit_forget_bias and kind.startswith("bias") else None
            parameter.fill_({"weight_ih": 0.01, "weight_hh": 0.02, "bias_ih": 0.03, "bias_hh": 0.0}[kind])
            if kept is not None:  # what forget_bias=1 wrote is part of the test
                parameter[forget_rows] = kept
    return layer


def count(shape: tuple[int, ...]) -> Tensor:
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)


def initial_state(case: Case) -> tuple[Tensor, Tensor] | None:
    state = count((1, case.shape[0], case.hidden))
    return (state, state.clone()) if case.counted_state else None


def kept_lengths(case: Case) -> list[int]:
    assert case.skip_first is not None
    return [case.shape[1] - skip for skip in case.skip_first]


def compare(case: Case, output: Tensor, last: Tensor) -> None:
    expected = torch.tensor(case.last)
    if expected.dim() == 1:
        expected = expected[:, None].expand(-1, case.hidden)
    close(last, expected)
    lengths = case.lengths or (kept_lengths(case) if case.skip_first else None)
    if not lengths:
        close(output[:, -1], expected)
    elif not case.backwards:
        assert case.sequence is not None
        close(output, torch.tensor(case.sequence)[:, :, None].expand(-1, -1, case.hidden))


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual.detach(), expected, rtol=0, atol=TOLERANCE)

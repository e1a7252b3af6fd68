"""A row alone, and a step alone: ways of their own through the kernels, to the same bits.

Nothing but y and states is asked for: traces go another way.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from native_problem import Problem, check, check_same_bits, draw, exact, singles
from native_rows import EVERY, name_of
from test_native_invariance import owned, picked, run_in_pieces

from gatewise.spec import Cell

T = 35  # more than the products with x are formed ahead
SIZES = [(5, 20), (17, 7), (9, 33), (1, 1), (24, 64)]
PROJECTED: list[tuple[str | Cell, dict[str, Any]]] = [("lstm", {"proj_size": 5, "nonrecurrent_proj_size": 3})]
CASES: list[tuple[str | Cell, dict[str, Any]]] = [
    *((cell, {}) for cell in EVERY),
    *PROJECTED,
    ("lstm", {"bias": False}),
]

every_case = pytest.mark.parametrize(
    ("cell", "wanted"), CASES, ids=lambda value: name_of(value) if isinstance(value, str | Cell) else " ".join(value)
)
every_size = pytest.mark.parametrize(("inputs", "hidden"), SIZES)


def problem_of(cell: str | Cell, sizes: tuple[int, int], wanted: dict[str, Any], way: Any = "both") -> Problem:
    return draw(cell, T, 3, *sizes, way, **wanted)


@pytest.mark.parametrize("cell", ["lstm", "cifg", "rnn"])
@pytest.mark.parametrize("sizes", [(9, 300), (1100, 20), (760, 300)])
@pytest.mark.usefixtures("isa")
def test_a_row_alone_where_sums_are_deep(cell: str, sizes: tuple[int, int]):
    """Sums that are cut in pieces, in forward and in backward."""
    check_rows_alone(problem_of(cell, sizes, {}).steps(0, 3))


@every_case
@every_size
@pytest.mark.usefixtures("isa")
def test_a_row_alone_has_the_bits_it_has_in_a_batch(cell: str | Cell, wanted: dict[str, Any], inputs: int, hidden: int):
    check_rows_alone(problem_of(cell, (inputs, hidden), wanted))


def check_rows_alone(problem: Problem) -> None:
    whole = problem.run(trace=False)
    for row in range(3):
        alone = problem.rows([row])
        ours = alone.run(trace=False)
        check_same_bits(ours.values, {name: picked(name, value, [row]) for name, value in whole.values.items()})
        names = owned(ours)
        check_same_bits(ours.gradients, {name: picked(name, whole.gradients[name], [row]) for name in names}, names)
        check_same_bits(alone.forward(), ours.values)
        check_same_bits(alone.run(trace=False, save="states").gradients, ours.gradients)


@every_case
@every_size
@pytest.mark.parametrize("way", ["forward", "backward"])
@pytest.mark.usefixtures("isa")
def test_step_by_step(cell: str | Cell, wanted: dict[str, Any], inputs: int, hidden: int, way: Any):
    problem = problem_of(cell, (inputs, hidden), wanted, way).rows([1])
    whole = problem.run(trace=False).values
    every = list(range(T + 1))
    check_same_bits(run_in_pieces(problem, every, lambda piece: piece.forward()), whole)
    check_same_bits(run_in_pieces(problem, every, lambda piece: piece.run(trace=False).values), whole)
    check_same_bits(run_in_pieces(problem, every, lambda piece: piece.run(trace=False, save="states").values), whole)


@every_case
@every_size
@pytest.mark.usefixtures("isa")
def test_values_and_gradients_of_one_row_and_of_one_step(
    cell: str | Cell, wanted: dict[str, Any], inputs: int, hidden: int
):
    row = problem_of(cell, (inputs, hidden), wanted).rows([2])
    for problem in (row.steps(0, 7), row.steps(3, 4)):
        truth, peers = exact(problem, trace=False), singles(problem, trace=False)
        check(problem, problem.run(trace=False), truth, peers)


@every_case
@every_size
@pytest.mark.parametrize("others", [1, 2, 20])
@pytest.mark.usefixtures("isa")
def test_one_step_of_one_row_has_the_gradients_it_has_in_a_batch(
    cell: str | Cell, wanted: dict[str, Any], inputs: int, hidden: int, others: int
):
    """Of rows that take no step, or whose results nobody asks for, which add zeros to the weights' gradients."""
    noise = () if cell == "slstm" else ("recurrent",)
    step = draw(cell, 1, 3, inputs, hidden, "both", noise=noise, **wanted)
    alone = step.rows([1])
    batch = step.rows([1, *[2] * others])
    quiet = {name: value.clone() for name, value in batch.cotangents.items()}
    for name, value in quiet.items():
        (value if ".state." in name else value[0])[1:] = 0
    batch = replace(batch, cotangents=quiet)
    lengths = torch.tensor([1] + [0] * others)
    for save in ("all", "states"):
        ours = alone.run(trace=False, save=save).gradients
        for whole in (batch, replace(batch, lengths=lengths)):
            theirs = whole.run(trace=False, save=save)
            names = owned(theirs)
            check_same_bits(
                {**theirs.gradients, **{name: picked(name, theirs.gradients[name], [0]) for name in names}}, ours
            )


@every_case
@every_size
@pytest.mark.usefixtures("isa")
def test_padding_changes_no_bit_of_a_single_step(cell: str | Cell, wanted: dict[str, Any], inputs: int, hidden: int):
    padded = replace(problem_of(cell, (inputs, hidden), wanted, "forward").rows([1]), lengths=torch.tensor([1]))
    step = padded.steps(0, 1)
    for save in ("all", "states"):
        ours, theirs = padded.run(trace=False, save=save), step.run(trace=False, save=save)
        for name, value in theirs.values.items():
            check_same_bits({name: ours.values[name][:1]}, {name: value})
        check_same_bits({**ours.gradients, "x": ours.gradients["x"][:1]}, theirs.gradients)
        assert not ours.gradients["x"][1:].any()

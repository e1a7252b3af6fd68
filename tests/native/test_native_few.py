"""Few rows: products with x, and gradients of x, are formed for many steps at once, which may have different rows."""

from typing import Any

import pytest
import torch
from native_problem import check, check_same_bits, draw
from native_rows import name_of
from test_native_invariance import owned, picked

from gatewise.spec import Cell

D, H = 33, 20
RAGGED = (70, 70, 69, 64, 33, 33, 32, 31, 2, 1, 0)
# Steps of several rows that are more than the rows and fewer, of one row, and of chunks of both kinds.
CASES: list[tuple[str | Cell, tuple[int, int], dict[str, Any]]] = [
    ("lstm", (70, 11), {"lengths": RAGGED}),
    ("lstm", (70, 3), {"lengths": (70, 36, 3)}),
    ("lstm", (6, 16), {}),
    ("lstm", (40, 11), {"lengths": (40,) * 8 + (0,) * 3}),
    ("lstm", (35, 3), {"dtype": torch.float64}),
    ("rnn", (40, 3), {"lengths": (40, 33, 33)}),
    ("slstm", (34, 3), {}),
    ("cifg", (40, 5), {"reset": "some", "start": True}),
    ("peephole", (33, 9), {"proj_size": 18}),
    ("fgr", (34, 2), {}),
    ("lstm", (35, 4), {"layer_norm": True}),
]
every_case = pytest.mark.parametrize(
    ("cell", "sizes", "wanted"), CASES, ids=[f"{name_of(cell)} {sizes} {' '.join(w)}" for cell, sizes, w in CASES]
)


@every_case
@pytest.mark.usefixtures("isa")
def test_it_is_what_the_equations_give(cell: str | Cell, sizes: tuple[int, int], wanted: dict[str, Any]):
    problem = draw(cell, *sizes, D, H, "both", **wanted)
    check(problem, problem.run())


@every_case
@pytest.mark.usefixtures("isa")
def test_rows_have_the_bits_that_they_have_alone_and_among_many(
    cell: str | Cell, sizes: tuple[int, int], wanted: dict[str, Any]
):
    problem = draw(cell, *sizes, D, H, "both", **wanted)
    T, B = sizes
    whole, lengths = problem.run(trace=False), wanted.get("lengths", (T,) * B)
    check_same_bits(problem.forward(), whole.values, problem.forward())
    which = list(range(B)) * (1 + 16 // B)  # no longer few
    many = problem.rows(which).run(trace=False)
    check_same_bits(many.values, {name: picked(name, value, which) for name, value in whole.values.items()})
    check_same_bits(
        many.gradients, {name: picked(name, whole.gradients[name], which) for name in owned(many)}, owned(many)
    )
    for row in range(B):
        last = lengths[row]
        ours = problem.rows([row]).steps(0, last).run(trace=False)
        for name, value in ours.values.items():
            mine = picked(name, whole.values[name], [row])
            check_same_bits({name: value}, {name: mine if "state" in name else mine[:last]})
        for name in owned(ours):
            mine = picked(name, whole.gradients[name], [row])
            check_same_bits({name: ours.gradients[name]}, {name: mine[:last] if name == "x" else mine})


@pytest.mark.usefixtures("isa")
def test_windows_that_are_computed_again():
    """So wide that backward takes three windows of 20 steps, in which rows end."""
    lengths = (45, 44, 41, 40, 40, 39, 30, 21, 20, 20, 19, 19, 3, 1, 0, 0)
    problem = draw("lstm", 45, 16, D, 400, "both", lengths=lengths)
    whole = problem.run(trace=False)
    again = problem.run(trace=False, save="states")
    check_same_bits(again.values, whole.values)
    check_same_bits(again.gradients, whole.gradients)
    for row in (0, 2, 8, 13):
        ours = problem.rows([row]).steps(0, lengths[row]).run(trace=False, save="states")
        check_same_bits({"dx": ours.gradients["x"]}, {"dx": whole.gradients["x"][: lengths[row], [row]]})

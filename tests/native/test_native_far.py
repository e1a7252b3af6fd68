"""Weights larger than a second-level cache, for several chunks of rows: the chunks fetch ahead what comes next.

Where sums are cut in pieces as well (D of 1500), the second parts of a line's vectors begin anew for each piece.
"""

from typing import Any

import pytest
from native_problem import check, check_same_bits, draw
from native_rows import name_of
from test_native_invariance import owned, picked
from torch import Tensor

from gatewise.spec import Cell

B = 19
LENGTHS = (2, 0, 1, 2, 2) * 3 + (1, 2, 0, 2)
CASES: list[tuple[str | Cell, tuple[int, int], dict[str, Any]]] = [
    ("lstm", (1500, 49), {}),
    ("lstm", (1500, 49), {"lengths": LENGTHS}),
    ("lstm", (170, 190), {"reset": "some", "start": True}),
    ("lstm", (1500, 49), {"proj_size": 70}),
    ("cifg", (1500, 49), {"lengths": LENGTHS}),
    ("peephole", (1500, 49), {"layer_norm": True}),
    ("fgr", (30, 190), {"start": True}),
    ("rnn", (1500, 180), {}),
]
every_case = pytest.mark.parametrize(
    ("cell", "sizes", "wanted"), CASES, ids=[f"{name_of(cell)} {sizes} {' '.join(w)}" for cell, sizes, w in CASES]
)


def _on_a_grid(name: str, tensor: Tensor) -> Tensor:
    """So that sums of products with x are exact: 1500 terms one by one would round more than is allowed."""
    step = 64 if name == "x" or "state" in name or "start" in name else 4096
    return (tensor * step).round() / step


@every_case
@pytest.mark.usefixtures("isa")
def test_it_is_what_the_equations_give(cell: str | Cell, sizes: tuple[int, int], wanted: dict[str, Any]):
    problem = draw(cell, 2, B, *sizes, "both", **wanted).map(_on_a_grid)
    check(problem, problem.run())


@every_case
@pytest.mark.usefixtures("isa")
def test_a_row_alone_has_the_bits_it_has_among_many(cell: str | Cell, sizes: tuple[int, int], wanted: dict[str, Any]):
    problem = draw(cell, 2, B, *sizes, "both", **wanted)
    whole = problem.run(trace=False)
    for row in (0, 8, 18):
        ours = problem.rows([row]).run(trace=False)
        check_same_bits(ours.values, {name: picked(name, value, [row]) for name, value in whole.values.items()})
        names = owned(ours)
        check_same_bits(ours.gradients, {name: picked(name, whole.gradients[name], [row]) for name in names}, names)

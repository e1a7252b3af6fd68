"""Few rows: products with x, and gradients of x, are formed for many steps at once, which may have different rows."""

from typing import Any

import pytest
from native_problem import check, check_same_bits, draw
from native_rows import name_of
from test_native_invariance import owned, picked
from torch import Tensor

from gatewise.spec import Cell

D, H = 33, 20
RAGGED = (70, 70, 69, 64, 33, 33, 32, 31, 2, 1, 0)
# Steps of several rows that are more than the rows and fewer, of one row, and of chunks of both kinds.
CASES: list[tuple[str | Cell, tuple[int, int], dict[str, Any]]] = [
    ("lstm", (70, 11), {"lengths": RAGGED}),
    ("lstm", (70, 3), {"lengths": (70, 36, 3)}),
    ("lstm", (6, 16), {}),
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
    check_same_bits(problem.rows(list(range(B)) * (1 + 16 // B)).run(trace=False).values, repeated(whole.values, B))
    for row in range(B):
        last = lengths[row]
        ours = problem.rows([row]).steps(0, last).run(trace=False)
        for name, value in ours.values.items():
            mine = picked(name, whole.values[name], [row])
            check_same_bits({name: value}, {name: mine if "state" in name else mine[:last]})
        for name in owned(ours):
            mine = picked(name, whole.gradients[name], [row])
            check_same_bits({name: ours.gradients[name]}, {name: mine[:last] if name == "x" else mine})


def repeated(values: dict[str, Tensor], rows: int) -> dict[str, Tensor]:
    """The same for more rows than are few: each of them several times."""
    return {name: picked(name, value, list(range(rows)) * (1 + 16 // rows)) for name, value in values.items()}

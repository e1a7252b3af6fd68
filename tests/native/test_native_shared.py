"""One chunk of rows whose steps several workers share: the bits are those of one thread alone."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from native_problem import check_same_bits, draw
from native_rows import name_of

from gatewise.spec import Cell

RAGGED = (40, 40, 33, 32, 31, 2, 1, 0)
PLAIN: list[tuple[str | Cell, tuple[int, int, int, int], dict[str, Any]]] = [
    ("lstm", (40, 3, 40, 101), {}),
    ("lstm", (40, 8, 128, 128), {}),
    ("lstm", (37, 1, 33, 201), {}),
    ("lstm", (1, 1, 300, 150), {}),
    ("lstm", (7, 3, 3, 220), {"lengths": (0, 7, 0)}),
    ("lstm", (70, 5, 20, 220), {"lengths": (70, 66, 33, 3, 1)}),
    ("lstm", (34, 8, 60, 101), {"dtype": torch.float64}),
    ("lstm", (35, 1, 40, 203), {"dtype": torch.float64}),
    ("lstm", (1, 1, 150, 301), {"dtype": torch.float64}),
    ("lstm", (5, 2, 1, 181), {"bias": False}),
    ("peephole", (34, 1, 16, 201), {}),
    ("cifg", (33, 1, 1, 221), {}),
    ("slstm", (33, 7, 90, 101), {"lengths": (33, 32, 32, 20, 5, 1, 0)}),
    ("slstm", (9, 1, 90, 201), {}),
    ("rnn", (40, 8, 100, 181), {}),
    ("rnn", (40, 1, 100, 301), {}),
]
OPTIONS: list[tuple[str | Cell, tuple[int, int, int, int], dict[str, Any]]] = [
    ("lstm", (40, 8, 20, 131), {"lengths": RAGGED, "reset": "some", "start": True, "noise": ("recurrent", "h", "c")}),
    ("lstm", (34, 8, 60, 101), {"clip": 0.8, "dtype": torch.float64}),
    ("cifg", (35, 5, 1, 150), {"reset": "some", "start": True}),
    ("lstm", (20, 1, 30, 201), {"reset": "some", "noise": ("recurrent",)}),
]
CASES = PLAIN + OPTIONS
every_case = pytest.mark.parametrize(
    ("cell", "shape", "wanted"), CASES, ids=[f"{name_of(cell)} {shape} {' '.join(w)}" for cell, shape, w in CASES]
)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    former = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(former)


@every_case
def test_two_threads_have_enough_to_do(cell: str | Cell, shape: tuple[int, int, int, int], wanted: dict[str, Any]):
    """Else the other tests would compare one thread with itself: csrc/plan.h has the number."""
    T, B, D, H = shape
    gates = draw(cell, *shape, **wanted).directions[0].weights.weight_ih.shape[0]
    assert sum(wanted.get("lengths", (T,) * B)) / max(wanted.get("lengths", (T,))) * gates * (D + H) >= 2 * 5e4


@every_case
@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.usefixtures("isa")
def test_it_has_the_bits_of_one_thread(
    threads: Callable[[int], None],
    cell: str | Cell,
    shape: tuple[int, int, int, int],
    wanted: dict[str, Any],
    trace: bool,
):
    problem = draw(cell, *shape, "both", **wanted)
    alone = problem.run(trace=trace)
    inferred = problem.forward(trace=trace)
    for count in (2, 3, 16):
        threads(count)
        for save in ("all", "states"):
            ours = problem.run(trace=trace, save=save)
            check_same_bits(ours.values, alone.values)
            check_same_bits(ours.gradients, alone.gradients)
        for _ in range(3):  # who takes which part is a matter of chance
            check_same_bits(problem.forward(trace=trace), inferred)

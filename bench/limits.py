"""What a miss leaves room for: the ratio that a row would show if nothing but its products took time.

    python -m bench.limits build/bench.json

Of every target that a report misses, each row that is below it, with its ceiling: the peer's time over that of the
products alone, at the rate that torch's product of two 2048×2048 matrices reached in the same report. That product is
of float32; how much slower torch's is in float64 is measured here and now. So is the floor of a training step of a
single row-step: the time of an autograd.Function of Python that does nothing, forward and backward.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

from bench.rows import Row
from bench.targets import GROUPS, Group, Target, judge

CALLS, ROUNDS, SIZE = 2000, 7, 2048


class Nothing(torch.autograd.Function):
    """As many tensors as an LSTM's training step has, and no work."""

    @staticmethod
    def forward(ctx: Any, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.save_for_backward(*given)
        return tuple(torch.empty(1, 1, 64) for _ in range(3))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors)


def floor() -> float:
    """Seconds of one forward and backward of ``Nothing``."""
    given = [torch.randn(1, 1, 64, requires_grad=True) for _ in range(5)]
    gradient, times = torch.ones(1, 1, 64), []
    for _ in range(ROUNDS):
        begin = perf_counter()
        for _ in range(CALLS):
            Nothing.apply(*given)[0].backward(gradient)
        times.append((perf_counter() - begin) / CALLS)
    return min(times)


def product_rate(rows: Iterable[Row], threads: int, double: bool) -> float:
    """Operations per second of the large product, over a report."""
    found = [row.rate / row.ratio for row in rows if row.peer == "product" and row.threads == threads and row.ratio]
    return median(found) * (double_share(threads) if double else 1) if found else float("nan")


@cache
def double_share(threads: int) -> float:
    """The speed of torch's large product in float64 over that in float32, in turn."""
    pairs = [torch.randn(2, SIZE, SIZE, dtype=dtype) for dtype in (torch.float32, torch.float64)]
    torch.set_num_threads(threads)
    ratios: list[float] = []
    for _ in range(ROUNDS):
        times: list[float] = []
        for one, other in pairs:
            begin = perf_counter()
            torch.mm(one, other)
            times.append(perf_counter() - begin)
        ratios.append(times[0] / times[1])
    torch.set_num_threads(1)
    return median(ratios)


def below(group: Group, target: Target, rows: Sequence[Row]) -> list[Row]:
    """The rows that are short of a target."""
    least = min(target.bound, 1 / target.bound) if target.cost else target.bound
    chosen = [row for row in group.rows(rows) if target.where(row) and row.status == "ok" and row.unit == "seconds"]
    return [row for row in chosen if (target.figure(row) > target.bound if target.cost else row.ratio < least)]


def main() -> None:
    torch.set_num_threads(1)
    report = json.loads(Path(sys.argv[1]).read_text())
    rows = [Row.from_json(row) for row in report["rows"]]
    nothing = floor()
    print(f"An autograd.Function that does nothing: {nothing * 1e6:.0f} µs.\n")
    print("| target | row | setting | against | ratio | ceiling |\n| --- | --- | --- | --- | --- | --- |")
    for group in GROUPS:
        for verdict in judge(group, rows):
            if verdict.met is not False:
                continue
            for row in below(group, verdict.target, rows):
                if (row.threads, row.malloc) == (verdict.threads, verdict.malloc):
                    print(line(group, verdict.target, row, rows, nothing))


def line(group: Group, target: Target, row: Row, rows: Sequence[Row], nothing: float) -> str:
    """One row of the table."""
    double = row.problem.dtype == "float64"
    alone = row.rate * row.ours / product_rate(rows, row.threads, double)
    least = max(alone, nothing) if row.problem.training and row.problem.T == 1 else alone
    ceiling = f"{row.theirs / least:.2f}" if row.peer not in {"product", "plain", "one thread"} else ""
    setting = f"{row.threads}, {row.malloc}"
    return f"| {group.title}: {target} | {row.case} | {setting} | {row.peer} | {row.ratio:.2f} | {ceiling} |"


if __name__ == "__main__":
    main()

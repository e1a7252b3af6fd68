"""The speed that gatewise must reach, as data: which rows a target is about, and what they must show."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from bench.cases import CELLS, ENGINES, Problem
from bench.rows import Row

Where = Callable[[Row], bool]
Rule = Literal["each", "mean"]

EQUAL = 0.97
"""What counts as equal, where a target is 1."""


@dataclass(frozen=True)
class Target:
    """One bound on rows of a group.

    Attributes:
        work: which rows, in words.
        bound: the least speed (peer's time over ours); with ``cost`` the most cost (ours over the peer's).
        where: which rows.
        rule: whether "each" row must reach it, or their geometric "mean".
        cost: see ``bound``.
        fair: a factor by which the cost may exceed the bound, by the problem.
    """

    work: str
    bound: float
    where: Where = lambda row: True
    rule: Rule = "each"
    cost: bool = False
    fair: Callable[[Problem], float] = lambda problem: 1.0

    def figure(self, row: Row) -> float:
        """What the bound is about."""
        return 1 / row.ratio / self.fair(row.problem) if self.cost else row.ratio

    def __str__(self) -> str:
        text = f"{'≤' if self.cost else '≥'} {self.bound:g}×"
        return f"{text} (geometric mean)" if self.rule == "mean" else text


@dataclass(frozen=True)
class Group:
    """A row of the table of targets.

    Attributes:
        title: what is measured.
        against: what it is measured against.
        peers: the peers that this means.
        where: which rows.
        targets: what they must reach.
        best: whether only the best of the peers counts.
    """

    title: str
    against: str
    peers: tuple[str, ...]
    where: Where
    targets: tuple[Target, ...]
    best: bool = False

    def rows(self, rows: Iterable[Row]) -> list[Row]:
        """Pick the group's rows."""
        chosen = [row for row in rows if row.peer in self.peers and self.where(row)]
        if not self.best:
            return chosen
        best: dict[tuple[str, int, str], Row] = {}
        for row in chosen:
            key = (row.case, row.threads, row.malloc)
            if key not in best or _strength(row) > _strength(best[key]):
                best[key] = row
        return list(best.values())


def _strength(row: Row) -> tuple[bool, bool, float]:
    """How hard a peer is to beat; a refused row is not beaten at all, a missing peer is no peer."""
    return row.status != "missing", row.status != "ok", -row.ratio


class Verdict(NamedTuple):
    """What came out for a target in one setting; ``met`` is None where nothing was measured."""

    target: Target
    threads: int
    malloc: str
    rows: int
    measured: float | None
    met: bool | None


def judge(group: Group, rows: Iterable[Row]) -> list[Verdict]:
    """Judge each target of a group, in each setting that was measured."""
    chosen = [row for row in group.rows(rows) if row.status != "missing"]
    verdicts: list[Verdict] = []
    for target in group.targets:
        of = [row for row in chosen if target.where(row)]
        settings = sorted({(row.threads, row.malloc) for row in of})
        verdicts += [
            _verdict(target, [row for row in of if (row.threads, row.malloc) == setting], *setting)
            for setting in settings
        ]
        if not settings:
            verdicts.append(Verdict(target, 0, "", 0, None, None))
    return verdicts


def _verdict(target: Target, rows: list[Row], threads: int, malloc: str) -> Verdict:
    figures = [target.figure(row) for row in rows if row.status == "ok"]
    if not figures:
        return Verdict(target, threads, malloc, len(rows), None, False)
    if target.rule == "mean":
        measured = math.exp(sum(map(math.log, figures)) / len(figures))
    else:
        measured = max(figures) if target.cost else min(figures)
    least = EQUAL if target.bound == 1 else target.bound
    met = measured <= target.bound if target.cost else measured >= least
    return Verdict(target, threads, malloc, len(rows), measured, met and len(figures) == len(rows))


def _hidden(*bounds: float) -> tuple[Target, ...]:
    sizes = (32, 64, 128, 256, 512)
    targets = [Target(f"H = {H}", bound, _of_hidden(H)) for H, bound in zip(sizes[:-1], bounds[:-1], strict=True)]
    return (*targets, Target("H ≥ 512", bounds[-1], lambda row: row.problem.H >= 512))


def _of_hidden(H: int) -> Where:
    return lambda row: row.problem.H == H


def _training(threads: int | None, malloc: str) -> Where:
    """Training steps of the vanilla cell, nothing added."""
    return lambda row: (
        row.unit == "seconds"
        and row.problem.plain == row.problem
        and row.problem.training
        and row.threads == (threads or row.threads)
        and row.malloc == malloc
    )


def _large(where: Where) -> Where:
    return lambda row: where(row) and row.problem.B >= 32


def _inference(row: Row) -> bool:
    return row.problem.plain == row.problem and not row.problem.training and row.malloc == "default"


def _cell(row: Row) -> bool:
    return row.problem.training and (row.problem.layer_norm or row.problem.cell != "lstm")


def _products(problem: Problem) -> float:
    return problem.products / problem.plain.products


def _from_32(row: Row) -> bool:
    return row.problem.B >= 32 and row.problem.H >= 32


GROUPS = (
    Group(
        "inference",
        "the best of torch, ONNX Runtime, JAX",
        ENGINES,
        _inference,
        (
            Target("every shape", 1.0),
            Target("H ≤ 64", 1.5, lambda row: row.problem.H <= 64, "mean"),
            Target("all shapes", 1.2, rule="mean"),
        ),
        best=True,
    ),
    Group(
        "training step, B ≥ 32, 1 thread",
        "torch, tuned malloc",
        ("torch",),
        _large(_training(1, "tuned")),
        _hidden(2.2, 1.5, 1.2, 1.05, 1.0),
    ),
    Group(
        "training step, B ≥ 32, 2 threads",
        "torch, tuned malloc",
        ("torch",),
        _large(_training(2, "tuned")),
        _hidden(3.5, 1.7, 1.3, 1.15, 1.0),
    ),
    Group(
        "training step, default malloc",
        "torch",
        ("torch",),
        _training(None, "default"),
        (
            Target("B ≥ 32", 2.0, lambda row: row.problem.B >= 32, "mean"),
            Target(
                "B ≤ 4, H ≤ 64, T > 1",
                3.5,
                lambda row: row.problem.B <= 4 and row.problem.H <= 64 and row.problem.T > 1,
                "mean",
            ),
            Target("T = 1", 5.0, lambda row: row.problem.T == 1, "mean"),
        ),
    ),
    Group(
        "training step, 2 threads, B ≥ 32, H ≥ 64",
        "ourselves on 1 thread",
        ("one thread",),
        lambda row: True,
        (Target("every shape", 1.7),),
    ),
    Group(
        "rate of operations, B ≥ 32, H ≥ 128",
        "a large float32 matrix product of torch on the same threads",
        ("product",),
        lambda row: True,
        (
            Target("inference", 0.9, lambda row: not row.problem.training),
            Target("training", 0.9, lambda row: row.problem.training),
        ),
    ),
    Group(
        "training step of other cells, B ≥ 32, H ≥ 32",
        "our vanilla cell",
        ("plain",),
        lambda row: _cell(row) and _from_32(row),
        (
            Target(f"{', '.join(CELLS)}: time", 1.15, lambda row: row.problem.cell in CELLS, cost=True),
            Target(
                "layer norm, H ≥ 128: time", 1.4, lambda row: row.problem.layer_norm and row.problem.H >= 128, cost=True
            ),
            Target(
                "fgr: time in proportion to its products",
                1.15,
                lambda row: row.problem.cell == "fgr",
                cost=True,
                fair=_products,
            ),
        ),
    ),
    Group(
        "training step of other cells, H ≤ 128, B = 32, T = 50",
        "a torch loop; torch.compile of it",
        ("loop", "compile"),
        _cell,
        (
            Target("against the loop", 10.0, lambda row: row.peer == "loop"),
            Target("against torch.compile", 3.0, lambda row: row.peer == "compile"),
        ),
    ),
    Group(
        "lengths uniform in 1..T, B ≥ 32",
        "our full length; torch with PackedSequence",
        ("plain", "torch"),
        lambda row: row.problem.lengths,
        (
            Target("against our full length: time", 0.6, lambda row: row.peer == "plain", cost=True),
            Target("training, against PackedSequence", 3.0, lambda row: row.peer == "torch" and row.problem.training),
        ),
    ),
    Group(
        "proj_size = H/2, H ≤ 128",
        "torch",
        ("torch",),
        lambda row: bool(row.problem.proj),
        (Target("every shape", 2.5),),
    ),
    Group(
        "float64, H ≤ 256",
        "torch",
        ("torch",),
        lambda row: row.problem.dtype == "float64",
        (
            Target("inference", 1.8, lambda row: not row.problem.training),
            Target("training step", 1.8, lambda row: row.problem.training),
        ),
    ),
    Group(
        "training step of a model: two layers, linear head, AdamW; H = 64",
        "torch, tuned malloc",
        ("torch",),
        lambda row: row.problem.layers > 1 and row.malloc == "tuned",
        (
            Target("1 thread", 1.5, lambda row: row.threads == 1),
            Target("2 threads", 1.7, lambda row: row.threads == 2),
        ),
    ),
    Group(
        "reset mask, 1 % of steps",
        "ours with none",
        ("plain",),
        lambda row: row.problem.reset,
        (Target("time", 1.05, cost=True),),
    ),
    Group(
        "peak memory of a training step beyond inputs, parameters and gradients",
        "torch",
        ("torch",),
        lambda row: row.unit == "bytes",
        (
            Target('save="all": bytes', 1.0, lambda row: row.problem.save == "all", cost=True),
            Target('save="states": bytes', 0.5, lambda row: row.problem.save == "states", cost=True),
        ),
    ),
)
"""The table of targets."""

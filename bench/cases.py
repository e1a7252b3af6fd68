"""The registry: what is measured, against whom, in which suite.

A problem is a computation, a case a problem with its peers. A new measurement is a new line in ``CASES``; the targets
that a row must reach stand in ``targets.py`` and find it by its problem.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

from gatewise.spec import Variant, variant

Suite = Literal["quick", "standard", "full"]
Shape = tuple[int, int, int, int]  # B, T, D, H

SUITES: Mapping[Suite, tuple[int, float]] = MappingProxyType(
    {"quick": (5, 0.02), "standard": (7, 0.05), "full": (9, 0.1)}
)
"""Each suite holds those before it. Rounds, and the seconds that one engine's turn in a round lasts at least."""

THREADS = (1, 2)
MALLOC: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "default": {},
        # glibc keeps what is freed, instead of returning large blocks to the system.
        "tuned": {"MALLOC_MMAP_THRESHOLD_": str(1 << 40), "MALLOC_TRIM_THRESHOLD_": str(1 << 40)},
    }
)
"""Settings of glibc's malloc, which reads them when a process starts."""


@dataclass(frozen=True)
class Problem:
    """One layer over one batch: inference, or a training step (forward and backward).

    Attributes:
        layers: more than one make a model with a linear head and AdamW, of which whole steps of training are timed.
        lengths: whether rows have lengths, uniform in 1..T.
        reset: whether a hundredth of the steps restarts.
        save: what our forward keeps for the backward, "all" or "states".
        dtype: of everything.
    """

    B: int
    T: int
    D: int
    H: int
    training: bool = False
    cell: str = "lstm"
    layer_norm: bool = False
    proj: int = 0
    lengths: bool = False
    reset: bool = False
    save: str = "all"
    layers: int = 1
    dtype: Literal["float32", "float64"] = "float32"

    @property
    def variant(self) -> Variant:
        return variant(self.cell, layer_norm=self.layer_norm, proj_size=self.proj)

    @property
    def plain(self) -> "Problem":
        """The vanilla cell at this shape in float32, every row in full length."""
        return Problem(self.B, self.T, self.D, self.H, self.training)

    @property
    def vanilla(self) -> bool:
        """Whether torch.nn.LSTM computes it."""
        return self.variant.vanilla and not self.reset

    @property
    def products(self) -> int:
        """Multiply-adds of one step of one row, pointwise work and a model's head aside."""
        gates, seen, width = len(self.variant.cell.learned), len(self.variant.cell.sees), self.proj or self.H
        inputs = self.D + (self.layers - 1) * width
        return self.H * (gates * (inputs + self.layers * width) + self.layers * (self.proj + seen * seen * self.H))

    def __str__(self) -> str:
        words = ["train" if self.training else "infer", f"{self.B},{self.T},{self.D},{self.H}"]
        words += [self.cell] if self.cell != "lstm" else []
        words += [f"layers={self.layers}, head, AdamW"] if self.layers > 1 else []
        words += [f"proj={self.proj}"] if self.proj else []
        words += [self.dtype] if self.dtype != "float32" else []
        words += [name.replace("_", "-") for name in ("layer_norm", "lengths", "reset") if getattr(self, name)]
        return " ".join(words + ([f"save={self.save}"] if self.save != "all" else []))


PEERS: Mapping[str, str] = MappingProxyType(
    {
        "torch": "torch.nn.LSTM; with lengths, given a PackedSequence made outside the measured time",
        "onnxruntime": "a session of one LSTM node",
        "jax": "jitted lax.scan, input products outside the loop; training: value_and_grad",
        "loop": "a loop over torch.nn.functional, input products outside the loop",
        "compile": "torch.compile of that loop",
        "plain": "gatewise: the vanilla cell at this shape, every row in full length",
        "one thread": "gatewise itself on one thread",
        "product": "torch's float32 product of 2048×2048 matrices: the ratio is that of operations per second",
    }
)
"""What ours is measured against."""


@dataclass(frozen=True)
class Case:
    """A problem, the peers it is measured against, and the settings it is measured in."""

    problem: Problem
    peers: tuple[str, ...]
    suite: Suite = "standard"
    threads: tuple[int, ...] = THREADS
    malloc: tuple[str, ...] = ("default",)
    memory: bool = False

    @staticmethod
    def from_json(values: dict[str, Any]) -> "Case":
        read: dict[str, Any] = {"problem": Problem(**values["problem"])}
        read |= {name: tuple(values[name]) for name in ("peers", "threads", "malloc")}
        return Case(**(values | read))

    @property
    def name(self) -> str:
        return f"memory {self.problem}" if self.memory else str(self.problem)


SHAPES: Mapping[Shape, Suite] = MappingProxyType(
    {
        (1, 1, 64, 64): "quick",
        (1, 1, 256, 256): "standard",
        (1, 100, 16, 64): "quick",
        (4, 100, 1, 32): "standard",
        (32, 50, 16, 32): "quick",
        (32, 100, 32, 64): "quick",
        (64, 100, 64, 128): "quick",
        (128, 100, 1, 64): "standard",
        (16, 1000, 16, 128): "standard",
        (256, 100, 16, 64): "standard",
        (32, 200, 128, 256): "standard",
        (64, 50, 256, 512): "standard",
        (32, 35, 650, 650): "full",
    }
)
GRID = [(B, 100, D, H) for B in (1, 4, 32, 256) for H in (16, 32, 64, 128, 256, 512) for D in sorted({1, 16, H})]
CELLS = ("peephole", "cifg", "nig", "nfg", "nog", "niaf", "noaf", "lstm-1997")
ENGINES = ("torch", "onnxruntime", "jax")


def _suite(shape: Shape) -> Suite:
    _, _, D, H = shape
    return SHAPES.get(shape, "standard" if D == 16 and H in {16, 64, 256} else "full")


def _vanilla() -> Iterable[Case]:
    both = tuple(MALLOC)
    for shape in dict.fromkeys([*SHAPES, *GRID]):
        B, _, D, H = shape
        suite, listed, infer = _suite(shape), shape in SHAPES, Problem(*shape)
        train, large = replace(infer, training=True), ("product",) if B >= 32 and H >= 128 else ()
        yield Case(infer, ENGINES + large, suite)
        if D > 1 or listed:
            yield Case(train, ("torch",), suite if listed else "full", malloc=both)
            if large:
                yield Case(train, large, suite if listed else "full")
        if listed:
            yield Case(infer, ("torch",), "full", malloc=("tuned",))
            yield Case(train, ("jax",), "full" if suite == "full" else "standard")
            if B >= 32 and H >= 64:
                yield Case(train, ("one thread",), suite, threads=(2,))


def _cells() -> Iterable[Case]:
    shapes: dict[Shape, Suite] = {
        (32, 50, 32, 64): "standard",
        (32, 50, 64, 128): "standard",
        (32, 50, 16, 32): "full",
        (64, 100, 64, 128): "full",
        (32, 100, 128, 256): "full",
    }
    for shape, suite in shapes.items():
        B, T, _, _ = shape
        first, peers = shape == (32, 50, 32, 64), ("plain", "loop") if (B, T) == (32, 50) else ("plain",)
        normed = Problem(*shape, training=True, layer_norm=True)
        rows = [(cell, Problem(*shape, training=True, cell=cell)) for cell in (*CELLS, "fgr")]
        for cell, problem in [*rows, ("layer norm", normed)]:
            quick = first and cell in {"peephole", "cifg"}
            yield Case(problem, peers, "quick" if quick else suite, threads=(1,))
            if suite == "full" or quick:
                yield Case(problem, ("plain",), "full", threads=(2,))
            if "loop" in peers and cell != "fgr":  # compiling takes long
                yield Case(problem, ("compile",), "standard" if first and cell == "peephole" else "full", threads=(1,))


def _options() -> Iterable[Case]:
    for shape in [(32, 100, 32, 64), (64, 100, 64, 128), (32, 50, 16, 32), (128, 100, 1, 64)]:
        suite: Suite = "quick" if shape == (32, 100, 32, 64) else _suite(shape)
        suite = "standard" if suite == "quick" and shape != (32, 100, 32, 64) else suite
        for training in (False, True):
            problem = Problem(*shape, training=training)
            here = suite if training else "standard"
            yield Case(replace(problem, lengths=True), ("plain", "torch"), here, threads=(1,))
            yield Case(replace(problem, proj=problem.H // 2), ("torch",), here, threads=(1,))
            yield Case(replace(problem, reset=True), ("plain",), here, threads=(1,))
            for option in ({"lengths": True}, {"proj": problem.H // 2}, {"reset": True}):
                peers = ("plain",) if "reset" in option else ("torch",)
                yield Case(replace(problem, **option), peers, "full", threads=(2,))


def _memory() -> Iterable[Case]:
    for shape, suite in SHAPES.items():
        B, T, _, H = shape
        if B * T * H >= 200_000:  # the kernel counts pages, and not at once
            here = "quick" if shape == (64, 100, 64, 128) else ("standard" if suite == "quick" else suite)
            for save in ("all", "states"):
                problem = Problem(*shape, training=True, save=save)
                yield Case(problem, ("torch",), here, threads=(1,), memory=True)


def _doubles() -> Iterable[Case]:
    for H in (32, 64, 128, 256):
        for B in (1, 32):
            for training in (False, True):
                problem = Problem(B, 50, H, H, training, dtype="float64")
                yield Case(problem, ("torch",), "quick" if H == 64 and training else "standard")


def _models() -> Iterable[Case]:
    yield Case(Problem(32, 100, 32, 64, training=True, layers=2), ("torch",), malloc=tuple(MALLOC))


CASES = (*_vanilla(), *_cells(), *_options(), *_doubles(), *_models(), *_memory())


def cases(suite: Suite) -> list[Case]:
    """Return the cases of a suite and of those before it."""
    order = list(SUITES)
    return [case for case in CASES if order.index(case.suite) <= order.index(suite)]

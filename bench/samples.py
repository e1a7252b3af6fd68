"""Per-sample gradients and ensembles by torch.func, against loops and against what else can do them.

    python -m bench.samples --threads 1,2

Of 32 sequences of 50 steps the gradients of all weights for each of them, of a loss over all outputs. Of eight members
the outputs, or the gradients of the members' weights, all on the same batch of 32 sequences or of one. Every peer
computes the same and is refused if it does not; a ratio is the peer's time over ours. ``--memory`` measures the peak of
memory instead, beyond inputs, parameters and results, each in a process of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from bench import memory
from bench.loop import loop
from bench.measure import quartiles, take_turns
from bench.options import in_turns
from gatewise import LSTM
from gatewise.spec import Variant

B, T, D, H, MEMBERS = 32, 50, 16, 64, 8
WHOLE = "the batch's gradients as one, gatewise"
ROOT = Path(__file__).parents[1]
Results = dict[str, Tensor]
Run = Callable[[], Results]


class Timed:
    """Something to be computed again and again."""

    def __init__(self, run: Run, threads: int) -> None:
        self.run, self.threads = run, threads

    def step(self) -> float:
        start = perf_counter()
        self.run()
        return perf_counter() - start


def _loss(y: Tensor) -> Tensor:
    return y.square().mean()


def _by_hand(parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """The plain loop over torch's operators, on [T, D] or [T, B, D]."""
    named = {name.removesuffix("_l0"): value for name, value in parameters.items()}
    return loop(x if x.dim() == 3 else x[:, None], named, Variant())[0]


def _detached(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in module.named_parameters()}


def _each(module: nn.Module, xs: Tensor) -> Results:
    """One gradient after the other."""
    parameters = dict(module.named_parameters())
    found = [torch.autograd.grad(_loss(module(x)[0]), list(parameters.values())) for x in xs]
    return {name: torch.stack(parts) for name, parts in zip(parameters, zip(*found, strict=True), strict=True)}


def _together(module: nn.Module) -> Callable[[Mapping[str, Tensor], Tensor], Tensor]:
    return lambda parameters, x: functional_call(module, dict(parameters), (x,))[0]


def samples(rows: int = B, steps: int = T) -> dict[str, Run]:
    """The gradients of each of the sequences."""
    ours = LSTM(D, H, backend="native")
    theirs = nn.LSTM(D, H)
    theirs.load_state_dict(ours.state_dict())
    xs = torch.randn(rows, steps, D)
    parameters = _detached(ours)

    def mapped(run: Callable[[Mapping[str, Tensor], Tensor], Tensor]) -> Run:
        each = vmap(grad(lambda p, x: _loss(run(p, x))), (None, 0))
        return lambda: each(parameters, xs)

    return {
        "ours": mapped(_together(ours)),
        "a loop over samples, gatewise": lambda: _each(ours, xs),
        "a loop over samples, torch.nn.LSTM": lambda: _each(theirs, xs),
        "vmap of torch.nn.LSTM": mapped(_together(theirs)),
        "vmap of a plain loop": mapped(_by_hand),
    }


def whole() -> Run:
    """The gradients of the batch as one: what per-sample gradients cost on top."""
    layer = LSTM(D, H, backend="native")
    parameters, x = dict(layer.named_parameters()), torch.randn(T, B, D)
    return lambda: dict(
        zip(parameters, torch.autograd.grad(_loss(layer(x)[0]), list(parameters.values())), strict=True)
    )


def ensemble(training: bool, rows: int) -> dict[str, Run]:
    """The outputs of the members, or the gradients of their weights, on so many sequences."""
    ours = [LSTM(D, H, backend="native") for _ in range(MEMBERS)]
    theirs = [nn.LSTM(D, H) for _ in range(MEMBERS)]
    for one, other in zip(ours, theirs, strict=True):
        other.load_state_dict(one.state_dict())
    x = torch.randn(T, rows, D)
    stacked = {name: value.detach() for name, value in stack_module_state(list[nn.Module](ours))[0].items()}

    def mapped(run: Callable[[Mapping[str, Tensor], Tensor], Tensor]) -> Run:
        if not training:
            each = vmap(run, (0, None))
            return lambda: {"y": each(stacked, x)}
        gradients = vmap(grad(lambda p, x: _loss(run(p, x))), (0, None))
        return lambda: gradients(stacked, x)

    def one_by_one(modules: list[nn.Module]) -> Run:
        def forward() -> Results:
            with torch.no_grad():
                return {"y": torch.stack([module(x)[0] for module in modules])}

        def backward() -> Results:
            found = [_each(module, x[None]) for module in modules]
            return {name: torch.cat([one[name] for one in found]) for name in found[0]}

        return backward if training else forward

    return {
        "ours": mapped(_together(ours[0])),
        "a loop over members, gatewise": one_by_one(list[nn.Module](ours)),
        "a loop over members, torch.nn.LSTM": one_by_one(list[nn.Module](theirs)),
        "vmap of a plain loop": mapped(_by_hand),
    }


PROBLEMS: dict[str, Callable[[], dict[str, Run]]] = {
    f"gradients of {B} samples": samples,
    f"{MEMBERS} members, inference, B={B}": lambda: ensemble(training=False, rows=B),
    f"{MEMBERS} members, gradients, B={B}": lambda: ensemble(training=True, rows=B),
    f"{MEMBERS} members, inference, B=1": lambda: ensemble(training=False, rows=1),
    f"{MEMBERS} members, gradients, B=1": lambda: ensemble(training=True, rows=1),
}


def differing(ours: Results, theirs: Results) -> str:
    """Say what differs."""
    for name, value in ours.items():
        bound = 1e-6 * max(1.0, theirs[name].abs().max().item())
        if value.shape != theirs[name].shape or not (value - theirs[name]).abs().max().item() <= bound:
            return name
    return ""


def measure(problem: str, threads: int, rounds: int) -> list[str]:
    """Let everything that computes a problem take turns; return rows of a table."""
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    runs = PROBLEMS[problem]()
    results, rows = runs["ours"](), []
    engines = {name: Timed(run, threads) for name, run in runs.items()}
    for name in list(engines):
        if why := differing(results, runs[name]()):
            rows.append(f"| {problem} | {threads} | {name} | refused: {why} differs | | |")
            del engines[name]
    turns = take_turns(engines, rounds, 0.05)
    own = [turn.seconds for turn in turns["ours"]]
    for name in [name for name in engines if name != "ours"]:
        peer = [turn.seconds for turn in turns[name]]
        low, ratio, high = quartiles([b / a for a, b in zip(own, peer, strict=True)])
        rows.append(
            f"| {problem} | {threads} | {name} | {median(peer) * 1e3:.2f} ms | {median(own) * 1e3:.2f} ms "
            f"| {ratio:.2f} ({low:.2f}–{high:.2f}) |"
        )
    return rows


def peak(name: str) -> int:
    """Bytes at the peak of the per-sample gradients, beyond inputs, parameters and results."""
    torch.set_num_threads(1)
    runs = samples(2, 2)
    runs.get(name, runs["ours"])()  # threads, thread-local memory and the like are there before the measured call
    return memory.peak_of(whole() if name == WHOLE else samples()[name])


def main() -> int:
    """Run the command."""
    options = _arguments()
    warnings.filterwarnings("ignore", "There is a performance drop")
    if options.peak:
        print(peak(options.peak))
        return 0
    if options.memory:
        print("| gradients of 32 samples | bytes beyond inputs, parameters and results |\n| --- | --- |")
        for name in (*samples(), WHOLE):
            command = [sys.executable, "-m", "bench.samples", "--peak", name]
            environment = {**os.environ, **memory.MALLOC, "OMP_NUM_THREADS": "1"}
            found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
            print(f"| {name} | {json.loads(found.stdout):,} |", flush=True)
        return 0
    print(f"| T, D, H = {T}, {D}, {H} | threads | peer | peer's | ours | ratio (quartiles) |")
    print("| --- | --- | --- | --- | --- | --- |")
    for threads in options.threads:
        for problem in PROBLEMS:
            if options.filter in problem:
                print("\n".join(measure(problem, threads, options.rounds)), flush=True)
    return 0


def _arguments() -> argparse.Namespace:
    parser = in_turns("bench.samples", __doc__)
    add = parser.add_argument
    add("--filter", default="", metavar="TEXT", help="only the problems with this in their names")
    add("--memory", action="store_true", help="measure memory instead of time")
    add("--peak", metavar="PEER", help="print the bytes of one of them; for --memory")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

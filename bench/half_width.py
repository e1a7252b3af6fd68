"""bfloat16 beside our float32 and torch's bfloat16, and how far each is from float64.

    python -m bench.half_width --threads 1,2

50 steps, D = H, states of zero. Everything that computes a work takes turns in one process; ratios are medians of the
rounds. Inference takes the processor's products of bfloat16, if it has them; under autocast weights are float32. A work
whose results differ is refused. The step of a stream whose weights are bfloat16 is a row of ``bench.runtime``.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

import torch
from torch import nn

from bench.measure import quartiles, take_turns
from bench.options import destination, in_turns
from bench.problem import Results
from bench.runtime import Measured, table
from bench.samples import Timed
from gatewise import LSTM, engine

SIZES = ((32, 64), (32, 128), (128, 128), (32, 256), (1, 256))
"""B, H."""

STEPS, SECONDS = 50, 0.05
CLOSE = 2**-6
"""What torch's bfloat16 may be off: roundings of 50 steps make less than half of it, another computation more."""
SINGLE, TORCH = "our float32", "torch's bfloat16"

Run = Callable[[], Results]
"""Computes once: y, and in training the gradients of the weights."""


class Errors(NamedTuple):
    """The largest difference of y from that of float64, whose weights and inputs are not rounded.

    Attributes:
        rounded: of float32 on the rounded weights and inputs: what bfloat16 costs before anything is computed.
    """

    what: str
    ours: float
    rounded: float
    torch: float


def main() -> None:
    """Run the command."""
    options = _arguments()
    rows: list[Measured] = []
    errors: dict[str, Errors] = {}
    for threads in options.threads:
        for B, H in SIZES:
            for what, runs in works(B, H).items():
                found, error = measure(what, runs, threads, options.rounds, _wanted(what, B, H))
                rows += found
                errors[what] = error
    if options.json:
        report = {"rows": [row._asdict() for row in rows], "errors": [error._asdict() for error in errors.values()]}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    products = f"{'with' if engine().bfloat16 else 'without'} products of bfloat16"
    print(f"{table(rows, f'threads as said; {products}')}\n\n{_table_of(list(errors.values()))}")


def works(B: int, H: int) -> dict[str, dict[str, Run]]:
    """What is computed, each by ours, by its peers and in float64, all with the same weights and inputs."""
    torch.manual_seed(0)
    x, exact = torch.randn(STEPS, B, H), LSTM(H, H).double()
    half = x.bfloat16()
    ours, theirs = (_copied(layer.bfloat16(), exact) for layer in (LSTM(H, H), nn.LSTM(H, H)))
    wide, their_wide = (_copied(layer, ours) for layer in (LSTM(H, H), nn.LSTM(H, H)))
    layers = {"ours": (ours, half), SINGLE: (wide, half.float()), TORCH: (theirs, half), "float64": (exact, x.double())}
    size = f"B, H = {B}, {H}"
    inference = {name: _inference(*of) for name, of in layers.items()}
    return {
        f"inference, {size}": inference,
        f"under autocast, {size}": inference | {"ours": _autocast(wide, half), TORCH: _autocast(their_wide, half)},
        f"training step, {size}": {name: _training(*of) for name, of in layers.items()},
    }


def measure(
    what: str, runs: dict[str, Run], threads: int, rounds: int, wanted: str
) -> tuple[Sequence[Measured], Errors]:
    """Let everything but float64 take turns, once its results are found right."""
    torch.set_num_threads(threads)
    results = {name: run() for name, run in runs.items()}
    if why := differing(results):
        raise SystemExit(f"refused: {what}: {why}")
    engines = {name: Timed(run, threads) for name, run in runs.items() if name != "float64"}
    turns = take_turns(engines, rounds, SECONDS)
    times = {name: [turn.seconds for turn in own] for name, own in turns.items()}
    work = f"{what}, {threads} thread{'s' if threads > 1 else ''}"
    rows: list[Measured] = []
    for peer, bound in ((SINGLE, wanted), (TORCH, "")):
        low, ratio, high = quartiles([b / a for a, b in zip(times["ours"], times[peer], strict=True)])
        rows.append(Measured(work, peer, bound, ratio, (low, high), median(times["ours"]), median(times[peer])))
    errors = (_distance(results[name]["y"], results["float64"]["y"]) for name in ("ours", SINGLE, TORCH))
    return rows, Errors(what, *errors)


def differing(results: dict[str, Results]) -> str:
    """Say what is not the same computation: torch's by its size, ours by torch's own error in bfloat16."""
    truth = results["float64"]
    for name, exact in truth.items():
        peer = _distance(results[TORCH][name], exact)
        bounds = {TORCH: CLOSE * max(1.0, exact.abs().max().item()), "ours": 2 * peer, SINGLE: 2 * peer}
        for who, bound in bounds.items():
            if not (error := _distance(results[who][name], exact)) <= bound:
                return f"{name} of {who} is off by {error:.1e}, at most {bound:.1e} allowed"
    return ""


def _distance(one: torch.Tensor, exact: torch.Tensor) -> float:
    return (one - exact).abs().max().item()


def _wanted(what: str, B: int, H: int) -> str:
    return "≥ 1.7" if what.startswith("inference") and B >= 32 and H >= 128 else ""


def _copied(layer: nn.Module, source: nn.Module) -> nn.Module:
    layer.load_state_dict(source.state_dict())
    return layer


def _inference(layer: nn.Module, x: torch.Tensor) -> Run:
    def run() -> Results:
        with torch.no_grad():
            return {"y": layer(x)[0]}

    return run


def _autocast(layer: nn.Module, x: torch.Tensor) -> Run:
    infer = _inference(layer, x)

    def run() -> Results:
        with torch.autocast("cpu", torch.bfloat16):
            return infer()

    return run


def _training(layer: nn.Module, x: torch.Tensor) -> Run:
    parameters = dict(layer.named_parameters())

    def run() -> Results:
        y = layer(x)[0]
        gradients = torch.autograd.grad(y.sum(), list(parameters.values()))
        return {"y": y.detach(), **dict(zip(parameters, gradients, strict=True))}

    return run


def _table_of(errors: Sequence[Errors]) -> str:
    lines = [
        "| largest error of y against float64 | ours | float32, weights and inputs rounded | torch's bfloat16 |",
        "| --- | --- | --- | --- |",
        *(f"| {each.what} | {each.ours:.1e} | {each.rounded:.1e} | {each.torch:.1e} |" for each in errors),
    ]
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = in_turns("bench.half_width", __doc__)
    parser.add_argument("--json", metavar="PATH", type=destination, help="where to write all figures")
    return parser.parse_args()


if __name__ == "__main__":
    main()

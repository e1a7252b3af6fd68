"""bfloat16 beside our float32 and torch's bfloat16, and how far both are from float64.

    python -m bench.half_width

One thread, in turn, medians; T = 50 steps, D = H. Inference takes the processor's products of bfloat16, if it has them.
Under autocast weights are float32.
"""

from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch
from torch import Tensor, nn

from gatewise import LSTM, engine

SIZES = ((32, 64), (32, 128), (32, 256), (1, 256))
"""B, H."""

STEPS, ROUNDS = 50, 21

Run = Callable[[], Tensor]
"""Computes once; the outputs."""


def main() -> None:
    torch.set_num_threads(1)
    print(f"{engine().isa}, {'with' if engine().bfloat16 else 'without'} products of bfloat16\n")
    print("| B, H | what | ours, ms | our float32 / ours | torch / ours | error, ours | torch's |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for rows, hidden in SIZES:
        torch.manual_seed(0)
        x = torch.randn(STEPS, rows, hidden)
        ours, theirs = LSTM(hidden, hidden).bfloat16(), nn.LSTM(hidden, hidden).bfloat16()
        wide, their_wide, exact = LSTM(hidden, hidden), nn.LSTM(hidden, hidden), LSTM(hidden, hidden).double()
        for other in (theirs, wide, their_wide, exact):
            other.load_state_dict(ours.state_dict())
        half = x.bfloat16()
        truth = exact(half.double())[0].detach()
        cases: dict[str, list[Run]] = {
            "inference": [_inference(ours, half), _inference(wide, x), _inference(theirs, half)],
            "under autocast": [_autocast(wide, half), _inference(wide, x), _autocast(their_wide, half)],
            "training": [_training(ours, half), _training(wide, x), _training(theirs, half)],
        }
        for what, runs in cases.items():
            errors = [f"{(run() - truth).abs().max():.1e}" for run in (runs[0], runs[2])]
            own, single, peer = _times(runs)
            figures = f"{1e3 * own:.1f} | {single / own:.2f} | {peer / own:.1f}"
            print(f"| {rows}, {hidden} | {what} | {figures} | {' | '.join(errors)} |", flush=True)


def _inference(layer: nn.Module, x: Tensor) -> Run:
    def run() -> Tensor:
        with torch.no_grad():
            return layer(x)[0]

    return run


def _autocast(layer: nn.Module, x: Tensor) -> Run:
    infer = _inference(layer, x)

    def run() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return infer()

    return run


def _training(layer: nn.Module, x: Tensor) -> Run:
    def run() -> Tensor:
        layer.zero_grad()
        y = layer(x)[0]
        y.sum().backward()
        return y.detach()

    return run


def _times(runs: list[Run]) -> list[float]:
    """The median seconds of each, which take turns."""
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(ROUNDS):
        for run, own in zip(runs, seconds, strict=True):
            begin = perf_counter()
            run()
            own.append(perf_counter() - begin)
    return [median(own[1:]) for own in seconds]


if __name__ == "__main__":
    main()

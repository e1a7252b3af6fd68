"""Inference of one layer: gatewise against torch.nn.LSTM, one thread, in turn, in one process.

    python bench/lstm_forward.py [--rounds 7]

A ratio above 1 means that gatewise is faster. A row whose results differ is not printed: the run ends with an error.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from gatewise import LSTM
from gatewise.ops.native import ISA

SHAPES = [  # B, T, D, H
    (1, 1, 64, 64),
    (1, 1, 256, 256),
    (1, 100, 16, 64),
    (4, 100, 1, 32),
    (32, 50, 16, 32),
    (32, 100, 32, 64),
    (64, 100, 64, 128),
    (128, 100, 1, 64),
    (16, 1000, 16, 128),
    (32, 200, 128, 256),
    (64, 50, 256, 512),
]
SECONDS_PER_TURN = 0.1


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Return the mean time of one call over `repeats` calls."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def check(ours: torch.Tensor, theirs: torch.Tensor, truth: torch.Tensor) -> None:
    """Refuse to time results that differ: close for short sequences, as exact as torch for long ones."""
    if (ours - theirs).abs().max() <= 1e-6 * max(1.0, theirs.abs().max().item()):
        return
    error, bound = (ours - truth).abs().max().item(), 2 * (theirs - truth).abs().max().item()
    if not error <= bound:
        raise SystemExit(f"results differ: error {error:.1e}, at most {bound:.1e} allowed")


@torch.no_grad()
def compare(B: int, T: int, D: int, H: int, rounds: int) -> tuple[float, float, float]:
    """Return the median seconds of torch and of gatewise, and the median of their ratios."""
    theirs = torch.nn.LSTM(D, H)
    ours = LSTM(D, H, backend="native")
    ours.load_state_dict(theirs.state_dict())
    exact = LSTM(D, H, dtype=torch.float64)
    exact.load_state_dict(theirs.state_dict())
    x = torch.randn(T, B, D)
    check(ours(x)[0], theirs(x)[0], exact(x.double())[0])
    repeats = max(1, int(SECONDS_PER_TURN / seconds(lambda: theirs(x), 3)))
    t, o = [0.0] * rounds, [0.0] * rounds
    for number in range(rounds):
        turns = [(t, theirs), (o, ours)]
        for times, layer in turns if number % 2 else reversed(turns):  # neither always comes first
            times[number] = seconds(lambda layer=layer: layer(x), repeats)
    return statistics.median(t), statistics.median(o), statistics.median(a / b for a, b in zip(t, o, strict=True))


def main() -> None:
    """Print a table, one row per shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, instruction set {ISA}, 1 thread, median of {rounds} rounds")
    print("| B,T,D,H | torch ms | gatewise ms | ratio | gatewise GF/s |\n| --- | --- | --- | --- | --- |")
    for B, T, D, H in SHAPES:
        torch_time, time_, ratio = compare(B, T, D, H, rounds)
        rate = 2 * T * B * 4 * H * (D + H) / time_ / 1e9
        print(
            f"| {B},{T},{D},{H} | {torch_time * 1e3:.3f} | {time_ * 1e3:.3f} | {ratio:.2f} | {rate:.0f} |", flush=True
        )


if __name__ == "__main__":
    main()

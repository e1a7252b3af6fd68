"""Random calls of the engine beside the reference, until one differs, crashes or does not end.

    python tests/native/fuzz_engine.py --seed 7             # this case, and what was drawn
    python tests/native/fuzz_engine.py --seconds 60         # from today's first case on
    python tests/native/fuzz_engine.py --seed 7 --seconds 60

A case is drawn from its seed alone: cell and options, dtype, sizes, strides, lengths, resets, masks, states, what
requires a gradient, what backward is given, instruction set, threads, and what is kept; or a module, one step, the
gradients of samples, an ensemble, or a model of the runtime. What must be equal to the bit is compared so (layouts,
threads, what is kept, a second backward, none, a sample or a member and the same alone, a stream and the whole), all
else with the reference in float64. The cases run in a process of their own, so that a crash is told with its seed too.
"""

import argparse
import json
import os
import select
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

FEW = 5
"""Cases that need not be compared; of many, two in a hundred more."""

LONGEST = 300
"""Seconds after which a case counts as one that does not end."""


def begin(seed: int) -> Iterator[int]:
    while True:
        yield seed
        seed += 1


def run_cases(first: int, seconds: float) -> int:
    """Run cases in this process, and say of each on standard output when it begins and how it ended."""
    import torch
    from fuzz_drawing import Draw, EdgeError, UnstableError
    from fuzz_func import run_members, run_samples
    from fuzz_layer import run_layer
    from fuzz_module import run_cell, run_module
    from fuzz_runtime import run_runtime
    from native_rows import registered

    kinds: dict[str, tuple[Callable[[Draw], None], float]] = {
        "layer": (run_layer, 0.35),
        "module": (run_module, 0.25),
        "cell": (run_cell, 0.08),
        "samples": (run_samples, 0.08),
        "members": (run_members, 0.06),
        "runtime": (run_runtime, 0.18),
    }
    end = time.monotonic() + seconds
    torch.set_num_threads(1)
    with registered():
        for seed in begin(first):
            case = Draw(seed)
            (kind,) = case.choices(list(kinds), [share for _, share in kinds.values()])
            # Fresh memory of torch is NaN then, and the engine's own is not used for results.
            torch.use_deterministic_algorithms(case.flag(0.7))
            print(json.dumps([seed, kind]), flush=True)
            try:
                kinds[kind][0](case)
            except (UnstableError, EdgeError) as error:
                print(json.dumps([seed, type(error).__name__]), flush=True)
            except Exception as error:
                error.add_note(f"{kind}" + "".join(f"\n  {name}: {value}" for name, value in case.noted.items()))
                raise
            if time.monotonic() >= end:
                return 0
    raise AssertionError("there is no end of seeds.")


def watch(first: int, seconds: float) -> int:
    """Run cases in another process, count them, and name the case at which it ended if that was too early."""
    started, counts = time.monotonic(), Counter[str]()
    command = [sys.executable, __file__, "--seed", str(first), "--seconds", str(seconds), "--cases-here"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert child.stdout is not None
    seed, pending = first, b""
    while True:
        if not select.select([child.stdout], [], [], LONGEST)[0]:
            child.kill()
            print(f"The case did not end within {LONGEST} seconds.", file=sys.stderr)
        received = os.read(child.stdout.fileno(), 1 << 16)
        if not received:
            break
        *lines, pending = (pending + received).split(b"\n")
        for line in lines:
            seed, kind = json.loads(line)
            counts[kind] += 1
    status = child.wait()
    unstable, edge = counts.pop("UnstableError", 0), counts.pop("EdgeError", 0)
    shares = ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items()))
    took = time.monotonic() - started
    print(f"{counts.total():,} cases in {took:.0f} s from seed {first} on: {shares}.")
    print(f"Not compared: {unstable:,} with too few digits in the reference, {edge:,} with a gate at an edge.")
    if unstable + edge > FEW + counts.total() / 50:
        print("That is too many.", file=sys.stderr)
        return 1
    if status:
        print(f"Failed (status {status}). Once more: {sys.executable} {__file__} --seed {seed}", file=sys.stderr)
    return 1 if status else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Random calls of the engine beside the reference.")
    today = int(datetime.now(UTC).strftime("%Y%m%d")) * 1_000_000
    parser.add_argument("--seed", type=int, help="of the first case; by default today's date and six zeros")
    parser.add_argument("--seconds", type=float, help="how long to go on; by default one case if a seed is given")
    parser.add_argument("--cases-here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    seed = today if given.seed is None else given.seed
    seconds = given.seconds if given.seconds is not None else 60 if given.seed is None else 0
    return run_cases(seed, seconds) if given.cases_here else watch(seed, seconds)


if __name__ == "__main__":
    sys.exit(main())

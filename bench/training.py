"""Training against what it should cost: the loop beside its network, a peer on the same work, two processes.

    python -m bench.training --neuralforecast PATH/python

``PATH/python`` is an interpreter that has neuralforecast (3.3.0 here, with torch 2.13.0), which brings far more than
this project needs; without it that case is left out. What the two train is said in ``hourly.py``. Whoever else uses the
machine meanwhile spoils the figures: how many cores they used is said.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

from bench.machine import busy
from bench.measure import quartiles
from bench.options import destination
from bench.runtime import Measured, table
from bench.training_loop import Cost, cost

ROOT = Path(__file__).parents[1]
M4 = ROOT.parent / "shared" / "data" / "m4_hourly"
LOOP, LOOP_STEPS = (32, 100, 64), 300
HOURLY = {"horizon": 48, "length": 168, "season": 168, "windows": 128, "layers": 2}
"""The peer's defaults: 128 windows from 32 series in a step, 2 layers, a decoder of 2 layers."""

HIDDEN = {32: "≥ 2", 128: "≥ 1.5"}
RANKS, RANK_STEPS = (64, 100, 128), 60
Said = dict[str, Any]


def main() -> None:
    options = _arguments()
    torch.set_num_threads(1)
    cases = {"loop": loop, "hourly": lambda: hourly(options), "ranks": lambda: ranks(options.rounds)}
    rows, said = [], {}
    for name in options.cases:
        said[name], measured = cases[name]()
        rows += measured
    if options.json:
        report = {"rows": [row._asdict() for row in rows], "said": said}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    print("\n\n".join([table(rows, "threads as said"), *(text for name in said for text in _told(name, said[name]))]))


def loop() -> tuple[Said, Sequence[Measured]]:
    """The share of a step that is not its network, in processor time of one thread."""
    found: Cost = cost(*LOOP, LOOP_STEPS)
    what = f"loop and data in a step, B, T, H = {', '.join(map(str, LOOP))}, 1 thread"
    row = Measured(what, "the whole step", "≤ 0.1", found.share, found.spread, found.whole - found.network, found.whole)
    return found._asdict(), [row]


def hourly(options: argparse.Namespace) -> tuple[Said, Sequence[Measured]]:
    """The same training on M4 hourly by us and by neuralforecast, each in a process of its own, in turn."""
    why = _absent(options)
    if why:
        return {"left out": why}, []
    rows: list[Measured] = []
    runs: list[Said] = []
    peers = {
        "gatewise": [sys.executable, "-m", "bench.hourly"],
        "neuralforecast": [options.neuralforecast, str(Path(__file__).with_name("hourly_neuralforecast.py"))],
    }
    for hidden, wanted in HIDDEN.items():
        task = HOURLY | {
            "folder": str(options.m4.resolve()),
            "hidden": hidden,
            "steps": options.steps,
            "threads": options.threads,
        }
        seconds: dict[str, list[float]] = {name: [] for name in peers}
        for turn in range(options.rounds):
            for name in reversed(list(peers)) if turn % 2 else list(peers):
                run = {"hidden": hidden, "by": name, **_process(peers[name], options.threads, json.dumps(task))}
                runs.append(run)
                seconds[name].append(run["seconds"])
        what = f"M4 hourly, table to model, {options.steps} steps, H = {hidden}, {options.threads} threads"
        rows.append(_compared(what, "neuralforecast's LSTM", wanted, seconds["gatewise"], seconds["neuralforecast"]))
    return {"runs": runs}, rows


def ranks(rounds: int) -> tuple[Said, Sequence[Measured]]:
    """Two processes of one thread under torchrun against one, by the step."""
    arguments = ["-m", "bench.training_ranks", *map(str, (*RANKS, RANK_STEPS))]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    peers = {"one": [sys.executable, *arguments], "two": torchrun}
    runs: list[Said] = []
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    for turn in range(2 * rounds + 1):
        for name in reversed(list(peers)) if turn % 2 else list(peers):
            run = {"processes": name, **_process(peers[name], 1, "")}
            runs.append(run)
            seconds[name].append(run["seconds"])
    what = f"two processes of 1 thread, a step, B, T, H = {', '.join(map(str, RANKS))}"
    return {"runs": runs}, [_compared(what, "one process", "≥ 1.6", seconds["two"], seconds["one"])]


def _compared(what: str, against: str, wanted: str, ours: Sequence[float], theirs: Sequence[float]) -> Measured:
    low, ratio, high = quartiles([b / a for a, b in zip(ours, theirs, strict=True)])
    return Measured(what, against, wanted, ratio, (low, high), median(ours), median(theirs))


def _process(command: Sequence[str], threads: int, task: str) -> Said:
    """What a process answers in JSON, and how many cores all others used meanwhile."""
    print(f"{' '.join(command[1:3])} …", file=sys.stderr, flush=True)
    begin, before, own = perf_counter(), busy(), _own()
    settings = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, input=task, capture_output=True, text=True, cwd=ROOT, env=settings, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {done.returncode}:\n{done.stderr[-2000:]}")
    lasted, others = perf_counter() - begin, busy() - before - (_own() - own)
    return {**json.loads(done.stdout), "process": lasted, "others": max(others / lasted, 0.0)}


def _own() -> float:
    """Processor seconds of this process and of those that it started."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _absent(options: argparse.Namespace) -> str:
    if not options.neuralforecast:
        return "no interpreter that has neuralforecast was named (--neuralforecast)"
    return "" if (options.m4 / "train.parquet").exists() else f"{options.m4} has no train.parquet (--m4)"


def _told(name: str, said: Mapping[str, Any]) -> Sequence[str]:
    """What the table has no room for."""
    if "left out" in said:
        return [f"{name}: left out, {said['left out']}."]
    if name == "loop":
        parts = [f"{piece} {seconds * 1e6:.0f}" for piece, seconds in said["pieces"].items()]
        network = f"the network alone {said['network'] * 1e6:.0f}"
        return [f"A step of {said['whole'] * 1e6:.0f} µs of processor time: {', '.join(parts)}; {network}."]
    return ["\n".join(_line(run) for run in said["runs"])]


def _line(run: Mapping[str, Any]) -> str:
    who = f"H = {run['hidden']}, {run['by']}" if "by" in run else f"{run['processes']}"
    accuracy = f", sMAPE {run['smape']:.2f}" if "smape" in run else ""
    whole = f"whole process {run['process']:.1f} s, others used {run['others']:.2f} cores"
    return f"- {who}: {run['seconds']:.4g} s ({run['processors']:.4g} s of processors){accuracy}; {whole}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m bench.training", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    names = ("loop", "hourly", "ranks")
    add("--cases", nargs="+", choices=names, default=names, help="only these (default: all)")
    add("--neuralforecast", metavar="PYTHON", help="an interpreter that has neuralforecast")
    add("--m4", metavar="FOLDER", type=Path, default=M4, help="train.parquet and test.parquet of M4 hourly")
    add("--steps", metavar="N", type=int, default=500, help="of M4 hourly, in hundreds (default: 500)")
    add("--threads", metavar="N", type=int, default=2, help="of each side of M4 hourly (default: 2)")
    add("--rounds", metavar="N", type=int, default=1, help="turns of M4 hourly; of the processes twice as many and one")
    add("--json", metavar="PATH", type=destination, help="where to write all figures")
    return parser.parse_args()


if __name__ == "__main__":
    main()

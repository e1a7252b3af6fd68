"""Measure gatewise side by side with its peers, and say which targets are met.

    python -m bench --suite quick

Peers take turns in one process; each setting of malloc and each number of threads has a process of its own, and so has
each figure of memory. A row whose results differ from the peer's is refused. The exit status is 1 if a row was refused
or failed, or if our engine did not serve it; targets that are not met do not change it. Progress goes to standard
error, the table to standard output.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from bench import memory
from bench.cases import MALLOC, PEERS, SUITES, THREADS, Case, cases
from bench.foreign import missing
from bench.machine import machine, processors, versions
from bench.measure import quartiles
from bench.options import destination, positive, thread_counts
from bench.rows import Row
from bench.table import markdown

ROOT = Path(__file__).parents[1]
MEMORY_ROUNDS = {"quick": 1, "standard": 1, "full": 3}


def main() -> int:
    """Run the command."""
    options = _arguments()
    if options.table:
        try:
            measured = json.loads(options.table.read_text())
        except (OSError, ValueError) as error:
            raise SystemExit(f"--table needs a file that --json wrote: {error}") from None
        print(markdown(measured), end="")
        return 0
    chosen = [case for case in cases(options.suite) if re.search(options.filter, case.name)]
    if not chosen:
        sys.exit(f"no case of the suite {options.suite} has a name that matches {options.filter!r}; see --list")
    if options.list:
        print("\n".join(f"{case.name}: {', '.join(case.peers)}" for case in chosen))
        return 0
    absent = [f"{peer} ({why})" for peer in PEERS if (why := missing(peer))]
    rows: list[Row] = []
    here = processors()
    for threads in options.threads:
        if threads > here:
            absent.append(f"{threads} threads (the machine has {here})")
            continue
        for malloc in options.malloc:
            for row in _timed(chosen, threads, malloc, options):
                rows.append(row)
                _say(row)
        for case in chosen:
            if case.memory and threads in case.threads:
                rows.append(_remembered(case, threads, options))
                _say(rows[-1])
    report = {
        "command": shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "suite": options.suite,
        "backend": options.backend,
        "machine": machine(),
        "versions": versions(),
        "missing": absent,
        "rows": [row.to_json() for row in rows],
    }
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    print(markdown(report), end="")
    return int(any(row.status not in {"ok", "missing"} for row in rows))


def _timed(chosen: list[Case], threads: int, malloc: str, options: argparse.Namespace) -> Iterator[Row]:
    """Measure cases in a process of their own; what that process does not finish has failed."""
    due = [case for case in chosen if threads in case.threads and malloc in case.malloc and not case.memory]
    if not due:
        return
    rounds, seconds = SUITES[options.suite]
    task = {
        "cases": [asdict(case) for case in due],
        "threads": threads,
        "malloc": malloc,
        "rounds": options.rounds or rounds,
        "seconds": seconds,
        "backend": options.backend,
    }
    left = [(case, peer) for case in due for peer in case.peers]
    with _started("bench.worker", threads, MALLOC[malloc]) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(task))
        process.stdin.close()
        for line in process.stdout:
            yield Row.from_json(json.loads(line))
            left.pop(0)
    for case, peer in left:
        why = f"the process ended with status {process.returncode}"
        yield Row(case.name, case.problem, peer, threads, malloc, "failed", why)


def _remembered(case: Case, threads: int, options: argparse.Namespace) -> Row:
    """Measure the memory of a case, each engine in processes of its own, in turn."""
    found: dict[str, list[int]] = {"ours": [], "torch": []}
    rounds = MEMORY_ROUNDS[options.suite]
    for _ in range(rounds):
        for name, sizes in found.items():
            task = {"name": name, "problem": asdict(case.problem), "threads": threads, "backend": options.backend}
            with _started("bench.memory", threads, memory.MALLOC) as process:
                answer = process.communicate(json.dumps(task))[0]
            died = {"status": "failed", "why": f"the process of {name} ended with status {process.returncode}"}
            result: dict[str, Any] = json.loads(answer) if answer else died
            if result["status"] != "ok":
                return Row(
                    case.name, case.problem, "torch", threads, "default", result["status"], result["why"], "bytes"
                )
            sizes.append(result["bytes"])
    low, ratio, high = quartiles([b / a for a, b in zip(found["ours"], found["torch"], strict=True)])
    ours, theirs = median(found["ours"]), median(found["torch"])
    return Row(
        case.name,
        case.problem,
        "torch",
        threads,
        "default",
        unit="bytes",
        rounds=rounds,
        ours=ours,
        theirs=theirs,
        ratio=ratio,
        low=low,
        high=high,
    )


def _started(module: str, threads: int, settings: Mapping[str, str]) -> subprocess.Popen[str]:
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))
    }
    teams = {"OMP_NUM_THREADS": str(threads), "NPROC": str(threads), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", module]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT, env={**inherited, **teams, **settings}
    )


def _say(row: Row) -> None:
    figures = f"{row.ratio:.2f} ({row.low:.2f}–{row.high:.2f})" if row.status == "ok" else f"{row.status}: {row.why}"
    print(f"[{row.threads}, {row.malloc}] {row.case} | {row.peer}: {figures}", file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--suite", choices=SUITES, default="standard", help="about 1 and 11 minutes, and hours; standard by default")
    add("--filter", metavar="REGEX", default="", help="only the cases in whose name it is found; see --list")
    add("--rounds", metavar="N", type=positive, help="rounds of turns, instead of the suite's own number")
    add("--threads", metavar="N[,N]", type=thread_counts, default=THREADS, help="numbers of threads (default: 1,2)")
    add("--malloc", metavar="NAME[,NAME]", type=_settings, default=tuple(MALLOC), help=f"of {', '.join(MALLOC)}")
    add("--json", metavar="PATH", type=destination, help="where to write all figures")
    add("--backend", default="native", help="ours; another than native is for looking at the bench itself")
    add("--list", action="store_true", help="list the cases and their peers, measure nothing")
    add("--table", metavar="PATH", type=Path, help="print the table of a JSON written before, measure nothing")
    return parser.parse_args()


def _settings(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if not set(names) <= set(MALLOC):
        raise argparse.ArgumentTypeError(f"of {', '.join(MALLOC)}, got {text!r}")
    return names


if __name__ == "__main__":
    sys.exit(main())

"""One process: every case of one setting of malloc and one number of threads.

Started by ``bench.__main__``: reads its task as JSON from standard input, writes rows as lines of JSON.
"""

import gc
import json
import math
import sys
from collections.abc import Callable
from time import perf_counter, process_time
from typing import Any

import torch

from bench.cases import Case, Problem
from bench.engines import Engine, gatewise_engine, loop_engine, torch_engine, truth, yardstick
from bench.foreign import JaxEngine, OnnxEngine, Product, missing
from bench.machine import busy
from bench.measure import Check, Turn, medians, quartiles, take_turns
from bench.problem import Data, draw, operations
from bench.rows import Row, Status
from gatewise.errors import InputError

SAME_PROBLEM = ("torch", "onnxruntime", "jax", "loop", "compile", "one thread")


def build(peer: str, problem: Problem, data: Data, threads: int, backend: str) -> Engine:
    """Return a peer's engine for a problem."""
    makers: dict[str, Callable[[], Engine]] = {
        "torch": lambda: torch_engine(problem, data, threads),
        "onnxruntime": lambda: OnnxEngine(problem, data, threads),
        "jax": lambda: JaxEngine(problem, data, threads),
        "loop": lambda: loop_engine(problem, data, threads),
        "compile": lambda: loop_engine(problem, data, threads, compiled=True),
        "plain": lambda: gatewise_engine(problem.plain, draw(problem.plain), threads, backend),
        "one thread": lambda: gatewise_engine(problem, data, 1, backend),
        "product": lambda: Product(threads),
    }
    return makers[peer]()


class Bench:
    """A setting, in which cases are measured.

    Args:
        threads: how many every engine has.
        malloc: the name of the setting of malloc that this process was started with.
        rounds: how many rounds.
        seconds: how long a turn lasts at least.
        backend: ours.
    """

    def __init__(self, *, threads: int, malloc: str, rounds: int, seconds: float, backend: str = "native"):
        self.threads = threads
        self.malloc = malloc
        self.rounds = rounds
        self.seconds = seconds
        self.backend = backend

    def run(self, case: Case, build: Callable[..., Engine] = build) -> list[Row]:
        """Measure a case; return a row for each peer."""
        torch.manual_seed(0)
        torch.set_num_threads(self.threads)
        problem, data = case.problem, draw(case.problem)
        try:
            ours = gatewise_engine(problem, data, self.threads, self.backend)
            results = ours.results()
        except InputError as error:
            return [self._row(case, peer, "unsupported", str(error)) for peer in case.peers]
        except Exception as error:  # the other cases go on
            return [self._row(case, peer, "failed", f"ours: {_said(error)}") for peer in case.peers]
        check = Check(
            lambda: yardstick(problem, data, self.threads),
            lambda: truth(problem, data, self.threads),
        )
        rows: dict[str, Row] = {}
        engines: dict[str, Engine] = {"ours": ours}
        setup: dict[str, float] = {}
        for peer in case.peers:
            begin = perf_counter()
            try:
                if why := missing(peer):
                    rows[peer] = self._row(case, peer, "missing", why)
                    continue
                engine = build(peer, problem, data, self.threads, self.backend)
                torch.set_num_threads(engine.threads)
                theirs = engine.results()
                setup[peer] = perf_counter() - begin
                torch.set_num_threads(self.threads)
                if why := check.differing(results, theirs if peer in SAME_PROBLEM else None):
                    rows[peer] = self._row(case, peer, "refused", why)
                    continue
                engines[peer] = engine
            except Exception as error:  # a peer's failure is a finding of its own
                rows[peer] = self._row(case, peer, "failed", _said(error))
        del check, results  # before the clock runs: they hold memory
        if len(engines) > 1:
            begin, begun = perf_counter(), busy() - process_time()
            turns = take_turns(engines, self.rounds, self.seconds)
            others = (busy() - process_time() - begun) / (perf_counter() - begin)
            for peer in engines.keys() - {"ours"}:
                row = self._measured(case, peer, turns, operations(problem, data))
                row.details["theirs"]["setup"] = setup[peer]
                row.details["machine"] = {} if math.isnan(others) else {"others": others}
                rows[peer] = row
        return [rows[peer] for peer in case.peers]

    def _row(self, case: Case, peer: str, status: Status = "ok", why: str = "", **figures: Any) -> Row:
        return Row(case.name, case.problem, peer, self.threads, self.malloc, status, why, **figures)

    def _measured(self, case: Case, peer: str, turns: dict[str, list[Turn]], work: int) -> Row:
        scale = work / Product.operations if peer == "product" else 1.0
        pairs = zip(turns["ours"], turns[peer], strict=True)
        low, ratio, high = quartiles([scale * theirs.seconds / ours.seconds for ours, theirs in pairs])
        ours, theirs = medians(turns["ours"]), medians(turns[peer])
        return self._row(
            case,
            peer,
            rounds=self.rounds,
            ours=ours["seconds"],
            theirs=theirs["seconds"],
            ratio=ratio,
            low=low,
            high=high,
            rate=work / ours["seconds"],
            details={"ours": ours, "theirs": theirs},
        )


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def main() -> None:
    task = json.load(sys.stdin)
    lines, sys.stdout = sys.stdout, sys.stderr  # whatever the engines print is not a row
    due = [Case.from_json(values) for values in task.pop("cases")]
    bench = Bench(**task)
    for case in due:
        for row in bench.run(case):
            print(json.dumps(row.to_json()), file=lines, flush=True)
        gc.collect()
        if "compile" in case.peers:
            torch.compiler.reset()


if __name__ == "__main__":
    main()

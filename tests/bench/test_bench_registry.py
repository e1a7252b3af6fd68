"""The bench's registry, its refusal of wrong results, and its table; nothing here is timed for its figures."""

import io
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path

import pytest
import torch
from bench.__main__ import main
from bench.cases import CASES, CELLS, GRID, MALLOC, PEERS, SHAPES, SUITES, THREADS, Case, Problem, cases
from bench.engines import Engine, TorchEngine, gatewise_engine
from bench.foreign import NEEDED, missing
from bench.measure import Check, quartiles, take_turns
from bench.problem import Data, Results, draw, operations
from bench.rows import Row
from bench.table import markdown
from bench.targets import GROUPS, Group, Target, judge
from bench.worker import Bench, build

from gatewise.errors import InputError

TINY = Problem(3, 4, 2, 5)
TRAIN = replace(TINY, training=True)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def all_rows(of: list[Case]) -> list[Row]:
    """A row for everything that the cases would measure."""
    return [
        Row(case.name, case.problem, peer, threads, malloc, unit="bytes" if case.memory else "seconds", ratio=1.0)
        for case in of
        for peer in case.peers
        for threads in case.threads
        for malloc in case.malloc
    ]


def small_bench(**changes: object) -> Bench:
    settings = {"threads": 1, "malloc": "default", "rounds": 1, "seconds": 0.0, "backend": "reference"}
    return Bench(**(settings | changes))  # pyright: ignore[reportArgumentType] - what changes has its type


def test_nothing_is_measured_twice():
    keys = Counter((row.case, row.peer, row.threads, row.malloc) for row in all_rows(list(CASES)))
    assert not [key for key, count in keys.items() if count > 1]


def test_cases_speak_of_what_is_known():
    assert {peer for case in CASES for peer in case.peers} == set(PEERS)
    for case in CASES:
        assert set(case.threads) <= set(THREADS)
        assert set(case.malloc) <= set(MALLOC)


def test_suites_hold_those_before():
    quick, standard, full = (cases(suite) for suite in SUITES)
    assert 0 < len(quick) < len(standard) < len(full) == len(CASES)
    assert set(quick) < set(standard) < set(full)


@pytest.mark.parametrize("training", [False, True])
def test_full_has_every_shape(training: bool):
    found = {
        (problem.B, problem.T, problem.D, problem.H)
        for problem in (case.problem for case in cases("full"))
        if problem.training == training and problem.plain == problem
    }
    wanted = {*SHAPES, *(shape for shape in GRID if shape[2] > 1 or not training)}
    assert wanted <= found
    assert len(GRID) == 4 * 6 * 3 - 4  # D = H = 16 is there once


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.title)
@pytest.mark.parametrize("suite", ["standard", "full"])
def test_every_target_is_measured(group: Group, suite: str):
    rows = all_rows(cases(suite))  # pyright: ignore[reportArgumentType] - the names of two suites
    assert [verdict.target.work for verdict in judge(group, rows) if verdict.met is None] == []


def test_a_case_survives_json():
    for case in CASES:
        values = json.loads(json.dumps(asdict(case)))
        assert Case.from_json(values) == case


@pytest.mark.parametrize(
    ("problem", "products"),
    [
        (TINY, 4 * 5 * (2 + 5)),
        (replace(TINY, cell="cifg"), 3 * 5 * (2 + 5)),
        (replace(TINY, cell="fgr"), 4 * 5 * (2 + 5) + 9 * 5 * 5),
        (replace(TINY, proj=3), 4 * 5 * (2 + 3) + 5 * 3),
        (replace(TINY, layers=2), 4 * 5 * (2 + 5) + 4 * 5 * (5 + 5)),
    ],
)
def test_operations_count_the_products(problem: Problem, products: int):
    assert operations(problem, draw(problem)) == 2 * 3 * 4 * products
    assert operations(replace(problem, training=True), draw(problem)) == 6 * 3 * 4 * products
    rows = draw(replace(problem, lengths=True))
    assert rows.lengths is not None
    assert operations(replace(problem, lengths=True), rows) == 2 * int(rows.lengths.sum()) * products


LOOPED = [replace(TRAIN, cell=cell) for cell in (*CELLS, "fgr")] + [replace(TRAIN, layer_norm=True)]


@pytest.mark.parametrize(
    ("problem", "peers"),
    [
        (TINY, ("torch", "onnxruntime")),
        (TRAIN, ("torch", "jax", "plain", "one thread")),
        (replace(TRAIN, lengths=True), ("torch", "plain")),
        (replace(TRAIN, reset=True), ("plain",)),
        (replace(TRAIN, layers=2), ("torch",)),
        *((problem, ("loop",)) for problem in LOOPED),
    ],
    ids=str,
)
def test_peers_compute_the_same(problem: Problem, peers: tuple[str, ...]):
    rows = small_bench().run(Case(problem, peers))
    assert [row.peer for row in rows] == list(peers)
    for row in rows:
        if row.status == "missing":
            assert row.peer in NEEDED
            continue
        assert (row.status, row.why) == ("ok", "")
        assert row.low <= row.ratio <= row.high
        assert min(row.ours, row.theirs, row.low) > 0
        assert Row.from_json(json.loads(json.dumps(row.to_json()))) == row


class Wrong(TorchEngine):
    """An engine of which one result is off by a hundred thousandth."""

    spoilt: str

    def results(self) -> Results:
        results = super().results()
        results[self.spoilt] = results[self.spoilt] * (1 + 1e-5)
        return results


def spoil(engine: TorchEngine, name: str) -> TorchEngine:
    engine.__class__ = Wrong
    engine.spoilt = name  # pyright: ignore[reportAttributeAccessIssue] - its class is Wrong now
    return engine


@pytest.mark.parametrize("peer", ["torch", "plain"])
@pytest.mark.parametrize("name", ["y", "c", "grad x", "grad weight_hh", "grad bias_ih"])
def test_wrong_results_are_refused(peer: str, name: str, monkeypatch: pytest.MonkeyPatch):
    def ours(problem: Problem, data: Data, threads: int, backend: str) -> TorchEngine:
        return spoil(gatewise_engine(problem, data, threads, backend), name)

    monkeypatch.setattr("bench.worker.gatewise_engine", ours)
    (row,) = small_bench().run(Case(Problem(8, 20, 8, 32, training=True), (peer,)))
    assert row.status == "refused"
    assert row.why.startswith(f"{name} is off by ")
    assert row.ratio == row.ours == 0


def test_a_model_whose_losses_differ_is_refused(monkeypatch: pytest.MonkeyPatch):
    def ours(problem: Problem, data: Data, threads: int, backend: str) -> TorchEngine:
        return gatewise_engine(problem, data._replace(x=data.x * (1 + 1e-4)), threads, backend)

    monkeypatch.setattr("bench.worker.gatewise_engine", ours)
    (row,) = small_bench().run(Case(replace(TRAIN, layers=2), ("torch",)))
    assert row.status == "refused"
    assert row.why.startswith("losses is off by ")


def test_a_peer_that_computes_something_else_is_refused():
    def altered(peer: str, problem: Problem, data: Data, *rest: object) -> Engine:
        weights = data.weights | {"weight_hh": data.weights["weight_hh"] * 1.1}
        return build(peer, problem, data._replace(weights=weights), 1, "reference")

    (row,) = small_bench().run(Case(TINY, ("torch",)), altered)
    assert row.status == "refused"
    assert "the peer's y is off by" in row.why


@pytest.mark.parametrize(
    ("results", "why"),
    [
        ({"y": torch.full((2,), torch.nan)}, "y is off by nan"),
        ({"y": torch.ones(3)}, "y is [3], the peer's [2]"),
        ({"h": torch.ones(2)}, "results are h, the peer's y"),
        ({"y": torch.ones(2) + 2e-6}, "y is off by 2"),
        ({"y": torch.ones(2) + 5e-7}, ""),
    ],
)
def test_check(results: Results, why: str):
    def exact() -> Results:
        return {"y": torch.ones(2)}

    said = Check(exact, exact).differing(results, exact())
    assert said.startswith(why)
    assert bool(said) == bool(why)


def test_long_sequences_may_err_twice_as_much_as_torch():
    check = Check(lambda: {"y": torch.ones(2) + 1e-4}, lambda: {"y": torch.ones(2)})
    assert check.differing({"y": torch.ones(2) - 1.9e-4}) == ""
    assert "y is off by 2.1e-04, at most 2.0e-04" in check.differing({"y": torch.ones(2) - 2.1e-4})


def test_a_peers_rounding_is_not_ours():
    check = Check(lambda: {"y": torch.full((2,), 100.0)}, lambda: {"y": torch.full((2,), 100.0)})
    assert check.differing({"y": torch.full((2,), 100 + 9e-5)}, {"y": torch.full((2,), 100 - 9e-5)}) == ""
    assert "at most 1.0e-04" in check.differing({"y": torch.full((2,), 100 + 2e-4)}, {"y": torch.full((2,), 99.999)})


def test_what_our_engine_does_not_serve_is_said():
    (row,) = small_bench(backend="torch").run(Case(replace(TINY, cell="peephole"), ("loop",)))
    with pytest.raises(InputError) as refusal:
        gatewise_engine(row.problem, draw(row.problem), 1, "torch").results()
    assert (row.status, row.why) == ("unsupported", str(refusal.value))


def test_a_failing_peer_leaves_the_others():
    rows = small_bench().run(Case(replace(TRAIN, reset=True), ("torch", "plain")))
    assert [row.status for row in rows] == ["failed", "ok"]
    assert "torch.nn.LSTM does not compute" in rows[0].why


def test_a_missing_peer_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(NEEDED, "jax", ("no_such_package",))
    assert missing("jax") == "no_such_package not installed"
    rows = small_bench().run(Case(TINY, ("jax", "torch")))
    assert [(row.status, row.why) for row in rows] == [("missing", missing("jax")), ("ok", "")]


class Recorder:
    """An engine that notes its steps."""

    def __init__(self, name: str, steps: list[str]):
        self.threads = 1
        self.name, self.steps = name, steps

    def step(self) -> float:
        self.steps.append(self.name)
        return 2.0

    def results(self) -> Results:
        return {}


def test_turns_alternate():
    steps: list[str] = []
    turns = take_turns({name: Recorder(name, steps) for name in "ab"}, rounds=3, seconds=0.0)
    order = [name for name, _ in groupby(steps[4:])]  # each first warms up and is timed once
    assert order == ["a", "b", "a", "b"]  # a b, b a, a b
    assert [turn.seconds for turn in turns["a"]] == [2.0] * 3


def test_no_case_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["bench", "--filter", "nothing of the kind"])
    with pytest.raises(SystemExit, match="no case of the suite standard"):
        main()


def test_quartiles():
    assert quartiles([5.0]) == (5.0, 5.0, 5.0)
    assert quartiles([4.0, 1.0, 3.0, 2.0, 5.0]) == (2.0, 3.0, 4.0)


def inferred(peer: str, ratio: float, H: int = 64, **changes: object) -> Row:
    problem = Problem(1, 100, 16, H)
    return replace(
        Row(str(problem), problem, peer, 1, "default", ours=2e-3, theirs=2e-3 * ratio, ratio=ratio, rate=3e9), **changes
    )


@pytest.mark.parametrize(
    ("rows", "every", "small"),
    [
        ([inferred("torch", 3.0), inferred("jax", 1.6)], (1.6, True), (1.6, True)),
        ([inferred("torch", 0.98)], (0.98, True), (0.98, False)),
        ([inferred("torch", 0.96)], (0.96, False), (0.96, False)),
        ([inferred("torch", 1.0), inferred("torch", 4.0, 32)], (1.0, True), (2.0, True)),
        ([inferred("torch", 2.0), inferred("jax", 0, status="missing")], (2.0, True), (2.0, True)),
        ([inferred("torch", 2.0), inferred("torch", 0, 32, status="refused")], (2.0, False), (2.0, False)),
        ([inferred("jax", 2.0), inferred("torch", 0, status="refused")], (None, False), (None, False)),
        ([inferred("jax", 0, status="missing")], (None, None), (None, None)),
        ([inferred("torch", 2.0, 128)], (2.0, True), (None, None)),
    ],
)
def test_judging(rows: list[Row], every: tuple[float | None, bool | None], small: tuple[float | None, bool | None]):
    verdicts = [(verdict.measured, verdict.met) for verdict in judge(GROUPS[0], rows)]
    assert verdicts[0] == every
    assert verdicts[1] == (pytest.approx(small[0]) if small[0] else None, small[1])


def test_cost_is_ours_over_the_peers():
    problem = Problem(32, 50, 64, 128, training=True, cell="fgr")
    row = Row(str(problem), problem, "plain", 1, "default", ratio=0.5)
    assert Target("time", 2.0, cost=True).figure(row) == 2.0
    (fgr,) = (target for group in GROUPS for target in group.targets if "fgr: time" in target.work)
    assert fgr.figure(row) == pytest.approx(2.0 * (4 * 192) / (4 * 192 + 9 * 128))


def report(rows: list[Row]) -> dict[str, object]:
    machine = {"processor": "a processor", "cores": 2, "isa": "avx2", "team": "own", "system": "a system"}
    return {
        "command": "python -m bench",
        "date": "2026-01-01",
        "backend": "native",
        "machine": machine,
        "versions": {"python": "3.11", "torch": "2"},
        "missing": ["jax (jax not installed)"],
        "rows": [row.to_json() for row in rows],
    }


ROWS = [
    inferred("torch", 2.0, low=1.75, high=2.25),
    inferred("onnxruntime", 0, status="refused", why="y is off | by much"),
    Row(
        "memory x", replace(TRAIN, save="states"), "torch", 1, "default", unit="bytes", ours=2e6, theirs=5e6, ratio=2.5
    ),
    Row("infer x", replace(TINY, B=9), "torch", 2, "tuned", ours=1e-5, theirs=1e-5, ratio=1.0),
]


@pytest.mark.parametrize(
    "line",
    [
        "Not there: jax (jax not installed).",
        "a processor, 2 cores, avx2; a system; python 3.11, torch 2.",
        "| inference: every shape | the best of torch, ONNX Runtime, JAX | 1 thread, default malloc | 1 | ≥ 1× |  "
        "| **no** |",
        "| infer 1,100,16,64 | 1 thread, default malloc | onnxruntime | refused: y is off \\| by much |  |  |  |",
        "| infer 1,100,16,64 | 1 thread, default malloc | torch | 4 ms | 2 ms | 2.00 (1.75–2.25) | 3 |",
        "| memory x | 1 thread, default malloc | torch | 5 MB | 2 MB | 2.50 (0.00–0.00) |  |",
        '| peak memory of a training step beyond inputs, parameters and gradients: save="states": bytes | torch | '
        "1 thread, default malloc | 1 | ≤ 0.5× | 0.40× | yes |",
        "| infer x | 2 threads, tuned malloc | torch | 10 µs | 10 µs | 1.00 (0.00–0.00) |  |",
    ],
)
def test_table_has(line: str):
    assert line in markdown(report(ROWS)).splitlines()


def test_tables_are_well_formed():
    blocks = [block.splitlines() for block in markdown(report(ROWS)).split("\n\n") if block.startswith("|")]
    assert len(blocks) == 4  # the targets, two of their groups, the other rows
    for block in blocks:
        assert len({line.replace("\\|", "").count("|") for line in block}) == 1


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("missing", 0), ("refused", 1), ("unsupported", 1)])
def test_exit_status(
    status: str, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("bench.__main__._timed", lambda *_: iter([inferred("torch", 2.0, status=status)]))
    path = tmp_path / "new" / "bench.json"
    arguments = ["bench", "--suite", "quick", "--filter", "^infer", "--threads", "1", "--malloc", "default"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--json", str(path)])
    assert main() == code
    printed = capsys.readouterr().out
    assert printed == markdown(json.loads(path.read_text()))
    monkeypatch.setattr(sys, "argv", ["bench", "--table", str(path)])
    assert main() == 0
    assert capsys.readouterr().out == printed


def test_an_unfinished_process_is_a_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr("bench.__main__._started", lambda *_: _Dying())
    monkeypatch.setattr("bench.__main__.cases", lambda suite: [Case(TINY, ("torch", "jax"), threads=(1,))])
    monkeypatch.setattr(sys, "argv", ["bench"])
    assert main() == 1
    assert capsys.readouterr().out.count("failed: the process ended with status -11") == 2


class _Dying:
    """A process that answers nothing."""

    returncode = -11

    def __init__(self):
        self.stdin, self.stdout = io.StringIO(), io.StringIO()

    def __enter__(self) -> "_Dying":
        return self

    def __exit__(self, *_: object) -> None:
        pass

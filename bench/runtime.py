"""The runtime against its peers: one stream, pools, the start of a process.

    python -m bench.runtime

Peers take turns in one process on one thread; ratios are medians of the rounds. A row whose results differ is refused.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch

from bench.machine import machine, versions
from bench.measure import quartiles, take_turns
from bench.options import destination
from gatewise import runtime
from gatewise.format import Lstm, ModelFile, save_model

ROUNDS, SECONDS = 9, 0.05
STREAMS, SHARE = 10_000, 0.05
CLOSE = {"f32": 1e-6, "bf16": 1e-2}
STARTS = 7


class Measured(NamedTuple):
    """A row: what is at least (or at most) wanted of the ratio, if anything, and what was measured."""

    what: str
    against: str
    wanted: str
    ratio: float
    spread: tuple[float, float]
    ours: float
    theirs: float

    @property
    def met(self) -> bool:
        if not self.wanted:
            return True
        word, bound = self.wanted.split()
        return self.ratio >= float(bound) if word == "≥" else self.ratio <= float(bound)


class Caller:
    """An engine that calls a function, for ``take_turns``."""

    threads = 1

    def __init__(self, call: Callable[[], object], calls: int = 1):
        self._call, self._calls = call, calls

    def step(self) -> float:
        begin = perf_counter()
        for _ in range(self._calls):
            self._call()
        return (perf_counter() - begin) / self._calls


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.runtime", description=__doc__)
    parser.add_argument("--json", metavar="PATH", type=destination, help="where to write all figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [*steps(64, {"onnxruntime": "≥ 8", "onnxruntime, bound": "≥ 5", "torch": "≥ 50"})]
    rows += [*steps(256, {"onnxruntime": "≥ 1.1", "onnxruntime, bound": "≥ 1.1", "torch": "≥ 6"})]
    rows += steps(256, {"onnxruntime": "≥ 1.8", "our float32": "≥ 1.7"}, "bf16")
    rows += [inside(64), inside(256), *pools(), start(), memory()]
    if options.json:
        options.json.write_text(json.dumps([row._asdict() for row in rows], indent=1))
    print(table(rows))


def model_file(block: Lstm, folder: str) -> Path:
    """Write a model of one block with random weights."""
    generator = np.random.default_rng(0)
    shapes = block.shapes()
    weights = {f"0.{name}": (generator.standard_normal(shape) * 0.1).astype("f4") for name, shape in shapes.items()}
    path = Path(folder, "model.safetensors")
    save_model(ModelFile("bench", (block,), weights), path)
    return path


def loaded(block: Lstm) -> runtime.Model:
    """Return a model of one block, for one thread."""
    with tempfile.TemporaryDirectory() as folder:
        return runtime.load(model_file(block, folder), threads=1)


def compare(
    what: str, ours: Caller, peers: Mapping[str, tuple[str, Caller]], *, inverse: bool = False
) -> Sequence[Measured]:
    """Measure ours beside each peer: the ratio is the peer's time over ours, or its inverse."""
    turns = take_turns({"ours": ours, **{name: peer for name, (_, peer) in peers.items()}}, ROUNDS, SECONDS)
    times = {name: [turn.seconds for turn in own] for name, own in turns.items()}
    rows: list[Measured] = []
    for name, (wanted, _) in peers.items():
        pairs = zip(times["ours"], times[name], strict=True)
        low, ratio, high = quartiles([a / b if inverse else b / a for a, b in pairs])
        rows.append(Measured(what, name, wanted, ratio, (low, high), median(times["ours"]), median(times[name])))
    return rows


def steps(H: int, wanted: Mapping[str, str], kept: str = "f32") -> Sequence[Measured]:
    """One stream, one step, D = H, by a call of Python with arrays that are there."""
    with tempfile.TemporaryDirectory() as folder:
        path = model_file(Lstm(H, H), folder)
        stream, single = (runtime.load(path, weights=each, threads=1).stream() for each in (kept, "f32"))
        weights = _weights(path)
    x, out = np.random.default_rng(1).standard_normal(H).astype("f4"), np.empty(H, np.float32)
    other = out.copy()
    others = _peers(weights, x) | {"our float32": lambda: single.step(x, other)}
    stream.step(x, out)
    for name, call in others.items():
        y = call()
        difference = np.abs((y if isinstance(y, np.ndarray) else y.numpy()).ravel() - out).max()
        if not difference <= CLOSE[kept]:
            raise SystemExit(f"refused: {name}'s first step differs by {difference:.1e}")
    calls = 20  # of one reading of the clock
    peers = {name: (bound, Caller(others[name], calls)) for name, bound in wanted.items()}
    what = f"a step, D = H = {H}" + (f", weights {kept}" if kept != "f32" else "")
    return compare(what, Caller(lambda: stream.step(x, out), calls), peers)


def inside(H: int) -> Measured:
    """The same step without Python, against reading the weights once."""
    model = loaded(Lstm(H, H))
    stream, count = model.stream(), 200
    x, out = np.zeros((count, H), np.float32), np.empty((count, H), np.float32)
    # The same memory again and again, by whichever of torch's ways is the fastest here.
    weights = torch.zeros(model.packed_bytes // 4).expand(count, -1)
    readers = {"sum": lambda: weights.sum(1), "amax": lambda: weights.amax(1)}
    ours = Caller(lambda: stream.steps(x, out))
    peers = {name: ("≤ 1.5", Caller(read)) for name, read in readers.items()}
    rows = compare(f"a step inside, D = H = {H}", ours, peers, inverse=True)
    fastest = max(rows, key=lambda row: row.ratio)
    each = {"ours": fastest.ours / count, "theirs": fastest.theirs / count}
    return fastest._replace(against=f"its weights read once (torch's {fastest.against})", **each)


def pools() -> Sequence[Measured]:
    """Many streams of H = 64, all of them or some, against the whole sequences' kernel on as many rows."""
    H, generator = 64, np.random.default_rng(2)
    model = loaded(Lstm(H, H))
    pool = model.streams(STREAMS)
    slots = np.array([pool.open() for _ in range(STREAMS)])
    x, out = generator.standard_normal((STREAMS, H)).astype("f4"), np.empty((STREAMS, H), np.float32)
    some = int(STREAMS * SHARE)
    picks = iter([generator.choice(STREAMS, some, replace=False) for _ in range(64)] * 10_000)
    rows = [
        *compare(
            "a pool, all stepping",
            Caller(lambda: pool.step(slots, x, out)),
            {"the kernel": ("≥ 0.85", _batch(model, x))},
        )
    ]
    part, part_out = x[:some].copy(), out[:some].copy()
    ours = Caller(lambda: pool.step(next(picks), part, part_out))
    return [*rows, *compare("a pool, a random 5 %", ours, {"the kernel": ("≥ 0.7", _batch(model, part))})]


def start() -> Measured:
    """Seconds from an interpreter's start to a loaded model of 1 MB, beyond those to NumPy."""
    with tempfile.TemporaryDirectory() as folder:
        path = model_file(Lstm(128, 190), folder)
        codes = {"numpy": "import numpy", "ours": f"from gatewise import runtime; runtime.load({str(path)!r})"}
        times: dict[str, list[float]] = {name: [] for name in codes}
        # As when installed, where the bytecode is there: the first turn may have to write it.
        settings = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        for turn in range(1 + STARTS):
            for name, code in codes.items():
                begin = perf_counter()
                subprocess.run([sys.executable, "-c", code], check=True, env=settings)
                times[name] += [perf_counter() - begin] if turn else []
    beyond = [a - b for a, b in zip(times["ours"], times["numpy"], strict=True)]
    low, seconds, high = quartiles(beyond)
    return Measured("import and load, seconds beyond NumPy's import", "", "≤ 0.05", seconds, (low, high), seconds, 0.0)


def memory() -> Measured:
    """Resident memory of an idle stream over its states."""
    model = loaded(Lstm(64, 64, 2))
    before = _resident()
    pool = model.streams(100 * STREAMS // 10)
    for _ in range(pool.capacity):
        pool.open()
    own, states = (_resident() - before) / pool.capacity, 4.0 * 2 * 2 * 64
    return Measured(
        "memory of an idle stream, 2 × 64",
        "its states",
        "≤ 1.25",
        own / states,
        (own / states, own / states),
        own,
        states,
    )


def table(rows: Sequence[Measured], setting: str = "1 thread") -> str:
    """Write the rows as Markdown, below the machine and the setting."""
    facts = machine()
    packages = ", ".join(f"{name} {number}" for name, number in versions().items())
    lines = [f"{facts['processor']}, {facts['isa']}; {packages}; {setting}.", ""]
    lines += [
        "| what | against | ours | theirs | ratio | wanted | met |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        spread = f"{row.ratio:.2f} ({row.spread[0]:.2f}–{row.spread[1]:.2f})"
        cells = [
            row.what,
            row.against,
            f"{row.ours:.3g}",
            f"{row.theirs:.3g}",
            spread,
            row.wanted,
            ("yes" if row.met else "**no**") if row.wanted else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _weights(path: Path) -> dict[str, np.ndarray]:
    from gatewise.format import load_model

    return {name.removeprefix("0."): value for name, value in load_model(path).weights.items()}


def _batch(model: runtime.Model, x: np.ndarray) -> Caller:
    """The kernel of whole sequences on rows that lie one after the other, called without any check."""
    core, rows = model._model, len(x)
    states = np.zeros(rows * core.state_size, np.float32)
    y = np.empty((rows, model.architecture[-1].output_size), np.float32)

    def call() -> None:
        # The core knows addresses only: the arrays must be held here.
        core.run(1, rows, x.ctypes.data, 0, 0, 0, 0, 0, states.ctypes.data, y.ctypes.data, 1)

    return Caller(call)


def _peers(weights: Mapping[str, np.ndarray], x: np.ndarray) -> dict[str, Callable[[], Any]]:
    """A step of ONNX Runtime, of the same with its arrays bound, and of torch; each returns the first y."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    H = weights["weight_hh_l0"].shape[1]

    def reordered(kind: str) -> np.ndarray:
        i, f, g, o = np.split(weights[kind], 4)
        return np.concatenate([i, o, f, g])[None]

    arrays = {"W": reordered("weight_ih_l0"), "R": reordered("weight_hh_l0")}
    arrays["B"] = np.concatenate([reordered("bias_ih_l0"), reordered("bias_hh_l0")], 1)
    state = [1, 1, H]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, state) for name in "xhc"]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", "h1", "c1")]
    node = helper.make_node("LSTM", ["x", "W", "R", "B", "", "h", "c"], ["y", "h1", "c1"], hidden_size=H)
    initial = [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in arrays.items()]
    graph = helper.make_graph([node], "step", values, results, initial)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    zero = np.zeros(state, np.float32)
    held = {"x": x.reshape(1, 1, -1), "h": zero, "c": zero}

    def plain() -> Any:
        shown, held["h"], held["c"] = session.run(None, held)
        return shown

    # A value shares the memory of its array.
    run_options, y = onnxruntime.RunOptions(), onnxruntime.OrtValue.ortvalue_from_numpy(zero[None].copy())
    states = [[onnxruntime.OrtValue.ortvalue_from_numpy(zero.copy()) for _ in "hc"] for _ in range(2)]

    def bind(before: list[Any], after: list[Any]) -> Any:
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(held["x"]))
        binding.bind_ortvalue_output("y", y)
        for index, name in enumerate("hc"):
            binding.bind_ortvalue_input(name, before[index])
            binding.bind_ortvalue_output(f"{name}1", after[index])
        return binding

    # What a step writes is what the next one reads.
    turns = cycle([bind(states[0], states[1]), bind(states[1], states[0])])
    layer = torch.nn.LSTM(x.size, H)
    layer.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    given, kept = torch.from_numpy(x).view(1, 1, -1), [None]

    def bound() -> Any:
        session.run_with_iobinding(next(turns), run_options)
        return y

    def torchs() -> torch.Tensor:
        with torch.no_grad():
            shown, kept[0] = layer(given, kept[0])
        return shown

    return {"onnxruntime": plain, "onnxruntime, bound": bound, "torch": torchs}


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096.0


if __name__ == "__main__":
    main()

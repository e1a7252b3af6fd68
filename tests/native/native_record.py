"""Writes cases for tests/cpp/bits.cc, with the bits that the ordinary engine gives for them.

    PYTHONPATH=tests python tests/native/native_record.py FILE

A file is cases one after the other: title, number of arrays, and each array's name, kind, number of dimensions,
dimensions and bytes. Numbers are 64 bits; texts have their length before them.
"""

import struct
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any
from unittest.mock import patch

import numpy as np
import torch
from native_cases import FLUSHES, layer_cases, math_cases, model_cases, narrow_cases
from native_narrow import NARROW, narrow
from native_problem import FUSED, Outcome, Problem
from native_rows import registered
from numpy.typing import NDArray

from gatewise import _native
from gatewise.format import Block, Embedding, ModelFile
from gatewise.reference import Noise
from gatewise.runtime import Model, executor
from gatewise.runtime.layers import WEIGHTS, arguments

FAMILIES = {"fused": FUSED[0], "baseline": "baseline"} if FUSED else {}
"""An instruction set of each family: those that multiply and add in one rounding agree to the bit."""

NARROW_TOLERANCE = 1e-5
"""Times what is compared, or 1: each product of bfloat16 is rounded in the processor's own way."""

KINDS = {"float32": "f", "float64": "d", "int64": "i", "uint8": "u", "bool": "u"}
TRACES = ("i", "f", "o", "g", "h", "c", "n", "m")

Arrays = dict[str, NDArray[Any] | str]


def main(path: Path) -> None:
    if not FAMILIES:
        sys.exit("recording needs a processor with an instruction set that fuses, such as AVX2 with FMA.")
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("wb") as file, registered():
        for title, arrays in cases():
            _write(file, title, arrays)
            count += 1
    print(f"{count} cases in {path}, {path.stat().st_size / 1e6:.0f} MB, recorded on {', '.join(FAMILIES.values())}")


def cases() -> Iterator[tuple[str, Arrays]]:
    for title, problem in layer_cases():
        results = {family: _run(isa, problem) for family, isa in FAMILIES.items()}
        given = _given(problem) | ({"flushes": "yes"} if title.startswith(FLUSHES) else {})
        yield title, given | _prefixed({family: _results(problem, each) for family, each in results.items()})
    for title, problem in narrow_cases() if NARROW else ():
        _native.use_isa(NARROW[0])
        values = {_numbered(problem, name): value.numpy() for name, value in narrow(problem).items()}
        yield title, _given(problem) | {"narrow": repr(NARROW_TOLERANCE)} | _prefixed({"narrow": values})
    for title, model, call, halved in model_cases():
        results = {family: _run_model(isa, model, call, halved) for family, isa in FAMILIES.items()}
        yield title, _blocks(model, halved) | _call(model, call) | _prefixed(results)
    for title, x in math_cases():
        results = {family: _run_math(isa, x) for family, isa in FAMILIES.items()}
        given: Arrays = {"x": x}
        yield title, given | _prefixed(results)


def _prefixed(results: Mapping[str, Mapping[str, NDArray[Any]]]) -> Arrays:
    return {f"{family}/{name}": array for family, arrays in results.items() for name, array in arrays.items()}


def _run(isa: str, problem: Problem) -> Outcome:
    _native.use_isa(isa)
    return problem.run(dtype=problem.x.dtype)


def _given(problem: Problem) -> Arrays:
    """A layer's call. States, weights and traces go by the numbers that the core has for them."""
    variant, (_, _, inputs) = problem.variant, problem.x.shape
    hidden = problem.directions[0].weights.weight_ih.shape[0] // len(variant.cell.learned)
    bias = problem.directions[0].weights.bias_ih is not None
    found: Arrays = {
        "layer": layer_words(arguments(variant.text, inputs, hidden, bias)),
        "directions": "".join("b" if direction.reverse else "f" for direction in problem.directions),
        "x": problem.x.numpy(),
    }
    if problem.lengths is not None:
        found["lengths"] = problem.lengths.numpy()
    if problem.reset is not None:
        found["reset"] = problem.reset.numpy()
    found |= {_numbered(problem, name): leaf.numpy() for name, leaf in problem.leaves().items()}
    for n, direction in enumerate(problem.directions):
        noise = zip(Noise._fields, direction.noise, strict=True)
        found |= {f"{n}.noise.{name}": mask.numpy() for name, mask in noise if mask is not None}
    return found | {
        f"cotangent {_numbered(problem, name)}": v.to(problem.x.dtype).numpy() for name, v in problem.cotangents.items()
    }


def _results(problem: Problem, outcome: Outcome) -> dict[str, NDArray[Any]]:
    values = {_numbered(problem, name): value.numpy() for name, value in outcome.values.items()}
    return values | {f"d {_numbered(problem, name)}": value.numpy() for name, value in outcome.gradients.items()}


def _numbered(problem: Problem, name: str) -> str:
    direction, _, rest = name.partition(".")
    kind, _, last = rest.partition(".")
    if kind in {"state", "start"}:
        return f"{direction}.{kind}.{problem.variant.cell.states.index(last)}"
    if kind == "trace":
        return f"{direction}.trace.{TRACES.index(last)}"
    return f"{direction}.weight.{WEIGHTS.index(kind)}" if kind else name


def layer_words(told: tuple[Any, ...]) -> str:
    """What the core is told of a layer, in the order in which layer_case.cc reads it."""
    inputs, hidden, update, gates, output, seen, bias, layer_norm, clip, projected, beside = told
    numbers = [inputs, hidden, projected, beside, int(bias), int(layer_norm), "none" if clip is None else repr(clip)]
    words = [*numbers, update, output, len(seen), *seen, len(gates), *(word for gate in gates for word in gate)]
    return " ".join(map(str, words))


class _Told:
    """Stands in for the core's model and writes down what it is told, in the order in which model_case.cc reads it."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def _add(self, weights: int, *words: object) -> None:
        self.lines.append(" ".join(str(int(w) if isinstance(w, bool) else w) for w in (*words, weights)))

    def add_recurrent(  # noqa: PLR0917 - as it is called
        self, layers: list[Any], directions: int, residual: bool, learned: bool, halved: bool, kinds: list[int]
    ) -> None:
        words = [layer_words(arguments(*told)) for told in layers]
        states = {"recurrent": 1, "additive": 2, "exponential": 4}
        count = sum(states[arguments(*told)[2]] + len(arguments(*told)[5]) for told in layers) if learned else 0
        sizes = (directions, residual, learned, halved, len(kinds), *kinds, len(layers), *words)
        self._add(len(layers) * len(kinds) + count, "recurrent", *sizes)

    def add_embedding(self, *sizes: int) -> None:
        self._add(1, "embedding", *sizes)

    def add_linear(self, *sizes: int) -> None:
        self._add(2, "linear", *sizes)

    def add_layer_norm(self, width: int, eps: float) -> None:
        self._add(2, "layer_norm", width, eps)

    def add_convolution(self, *sizes: int) -> None:
        self._add(2, "convolution", *sizes)

    def add_scaling(self, width: int, inverse: bool) -> None:
        self._add(2, "scaling", width, inverse)

    def add_mixture(self, *sizes: int) -> None:
        self._add(0, "mixture", *sizes)


def _blocks(model: ModelFile, halved: bool) -> Arrays:
    told = _Told()
    stand = SimpleNamespace(Model=lambda: told)
    with patch.multiple(executor, _native=stand, described=lambda *words: words):
        executor.executor(model.architecture, halved=halved)
    found: Arrays = {"blocks": " ".join([str(len(told.lines)), *told.lines])}
    names = [name for name, _ in executor._weights(tuple(model.architecture))]
    return found | {f"weight.{i}": model.weights[name] for i, name in enumerate(names) if name is not None}


def _call(model: ModelFile, call: Mapping[str, NDArray[Any]]) -> Arrays:
    """The arguments of ``Model.run``, time before rows."""
    first: Block = model.architecture[0]
    names = {"x": "tokens"} if isinstance(first, Embedding) else {}
    return {names.get(name, name): v if name == "lengths" else v.swapaxes(0, 1) for name, v in call.items()}


def _run_model(isa: str, file: ModelFile, call: dict[str, Any], halved: bool) -> dict[str, NDArray[Any]]:
    _native.use_isa(isa)
    model = Model(file, "ab" * 32, weights="bf16" if halved else "f32", threads=1)
    found = {"y": model.run(**call).swapaxes(0, 1)}
    if set(call) == {"x"} and model._model.whole_only is None:
        stream = model.stream()
        found["stream"] = np.stack([stream.step(np.array(step).reshape(-1)) for step in call["x"][0]])
    return found


def _run_math(isa: str, x: NDArray[Any]) -> dict[str, NDArray[Any]]:
    math = _native.math if x.dtype == np.float32 else _native.math_double
    found = {name: np.full_like(x, np.nan) for name in ("exp", "sigmoid", "tanh")}
    for name, y in found.items():
        math(name, x.ctypes.data, y.ctypes.data, x.size, isa)
    return found


def _write(file: IO[bytes], title: str, arrays: Arrays) -> None:
    file.write(_text(title) + struct.pack("<Q", len(arrays)))
    for name, value in arrays.items():
        if isinstance(value, str):
            kind, shape, content = "t", (len(value.encode()),), value.encode()
        else:
            kind, shape = KINDS[value.dtype.name], value.shape
            content = np.ascontiguousarray(value).tobytes()
        sizes = struct.pack(f"<{2 + len(shape)}Q", ord(kind), len(shape), *shape)
        file.write(_text(name) + sizes + content)


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))

"""A saved model on whole sequences: lengths, resets, corners, arrays of any kind, threads, processes, no torch."""

import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_problem import Array, alone, build, draw, one, same_bits

from architectures import with_weights
from gatewise import _native, runtime
from gatewise.errors import InputError
from gatewise.format import Block, Conv1d, Embedding, LayerNorm, Linear, Lstm, QuantileMix, Scaling, save_model

EXAMPLES = sorted((Path(__file__).parents[1] / "format" / "examples").glob("*.safetensors"))
STEPS: tuple[Block, ...] = (Conv1d(3, 4, 3, dilation=2), Lstm(4, 5, 3, residual=True, learned_state=True), Linear(5, 2))
WHOLE: tuple[Block, ...] = (Conv1d(3, 4, 4, dilation=2, causal=False), Lstm(4, 3, 2, bidirectional=True))
TOKENS: tuple[Block, ...] = (Embedding(7, 3), Lstm(3, 5, cell="peephole"))
T = 11


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_gives_what_it_gave(path: Path) -> None:
    golden = np.load(path.with_suffix(".npz"))
    y = runtime.load(path, threads=1).run(golden["x"], candidates=golden.get("candidates"))
    assert y.shape == golden["y"].shape
    assert np.abs(y - golden["y"]).max() <= 1e-6 * max(1, np.abs(golden["y"]).max())


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.sampled_from([STEPS, WHOLE, TOKENS]), st.lists(st.integers(0, T), min_size=1, max_size=9))
def test_lengths_are_rows_of_their_own(blocks: tuple[Block, ...], lengths: list[int]) -> None:
    model, x = build(*blocks), draw(blocks, len(lengths), T)
    y = model.run(x, lengths=lengths)
    for row, length in enumerate(lengths):
        assert same_bits(y[row, :length], model.run(x[row, :length]))
        assert not y[row, length:].any()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.sampled_from([STEPS, WHOLE, TOKENS]), st.data())
def test_resets_are_sequences_of_their_own(blocks: tuple[Block, ...], data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(0, T), min_size=1, max_size=5))
    reset = np.array([data.draw(st.lists(st.booleans(), min_size=T, max_size=T)) for _ in lengths])
    model, x = build(*blocks), draw(blocks, len(lengths), T)
    y = model.run(x, lengths=lengths, reset=reset)
    for row, length in enumerate(lengths):
        cuts = [0, *(t for t in range(1, length) if reset[row, t]), length]
        for begin, end in pairwise(cuts):
            assert same_bits(y[row, begin:end], model.run(x[row, begin:end]))
        assert not y[row, length:].any()
        if blocks is not WHOLE:
            stream = model.stream()
            for t in range(length):
                if reset[row, t]:
                    stream.reset()
                assert same_bits(stream.step(one(x[row, t])), y[row, t])


def test_lengths_through_a_convolution_with_strides() -> None:
    blocks = (Conv1d(3, 4, 3, stride=3), Lstm(4, 5))
    model, x = build(*blocks), draw(blocks, 5, T)
    y = model.run(x, lengths=[11, 0, 1, 7, 3])
    for row, (length, left) in enumerate([(11, 4), (0, 0), (1, 1), (7, 3), (3, 1)]):
        assert same_bits(y[row, :left], model.run(x[row, :length]))
        assert not y[row, left:].any()


@pytest.mark.parametrize("blocks", [STEPS, WHOLE, TOKENS, (Scaling(3), LayerNorm(3), Linear(3, 2))])
def test_no_rows_no_steps_one_step(blocks: tuple[Block, ...]) -> None:
    model, width = build(*blocks), blocks[-1].output_size
    for rows, steps in ((0, 3), (3, 0), (0, 0), (2, 1), (1, 1)):
        x = draw(blocks, rows, steps)
        y = model.run(x, lengths=[steps] * rows, reset=np.ones((rows, steps), bool))
        assert y.shape == (rows, steps, width)
        assert same_bits(y, model.run(x))
    assert model.run(draw(blocks, 0)).shape == (0, width)


def test_a_single_sequence_is_a_batch_of_one() -> None:
    model, x, reset = build(*STEPS), draw(STEPS, T), np.arange(T) % 4 == 0
    assert same_bits(model.run(x, lengths=[7], reset=reset), model.run(x[None], lengths=[7], reset=reset[None])[0])
    blocks = (Linear(3, 4), QuantileMix(2, 2))
    mixture, candidates = build(*blocks), draw(blocks, T)[:5, :2]
    assert same_bits(mixture.run(x, candidates=candidates), mixture.run(x[None], candidates=candidates[None])[0])


@pytest.mark.parametrize("blocks", [STEPS, WHOLE, (Linear(3, 33), LayerNorm(33), Lstm(33, 9, cell="slstm"))])
def test_a_row_is_the_same_alone_and_among_300(blocks: tuple[Block, ...]) -> None:
    model, x = build(*blocks), draw(blocks, 300, 5)
    y = model.run(x)
    for row in (0, 7, 8, 150, 299):
        assert same_bits(model.run(x[row : row + 1]), y[row : row + 1])
    order = np.random.default_rng(3).permutation(300)
    assert same_bits(model.run(x[order]), y[order])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_row_stays_alone(bad: float) -> None:
    for blocks in (STEPS, WHOLE, (Scaling(3), LayerNorm(3), Linear(3, 20))):
        model, x = build(*blocks), draw(blocks, 17, 5)
        y = model.run(x)
        x[8, 1, 2] = bad
        changed = model.run(x)
        others = np.arange(17) != 8
        assert same_bits(changed[others], y[others])
        if np.isnan(bad):
            assert np.isnan(changed[8]).any()
        if blocks is STEPS:
            assert same_bits(alone(model, x[8:9]), changed[8:9])


@pytest.mark.parametrize("value", [1e30, -1e30, 1e-42, -1e-45])
def test_huge_and_tiny_inputs_give_numbers(value: float) -> None:
    for blocks in ((Lstm(3, 5, 2), Linear(5, 2)), (Lstm(3, 4, cell="slstm"),), TOKENS[1:], (Scaling(3), Lstm(3, 2))):
        x = np.full((2, 4, 3), value, np.float32)
        assert np.isfinite(build(*blocks).run(x)).all()


WIDE: list[tuple[Block, ...]] = [
    (Linear(64, 96), Conv1d(96, 40, 3), Lstm(40, 48, 2), LayerNorm(48)),
    (Conv1d(64, 40, 4, causal=False), Lstm(40, 48, bidirectional=True, learned_state=True)),
]


@pytest.mark.parametrize("blocks", WIDE)
def test_the_number_of_threads_changes_no_bit(blocks: tuple[Block, ...]) -> None:
    x, lengths = draw(blocks, 61, 12), [12, *range(12)] * 4 + [5] * 9
    expected = build(*blocks).run(x, lengths=lengths)
    for threads in (2, 3, 7):
        model = build(*blocks, threads=threads)
        assert same_bits(model.run(x, lengths=lengths), expected)
        if blocks is WIDE[0]:
            pool = model.streams(61)
            slots = [pool.open() for _ in range(61)]
            whole = build(*blocks).run(x)
            for t in (0, 1):
                assert same_bits(pool.step(slots, x[:, t]), whole[:, t])


@pytest.mark.parametrize("blocks", [(Lstm(40, 96, 2),), (Lstm(33, 180, cell="peephole", bidirectional=True),)])
def test_threads_that_share_a_few_rows_change_no_bit(blocks: tuple[Block, ...]) -> None:
    for rows, lengths in ((1, [40]), (5, [40, 0, 33, 7, 40])):
        x = draw(blocks, rows, 40)
        expected = build(*blocks).run(x, lengths=lengths)
        for threads in (2, 3):
            assert same_bits(build(*blocks, threads=threads).run(x, lengths=lengths), expected)


def _misaligned(x: Array) -> Array:
    raw = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    raw[...] = x
    return raw


def _read_only(x: Array) -> Array:
    x = x.copy()
    x.flags.writeable = False
    return x


SAME: dict[str, Callable[[Array], Any]] = {
    "read-only": _read_only,
    "strided": lambda x: np.repeat(x, 2, 1)[:, ::2],
    "reversed": lambda x: x[:, ::-1].copy()[:, ::-1],
    "Fortran order": np.asfortranarray,
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "misaligned": _misaligned,
    "wider": lambda x: x.astype(np.float64 if x.dtype.kind == "f" else np.uint64),
    "whole numbers": lambda x: x.astype(np.int16),
    "a list": lambda x: x.tolist(),
}


@pytest.mark.parametrize("change", SAME)
@pytest.mark.parametrize(("rows", "steps"), [(3, 4), (1, 4), (3, 1)])
def test_any_array_is_as_good_as_its_clean_copy(change: str, rows: int, steps: int) -> None:
    for blocks in (STEPS, TOKENS):
        model, other = build(*blocks), SAME[change](draw(blocks, rows, steps))
        clean = np.array(other, draw(blocks, 1, 1).dtype)
        lengths, reset = np.arange(rows) % steps, np.arange(rows * steps).reshape(rows, steps) % 3 == 1
        expected = model.run(clean, lengths=lengths, reset=reset)
        given = np.repeat(lengths.astype(">i2"), 2)[::2], np.repeat(reset, 2, 1)[:, ::2]
        assert same_bits(model.run(other, lengths=given[0], reset=given[1]), expected)


ZEROS = np.zeros((2, 4, 3))
MIX: tuple[Block, ...] = (Linear(3, 4), QuantileMix(2, 2))
BAD: list[tuple[tuple[Block, ...], dict[str, Any], str]] = [
    (STEPS, {"x": np.zeros(3)}, r"x must have the dimensions \[B, T, D\] or \[T, D\], got \[3\]"),
    (STEPS, {"x": np.zeros((1, 2, 3, 4))}, "x must have the dimensions"),
    (STEPS, {"x": np.zeros((2, 4, 5))}, r"x must have 3 features, got 5 \(\[2, 4, 5\]\)"),
    (STEPS, {"x": ZEROS.astype(complex)}, "x must be real numbers, got complex128"),
    (STEPS, {"x": [[["a", "b", "c"]]]}, "x must be real numbers"),
    (STEPS, {"x": [[1.0, 2.0, 3.0], [1.0]]}, "x is no array"),
    (STEPS, {"x": None}, "x must have the dimensions"),
    (TOKENS, {"x": np.zeros((2, 4))}, "x must be whole numbers, got float64"),
    (TOKENS, {"x": np.zeros((2, 4), bool)}, "x must be whole numbers, got bool"),
    (TOKENS, {"x": np.zeros((2, 4, 3), int)}, r"x must have the dimensions \[B, T\] or \[T\]"),
    (TOKENS, {"x": [[0, 7]]}, "x must be from 0 to 6, got 0 to 7"),
    (TOKENS, {"x": [[-1, 6]]}, "x must be from 0 to 6, got -1 to 6"),
    (TOKENS, {"x": np.array([[2**63]], np.uint64)}, "x must be from 0 to 6"),
    (STEPS, {"x": ZEROS, "lengths": [4]}, "lengths must be 2 whole numbers"),
    (STEPS, {"x": ZEROS, "lengths": [[4, 4]]}, "lengths must be 2 whole numbers"),
    (STEPS, {"x": ZEROS, "lengths": [4.0, 1.0]}, "lengths must be whole numbers, got float64"),
    (STEPS, {"x": ZEROS, "lengths": [True, False]}, "lengths must be whole numbers, got bool"),
    (STEPS, {"x": ZEROS, "lengths": [4, 5]}, r"lengths must be from 0 to T, 4; lengths\[1\] is 5"),
    (STEPS, {"x": ZEROS, "lengths": [-1, 4]}, r"lengths must be from 0 to T, 4; lengths\[0\] is -1"),
    (STEPS, {"x": ZEROS, "lengths": np.array([2**64 - 1, 0], np.uint64)}, r"lengths must be from 0 to T"),
    (STEPS, {"x": ZEROS, "reset": np.zeros((2, 4))}, r"reset must be bool \[2, 4\], got float64 \[2, 4\]"),
    (STEPS, {"x": ZEROS, "reset": np.zeros((4, 2), bool)}, r"reset must be bool \[2, 4\], got bool \[4, 2\]"),
    (STEPS, {"x": ZEROS, "candidates": ZEROS}, "the model has no mixture: candidates are for those with"),
    ((Conv1d(3, 2, 2, 2),), {"x": ZEROS, "reset": np.zeros((2, 4), bool)}, "reset cannot go with a convolution that"),
    (MIX, {"x": ZEROS}, "the model mixes candidates: give them"),
    (MIX, {"x": ZEROS, "candidates": np.zeros((2, 5, 2))}, r"candidates must be \[2, T′, 2\] with T′ at most 4"),
    (MIX, {"x": ZEROS, "candidates": np.zeros((2, 4, 3))}, "candidates must be"),
    (MIX, {"x": ZEROS, "candidates": np.zeros((1, 4, 2))}, "candidates must be"),
    (MIX, {"x": ZEROS, "candidates": np.zeros(2)}, "candidates must be"),
    (MIX, {"x": ZEROS, "candidates": [["a"]]}, "candidates must be"),
    (MIX, {"x": ZEROS, "candidates": np.zeros((2, 4, 2)), "lengths": [1, 2]}, "lengths cannot go with a quantile"),
]


@pytest.mark.parametrize(("blocks", "arguments", "says"), BAD)
def test_a_wrong_argument_is_named(blocks: tuple[Block, ...], arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        build(*blocks).run(**arguments)


@pytest.mark.parametrize("threads", [0, -1, True, 1.5, "2", 2**70])
def test_a_number_of_threads_out_of_range_is_refused(threads: Any) -> None:
    with pytest.raises(InputError, match="threads must be a whole number from 1 to"):
        build(*STEPS, threads=threads)


def test_what_the_file_says_stands_on_the_model(tmp_path: Path) -> None:
    save_model(with_weights(TOKENS, task="tag"), tmp_path / "model.safetensors")
    for path in (tmp_path, tmp_path / "model.safetensors", str(tmp_path)):
        model = runtime.load(path)
        assert (model.task, model.architecture, model.vocabulary, dict(model.settings)) == ("tag", TOKENS, (), {})
        assert model.threads >= 1
    with pytest.raises(InputError, match="does not exist"):
        runtime.load(tmp_path / "missing")


def test_too_much_is_a_memory_error() -> None:
    """Many a row of few numbers: only what comes out would be large."""
    model = build(Linear(1, 1 << 16))
    with pytest.raises(MemoryError):
        model.run(np.broadcast_to(np.float32(0), (1 << 20, 1 << 20, 1)))


EXHAUST = """
import resource, sys
import numpy as np
from gatewise import runtime
model = runtime.load(sys.argv[1], threads=1)
pool, x = model.streams(2), np.ones((1 << 13, 1, 1))
slot = pool.open()
before, few = pool.snapshot(slot), model.run(x[:2])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (48 << 20), resource.RLIM_INFINITY))
for call in (lambda: model.run(x), lambda: model.streams(1 << 28)):
    try:
        call()
    except MemoryError:
        print("MemoryError", (model.run(x[:2]) == few).all(), pool.snapshot(slot) == before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_too_little_memory_between_blocks_is_an_error_too(tmp_path: Path) -> None:
    """What passes from the first block to the second takes 128 MiB."""
    save_model(with_weights((Linear(1, 4096), Linear(4096, 1), Lstm(1, 2))), tmp_path / "m")
    assert _python(EXHAUST, tmp_path / "m").splitlines() == ["MemoryError True True"] * 2


ISA = """
import sys
import numpy as np
from gatewise import runtime
model = runtime.load(sys.argv[1], threads=1)
x = np.random.default_rng(5).normal(size=(9, 6, 3)).astype(np.float32)
stream, pool = model.stream(), model.streams(9)
slots = [pool.open() for _ in x]
y = model.run(x)
print(model._model.isa, y.tobytes().hex(), np.stack([stream.step(t) for t in x[4]]).tobytes() == y[4].tobytes(),
      pool.step(slots, x[:, 0].copy()).tobytes() == y[:, 0].tobytes())
"""


def _python(code: str, *arguments: object, **env: str) -> str:
    """What a process of its own prints."""
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    run = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@pytest.mark.skipif("avx2" not in _native.available_isas(), reason="this CPU or build has no AVX2")
def test_instruction_sets_agree_to_the_bit(tmp_path: Path) -> None:
    others = [isa for isa in _native.available_isas() if isa not in {"avx2", "baseline"}]
    if not others:
        pytest.skip("no other instruction set that rounds a product and a sum at once (build with GATEWISE_WIDE)")
    blocks = (Conv1d(3, 7, 2), Lstm(7, 21, 2, layer_norm=True), LayerNorm(21), Lstm(21, 5, cell="slstm"), Linear(5, 3))
    save_model(with_weights(blocks), tmp_path / "m")
    said = {isa: _python(ISA, tmp_path / "m", GATEWISE_ISA=isa).split() for isa in ("avx2", *others)}
    for isa, words in said.items():
        assert words == [isa, said["avx2"][1], "True", "True"]


WITHOUT = """
import sys
for name in ("torch", "polars", "narwhals", "pandas"):
    sys.modules[name] = None
import numpy as np
from gatewise import runtime
model = runtime.load(sys.argv[1])
y = model.run(np.ones((2, 5, 3)))
stream, pool = model.stream(), model.streams(2)
steps = np.stack([stream.step(np.ones(3, np.float32)) for _ in range(5)])
print((steps == y[0]).all(), (pool.step([pool.open()], np.ones((1, 3)))[0] == y[0, 0]).all())
"""


def test_neither_torch_nor_a_table_library_is_needed(tmp_path: Path) -> None:
    save_model(with_weights(STEPS), tmp_path / "m")
    assert _python(WITHOUT, tmp_path / "m") == "True True"
    code = "import sys, gatewise.runtime; print({'torch', 'polars', 'pandas', 'narwhals'} & set(sys.modules))"
    assert _python(code) == "set()"


FORK = """
import os, sys
import numpy as np
from gatewise import runtime
model = runtime.load(sys.argv[1], threads=2)
x = np.random.default_rng(0).normal(size=(64, 20, 24)).astype(np.float32)
y = model.run(x)
stream, pool = model.stream(), model.streams(64)
slots = [pool.open() for _ in x]
pool.step(slots, x[:, 0].copy())
stream.step(x[0, 0])
child = os.fork()
same = [(model.run(x) == y).all(), (stream.step(x[0, 1]) == y[0, 1]).all(),
        (pool.step(slots, x[:, 1].copy()) == y[:, 1]).all(), (runtime.load(sys.argv[1]).run(x) == y).all()]
if not child:
    os._exit(0 if all(same) else 3)
print(all(same), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_goes_on_in_parent_and_child(tmp_path: Path) -> None:
    save_model(with_weights((Lstm(24, 48), Linear(48, 4))), tmp_path / "m")
    assert _python(FORK, tmp_path / "m", OMP_NUM_THREADS="2").endswith("True 0")

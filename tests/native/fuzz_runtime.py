"""Random models of the runtime: whole, as a stream, in a pool, cut and carried on; and calls that it must refuse."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from fuzz_drawing import Draw, Moved, compare
from native_problem import ISAS, Tensors
from numpy.typing import NDArray

from gatewise import _native
from gatewise.errors import InputError
from gatewise.format import Block, Conv1d, Embedding, LayerNorm, Linear, Lstm, ModelFile, QuantileMix, Scaling
from gatewise.models.network import from_file
from gatewise.nn import LSTM
from gatewise.runtime import Model, Pool
from gatewise.runtime.executor import mixtures
from gatewise.spec import BUILT_IN, CELLS

Array = NDArray[Any]
IDENTITY = "5a" * 32


def run_runtime(case: Draw) -> None:
    blocks = drawn_blocks(case)
    file = ModelFile("demo", blocks, drawn_weights(case, blocks))
    mixes = isinstance(blocks[-1], QuantileMix)
    threads, kept = case.choice([1, 1, 2, 3]), "f32" if mixes else case.choice(["f32", "f32", "bf16"])
    B, T = case.choice([0, 1, case.size(24)]), case.choice([0, 1, case.randint(1, 14)])
    lengths, reset = case.lengths(B, T), case.reset(B, T)
    case.note(blocks=blocks, threads=threads, weights=kept, B=B, T=T, lengths=lengths)
    case.note(isa=case.choice(ISAS), reset=None if reset is None else int(reset.sum()))
    x = drawn_inputs(case, blocks, B, T)
    strides = any(isinstance(block, Conv1d) and block.stride > 1 for block in blocks)
    cut = None if reset is None or strides or mixes else reset.numpy()
    ends = None if mixes else lengths
    former = _native.isa()
    _native.use_isa(case.noted["isa"])
    try:
        model = Model(file, IDENTITY, weights=kept, threads=threads)
        if isinstance(blocks[-1], QuantileMix):
            ahead = case.randint(0, mixtures(blocks, T, 0)[0][0])
            candidates = case.uniform_tensor(B, ahead, blocks[-1].candidates).numpy()
            refuse(case, model, x)
            whole(case, file, model, x, candidates)
            return
        y = model.run(laid_out(case, x), lengths=ends, reset=cut)
        refuse(case, model, x)
        check_pieces(model, x, ends, cut, y)
        if not model._model.whole_only and not any(isinstance(block, QuantileMix) for block in blocks):
            check_steps(case, model, x, y, ends=ends, reset=cut)
        if kept == "f32":
            whole(case, file, model, x, None)
    finally:
        _native.use_isa(former)


def drawn_blocks(case: Draw) -> tuple[Block, ...]:
    blocks: list[Block] = [Embedding(case.size(20), case.size(20))] if case.flag(0.2) else []
    for _ in range(case.randint(0 if blocks else 1, 3)):
        width = blocks[-1].output_size if blocks else case.size(24)
        kind = case.choice(["lstm", "lstm", "lstm", "linear", "norm", "convolution", "scaling"])
        if kind == "lstm":
            blocks.append(drawn_lstm(case, width))
        elif kind == "linear":
            blocks.append(Linear(width, case.size(40), case.flag()))
        elif kind == "norm":
            blocks.append(LayerNorm(width))
        elif kind == "scaling":
            blocks.append(Scaling(width, case.flag()))
        else:
            spans = case.randint(1, 4), case.choice([1, 1, 2, 3]), case.randint(1, 3)
            blocks.append(Conv1d(width, case.size(20), *spans, case.flag(0.7)))
    if case.flag(0.05):
        quantiles, candidates = case.size(5), case.size(5)
        blocks += [Linear(blocks[-1].output_size, quantiles + candidates), QuantileMix(candidates, quantiles)]
    return tuple(blocks)


def drawn_lstm(case: Draw, width: int) -> Lstm:
    name, hidden = case.choice(["lstm", *BUILT_IN]), case.size(40)
    able = CELLS[name].options
    options: dict[str, Any] = {"bias": case.flag(0.8), "bidirectional": case.flag(0.2), "residual": case.flag(0.2)}
    for option in sorted({"peephole", "layer_norm", "learned_state"} & able):
        options[option] = case.flag(0.2)
    if "clip" in able and case.flag(0.2):
        options["clip"] = case.choice([0.1, 2.0])
    if "projection" in able and hidden > 1 and case.flag(0.2):
        options |= {"proj_size": case.randint(1, hidden - 1), "nonrecurrent_proj_size": case.choice([0, case.size(9)])}
    return Lstm(width, hidden, case.randint(1, 3), cell=name, **options)


def drawn_weights(case: Draw, blocks: Sequence[Block]) -> dict[str, Array]:
    weights: dict[str, Array] = {}
    for name, shape in ModelFile("demo", tuple(blocks), {}).shapes().items():
        fan = shape[-1] if len(shape) > 1 else 1
        values = case.uniform_tensor(*shape) * fan**-0.5
        positive = name.endswith("std") or ".n_0" in name
        weights[name] = (values.abs() + 0.5 if positive else values).numpy()
    return weights


def drawn_inputs(case: Draw, blocks: Sequence[Block], *shape: int) -> Array:
    first = blocks[0]
    if isinstance(first, Embedding):
        return torch.randint(first.num_embeddings, shape, generator=case.generator).numpy()
    return case.uniform_tensor(*shape, first.input_size or 0).numpy()


def laid_out(case: Draw, x: Array) -> Array:
    """The same values, anyhow in memory."""
    return case.layout(torch.from_numpy(x)).numpy() if x.dtype == np.float32 else np.asfortranarray(x)


def pieces(steps: int, length: int, cuts: Array | None) -> list[tuple[int, int]]:
    inside = [] if cuts is None else [t for t in range(1, length) if cuts[t]]
    return list(pairwise([0, *inside, length])) if length else []


def check_pieces(model: Model, x: Array, ends: list[int] | None, reset: Array | None, y: Array) -> None:
    """Each piece between restarts has the bits of a sequence of its own, and padding is zero."""
    if ends is None and reset is None:
        ends = [x.shape[1]] * x.shape[0]
    for row in range(x.shape[0]):
        length = x.shape[1] if ends is None else ends[row]
        at = 0
        for begin, end in pieces(x.shape[1], length, None if reset is None else reset[row]):
            alone = model.run(x[row, begin:end])
            assert same(alone, y[row, at : at + len(alone)]), f"row {row}, from {begin} to {end}"
            at += len(alone)
        assert not y[row, at:].any(), f"padding of row {row}"


def check_steps(case: Draw, model: Model, x: Array, y: Array, *, ends: list[int] | None, reset: Array | None) -> None:
    """A stream, and all rows in a pool among others, give the same bits, also when carried on elsewhere."""
    B, T = x.shape[:2]
    lengths = [T] * B if ends is None else ends
    pool = model.streams(max(B + 2, 1))
    slots = [pool.open() for _ in range(B)]
    stranger = pool.open()
    case.shuffle(slots)
    stream = model.stream()
    for t in range(T):
        going = [row for row in range(B) if t < lengths[row]]
        for row in going:
            if reset is not None and reset[row, t]:
                pool.close(slots[row])
                slots[row] = pool.open()
            elif case.flag(0.05):
                saved = pool.snapshot(slots[row])
                pool.close(slots[row])
                slots[row] = pool.open(saved)
        case.shuffle(going)
        if not going:
            continue
        refused(pool, [slots[going[0]]] * 2, x[[going[0]] * 2, t])
        company = [stranger] if case.flag(0.3) else []
        given = np.concatenate([x[going, t], x[going[: len(company)], t]])
        found = pool.step([*(slots[row] for row in going), *company], given)[: len(going)]
        assert same(found, y[going, t]), f"the pool at step {t}"
    for row in range(min(B, 2)):
        stream.reset()
        for begin, end in pieces(T, lengths[row], None if reset is None else reset[row]):
            stream.reset()
            middle = case.randint(begin, end)
            first = stream.steps(x[row, begin:middle])
            other = model.stream()
            other.state = stream.state
            each = [other.step(np.array(x[row, t]).reshape(-1)) for t in range(middle, end)]
            assert same(np.concatenate([first, np.array(each, np.float32).reshape(-1, y.shape[2])]), y[row, begin:end])


def refused(pool: Pool, slots: list[int], x: Array) -> None:
    try:
        pool.step(slots, x)
    except InputError:
        return
    raise AssertionError("a slot that comes twice was taken.")


def refuse(case: Draw, model: Model, x: Array) -> None:
    """A call that does not fit is refused by name."""
    B, T = x.shape[:2]
    wrong: list[dict[str, Any]] = [
        {"x": x[..., None]},
        {"x": x, "lengths": [T + 1] * (B + 1)},
        {"x": x, "reset": np.zeros((B, T + 1), bool)},
        {"x": x, "lengths": np.full((B, 1), 0)},
    ]
    if x.size:
        wrong += [{"x": x.astype(str)}]
    if B:
        wrong += [{"x": x, "lengths": [-1] * B}, {"x": x, "lengths": [T + 1] * B}]
    chosen = case.choice(wrong)
    try:
        model.run(**chosen)
    except InputError:
        return
    raise AssertionError(f"{ {name: np.shape(value) for name, value in chosen.items()} } was taken.")


def whole(case: Draw, file: ModelFile, model: Model, x: Array, candidates: Array | None) -> None:
    """All rows at full length beside the network of plain torch."""
    ours = model.run(x, candidates=candidates)
    case.note(output=ours.shape)
    multiplied = any(
        isinstance(block, LayerNorm) or (isinstance(block, Lstm) and (block.layer_norm or block.cell == "slstm"))
        for block in file.architecture
    )

    def reference(dtype: torch.dtype, seed: int) -> Tensors:
        move = Moved(seed)
        network, given = from_file(file), torch.from_numpy(np.ascontiguousarray(x))
        if seed:
            for tensor in (*network.parameters(), *network.buffers()):
                tensor.data = move(tensor.data)
            given = move(given) if given.is_floating_point() else given
        network = network.to(dtype)
        for module in network.modules():
            if isinstance(module, LSTM):
                module.backend = "reference"
        given = given.to(dtype) if given.is_floating_point() else given
        mixed = None if candidates is None else torch.from_numpy(candidates).to(dtype)
        # With a gradient, so that the blocks are torch's own.
        return {"y": network(given, mixed).detach()}

    compare({"y": torch.from_numpy(ours)}, reference, 3 if multiplied else 2)


def same(a: Array, b: Array) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()

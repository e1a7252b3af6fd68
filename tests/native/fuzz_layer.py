"""Random calls of the functional door, forward and backward."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from fuzz_drawing import HALVES, Draw, FarGradientError, Moved, check_edges, compare, engine, same_bits
from native_problem import Problem, Tensors, draw, factor_of
from native_rows import EVERY, SEEING, name_of, row_of
from torch import Tensor

from gatewise import _native


class Wanted(NamedTuple):
    """The leaves that require a gradient, and the results that the loss sees."""

    leaves: Sequence[str]
    results: Sequence[str]
    trace: bool


def run_layer(case: Draw) -> None:
    problem, dtype = drawn_problem(case)
    wanted = drawn_wanted(case, problem)
    save = case.choice(["all", "states"])
    case.note(save=save)
    with engine(case):
        laid = laid_out(case, problem, dtype)
        ours = outcome(laid, wanted, dtype=dtype, spoil=case.flag(), again=case.flag(), save=save)
        torch.set_num_threads(case.choice([1, 2]))
        other = "states" if save == "all" else "all"
        same_bits("layout, threads and save", outcome(problem, wanted, dtype=dtype, save=other), ours)
        y = ours["y"]
        if dtype is torch.bfloat16 and _native.multiplies_bfloat16():
            # The processor's products, which a call with a gradient does not take.
            y = problem.to(dtype).forward()["y"]
        write_to(case, laid, y)
    hold(problem, wanted, ours, dtype)


def hold(problem: Problem, wanted: Wanted, ours: Tensors, dtype: torch.dtype) -> None:
    """Hold the results of a call, or some of them, to the reference."""

    def reference(dtype: torch.dtype, seed: int) -> Tensors:
        move = Moved(seed)
        given = problem.map(lambda name, tensor: tensor if "noise" in name else move(tensor)) if seed else problem
        found = outcome(given, wanted, "reference", dtype)
        return {name: found[name] for name in ours}

    try:
        compare(ours, reference, factor_of(problem.variant), dtype)
    except FarGradientError:
        exact = problem.to(torch.float64).forward("reference", trace=True)
        # In half the width the engine computes in float32, and numbers that were rounded are at an edge by chance.
        near = problem.to(torch.float32 if dtype in HALVES else dtype).forward("native", trace=True)
        check_edges(near, exact, problem.variant)
        raise


def drawn_problem(case: Draw) -> tuple[Problem, torch.dtype]:
    """A call in float32, of numbers that the dtype has in which it is to be made."""
    cell = case.choice([*EVERY, *EVERY, *SEEING])
    large = case.flag(0.04)
    T = case.choice([case.randint(0, 9), case.randint(0, 30), case.randint(0, 70)])
    B = case.choice([case.randint(0, 3), case.size(40)])
    D, H = case.size(40), case.size(72)
    if large:
        # Enough work for a team, and for several chunks and windows.
        T, B, H = case.randint(20, 60), case.randint(17, 64), case.randint(32, 72)
    able = row_of(cell).options
    options: dict[str, Any] = {"bias": case.flag(0.8)}
    for option in sorted({"peephole", "layer_norm"} & able):
        options[option] = case.flag(0.3)
    if "clip" in able and case.flag(0.3):
        options["clip"] = case.choice([1e-3, 0.1, 0.7, 2.0, 1e30])
    if "projection" in able and case.flag(0.3):
        options |= {"proj_size": case.size(40), "nonrecurrent_proj_size": case.choice([0, case.size(20)])}
    masks = ["recurrent", "h", "c", "expected"] if "zoneout" in able else ["recurrent"]
    noise = tuple(sorted(case.some(masks, 0.4))) if case.flag(0.3) else ()
    way = case.choice(["forward", "backward", "both"])
    lengths = case.lengths(B, T)
    start, loud = case.flag(0.3), case.choice([1.0, 1.0, 1.0, 0.0, 30.0])
    case.note(cell=name_of(cell), T=T, B=B, D=D, H=H, way=way, lengths=lengths, start=start, noise=noise)
    case.note(**options, loud=loud)
    seed = case.randrange(1 << 30)
    problem = draw.__wrapped__(
        cell, T, B, D, H, way, lengths=tuple(lengths) if lengths is not None else None, start=start, noise=noise,
        seed=seed, **options,
    )  # fmt: skip
    reset = case.reset(T, B)
    dtype = case.dtype(problem.variant, H)
    case.note(reset=None if reset is None else int(reset.sum()), dtype=dtype)
    if dtype in HALVES:
        problem = problem.to(dtype).to(torch.float32)
    # Saturated gates, or none but those of the biases; and inputs and states that are one row, expanded.
    problem = replace(
        problem.map(lambda name, value: case.expanded(value) if name.startswith(("state.", "start.")) else value),
        x=case.expanded((problem.x * loud).to(dtype).float()),
        reset=reset,
    )
    return problem, dtype


def drawn_wanted(case: Draw, problem: Problem) -> Wanted:
    leaves = list(problem.leaves())
    if case.flag():
        leaves = case.some(leaves, case.choice([0.1, 0.5, 0.9]))
    trace = case.flag(0.3)
    results = [name for name in problem.cotangents if trace or ".trace." not in name]
    if case.flag():
        results = case.some(results, 0.4)
    case.note(leaves=leaves, results=results, trace=trace)
    return Wanted(leaves, results, trace)


def laid_out(case: Draw, problem: Problem, dtype: torch.dtype) -> Problem:
    """The same call in a dtype, on tensors that lie anyhow in memory."""
    moved = problem.map(lambda _, v: v.to(dtype) if 0 in v.stride() else case.layout(v.to(dtype)))
    lengths = problem.lengths
    return replace(
        moved,
        lengths=case.given_lengths(None if lengths is None else lengths.tolist()),
        reset=None if problem.reset is None else case.layout(problem.reset),
        cotangents={
            name: case.layout(value.to(dtype)) if case.flag(0.9) else value
            for name, value in problem.cotangents.items()
        },
    )


def outcome(
    problem: Problem,
    wanted: Wanted,
    backend: str = "native",
    dtype: torch.dtype = torch.float32,
    *,
    spoil: bool = False,
    again: bool = False,
    **options: Any,
) -> Tensors:
    """Results and gradients by name, gradients with a d before them.

    Args:
        problem: the call.
        wanted: what requires a gradient, and of what.
        backend: who computes.
        dtype: in which dtype.
        spoil: whether lengths and resets are overwritten between forward and backward, which must not matter.
        again: whether backward goes twice, which must give the same bits.
        options: of the call.
    """
    cast = problem.map(lambda _, tensor: tensor.detach().to(dtype))
    if spoil:
        cast = replace(cast, lengths=_copied(cast.lengths), reset=_copied(cast.reset))
    leaves = {name: leaf.requires_grad_(name in wanted.leaves) for name, leaf in cast.leaves().items()}
    values = cast.forward(backend, trace=wanted.trace, **options)
    if spoil:
        for tensor in (cast.lengths, cast.reset):
            if isinstance(tensor, torch.Tensor):
                tensor.fill_(1)
    results = [name for name in wanted.results if values[name].requires_grad]
    found = {name: value.detach() for name, value in values.items()}
    if not results:
        # Nothing depends on anything, which the reference says of no steps, and the engine by zeros.
        return found | {f"d {name}": torch.zeros_like(leaves[name]) for name in wanted.leaves}
    inputs = [leaves[name] for name in wanted.leaves]
    weights = [problem.cotangents[name].to(dtype) for name in results]

    def gradients(keep: bool) -> Tensors:
        outputs = [values[name] for name in results]
        given = torch.autograd.grad(
            outputs, inputs, weights, retain_graph=keep, allow_unused=True, materialize_grads=True
        )
        return {f"d {name}": d for name, d in zip(wanted.leaves, given, strict=True)}

    first = gradients(keep=again)
    if again:
        same_bits("a second backward", gradients(keep=False), first)
    return found | first


def _copied(given: Any) -> Any:
    return given.clone(memory_format=torch.preserve_format) if isinstance(given, torch.Tensor) else given


def write_to(case: Draw, problem: Problem, y: Tensor) -> None:
    """The same y written where the caller says, and nothing else there."""
    steps, rows, width = y.shape
    memory = torch.full((rows, steps + 2, width + 3), torch.nan, dtype=y.dtype)
    out = memory[:, 1:-1, 1 : 1 + width].transpose(0, 1)
    if case.flag():
        memory = torch.full((steps, rows, 2 * width), torch.nan, dtype=y.dtype)
        out = memory[..., ::2]
    with torch.no_grad():
        problem.forward(out=out)
    same_bits("out", {"y": out}, {"y": y})
    assert int(memory.isnan().sum()) == memory.numel() - out.numel() + int(y.isnan().sum()), "written beside out"

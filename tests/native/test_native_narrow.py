"""Products of bfloat16, on instruction sets that have them: what enters a product is rounded, and nothing else."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from native_narrow import NARROW, narrow
from native_problem import Problem, check_same_bits, draw, error, factor_of, multiplies, scale
from native_rows import EVERY, name_of
from torch import Tensor, nn
from torch.nn.functional import linear

from gatewise import LSTM, _native, engine
from gatewise.ops import Direction, Noise, layer
from gatewise.ops.call import Call
from gatewise.ops.native import forward as run_native
from gatewise.runtime.layers import described
from gatewise.spec import CELLS, Cell, variant

T, B, D, H = 7, 19, 5, 20
EVERYTHING: dict[str, Any] = {"reset": "some", "start": True, "noise": ("recurrent", "h", "c")}


on_narrow = pytest.mark.parametrize("isa", NARROW, indirect=True)


def rounded(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    x, weight = (v.to(torch.bfloat16).to(v.dtype) for v in (x, weight))
    return linear(x, weight, bias)


def each_step(problem: Problem, traces: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """What the equations make of each step, from the states that the engine had before it.

    From those, for a state that is off by the last digit of float32 may be rounded to another bfloat16.
    """
    (direction,), x = problem.directions, problem.x
    names, ends = problem.variant.cell.states, problem.lengths
    found: list[dict[str, Tensor]] = []
    for t in range(x.shape[0]):
        state = tuple(traces[f"0.trace.{name}"][t - 1] for name in names) if t else direction.state
        masks = zip(Noise._fields, direction.noise, strict=True)
        noise = [mask if name == "recurrent" or mask is None else mask[t : t + 1] for name, mask in masks]
        part = replace(
            problem,
            x=x[t : t + 1],
            directions=(direction._replace(state=state, noise=Noise(*noise)),),
            lengths=None,
            reset=None if problem.reset is None else problem.reset[t : t + 1],
        )
        with patch("gatewise.reference.cell.linear", rounded):
            values = part.map(lambda _, v: v.to(dtype)).forward("reference", trace=True)
        alive = torch.ones(x.shape[1], dtype=torch.bool) if ends is None else t < ends
        found.append(
            {name: torch.where(alive[:, None], v[0], 0.0) for name, v in values.items() if ".state." not in name}
        )
    return {name: torch.stack([each[name] for each in found]) for name in found[0]}


CASES: list[tuple[str | Cell, tuple[int, int, int, int], dict[str, Any]]] = [
    *((cell, (T, B, D, H), {"lengths": (3, 7, 0, 7, 1, 5, 2, 6, 6, 4, 0, 7, 7, 3, 2, 5, 1, 4, 7)}) for cell in EVERY),
    *(("lstm", (3, 5, width, other), {}) for width in (1, 7, 16, 17, 33, 100) for other in (1, 7, 16, 17, 33, 100)),
    ("peephole", (T, B, D, H), {"layer_norm": True}),
    ("lstm", (T, B, D, H), {"clip": 0.8, **EVERYTHING}),
    ("slstm", (T, B, D, H), {"clip": 0.8, "reset": "some", "start": True}),
    ("fgr", (T, B, D, 17), EVERYTHING),
    ("lstm", (2, 3, 2300, 5), {}),
    ("lstm", (2, 140, 17, 20), {}),
    ("lstm", (3, 33, 130, 130), {"layer_norm": True}),
    ("cifg", (5, 1, 33, 17), {}),
    ("lstm", (1, 1, 33, 17), {}),
]


def _told(value: object) -> str:
    return name_of(value) if isinstance(value, str | Cell) else str(value)


@on_narrow
@pytest.mark.parametrize(("cell", "shape", "options"), CASES, ids=_told)
def test_each_step_is_that_of_rounded_factors(
    isa: str, cell: str | Cell, shape: tuple[int, int, int, int], options: dict[str, Any]
) -> None:
    problem = draw(cell, *shape, **options)
    ours = narrow(problem, trace=True)
    truth, peer = (each_step(problem, ours, dtype) for dtype in (torch.float64, torch.float32))
    for name, exact in truth.items():
        # Rounding errors of cells that multiply them are as large as the reference's.
        off = factor_of(problem.variant) * error(peer[name], exact) * multiplies(problem.variant)
        bound = max(1e-6 * scale(exact) * max(1, sum(shape[2:]) / 250), off)
        # A product with a mask is rounded to float32 first, and may be rounded to the other side then.
        beyond = (ours[name].double() - exact).abs() > bound
        allowed = 3 if "recurrent" in options.get("noise", ()) else 0
        assert beyond.any(-1).sum() <= allowed, f"{name} is off by {error(ours[name], exact):.3g}, allowed {bound:.3g}"
        assert not ours[name].isnan().any()
    plain = problem.forward("native")
    assert not torch.equal(ours["y"], plain["y"]), "nothing was rounded"


@on_narrow
def test_what_is_projected_is_rounded(isa: str) -> None:
    """The cell's output is not seen: one next to a tie may be rounded to the other side."""
    problem = draw("lstm", T, B, D, H, proj_size=7, nonrecurrent_proj_size=3)
    ours = narrow(problem, trace=True)
    truth = each_step(problem, ours, torch.float64)["y"]
    rows = ((ours["y"].double() - truth).abs() > 1e-6).any(-1)
    assert rows.sum() <= 3
    assert error(ours["y"], truth) < 2.0**-8
    with patch("test_native_narrow.rounded", linear):
        unrounded = each_step(problem, ours, torch.float64)["y"]
    assert error(ours["y"], unrounded) > 1e-4


# NaN, among them those that a rounding alone would make zero and infinity; the infinite, the largest, and two ties.
SPECIAL = [0x7FC00000, 0x7FFFFFFF, 0x7F800001, 0x7F800000, -0x00800000, 0x7F7FFFFF, 0x3F808000, 0x3F818000]


@on_narrow
@pytest.mark.parametrize("column", [3, 36])
@pytest.mark.parametrize("bits", SPECIAL, ids=hex)
@pytest.mark.parametrize("rows", [1, 9])
def test_numbers_that_a_rounding_may_lose(isa: str, bits: int, column: int, rows: int) -> None:
    """In an input, of which other rows take no notice, or a weight; one of a vector or of those left over."""
    problem = draw("lstm", 3, rows, 37, 17)
    before, x = narrow(problem, trace=True), problem.x.clone()
    (direction,) = problem.directions
    weight = direction.weights.weight_ih.clone()
    # As integers: a float of Python's is a NaN of another kind.
    x.view(torch.int32)[1, rows - 1, column] = weight.view(torch.int32)[5, column] = bits
    for changed in (
        replace(problem, x=x),
        replace(problem, directions=(direction._replace(weights=direction.weights._replace(weight_ih=weight)),)),
        replace(problem.steps(0, 1), x=x[1:2]),
    ):
        ours = narrow(changed, trace=True)
        for name, exact in each_step(changed, ours, torch.float64).items():
            assert torch.equal(ours[name].isnan(), exact.isnan())
            assert (ours[name].double() - exact).nan_to_num().abs().max() <= 1e-6
            if changed.x.shape == x.shape and changed.directions is problem.directions:
                assert torch.equal(ours[name][:, : rows - 1], before[name][:, : rows - 1])


@on_narrow
@pytest.mark.parametrize(
    ("cell", "options"),
    [("lstm", {}), ("fgr", EVERYTHING), ("slstm", {"reset": "some"}), ("cifg", {"layer_norm": True, "proj_size": 17})],
    ids=_told,
)
def test_bits_depend_on_the_row_alone(isa: str, cell: str, options: dict[str, Any]) -> None:
    problem = draw(cell, T, B, D, H, "both", **options)
    whole = narrow(problem, trace=True)
    for which in ([0], [8], [17, 3, 3], list(range(18, -1, -1)), [*range(19), *range(19)]):
        ours = narrow(problem.rows(which), trace=True)
        theirs = {name: v[which] if ".state." in name else v[:, which] for name, v in whole.items()}
        check_same_bits(ours, theirs)


@on_narrow
@pytest.mark.parametrize("shape", [(5, 80, 64, 64), (5, 300, 20, 33), (35, 8, 40, 100), (3, 1, 80, 200)], ids=str)
def test_bits_do_not_depend_on_threads(isa: str, shape: tuple[int, int, int, int]) -> None:
    """Of calls that are worth a team, of one chunk too."""
    problem, former = draw("lstm", *shape), torch.get_num_threads()
    alone = narrow(problem)
    try:
        for threads in (2, 3):
            torch.set_num_threads(threads)
            check_same_bits(narrow(problem), alone)
    finally:
        torch.set_num_threads(former)


@on_narrow
def test_the_other_direction_is_the_same_on_turned_inputs(isa: str) -> None:
    problem = draw("lstm", T, B, D, H)
    back = replace(problem, directions=tuple(d._replace(reverse=True) for d in problem.directions))
    turned = narrow(replace(problem, x=problem.x.flip(0)))
    check_same_bits(narrow(back), {name: v if ".state." in name else v.flip(0) for name, v in turned.items()})


@on_narrow
def test_bits_do_not_depend_on_cuts_and_padding(isa: str) -> None:
    problem = draw("lstm", T, B, D, H)
    whole, first = narrow(problem, trace=True), narrow(problem.steps(0, 3), trace=True)
    (direction,) = problem.directions
    state = tuple(first[f"0.state.{name}"] for name in "hc")
    rest = narrow(replace(problem.steps(3, T), directions=(direction._replace(state=state),)), trace=True)
    check_same_bits(rest, {name: v if ".state." in name else v[3:] for name, v in whole.items()})
    padded = narrow(replace(problem, lengths=torch.full((B,), 3)), trace=True)
    check_same_bits({"y": padded["y"][:3]}, {"y": first["y"]})
    check_same_bits({"h": padded["0.state.h"]}, {"h": first["0.state.h"]})
    assert not padded["y"][3:].any()


def doors(module: LSTM, x: Tensor) -> Iterator[Tensor]:
    """The ways to ask for bfloat16 without a gradient."""
    half = LSTM(module.input_size, module.hidden_size, module.num_layers).bfloat16()
    half.load_state_dict(module.state_dict())
    with torch.no_grad():
        yield half(x)[0]
        with torch.autocast("cpu", torch.bfloat16):
            yield module(x.float())[0]
    with torch.inference_mode():
        yield half(x)[0]
    for parameter in half.parameters():
        parameter.requires_grad_(False)
    yield half(x)[0]
    yield torch.compile(half, backend="eager", fullgraph=True)(x)[0]


@on_narrow
def test_every_door_without_a_gradient_takes_them(isa: str) -> None:
    torch.manual_seed(0)
    module, x = LSTM(16, 24).bfloat16().float(), torch.randn(9, 3, 16).bfloat16()
    weights = draw("lstm", 9, 3, 16, 24).directions[0].weights
    weights = type(weights)(*module.parameters())
    state = (torch.zeros(3, 24),) * 2
    call = Call(x.float(), [Direction(state, weights)], narrow=True)
    with torch.no_grad():
        expected = run_native(call, None).y.bfloat16()
    float32 = module(x.float())[0].bfloat16()
    assert not torch.equal(expected, float32)
    for found in doors(module, x):
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, expected)
    assert engine().bfloat16


@on_narrow
def test_a_gradient_float16_and_float32_do_not(isa: str) -> None:
    torch.manual_seed(0)
    module, x = LSTM(16, 24).bfloat16().float(), torch.randn(9, 3, 16).bfloat16()
    float32 = module(x.float())[0].detach()
    half = LSTM(16, 24).bfloat16()
    half.load_state_dict(module.state_dict())
    compiled = torch.compile(half, backend="eager", fullgraph=True)
    for run_it in (half, compiled):
        y = run_it(x)[0]
        assert y.requires_grad
        assert torch.equal(y.detach(), float32.bfloat16())
    with torch.no_grad(), torch.autocast("cpu", torch.float16):
        assert torch.equal(module(x.float())[0], float32.half())
    with torch.no_grad():
        assert torch.equal(module(x.float())[0], float32)
        assert torch.equal(module.half()(x.half())[0], module.float()(x.half().float())[0].half())
        batched = torch.func.vmap(lambda x: half(x)[0])(x[None])[0]
    assert torch.equal(batched, float32.bfloat16())


@on_narrow
@pytest.mark.parametrize("hooks", [False, True])
def test_a_program_that_was_exported_without_a_gradient_has_one(isa: str, hooks: bool) -> None:
    """With hooks on saved tensors nothing is kept, and backward computes all again."""
    torch.manual_seed(0)
    half, x = LSTM(16, 24).bfloat16().requires_grad_(False), torch.randn(9, 3, 16).bfloat16()
    with torch.no_grad():
        program = torch.export.export(half, (x,)).module()
    expected, given = (x.clone().requires_grad_() for _ in range(2))
    half(expected)[0].float().sum().backward()
    saved = torch.autograd.graph.saved_tensors_hooks(lambda v: v, lambda v: v) if hooks else nullcontext()
    with saved:
        y = program(given)[0]
    y.float().sum().backward()
    assert torch.equal(y, half(x.clone().requires_grad_())[0])
    assert given.grad is not None
    assert expected.grad is not None
    assert torch.equal(given.grad, expected.grad)


@on_narrow
@pytest.mark.parametrize("shape", [(50, 3, 7, 33), (100, 32, 64, 64)], ids=str)
def test_no_farther_from_float64_than_torch(isa: str, shape: tuple[int, int, int, int]) -> None:
    steps, rows, inputs, hidden = shape
    torch.manual_seed(0)
    ours, theirs, exact = (kind(inputs, hidden) for kind in (LSTM, nn.LSTM, LSTM))
    ours.bfloat16()
    theirs.bfloat16().load_state_dict(ours.state_dict())
    exact.double().load_state_dict(ours.state_dict())
    x = torch.randn(steps, rows, inputs).bfloat16()
    with torch.no_grad():
        reference = exact(x.double())[0]
        off, their_off = ((module(x)[0] - reference).abs().max() for module in (ours, theirs))
    assert off <= their_off


def run_nothing(keep: str) -> None:
    _native.forward_narrow(described(variant("lstm").text, 1, 1, True), [], False, [0] * 13, [], [], [], [], keep, 1)


@on_narrow
@pytest.mark.parametrize("keep", ["states", "all"])
def test_nothing_is_kept_of_them(isa: str, keep: str) -> None:
    with pytest.raises(ValueError, match="nothing is kept"):
        run_nothing(keep)


def test_other_instruction_sets_refuse_them() -> None:
    former = _native.isa()
    _native.use_isa("baseline")
    try:
        assert not engine().bfloat16
        with pytest.raises(ValueError, match="no products of bfloat16"):
            run_nothing(keep="nothing")
    finally:
        _native.use_isa(former)


@on_narrow
@pytest.mark.parametrize("cell", [name for name in CELLS if not name.startswith("conv")])
def test_given_bfloat16_tensors_and_lengths(isa: str, cell: str) -> None:
    """The functional door, whose states are rounded on the way out."""
    problem = draw(cell, T, B, D, H, "both").map(lambda _, v: v.bfloat16().float())
    problem = replace(problem, lengths=torch.arange(B) % (T + 1))
    exact = narrow(problem)
    half = problem.map(lambda _, v: v.bfloat16())
    result = layer(half.x, half.directions, problem.variant, lengths=problem.lengths)
    assert torch.equal(result.y, exact["y"].bfloat16())
    for n, state in enumerate(result.states):
        for name, part in zip(problem.variant.cell.states, state, strict=True):
            assert torch.equal(part, exact[f"{n}.state.{name}"].bfloat16())

"""Per-sample gradients and ensembles: to the bit what the engine gives for each sample and each member alone."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from native_problem import FUSED, Problem, bits, draw
from native_rows import EVERY, name_of
from torch import Tensor
from torch.func import grad, vmap

from gatewise import _native
from gatewise.ops.call import Call, assembled, flat, named, rows_of, tensors
from gatewise.ops.layer import layer
from gatewise.spec import Cell

T, B, D, H = 6, 11, 5, 20
LENGTHS = (3, 6, 0, 6, 1, 5, 2, 6, 6, 4, 0)
EVERYTHING: dict[str, Any] = {
    "lengths": LENGTHS,
    "reset": "some",
    "start": True,
    "noise": ("recurrent", "h", "c"),
}

CASES: list[tuple[str | Cell, dict[str, Any]]] = [
    *((cell, {}) for cell in EVERY),
    ("lstm", {"layer_norm": True, "peephole": True}),
    ("lstm", {"proj_size": 7, "nonrecurrent_proj_size": 3, "clip": 0.8, **EVERYTHING}),
    ("cifg", {"layer_norm": True, "proj_size": 17, **EVERYTHING}),
    ("peephole", {"bias": False, **EVERYTHING}),
    ("fgr", EVERYTHING),
    ("rnn", EVERYTHING),
    ("slstm", {"clip": 0.8, "reset": "some", "start": True, "lengths": LENGTHS}),
]
ROW_AXES = {"state": 0, "start": 0, "recurrent": 0, "h": 1, "c": 1}


def show(value: object) -> str:
    return name_of(value) if isinstance(value, str | Cell) else " ".join(value) if isinstance(value, dict) else ""


every_case = pytest.mark.parametrize(("cell", "wanted"), CASES, ids=show)


class Operands:
    """A problem's tensors in one flat list, where their rows are, and its loss as a function of them."""

    def __init__(self, problem: Problem, **options: Any) -> None:
        self.call = Call(problem.x, problem.directions, problem.variant, trace=True)
        self.given = [tensor.detach() for tensor in tensors(self.call)]
        names = [name for direction in problem.directions for name, _ in named(direction)]
        self.axes = [1, *(ROW_AXES.get(name) for name in names)]
        self.floats = [name not in {"recurrent", "h", "c"} for name in ["x", *names]]
        # In the order of `flat`.
        pairs = sorted(problem.cotangents.items(), key=lambda pair: ".trace." in pair[0])
        self.cotangents = [tensor for _, tensor in pairs]
        self.cotangent_axes = [0 if ".state." in name else 1 for name, _ in pairs]
        self.cut = [problem.lengths, problem.reset]
        self.options = options

    def outputs(self, given: list[Tensor], cut: list[Tensor | None]) -> list[Tensor]:
        call = assembled(given, rows_of(self.call), self.call)
        found = layer(
            call.x,
            call.directions,
            call.variant,
            lengths=cut[0],
            reset=cut[1],
            trace=True,
            backend="native",
            **self.options,
        )
        return flat(found)

    def gradients(self, given: list[Tensor], cut: list[Tensor | None], cotangents: list[Tensor]) -> list[Tensor]:
        """Of everything that has one."""
        own = [tensor for tensor, wanted in zip(given, self.floats, strict=True) if wanted]

        def loss(varied: list[Tensor]) -> Tensor:
            remaining = iter(varied)
            pairs = zip(given, self.floats, strict=True)
            outputs = self.outputs([next(remaining) if wanted else tensor for tensor, wanted in pairs], cut)
            return torch.stack([(y * d).sum() for y, d in zip(outputs, cotangents, strict=True)]).sum()

        return grad(loss)(own)


def alone(operands: Operands, which: slice) -> tuple[list[Tensor], list[Tensor | None], list[Tensor]]:
    """The tensors of some rows."""

    def pick(tensor: Tensor | None, axis: int | None) -> Any:
        return tensor if tensor is None or axis is None else tensor[which] if axis == 0 else tensor[:, which]

    return (
        [pick(*pair) for pair in zip(operands.given, operands.axes, strict=True)],
        [pick(*pair) for pair in zip(operands.cut, [0, 1], strict=True)],
        [pick(*pair) for pair in zip(operands.cotangents, operands.cotangent_axes, strict=True)],
    )


def by_samples(operands: Operands, size: int = 1) -> list[Tensor]:
    """The gradients of each group of so many rows; groups come first."""

    def parted(tensor: Tensor | None, axis: int | None) -> Any:
        if tensor is None or axis is None:
            return tensor
        return tensor.unflatten(axis, (-1, size))

    def dims(tensors: list[Any], axes: list[Any]) -> list[Any]:
        return [None if tensor is None else axis for tensor, axis in zip(tensors, axes, strict=True)]

    groups = [(operands.given, operands.axes), (operands.cut, [0, 1]), (operands.cotangents, operands.cotangent_axes)]
    given = [[parted(*pair) for pair in zip(*group, strict=True)] for group in groups]
    return vmap(operands.gradients, tuple(dims(*group) for group in groups))(*given)


def check_bits(name: str, ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape, name
    differ = bits(ours) != bits(theirs)
    assert not differ.any(), f"{name} differs in {differ.sum()} of {differ.numel()}"


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.usefixtures("isa")
def test_a_samples_gradients_are_those_of_a_batch_of_one(cell: str | Cell, wanted: dict[str, Any], dtype: torch.dtype):
    operands = Operands(draw(cell, T, B, D, H, "both", dtype=dtype, **wanted))
    found = by_samples(operands)
    for b in range(B):
        expected = operands.gradients(*alone(operands, slice(b, b + 1)))
        for number, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
            check_bits(f"gradient {number} of sample {b}", ours[b], theirs)


@every_case
@pytest.mark.usefixtures("isa")
def test_kept_states_give_the_same_bits(cell: str | Cell, wanted: dict[str, Any]):
    problem = draw(cell, T, B, D, H, "both", **wanted)
    pairs = zip(by_samples(Operands(problem)), by_samples(Operands(problem, save="states")), strict=True)
    for number, (ours, theirs) in enumerate(pairs):
        check_bits(str(number), theirs, ours)


def test_long_samples_have_the_windows_of_a_batch_of_one():
    # A window of backward is two megabytes of gates: 128 steps of 1024 units, so that these are several.
    operands = Operands(draw("peephole", 300, 3, 2, 1024))
    found = by_samples(operands)
    for b in range(3):
        expected = operands.gradients(*alone(operands, slice(b, b + 1)))
        for number, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
            check_bits(f"gradient {number} of sample {b}", ours[b], theirs)


@pytest.mark.parametrize("cell", ["peephole", "slstm", "fgr"])
def test_samples_of_several_rows_add_up(cell: str):
    operands = Operands(draw(cell, T, 12, D, H, "both", lengths=(*LENGTHS, 2), start=True, reset="some"))
    found = by_samples(operands, 4)
    for k in range(3):
        expected = operands.gradients(*alone(operands, slice(4 * k, 4 * k + 4)))
        for ours, theirs in zip(found, expected, strict=True):
            assert ours[k].shape == theirs.shape
            torch.testing.assert_close(ours[k], theirs, rtol=0, atol=2e-6 * max(1.0, theirs.abs().max().item()))


@pytest.mark.parametrize("threads", [2, 3])
@every_case
def test_threads_do_not_change_samples(cell: str | Cell, wanted: dict[str, Any], threads: int):
    operands = Operands(draw(cell, T, B, D, H, "both", **wanted))
    expected = by_samples(operands)
    torch.set_num_threads(threads)
    try:
        found = by_samples(operands)
    finally:
        torch.set_num_threads(1)
    for number, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        check_bits(str(number), ours, theirs)


def test_the_instruction_sets_that_fuse_agree():
    operands = Operands(draw("peephole", T, B, D, H, "both", **EVERYTHING))
    former, found = _native.isa(), []
    for isa in FUSED:
        _native.use_isa(isa)
        found.append(by_samples(operands))
    _native.use_isa(former)
    for other in found[1:]:
        for number, (ours, theirs) in enumerate(zip(other, found[0], strict=True)):
            check_bits(str(number), ours, theirs)


def members(operands: Operands, count: int = 3) -> list[Tensor]:
    """The tensors of several members: weights of their own, all else the same in all."""
    pairs = zip(operands.given, operands.axes, strict=True)
    return [
        torch.stack([tensor / k for k in range(1, 1 + count)]) if axis is None else tensor for tensor, axis in pairs
    ]


@every_case
@pytest.mark.parametrize("shared", [True, False], ids=["the same rows", "rows of their own"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.usefixtures("isa")
def test_members_are_as_alone(cell: str | Cell, wanted: dict[str, Any], shared: bool, dtype: torch.dtype):
    operands = Operands(draw(cell, T, B, D, H, "both", dtype=dtype, **wanted))
    given = members(operands)
    dims = [0 if axis is None else None for axis in operands.axes]
    if not shared:
        given[0], dims[0] = torch.stack([given[0], given[0] / 2, -given[0]], dim=1), 1

    def member(k: int) -> list[Tensor]:
        return [t if dim is None else t.select(dim, k) for t, dim in zip(given, dims, strict=True)]

    found = vmap(lambda given: operands.outputs(given, operands.cut), (dims,))(given)

    def run(given: Any) -> Any:
        return operands.gradients(given, operands.cut, operands.cotangents)

    found += vmap(run, (dims,))(given)
    for k in range(3):
        expected = operands.outputs(member(k), operands.cut) + run(member(k))
        for number, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
            check_bits(f"result {number} of member {k}", ours[k], theirs)


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_threads_do_not_change_members(threads: int):
    # Enough work for a team.
    operands = Operands(draw("peephole", 12, 16, 32, 32, "both", start=True))
    dims = [0 if axis is None else None for axis in operands.axes]

    def run() -> list[Tensor]:
        return vmap(lambda given: operands.gradients(given, operands.cut, operands.cotangents), (dims,))(
            members(operands)
        )

    expected = run()
    torch.set_num_threads(threads)
    try:
        found = run()
    finally:
        torch.set_num_threads(1)
    for number, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        check_bits(str(number), ours, theirs)


def test_samples_of_members():
    operands = Operands(draw("peephole", T, B, D, H, "both"))
    given = members(operands)
    dims = [0 if axis is None else None for axis in operands.axes]

    def samples(given: list[Tensor]) -> list[Tensor]:
        own = Operands(draw("peephole", T, B, D, H, "both"))
        own.given = given
        return by_samples(own)

    found = vmap(samples, (dims,))(given)
    for k in range(3):
        expected = samples([t if dim is None else t[k] for t, dim in zip(given, dims, strict=True)])
        for number, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
            check_bits(f"gradient {number} of member {k}", ours[k], theirs)


def test_no_steps_and_no_rows():
    for steps, rows in ((0, 2), (3, 2)):
        operands = Operands(draw("peephole", steps, rows, D, H, "both", lengths=(0, 0), start=True))
        found = by_samples(operands)
        for b in range(rows):
            expected = operands.gradients(*alone(operands, slice(b, b + 1)))
            for ours, theirs in zip(found, expected, strict=True):
                check_bits("", ours[b], theirs)
    problem = draw("lstm", 3, 2, D, H)
    empty = Operands(
        replace(
            problem.rows([]),
            cotangents={k: v[:, :0] if "state" not in k else v[:0] for k, v in problem.cotangents.items()},
        )
    )
    found = by_samples(empty)
    assert [tensor.shape[0] for tensor in found] == [0] * len(found)

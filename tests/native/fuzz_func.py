"""Random gradients of each sample, and random ensembles, of torch.func, beside a loop over samples and members."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from fuzz_drawing import Draw, engine, same_bits
from fuzz_layer import Wanted, drawn_problem, drawn_wanted, hold, outcome
from native_problem import Problem, Tensors, named_values
from torch import Tensor
from torch.func import grad, vmap

from gatewise.ops.call import Call, assembled, named, rows_of, tensors
from gatewise.ops.layer import layer
from gatewise.reference import Noise

ROW_AXES = {"x": 1, "state": 0, "start": 0, "recurrent": 0, "h": 1, "c": 1}
"""Where tensors have their rows. Weights have none."""


class Parts(NamedTuple):
    """What a transform maps over, or where: a call's tensors, lengths and resets, and what its results weigh."""

    given: list[Any]
    cut: list[Any]
    cotangents: list[Any]


class Function:
    """A call as a function of its tensors.

    Args:
        problem: the call.
        wanted: the leaves that have a gradient, and of what.
        save: what is kept.
    """

    def __init__(self, problem: Problem, wanted: Wanted, save: str) -> None:
        self._call = Call(problem.x, problem.directions, problem.variant, trace=wanted.trace, save=save)
        self._rows, self._results = rows_of(self._call), wanted.results
        self.names = ["x", *(name for direction in problem.directions for name, _ in named(direction))]
        leaves = iter(problem.leaves())
        self._varied = [name not in Noise._fields and next(leaves) in wanted.leaves for name in self.names]
        cotangents = [problem.cotangents[name] for name in wanted.results]
        self.parts = Parts(tensors(self._call), [problem.lengths, problem.reset], cotangents)
        places = [0 if ".state." in name else 1 for name in wanted.results]
        self._axes = Parts([ROW_AXES.get(name) for name in self.names], [0, 1], places)

    def values(self, given: Sequence[Tensor], cut: Sequence[Tensor | None]) -> Tensors:
        call, (lengths, reset) = assembled(given, self._rows, self._call), cut
        options: dict[str, Any] = {"trace": call.trace, "save": call.save, "backend": "native"}
        found = layer(call.x, call.directions, call.variant, lengths=lengths, reset=reset, **options)
        return named_values(call.variant, found)

    def gradients(self, given: Sequence[Any], cut: Sequence[Any], cotangents: Sequence[Any]) -> list[Tensor]:
        """Those of the leaves, in their order."""

        def loss(varied: Sequence[Tensor]) -> Tensor:
            remaining = iter(varied)
            pairs = zip(given, self._varied, strict=True)
            values = self.values([next(remaining) if wanted else tensor for tensor, wanted in pairs], cut)
            weighed = [(values[name] * d).sum() for name, d in zip(self._results, cotangents, strict=True)]
            return torch.stack(weighed).sum()

        return grad(loss)([tensor for tensor, wanted in zip(given, self._varied, strict=True) if wanted])

    def each_sample(self, parts: Parts, size: int) -> list[Tensor]:
        """The gradients for each group of so many rows; groups come first."""

        def split(tensor: Tensor | None, axis: int | None) -> Tensor | None:
            if tensor is None or axis is None:
                return tensor
            return tensor.unflatten(axis, (tensor.shape[axis] // size, size))

        groups = [list(zip(*group, strict=True)) for group in zip(parts, self._axes, strict=True)]
        dims = tuple([None if tensor is None else axis for tensor, axis in group] for group in groups)
        return vmap(self.gradients, dims)(*([split(*pair) for pair in group] for group in groups))


def run_samples(case: Draw) -> None:
    """Groups of rows: one row has the bits of a batch of one, several have their batch's to rounding."""
    problem, dtype = drawn_problem(case)
    wanted, save, size = drawn_wanted(case, problem), drawn_save(case), drawn_size(case, problem)
    with engine(case):
        function = Function(problem.to(dtype), wanted, save)
        found = function.each_sample(laid_out(case, function.parts), size)
        torch.set_num_threads(case.choice([1, 2]))
        check_samples(case, problem, wanted, found, size)


def run_members(case: Draw) -> None:
    """The results of several members, and their gradients or those for each of their samples: as of each alone."""
    problem, dtype = drawn_problem(case)
    wanted, save = drawn_wanted(case, problem), drawn_save(case)
    size = drawn_size(case, problem) if case.flag(0.3) else None
    own = {"weight", *(group for group in ("x", "state", "start") if case.flag(0.3))}
    members = [member(problem, k, own, dtype) for k in range(1, 1 + case.randint(1, 4))]
    case.note(members=len(members), own=sorted(own))
    with engine(case):
        functions = [Function(each.to(dtype), wanted, save) for each in members]
        first = functions[0]
        _, cut, cotangents = laid_out(case, first.parts)
        given, dims = stacked(case, functions, own)

        def gradients(given: list[Tensor]) -> list[Tensor]:
            parts = Parts(given, cut, cotangents)
            return first.gradients(*parts) if size is None else first.each_sample(parts, size)

        values = vmap(lambda given: first.values(given, cut), (dims,))(given)
        found = vmap(gradients, (dims,))(given)
        torch.set_num_threads(case.choice([1, 2]))
        for k, each in enumerate(members):
            theirs, ds = outcome(each, wanted, dtype=dtype), [tensor[k] for tensor in found]
            if size is not None:
                check_samples(case, each, wanted, ds, size)
                theirs = {name: value for name, value in theirs.items() if not name.startswith("d ")}
            ours = {name: value[k] for name, value in values.items()}
            same_bits(f"member {k}", ours if size is not None else ours | by_name(wanted, ds), theirs)


def drawn_save(case: Draw) -> str:
    save = case.choice(["all", "states"])
    case.note(save=save)
    return save


def drawn_size(case: Draw, problem: Problem) -> int:
    """How many rows a sample has: mostly one, else any number that divides them."""
    rows = problem.x.shape[1]
    size = case.choice([1, 1, *(size for size in range(2, rows + 1) if rows % size == 0)])
    case.note(size=size)
    return size


def laid_out(case: Draw, parts: Parts) -> Parts:
    return Parts(*([None if tensor is None else case.layout(tensor) for tensor in part] for part in parts))


def group_of(name: str) -> str:
    """What a tensor is, as a problem or a direction names it."""
    group = name.partition(".")[0]
    return group if group in {"x", "state", "start", "noise"} else "noise" if group in Noise._fields else "weight"


def member(problem: Problem, number: int, own: set[str], dtype: torch.dtype) -> Problem:
    """A call with smaller numbers than another's in these groups, which the dtype has."""

    def smaller(name: str, tensor: Tensor) -> Tensor:
        return (tensor.to(dtype) / number).to(tensor.dtype) if group_of(name) in own else tensor

    return problem.map(smaller)


def stacked(case: Draw, functions: Sequence[Function], own: set[str]) -> tuple[list[Tensor], list[int | None]]:
    """The tensors of all members, and where each has the members: nowhere if they are the same in all."""
    found: list[Tensor] = []
    dims: list[int | None] = []
    for name, *each in zip(functions[0].names, *(function.parts.given for function in functions), strict=True):
        dim = case.randint(0, each[0].dim()) if group_of(name) in own else None
        found.append(case.layout(each[0] if dim is None else torch.stack(each, dim)))
        dims.append(dim)
    return found, dims


def by_name(wanted: Wanted, gradients: Sequence[Tensor]) -> Tensors:
    return {f"d {name}": gradient for name, gradient in zip(wanted.leaves, gradients, strict=True)}


def check_samples(case: Draw, problem: Problem, wanted: Wanted, found: Sequence[Tensor], size: int) -> None:
    """Hold the gradients for groups of rows to those of batches, and one of several rows to the reference."""
    ours, dtype, rows = by_name(wanted, found), found[0].dtype, problem.x.shape[1]
    for name, gradient in ours.items():
        assert gradient.shape[0] == rows // size, f"{name}: {gradient.shape[0]} samples"
    each = [{name: gradient[k] for name, gradient in ours.items()} for k in range(rows // size)]
    # A row's gradients do not depend on those beside it.
    exact = [name for name in ours if size == 1 or group_of(name.removeprefix("d ").lstrip("01.")) != "weight"]
    for k, mine in enumerate(each):
        batch = outcome(problem.rows([*range(k * size, (k + 1) * size)]), wanted, dtype=dtype)
        same_bits(f"sample {k}", {name: mine[name] for name in exact}, {name: batch[name] for name in exact})
    torch.set_num_threads(1)
    if size > 1:
        k = case.randrange(len(each))
        hold(problem.rows([*range(k * size, (k + 1) * size)]), wanted, each[k], dtype)

"""The native engine under vmap and grad of ``torch.func``.

Vmapping over anything but weights makes more rows of the batch, vmapping over weights makes members of an ensemble;
either way it stays one call of the engine. Backward under vmap has the same rule, and there more rows also mean
samples, each with gradients of the weights of its own. What comes after a first derivative, and forward mode, is the
reference's.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp, vmap

from gatewise.ops.call import Call, Result, flat, grouped, rows_of, tensors
from gatewise.ops.derivative import keeps
from gatewise.ops.form import Ask, Form
from gatewise.ops.levels import apply
from gatewise.ops.members import differentiate, run
from gatewise.ops.plain import reference
from gatewise.ops.support import differentiable, forward_mode

_Maybe = Tensor | None
_CUT_AXES = (0, 1)
"""Where lengths [B] and resets [T, B] have their rows."""


def forward(call: Call, out: Tensor | None) -> Result:
    """Run a layer under transforms."""
    given = tensors(call)
    keep = keeps(call.save) if torch.is_grad_enabled() and any(map(differentiable, given)) else "nothing"
    form = Form(call.variant, tuple(rows_of(call)), call.trace, keep)
    *values, _ = apply(_Forward, form, call.lengths, call.reset, *given)
    y, states, traces = grouped(call, values)
    return Result(y if out is None else out.copy_(y), [tuple(state) for state in states], traces)


class _Forward(torch.autograd.Function):
    """The outputs, and what was kept for backward."""

    @staticmethod
    def forward(form: Form, lengths: _Maybe, reset: _Maybe, *given: Tensor) -> tuple[Any, ...]:
        outputs, kept = run(form, lengths, reset, given)
        return *outputs, kept

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        ctx.form, *saved = inputs
        ctx.kept = output[-1]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*saved)

    @staticmethod
    def backward(ctx: Any, *gradients: _Maybe) -> tuple[_Maybe, ...]:
        lengths, reset, *given = ctx.saved_tensors
        wanted = tuple(ctx.needs_input_grad[-len(given) :])
        own = gradients[:-1]
        if not any(wanted) or all(gradient is None for gradient in own):
            return (None,) * (3 + len(wanted))
        ask = Ask(ctx.form, wanted, kept=ctx.kept)
        run_back = partial(_by_reference, ask) if forward_mode() else partial(apply, _Backward, ask)
        found = iter(run_back(lengths, reset, *given, *own))
        return None, None, None, *(next(found) if want else None for want in wanted)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *operands: Any) -> tuple[Any, Any]:
        form, *rest = operands
        rule = _Rule(form, info.batch_size, in_dims[3:])
        folded = rule.all_in((*_CUT_AXES, *form.batch_axes), in_dims[1:], rest)
        *values, kept = apply(_Forward, rule.form, *folded)
        outputs, dims = rule.all_out(form.output_axes, values)
        return (*outputs, kept), (*dims, None)


class _Backward(torch.autograd.Function):
    """The wanted gradients. Their own derivative goes through the reference."""

    @staticmethod
    def forward(ask: Ask, lengths: _Maybe, reset: _Maybe, *operands: _Maybe) -> tuple[Tensor, ...]:
        given, gradients = _split(ask, operands)
        return tuple(differentiate(ask, lengths, reset, given, gradients))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ask, *saved = inputs
        ctx.ask = replace(ask, kept=None)
        ctx.save_for_backward(*saved)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[_Maybe, ...]:
        lengths, reset, *operands = ctx.saved_tensors
        wanted = ctx.needs_input_grad[-len(operands) :]
        places = [place for place, want in enumerate(wanted) if want]

        def first(*varied: Tensor) -> tuple[Tensor, ...]:
            complete = list(operands)
            for place, value in zip(places, varied, strict=True):
                complete[place] = value
            return _by_reference(ctx.ask, lengths, reset, *complete)

        _, pull, *_ = vjp(first, *(operands[place] for place in places))
        found = iter(pull(gradients))
        return None, None, None, *(next(found) if want else None for want in wanted)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *operands: Any) -> tuple[Any, Any]:
        ask, *rest = operands
        form, samples = ask.form, ask.samples
        rule = _Rule(form, info.batch_size, in_dims[3:])
        axes = (*_CUT_AXES, *form.batch_axes, *form.output_axes)
        folded = rule.all_in(axes, in_dims[1:], rest)
        if rule.by_rows:
            ask = replace(ask, samples=info.batch_size * (1 if samples is None else samples))
        found = apply(_Backward, replace(ask, form=rule.form), *folded)
        asked = [axis for axis, want in zip(form.batch_axes, ask.wanted, strict=True) if want]
        return rule.all_out(asked, found, samples)


class _Rule:
    """How one vmap is folded into a call.

    Args:
        form: of the call that is vmapped.
        size: the number of elements that vmap runs over.
        dims: where x and the tensors after it have the dimension that vmap runs over, None for those that have none.
    """

    def __init__(self, form: Form, size: int, dims: Sequence[int | None]) -> None:
        pairs = zip(form.batch_axes, dims, strict=False)
        self.by_rows = all(dim is None for axis, dim in pairs if axis is None)
        self.size = size
        self.members = int(form.members)
        path = (*form.path, ("rows" if self.by_rows else "members", size))
        self.form = replace(form, members=form.members or not self.by_rows, path=path)

    def all_in(
        self, axes: Sequence[int | None], dims: Sequence[int | None], operands: Sequence[_Maybe]
    ) -> list[_Maybe]:
        """The operands of the folded call; ``axes`` tell where they have their rows."""
        return [
            None if tensor is None else self._in(axis, dim, tensor)
            for axis, dim, tensor in zip(axes, dims, operands, strict=True)
        ]

    def _in(self, axis: int | None, dim: int | None, tensor: Tensor) -> Tensor:
        if self.by_rows and axis is None:
            return tensor
        place = self.members + axis if self.by_rows and axis is not None else 0
        if dim is None:
            shape = (*tensor.shape[:place], self.size, *tensor.shape[place:])
            tensor = tensor.unsqueeze(place).expand(shape)
        else:
            tensor = tensor.movedim(dim, place)
        return tensor.flatten(place, place + 1) if self.by_rows or self.members else tensor

    def all_out(
        self, axes: Sequence[int | None], results: Sequence[Tensor], samples: int | None = None
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """The results of the folded call as vmap wants them, and where its dimension is in each.

        Gradients of weights, whose axis is None, have one for the ``samples``, of which there may have been none
        before.
        """
        pairs = [self._out(axis, tensor, samples) for axis, tensor in zip(axes, results, strict=True)]
        return tuple(tensor for tensor, _ in pairs), tuple(dim for _, dim in pairs)

    def _out(self, axis: int | None, tensor: Tensor, samples: int | None) -> tuple[Tensor, int]:
        if not self.by_rows:
            return (self._parted(tensor, 0) if self.members else tensor), 0
        place = self.members + (axis or 0)
        return (tensor if axis is None and samples is None else self._parted(tensor, place)), place

    def _parted(self, tensor: Tensor, place: int) -> Tensor:
        each = tensor.shape[place] // self.size if self.size else 0
        return tensor.unflatten(place, (self.size, each))


def _split(ask: Ask, operands: Sequence[_Maybe]) -> tuple[list[Tensor], list[_Maybe]]:
    """X and the tensors after it, and the gradients of the outputs."""
    count = len(ask.wanted)
    return [tensor for tensor in operands[:count] if tensor is not None], list(operands[count:])


def _by_reference(ask: Ask, lengths: _Maybe, reset: _Maybe, *operands: _Maybe) -> tuple[Tensor, ...]:
    """What backward computes, in plain torch: differentiable any number of times, in both modes."""
    form = ask.form
    axes = (*_CUT_AXES, *form.batch_axes, *form.output_axes)
    asked = [axis for axis, want in zip(form.batch_axes, ask.wanted, strict=True) if want]
    members = int(form.members)
    if ask.samples is None:
        return _pulled(ask, lengths, reset, *operands)
    places = [None if axis is None else members + axis for axis in axes]
    parts = [
        tensor if tensor is None or place is None else tensor.unflatten(place, (ask.samples, -1))
        for place, tensor in zip(places, (lengths, reset, *operands), strict=True)
    ]
    dims = tuple(None if part is None else place for place, part in zip(places, parts, strict=True))
    outs = tuple(members + (axis or 0) for axis in asked)
    found = vmap(partial(_pulled, ask), dims, outs, randomness="different")(*parts)
    return tuple(
        tensor if axis is None else tensor.flatten(members + axis, members + axis + 1)
        for axis, tensor in zip(asked, found, strict=True)
    )


def _pulled(ask: Ask, lengths: _Maybe, reset: _Maybe, *operands: _Maybe) -> tuple[Tensor, ...]:
    """The same without samples."""
    form = ask.form

    def of_member(lengths: _Maybe, reset: _Maybe, *operands: _Maybe) -> tuple[Tensor, ...]:
        given, gradients = _split(ask, operands)

        def outputs(*varied: Tensor) -> tuple[Tensor, ...]:
            remaining = iter(varied)
            complete = [next(remaining) if want else t for want, t in zip(ask.wanted, given, strict=True)]
            return tuple(flat(reference(form.call(complete, lengths, reset), None)))

        values, pull, *_ = vjp(outputs, *(t for want, t in zip(ask.wanted, given, strict=True) if want))
        pairs = zip(values, gradients, strict=True)
        return pull(tuple(torch.zeros_like(value) if d is None else d for value, d in pairs))

    if not form.members:
        return of_member(lengths, reset, *operands)
    dims = tuple(None if tensor is None else 0 for tensor in (lengths, reset, *operands))
    each: Callable[..., tuple[Tensor, ...]] = vmap(of_member, dims, randomness="different")
    return each(lengths, reset, *operands)

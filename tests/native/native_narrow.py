"""The engine with products of bfloat16 behind float32 tensors, and the instruction sets that have them."""

import torch
from native_problem import ISAS, Problem, named_values
from torch import Tensor

from gatewise import _native
from gatewise.ops.call import Call
from gatewise.ops.native import forward


def _narrow_isas() -> list[str]:
    former, found = _native.isa(), list[str]()
    for isa in ISAS:
        _native.use_isa(isa)
        found += [isa] * _native.multiplies_bfloat16()
    _native.use_isa(former)
    return found


NARROW = _narrow_isas()
"""Among them the 16-lane kernels that only a build for tests has, which add such products up by other instructions."""


def narrow(problem: Problem, *, trace: bool = False) -> dict[str, Tensor]:
    """The engine's results, with products of bfloat16 and no other rounding, by name."""
    call = Call(problem.x, problem.directions, problem.variant, problem.lengths, problem.reset, trace, narrow=True)
    with torch.no_grad():
        return named_values(problem.variant, forward(call, None))

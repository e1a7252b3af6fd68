"""An autograd function through the levels of ``torch.func``, from the innermost transform outwards.

This is what ``torch.autograd.Function.apply`` does under transforms, by the same parts of torch. It flattens all
arguments into trees several times at every level, which for a call of ours takes twice as long as everything else
around the engine; here an operand is a tensor or it is not.
"""

from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch  # pyright: ignore[reportAttributeAccessIssue]
from torch._functorch.autograd_function import VmapInfo
from torch._functorch.pyfunctorch import (
    FuncTorchInterpreter,
    GradInterpreter,
    VmapInterpreter,
    retrieve_current_functorch_interpreter,
)
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd.forward_ad import _set_fwd_grad_enabled
from torch.autograd.function import _SingleLevelFunction


def apply(function: type[torch.autograd.Function], *operands: Any) -> tuple[Any, ...]:
    """Apply a function that has ``setup_context`` and ``vmap``, whose operands and results are tensors or opaque.

    No result may be an operand. Its ``backward`` must count ``ctx.needs_input_grad`` from the end, and forward mode is
    not for it.
    """
    given = [_functorch.unwrap_if_dead(part) if isinstance(part, Tensor) else part for part in operands]
    if _functorch.peek_interpreter_stack() is None:
        if torch.is_grad_enabled() and any(isinstance(part, Tensor) and part.requires_grad for part in given):
            return function.apply(*given)
        return function.forward(*given)
    interpreter = retrieve_current_functorch_interpreter()
    if isinstance(interpreter, VmapInterpreter):
        return _mapped(interpreter, function, given)
    if not isinstance(interpreter, GradInterpreter):
        raise NotImplementedError(f"no rule for {interpreter.key()}.")
    with enable_single_level_autograd_function():
        return _Level.apply(interpreter, function, *given)  # pyright: ignore[reportAttributeAccessIssue]


def _mapped(
    interpreter: VmapInterpreter, function: type[torch.autograd.Function], operands: list[Any]
) -> tuple[Any, ...]:
    level = interpreter.level()
    pairs = [_functorch._unwrap_batched(part, level) if isinstance(part, Tensor) else (part, None) for part in operands]
    given, dims = [part for part, _ in pairs], [dim for _, dim in pairs]
    with interpreter.lower():
        if all(dim is None for dim in dims):
            return apply(function, *given)
        info = VmapInfo(interpreter.batch_size(), interpreter.randomness())
        results, out_dims = function.vmap(info, dims, *given)
    return tuple(
        part if dim is None else _functorch._add_batch_dim(part, dim, level)
        for part, dim in zip(results, out_dims, strict=True)
    )


class _Level(_SingleLevelFunction):
    """One level of grad: below it the function itself, around it the graph of that level."""

    @staticmethod
    def forward(interpreter: FuncTorchInterpreter, function: type[torch.autograd.Function], *operands: Any) -> Any:
        level = interpreter.level()
        given = [_functorch._unwrap_for_grad(part, level) if isinstance(part, Tensor) else part for part in operands]
        with torch.enable_grad(), _set_fwd_grad_enabled(True), interpreter.lower():
            results = apply(function, *given)
        return tuple(_functorch._wrap_for_grad(part, level) if isinstance(part, Tensor) else part for part in results)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _, ctx.function, *own = inputs
        ctx.function.setup_context(ctx, tuple(own), output)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return None, None, *ctx.function.backward(ctx, *gradients)

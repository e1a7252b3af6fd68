"""The layer as one operator, for torch.compile and torch.export: the time loop is never unrolled.

The operator runs a call eagerly on whatever backend serves it, forward and, computed again from the inputs, backward.
The gradient hangs on an ``autograd.Function`` around it, which torch.compile takes into its graph.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch  # pyright: ignore[reportAttributeAccessIssue]
from torch.autograd.function import FunctionCtx

from gatewise.ops.call import Call, Result, describe, flat, grouped, rebuild, tensors
from gatewise.ops.checks import checked_lengths
from gatewise.ops.serve import serve
from gatewise.reference import over_time, traced_names


def traced(call: Call, backend: str) -> Result:
    """Put a call into the graph that is being traced."""
    # torch.compile wants each tensor once.
    given: list[Tensor] = []
    places: list[int] = []
    for tensor in tensors(call):
        if not any(tensor is other for other in given):
            given.append(tensor)
        places.append(next(place for place, other in enumerate(given) if other is tensor))
    described = describe(call, backend, places)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given):
        values = _Layer.apply(described, call.lengths, call.reset, *given)
    else:
        values = layer_forward(given, call.lengths, call.reset, described)
    y, states, traces = grouped(call, values)
    return Result(y, [tuple(state) for state in states], traces)


def _operator(run: Callable[..., list[Tensor]]) -> Callable[..., list[Tensor]]:
    """Make a function an operator of torch.

    Not by ``torch.library.custom_op``: what runs inside that one is hidden from autograd, and the backward operator
    needs it.
    """
    name = f"gatewise::{run.__name__}"
    torch.library.define(name, torch.library.infer_schema(run, mutates_args=()))
    torch.library.impl(name, "default", func=run)
    # Differentiating is the matter of the Function below; without this, torch warns that nobody sees to it.
    torch.library.impl(name, "Autograd", func=torch.library.fallthrough_kernel)
    # A saved program may be called under a transform of torch.func. It does not see into an operator, and gave zeros;
    # from here on it sees what runs inside.
    torch.library.impl(name, "FuncTorchDynamicLayerFrontMode", func=run)
    return getattr(torch.ops.gatewise, run.__name__)


@_operator
def layer_forward(
    given: Sequence[Tensor], lengths: Tensor | None, reset: Tensor | None, described: str
) -> list[Tensor]:
    """Run a layer: outputs, final states, traces."""
    call, backend = rebuild(described, given, lengths, reset)
    if lengths is not None:
        # They had no values while the graph was traced.
        checked_lengths(lengths, call.x)
    # Results must be dense, as the tracer was told, and may not share memory with what came in or with each other.
    return [tensor.clone(memory_format=torch.contiguous_format) for tensor in flat(serve(call, backend))]


@torch.library.register_fake("gatewise::layer_forward")
def _(given: Sequence[Tensor], lengths: Tensor | None, reset: Tensor | None, described: str) -> list[Tensor]:
    call, _ = rebuild(described, given, lengths, reset)
    x, first = call.x, call.directions[0]
    shapes = over_time(x, first.state, first.weights, call.variant)
    steps, rows, width, *image = shapes["y"]
    y = x.new_empty((steps, rows, width * len(call.directions), *image))
    states = [x.new_empty(part.shape) for direction in call.directions for part in direction.state]
    names = traced_names(call.variant) if call.trace else ()
    return [y, *states, *(x.new_empty(shapes[name]) for _ in call.directions for name in names)]


@_operator
def layer_backward(
    gradients: Sequence[Tensor],
    given: Sequence[Tensor],
    lengths: Tensor | None,
    reset: Tensor | None,
    described: str,
    *,
    wanted: Sequence[bool],
) -> list[Tensor]:
    """Return the gradients of a layer's wanted inputs."""
    if _functorch.peek_interpreter_stack() is not None:
        raise NotImplementedError(
            "torch.func cannot transform the backward of a compiled layer; use the module itself."
        )
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (*gradients, *given)):
        raise NotImplementedError("a compiled layer cannot be differentiated twice; call the module itself for that.")
    # Leaving inference mode also puts autograd back into the dispatcher, wherever this is called from: else no output
    # would have a gradient, and zeros would be returned without a word.
    with torch.inference_mode(False), torch.enable_grad():
        copies = [_normal(tensor).detach() for tensor in given]
        leaves = [tensor.requires_grad_(want) for tensor, want in zip(copies, wanted, strict=True)]
        call, backend = rebuild(described, leaves, lengths, reset)
        outputs = flat(serve(call, backend))
        inputs = [leaf for leaf in leaves if leaf.requires_grad]
        # Some outputs depend on no leaf that wants a gradient: a state that comes back from an empty sequence.
        pairs = [(out, _normal(grad)) for out, grad in zip(outputs, gradients, strict=True) if out.requires_grad]
        if not pairs:
            return [torch.zeros_like(leaf, memory_format=torch.contiguous_format) for leaf in inputs]
        ys, grads = zip(*pairs, strict=True)
        found = torch.autograd.grad(ys, inputs, grads, allow_unused=True, materialize_grads=True)
    return [gradient.clone(memory_format=torch.contiguous_format) for gradient in found]


def _normal(tensor: Tensor) -> Tensor:
    """Return a tensor that autograd can work with, even in inference mode."""
    return tensor.clone() if tensor.is_inference() else tensor


@torch.library.register_fake("gatewise::layer_backward")
def _(
    gradients: Sequence[Tensor],
    given: Sequence[Tensor],
    lengths: Tensor | None,
    reset: Tensor | None,
    described: str,
    *,
    wanted: Sequence[bool],
) -> list[Tensor]:
    return [tensor.new_empty(tensor.shape) for tensor, want in zip(given, wanted, strict=True) if want]


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(described: str, lengths: Tensor | None, reset: Tensor | None, *given: Tensor) -> tuple[Tensor, ...]:
        return tuple(layer_forward(given, lengths, reset, described))

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        described, lengths, reset, *given = inputs
        ctx.described = described  # pyright: ignore[reportAttributeAccessIssue]
        ctx.save_for_backward(lengths, reset, *given)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        lengths, reset, *given = ctx.saved_tensors
        wanted = list(ctx.needs_input_grad[3:])
        dense = [gradient.contiguous() for gradient in gradients]
        found = iter(layer_backward(dense, given, lengths, reset, ctx.described, wanted=wanted))
        return (None, None, None, *(next(found) if want else None for want in wanted))

"""What the two autograd functions around the native engine share."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch._C import _autograd, _functorch  # pyright: ignore[reportAttributeAccessIssue]

from gatewise.ops.checks import ShapeError


def by_reference(
    run: Callable[[list[Tensor]], list[Tensor]],
    given: Sequence[Tensor],
    wanted: Sequence[bool],
    gradients: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """The gradients through plain torch, so that they can be differentiated themselves.

    Args:
        run: computes the outputs from what was given.
        given: the inputs.
        wanted: which of them need a gradient.
        gradients: those of the outputs, None for zeros.
    """
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # One input may have been computed from another, and only what it does here is asked for: each is an alias.
        aliases = [tensor.view_as(tensor) if want else tensor for tensor, want in zip(given, wanted, strict=True)]
        outputs = run(aliases)
        pairs = [(out, d) for out, d in zip(outputs, gradients, strict=True) if d is not None and out.requires_grad]
        inputs = [alias for alias, want in zip(aliases, wanted, strict=True) if want]
        if not pairs:
            return [None] * len(wanted)
        ys, cotangents = zip(*pairs, strict=True)
        found = iter(torch.autograd.grad(ys, inputs, cotangents, create_graph=again, allow_unused=True))
    return [next(found) if want else None for want in wanted]


def has_memory(gradients: Sequence[Tensor | None]) -> bool:
    """Whether all gradients are ordinary tensors, and not batches under vmap or fakes."""
    try:
        for d in gradients:
            if d is not None and (not (d.data_ptr() or not d.numel()) or _functorch.is_functorch_wrapped_tensor(d)):
                return False
    except RuntimeError:
        return False
    return True


def check_unchanged(given: Sequence[Tensor], shapes: Sequence[torch.Size], dtype: torch.dtype) -> None:
    """Refuse saved tensors that have been given another shape or dtype, of which autograd takes no notice.

    Raises:
        ShapeError: one has.
    """
    for tensor, shape in zip(given, shapes, strict=True):
        if tensor.shape != shape or tensor.dtype is not dtype:
            raise ShapeError(
                f"a tensor of shape {list(shape)} and dtype {dtype} that backward needs has become "
                f"{list(tensor.shape)} and {tensor.dtype} since the forward call."
            )


def frees_graph() -> bool:
    """Whether the backward pass that is running lets go of what was saved for it."""
    return not _autograd._get_current_graph_task_keep_graph()


def keeps(save: str) -> str:
    """What the engine keeps: nothing where hooks take care of what is saved, as for activation checkpointing.

    They would see the inputs only. Backward then computes forward again from what they hand back.
    """
    return save if _autograd._top_saved_tensors_default_hooks(True) is None else "nothing"

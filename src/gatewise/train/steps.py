"""A step of an optimizer without what torch does around it, which for the few, small weights of an LSTM costs most."""

from collections.abc import Callable
from typing import Any

import torch


def step_of(optimizer: torch.optim.Optimizer) -> Callable[[], Any]:
    """What takes an optimizer's step: the same states and bits as its ``step``, which it is where nothing is gained.

    torch's ``step`` checks the options, looks for hooks, opens a range for profilers and sorts the tensors by device
    and dtype, each time. Of a fused AdamW on the CPU, whose weights are of one dtype, this calls the kernel alone,
    wherever all weights have a gradient and a state. Hooks of optimizers are called in the other steps only.

    Args:
        optimizer: whose weights keep their dtypes and devices from now on.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> step = step_of(torch.optim.AdamW([weight], lr=0.1, weight_decay=0.0, fused=True))
        >>> weight.sum().backward()
        >>> step()
        >>> weight.detach()
        tensor([0.9000, 0.9000])
    """
    kinds = {(weight.dtype, weight.device) for group in optimizer.param_groups for weight in group["params"]}
    if type(optimizer) is not torch.optim.AdamW or len(kinds) != 1 or any(device.type != "cpu" for _, device in kinds):
        return optimizer.step

    @torch.no_grad()
    def step() -> None:
        groups = [group for group in optimizer.param_groups if group["params"]]
        lists = [_tensors(optimizer, group) for group in groups]
        if () in lists:
            optimizer.step()
            return
        for group, (weights, gradients, averages, squares, steps) in zip(groups, lists, strict=True):
            beta1, beta2 = group["betas"]
            torch._foreach_add_(steps, 1)  # pyright: ignore[reportPrivateImportUsage]
            torch._fused_adamw_(  # pyright: ignore[reportPrivateImportUsage]
                weights, gradients, averages, squares, [], steps, lr=group["lr"], beta1=beta1, beta2=beta2,
                weight_decay=group["weight_decay"], eps=group["eps"], amsgrad=False, maximize=group["maximize"],
            )  # fmt: skip

    return step


def _tensors(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> tuple[list[torch.Tensor], ...]:
    """Weights, gradients, their averages and those of their squares, and steps; nothing where it is not so simple."""
    if not group["fused"] or group["amsgrad"]:
        return ()
    weights = group["params"]
    gradients = [weight.grad for weight in weights if weight.grad is not None and not weight.grad.is_sparse]
    states = [state for weight in weights if (state := optimizer.state.get(weight))]
    if not len(weights) == len(gradients) == len(states):
        return ()
    return weights, gradients, *([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))

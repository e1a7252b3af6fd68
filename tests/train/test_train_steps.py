"""An optimizer's step without what is around it: the states and bits of torch's."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from gatewise.train.steps import step_of

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "decay, betas, eps": {"lr": 0.03, "weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-4},
    "maximize": {"maximize": True},
    "amsgrad": {"amsgrad": True},
    "not fused": {"fused": False},
}


def weights(dtypes: tuple[torch.dtype, ...] = (torch.float32,) * 3) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    shapes = zip(((5, 33), (7,), ()), dtypes, strict=True)
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape, dtype in shapes]


def draw_gradients(parameters: list[nn.Parameter], number: int) -> None:
    """Of the last weight none in the first step and in the fourth."""
    generator = torch.Generator().manual_seed(number)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    if number in (0, 3):
        parameters[-1].grad = None


def same_states(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_states(one[key], other[key]) for key in one)
    return one == other


def adamw(parameters: Any, **options: Any) -> torch.optim.AdamW:
    options = {"fused": True} | options
    return torch.optim.AdamW(parameters, **options)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_weights_and_states_have_torchs_bits(options: dict[str, Any]) -> None:
    ours, theirs = weights(), weights()
    one = adamw([{"params": ours[:2]}, {"params": ours[2:], "lr": 0.5}, {"params": []}], **options)
    other = adamw([{"params": theirs[:2]}, {"params": theirs[2:], "lr": 0.5}, {"params": []}], **options)
    step = step_of(one)
    for number in range(7):
        draw_gradients(ours, number)
        draw_gradients(theirs, number)
        step()
        other.step()
        assert all(map(torch.equal, ours, theirs)), number
        assert same_states(one.state_dict(), other.state_dict()), number
        one.param_groups[0]["lr"] = other.param_groups[0]["lr"] = 0.01 / (number + 1)


def test_states_that_were_loaded_are_gone_on_with() -> None:
    ours, theirs = weights(), weights()
    one, other = adamw(ours), adamw(theirs)
    step = step_of(one)
    for parameters in (ours, theirs):
        draw_gradients(parameters, 1)
    other.step()
    one.load_state_dict(copy.deepcopy(other.state_dict()))
    with torch.no_grad():
        for mine, its in zip(ours, theirs, strict=True):
            mine.copy_(its)
    for rate in (0.1, 0.01):
        one.param_groups[0]["lr"] = other.param_groups[0]["lr"] = rate
        step()
        other.step()
        assert all(map(torch.equal, ours, theirs))


def test_torchs_step_is_left_out_once_all_have_a_state(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters, calls = weights(), []
    optimizer = adamw(parameters)
    whole = optimizer.step
    monkeypatch.setattr(optimizer, "step", lambda: calls.append(whole()))
    step = step_of(optimizer)
    for number in range(6):
        draw_gradients(parameters, number)
        step()
    # Steps 0 and 3 lack a gradient, step 1 a state.
    assert len(calls) == 3


def test_sparse_gradients_are_refused_in_torchs_words() -> None:
    parameters = weights()
    optimizer = adamw(parameters)
    step = step_of(optimizer)
    for number in (1, 2):
        draw_gradients(parameters, number)
        step()
    parameters[0].grad = torch.zeros(5, 33).to_sparse()
    before = [parameter.detach().clone() for parameter in parameters]
    with pytest.raises(RuntimeError, match="sparse"):
        step()
    assert all(map(torch.equal, parameters, before))


class Own(torch.optim.AdamW):
    """An AdamW whose step may be anything."""


@pytest.mark.parametrize(
    "optimizer",
    [
        torch.optim.SGD(weights(), lr=0.1),
        torch.optim.Adam(weights(), fused=True),
        Own(weights(), fused=True),
        adamw(weights((torch.float32, torch.float64, torch.float32))),
        torch.optim.AdamW([nn.Parameter(torch.empty(3, device="meta"))]),
    ],
    ids=["sgd", "adam", "own", "dtypes", "device"],
)
def test_the_step_of_others_is_torchs(optimizer: torch.optim.Optimizer) -> None:
    assert step_of(optimizer) == optimizer.step

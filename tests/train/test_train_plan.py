"""What a plan accepts, the optimizers and rates that follow from it, and averages of weights."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gatewise import LSTM
from gatewise.errors import InputError
from gatewise.train import Part, Plan, Step, train
from gatewise.train.plan import make_optimizer, optimizer_class

X = torch.linspace(-1, 1, 12)[:, None]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epochs": 0}, "epochs must be a whole number from 1, not 0"),
        ({"steps": 2.5}, "steps must be a whole number from 1, not 2.5"),
        ({"patience": 0}, "patience must be"),
        ({"accumulate": 0}, "accumulate must be"),
        ({"save_every": -1}, "save_every must be"),
        ({"learning_rate": 0}, "learning_rate must be a number above 0, not 0"),
        ({"learning_rate": None}, "learning_rate must be a number above 0, not None"),
        ({"learning_rate": float("inf")}, "learning_rate must be a number above 0, not inf"),
        ({"clip_norm": 0}, "clip_norm must be a number above 0 or None, not 0"),
        ({"clip_value": "x"}, "clip_value must be a number above 0 or None, not 'x'"),
        ({"weight_decay": -1}, "weight_decay must be from 0 to below inf, not -1"),
        ({"momentum": 1}, "momentum must be from 0 to below 1, not 1"),
        ({"average": float("nan")}, "average must be from 0 to below 1, not nan"),
        ({"average": True}, "average must be from 0 to below 1, not True"),
        ({"warm_up": 1.1}, "warm_up must be from 0 to 1, not 1.1"),
        ({"schedule": "step"}, "schedule must be one of cosine, plateau, constant, not 'step'"),
        ({"autocast": "float16"}, "autocast must be one of None, bfloat16, not 'float16'"),
        ({"optimizer": "adamv"}, "optimizer must be one of adadelta, .*adamw, .*sgd, not 'adamv'"),
        ({"optimizer": "lbfgs"}, "not 'lbfgs'"),
        ({"optimizer": "muon"}, "not 'muon'"),
        ({"optimizer": None}, "optimizer must be one of .*not None"),
    ],
)
def test_a_plan_out_of_range(change: dict[str, Any], said: str) -> None:
    options: dict[str, Any] = {"epochs": 1, "steps": 1} | change
    with pytest.raises(InputError, match=said):
        Plan(**options)


def test_optimizers_by_name() -> None:
    assert optimizer_class("adamw") is optimizer_class("AdamW") is torch.optim.AdamW
    weights = [torch.zeros(2, requires_grad=True)]
    for name in ("adamw", "SGD", "rmsprop", "NAdam", "Adagrad", "adadelta"):
        optimizer = make_optimizer(Plan(1, 1, 0.25, optimizer=name, weight_decay=0.125, momentum=0.5), weights)
        assert type(optimizer).__name__.lower() == name.lower()
        assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]) == (0.25, 0.125)
        assert optimizer.param_groups[0].get("momentum", 0) == (0.5 if name == "SGD" else 0)


def _trained(plan: Plan, **options: Any) -> tuple[nn.Linear, list[Step]]:
    torch.manual_seed(0)
    line, steps = nn.Linear(1, 1), []

    def loss(x: Tensor) -> tuple[Tensor, int]:
        return (line(x) - 3 * x).square().sum(), len(x)

    def batch(epoch: int, step: int, part: Part) -> Tensor:
        return X[part.rows(len(X))]

    train(line, loss, batch, plan, on_step=steps.append, **options)
    return line, steps


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_loop_takes_the_steps_of_torch_by_hand(name: str) -> None:
    plan = Plan(1, 20, 0.05, optimizer=name, schedule="constant", warm_up=0.0, clip_norm=None)
    line, _ = _trained(plan)
    torch.manual_seed(0)
    mine = nn.Linear(1, 1)
    optimizer = make_optimizer(plan, mine.parameters())
    for _ in range(20):
        optimizer.zero_grad()
        (mine(X) - 3 * X).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(line.weight, mine.weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(line.bias, mine.bias, rtol=1e-5, atol=1e-6)


def test_a_constant_rate_stays_after_its_warm_up() -> None:
    _, steps = _trained(Plan(2, 10, 0.5, schedule="constant", warm_up=0.25))
    rates = [step.learning_rate for step in steps]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, *[0.5] * 16])
    assert Plan(1, 10, warm_up=0.0, schedule="constant").rate(0) == 1.0
    assert Plan(1, 10, warm_up=0.0).rate(0) == 1.0


def test_a_plateau_halves_the_rate_after_half_the_patience() -> None:
    losses = [5.0, 4.0, 4.0, 4.5, 3.0, 3.5, 3.5, 3.5, 3.5, 9.0]
    told = iter(losses)
    plan = Plan(10, 1, 1.0, schedule="plateau", warm_up=0.0, patience=5)
    _, steps = _trained(plan, validate=lambda part: (next(told), 1))
    # Two epochs without a better one halve it, for the next epoch on; then the count begins anew.
    assert [step.learning_rate for step in steps] == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125]


@pytest.mark.parametrize("accumulate", [2, 3, 5, 20])
def test_turns_make_the_same_steps(accumulate: int) -> None:
    whole, steps = _trained(Plan(2, 10))
    turns, others = _trained(Plan(2, 10, accumulate=accumulate))
    torch.testing.assert_close(whole.weight, turns.weight, rtol=1e-5, atol=1e-6)
    for one, other in zip(steps, others, strict=True):
        assert one.values == other.values == 12
        assert one.loss == pytest.approx(other.loss, rel=1e-4, abs=1e-7)


def test_the_average_is_what_is_judged_and_kept() -> None:
    plan = Plan(3, 4, 0.1, average=0.8, warm_up=0.0)
    torch.manual_seed(0)
    line, seen, judged = nn.Linear(1, 1), [], []

    def loss(x: Tensor) -> tuple[Tensor, int]:
        return (line(x) - 3 * x).square().sum(), len(x)

    def validate(part: Part) -> tuple[float, float]:
        judged.append(line.weight.item())
        return 1.0 / len(judged), 1

    wanted = line.weight.item()
    train(line, loss, lambda *_: X, plan, validate=validate, on_step=lambda step: seen.append(line.weight.item()))
    expected = []
    for number, weight in enumerate(seen, 1):
        keep = min(0.8, (1 + number) / (10 + number))
        wanted = keep * wanted + (1 - keep) * weight
        expected.append(wanted)
    assert judged == pytest.approx(expected[3::4], rel=1e-5)
    assert line.weight.item() == judged[-1]
    assert abs(judged[-1] - seen[-1]) > 1e-3


def test_autocast_trains_our_layer_near_float32() -> None:
    def run(autocast: Any) -> tuple[list[float], torch.dtype]:
        torch.manual_seed(0)
        layer, head = LSTM(2, 8), nn.Linear(8, 1)
        x = torch.randn(20, 6, 2)
        types = []

        def loss(x: Tensor) -> tuple[Tensor, int]:
            output, _ = layer(x)
            types.append(output.dtype)
            return (head(output) - x[..., :1]).float().square().sum(), x[..., 0].numel()

        steps: list[Step] = []
        plan = Plan(2, 10, 0.02, autocast=autocast)
        train(nn.ModuleList([layer, head]), loss, lambda *_: x, plan, on_step=steps.append)
        return [step.loss for step in steps], types[0]

    plain, kind = run(None)
    cast, other = run("bfloat16")
    assert (kind, other) == (torch.float32, torch.bfloat16)
    assert cast != plain
    assert cast == pytest.approx(plain, rel=0.03)
    assert plain[-1] < 0.7 * plain[0]


def test_a_plan_is_plain_data() -> None:
    plan = Plan(2, 3)
    assert Plan(**dataclasses.asdict(plan)) == plan

"""The training loop on problems so small that what must come out is known."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from gatewise.errors import InputError
from gatewise.format import Linear, Lstm, QuantileMix
from gatewise.models import Network
from gatewise.train import Epoch, Plan, train

X = torch.linspace(-1, 1, 21)[:, None]


def _line(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(1, 1)


def _run(module: nn.Module, plan: Plan, **options):
    def loss(batch: Tensor) -> Tensor:
        return ((module(batch) - (3 * batch + 1)) ** 2).mean()

    def batches(epoch: int) -> Iterator[Tensor]:
        for step in range(plan.steps):
            yield X[(epoch + step) % 2 :: 2]

    return train(module, loss, batches, plan, **options)


def _bits(module: nn.Module) -> list[bytes]:
    return [value.numpy().tobytes() for value in module.state_dict().values()]


def test_the_loss_falls_until_the_line_is_found() -> None:
    line = _line()
    history = _run(line, Plan(40, 20, learning_rate=0.1, weight_decay=0.0))
    losses = [epoch.train_loss for epoch in history.epochs]
    assert losses[-1] < 1e-4
    assert losses[0] > 0.1
    torch.testing.assert_close(line.weight.item(), 3.0, rtol=1e-3, atol=0)
    torch.testing.assert_close(line.bias.item(), 1.0, rtol=1e-3, atol=0)
    assert [epoch.epoch for epoch in history.epochs] == list(range(1, 41))
    assert all(epoch.val_loss is None and epoch.seconds >= 0 for epoch in history.epochs)
    assert not history.interrupted
    assert not line.training


def test_a_network_learns_to_remember() -> None:
    # The answer at the last step is the input of the first: only the recurrence can carry it.
    torch.manual_seed(0)
    network = Network([Lstm(1, 6), Linear(6, 2), QuantileMix(1, 1)])
    generator = torch.Generator().manual_seed(1)

    def batches(_: int) -> Iterator[tuple[Tensor, Tensor]]:
        for _step in range(60):
            x = torch.rand(16, 5, 1, generator=generator)
            yield x, x[:, 0, 0].clone()

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        x, truth = batch
        return (network(x, torch.zeros(16, 1, 1))[:, 0, 0] - truth).abs().mean()

    history = train(network, loss, batches, Plan(8, 60, learning_rate=2e-2))
    # Without memory the best is the median, whose mean error is 1/4.
    assert history.epochs[-1].train_loss < 0.06
    assert history.epochs[0].train_loss > 0.15


class _Script:
    """Validation losses as written, and the weights at each."""

    def __init__(self, module: nn.Module, losses: list[float]):
        self.module, self.losses, self.seen = module, iter(losses), []

    def __call__(self) -> float:
        assert not self.module.training
        self.seen.append(_bits(self.module))
        return next(self.losses)


def test_the_weights_of_the_best_epoch_come_out() -> None:
    line = _line()
    script = _Script(line, [5.0, 3.0, 1.0, 2.0, 4.0, 1.0])
    told: list[tuple[Epoch, bool]] = []
    history = _run(line, Plan(6, 3), validate=script, on_epoch=lambda epoch, best: told.append((epoch, best)))
    assert history.best == 3
    assert _bits(line) == script.seen[2]
    assert len({str(bits) for bits in script.seen}) == 6
    assert [epoch.val_loss for epoch in history.epochs] == [5.0, 3.0, 1.0, 2.0, 4.0, 1.0]
    assert told == list(zip(history.epochs, [True, True, True, False, False, False], strict=True))
    assert not line.training


@pytest.mark.parametrize(("patience", "epochs"), [(1, 3), (2, 6), (3, 7), (99, 8)])
def test_patience(patience: int, epochs: int) -> None:
    losses = [5.0, 4.0, 4.5, 3.0, 3.0, 3.5, 9.0, 9.0]
    line = _line()
    script = _Script(line, losses)
    history = _run(line, Plan(8, 2, patience=patience), validate=script)
    assert len(history.epochs) == epochs
    best = 2 if patience == 1 else 4
    assert history.best == best
    assert _bits(line) == script.seen[best - 1]


def test_without_validation_the_training_loss_decides_and_patience_does_not() -> None:
    module = nn.Linear(1, 1)
    losses = iter([2.0, 1.0, 5.0, 5.0])

    def loss(scale: float) -> Tensor:
        return module.weight.sum() * 0 + module.bias.sum() * 0 + scale

    history = train(module, loss, lambda _: [next(losses)], Plan(4, 1, patience=1))
    assert [epoch.train_loss for epoch in history.epochs] == [2.0, 1.0, 5.0, 5.0]
    assert history.best == 2


def test_the_training_loss_is_the_mean_over_the_steps_and_each_step_is_told() -> None:
    told: list[tuple[int, int, float]] = []
    history = _run(_line(), Plan(3, 4), on_step=lambda *args: told.append(args))
    assert [(epoch, step) for epoch, step, _ in told] == [(e, s) for e in (1, 2, 3) for s in (1, 2, 3, 4)]
    for epoch in history.epochs:
        mean = sum(value for number, _, value in told if number == epoch.epoch) / 4
        assert epoch.train_loss == pytest.approx(mean, rel=1e-12)


@pytest.mark.parametrize("steps_done", [0, 2])
def test_ctrl_c_keeps_the_best_model(steps_done: int) -> None:
    line = _line()
    script = _Script(line, [2.0, 1.0])

    def batches(epoch: int) -> Iterator[Tensor]:
        for step in range(3):
            if epoch == 3 and step == steps_done:
                raise KeyboardInterrupt
            yield X

    history = train(line, lambda x: (line(x) ** 2).mean(), batches, Plan(9, 3), validate=script)
    assert history.interrupted
    assert (len(history.epochs), history.best) == (2, 2)
    assert _bits(line) == script.seen[1]
    assert not line.training


def test_ctrl_c_in_the_first_epoch_leaves_the_weights_as_they_were() -> None:
    line = _line()
    before = _bits(line)

    def on_step(_: int, step: int, __: float) -> None:
        if step == 2:
            raise KeyboardInterrupt

    history = _run(line, Plan(5, 5), on_step=on_step)
    assert history.interrupted
    assert (history.epochs, history.best) == ([], 0)
    assert _bits(line) == before


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_names_epoch_and_step(value: float) -> None:
    line = _line()

    def batches(epoch: int) -> Iterator[float]:
        for step in range(1, 5):
            yield value if (epoch, step) == (2, 3) else 1.0

    with pytest.raises(InputError, match=f"the loss became {value} in epoch 2, step 3: try a lower learning rate"):
        train(line, lambda scale: line(X).mean() * scale, batches, Plan(3, 4))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_validation_loss_that_is_not_finite_is_refused(value: float) -> None:
    # Otherwise no epoch would ever be the best, and the weights of the start would come out without a word.
    with pytest.raises(InputError, match=f"validation loss became {value} in epoch 2"):
        _run(_line(), Plan(3, 2), validate=iter([1.0, value, 1.0]).__next__)


@pytest.mark.parametrize(("epochs", "steps"), [(1, 1), (1, 7), (12, 100), (3, 5), (2, 4)])
def test_the_rate_warms_up_and_decays_as_a_cosine(epochs: int, steps: int) -> None:
    plan, total = Plan(epochs, steps), epochs * steps
    warm = max(1, round(0.1 * total))
    rates = [plan.rate(step) for step in range(total + 1)]
    assert rates[:warm] == pytest.approx([(k + 1) / warm for k in range(warm)])
    assert rates[warm - 1] == 1.0
    assert all(later < sooner for sooner, later in zip(rates[warm:], rates[warm + 1 :], strict=False))
    assert rates[warm] == (1.0 if total > warm else pytest.approx(1.0))
    if total > warm:
        assert rates[total] == pytest.approx(0.01)
        middle = plan.rate(warm + (total - warm) / 2)  # type: ignore[arg-type]  # the curve between two steps
        assert middle == pytest.approx(0.505)
        quarter = plan.rate(warm + (total - warm) / 4)  # type: ignore[arg-type]
        assert quarter == pytest.approx(0.01 + 0.99 * (1 + math.sqrt(0.5)) / 2)


def test_the_rate_of_a_known_plan() -> None:
    plan = Plan(epochs=2, steps=10)
    assert [plan.rate(k) for k in (0, 1, 2, 11, 20)] == pytest.approx([0.5, 1.0, 1.0, 0.505, 0.01])


def test_the_first_step_is_as_long_as_the_rate_says() -> None:
    # Adam's first step moves every weight by the rate, whatever the gradient.
    line = _line()
    before = line.weight.item()
    _run(line, Plan(1, 1, learning_rate=0.125, weight_decay=0.0))
    assert abs(line.weight.item() - before) == pytest.approx(0.125, rel=1e-5)
    line = _line()
    moved = []
    plan = Plan(20, 1, learning_rate=0.125, weight_decay=0.0)
    _run(line, plan, on_step=lambda *_: moved.append(line.weight.item()))
    assert abs(moved[0] - before) == pytest.approx(0.125 / 2, rel=1e-5)


def test_gradients_are_clipped_by_their_norm() -> None:
    norms = []

    module = nn.Linear(1, 1)

    def on_step(*_: object) -> None:
        grads = [p.grad for p in module.parameters() if p.grad is not None]
        norms.append(torch.cat([g.ravel() for g in grads]).norm().item())

    def loss(scale: float) -> Tensor:
        return (module(X) * scale).sum()

    train(module, loss, lambda _: [1e6, 1e-3], Plan(1, 2, clip_norm=0.5), on_step=on_step)
    assert norms[0] == pytest.approx(0.5, rel=1e-4)
    assert norms[1] == pytest.approx(21e-3, rel=1e-4)


def test_the_same_seed_gives_the_same_weights_bit_for_bit() -> None:
    def run(seed: int) -> list[bytes]:
        torch.manual_seed(seed)
        network = Network([Lstm(1, 5, 2), Linear(5, 2), QuantileMix(1, 1)], dropout=0.3)
        x = torch.linspace(-1, 1, 60).reshape(4, 15, 1)
        train(
            network,
            lambda batch: (network(batch, torch.zeros(4, 3, 1)) - batch[:, :3]).abs().mean(),
            lambda epoch: [x / epoch] * 3,
            Plan(3, 3),
        )
        return _bits(network)

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_frozen_parameters_stay_as_they_are() -> None:
    torch.manual_seed(0)
    network = Network([Lstm(1, 5), Linear(5, 2), QuantileMix(1, 1)])
    network.lstm().requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    x = torch.linspace(-1, 1, 60).reshape(4, 15, 1)
    train(network, lambda batch: (network(batch, torch.zeros(4, 3, 1)) - 9).abs().mean(), lambda _: [x] * 3, Plan(2, 3))
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("0."), name


def test_batches_are_asked_for_by_epoch_in_training_mode() -> None:
    line = _line()
    asked = []

    def batches(epoch: int) -> list[Tensor]:
        asked.append((epoch, line.training))
        return [X]

    train(line, lambda x: line(x).mean(), batches, Plan(3, 1), validate=lambda: 1.0)
    assert asked == [(1, True), (2, True), (3, True)]

"""The training loop on problems so small that what must come out is known."""

import math
import re
import signal
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gatewise.errors import InputError
from gatewise.format import Linear, Lstm, QuantileMix
from gatewise.models import Network
from gatewise.train import Checkpoints, DivergedError, Epoch, History, Part, Plan, Step, train

X = torch.linspace(-1, 1, 21)[:, None]


def _line(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(1, 1)


def _run(module: nn.Module, plan: Plan, **options):
    def loss(batch: Tensor) -> tuple[Tensor, int]:
        return ((module(batch) - (3 * batch + 1)) ** 2).sum(), len(batch)

    def batch(epoch: int, step: int, part: Part) -> Tensor:
        rows = X[(epoch + step) % 2 :: 2]
        return rows[part.rows(len(rows))]

    return train(module, loss, batch, plan, **options)


def _gradient(module: nn.Module) -> Tensor:
    return torch.cat([p.grad.ravel() for p in module.parameters() if p.grad is not None])


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

    def batch(epoch: int, step: int, part: Part) -> Tensor:
        return torch.rand(16, 5, 1, generator=torch.Generator().manual_seed(60 * epoch + step))

    def loss(x: Tensor) -> tuple[Tensor, int]:
        return (network(x, torch.zeros(16, 1, 1))[:, 0, 0] - x[:, 0, 0]).abs().sum(), 16

    history = train(network, loss, batch, Plan(8, 60, learning_rate=2e-2))
    # Without memory the best is the median, whose mean error is 1/4.
    assert history.epochs[-1].train_loss < 0.06
    assert history.epochs[0].train_loss > 0.15


class _Script:
    """Validation losses as written, and the weights at each."""

    def __init__(self, module: nn.Module, losses: list[float]):
        self.module, self.losses, self.seen = module, iter(losses), []

    def __call__(self, part: Part) -> tuple[float, float]:
        assert not self.module.training
        assert part == Part()
        self.seen.append(_bits(self.module))
        return 4 * next(self.losses), 4


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


def test_a_validation_without_values_is_none() -> None:
    line = _line()
    history = _run(line, Plan(4, 10, learning_rate=0.1), validate=lambda part: (0.0, 0))
    assert [epoch.val_loss for epoch in history.epochs] == [None] * 4
    assert history.best == 4


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

    def loss(scale: float) -> tuple[Tensor, int]:
        return module.weight.sum() * 0 + module.bias.sum() * 0 + scale, 1

    history = train(module, loss, lambda *_: next(losses), Plan(4, 1, patience=1))
    assert [epoch.train_loss for epoch in history.epochs] == [2.0, 1.0, 5.0, 5.0]
    assert history.best == 2


def test_the_training_loss_is_the_mean_over_the_steps_and_each_step_is_told() -> None:
    told: list[Step] = []
    history = _run(_line(), Plan(3, 4), on_step=told.append)
    assert [(step.epoch, step.step) for step in told] == [(e, s) for e in (1, 2, 3) for s in (1, 2, 3, 4)]
    for epoch in history.epochs:
        steps = [step for step in told if step.epoch == epoch.epoch]
        assert epoch.train_loss == pytest.approx(sum(step.loss for step in steps) / 4, rel=1e-12)
        assert epoch.gradient_norm == pytest.approx(sum(step.gradient_norm for step in steps) / 4, rel=1e-12)
        assert epoch.learning_rate == steps[-1].learning_rate
        assert epoch.values == sum(step.values for step in steps)
        assert all(step.seconds > 0 and step.values in {10, 11} for step in steps)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [1, 3])
def test_a_signal_ends_the_training_after_its_step_with_the_best_model(at: int, number: signal.Signals) -> None:
    line = _line()
    script = _Script(line, [2.0, 1.0])
    told: list[tuple[int, int]] = []
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]

    def batch(epoch: int, step: int, part: Part) -> Tensor:
        if (epoch, step) == (3, at):
            signal.raise_signal(number)
        return X

    def loss(x: Tensor) -> tuple[Tensor, int]:
        return (line(x) ** 2).sum(), len(x)

    history = train(
        line, loss, batch, Plan(9, 3), validate=script, on_step=lambda step: told.append((step.epoch, step.step))
    )
    assert history.interrupted
    assert history.stopped == number
    assert told[-1] == (3, at)
    assert (len(history.epochs), history.best) == (2, 2)
    assert _bits(line) == script.seen[1]
    assert not line.training
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_signal_in_the_first_epoch_leaves_the_weights_as_they_were() -> None:
    line = _line()
    before = _bits(line)
    history = _run(line, Plan(5, 5), on_step=lambda step: signal.raise_signal(signal.SIGINT))
    assert history.interrupted
    assert (history.epochs, history.best) == ([], 0)
    assert _bits(line) == before


def test_a_second_ctrl_c_does_not_wait_for_the_step() -> None:
    line = _line()
    before = signal.getsignal(signal.SIGINT)

    def loss(x: Tensor) -> tuple[Tensor, int]:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the second Ctrl-C came to nothing")

    with pytest.raises(KeyboardInterrupt):
        train(line, loss, lambda *_: X, Plan(5, 5))
    assert signal.getsignal(signal.SIGINT) == before


def test_a_thread_trains_without_touching_the_signals() -> None:
    results: list[History] = []
    thread = threading.Thread(target=lambda: results.append(_run(_line(), Plan(1, 2))))
    thread.start()
    thread.join()
    assert [len(history.epochs) for history in results] == [1]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_names_epoch_and_step(value: float) -> None:
    line = _line()
    seen: list[list[bytes]] = []

    def batch(epoch: int, step: int, part: Part) -> float:
        return value if (epoch, step) == (2, 3) else 1.0

    words = (
        f"the loss became {value} in epoch 2, step 3: try a lower learning rate. The batch: series {value}. Largest "
    )
    with pytest.raises(DivergedError, match=re.escape(words) + r"gradients: (weight|bias) (nan|inf), (weight|bias) "):
        train(
            line, lambda scale: (line(X).sum() * scale, len(X)), batch, Plan(3, 4),
            describe=lambda scale: f"series {scale}", on_step=lambda step: seen.append(_bits(line)),
        )  # fmt: skip
    # The weights of before the step, not those of the best epoch: they are the last good ones.
    assert _bits(line) == seen[-1]


def test_a_gradient_that_is_not_finite_is_found_where_the_loss_is() -> None:
    line = _line()
    before = _bits(line)

    def loss(x: Tensor) -> tuple[Tensor, int]:
        # The square root has no slope at zero.
        return torch.sqrt((line.weight - line.weight.detach()).abs()).sum() + line.bias.sum(), 4

    said = r"the gradient's norm became nan in epoch 1, step 1.*weight nan, bias 0\.25\."
    with pytest.raises(DivergedError, match=said):
        train(line, loss, lambda *_: X, Plan(1, 1))
    assert _bits(line) == before


def test_weights_that_overflowed_before_the_loss_could_tell_are_not_kept(tmp_path: Path) -> None:
    line = _line()
    place = Checkpoints(tmp_path)
    scales = [0.0, 0.0, 1e15, 1.0]

    def loss(scale: float) -> tuple[Tensor, int]:
        # Zero, with the scale for its slope: only the weights grow.
        return ((line.weight - line.weight.detach()) * scale).sum() + 0 * line.bias.sum(), 1

    plan = Plan(
        2, 2, 1e30, optimizer="sgd", weight_decay=0.0, clip_norm=None, warm_up=0.0, schedule="constant", save_every=1
    )
    with pytest.raises(DivergedError, match=r"became (nan|inf) in epoch 2, step 2.*those of the best epoch are kept"):
        train(line, loss, lambda epoch, step, part: scales[2 * epoch + step - 3], plan, checkpoints=place)
    state, _ = place.last()
    assert state is not None
    assert _bits(line) == [value.numpy().tobytes() for value in state["best"].values()]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_validation_loss_that_is_not_finite_is_refused(value: float) -> None:
    # Otherwise no epoch would ever be the best, and the weights of the start would come out without a word.
    losses = iter([1.0, value, 1.0])
    with pytest.raises(InputError, match=f"validation loss became {value} in epoch 2"):
        _run(_line(), Plan(3, 2), validate=lambda part: (next(losses), 1))


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
    _run(line, plan, on_step=lambda step: moved.append(line.weight.item()))
    assert abs(moved[0] - before) == pytest.approx(0.125 / 2, rel=1e-5)


def test_gradients_are_clipped_by_their_norm() -> None:
    norms, told = [], []
    module = nn.Linear(1, 1)

    def on_step(step: Step) -> None:
        norms.append(_gradient(module).norm().item())
        told.append(step.gradient_norm)

    def loss(scale: float) -> tuple[Tensor, int]:
        return (module(X) * scale).sum(), 1

    scales = [1e6, 1e-3]
    train(module, loss, lambda epoch, step, part: scales[step - 1], Plan(1, 2, clip_norm=0.5), on_step=on_step)
    assert norms[0] == pytest.approx(0.5, rel=1e-4)
    assert norms[1] == pytest.approx(21e-3, rel=1e-4)
    assert told == pytest.approx([21e6, 21e-3], rel=1e-4)


@pytest.mark.parametrize("clip_norm", [None, 0.4])
def test_gradients_are_cut_by_their_values_first(clip_norm: float | None) -> None:
    module = nn.Linear(2, 1)
    slopes = torch.tensor([3.0, -0.1])

    def loss(_: object) -> tuple[Tensor, int]:
        return (module.weight * slopes).sum() + 0 * module.bias.sum(), 1

    train(module, loss, lambda *_: None, Plan(1, 1, clip_value=0.5, clip_norm=clip_norm))
    cut = torch.tensor([0.5, -0.1, 0.0])
    wanted = cut if clip_norm is None else cut * (clip_norm / cut.norm())
    torch.testing.assert_close(_gradient(module), wanted, rtol=1e-5, atol=0)


def test_the_same_seed_gives_the_same_weights_bit_for_bit() -> None:
    def run(seed: int) -> list[bytes]:
        torch.manual_seed(seed)
        network = Network([Lstm(1, 5, 2), Linear(5, 2), QuantileMix(1, 1)], dropout=0.3)
        x = torch.linspace(-1, 1, 60).reshape(4, 15, 1)
        train(
            network,
            lambda batch: ((network(batch, torch.zeros(4, 3, 1)) - batch[:, :3]).abs().sum(), 12),
            lambda epoch, step, part: x / epoch,
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
    train(network, lambda batch: ((network(batch, torch.zeros(4, 3, 1)) - 9).abs().sum(), 12), lambda *_: x, Plan(2, 3))
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("0."), name


def test_weights_that_the_loss_does_not_reach_stay_as_they_are() -> None:
    module = nn.ModuleList([_line(0), _line(1)])
    before = _bits(module[1])
    train(module, lambda x: (module[0](x).square().sum(), len(x)), lambda *_: X, Plan(1, 3, weight_decay=0.5))
    assert _bits(module[1]) == before
    assert all(p.grad is None for p in module[1].parameters())


def test_batches_are_asked_for_by_epoch_and_step_in_training_mode() -> None:
    line = _line()
    asked = []

    def batch(epoch: int, step: int, part: Part) -> Tensor:
        asked.append((epoch, step, part, line.training))
        return X

    train(line, lambda x: (line(x).sum(), len(x)), batch, Plan(3, 2), validate=lambda part: (1.0, 1))
    assert asked == [(epoch, step, Part(0, 1), True) for epoch in (1, 2, 3) for step in (1, 2)]

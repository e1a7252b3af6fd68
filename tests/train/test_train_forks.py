"""Training in threads and after forks: the same bits as alone, and nobody waits forever."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from gatewise import LSTM
from gatewise.tasks.forecast import Settings, fitting, training
from gatewise.tasks.forecast.training import Silent
from gatewise.train import Part, Plan, train

FORKED = """
import os, signal, sys
import polars as pl
import torch
from torch import nn
from gatewise import LSTM
from gatewise.data.forks import check_fork
from gatewise.tasks.forecast import Settings, fitting, training
from gatewise.errors import InputError
from gatewise.train import Plan, train

training.STEPS_PER_EPOCH = 3
torch.set_num_threads(2)
x = torch.randn(30, 64, 8)


def trained():
    torch.manual_seed(0)
    layer = LSTM(8, 64, num_layers=2, dropout=0.2)
    model = nn.ModuleList([layer])

    def loss(x):
        # No product of torch's own: MKL sums otherwise on one thread, as after a fork, than on two, on some processors.
        y = layer(x)[0].tanh()
        return y.square().sum(), y.numel()

    train(model, loss, lambda epoch, step, part: x, Plan(2, 3))
    return [value.numpy().tobytes() for value in model.state_dict().values()]


def fitted():
    settings = Settings(horizon=4, season=6, window=12, hidden=8, epochs=2, batch=8, dropout=0.2, threads=2)
    frame = pl.DataFrame({"y": [float((7 * k) % 11) for k in range(90)]})
    model, _ = fitting.fit_model(settings, frame, training.Silent())
    return [model.weights[name].tobytes() for name in sorted(model.weights)]


def refused():
    try:
        fitted()
    except InputError as error:
        return "Polars" in str(error) and "spawn" in str(error)
    return False


def child(work):
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        signal.alarm(60)
        os.write(writer, repr(work()).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as said:
        found = said.read()
    os.waitpid(pid, 0)
    return found.decode()


# Both teams of threads at work: the engine's, and torch's own.
expected = trained()
(torch.randn(1500, 1500) @ torch.randn(1500, 1500)).exp().sum()
print("train", child(trained) == repr(expected), child(lambda: child(trained) == repr(expected)))
print("threads", child(torch.get_num_threads))
before = child(fitted)
print("fit", before == repr(fitted()))
print("after Polars", child(refused), child(lambda: child(refused) == "True"), child(trained) == repr(expected))
print("again", before == repr(fitted()), trained() == expected)
"""


def test_fault_29_a_fork_after_threads_trains_to_the_same_bits() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.splitlines() == [
        "train True True", "threads 2", "fit True", "after Polars True True True", "again True True",
    ], done.stderr  # fmt: skip


@pytest.fixture
def frame(monkeypatch: pytest.MonkeyPatch) -> pl.DataFrame:
    monkeypatch.setattr(training, "STEPS_PER_EPOCH", 6)
    return pl.DataFrame({"y": [float((7 * k) % 11) for k in range(90)]})


SETTINGS = Settings(horizon=4, season=6, window=12, hidden=8, epochs=2, batch=8, dropout=0.2)


def _fitted(settings: Settings, frame: pl.DataFrame) -> list[bytes]:
    model, _ = fitting.fit_model(settings, frame, Silent())
    return [model.weights[name].tobytes() for name in sorted(model.weights)]


def test_fault_29_fits_in_threads_give_what_each_gives_alone(frame: pl.DataFrame) -> None:
    several = [replace(SETTINGS, seed=seed, threads=1 + seed % 2) for seed in range(4)]
    alone = [_fitted(settings, frame) for settings in several]
    assert len({b"".join(weights) for weights in alone}) == 4
    before = torch.get_rng_state(), torch.get_num_threads(), np.random.get_state(legacy=False)  # noqa: NPY002
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(_fitted, several[0], frame).result(timeout=120) == alone[0]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda settings: _fitted(settings, frame), several, timeout=120))
    assert together == alone
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.get_num_threads() == before[1]
    np.testing.assert_equal(np.random.get_state(legacy=False), before[2])  # noqa: NPY002


def test_a_fit_within_a_fit_does_not_wait_for_itself(frame: pl.DataFrame) -> None:
    inner = []

    class Nosy(Silent):
        def epoch(self, epoch: object, is_best: bool) -> None:
            inner.append(_fitted(SETTINGS, frame))

    outer, _ = fitting.fit_model(replace(SETTINGS, seed=5), frame, Nosy())
    assert inner == [_fitted(SETTINGS, frame)] * 2
    assert [outer.weights[name].tobytes() for name in sorted(outer.weights)] == _fitted(
        replace(SETTINGS, seed=5), frame
    )


def _model(seed: int) -> nn.ModuleList:
    torch.manual_seed(seed)
    return nn.ModuleList([LSTM(3, 16), nn.Linear(16, 1)])


def _train(model: nn.ModuleList, barrier: threading.Barrier | None = None) -> list[bytes]:
    layer, head = model
    x = torch.linspace(-1, 1, 20 * 8 * 3).reshape(20, 8, 3)

    def batch(epoch: int, step: int, part: Part) -> Tensor:
        if barrier is not None:
            # So that no two steps are apart.
            barrier.wait(timeout=60)
        return x * step / epoch

    def loss(x: Tensor) -> tuple[Tensor, int]:
        y = head(layer(x)[0])
        return (y - 1).square().sum(), y.numel()

    train(model, loss, batch, Plan(2, 10, average=0.5))
    return [value.numpy().tobytes() for value in model.state_dict().values()]


def test_fault_29_trainings_at_the_same_time_do_not_touch_each_other() -> None:
    alone = [_train(_model(seed)) for seed in (0, 1)]
    assert alone[0] != alone[1]
    models, barrier = [_model(seed) for seed in (0, 1)], threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda model: _train(model, barrier), models, timeout=120)) == alone

"""DistributedDataParallel over two processes: the gradients of one process on the whole batch."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from differentiated import BOTH, assert_close, build, draw
from torch import Tensor, distributed, multiprocessing, nn
from torch._C._distributed_c10d import FileStore
from torch.nn.parallel import DistributedDataParallel

from gatewise import LSTM

WORLD, ROWS, STEPS = 2, 3, 5
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "peephole": ("peephole", {"layer_norm": True, **BOTH}),
    "learned": ("lstm", {"learned_state": True, "layer_norm": True, "peephole": True, **BOTH}),
    "vanilla": ("lstm", BOTH),
    "slstm": ("slstm", {"num_layers": 3, "residual": True}),
}
LENGTHS = torch.tensor([5, 0, 3, 2, 5, 1])


def train(module: nn.Module, x: Tensor, lengths: Tensor) -> dict[str, Tensor]:
    """Take two steps, and return the second's gradients and the weights after it."""
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        output, state = module(x, lengths=lengths)
        # Means over rows, which is what is averaged over processes.
        loss = output.square().sum(2).mean(1).sum() + sum(part.sin().sum(2).mean(1).sum() for part in state)
        loss.backward()
        optimizer.step()
    found: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        short = name.removeprefix("module.")
        found |= {short: parameter.detach(), f"{short} gradient": parameter.grad}
    return found


def whole(layer: LSTM) -> tuple[Tensor, Tensor]:
    return draw(layer, STEPS, WORLD * ROWS)[0], LENGTHS


def work(rank: int, folder: str) -> None:
    """Run as one of the processes: train on its own rows, and store what came of it."""
    torch.set_num_threads(1)
    store = FileStore(f"{folder}/store", WORLD)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=WORLD)
    results = {}
    for name, (cell, options) in CASES.items():
        layer = build(cell, **options)
        x, lengths = whole(layer)
        rows = slice(rank * ROWS, (rank + 1) * ROWS)
        # Replicas that start apart must be made alike.
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.add_(rank)
        results[name] = train(DistributedDataParallel(layer), x[:, rows], lengths[rows])
    torch.save(results, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    folder = tmp_path_factory.mktemp("processes")
    multiprocessing.spawn(work, (str(folder),), nprocs=WORLD)  # pyright: ignore[reportPrivateImportUsage]
    return [torch.load(Path(folder, f"{rank}.pt")) for rank in range(WORLD)]


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_the_whole_batch(case: str, results: list[dict[str, dict[str, Tensor]]]):
    cell, options = CASES[case]
    layer = build(cell, **options)
    start = copy.deepcopy(layer.state_dict())
    expected = train(layer, *whole(layer))
    assert all(bool(value.any()) for value in expected.values())
    assert all(not torch.equal(start[name], expected[name]) for name in start)
    for found in results:
        assert found[case].keys() == expected.keys()
        assert_close(found[case].values(), expected.values())

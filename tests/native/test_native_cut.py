"""The short way with lengths and resets: what the reference computes, and what of both it takes."""

from itertools import product
from typing import Any

import pytest
import torch
from native_stack import BACKEND, assert_exact, assert_same
from torch import Tensor

from gatewise import LSTM, ops
from gatewise.errors import InputError
from gatewise.ops import ShapeError

T, B, D, H = 7, 11, 5, 9


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each call whether the short way served it."""
    served: list[bool] = []
    run = ops.Direct.run

    def watched(*given: Any, **named: Any) -> Any:
        results = run(*given, **named)
        served.append(results is not None)
        return results

    monkeypatch.setattr(ops.Direct, "run", watched)
    return served


def cut(kind: str, batch_first: bool) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(0, T + 1, (B,), generator=generator)
    lengths[:2] = torch.tensor([0, T])
    reset = torch.rand((B, T) if batch_first else (T, B), generator=generator) < 0.3
    both = {"lengths": lengths, "reset": reset}
    return both if kind == "both" else {kind: both[kind]}


def build(cell: str, backend: str, dtype: torch.dtype, *arguments: Any, **options: Any) -> LSTM:
    torch.manual_seed(0)
    return LSTM(D, H, *arguments, cell=cell, backend=backend, **options).to(dtype)


def native(*arguments: Any, **options: Any) -> LSTM:
    return build("lstm", BACKEND, torch.float32, *arguments, **options)


def draw(batch_first: bool) -> Tensor:
    return torch.randn((B, T, D) if batch_first else (T, B, D), generator=torch.Generator().manual_seed(1))


def step(layer: LSTM, x: Tensor, pieces: dict[str, Tensor]) -> list[Tensor]:
    """Outputs, final states and all gradients."""
    x = x.to(layer.all_weights[0][0].dtype).clone().requires_grad_()
    y, state = layer(x, **pieces)
    loss = y.sin().sum() + sum(part.cos().sum() for part in state)
    gradients = torch.autograd.grad(loss, [x, *layer.parameters()], allow_unused=True)
    return [y.detach(), *(part.detach() for part in state), *(d for d in gradients if d is not None)]


@pytest.mark.parametrize("kind", ["lengths", "reset", "both"])
@pytest.mark.parametrize("cell", ["lstm", "peephole", "fgr", "slstm", "rnn"])
@pytest.mark.parametrize("form", list(product((1, 3), (False, True), (False, True))))
@pytest.mark.usefixtures("isa")
def test_stacks_are_the_reference(cell: str, kind: str, form: tuple[int, bool, bool], taken: list[bool]):
    layers, bidirectional, batch_first = form
    x, pieces = draw(batch_first), cut(kind, batch_first)

    def made(backend: str, dtype: torch.dtype) -> LSTM:
        return build(cell, backend, dtype, layers, bidirectional=bidirectional, batch_first=batch_first)

    assert_exact(lambda backend, dtype: step(made(backend, dtype), x, pieces))
    taken.clear()
    ours = made(BACKEND, torch.float32)
    found = step(ours, x, pieces)
    with torch.no_grad():
        y, state = ours(x, **pieces)
    assert taken == [True, True]
    assert_same([y, *state], found[: 1 + len(state)])


@pytest.mark.usefixtures("isa")
def test_they_may_be_changed_between_forward_and_backward():
    ours = native(2, batch_first=True)
    x, expected = draw(True), step(ours, draw(True), cut("both", True))
    pieces = cut("both", True)
    x = x.requires_grad_()
    y, state = ours(x, **pieces)
    pieces["lengths"].fill_(1)
    pieces["reset"].logical_not_()
    loss = y.sin().sum() + sum(part.cos().sum() for part in state)
    found = torch.autograd.grad(loss, [x, *ours.parameters()])
    assert_same(list(found), expected[1 + len(state) :])


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.usefixtures("isa")
def test_second_derivatives(batch_first: bool, taken: list[bool]):
    def twice(backend: str, dtype: torch.dtype) -> list[Tensor]:
        layer = build("peephole", backend, dtype, 2, bidirectional=True, batch_first=batch_first)
        x = draw(batch_first).to(dtype).requires_grad_()
        y = layer(x, **cut("both", batch_first))[0]
        (dx,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
        return list(torch.autograd.grad(dx.square().sum(), x))

    assert_exact(twice)
    assert taken[0]


@pytest.mark.usefixtures("isa")
def test_any_strides_of_both(taken: list[bool]):
    ours = native()
    x, pieces = draw(False), cut("both", False)
    spread = torch.zeros(2 * B, dtype=torch.int64)[::2].copy_(pieces["lengths"])
    turned = pieces["reset"].t().contiguous().t()
    for mine, theirs in zip(step(ours, x, {"lengths": spread, "reset": turned}), step(ours, x, pieces), strict=True):
        assert_same([mine], [theirs])
    assert all(taken)


def shrunk(tensor: Tensor) -> Tensor:
    tensor = tensor.clone()
    tensor.untyped_storage().resize_(tensor.untyped_storage().nbytes() - 1)
    return tensor


@pytest.mark.parametrize(
    ("pieces", "error", "says"),
    [
        ({"lengths": torch.full((B,), T + 1)}, InputError, "from 0 to T"),
        ({"lengths": torch.full((B,), -1)}, InputError, "from 0 to T"),
        ({"lengths": torch.ones(B - 1, dtype=torch.int64)}, ShapeError, "one for each row"),
        ({"lengths": torch.ones(B)}, InputError, "whole numbers"),
        ({"lengths": torch.ones(1, B, dtype=torch.int64)}, ShapeError, "one for each row"),
        ({"lengths": shrunk(torch.ones(B, dtype=torch.int64))}, InputError, "storage"),
        ({"reset": torch.zeros(T, B)}, InputError, "must be bool"),
        ({"reset": torch.zeros(B, T, dtype=torch.bool)}, ShapeError, "must have shape"),
        ({"reset": shrunk(torch.zeros(T, B, dtype=torch.bool))}, InputError, "storage"),
        ({"reset": "never"}, TypeError, "torch.Tensor"),
    ],
)
def test_what_is_wrong_is_told(pieces: dict[str, Any], error: type[Exception], says: str, taken: list[bool]):
    with pytest.raises(error, match=says):
        native()(draw(False), **pieces)
    assert not any(taken)


@pytest.mark.usefixtures("isa")
def test_other_forms_of_lengths_go_the_long_way(taken: list[bool]):
    ours = native()
    x, lengths = draw(False), cut("lengths", False)["lengths"]
    expected = step(ours, x, {"lengths": lengths})
    others: list[Any] = [lengths.tolist(), lengths.int()]
    for other in others:
        assert_same(step(ours, x, {"lengths": other}), expected)
    assert taken == [True, False, False]

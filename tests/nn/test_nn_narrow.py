"""Weights and inputs of half the width: computed in float32 by the engine, rounded once."""

from typing import Any

import pytest
import torch
from differentiated import build, draw, leaves
from torch import Tensor, nn

from gatewise import LSTM
from gatewise.ops import Direction, Weights, explain, lstm
from gatewise.spec import CELLS

NARROW = [torch.bfloat16, torch.float16]
narrow = pytest.mark.parametrize("dtype", NARROW, ids=str)
KEYWORDS = {
    "lengths": torch.tensor([4, 0, 2]),
    "reset": torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 0], [1, 0, 0]]).bool(),
    "trace": True,
}


def both(cell: str, dtype: torch.dtype, **options: Any) -> tuple[LSTM, LSTM]:
    """A layer in a narrow dtype, and the same weights in float32."""
    layer = build(cell, torch.float32, **options).to(dtype)
    wide = LSTM(layer.input_size, layer.hidden_size, cell=cell, **options)
    wide.load_state_dict(layer.state_dict())
    return layer, wide


@narrow
@pytest.mark.parametrize("keywords", [{}, KEYWORDS], ids=["", "all"])
@pytest.mark.parametrize("cell", [name for name, cell in CELLS.items() if not name.startswith("conv")])
def test_results_and_gradients_are_those_of_float32_rounded(
    cell: str, keywords: dict[str, Any], dtype: torch.dtype
) -> None:
    layer, wide = both(cell, dtype, bidirectional=True, proj_size=2 if "projection" in CELLS[cell].options else 0)
    given = [tensor.to(dtype).requires_grad_() for tensor in draw(wide, 4, 3)]
    same = [tensor.detach().float().requires_grad_() for tensor in given]
    results = [leaves(run(x, tuple(hx), **keywords)) for run, (x, *hx) in ((layer, given), (wide, same))]
    for found, exact in zip(*results, strict=True):
        assert found.dtype == dtype
        assert torch.equal(found, exact.to(dtype))
    flow = [torch.linspace(-1, 1.3, v.numel()).sin().reshape(v.shape).to(dtype) for v in results[0]]
    found = torch.autograd.grad(results[0], [*given, *layer.parameters()], flow)
    exact = torch.autograd.grad(results[1], [*same, *wide.parameters()], [part.float() for part in flow])
    for one, other in zip(found, exact, strict=True):
        assert one.dtype == dtype
        assert torch.equal(one, other.to(dtype))


@narrow
def test_the_engine_is_the_first_choice(dtype: torch.dtype) -> None:
    state = (torch.zeros(2, 4, dtype=dtype),) * 2
    weights = Weights(torch.randn(16, 3, dtype=dtype), torch.randn(16, 4, dtype=dtype))
    assert explain(torch.randn(5, 2, 3, dtype=dtype), [Direction(state, weights)]).backend == "native"


@narrow
def test_given_outputs_are_written(dtype: torch.dtype) -> None:
    layer, _ = both("lstm", dtype)
    x, *hx = (tensor.to(dtype) for tensor in draw(layer.float(), 4, 3))
    layer.to(dtype)
    weights = Weights(*(parameter.detach() for parameter in layer.parameters()))
    out = torch.full((4, 3, layer.hidden_size), torch.nan, dtype=dtype)
    y, _ = lstm(x, tuple(part[0] for part in hx), weights, out=out)
    assert y is out
    with torch.no_grad():
        assert torch.equal(out, layer(x, tuple(hx))[0])


@narrow
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (50, 3, 7, 33), (20, 32, 16, 64)], ids=str)
def test_nearer_to_float64_than_torch(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    steps, rows, inputs, hidden = shape
    torch.manual_seed(0)
    ours, theirs, exact = (kind(inputs, hidden) for kind in (LSTM, nn.LSTM, LSTM))
    ours.to(dtype)
    theirs.to(dtype).load_state_dict(ours.state_dict())
    exact.double().load_state_dict(ours.state_dict())
    x = torch.randn(steps, rows, inputs).to(dtype)
    reference = exact(x.double())[0]
    error, their_error = ((layer(x)[0] - reference).abs().max() for layer in (ours, theirs))
    # One rounding of outputs below 1, and float32's own error.
    assert error <= torch.finfo(dtype).eps / 4 + 1e-6
    assert error <= their_error + 1e-6


def test_a_training_with_float32_weights_follows_that_of_float32() -> None:
    """Sums of a sequence so far: under autocast the activations are bfloat16, weights and states are not."""

    def losses(cast: bool) -> Tensor:
        torch.manual_seed(0)
        model = nn.ModuleList([LSTM(3, 24, num_layers=2), nn.Linear(24, 1)])
        optimizer = torch.optim.AdamW(model.parameters(), 0.01)
        generator, found = torch.Generator().manual_seed(1), []
        for _ in range(120):
            x = torch.randn(20, 16, 3, generator=generator)
            with torch.autocast("cpu", torch.bfloat16, enabled=cast):
                y = model[1](model[0](x)[0]).float()
            loss = nn.functional.mse_loss(y, x.cumsum(0).mean(-1, keepdim=True) / 4)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.detach())
        return torch.stack(found)

    wide, cast = losses(cast=False), losses(cast=True)
    assert wide[-10:].mean() < wide[:10].mean() / 10
    assert not torch.equal(wide, cast)
    # A rounding of 2^-9 of what the loss is made from, in each of two layers.
    assert ((cast - wide).abs() / wide).max() < 0.1
    assert ((cast - wide) / wide)[-40:].mean().abs() < 0.02

"""Weights and inputs of half the width: computed in float32 by the engine, rounded once."""

from pathlib import Path
from typing import Any

import pytest
import torch
from differentiated import build, draw, leaves
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

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


PLAIN = [name for name in CELLS if not name.startswith("conv")]
# What a mask keeps is doubled: a mask has the layer's dtype, and 2 is the same in each.
OPTIONS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    *((cell, {"proj_size": 2 if "projection" in CELLS[cell].options else 0}, {}) for cell in PLAIN),
    *((cell, {"save": "states"}, KEYWORDS) for cell in PLAIN),
    ("lstm", {"layer_norm": True, "peephole": True, "clip": 0.3, "proj_size": 2}, KEYWORDS),
    ("cifg", {"layer_norm": True, "save": "states", "nonrecurrent_proj_size": 2, "proj_size": 1}, KEYWORDS),
    ("peephole", {"zoneout": (0.3, 0.4), "recurrent_dropout": 0.5}, KEYWORDS),
    ("lstm", {"zoneout": (0.3, 0.4), "recurrent_dropout": 0.5, "proj_size": 2, "bias": False}, KEYWORDS),
]


def named(value: object) -> str:
    return " ".join(value) if isinstance(value, dict) else str(value)


@narrow
@pytest.mark.parametrize(("cell", "options", "keywords"), OPTIONS, ids=named)
def test_results_and_gradients_are_those_of_float32_rounded(
    cell: str, options: dict[str, Any], keywords: dict[str, Any], dtype: torch.dtype
) -> None:
    layer, wide = both(cell, dtype, bidirectional=True, **options)
    for each in (layer, wide):
        each.generator = torch.Generator().manual_seed(5)
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
@pytest.mark.parametrize("cell", PLAIN)
def test_gradients_of_each_sample_are_those_of_float32_rounded(cell: str, dtype: torch.dtype) -> None:
    layer, wide = both(cell, dtype, backend="native")
    x, *_ = draw(wide, 4, 3)
    flow = torch.linspace(-1, 1.3, 4 * layer.hidden_size).sin().reshape(4, -1).to(dtype)

    def each(model: LSTM, x: Tensor) -> dict[str, Tensor]:
        def loss(weights: dict[str, Tensor], x: Tensor) -> Tensor:
            return (functional_call(model, weights, (x,))[0] * flow.to(x.dtype)).sum()

        weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
        return vmap(grad(loss), (None, 1))(weights, x)

    found, exact = each(layer, x.to(dtype)), each(wide, x.to(dtype).float())
    for name, gradient in found.items():
        assert gradient.dtype == dtype
        assert gradient.any()
        assert torch.equal(gradient, exact[name].to(dtype)), name


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


def weekly_changes() -> Tensor:
    """The growth of CO2 within a year, week by week: 53 weeks a row, in standard deviations from its mean."""
    lines = (Path(__file__).parents[2] / "examples/co2/co2.csv").read_text().splitlines()[1:]
    levels = torch.tensor([float(level) for level in (line.split(",")[1] for line in lines) if level])
    growth = levels[52:] - levels[:-52]
    return ((growth - growth.mean()) / growth.std()).unfold(0, 53, 1)


@narrow
def test_a_training_on_real_data_has_the_losses_of_float32(dtype: torch.dtype) -> None:
    """Under autocast the activations are half as wide, weights and states are not."""
    windows = weekly_changes()

    def losses(cast: bool) -> Tensor:
        torch.manual_seed(0)
        model = nn.ModuleList([LSTM(1, 24, num_layers=2), nn.Linear(24, 1)])
        optimizer = torch.optim.AdamW(model.parameters(), 0.003)
        generator, found = torch.Generator().manual_seed(1), []
        for _ in range(200):
            rows = windows[torch.randint(len(windows), (32,), generator=generator)].T[..., None]
            with torch.autocast("cpu", dtype, enabled=cast):
                y = model[1](model[0](rows[:-1])[0]).float()
            loss = nn.functional.mse_loss(y, rows[1:])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.detach())
        return torch.stack(found)

    wide, cast = losses(cast=False), losses(cast=True)
    assert wide[-10:].mean() < wide[:10].mean() / 2
    assert not torch.equal(wide, cast)
    off = (cast - wide) / wide
    # At each step no more than one rounding, and on the whole far less.
    assert off.abs().max() < torch.finfo(dtype).eps / 2
    assert off[-50:].mean().abs() < torch.finfo(dtype).eps / 40

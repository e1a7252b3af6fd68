"""The reference against torch in float64, its derivatives, and its trace."""

import pytest
import torch

from gatewise.reference import Weights, scan, step
from gatewise.spec import variant

T, B, D, H = 4, 3, 2, 5


def _problem(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor], Weights]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, dtype=dtype, generator=generator)

    weights = Weights(draw(4 * H, D), draw(4 * H, H), draw(4 * H), draw(4 * H))
    return draw(T, B, D), (draw(B, H), draw(B, H)), weights


@pytest.mark.parametrize("bias", [True, False])
def test_both_directions_equal_torch(bias: bool):
    x, (h0, c0), weights = _problem()
    weights = weights if bias else weights._replace(bias_ih=None, bias_hh=None)
    flat = [w for w in weights if w is not None]
    y, h, c = torch.lstm(
        x, (torch.stack([h0, h0]), torch.stack([c0, c0])), flat + flat, bias, 1, 0.0, False, True, False
    )
    for n, reverse in enumerate([False, True]):
        ours, (h_n, c_n), _ = scan(x, (h0, c0), weights, reverse=reverse)
        torch.testing.assert_close(ours, y[..., n * H : (n + 1) * H], rtol=0, atol=1e-14)
        torch.testing.assert_close((h_n, c_n), (h[n], c[n]), rtol=0, atol=1e-14)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_trace_satisfies_the_equations(reverse: bool):
    x, (h0, c0), weights = _problem()
    y, (h_n, c_n), trace = scan(x, (h0, c0), weights, reverse=reverse, trace=True)
    assert sorted(trace) == ["c", "f", "g", "h", "i", "o"]
    assert all(values.shape == (T, B, H) for values in trace.values())
    order = list(reversed(range(T))) if reverse else list(range(T))
    before = torch.stack([c0, *(trace["c"][t] for t in order[:-1])])[[order.index(t) for t in range(T)]]
    torch.testing.assert_close(trace["c"], trace["f"] * before + trace["i"] * trace["g"])
    torch.testing.assert_close(trace["h"], trace["o"] * trace["c"].tanh())
    assert torch.equal(y, trace["h"])
    assert torch.equal(h_n, y[order[-1]])
    assert torch.equal(c_n, trace["c"][order[-1]])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_kept_and_a_scan_is_its_steps(dtype: torch.dtype):
    x, state, weights = _problem(dtype)
    y, final, _ = scan(x, state, weights)
    assert y.dtype == final[0].dtype == final[1].dtype == dtype
    for t in range(T):
        _, state, _ = step(x[t], state, weights, variant())
        assert torch.equal(y[t], state[0])
    assert torch.equal(final[1], state[1])


def test_no_steps_return_the_state():
    _, state, weights = _problem()
    y, final, trace = scan(torch.empty(0, B, D, dtype=torch.float64), state, weights, trace=True)
    assert y.shape == (0, B, H)
    assert all(values.shape == (0, B, H) for values in trace.values())
    assert final == state


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own forward mode uses it
def test_first_and_second_derivatives():
    x, state, weights = _problem()
    inputs = [tensor.requires_grad_() for tensor in (x[:2], *state, *weights) if tensor is not None]

    def run(*tensors: torch.Tensor):
        y, (h, c), _ = scan(tensors[0], (tensors[1], tensors[2]), Weights(*tensors[3:]), reverse=True)
        return y, h, c

    assert torch.autograd.gradcheck(run, inputs, fast_mode=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)

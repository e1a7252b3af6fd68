"""The functional door: what goes straight through, what is made dense, what is refused."""

import numpy as np
import pytest
import torch
from torch import Tensor

from gatewise.errors import InputError
from gatewise.ops import BACKENDS, Direction, ShapeError, Weights, layer, lstm
from gatewise.reference import State

T, B, D, H = 5, 3, 4, 6


def draw(dtype: torch.dtype = torch.float32) -> tuple[Tensor, State, Weights]:
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    weights = Weights(normal(4 * H, D) / 2, normal(4 * H, H) / 2, normal(4 * H), normal(4 * H))
    return normal(T, B, D), (normal(B, H), normal(B, H)), weights


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reverse", [False, True])
def test_out_receives_the_outputs(backend: str, reverse: bool):
    x, state, weights = draw()
    expected, _ = lstm(x, state, weights, reverse=reverse, backend="reference")
    canvas = torch.full((B, T, 2 * H), torch.nan)
    out = canvas[..., :H].transpose(0, 1)
    y, _ = lstm(x, state, weights, reverse=reverse, backend=backend, out=out)
    assert y.data_ptr() == out.data_ptr()
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)
    assert canvas[..., H:].isnan().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_both_directions_are_two_runs_side_by_side(backend: str):
    x, state, weights = draw()
    other = weights._replace(**{name: w.flip(0) for name, w in weights._asdict().items() if w is not None})
    y, states, _ = layer(x, [Direction(state, weights), Direction(state, other, True)], backend=backend)
    for n, (w, reverse) in enumerate([(weights, False), (other, True)]):
        one, final = lstm(x, state, w, reverse=reverse, backend="reference")
        torch.testing.assert_close(y[..., n * H : (n + 1) * H], one, rtol=0, atol=1e-6)
        torch.testing.assert_close(states[n], final, rtol=0, atol=1e-6)


def _negative_view(tensor: Tensor) -> Tensor:
    view = torch.complex(torch.zeros_like(tensor), -tensor).conj().imag
    assert view.is_neg()
    return view


def _misaligned(tensor: Tensor) -> Tensor:
    memory = bytearray(1 + 4 * tensor.numel())
    memory[1:] = tensor.contiguous().numpy().tobytes()
    view = torch.frombuffer(memory, dtype=torch.float32, offset=1).view(tensor.shape)
    assert view.data_ptr() % 4
    return view


MEMORY = {
    "column-major": lambda t: t.transpose(0, -1).contiguous().transpose(0, -1),
    "every second element": lambda t: torch.stack([t, t * torch.nan], dim=-1)[..., 0],
    "batch-major": lambda t: t.transpose(0, 1).contiguous().transpose(0, 1) if t.dim() > 1 else t,
    "lazy negative": _negative_view,
    "misaligned": _misaligned,
    "inside a larger tensor": lambda t: torch.nn.functional.pad(t, [3, 2], value=torch.nan)[..., 3:-2],
    "double conversion": lambda t: t.double().float(),
}


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("backend", ["native", "torch"])
def test_any_memory_gives_the_bits_of_a_clean_copy(memory: str, backend: str):
    x, (h, c), weights = draw()
    change = MEMORY[memory]
    clean = lstm(x, (h, c), weights, backend=backend)
    moved = weights._replace(**{name: change(w) for name, w in weights._asdict().items() if w is not None})
    y, final = lstm(change(x), (change(h), change(c)), moved, backend=backend)
    assert torch.equal(y, clean[0])
    assert all(torch.equal(a, b) for a, b in zip(final, clean[1], strict=True))


def test_expanded_tensors_are_read():
    x, (h, c), weights = draw()
    y, _ = lstm(x[:1, :1].expand(T, B, D), (h[:1].expand(B, H), c[:1].expand(B, H)), weights, backend="native")
    assert torch.equal(y, y[:, :1].expand(T, B, H))


def test_outputs_have_the_memory_order_of_the_inputs():
    x, state, weights = draw()
    assert lstm(x, state, weights, backend="native")[0].is_contiguous()
    y, _ = lstm(x.transpose(0, 1).contiguous().transpose(0, 1), state, weights, backend="native")
    assert y.transpose(0, 1).is_contiguous()


@pytest.mark.parametrize("backend", BACKENDS)
def test_inputs_and_states_are_left_as_they_were(backend: str):
    x, state, weights = draw()
    given = [t for t in (x, *state, *weights) if t is not None]
    kept = [t.clone() for t in given]
    lstm(x, state, weights, backend=backend)
    assert all(torch.equal(a, b) for a, b in zip(kept, given, strict=True))


def _bad_arguments() -> dict[str, tuple[type[Exception], str, dict[str, object]]]:
    x, (h, c), w = draw()
    sparse = torch.zeros(T, B, D).to_sparse()
    freed = torch.zeros(T, B, D)
    freed.untyped_storage().resize_(0)
    short = torch.zeros(T, B, D)
    short.untyped_storage().resize_(8)
    shared = torch.zeros(T, B, H + D)
    return {
        "x of two dimensions": (ShapeError, "x must have 3 dimensions", {"x": x[0]}),
        "x of another width": (ShapeError, r"weight_ih must have shape \[24, 3\]", {"x": x[..., :3]}),
        "x without features": (ShapeError, "at least 1", {"x": x[..., :0]}),
        "sparse x": (InputError, "dense", {"x": sparse}),
        "nested x": (InputError, "dense", {"x": torch.nested.nested_tensor([x[0], x[1]], layout=torch.jagged)}),
        "x of integers": (InputError, "dtype", {"x": x.long()}),
        "x of another dtype": (InputError, "h_0 has dtype torch.float32 but x has torch.float64", {"x": x.double()}),
        "x of another device": (ShapeError, "h_0 is on cpu but x is on meta", {"x": x.to("meta")}),
        "x that is no tensor": (TypeError, "x must be a torch.Tensor", {"x": x.numpy()}),
        "x whose storage was freed": (InputError, "storage", {"x": freed}),
        "x whose storage was cut": (InputError, "storage", {"x": short}),
        "h of another batch": (ShapeError, "h_0 must have shape", {"state": (h[:1], c)}),
        "c of another width": (ShapeError, "c_0 must have shape", {"state": (h, c[:, :1])}),
        "c of another dtype": (InputError, "c_0 has dtype", {"state": (h, c.double())}),
        "weight_hh of one dimension": (
            ShapeError,
            "weight_hh must have 2 dim",
            {"weights": w._replace(weight_hh=w.weight_hh[0])},
        ),
        "weight_hh of no width": (
            ShapeError,
            "weight_hh must have shape",
            {"weights": w._replace(weight_hh=w.weight_hh[:, :0])},
        ),
        "weight_hh of other rows": (
            ShapeError,
            "weight_hh must have",
            {"weights": w._replace(weight_hh=w.weight_hh[:-1])},
        ),
        "one bias": (InputError, "bias_hh must be given", {"weights": w._replace(bias_hh=None)}),
        "bias of another length": (
            ShapeError,
            "bias_ih must have",
            {"weights": w._replace(bias_ih=w.weight_ih[:3, 0])},
        ),
        "unknown backend": (InputError, "backend must be one of auto, native", {"backend": "cuda"}),
        "out of another shape": (ShapeError, "out must have shape", {"out": torch.empty(T, B, H + 1)}),
        "out of another dtype": (InputError, "out has dtype", {"out": torch.empty(T, B, H).double()}),
        "out that overlaps itself": (InputError, "share memory", {"out": torch.empty(1, B, H).expand(T, B, H)}),
        "out with a gradient": (InputError, "gradient", {"out": torch.empty(T, B, H, requires_grad=True)}),
        "out over the input": (InputError, "out must not", {"x": shared[..., :D], "out": shared[..., D:]}),
    }


@pytest.mark.parametrize("backend", ["native", "auto"])
@pytest.mark.parametrize("case", _bad_arguments())
def test_bad_arguments_raise(case: str, backend: str):
    error, text, changed = _bad_arguments()[case]
    x, state, weights = draw()
    arguments = {"x": x, "state": state, "weights": weights, "backend": backend} | changed
    with pytest.raises(error, match=text):
        lstm(**arguments)  # pyright: ignore[reportArgumentType]


OUTS = {
    "every second element": lambda: torch.full((T, B, 2 * H), torch.nan)[..., ::2],
    "features outermost": lambda: torch.full((H, B, T), torch.nan).permute(2, 1, 0),
    "misaligned": lambda: _misaligned(torch.full((T, B, H), torch.nan)),
    "lazy negative": lambda: _negative_view(torch.full((T, B, H), torch.nan)),
}


@pytest.mark.parametrize("memory", OUTS)
@pytest.mark.parametrize("backend", ["native", "torch"])
def test_an_out_that_cannot_be_written_directly_is_copied_into(memory: str, backend: str):
    x, state, weights = draw()
    out = OUTS[memory]()
    y, _ = lstm(x, state, weights, backend=backend, out=out)
    assert torch.equal(out, lstm(x, state, weights, backend=backend)[0])
    assert y is out


def test_biases_in_one_direction_only_are_refused() -> None:
    state = (torch.zeros(2, 4), torch.zeros(2, 4))
    with_bias = Weights(torch.randn(16, 3), torch.randn(16, 4), torch.randn(16), torch.randn(16))
    without = Weights(with_bias.weight_ih, with_bias.weight_hh)
    for pair in ((with_bias, without), (without, with_bias)):
        for x in (torch.randn(5, 2, 3), torch.randn(5, 2, 3, requires_grad=True)):
            with pytest.raises(InputError, match="both biases in every direction or none"):
                layer(x, [Direction(state, pair[0]), Direction(state, pair[1], True)])


def test_out_may_not_overlap_an_input_through_another_storage() -> None:
    buffer = np.zeros(6 * 2 * 4, np.float32)
    x = torch.from_numpy(buffer[: 5 * 2 * 4].reshape(5, 2, 4))
    out = torch.from_numpy(buffer[2 * 4 :].reshape(5, 2, 4))
    state = (torch.zeros(2, 4), torch.zeros(2, 4))
    with pytest.raises(InputError, match="must not share memory"):
        lstm(x, state, Weights(torch.randn(16, 4), torch.randn(16, 4)), out=out)

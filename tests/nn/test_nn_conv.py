"""The convolutional LSTM against a NumPy transcription, against LSTM where they must agree, and as a module."""

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from gatewise import LSTM, ConvLSTM
from gatewise.spec import CELLS

Array = NDArray[Any]
C, H, IMAGE = 3, 5, (3, 7)
CONVOLUTIONAL = [cell for cell in CELLS if cell != "fgr"]
BOTH: dict[str, Any] = {"num_layers": 2, "bidirectional": True}


def build(cell: str = "peephole", scale: float = 0.5, **options: Any) -> ConvLSTM:
    """Make a layer in float64 with weights from U(-scale, scale)."""
    options = {"kernel_size": (3, 5), "image_size": IMAGE, "dtype": torch.float64, "cell": cell} | options
    layer = ConvLSTM(C, H, **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-scale, scale, generator=generator)
    return layer


def draw(layer: ConvLSTM, T: int, B: int, image: tuple[int, int] = IMAGE) -> tuple[Tensor, tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(T + B)
    shape = (layer.num_layers * (1 + layer.bidirectional), B, layer.hidden_size, *image)
    names = layer.variant.cell.states
    # Nowhere zero, and above zero where a state is a normaliser.
    states = [torch.rand(shape, generator=generator, dtype=torch.float64) + 0.1 for _ in names]
    signs = [1 if name == "n" else -1 for name in names]
    x = torch.randn((T, B, layer.input_size, *image), generator=generator, dtype=torch.float64)
    return x, tuple(sign * state for sign, state in zip(signs, states, strict=True))


def assert_close(ours: Tensor, theirs: Tensor | Array, tolerance: float = 1e-12) -> None:
    expected = torch.as_tensor(theirs)
    assert ours.shape == expected.shape
    if expected.numel():
        # Written so that a NaN fails.
        assert (ours - expected).abs().max() <= tolerance * max(1.0, expected.abs().max().item())


# The transcription: Shi et al. (2015), equation 3, and its relatives.

# The gates with weights of their own and those that peep, in the order of their rows.
LEARNED = {"peephole": "ifgo", "lstm": "ifgo", "cifg": "igo", "nfg": "igo", "rnn": "g", "slstm": "ifgo"}
PEEPING = {"peephole": "ifo", "lstm": "ifo", "cifg": "io", "nfg": "io"}


def sigma(v: Array) -> Array:
    return np.exp(-np.logaddexp(0, -v))


def convolve(image: Array, window: Array) -> Array:
    """Every pixel of every output channel, tap by tap; there is nothing but zeros around the image."""
    rows, columns, ky, kx = *image.shape[2:], *window.shape[2:]
    out = np.zeros((len(image), len(window), rows, columns))
    for y, x, dy, dx in np.ndindex(rows, columns, ky, kx):
        above, left = y + dy - ky // 2, x + dx - kx // 2
        if 0 <= above < rows and 0 <= left < columns:
            out[:, :, y, x] += image[:, :, above, left] @ window[:, :, dy, dx].T
    return out


def step(cell: str, x: Array, old: dict[str, Array], w: dict[str, Array], clip: float) -> dict[str, Array]:
    v = convolve(x, w["weight_ih"]) + convolve(old["h"], w["weight_hh"])
    v += (w.get("bias_ih", np.zeros(1)) + w.get("bias_hh", np.zeros(1)))[:, None, None]
    parts = dict(zip(LEARNED[cell], np.split(v, len(LEARNED[cell]), axis=1), strict=True))
    names = PEEPING.get(cell, "") if "weight_peephole" in w else ""
    peepholes = dict(zip(names, np.split(w.get("weight_peephole", np.zeros(0)), max(len(names), 1)), strict=False))

    def gate(name: str, c: Array | None = None) -> Array:
        return np.clip(parts[name] + (peepholes[name] * c if name in peepholes else 0), -clip, clip)

    if cell == "rnn":
        return {"h": np.tanh(gate("g"))}
    c = old["c"]
    if cell == "slstm":
        log_f = -np.logaddexp(0, -gate("f"))
        m = np.maximum(log_f + old["m"], gate("i"))
        i, f = np.exp(gate("i") - m), np.exp(log_f + old["m"] - m)
        c, n = f * c + i * np.tanh(gate("g")), f * old["n"] + i
        return {"h": sigma(gate("o")) * c / n, "c": c, "n": n, "m": m}
    i = sigma(gate("i", c))
    f = {"cifg": 1 - i, "nfg": np.ones_like(i)}[cell] if cell in {"cifg", "nfg"} else sigma(gate("f", c))
    c = f * c + i * np.tanh(gate("g"))
    return {"h": sigma(gate("o", c)) * np.tanh(c), "c": c}


def transcribed(layer: ConvLSTM, x: Tensor, hx: tuple[Tensor, ...]) -> tuple[Array, list[Array]]:
    cell, names = layer.variant.cell.name, layer.variant.cell.states
    y, finals = x.numpy(), []
    for k in range(layer.num_layers):
        sides = []
        for end in ("", "_reverse")[: 1 + layer.bidirectional]:
            found = {name: value.numpy() for name, value in layer.state_dict().items()}
            w = {name.removesuffix(f"_l{k}{end}"): v for name, v in found.items() if name.endswith(f"_l{k}{end}")}
            state = {name: part[len(finals)].numpy() for name, part in zip(names, hx, strict=True)}
            outputs = []
            for image in y[:: -1 if end else 1]:
                state = step(cell, image, state, w, layer.variant.clip or np.inf)
                outputs.append(state["h"])
            sides.append(np.stack(outputs[:: -1 if end else 1]))
            finals.append(state)
        y = np.concatenate(sides, axis=2)
    return y, [np.stack([state[name] for state in finals]) for name in names]


PROBLEMS: dict[str, dict[str, Any]] = {
    "peephole": {},
    "lstm": {"cell": "lstm"},
    "lstm with peepholes": {"cell": "lstm", "peephole": True},
    "no bias": {"bias": False},
    "no peepholes": {"peephole": False},
    "cifg": {"cell": "cifg"},
    "nfg": {"cell": "nfg"},
    "rnn": {"cell": "rnn"},
    "slstm": {"cell": "slstm"},
    "clip": {"clip": 0.7},
    "saturated": {"scale": 30.0},
    "stack": {**BOTH},
    "stack of slstm": {**BOTH, "cell": "slstm"},
    "one pixel": {"image_size": (1, 1)},
    "window larger than the image": {"image_size": (1, 2), "kernel_size": (7, 9)},
    "1×1 window": {"kernel_size": 1},
}


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("T", [1, 2, 5])
def test_it_computes_what_the_paper_says(name: str, T: int):
    layer = build(**PROBLEMS[name])
    x, hx = draw(layer, T, 3, layer.image_size or IMAGE)
    with torch.no_grad():
        y, state = layer(x, hx)
    expected, finals = transcribed(layer, x, hx)
    assert_close(y, expected)
    for ours, theirs in zip(state, finals, strict=True):
        assert_close(ours, theirs)


def test_saturated_gates_are_what_they_are_called():
    layer = build(scale=30.0)
    x, hx = draw(layer, 5, 3)
    trace = layer(x, hx, trace=True)[2][0]
    for gate in "ifo":
        assert ((trace[gate] < 1e-9) | (trace[gate] > 1 - 1e-9)).double().mean() > 0.5


def test_float32_is_as_good_as_float32_can_be():
    layer = build(**BOTH, scale=0.3)
    x, hx = draw(layer, 5, 3)
    y, state = layer(x, hx)
    single, singles = copy.deepcopy(layer).float()(x.float(), tuple(part.float() for part in hx))
    for ours, theirs in ((single, y), *zip(singles, state, strict=True)):
        assert ours.dtype == torch.float32
        assert_close(ours.double(), theirs.detach(), 1e-6)


def load(lstm: LSTM, conv: ConvLSTM) -> None:
    """Give a layer of vectors the parameters of one of single pixels."""
    shapes = {name: value.shape for name, value in lstm.state_dict().items()}
    lstm.load_state_dict({name: value.reshape(shapes[name]) for name, value in conv.state_dict().items()})


@pytest.mark.parametrize("cell", CONVOLUTIONAL)
def test_on_one_pixel_it_is_the_layer_of_vectors(cell: str):
    conv = build(cell, kernel_size=1, image_size=1, **BOTH)
    lstm = LSTM(C, H, cell=cell, dtype=torch.float64, **BOTH)
    load(lstm, conv)
    x, hx = draw(conv, 5, 3, (1, 1))
    y, state = conv(x, hx)
    expected, states = lstm(x[..., 0, 0], tuple(part[..., 0, 0] for part in hx))
    assert type(state) is type(states)
    for ours, theirs in ((y, expected), *zip(state, states, strict=True)):
        assert_close(ours[..., 0, 0], theirs.detach())


def test_with_1x1_windows_and_no_peepholes_each_pixel_is_a_sequence():
    conv = build("lstm", kernel_size=1, image_size=None)
    lstm = LSTM(C, H, dtype=torch.float64)
    load(lstm, conv)
    x, _ = draw(conv, 4, 2)
    pixels = x.permute(0, 1, 3, 4, 2)
    expected = lstm(pixels.flatten(1, 3))[0].unflatten(1, pixels.shape[1:4]).permute(0, 1, 4, 2, 3)
    assert_close(conv(x)[0], expected.detach())


SMALL: dict[str, Any] = {"kernel_size": (1, 3), "image_size": (2, 2), "dtype": torch.float64}


@pytest.mark.parametrize("cell", ["peephole", "slstm"])
@pytest.mark.parametrize(("options", "T", "check"), [(BOTH, 2, "first"), ({}, 2, "second")], ids=["first", "second"])
def test_derivatives(cell: str, options: dict[str, Any], T: int, check: str):
    torch.manual_seed(0)
    layer = ConvLSTM(2, 1, cell=cell, **SMALL, **options)
    x, hx = draw(layer, T, 1, (2, 2))
    names = [name for name, _ in layer.named_parameters()]

    def run(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        parameters = dict(zip(names, rest[len(hx) :], strict=True))
        y, state = torch.func.functional_call(layer, parameters, (x, rest[: len(hx)]))
        return y, *state

    leaves = [tensor.detach().clone().requires_grad_() for tensor in (x, *hx, *layer.parameters())]
    assert (torch.autograd.gradcheck if check == "first" else torch.autograd.gradgradcheck)(run, leaves)


def alone(
    layer: ConvLSTM, x: Tensor, hx: tuple[Tensor, ...], length: int, reset: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run the pieces of one row as sequences of their own."""
    if not length:
        return x.new_zeros(len(x), 2 * H, *IMAGE), hx
    cuts = [0, *(t for t in range(1, length) if reset[t]), length]
    pieces = list(itertools.pairwise(cuts))
    outputs, states = [], []
    for k, (begin, end) in enumerate(pieces):
        # [forward, backward] of each layer: whether each starts from what is given.
        given = torch.tensor([k == 0 and not bool(reset[0]), k == len(pieces) - 1] * layer.num_layers)
        y, state = layer(x[begin:end], tuple(part * given[:, None, None, None] for part in hx))
        outputs.append(y)
        states.append(state)
    forward = torch.tensor([True, False] * layer.num_layers)[:, None, None, None]
    final = tuple(torch.where(forward, last, first) for first, last in zip(states[0], states[-1], strict=True))
    return torch.cat([*outputs, x.new_zeros(len(x) - length, 2 * H, *IMAGE)]), final


RAGGED = [[5, 5, 5, 5], [5, 0, 3, 1]]


@pytest.mark.parametrize("cell", ["peephole", "slstm"])
@pytest.mark.parametrize("lengths", RAGGED, ids=["full", "ragged"])
@pytest.mark.parametrize("restarts", [False, True])
def test_lengths_and_resets_are_pieces_run_alone(cell: str, lengths: list[int], restarts: bool):
    layer = build(cell, **BOTH)
    x, hx = draw(layer, 5, 4)
    reset = torch.tensor([[0, 1, 0, 1, 0], [1, 0, 1, 0, 0], [0, 0, 1, 0, 1], [1, 0, 0, 1, 1]], dtype=torch.bool).T
    reset = reset & restarts
    # What stands past a row's end must not matter.
    padded = x.where((torch.arange(5)[:, None] < torch.tensor(lengths))[..., None, None, None], torch.nan)
    y, state = layer(padded, hx, lengths=lengths, reset=reset)
    for b, length in enumerate(lengths):
        expected, final = alone(layer, x[:, b], tuple(part[:, b] for part in hx), length, reset[:, b])
        assert_close(y[:, b], expected.detach())
        for ours, theirs in zip(state, final, strict=True):
            assert_close(ours[:, b], theirs.detach())


def test_batch_first_swaps_the_first_two_dimensions():
    layer, swapped = build(**BOTH), build(**BOTH, batch_first=True)
    x, hx = draw(layer, 5, 3)
    reset = torch.tensor([[False, True, False], [True, False, False]] * 2 + [[False] * 3])
    y, state, traces = layer(x, hx, lengths=[5, 2, 4], reset=reset, trace=True)
    other, same, seen = swapped(x.transpose(0, 1), hx, lengths=[5, 2, 4], reset=reset.T, trace=True)
    assert torch.equal(y, other.transpose(0, 1))
    assert all(torch.equal(a, b) for a, b in zip(state, same, strict=True))
    for a, b in zip(traces, seen, strict=True):
        assert all(torch.equal(a[name], b[name].transpose(0, 1)) for name in a)


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_single_sequence_is_a_batch_of_one(batch_first: bool):
    layer = build(**BOTH, batch_first=batch_first)
    x, hx = draw(layer, 5, 1)
    reset = torch.tensor([False, False, True, False, True])
    y, state, traces = layer(x[:, 0], tuple(part[:, 0] for part in hx), reset=reset, trace=True)
    whole, states, _ = build(**BOTH)(x, hx, reset=reset[:, None], trace=True)
    assert y.shape == (5, 2 * H, *IMAGE)
    assert_close(y, whole[:, 0].detach())
    assert all(torch.equal(a, b[:, 0]) for a, b in zip(state, states, strict=True))
    assert traces[3]["g"].shape == (5, H, *IMAGE)


@pytest.mark.parametrize(("T", "B"), [(0, 2), (3, 0), (0, 0)])
@pytest.mark.parametrize("gradient", [False, True])
def test_empty_batches_and_sequences(T: int, B: int, gradient: bool):
    layer = build(**BOTH)
    x, hx = draw(layer, T, B)
    with torch.set_grad_enabled(gradient):
        y, state, traces = layer(x, hx, trace=True)
    assert y.shape == (T, B, 2 * H, *IMAGE)
    assert all(trace["f"].shape == (T, B, H, *IMAGE) for trace in traces)
    assert all(part.shape == given.shape for part, given in zip(state, hx, strict=True))
    if not T:
        assert all(torch.equal(part, given) for part, given in zip(state, hx, strict=True))


def test_the_trace_is_what_the_layers_computed():
    layer = build(**BOTH)
    x, hx = draw(layer, 4, 2)
    y, state, traces = layer(x, hx, trace=True)
    assert [list(trace) for trace in traces] == [["i", "f", "g", "o", "h", "c"]] * 4
    assert torch.equal(torch.cat([traces[2]["h"], traces[3]["h"]], 2), y)
    for k, trace in enumerate(traces):
        assert torch.equal(trace["c"][0 if k % 2 else -1], state.c[k])
        assert_close(trace["h"], (trace["o"] * trace["c"].tanh()).detach())


def test_a_sequence_can_be_cut_anywhere():
    layer = build(num_layers=2)
    x, hx = draw(layer, 5, 2)
    whole, final = layer(x, hx)
    first, state = layer(x[:2], hx)
    second, last = layer(x[2:], state)
    assert_close(torch.cat([first, second]), whole.detach())
    assert all(torch.equal(a, b) for a, b in zip(last, final, strict=True))


@pytest.mark.parametrize("cell", ["peephole", "rnn"])
def test_the_state_is_zero_unless_given(cell: str):
    layer = build(cell)
    x, hx = draw(layer, 3, 2)
    zeros = tuple(torch.zeros_like(part) for part in hx)
    y, _ = layer(x)
    assert torch.equal(y, layer(x, zeros)[0])
    assert not torch.allclose(y, layer(x, hx)[0])
    if len(hx) == 1:
        assert torch.equal(layer(x, hx[0])[0], layer(x, hx)[0])


def test_without_peepholes_images_of_any_size_will_do():
    layer = ConvLSTM(C, H, 3, cell="lstm")
    assert [layer(torch.zeros(2, 1, C, *image))[0].shape[-2:] for image in ((4, 5), (9, 2))] == [(4, 5), (9, 2)]

"""First and second derivatives of every cell and option against finite differences, and gradients beside padding."""

import math
from typing import Any

import pytest
import torch
from differentiated import BOTH, CELLS, Flat, Function, assert_close, build, draw, gradients, leaves
from torch.autograd import gradcheck, gradgradcheck

from gatewise import LSTM

# Said by torch when its own rules for forward mode are first loaded.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

PEEPING = ["lstm", "lstm-1997", "peephole", "nig", "nfg", "nog", "niaf", "noaf", "cifg", "np", "fgr"]
NORMED = [cell for cell in PEEPING if cell != "fgr"]
PROJECTED = {"proj_size": 2}
SAK = {"proj_size": 2, "nonrecurrent_proj_size": 1}


def options_of(cell: str) -> list[dict[str, Any]]:
    """List every option that is defined for a cell."""
    chosen: list[dict[str, Any]] = [{"clip": 0.5}, {"bias": False}]
    if cell != "slstm":
        chosen += [{"zoneout": (0.3, 0.2) if cell in PEEPING else (0.3, 0)}, {"learned_state": True}]
    if cell in PEEPING:
        chosen += [{"peephole": True}, {"peephole": False}, PROJECTED, SAK]
    if cell in NORMED:
        chosen += [{"layer_norm": True}, {"layer_norm": True, "peephole": True, **SAK}]
    return chosen


OPTIONS = [(cell, options) for cell in CELLS for options in options_of(cell)]
STACKS = [
    ("lstm", {"num_layers": 3, "residual": True, "bidirectional": True}),
    ("cifg", {"num_layers": 4, "residual": True, **SAK}),
    ("slstm", {"num_layers": 3, "residual": True, "batch_first": True}),
    ("peephole", {"learned_state": True, "layer_norm": True, **BOTH}),
    ("fgr", {"learned_state": True, "clip": 0.5, "zoneout": 0.3, **BOTH}),
]
RANDOM = [
    ("lstm", {"dropout": 0.4, "num_layers": 2}),
    ("peephole", {"recurrent_dropout": 0.4, "bidirectional": True}),
    ("fgr", {"weight_drop": 0.4, "recurrent_dropout": 0.3}),
    ("cifg", {"zoneout": (0.4, 0.3), "bidirectional": True, **SAK}),
    ("rnn", {"zoneout": 0.4, "weight_drop": 0.4, "dropout": 0.4, "num_layers": 2}),
    ("slstm", {"weight_drop": 0.4, "recurrent_dropout": 0.4}),
]
RAGGED = [
    *((cell, {"bidirectional": True}) for cell in CELLS),
    ("lstm", {"learned_state": True, "zoneout": 0.3, **BOTH}),
    ("peephole", {"learned_state": True, "layer_norm": True, **SAK, **BOTH}),
]
LENGTHS = torch.tensor([2, 0, 4])
RESET = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 1], [1, 1, 0]]).bool()
KEYWORDS = {
    "lengths": {"lengths": LENGTHS},
    "reset": {"reset": RESET},
    "trace": {"trace": True},
    "all": {"lengths": LENGTHS, "reset": RESET, "trace": True},
}


TOLERANCES: dict[str, Any] = {"atol": 1e-7, "rtol": 1e-6}


def check(function: Function, T: int = 3, B: int = 2) -> None:
    """Compare reverse, forward and second derivatives with finite differences, along random directions."""
    flat = Flat(function, T, B)
    assert gradcheck(flat, flat.point, **TOLERANCES, fast_mode=True, check_forward_ad=True)
    assert gradgradcheck(flat, flat.point, **TOLERANCES, fast_mode=True, check_fwd_over_rev=True)


@pytest.mark.parametrize("cell", CELLS)
def test_every_entry_of_every_cells_jacobian(cell: str):
    function = Function(build(cell))
    point = function.point(2, 2)
    assert gradcheck(function, point, **TOLERANCES, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(function, point, **TOLERANCES, fast_mode=True)


@pytest.mark.parametrize(("cell", "options"), OPTIONS, ids=str)
def test_every_option(cell: str, options: dict[str, Any]):
    layer = build(cell, **options).eval()
    check(Function(layer), T=2)


@pytest.mark.parametrize(("cell", "options"), STACKS, ids=str)
def test_stacks(cell: str, options: dict[str, Any]):
    check(Function(build(cell, **options).eval(), trace=True))


@pytest.mark.parametrize(("cell", "options"), RANDOM, ids=str)
def test_masks_that_are_drawn_again(cell: str, options: dict[str, Any]):
    function = Function(build(cell, **options, generator=torch.Generator()))
    point = function.point(3)
    drawn = function(*point)[0]
    function.layer.eval()
    assert not torch.allclose(drawn, function(*point)[0])
    function.layer.train()
    check(function)


@pytest.mark.parametrize(("cell", "options"), RAGGED, ids=str)
def test_lengths_resets_and_traces(cell: str, options: dict[str, Any]):
    check(Function(build(cell, **options).eval(), **KEYWORDS["all"]), T=4, B=3)


@pytest.mark.parametrize("keywords", ["lengths", "reset", "trace"])
@pytest.mark.parametrize("cell", ["lstm", "peephole"])
def test_each_keyword_alone(cell: str, keywords: str):
    check(Function(build(cell, bidirectional=True), **KEYWORDS[keywords]), T=4, B=3)


@pytest.mark.parametrize("cell", ["lstm", "peephole", "slstm", "rnn"])
def test_default_states(cell: str):
    # slstm starts from n = 0, where its stabiliser counts as -inf.
    layer = build(cell, bidirectional=True)
    x = draw(layer, 3)[0].requires_grad_()

    def function(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return leaves(layer(x, reset=torch.tensor([[True, False], [False, True], [False, False]])))

    assert gradcheck(function, x, **TOLERANCES, check_forward_ad=True)
    assert gradgradcheck(function, x, **TOLERANCES)


@pytest.mark.parametrize("cell", CELLS)
def test_clip_is_reached(cell: str):
    # Else the checks above would be of the unclipped cell.
    clipped, free = build(cell, clip=0.5), build(cell)
    x, *hx = draw(free, 3)
    assert not torch.allclose(clipped(x, tuple(hx))[0], free(x, tuple(hx))[0])


@pytest.mark.parametrize("cell", CELLS)
def test_resets_past_a_rows_end_change_nothing(cell: str):
    layer = build(cell, **BOTH)
    x, *hx = (tensor.requires_grad_() for tensor in draw(layer, 4, 3))
    past = torch.arange(4)[:, None] >= LENGTHS
    results = []
    for reset in (RESET & ~past, RESET | past):
        values = leaves(layer(x, tuple(hx), lengths=LENGTHS, reset=reset, trace=True))
        results.append([*values, *gradients(values, [x, *hx, *layer.parameters()])])
    assert_close(results[1], results[0])


POISON = [math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("poison", POISON[:2])
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_what_stands_in_the_padding_reaches_no_gradient(cell: str, trace: bool, backend: str, poison: float):
    layer = build(cell, bidirectional=True, backend=backend)
    x, *hx = draw(layer, 4, 3)
    padding = torch.arange(4)[:, None] >= LENGTHS
    results = []
    for filler in (0.0, poison):
        inputs = [x.masked_fill(padding[..., None], filler), *(part.clone() for part in hx)]
        inputs = [tensor.requires_grad_() for tensor in inputs]
        values = leaves(layer(inputs[0], tuple(inputs[1:]), lengths=LENGTHS, trace=trace))
        results.append([*values, *gradients(values, [*inputs, *layer.parameters()])])
        assert not results[-1][len(values)][padding].any()
    assert_close(results[1], results[0], tolerance=0)


@pytest.mark.parametrize("poison", POISON)
@pytest.mark.parametrize("cell", ["lstm", "peephole"])
def test_padding_in_float32_and_in_second_derivatives(cell: str, poison: float):
    layer = build(cell, torch.float32, **BOTH)
    x = draw(layer, 4, 3)[0]
    padding = (torch.arange(4)[:, None] >= LENGTHS)[..., None]
    results = []
    for filler in (0.0, poison):
        given = x.masked_fill(padding, filler).requires_grad_()
        first = torch.autograd.grad(layer(given, lengths=LENGTHS)[0].square().sum(), given, create_graph=True)
        results.append([*first, *gradients([first[0].square()], [given, *layer.parameters()])])
    assert_close(results[1], results[0], tolerance=0)


SECOND = [
    ("lstm", {}),
    ("lstm", BOTH),
    ("lstm", {"bidirectional": True, "proj_size": 2}),
    ("peephole", BOTH),
    ("slstm", {}),
    ("cifg", SAK),
]


@pytest.mark.parametrize("keywords", [{}, {"lengths": LENGTHS}], ids=["whole", "lengths"])
@pytest.mark.parametrize(("cell", "options"), SECOND, ids=str)
def test_double_backward_in_float32(cell: str, options: dict[str, Any], keywords: dict[str, Any]):
    # The vanilla cell runs on torch's own layer in float32, whose second derivative is torch's.
    results = []
    for dtype, backend in ((torch.float32, "auto"), (torch.float64, "reference")):
        layer = build(cell, dtype, backend=backend, **options)
        inputs = [tensor.requires_grad_() for tensor in draw(layer, 4, 3)]
        values = leaves(layer(inputs[0], tuple(inputs[1:]), **keywords))
        wanted = [*inputs, *layer.parameters()]
        first = torch.autograd.grad(
            torch.stack([value.square().sum() for value in values]).sum(), wanted, create_graph=True
        )
        results.append([*first, *gradients(first, wanted)])
    assert_close(*results, tolerance=2e-6)


def test_some_gradients_are_not_wanted():
    layer = build("peephole", **BOTH)
    x, *hx = draw(layer)
    full = gradients(leaves(layer(x.requires_grad_(), tuple(hx))), [x, *layer.parameters()])
    names = [name for name, _ in layer.named_parameters()]
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_(name == "weight_peephole_l0_reverse")
    frozen: LSTM = layer
    found = gradients(leaves(frozen(x.detach(), tuple(hx))), [frozen.get_parameter("weight_peephole_l0_reverse")])
    assert_close(found, [full[1 + names.index("weight_peephole_l0_reverse")]])

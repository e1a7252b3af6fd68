"""torch.export with dynamic batch and length, saved programs, and the operators behind compiled and exported layers."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from differentiated import BOTH, CELLS, assert_close, build, draw, gradients, leaves
from torch import Tensor
from torch.export import Dim, ExportedProgram, export, load, save

import gatewise.ops
from gatewise import LSTM
from gatewise.ops import Weights
from gatewise.ops.call import Call, Direction, describe, tensors
from gatewise.spec import variant

T, B = Dim("T", min=2, max=4096), Dim("B", min=2, max=4096)
SIZES = [(5, 4), (3, 7), (40, 2)]


def keywords_of(steps: int, rows: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(steps)
    lengths = torch.randint(0, steps + 1, (rows,), generator=generator)
    lengths[0] = steps
    return {"lengths": lengths, "reset": torch.rand(steps, rows, generator=generator) < 0.3, "trace": True}


def exported(layer: LSTM, *, with_state: bool, with_keywords: bool, strict: bool = False) -> ExportedProgram:
    x, *hx = draw(layer, 6, 5)
    shapes: dict[str, Any] = {"input": {0: T, 1: B}, "hx": tuple({1: B} for _ in hx) if with_state else None}
    keywords = keywords_of(6, 5) if with_keywords else {}
    if with_keywords:
        shapes |= {"lengths": {0: B}, "reset": {0: T, 1: B}, "trace": None}
    given = (x, tuple(hx) if with_state else None)
    return export(layer, given, keywords, dynamic_shapes=shapes, strict=strict)


def assert_runs_at_other_sizes(
    program: ExportedProgram, layer: LSTM, *, with_state: bool = True, with_keywords: bool = False
) -> None:
    module = program.module()
    for steps, rows in SIZES:
        x, *hx = draw(layer, steps, rows)
        state = tuple(hx) if with_state else None
        keywords = keywords_of(steps, rows) if with_keywords else {}
        found, expected = module(x, state, **keywords), layer(x, state, **keywords)
        assert type(found[1]) is type(expected[1])
        assert_close(leaves(found), leaves(expected))


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_at_other_sizes(cell: str):
    layer = build(cell)
    assert_runs_at_other_sizes(exported(layer, with_state=True, with_keywords=False), layer)


OPTIONS = [
    ("lstm", BOTH),
    ("peephole", {"layer_norm": True, "learned_state": True, **BOTH}),
    ("slstm", {"num_layers": 3, "residual": True}),
    ("cifg", {"proj_size": 2, "nonrecurrent_proj_size": 1, "zoneout": 0.3}),
]


@pytest.mark.parametrize(
    ("cell", "options", "strict"), [*((*row, False) for row in OPTIONS), (*OPTIONS[1], True)], ids=str
)
def test_options_lengths_resets_and_traces(cell: str, options: dict[str, Any], strict: bool):
    layer = build(cell, **options).eval()
    how = {"with_state": not layer.learned_state, "with_keywords": True}
    assert_runs_at_other_sizes(exported(layer, **how, strict=strict), layer, **how)


def test_a_program_is_as_small_as_its_layers():
    sizes = []
    for steps in (4, 400):
        program = export(build("peephole"), (draw(build("peephole"), steps)[0],))
        sizes.append(len(program.graph.nodes))
        names = [str(node.target) for node in program.graph.nodes]
        assert sum("layer_forward" in name for name in names) == 1
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("cell", ["lstm", "rnn", "fgr", "slstm"])
def test_a_program_is_saved_and_loaded(cell: str):
    layer = build(cell, **BOTH)
    file = io.BytesIO()
    save(exported(layer, with_state=True, with_keywords=True), file)
    file.seek(0)
    assert_runs_at_other_sizes(load(file), layer, with_keywords=True)


def test_another_process_loads_a_program(tmp_path: Path):
    layer = build("cifg")
    save(exported(layer, with_state=False, with_keywords=False), tmp_path / "layer.pt2")
    x = draw(layer, 7, 3)[0]
    torch.save(x, tmp_path / "x.pt")
    code = (
        "import sys, torch, gatewise.nn;"
        "program = torch.export.load(sys.argv[1] + '/layer.pt2');"
        "y, state = program.module()(torch.load(sys.argv[1] + '/x.pt'), None);"
        "torch.save([y, state.h, state.c], sys.argv[1] + '/y.pt')"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert_close(torch.load(tmp_path / "y.pt"), leaves(layer(x)))


def test_an_exported_layer_can_be_trained():
    layer = build("peephole", **BOTH)
    module = exported(layer, with_state=True, with_keywords=False).module()
    x, *hx = (tensor.requires_grad_() for tensor in draw(layer, 5, 3))
    found = gradients(leaves(module(x, tuple(hx))), [x, *hx, *module.parameters()])
    named = dict(layer.named_parameters())
    same = [named[name] for name, _ in module.named_parameters()]
    assert_close(found, gradients(leaves(layer(x, tuple(hx))), [x, *hx, *same]))


def operands(cell: str, T: int = 4) -> tuple[list[Tensor], Tensor, Tensor, str]:
    """The arguments of the operator for a bidirectional layer with everything."""
    kind, generator = variant(cell), torch.Generator().manual_seed(0)

    def draws(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    directions = [
        Direction(
            tuple(draws(2, size) for size in kind.state_sizes(3).values()),
            Weights(**{name: draws(*shape) for name, shape in kind.shapes(2, 3).items()}),
            reverse,
        )
        for reverse in (False, True)
    ]
    lengths, reset = torch.tensor([T, 1]), torch.rand(T, 2, generator=generator) < 0.3
    call = Call(draws(T, 2, 2), directions, kind, lengths, reset, trace=True)
    given = tensors(call)
    return given, lengths, reset, describe(call, "auto", range(len(given)))


# One of its checks is left out: gradients come with the function around the operators.
CHECKS = ("test_schema", "test_faketensor", "test_aot_dispatch_static", "test_aot_dispatch_dynamic")


@pytest.mark.parametrize("cell", ["lstm", "slstm", "fgr"])
def test_the_forward_operator(cell: str):
    torch.library.opcheck(torch.ops.gatewise.layer_forward.default, operands(cell), test_utils=CHECKS)


@pytest.mark.parametrize("cell", ["lstm", "slstm", "fgr"])
def test_the_backward_operator(cell: str):
    given, *rest = operands(cell)
    gradients = [torch.ones_like(y) for y in torch.ops.gatewise.layer_forward(given, *rest)]
    wanted = {"wanted": [place % 3 != 1 for place in range(len(given))]}
    found = torch.ops.gatewise.layer_backward(gradients, given, *rest, **wanted)
    assert len(found) == sum(wanted["wanted"])
    assert all(bool(gradient.any()) for gradient in found)
    operator = torch.ops.gatewise.layer_backward.default
    torch.library.opcheck(operator, (gradients, given, *rest), wanted, test_utils=CHECKS)


@pytest.mark.parametrize("hidden", [torch.no_grad, torch.inference_mode, torch._C._AutoDispatchBelowAutograd])
@pytest.mark.parametrize("cell", ["lstm", "peephole"])
def test_the_backward_operator_where_autograd_is_off(cell: str, hidden: Any):
    # Compiled graphs run their operators so.
    given, *rest = operands(cell)
    gradients = [torch.ones_like(y) for y in torch.ops.gatewise.layer_forward(given, *rest)]
    wanted = {"wanted": [True] * len(given)}
    expected = torch.ops.gatewise.layer_backward(gradients, given, *rest, **wanted)
    with hidden():
        assert_close(torch.ops.gatewise.layer_backward(gradients, given, *rest, **wanted), expected)


def test_the_operators_are_there_with_the_door():
    assert gatewise.ops.layer
    assert torch.ops.gatewise.layer_forward

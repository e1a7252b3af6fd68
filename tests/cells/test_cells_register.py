"""A new cell is a new row: cells that the table does not have, made of existing parts, train and are shown."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gatewise import LSTM
from gatewise.cli import main
from gatewise.spec import CELLS, Cell, Gate, register, variant
from gatewise.spec.cells import _table
from gatewise.spec.equations import equations

I, F, G, O = CELLS["lstm"].gates  # noqa: E741 - their names

# Free forget gate, as in ParaRNN; another order of rows; another candidate; gates that see two gates.
ROWS = [
    replace(
        CELLS["lstm"],
        name="cfig",
        title="input gate coupled to the forget gate",
        gates=(Gate("i", "identity", "input gate", kind="coupled", complement="f"), F, G, O),
        peephole=True,
        paper="Nobody and No One (2001). A coupling.",
    ),
    replace(
        CELLS["lstm"], name="turned", title="rows from o to i", gates=(O, G, F, I), output_squash="centred_sigmoid"
    ),
    replace(
        CELLS["nog"],
        name="centred-nog",
        title="no output gate, candidate around zero",
        gates=(I, F, replace(G, squash="centred_sigmoid"), *CELLS["nog"].gates[3:]),
    ),
    replace(CELLS["lstm"], name="sees-two", title="gates that see o and f", sees=("o", "f"), peephole=True),
    replace(CELLS["slstm"], name="slstm-tanh", title="slstm, squashed", output_squash="tanh"),
]
STATES = {"sees-two": ("h", "c", "o", "f"), "slstm-tanh": ("h", "c", "n", "m")}
TRACED = {"cfig": "ifgo", "turned": "ogfi", "centred-nog": "ifg", "sees-two": "ifgo", "slstm-tanh": "ifgo"}

rows = pytest.mark.parametrize("cell", ROWS, ids=lambda cell: cell.name, indirect=True)


@pytest.fixture
def cell(request: pytest.FixtureRequest) -> Iterator[Cell]:
    """A row in the table, for one test."""
    assert request.param.name not in CELLS
    yield register(request.param)
    del _table[request.param.name]


def echo(steps: int = 12, delay: int = 2) -> tuple[Tensor, Tensor]:
    """Return random inputs, and as targets what they were some steps before."""
    x = torch.rand(steps, 32, 1, generator=torch.Generator().manual_seed(0))
    return x[delay:], x[:-delay]


def losses(layer: nn.Module, head: nn.Module, epochs: int) -> list[float]:
    x, y = echo()
    optimiser = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=0.03)
    history = []
    for _ in range(epochs):
        loss = (head(layer(x)[0])[2:] - y[2:]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(loss.item())
    return history


@rows
def test_a_registered_cell_learns(cell: Cell):
    torch.manual_seed(1)
    history = losses(LSTM(1, 12, cell=cell.name), nn.Linear(12, 1), 150)
    # Without memory the best is the variance, 1/12.
    assert history[0] > 1 / 12
    assert history[-1] < 1 / 12 / 10


@rows
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "clip": 0.7}], ids=str)
def test_its_gradients_are_right(cell: Cell, options: dict[str, Any]):
    torch.manual_seed(2)
    layer = LSTM(2, 2, cell=cell.name, dtype=torch.float64, **options)
    x = torch.randn(3, 1, 2, dtype=torch.float64, requires_grad=True)
    names, values = zip(*layer.named_parameters(), strict=True)

    def run(x: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        output, state = torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))
        return output, *state

    assert torch.autograd.gradcheck(run, (x, *values))


@rows
def test_its_states_gates_and_parameters_have_their_names(cell: Cell):
    layer = LSTM(2, 3, cell=cell.name)
    _, state, traces = layer(torch.randn(5, 2, 2), trace=True)
    states = STATES.get(cell.name, ("h", "c"))
    assert state._fields == cell.states == states
    assert set(traces[0]) == {*TRACED[cell.name], *states}
    assert {name: tuple(value.shape) for name, value in layer.named_parameters()} == {
        f"{name}_l0": shape for name, shape in variant(cell.name).shapes(2, 3).items()
    }


@rows
def test_what_it_computes_can_be_cut_anywhere_and_is_that_of_the_reference(cell: Cell):
    torch.manual_seed(3)
    layer = LSTM(2, 3, cell=cell.name, dtype=torch.float64)
    reference = LSTM(2, 3, cell=cell.name, dtype=torch.float64, backend="reference")
    reference.load_state_dict(layer.state_dict())
    x = torch.randn(9, 4, 2, dtype=torch.float64)
    whole, final = reference(x)
    with torch.no_grad():
        first, between = layer(x[:4])
        second, last = layer(x[4:], between)
    for ours, theirs in zip((torch.cat([first, second]), *last), (whole, *final), strict=True):
        assert (ours - theirs).abs().max() <= 1e-12 * max(1.0, theirs.abs().max().item())


@rows
def test_the_command_shows_it(cell: Cell, capsys: pytest.CaptureFixture[str]):
    assert main(["cells"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.split()[0] == cell.name
    assert cell.title in line
    assert main(["cells", cell.name]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {equation}\n" in shown for equation in equations(variant(cell.name)))


EQUATIONS = {
    "cfig": [
        "f = σ(W_f x + U_f h₋ + p_f ⊙ c₋ + b_f)",
        "i = 1 − f",
        "g = tanh(W_g x + U_g h₋ + b_g)",
        "c = f ⊙ c₋ + i ⊙ g",
        "o = σ(W_o x + U_o h₋ + p_o ⊙ c + b_o)",
        "h = o ⊙ tanh(c)",
    ],
    "turned": [*equations(variant("lstm"))[:-1], "h = o ⊙ (2σ(c) − 1)"],
    "centred-nog": [*equations(variant("nog"))[:2], "g = 2σ(W_g x + U_g h₋ + b_g) − 1", *equations(variant("nog"))[3:]],
    "sees-two": [
        "i = σ(W_i x + U_i h₋ + p_i ⊙ c₋ + b_i)",
        "f = σ(W_f x + U_f h₋ + R_fo o₋ + R_ff f₋ + p_f ⊙ c₋ + b_f)",
        "g = tanh(W_g x + U_g h₋ + b_g)",
        "c = f ⊙ c₋ + i ⊙ g",
        "o = σ(W_o x + U_o h₋ + R_oo o₋ + R_of f₋ + p_o ⊙ c + b_o)",
        "h = o ⊙ tanh(c)",
    ],
    "slstm-tanh": [*equations(variant("slstm"))[:-1], "h = o ⊙ tanh(c / n)"],
}


@rows
def test_its_equations_follow_from_its_row(cell: Cell):
    assert list(equations(variant(cell.name))) == EQUATIONS[cell.name]

r"""The table of cells. A new cell is a new row."""

from types import MappingProxyType

from gatewise.spec.cell import Cell, Gate

LSTM = Cell(
    name="lstm",
    gates=(
        Gate("i", "sigmoid", "input gate: how much of the candidate enters the cell"),
        Gate("f", "sigmoid", "forget gate: how much of the cell stays"),
        Gate("g", "tanh", "candidate: what could enter the cell"),
        Gate("o", "sigmoid", "output gate: how much of the cell is shown"),
    ),
    states=("h", "c"),
    output_squash="tanh",
    equations=(
        "i = σ(W_i x + U_i h₋ + b_i)",
        "f = σ(W_f x + U_f h₋ + b_f)",
        "g = tanh(W_g x + U_g h₋ + b_g)",
        "o = σ(W_o x + U_o h₋ + b_o)",
        "c = f ⊙ c₋ + i ⊙ g",
        "h = o ⊙ tanh(c)",
    ),
    latex=r"""\begin{aligned}
i_t &= \sigma(W_i x_t + U_i h_{t-1} + b_i) \\
f_t &= \sigma(W_f x_t + U_f h_{t-1} + b_f) \\
g_t &= \tanh(W_g x_t + U_g h_{t-1} + b_g) \\
o_t &= \sigma(W_o x_t + U_o h_{t-1} + b_o) \\
c_t &= f_t \odot c_{t-1} + i_t \odot g_t \\
h_t &= o_t \odot \tanh(c_t)
\end{aligned}""",
    paper="Gers, Schmidhuber and Cummins (2000). Learning to forget: continual prediction with LSTM.",
)

CELLS = MappingProxyType({cell.name: cell for cell in (LSTM,)})
"""Every cell by its name."""

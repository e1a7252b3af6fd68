"""What a row of the cell table holds."""

from dataclasses import dataclass
from typing import Literal

Squash = Literal["sigmoid", "tanh"]


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate: a block of H rows in the weights, and the function that squashes its pre-activation."""

    name: str
    squash: Squash
    meaning: str


@dataclass(frozen=True, slots=True)
class Cell:
    """A recurrent cell.

    Attributes:
        name: the word users choose the cell by.
        gates: the gates in the order in which their rows lie in ``weight_ih``, ``weight_hh`` and the biases. Nothing
            else in the project states an order: whoever needs a gate asks for it by name.
        states: what is carried from step to step; the first one is the output.
        output_squash: the function between the cell state and the output.
        equations: one step as text, one line each.
        latex: the same for documents.
        paper: where the cell was published.
    """

    name: str
    gates: tuple[Gate, ...]
    states: tuple[str, ...]
    output_squash: Squash
    equations: tuple[str, ...]
    latex: str
    paper: str

    @property
    def gate_names(self) -> tuple[str, ...]:
        """The names of the gates, in the order of their rows."""
        return tuple(gate.name for gate in self.gates)

    def rows(self, gate: str, hidden: int) -> slice:
        """Return the rows of one gate in weights that have ``len(gates) * hidden`` rows."""
        start = self.gate_names.index(gate) * hidden
        return slice(start, start + hidden)

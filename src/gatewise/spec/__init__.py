"""The cells as data: which gates, in which order, which states, which equations. No torch."""

from gatewise.spec.cell import Cell, Gate, Squash
from gatewise.spec.cells import CELLS, LSTM

__all__ = ["CELLS", "LSTM", "Cell", "Gate", "Squash"]

"""The functional door to the cells: checks, shapes, and the choice of a backend."""

from gatewise.ops.checks import ShapeError
from gatewise.ops.lstm import bilstm, explain, lstm
from gatewise.ops.support import BACKENDS, Choice
from gatewise.reference import Weights

__all__ = ["BACKENDS", "Choice", "ShapeError", "Weights", "bilstm", "explain", "lstm"]

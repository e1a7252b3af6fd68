"""The functional door to the cells: checks, shapes, and the choice of a backend."""

from gatewise.ops.call import Direction, Result
from gatewise.ops.checks import ShapeError
from gatewise.ops.direct import DIRECT, Direct, undisturbed
from gatewise.ops.layer import explain, layer, lstm
from gatewise.ops.support import BACKENDS, Choice
from gatewise.reference import Noise, Weights

__all__ = [
    "BACKENDS",
    "DIRECT",
    "Choice",
    "Direct",
    "Direction",
    "Noise",
    "Result",
    "ShapeError",
    "Weights",
    "explain",
    "layer",
    "lstm",
    "undisturbed",
]

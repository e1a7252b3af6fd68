"""The cells as data: which gates, in which order, which states, which equations. No torch."""

from gatewise.spec.cell import EVERY_OPTION, Cell, Gate, Option, Squash, Update
from gatewise.spec.cells import BUILT_IN, CELLS, LSTM, register
from gatewise.spec.variant import Shapes, Variant, check_flag, check_option, parse_variant, state_type, variant

__all__ = [
    "BUILT_IN",
    "CELLS",
    "EVERY_OPTION",
    "LSTM",
    "Cell",
    "Gate",
    "Option",
    "Shapes",
    "Squash",
    "Update",
    "Variant",
    "check_flag",
    "check_option",
    "parse_variant",
    "register",
    "state_type",
    "variant",
]

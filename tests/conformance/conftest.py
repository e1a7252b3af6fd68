"""Every instruction set in turn, for the tests that compute."""

from instruction_sets import isa

__all__ = ["isa"]  # passed on

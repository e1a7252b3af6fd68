"""The equations in plain torch, any floating dtype: the executable definition of every cell.

Slow on purpose. Every other engine is tested against this one.
"""

from gatewise.reference.lstm import State, Weights, scan, step

__all__ = ["State", "Weights", "scan", "step"]

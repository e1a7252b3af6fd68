"""The equations in plain torch, any floating dtype: the executable definition of every cell.

Slow on purpose. Every other engine is tested against this one.
"""

from gatewise.reference.cell import State, Weights, step
from gatewise.reference.scan import Noise, Scan, over_time, scan, traced_names

__all__ = ["Noise", "Scan", "State", "Weights", "over_time", "scan", "step", "traced_names"]

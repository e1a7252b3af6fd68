"""The reference as a backend."""

import torch
from torch import Tensor

from gatewise.ops.call import Call, Result
from gatewise.reference import scan


def reference(call: Call, out: Tensor | None) -> Result:
    """Run a call on the reference, each direction by itself."""
    runs = [
        scan(
            call.x,
            direction.state,
            direction.weights,
            call.variant,
            reverse=direction.reverse,
            lengths=call.lengths,
            reset=call.reset,
            start=direction.start,
            noise=direction.noise,
            trace=call.trace,
        )
        for direction in call.directions
    ]
    y = runs[0].y if len(runs) == 1 else torch.cat([run.y for run in runs], dim=2)
    return Result(y if out is None else out.copy_(y), [run.state for run in runs], [run.trace for run in runs])

"""An eager call: the choice of a backend, and the run."""

from collections.abc import Callable

import torch
from torch import Tensor

from gatewise.ops import native, torch_lstm
from gatewise.ops.call import Call, Result
from gatewise.ops.support import choose, obstacles
from gatewise.reference import scan


def serve(call: Call, backend: str, out: Tensor | None = None) -> Result:
    """Run a call that has been checked on the backend that is asked for, or on the first that can."""
    found = obstacles(call, out=out is not None)
    return _SERVE[choose(backend, call.x, found).backend](call, out)


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


_SERVE: dict[str, Callable[[Call, Tensor | None], Result]] = {
    "native": native.forward,
    "torch": torch_lstm.run,
    "reference": reference,
}

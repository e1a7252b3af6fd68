"""An eager call: the choice of a backend, and the run."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch._C import _functorch  # pyright: ignore[reportAttributeAccessIssue]

from gatewise.ops import mapped, native, torch_lstm
from gatewise.ops.call import Call, Result, converted, rounded
from gatewise.ops.plain import reference
from gatewise.ops.support import choose, obstacles

_NARROW = frozenset({torch.float16, torch.bfloat16})


def serve(call: Call, backend: str, out: Tensor | None = None) -> Result:
    """Run a call that has been checked on the backend that is asked for, or on the first that can."""
    found = obstacles(call, out=out is not None)
    return _SERVE[choose(backend, call.x, found).backend](call, out)


def _native(call: Call, out: Tensor | None) -> Result:
    """Run the engine; half-width tensors are computed in float32, their results and gradients rounded once."""
    run = native.forward if _functorch.peek_interpreter_stack() is None else mapped.forward
    if call.x.dtype not in _NARROW:
        return run(call, out)
    return rounded(run(converted(call, torch.float32), None), call.x.dtype, out)


_SERVE: dict[str, Callable[[Call, Tensor | None], Result]] = {
    "native": _native,
    "torch": torch_lstm.run,
    "reference": reference,
}

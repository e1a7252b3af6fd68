"""An eager call: the choice of a backend, and the run."""

from collections.abc import Callable

from torch import Tensor
from torch._C import _functorch  # pyright: ignore[reportAttributeAccessIssue]

from gatewise.ops import mapped, native, torch_lstm
from gatewise.ops.call import Call, Result
from gatewise.ops.plain import reference
from gatewise.ops.support import choose, obstacles


def serve(call: Call, backend: str, out: Tensor | None = None) -> Result:
    """Run a call that has been checked on the backend that is asked for, or on the first that can."""
    found = obstacles(call, out=out is not None)
    return _SERVE[choose(backend, call.x, found).backend](call, out)


def _native(call: Call, out: Tensor | None) -> Result:
    transformed = _functorch.peek_interpreter_stack() is not None
    return (mapped if transformed else native).forward(call, out)


_SERVE: dict[str, Callable[[Call, Tensor | None], Result]] = {
    "native": _native,
    "torch": torch_lstm.run,
    "reference": reference,
}

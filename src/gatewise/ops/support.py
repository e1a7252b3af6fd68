"""What each backend can do, as data, and the choice between them.

A call is described by the obstacles it presents; a backend by the obstacles that stop it. Both are words from one
table, so a reason can always be given.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor
from torch._C import _functorch  # pyright: ignore[reportAttributeAccessIssue]
from torch._C._functorch import TransformType
from torch.autograd import forward_ad
from torch.nn import Parameter

from gatewise.errors import InputError
from gatewise.ops.call import Call, tensors
from gatewise.ops.checks import innermost, readable

OBSTACLES: Mapping[str, str] = MappingProxyType(
    {
        "cell": "the cell or one of its options is not one it computes",
        "convolution": "the cell's products are convolutions",
        "projection": "the outputs are projected",
        "lengths": "rows have lengths of their own",
        "lengths unknown": "the rows' lengths are on meta or fakes, and have no values",
        "reset": "rows restart inside the sequence",
        "noise": "dropout or zoneout masks are given",
        "noise gradient": "a gradient of a dropout or zoneout mask is needed",
        "trace": "all gates and states are asked for",
        "tracing": "torch.jit is tracing, and would not see native code",
        "transform": "a torch.func transform such as vmap or grad is active",
        "functionalize": "torch.func's functionalize is active, and would not see native code",
        "dual": "forward-mode differentiation is active",
        "mode": "a dispatch mode such as fake tensors or a FLOP counter is active, and would not see native code",
        "autocast": "autocast is on",
        "gradient": "a gradient is needed",
        "subclass": "an argument is a tensor subclass",
        "no steps": "the sequence has no time steps",
        "out": "outputs are asked for in a given tensor while a gradient is needed",
        "device": "the tensors are not on a device it runs on",
        "dtype": "the tensors have a dtype it does not compute in",
    }
)
"""Everything that can stop a backend, with the sentence a user reads."""


@dataclass(frozen=True, slots=True)
class Backend:
    """One row of the support table.

    Attributes:
        name: the word users choose it by.
        dtypes: the dtypes it computes in.
        devices: the device types it runs on; None for all.
        stopped_by: the obstacles it cannot take, besides dtype and device.
    """

    name: str
    dtypes: frozenset[torch.dtype]
    devices: frozenset[str] | None
    stopped_by: frozenset[str]


_FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})

BACKENDS: Mapping[str, Backend] = MappingProxyType(
    {
        backend.name: backend
        for backend in (
            Backend(
                "native",
                dtypes=_FLOATS,
                devices=frozenset({"cpu"}),
                stopped_by=frozenset(
                    {
                        "convolution",
                        "lengths unknown",
                        "noise gradient",
                        "tracing",
                        "functionalize",
                        "dual",
                        "mode",
                        "autocast",
                        "subclass",
                        "out",
                    }
                ),
            ),
            Backend(
                "torch",
                dtypes=_FLOATS,
                devices=None,
                stopped_by=frozenset(
                    {
                        "cell",
                        "convolution",
                        "lengths unknown",
                        "reset",
                        "noise",
                        "trace",
                        "transform",
                        "dual",
                        "no steps",
                        "out",
                    }
                ),
            ),
            Backend("reference", dtypes=_FLOATS, devices=None, stopped_by=frozenset({"out"})),
        )
    }
)
"""The backends, in the order in which "auto" tries them."""


class Choice(NamedTuple):
    """Which backend serves a call, and why not one that comes before it."""

    backend: str
    reason: str


def obstacles(call: Call, *, out: bool = False) -> set[str]:
    """Return the obstacles, dtype and device aside, that a call presents; ``out``: outputs go to a given tensor."""
    given = tensors(call)
    present = {
        "cell": not call.variant.vanilla or bool(call.variant.nonrecurrent_proj_size),
        "convolution": call.variant.kernel is not None,
        "projection": bool(call.variant.proj_size),
        "lengths": call.lengths is not None,
        "lengths unknown": call.lengths is not None and not readable(innermost(call.lengths)),
        "reset": call.reset is not None,
        "noise": any(part is not None for direction in call.directions for part in direction.noise),
        "noise gradient": any(part is not None and differentiable(part) for d in call.directions for part in d.noise),
        "trace": call.trace,
        "tracing": torch._C._get_tracing_state() is not None,
        "transform": _functorch.peek_interpreter_stack() is not None,
        "functionalize": _active(TransformType.Functionalize),
        "dual": forward_mode(),
        "mode": torch._C._len_torch_dispatch_stack() > 0,
        "autocast": torch._C._is_any_autocast_enabled(),
        "gradient": torch.is_grad_enabled() and any(differentiable(tensor) for tensor in given),
        "subclass": any(type(innermost(tensor)) not in {Tensor, Parameter} for tensor in given),
        "no steps": not call.x.shape[0] or _all_empty(call.lengths),
    }
    present["out"] = out and present["gradient"]
    present["noise gradient"] = present["noise gradient"] and present["gradient"]
    return {name for name, is_present in present.items() if is_present}


def differentiable(tensor: Tensor) -> bool:
    """Whether a gradient is needed, by any of the transforms that have wrapped a tensor or below them."""
    while not tensor.requires_grad:
        if not _functorch.is_functorch_wrapped_tensor(tensor):
            return False
        tensor = _functorch.get_unwrapped(tensor)
    return True


def forward_mode() -> bool:
    """Whether tangents are carried along."""
    return forward_ad._current_level >= 0 or _active(TransformType.Jvp)


def _active(kind: TransformType) -> bool:
    if _functorch.peek_interpreter_stack() is None:
        return False
    return any(interpreter.key() == kind for interpreter in _functorch.get_interpreter_stack())


def _all_empty(lengths: Tensor | None) -> bool:
    return lengths is not None and readable(lengths) and not bool(lengths.any())


def choose(backend: str, x: Tensor, found: set[str]) -> Choice:
    """Pick a backend for a call, or check the one that was asked for.

    Args:
        backend: a name from BACKENDS, or "auto" for the first that can serve.
        x: the inputs; all other tensors share its dtype and device.
        found: what ``obstacles`` returned.

    Raises:
        InputError: the backend is unknown or cannot serve; the text says why.
    """
    check_backend(backend)
    if backend != "auto":
        if why := _stopped(BACKENDS[backend], x, found):
            raise InputError(f"backend {backend!r} cannot serve this call: {why}.")
        return Choice(backend, "asked for by name")
    reasons: list[str] = []
    for row in BACKENDS.values():
        why = _stopped(row, x, found)
        if not why:
            return Choice(row.name, "; ".join(reasons) or "first choice")
        reasons.append(f"not {row.name}: {why}")
    raise InputError("no backend can serve this call: " + "; ".join(reasons) + ".")


def check_backend(backend: str) -> None:
    """Refuse a name that is no backend."""
    if backend != "auto" and not (isinstance(backend, str) and backend in BACKENDS):
        raise InputError(f"backend must be one of {', '.join(('auto', *BACKENDS))}, got {backend!r}.")


def _stopped(row: Backend, x: Tensor, found: set[str]) -> str:
    stops = [name for name in OBSTACLES if name in found and name in row.stopped_by]
    if x.dtype not in row.dtypes:
        stops.append("dtype")
    if row.devices is not None and x.device.type not in row.devices:
        stops.append("device")
    return ", and ".join(OBSTACLES[name] for name in stops)

"""What the transforms of ``torch.func`` make of a call: members and samples.

A call may have members, each with weights of its own: then every tensor has one more dimension in front, of which a
stride of 0 is as good as any. A derivative may be asked for by samples: then the rows are so many groups of equal size,
and each has its own gradients of the weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gatewise.ops.call import Call, Row, assembled
from gatewise.reference import traced_names
from gatewise.spec import Variant


@dataclass(frozen=True)
class Form:
    """What a call is besides its tensors.

    Attributes:
        variant: the cell and its options.
        rows: of each direction what ``assembled`` needs to know.
        trace: whether gates and states are outputs as well.
        keep: what the engine keeps for backward.
        members: whether every tensor has a dimension for members in front.
        path: what the transforms have made rows or members of so far, and how many, from the innermost outwards.
    """

    variant: Variant
    rows: tuple[Row, ...]
    trace: bool
    keep: str
    members: bool = False
    path: tuple[tuple[str, int], ...] = ()

    @property
    def names(self) -> list[str]:
        """The tensors after x, by group or field."""
        return [name for _, names in self.rows for name in names]

    @property
    def batch_axes(self) -> list[int | None]:
        """Where x and the tensors after it have their rows, members aside; None for weights."""
        return [1, *(_BATCH_AXES.get(name) for name in self.names)]

    @property
    def output_axes(self) -> list[int]:
        """The same of the outputs, in the order of ``flat``."""
        states = [0] * len(self.variant.cell.states) * len(self.rows)
        return [1, *states, *[1] * (len(traced_names(self.variant)) * len(self.rows) if self.trace else 0)]

    def call(self, given: Sequence[Tensor], lengths: Tensor | None, reset: Tensor | None) -> Call:
        """The call of x and the tensors after it."""
        return assembled(given, self.rows, Call(given[0], (), self.variant, lengths, reset, self.trace))


_BATCH_AXES = {"state": 0, "start": 0, "recurrent": 0, "h": 1, "c": 1}


class Kept:
    """What forward keeps for backward.

    Attributes:
        form: of the call.
        y: the outputs, an alias; the caller may change them, which ``fits`` notices.
        tapes: of each direction what the engine kept of each member.
        lengths: copies of the lengths.
        reset: the same of the resets.
    """

    def __init__(
        self, form: Form, given: Sequence[Tensor], y: Tensor, tapes: list[Any], cut: Sequence[Tensor | None]
    ) -> None:
        self.form = form
        self.y = y.detach()
        self.tapes = tapes
        self.lengths, self.reset = cut
        self._shapes = [tensor.shape for tensor in given]
        self._version = _version(y)

    def fits(self, form: Form, given: Sequence[Tensor]) -> bool:
        """Whether it belongs to this call, and the outputs are what they were."""
        same = form.path == self.form.path and [tensor.shape for tensor in given] == self._shapes
        return same and _version(self.y) == self._version


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


@dataclass(frozen=True)
class Ask:
    """What is asked of backward.

    Attributes:
        form: of the call.
        wanted: which of x and the tensors after it need a gradient.
        samples: how many groups of rows have gradients of the weights of their own, or None for one sum over all rows.
        kept: what forward kept, or None.
    """

    form: Form
    wanted: tuple[bool, ...]
    samples: int | None = None
    kept: Kept | None = None

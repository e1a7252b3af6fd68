"""One step of a recurrent cell as a torch module, interchangeable with torch.nn.LSTMCell."""

from typing import Any, final

import torch
from torch import Tensor, nn

from gatewise import ops
from gatewise.errors import InputError
from gatewise.nn import states
from gatewise.nn.arguments import check_size, differing, of_variant, shown_cell
from gatewise.nn.parameters import Init, Scheme, add, redraw
from gatewise.ops.checks import check_tensor
from gatewise.ops.support import check_backend
from gatewise.reference import State
from gatewise.spec import variant


@final
class LSTMCell(nn.Module):
    """A recurrent cell that is stepped by hand.

    The cells and the functions that compute them are ``gatewise.LSTM``'s: a loop over this module is a layer of that
    one. The first five arguments, the parameters and the results are those of torch.nn.LSTMCell.

    Args:
        input_size: D, at least 1.
        hidden_size: H, at least 1.
        bias: whether the cell has biases (two, as in torch; they are added).
        device: where to create the parameters.
        dtype: the dtype of the parameters.
        cell: a name from ``gatewise.spec.CELLS``.
        peephole: whether the gates see the cell state; None for the cell's own default.
        clip: a bound above 0 for the pre-activations of the gates, or None.
        layer_norm: whether to normalise the pre-activations and the cell state.
        forget_bias: the initial bias of the forget gate; None leaves torch's.
        init: "torch", "orthogonal" or "chrono"; see ``gatewise.nn.Init``.
        max_lag: the longest memory that "chrono" plans for, in steps.
        backend: "auto", "native", "torch" or "reference"; see ``gatewise.ops.BACKENDS``.

    Shapes:
        input [B, D], or [D] for a single one; states [B, H], or [H].

    Parameters are those of a layer of ``gatewise.LSTM`` without the ending: ``weight_ih`` [G·H, D] and so on.

    Raises:
        InputError: an argument does not fit, an option is not defined for the cell, or the backend cannot serve.
        ShapeError: a size or a device does not fit (an InputError and a RuntimeError, as in torch).

    Example:
        >>> import torch
        >>> from gatewise import LSTMCell
        >>> cell = LSTMCell(3, 8)
        >>> state = None
        >>> for x in torch.randn(10, 4, 3):
        ...     state = cell(x, state)
        >>> h, c = state
        >>> h.shape
        torch.Size([4, 8])
    """

    cell = of_variant("cell.name", "The name of the cell.")
    peephole = of_variant("peephole", "Whether the gates see the cell state.")
    clip = of_variant("clip", "The bound of the pre-activations, or None.")
    layer_norm = of_variant("layer_norm", "Whether pre-activations and cell state are normalised.")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        cell: str = "lstm",
        peephole: bool | None = None,
        clip: float | None = None,
        layer_norm: bool = False,
        forget_bias: float | None = None,
        init: Scheme = "torch",
        max_lag: int = 100,
        backend: str = "auto",
    ):
        super().__init__()
        check_size("input_size", input_size)
        check_size("hidden_size", hidden_size)
        check_backend(backend)
        self.variant = variant(cell, peephole=peephole, clip=clip, layer_norm=layer_norm, bias=bias)
        self.init = Init(init, forget_bias, max_lag)
        self.init.check(self.variant)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        self.backend = backend
        self._state = states.state_of(self.variant.cell)
        shapes = self.variant.shapes(input_size, hidden_size)
        self._kinds = tuple(shapes)
        add(self, shapes, "", device=device, dtype=dtype)
        self._direct = ops.Direct(self.variant, input_size, hidden_size, [{kind: kind for kind in self._kinds}], 0)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every parameter anew, as ``init`` and ``forget_bias`` say."""
        redraw(self, self._kinds, [""], variant=self.variant, hidden=self.hidden_size, init=self.init)

    def forward(self, input: Tensor, hx: State | Tensor | None = None) -> Any:
        """Compute one step.

        Args:
            input: [B, D], or [D].
            hx: the state of the step before, a tuple with one tensor for each of the cell's states (for a cell with
                one state also that tensor); zeros by default.

        Returns:
            The new state, a named tuple: (h, c) for most cells.
        """
        if self.backend in ops.DIRECT:
            results = self._direct.run(self._parameters, input, hx, False, "all")
            if results is not None:
                return self._state(*results)
        check_tensor("input", input)
        if input.dim() not in (1, 2):
            raise InputError(f"input must have 1 or 2 dimensions, got {input.dim()}.")
        states.check_features(input, self.input_size, getattr(self, self._kinds[0]))
        hx = states.parts(hx, self.variant.cell)
        x = input.reshape(1, -1, self.input_size)
        shape = (*input.shape[:-1], self.hidden_size)
        if hx is None:
            hx = tuple(x.new_zeros(shape) for _ in self.variant.cell.states)
        else:
            states.check_shapes(hx, dict.fromkeys(self.variant.cell.states, shape))
        weights = ops.Weights(**{kind: getattr(self, kind) for kind in self._kinds})
        batch = tuple(part.reshape(-1, self.hidden_size) for part in hx)
        result = ops.layer(x, [ops.Direction(batch, weights)], self.variant, backend=self.backend)
        return self._state(*(part.reshape(shape) for part in result.states[0]))

    def extra_repr(self) -> str:
        """Return the arguments that differ from the defaults, as torch prints them."""
        shown = {"bias": (self.bias, True), **shown_cell(self.variant), **self.init.shown()}
        shown |= {"backend": (self.backend, "auto")}
        return f"{self.input_size}, {self.hidden_size}" + differing(shown)

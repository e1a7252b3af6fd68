"""The convolutional LSTM as a torch module: sequences of images in, sequences of images out.

Shi et al. (2015). Convolutional LSTM network: a machine learning approach for precipitation nowcasting. Equations:
``gatewise.spec.equations``, whose products with W and U are convolutions here; the work is done in ``gatewise.ops``.
"""

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from gatewise import ops
from gatewise.errors import InputError
from gatewise.nn import states
from gatewise.nn.arguments import check_size, differing, of_variant, shown_cell
from gatewise.nn.layout import Lengths, Trace, laid_out
from gatewise.nn.parameters import Init, create, redraw, rows
from gatewise.ops.checks import ShapeError, check_tensor
from gatewise.reference import State
from gatewise.spec import check_flag, variant


@final
class ConvLSTM(nn.Module):
    """A stack of convolutional recurrent layers, in one direction or both.

    ::

        i = σ(W_i ∗ x + U_i ∗ h₋ + p_i ⊙ c₋ + b_i)       f = σ(W_f ∗ x + U_f ∗ h₋ + p_f ⊙ c₋ + b_f)
        g = tanh(W_g ∗ x + U_g ∗ h₋ + b_g)               o = σ(W_o ∗ x + U_o ∗ h₋ + p_o ⊙ c + b_o)
        c = f ⊙ c₋ + i ⊙ g                               h = o ⊙ tanh(c)

    That is the default cell, Shi et al.'s; ∗ is a 2-D convolution as torch computes it (a correlation), with zeros
    around the image, so that images keep their size. Peepholes have a weight for each channel and pixel.

    Args:
        input_size: C, the channels of the input, at least 1.
        hidden_size: C', the channels of the states, at least 1.
        kernel_size: height and width of the windows, both odd, or one number for both.
        num_layers: L, at least 1; each layer reads the outputs of the one before.
        bias: whether the layers have biases (two each, as in torch; they are added).
        batch_first: whether inputs and outputs are [B, T, …] instead of [T, B, …]. States are [L·S, B, …] either way.
        bidirectional: whether each layer also runs backward in time; outputs are then [forward, backward], channels
            side by side.
        device: where to create the parameters.
        dtype: the dtype of the parameters.
        image_size: Y and X, height and width of the images, or one number for both; needed with peepholes. Without
            peepholes images of any size will do, unless this says otherwise.
        cell: a name from ``gatewise.spec.CELLS``, except ``fgr``.
        peephole: whether the gates see the cell state; None for the cell's own default.
        clip: a bound above 0 for the pre-activations of the gates, or None.
        forget_bias: the initial bias of the forget gate; None leaves it as drawn.

    Shapes:
        input [T, B, C, Y, X] (or [B, T, C, Y, X], or [T, C, Y, X] for a single sequence; T and B may be 0); states
        [L·S, B, C', Y, X] with S the number of directions ([L·S, C', Y, X] for a single sequence); output
        [T, B, S·C', Y, X].

    Parameters of layer k, with ``_reverse`` for the backward direction, where G gates are learned and windows are
    [ky, kx]: ``weight_ih_l{k}`` [G·C', ·, ky, kx], ``weight_hh_l{k}`` [G·C', C', ky, kx], ``bias_ih_l{k}``,
    ``bias_hh_l{k}`` [G·C'], ``weight_peephole_l{k}`` [gates that peep · C', Y, X]. All start from
    U(−1/√F, 1/√F), where F = C'·ky·kx is how many values of h₋ a pre-activation sums: torch.nn.LSTM's rule, to which
    it comes down where windows are 1×1.

    The state is a named tuple of what the cell carries: (h, c) for most. It defaults to zeros, and a sequence may be
    cut anywhere by passing it on.

    Raises:
        InputError: a dtype, a number of dimensions or an argument does not fit, or the option or the convolution is
            not defined for the cell.
        ShapeError: a size or a device does not fit (an InputError and a RuntimeError, as in torch).

    Example:
        >>> import torch
        >>> from gatewise import ConvLSTM
        >>> layer = ConvLSTM(3, 8, 5, image_size=(12, 16))
        >>> output, (h, c) = layer(torch.randn(10, 4, 3, 12, 16), lengths=[10, 7, 0, 2])
        >>> output.shape, h.shape, layer.weight_peephole_l0.shape
        (torch.Size([10, 4, 8, 12, 16]), torch.Size([1, 4, 8, 12, 16]), torch.Size([24, 12, 16]))
    """

    cell = of_variant("cell.name", "The name of the cell.")
    peephole = of_variant("peephole", "Whether the gates see the cell state.")
    clip = of_variant("clip", "The bound of the pre-activations, or None.")

    def __init__(  # noqa: PLR0917 - the order of LSTM's arguments
        self,
        input_size: int,
        hidden_size: int,
        kernel_size: int | tuple[int, int],
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        bidirectional: bool = False,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        image_size: int | tuple[int, int] | None = None,
        cell: str = "peephole",
        peephole: bool | None = None,
        clip: float | None = None,
        forget_bias: float | None = None,
    ):
        super().__init__()
        sizes = {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers}
        for name, value in sizes.items():
            check_size(name, value)
        for name, value in {"batch_first": batch_first, "bidirectional": bidirectional}.items():
            check_flag(name, value)
        self.kernel_size = _pair("kernel_size", kernel_size)
        if any(size % 2 == 0 for size in self.kernel_size):
            raise InputError(f"kernel_size must be odd, so that windows have a centre, got {kernel_size!r}.")
        self.image_size = None if image_size is None else _pair("image_size", image_size)
        kernel = self.kernel_size
        # Of a size of one pixel, to learn first whether the cell peeps.
        peeping = variant(cell, peephole=peephole, kernel=kernel, image=(1, 1)).peeping
        if peeping and self.image_size is None:
            raise InputError(f"the peepholes of {', '.join(peeping)} are tied to the images' size: give image_size.")
        image = self.image_size if peeping else None
        self.variant = variant(cell, peephole=peephole, clip=clip, bias=bias, kernel=kernel, image=image)
        self.init = Init(forget_bias=forget_bias)
        self.init.check(self.variant)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.bidirectional = bidirectional
        self._state = states.state_of(self.variant.cell)
        self._directions = 2 if bidirectional else 1
        shape = (input_size, hidden_size, num_layers, self._directions)
        self._kinds, self._suffixes = create(self, self.variant, shape, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every parameter anew, as the class and ``forget_bias`` say."""
        redraw(self, self._kinds, self._suffixes, variant=self.variant, hidden=self.hidden_size, init=self.init)

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """The weights of each layer and direction, in the order of the states' first dimension."""
        return rows(self, self._kinds, self._suffixes)

    def forward(
        self,
        input: Tensor,
        hx: State | Tensor | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
        trace: bool = False,
    ) -> tuple[Any, ...]:
        """Run the stack over a batch of sequences, or over one.

        Args:
            input: the sequences, shaped as the class says.
            hx: the initial state: a tuple with one tensor for each of the cell's states (for a cell with one state
                also that tensor); zeros by default.
            lengths: the number of steps of each row [B], 0 to T in any order. Past a row's end outputs are zero; its
                final state is that of its own end, where its backward direction starts.
            reset: bool, [T, B] ([B, T] with batch_first, [T] for a single sequence): a row restarts from zero before
                each step that is true; at t = 0 in place of ``hx``. In the backward direction each piece between
                restarts runs as if alone too; ``hx`` enters the last.
            trace: whether to return all gates and states as well.

        Returns:
            The outputs of the last layer, and the final state of all layers, a named tuple. With ``trace``, also a list
            with one entry for each layer and direction (in the order of the states' first dimension), a dictionary from
            each gate's and each state's name to its values over time, laid out as the outputs are.
        """
        self._check_input(input)
        return laid_out(
            self._run,
            input,
            hx,
            self.variant.cell,
            self._state,
            batched=input.dim() == 5,
            batch_first=self.batch_first,
            lengths=lengths,
            reset=reset,
            trace=trace,
        )

    def extra_repr(self) -> str:
        """Return the arguments that differ from the defaults, as torch prints them."""
        shown = {
            "num_layers": (self.num_layers, 1),
            "bias": (self.bias, True),
            "batch_first": (self.batch_first, False),
            "bidirectional": (self.bidirectional, False),
            "image_size": (self.image_size, None),
            **shown_cell(self.variant, default="peephole"),
            **self.init.shown(),
        }
        return f"{self.input_size}, {self.hidden_size}, kernel_size={self.kernel_size}" + differing(shown)

    def _run(
        self,
        x: Tensor,
        hx: State | None,
        lengths: Lengths,
        reset: Tensor | None,
        trace: bool,
    ) -> tuple[Tensor, list[Tensor], Trace]:
        """Run all layers; everything is time-major."""
        weights = self.all_weights
        shape = (x.shape[1], self.hidden_size, *x.shape[3:])
        names = self.variant.cell.states
        if hx is None:
            initial: list[State] = [tuple(x.new_zeros(shape) for _ in names)] * len(weights)
        else:
            initial = states.split(hx, {name: (len(weights), *shape) for name in names})
        runs = [
            ops.Direction(state, ops.Weights(**dict(zip(self._kinds, own, strict=True))), bool(k % self._directions))
            for k, (state, own) in enumerate(zip(initial, weights, strict=True))
        ]
        final: list[State] = []
        traces: Trace = []
        for first in range(0, len(runs), self._directions):
            here = runs[first : first + self._directions]
            result = ops.layer(x, here, self.variant, lengths=lengths, reset=reset, trace=trace)
            x = result.y
            final += result.states
            traces += result.traces
        return x, [torch.stack(parts) for parts in zip(*final, strict=True)], traces

    def _check_input(self, input: object) -> None:
        check_tensor("input", input)
        assert isinstance(input, Tensor)
        if input.dim() not in (4, 5):
            raise InputError(f"input must have 4 or 5 dimensions, got {input.dim()}.")
        states.check_features(input, self.input_size, getattr(self, self._kinds[0] + "_l0"), -3)
        image = tuple(input.shape[-2:])
        if self.image_size not in {None, image}:
            raise ShapeError(f"image_size is {self.image_size}, but the images of the input are {image}.")
        if 0 in image:
            raise ShapeError(f"the images of the input are {image}; they need at least one pixel.")


def _pair(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    """Return height and width, each at least 1, from both or from one number for both."""
    pair = (value, value) if isinstance(value, int) else value
    if not isinstance(pair, tuple | list):
        raise TypeError(f"{name} must be an int or a pair of them, got {type(pair).__name__}.")
    if len(pair) != 2:
        raise InputError(f"{name} must be an int or a pair of them, height and width, got {value!r}.")
    for size in pair:
        check_size(name, size)
    return pair[0], pair[1]

"""The LSTM layer as a torch module, interchangeable with torch.nn.LSTM.

Gers, Schmidhuber and Cummins (2000). The equations live in ``gatewise.spec.LSTM``, the work in ``gatewise.ops``.
"""

import math
import warnings
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout
from torch.nn.utils.rnn import PackedSequence

from gatewise import ops
from gatewise.errors import InputError
from gatewise.ops.checks import ShapeError
from gatewise.ops.support import check_backend
from gatewise.reference import State
from gatewise.spec import LSTM as CELL


@final
class LSTM(nn.Module):
    """A stack of LSTM layers, in one direction or both.

    ::

        i = σ(W_i x + U_i h₋ + b_i)       f = σ(W_f x + U_f h₋ + b_f)
        g = tanh(W_g x + U_g h₋ + b_g)    o = σ(W_o x + U_o h₋ + b_o)
        c = f ⊙ c₋ + i ⊙ g                h = o ⊙ tanh(c)

    Arguments, parameter names and shapes, initial weights (seed by seed) and results are those of torch.nn.LSTM, and
    each loads the other's ``state_dict``. Every call computes with the weights of that moment, whatever changed them.

    Args:
        input_size: D, at least 1.
        hidden_size: H, at least 1.
        num_layers: L, at least 1; each layer reads the outputs of the one before.
        bias: whether the layers have biases (two each, as in torch; they are added).
        batch_first: whether inputs and outputs are [B, T, …] instead of [T, B, …]. States are [L, B, H] either way.
        dropout: probability in [0, 1] of zeroing an output between layers, in training.
        bidirectional: whether each layer also runs backward in time; outputs are then [forward, backward], 2H wide.
        proj_size: only 0 for now.
        device: where to create the parameters.
        dtype: the dtype of the parameters.
        backend: "auto", "native", "torch" or "reference"; see ``gatewise.ops.BACKENDS``.

    Shapes:
        input [T, B, D] (or [B, T, D], or [T, D] for a single sequence; T and B may be 0); h_0, c_0 and h_n, c_n
        [L·S, B, H] with S the number of directions ([L·S, H] for a single sequence); output [T, B, S·H].

    The state is (h, c): h is what a layer shows, c what it remembers; it defaults to zeros, and a sequence may be cut
    anywhere by passing the state on. Padding is not known to the layer: every step of every row is computed.

    Raises:
        InputError: a dtype, a number of dimensions or an argument does not fit, or the backend cannot serve.
        ShapeError: a size or a device does not fit (an InputError and a RuntimeError, as in torch).

    Example:
        >>> import torch
        >>> from gatewise import LSTM
        >>> layer = LSTM(3, 8, num_layers=2, batch_first=True)
        >>> output, (h, c) = layer(torch.randn(4, 10, 3))
        >>> output.shape, h.shape
        (torch.Size([4, 10, 8]), torch.Size([2, 4, 8]))
    """

    def __init__(  # noqa: PLR0917 - torch's signature
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        backend: str = "auto",
    ):
        super().__init__()
        for name, value in {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers}.items():
            _check_size(name, value)
        for name, value in {"bias": bias, "batch_first": batch_first, "bidirectional": bidirectional}.items():
            if not isinstance(value, bool):
                raise TypeError(f"{name} must be a bool, got {type(value).__name__}.")
        _check_dropout(dropout, num_layers)
        if proj_size:
            raise InputError(f"proj_size must be 0, got {proj_size}: projections are not supported yet.")
        check_backend(backend)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = 0
        self.backend = backend
        rows = len(CELL.gates) * hidden_size
        for layer in range(num_layers):
            width = self._directions * hidden_size if layer else input_size
            for direction in range(self._directions):
                shapes = [(rows, width), (rows, hidden_size), (rows,), (rows,)]
                for name, shape in zip(self._names(layer, direction), shapes, strict=False):
                    self.register_parameter(name, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every parameter from U(−1/√H, 1/√H), in torch's order."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def flatten_parameters(self) -> None:
        """Do nothing; here because code written for torch.nn.LSTM calls it."""

    def forward(self, input: Tensor, hx: State | None = None) -> tuple[Tensor, State]:
        """Run the stack over a batch of sequences, or over one.

        Args:
            input: the sequences, shaped as the class says.
            hx: the initial (h_0, c_0); zeros by default.

        Returns:
            The outputs of the last layer, and the final (h_n, c_n) of all layers.
        """
        self._check_input(input)
        if hx is not None and len(hx) != len(CELL.states):
            raise InputError(f"hx must be the pair (h_0, c_0), got {len(hx)} parts.")
        batched = input.dim() == 3
        if not batched:
            input = input.unsqueeze(1)
            hx = None if hx is None else self._unsqueezed(hx)
        elif self.batch_first:
            input = input.transpose(0, 1)
        y, states = self._layers(input, self._split(input, hx))
        h_n, c_n = (torch.stack(parts) for parts in zip(*states, strict=True))
        if not batched:
            return y.squeeze(1), (h_n.squeeze(1), c_n.squeeze(1))
        return (y.transpose(0, 1) if self.batch_first else y), (h_n, c_n)

    def extra_repr(self) -> str:
        """Return the arguments that differ from the defaults, as torch prints them."""
        words = [f"{self.input_size}, {self.hidden_size}"]
        defaults = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False}
        for name, default in {**defaults, "backend": "auto"}.items():
            value = getattr(self, name)
            if value != default:
                words.append(f"{name}={value}")
        return ", ".join(words)

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    def _names(self, layer: int, direction: int) -> list[str]:
        suffix = f"_l{layer}" + ("_reverse" if direction else "")
        kinds = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"] if self.bias else ["weight_ih", "weight_hh"]
        return [kind + suffix for kind in kinds]

    def _weights(self, layer: int, direction: int) -> ops.Weights:
        return ops.Weights(*(getattr(self, name) for name in self._names(layer, direction)))

    def _layers(self, y: Tensor, states: list[State]) -> tuple[Tensor, list[State]]:
        final: list[State] = []
        for layer in range(self.num_layers):
            if layer and self.dropout and self.training:
                # Contiguous, so that the mask is drawn in torch's order whatever the memory order of y.
                y = dropout(y.contiguous(), self.dropout)
            if self.bidirectional:
                pair = (states[2 * layer], states[2 * layer + 1])
                both = (self._weights(layer, 0), self._weights(layer, 1))
                y, ends = ops.bilstm(y, pair, both, backend=self.backend)
                final.extend(ends)
            else:
                y, end = ops.lstm(y, states[layer], self._weights(layer, 0), backend=self.backend)
                final.append(end)
        return y, final

    def _check_input(self, input: Tensor) -> None:
        if isinstance(input, PackedSequence):
            raise InputError("PackedSequence is not supported yet; pass a padded tensor.")
        if input.dim() not in (2, 3):
            raise InputError(f"input must have 2 or 3 dimensions, got {input.dim()}.")
        if input.shape[-1] != self.input_size:
            raise ShapeError(f"input.size(-1) must be input_size, {self.input_size}, got {input.shape[-1]}.")

    def _split(self, x: Tensor, hx: State | None) -> list[State]:
        """Return the state of each layer and direction [B, H]; x is time-major."""
        shape = (self.num_layers * self._directions, x.shape[1], self.hidden_size)
        if hx is None:
            zeros = x.new_zeros(shape[1:])
            return [(zeros, zeros)] * shape[0]
        for name, part in zip(CELL.states, hx, strict=True):
            if part.shape != shape:
                raise ShapeError(f"{name}_0 must have shape {list(shape)}, got {list(part.shape)}.")
        return list(zip(hx[0].unbind(), hx[1].unbind(), strict=True))

    @staticmethod
    def _unsqueezed(hx: State) -> State:
        h, c = hx
        if h.dim() != 2 or c.dim() != 2:
            raise ShapeError(f"for an unbatched input h_0 and c_0 must be 2-D, got {h.dim()}-D and {c.dim()}-D.")
        return h.unsqueeze(1), c.unsqueeze(1)


def _check_size(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}.")
    if value < 1:
        raise InputError(f"{name} must be at least 1, got {value}.")


def _check_dropout(probability: float, layers: int) -> None:
    if isinstance(probability, bool) or not isinstance(probability, int | float) or not 0 <= probability <= 1:
        raise InputError(f"dropout must be a number from 0 to 1, got {probability!r}.")
    if probability and layers == 1:
        warnings.warn(
            f"dropout={probability} acts between layers only, and num_layers=1 has nothing between.", stacklevel=3
        )

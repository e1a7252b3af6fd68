"""Layers of different cells and sizes one after another."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast, final

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gatewise.errors import InputError
from gatewise.nn import noise
from gatewise.nn.arguments import check_generator, differing, probability
from gatewise.nn.lstm import LSTM
from gatewise.ops.checks import ShapeError
from gatewise.reference import State
from gatewise.spec import check_flag

Sequences = Tensor | PackedSequence


@final
class Stack(nn.Module):
    """``gatewise.LSTM`` modules one after another: each reads the outputs of the one before.

    For stacks that one module cannot be, of several cells or widths. The modules are in ``layers``, a ModuleList.

    Args:
        layers: the modules, at least one, all with the same ``batch_first``. Each is as wide at its input as the one
            before is at its output.
        dropout: probability in [0, 1] of zeroing an output between modules, in training.
        residual: whether each module from the third up adds its input to its output, both equally wide (Wu et al. 2016,
            Google's neural machine translation system). It adds the input as it was before dropout.
        generator: where this dropout gets its randomness; None for torch's default generator.

    Shapes:
        input as the first module takes it, a PackedSequence too; output as the last one returns it.

    Raises:
        InputError: there are no layers, a layer differs in ``batch_first``, or an argument does not fit.
        ShapeError: widths do not fit (an InputError and a RuntimeError, as in torch).
        TypeError: a layer is no ``gatewise.LSTM``.

    Example:
        >>> import torch
        >>> from gatewise import LSTM, Stack
        >>> stack = Stack(LSTM(3, 8, bidirectional=True), LSTM(16, 5, cell="slstm"), dropout=0.1)
        >>> output, (first, second) = stack(torch.randn(10, 4, 3))
        >>> output.shape, first.c.shape, second._fields
        (torch.Size([10, 4, 5]), torch.Size([2, 4, 8]), ('h', 'c', 'n', 'm'))
    """

    def __init__(
        self,
        *layers: LSTM,
        dropout: float = 0.0,
        residual: bool = False,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        check_flag("residual", residual)
        check_generator(generator)
        self.dropout = probability("dropout", dropout)
        self.residual = residual
        self.generator = generator
        _check_layers(layers, residual)
        if residual and len(layers) < 3:
            warnings.warn(
                f"residual=True acts from the third layer up, and there are {len(layers)} layers.", stacklevel=2
            )
        self.layers = nn.ModuleList(layers)

    def reset_parameters(self) -> None:
        """Draw every parameter anew, as each module's ``init`` and ``forget_bias`` say."""
        for layer in cast("Iterable[LSTM]", self.layers):
            layer.reset_parameters()

    def forward(
        self,
        input: Sequences,
        hx: Sequence[State | Tensor | None] | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
        trace: bool = False,
    ) -> tuple[Any, ...]:
        """Run the modules over a batch of sequences, or over one.

        Args:
            input: the sequences, as the first module takes them.
            hx: the initial states: a tuple with one entry for each module, which is what that module takes; None, for
                all or for one of them, stands for zeros or the learned state.
            lengths: the number of steps of each row; as for ``gatewise.LSTM``.
            reset: where rows restart; as for ``gatewise.LSTM``.
            trace: whether to return all gates and states as well.

        Returns:
            The outputs of the last module, and a tuple of the modules' final states. With ``trace``, also a tuple of
            their traces.
        """
        count = len(self.layers)
        if hx is None:
            hx = (None,) * count
        if not isinstance(hx, tuple | list) or len(hx) != count:
            got = f"{len(hx)} entries" if isinstance(hx, tuple | list) else type(hx).__name__
            raise ShapeError(f"hx must be a tuple with one entry for each of the {count} layers, got {got}.")
        y = input
        results: list[tuple[Any, ...]] = []
        for k, (layer, state) in enumerate(zip(self.layers, hx, strict=True)):
            fed = _mapped(self._drop, y) if k and self.dropout and self.training else y
            output, *rest = layer(fed, state, lengths=lengths, reset=reset, trace=trace)
            y = _mapped(torch.add, output, y) if self.residual and k > 1 else output
            results.append(tuple(rest))
        return y, *zip(*results, strict=True)

    def extra_repr(self) -> str:
        """Return the arguments that differ from the defaults, as torch prints them."""
        return differing({"dropout": (self.dropout, 0.0), "residual": (self.residual, False)}).removeprefix(", ")

    def _drop(self, y: Tensor) -> Tensor:
        return noise.drop(y, self.dropout, self.generator)


def _check_layers(layers: Sequence[LSTM], residual: bool) -> None:
    if not layers:
        raise InputError("a stack needs at least one layer.")
    width = 0
    for k, layer in enumerate(layers):
        if not isinstance(layer, LSTM):
            kind = type(layer)
            raise TypeError(f"layers[{k}] must be a gatewise.LSTM, got {kind.__module__}.{kind.__qualname__}.")
        if layer.batch_first is not layers[0].batch_first:
            raise InputError(f"layers[{k}] must have batch_first={layers[0].batch_first}, as layers[0] has.")
        if k and layer.input_size != width:
            raise ShapeError(f"layers[{k}] has input_size={layer.input_size}, but layers[{k - 1}] returns {width}.")
        width = (2 if layer.bidirectional else 1) * layer.variant.output_size(layer.hidden_size)
        if residual and k > 1 and layer.input_size != width:
            raise ShapeError(f"residual needs output as wide as input; layers[{k}]: {layer.input_size} to {width}.")


def _mapped(change: Callable[..., Tensor], first: Sequences, *others: Sequences) -> Sequences:
    """Apply a function of tensors to sequences, all packed alike or all padded."""
    if isinstance(first, PackedSequence):
        return first._replace(data=change(first.data, *(other.data for other in others)))
    return change(first, *others)

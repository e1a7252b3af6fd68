"""The recurrent layer as a torch module, interchangeable with torch.nn.LSTM.

Every cell of ``gatewise.spec``; the work is done in ``gatewise.ops``.
"""

import warnings
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gatewise import ops
from gatewise.errors import InputError
from gatewise.nn import noise, packed, states
from gatewise.nn.arguments import (
    check_generator,
    check_projection,
    check_size,
    differing,
    of_variant,
    probability,
    shown_cell,
    zoneout_pair,
)
from gatewise.nn.layout import Lengths, Trace, laid_out
from gatewise.nn.parameters import Init, Scheme, create, redraw, rows
from gatewise.ops.checks import ShapeError, check_save
from gatewise.ops.support import check_backend
from gatewise.reference import State
from gatewise.spec import check_flag, check_option, variant


@final
class LSTM(nn.Module):
    """A stack of recurrent layers, in one direction or both.

    ::

        i = σ(W_i x + U_i h₋ + b_i)       f = σ(W_f x + U_f h₋ + b_f)
        g = tanh(W_g x + U_g h₋ + b_g)    o = σ(W_o x + U_o h₋ + b_o)
        c = f ⊙ c₋ + i ⊙ g                h = o ⊙ tanh(c)

    That is the default cell; ``gatewise cells`` prints the others. The first ten arguments, the parameters' names and
    shapes, their initial values (seed by seed) and the results are those of torch.nn.LSTM, and each loads the other's
    ``state_dict``. Every call computes with the weights of that moment, whatever changed them.

    Args:
        input_size: D, at least 1.
        hidden_size: H, at least 1.
        num_layers: L, at least 1; each layer reads the outputs of the one before.
        bias: whether the layers have biases (two each, as in torch; they are added).
        batch_first: whether inputs and outputs are [B, T, …] instead of [T, B, …]. States are [L·S, B, ·] either way.
        dropout: probability in [0, 1] of zeroing an output between layers, in training.
        bidirectional: whether each layer also runs backward in time; outputs are then [forward, backward] side by side.
        proj_size: P, the width of a recurrent projection of h, less than H; 0 for none (Sak et al. 2014).
        device: where to create the parameters.
        dtype: the dtype of the parameters.
        cell: a name from ``gatewise.spec.CELLS``.
        peephole: whether the gates see the cell state; None for the cell's own default (Gers et al. 2002).
        clip: a bound above 0 for the pre-activations of the gates, or None.
        layer_norm: whether to normalise the pre-activations and the cell state (Ba et al. 2016).
        nonrecurrent_proj_size: N, the width of Sak's second projection, which the output has beside h; 0 for none.
        residual: whether each layer from the third up adds its input to its output (Wu et al. 2016, GNMT).
        zoneout: probability in [0, 1] that a unit keeps its old h and c, or a pair for h and c; in evaluation the
            expectation (Krueger et al. 2017). The attribute may be set later.
        recurrent_dropout: probability of dropping a unit of h where it recurs, one mask for each sequence, in
            training (Gal and Ghahramani 2016).
        weight_drop: probability of zeroing an element of ``weight_hh``, in training (Merity et al. 2018).
        forget_bias: the initial bias of the forget gate; None leaves torch's.
        init: "torch", "orthogonal" or "chrono"; see ``gatewise.nn.Init``.
        max_lag: the longest memory that "chrono" plans for, in steps.
        learned_state: whether the initial state is learned instead of zero.
        generator: where dropout and zoneout get their randomness; None for torch's default generator.
        save: what the native engine keeps for backward: "all" it needs, or "states" to keep the states only and compute
            the gates again, which takes less memory and more time and gives the same bits.
        backend: "auto", "native", "torch" or "reference"; see ``gatewise.ops.BACKENDS``.

    Shapes:
        input [T, B, D] (or [B, T, D], or [T, D] for a single sequence; T and B may be 0), or a PackedSequence; states
        [L·S, B, ·] with S the number of directions ([L·S, ·] for a single sequence), h as wide as P or else H, the
        others H; output [T, B, S·((P or H) + N)].

    Parameters of layer k, with ``_reverse`` for the backward direction, where G gates are learned: ``weight_ih_l{k}``
    [G·H, ·], ``weight_hh_l{k}`` [G·H, P or H], ``bias_ih_l{k}``, ``bias_hh_l{k}`` [G·H], ``weight_hr_l{k}`` [P, H],
    ``weight_hp_l{k}`` [N, H], ``weight_peephole_l{k}`` [gates that peep · H], ``weight_gates_l{k}`` [3H, 3H] (``fgr``),
    ``weight_ln_ih_l{k}``, ``weight_ln_hh_l{k}`` [G·H], ``weight_ln_cell_l{k}``, ``bias_ln_cell_l{k}`` [H], and
    ``h_0_l{k}``, ``c_0_l{k}`` … with ``learned_state``; each is there if the cell and its options have it.

    The state is a named tuple of what the cell carries: (h, c) for most. It defaults to zeros or to the learned one,
    and a sequence may be cut anywhere by passing it on.

    Raises:
        InputError: a dtype, a number of dimensions or an argument does not fit, an option is not defined for the
            cell, or the backend cannot serve.
        ShapeError: a size or a device does not fit (an InputError and a RuntimeError, as in torch).

    Example:
        >>> import torch
        >>> from gatewise import LSTM
        >>> layer = LSTM(3, 8, num_layers=2, batch_first=True, cell="peephole")
        >>> output, (h, c) = layer(torch.randn(4, 10, 3), lengths=[10, 7, 0, 2])
        >>> output.shape, h.shape, layer.weight_peephole_l0.shape
        (torch.Size([4, 10, 8]), torch.Size([2, 4, 8]), torch.Size([24]))
    """

    cell = of_variant("cell.name", "The name of the cell.")
    peephole = of_variant("peephole", "Whether the gates see the cell state.")
    clip = of_variant("clip", "The bound of the pre-activations, or None.")
    layer_norm = of_variant("layer_norm", "Whether pre-activations and cell state are normalised.")
    nonrecurrent_proj_size = of_variant("nonrecurrent_proj_size", "The width of Sak's second projection, or 0.")

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
        cell: str = "lstm",
        peephole: bool | None = None,
        clip: float | None = None,
        layer_norm: bool = False,
        nonrecurrent_proj_size: int = 0,
        residual: bool = False,
        zoneout: float | tuple[float, float] = 0.0,
        recurrent_dropout: float = 0.0,
        weight_drop: float = 0.0,
        forget_bias: float | None = None,
        init: Scheme = "torch",
        max_lag: int = 100,
        learned_state: bool = False,
        generator: torch.Generator | None = None,
        save: str = "all",
        backend: str = "auto",
    ):
        super().__init__()
        sizes = {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers}
        flags = {"batch_first": batch_first, "bidirectional": bidirectional, "residual": residual}
        for name, value in sizes.items():
            check_size(name, value)
        for name, value in (flags | {"learned_state": learned_state}).items():
            check_flag(name, value)
        self.variant = variant(
            cell,
            peephole=peephole,
            layer_norm=layer_norm,
            clip=clip,
            proj_size=proj_size,
            nonrecurrent_proj_size=nonrecurrent_proj_size,
            bias=bias,
        )
        check_projection(proj_size, hidden_size)
        if learned_state:
            check_option(self.variant.cell, "learned_state")
        check_save(save)
        check_backend(backend)
        check_generator(generator)
        self.init = Init(init, forget_bias, max_lag)
        self.init.check(self.variant)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = probability("dropout", dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        self.residual = residual
        self.zoneout = zoneout
        self.recurrent_dropout = probability("recurrent_dropout", recurrent_dropout)
        self.weight_drop = probability("weight_drop", weight_drop)
        self.learned_state = learned_state
        self.generator = generator
        self.save = save
        self.backend = backend
        if dropout and num_layers == 1:
            warnings.warn(
                f"dropout={dropout} acts between layers only, and num_layers=1 has nothing between.", stacklevel=2
            )
        if residual and num_layers < 3:
            warnings.warn(
                f"residual=True acts from the third layer up, and num_layers={num_layers} has none.", stacklevel=2
            )
        self._widths = self.variant.state_sizes(hidden_size)
        self._state = states.state_of(self.variant.cell)
        self._directions = 2 if bidirectional else 1
        shape = (input_size, hidden_size, num_layers, self._directions)
        self._kinds, self._suffixes = create(
            self, self.variant, shape, learned_state=learned_state, device=device, dtype=dtype
        )
        self._start_kinds = tuple(f"{name}_0" for name in self._widths) if learned_state else ()
        named = [{kind: kind + end for kind in self._kinds} for end in self._suffixes]
        self._direct = ops.Direct(self.variant, input_size, hidden_size, named, self._directions)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every parameter anew, as ``init`` and ``forget_bias`` say."""
        kinds = (*self._kinds, *self._start_kinds)
        redraw(self, kinds, self._suffixes, variant=self.variant, hidden=self.hidden_size, init=self.init)

    @property
    def zoneout(self) -> tuple[float, float]:
        """The probabilities that a unit keeps its old h and its old c; may be set to one number too."""
        return self._zoneout

    @zoneout.setter
    def zoneout(self, value: float | tuple[float, float]) -> None:
        self._zoneout = zoneout_pair(value, self.variant.cell)

    @property
    def mode(self) -> str:
        """The cell in torch's words; "LSTM" for those that torch has not."""
        return {"rnn": "RNN_TANH", "rnn-relu": "RNN_RELU"}.get(self.cell, "LSTM")

    def flatten_parameters(self) -> None:
        """Do nothing; here because code written for torch.nn.LSTM calls it."""

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """The weights of each layer and direction, in the order of the states' first dimension."""
        return rows(self, self._kinds, self._suffixes)

    def forward(
        self,
        input: Tensor | PackedSequence,
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
                also that tensor); zeros or the learned state by default.
            lengths: the number of steps of each row [B], 0 to T in any order. Past a row's end outputs are zero; its
                final state is that of its own end, where its backward direction starts. Not with a PackedSequence,
                which knows its lengths.
            reset: bool, [T, B] ([B, T] with batch_first, [T] for a single sequence): a row restarts before each step
                that is true, from zero or the learned state; at t = 0 in place of ``hx``. In the backward direction
                each piece between restarts runs as if alone too; ``hx`` enters the last. Not with a PackedSequence.
            trace: whether to return all gates and states as well.

        Returns:
            The outputs of the last layer, and the final state of all layers, a named tuple. With ``trace``, also a list
            with one entry for each layer and direction (in the order of the states' first dimension), a dictionary from
            each gate's and each state's name to its values over time, laid out as the outputs are.
        """
        if trace is False and self._plain() and type(input) is Tensor:
            results = self._direct.run(
                self._parameters, input, hx, self.batch_first, self.save, lengths=lengths, reset=reset
            )
            if results is not None:
                return results[0], self._state(*results[1:])
        if isinstance(input, PackedSequence):
            return self._run_packed(input, hx, lengths, reset, trace)
        states.check_input(input, self.input_size, getattr(self, self._kinds[0] + "_l0"))
        return laid_out(
            self._run,
            input,
            hx,
            self.variant.cell,
            self._state,
            batched=input.dim() == 3,
            batch_first=self.batch_first,
            lengths=lengths,
            reset=reset,
            trace=trace,
        )

    def extra_repr(self) -> str:
        """Return the arguments that differ from the defaults, as torch prints them."""
        shown = {
            "proj_size": (self.proj_size, 0),
            "num_layers": (self.num_layers, 1),
            "bias": (self.bias, True),
            "batch_first": (self.batch_first, False),
            "dropout": (self.dropout, 0.0),
            "bidirectional": (self.bidirectional, False),
            **shown_cell(self.variant),
            "nonrecurrent_proj_size": (self.nonrecurrent_proj_size, 0),
            "residual": (self.residual, False),
            "zoneout": (self.zoneout, (0.0, 0.0)),
            "recurrent_dropout": (self.recurrent_dropout, 0.0),
            "weight_drop": (self.weight_drop, 0.0),
            **self.init.shown(),
            "learned_state": (self.learned_state, False),
            "save": (self.save, "all"),
            "backend": (self.backend, "auto"),
        }
        return f"{self.input_size}, {self.hidden_size}" + differing(shown)

    def _plain(self) -> bool:
        """Whether a call is nothing but its layers, on the native engine."""
        drops = self.training and (self.dropout or self.recurrent_dropout or self.weight_drop)
        more = self.learned_state or self._zoneout != (0.0, 0.0) or (self.residual and self.num_layers > 2)
        return self.backend in ops.DIRECT and not more and not drops

    def _run(
        self,
        x: Tensor,
        hx: State | None,
        lengths: Lengths,
        reset: Tensor | None,
        trace: bool,
        *,
        valid: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor], Trace]:
        """Run all layers; everything is time-major, ``valid`` tells what of a packed input is no padding."""
        starts = self._starts(x)
        initial = starts if hx is None else states.split(hx, self._shapes(x))
        final: list[State] = []
        traces: Trace = []
        y = x
        restarts = self.learned_state and reset is not None  # what none reaches has no gradient
        for layer in range(self.num_layers):
            # Residual connections pass by dropout, as in GNMT.
            fed = self._dropped(y, valid) if layer and self.dropout and self.training else y
            here = range(layer * self._directions, (layer + 1) * self._directions)
            result = ops.layer(
                fed,
                [self._direction(fed, k, initial[k], starts[k] if restarts else None) for k in here],
                self.variant,
                lengths=lengths,
                reset=reset,
                trace=trace,
                save=self.save,
                backend=self.backend,
            )
            y = result.y + y if self.residual and layer > 1 else result.y
            final += result.states
            traces += result.traces
        return y, [torch.stack(parts) for parts in zip(*final, strict=True)], traces

    def _dropped(self, y: Tensor, valid: Tensor | None) -> Tensor:
        if valid is None:
            return noise.drop(y, self.dropout, self.generator)
        # The mask is drawn over the packed data, as in torch.
        return packed.spread(noise.drop(y[valid], self.dropout, self.generator), valid)

    def _direction(self, x: Tensor, index: int, state: State, start: State | None) -> ops.Direction:
        weights = {kind: getattr(self, kind + self._suffixes[index]) for kind in self._kinds}
        if self.weight_drop and self.training:
            weights["weight_hh"] = noise.drop(weights["weight_hh"], self.weight_drop, self.generator)
        masks = ops.Noise()
        if self.recurrent_dropout or any(self.zoneout):
            masks = noise.draw(
                x,
                self._widths,
                recurrent=self.recurrent_dropout,
                zoneout=self.zoneout,
                training=self.training,
                generator=self.generator,
            )
        return ops.Direction(state, ops.Weights(**weights), bool(index % self._directions), start, masks)

    def _shapes(self, x: Tensor) -> dict[str, tuple[int, ...]]:
        """The shape of each state."""
        return {name: (len(self._suffixes), x.shape[1], size) for name, size in self._widths.items()}

    def _starts(self, x: Tensor) -> list[State]:
        """Return the state that each layer and direction starts from when none is given."""
        if not self.learned_state:
            zeros = tuple(x.new_zeros(x.shape[1], size) for size in self._widths.values())
            return [zeros] * len(self._suffixes)
        learned = rows(self, self._start_kinds, self._suffixes)
        return [tuple(start.expand(x.shape[1], -1) for start in own) for own in learned]

    def _run_packed(
        self, input: PackedSequence, hx: State | Tensor | None, lengths: object, reset: object, trace: bool
    ) -> tuple[Any, ...]:
        for name, value in {"lengths": lengths, "reset": reset}.items():
            if value is not None:
                raise InputError(f"{name} cannot go with a PackedSequence; pass a padded tensor.")
        if input.data.dim() != 2:
            raise ShapeError(f"a PackedSequence must hold data [·, D], got {input.data.dim()} dimensions.")
        states.check_features(input.data, self.input_size, getattr(self, self._kinds[0] + "_l0"))
        check_flag("trace", trace)
        x, rows, valid = packed.unpack(input)
        hx = states.parts(hx, self.variant.cell)
        if hx is not None:
            states.check_shapes(hx, self._shapes(x))
            if input.sorted_indices is not None:
                hx = tuple(part.index_select(1, input.sorted_indices) for part in hx)
        y, final, traces = self._run(x, hx, rows, None, trace, valid=valid)
        if input.unsorted_indices is not None:
            final = [part.index_select(1, input.unsorted_indices) for part in final]
        output = packed.pack(y, valid, input), self._state(*final)
        shown = [{name: packed.pack(v, valid, input) for name, v in values.items()} for values in traces]
        return (*output, shown) if trace else output

"""The closed list of blocks that an architecture is made of, and the weights each of them has.

A block says its sizes; the names and shapes of its weights follow from them, so a file can be checked before any of
its arrays is used. A block whose fields are out of range cannot be made. Equations and fields: docs/model-file.md.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import ClassVar

from gatewise.errors import InputError
from gatewise.format.fields import (
    MAX_SPAN,
    Bound,
    CellName,
    Flag,
    Layers,
    Number,
    Resolved,
    Size,
    Span,
    Width,
    check_fields,
)
from gatewise.spec import BUILT_IN, CELLS, Shapes, Variant, check_option, variant


class _Block:
    """What all blocks do: they check their fields when they are made."""

    kind: ClassVar[str]

    def __post_init__(self) -> None:
        check_fields(type(self), self.kind, vars(self))


@dataclass(frozen=True)
class Lstm(_Block):
    """A stack of recurrent layers of one cell: ``gatewise.nn.LSTM``, fixed to what computes in evaluation.

    Attributes:
        input_size: D.
        hidden_size: H.
        num_layers: L.
        cell: a row of the spec that every installation has.
        bidirectional: whether each layer also runs backward in time; outputs are then side by side.
        bias: whether there are biases.
        peephole: whether the gates see the cell state. None becomes the cell's own default.
        layer_norm: whether pre-activations and cell state are normalised.
        clip: the bound of the pre-activations, or None.
        proj_size: P, the width of the recurrent projection, less than H; 0 for none.
        nonrecurrent_proj_size: N, the width of the second projection, beside the first; 0 for none.
        residual: whether each layer from the third up adds its input to its output.
        learned_state: whether sequences start from learned states instead of zeros.

    Example:
        >>> block = Lstm(3, 8, cell="peephole", bidirectional=True)
        >>> block.peephole, block.output_size, block.shapes()["weight_peephole_l0_reverse"]
        (True, 16, (24,))
    """

    kind: ClassVar[str] = "lstm"
    input_size: Size
    hidden_size: Size
    num_layers: Layers = 1
    cell: CellName = "lstm"
    bidirectional: Flag = False
    bias: Flag = True
    peephole: Resolved = None
    layer_norm: Flag = False
    clip: Bound = None
    proj_size: Width = 0
    nonrecurrent_proj_size: Width = 0
    residual: Flag = False
    learned_state: Flag = False

    def __post_init__(self) -> None:
        if self.peephole is None and self.cell in BUILT_IN:
            object.__setattr__(self, "peephole", CELLS[self.cell].peephole)
        super().__post_init__()
        if self.clip is not None:
            object.__setattr__(self, "clip", float(self.clip))
        try:
            chosen = self.variant
            if self.learned_state:
                check_option(chosen.cell, "learned_state")
        except InputError as error:
            raise InputError(f"the block {self.kind!r}: {error}") from None
        if self.proj_size >= self.hidden_size:
            raise InputError(
                f"proj_size of the block {self.kind!r} must be smaller than its hidden_size, {self.hidden_size}, not "
                f"{self.proj_size}."
            )

    @property
    def variant(self) -> Variant:
        """The cell with its options."""
        return variant(
            self.cell,
            peephole=self.peephole,
            layer_norm=self.layer_norm,
            clip=self.clip,
            proj_size=self.proj_size,
            nonrecurrent_proj_size=self.nonrecurrent_proj_size,
            bias=self.bias,
        )

    @property
    def output_size(self) -> int:
        """What the next block sees: h, the second projection beside it, in each direction."""
        return (1 + self.bidirectional) * self.variant.output_size(self.hidden_size)

    def shapes(self) -> Shapes:
        """``weight_ih_l{k}`` [4H, D], ``weight_hh_l{k}`` [4H, H], ``bias_ih_l{k}`` and ``bias_hh_l{k}`` [4H].

        That is the vanilla cell's first layer; others have what ``Variant.shapes`` lists for them, in the backward
        direction with ``_reverse`` at the end, and ``h_0_l{k}``, ``c_0_l{k}`` … where states are learned.
        """
        row, width = self.variant, self.input_size
        shapes: Shapes = {}
        for layer in range(self.num_layers):
            own = row.shapes(width, self.hidden_size)
            if self.learned_state:
                own |= {f"{name}_0": (size,) for name, size in row.state_sizes(self.hidden_size).items()}
            for end in ("", "_reverse")[: 1 + self.bidirectional]:
                shapes |= {f"{name}_l{layer}{end}": shape for name, shape in own.items()}
            width = self.output_size
        return shapes


@dataclass(frozen=True)
class Embedding(_Block):
    """One row of a table for each whole number; only the first block can be one.

    Attributes:
        num_embeddings: V; the input is from 0 to V − 1.
        embedding_dim: E.
    """

    kind: ClassVar[str] = "embedding"
    input_size: ClassVar[None] = None
    num_embeddings: Size
    embedding_dim: Size

    @property
    def output_size(self) -> int:
        """E."""
        return self.embedding_dim

    def shapes(self) -> Shapes:
        """``weight`` [V, E]."""
        return {"weight": (self.num_embeddings, self.embedding_dim)}


@dataclass(frozen=True)
class Linear(_Block):
    """y = W x + b, at every time step.

    Attributes:
        in_features: width of x.
        out_features: width of y.
        bias: whether there is b.
    """

    kind: ClassVar[str] = "linear"
    in_features: Size
    out_features: Size
    bias: Flag = True

    @property
    def input_size(self) -> int:
        """Width of x."""
        return self.in_features

    @property
    def output_size(self) -> int:
        """Width of y."""
        return self.out_features

    def shapes(self) -> Shapes:
        """``weight`` [out, in] and ``bias`` [out]."""
        weight = {"weight": (self.out_features, self.in_features)}
        return weight | {"bias": (self.out_features,)} if self.bias else weight


class _Featurewise(_Block):
    """What the blocks do that leave the width as it is."""

    features: Size

    @property
    def input_size(self) -> int:
        """F."""
        return self.features

    @property
    def output_size(self) -> int:
        """F."""
        return self.features


@dataclass(frozen=True)
class LayerNorm(_Featurewise):
    """y = (x − mean) / √(variance + eps) ⊙ weight + bias, over the features of every time step.

    Attributes:
        features: F.
        eps: keeps the root away from zero.
    """

    kind: ClassVar[str] = "layer_norm"
    features: Size
    eps: Number = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "eps", float(self.eps))

    def shapes(self) -> Shapes:
        """``weight`` and ``bias`` [F]."""
        return {"weight": (self.features,), "bias": (self.features,)}


@dataclass(frozen=True)
class Conv1d(_Block):
    """A convolution over time, on a sequence padded with ``padding`` zeros so that ceil(T / stride) steps come out.

    Attributes:
        in_channels: I, width of the input.
        out_channels: O, width of the output.
        kernel_size: K, the steps that one output sees.
        stride: steps from one output to the next.
        dilation: steps from one input of an output to the next.
        causal: whether an output sees no later step: then all zeros are on the left.
    """

    kind: ClassVar[str] = "conv1d"
    in_channels: Size
    out_channels: Size
    kernel_size: Span
    stride: Span = 1
    dilation: Span = 1
    causal: Flag = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if sum(self.padding) > MAX_SPAN:
            raise InputError(
                f"(kernel_size - 1) * dilation of the block {self.kind!r} must be at most {MAX_SPAN}, not "
                f"{sum(self.padding)}."
            )

    @property
    def input_size(self) -> int:
        """I."""
        return self.in_channels

    @property
    def output_size(self) -> int:
        """O."""
        return self.out_channels

    @property
    def padding(self) -> tuple[int, int]:
        """The zeros before the sequence and after it, (K − 1) · dilation together.

        Example:
            >>> Conv1d(1, 1, kernel_size=4).padding, Conv1d(1, 1, kernel_size=4, causal=False).padding
            ((3, 0), (1, 2))
        """
        total = (self.kernel_size - 1) * self.dilation
        left = total if self.causal else total // 2
        return left, total - left

    def shapes(self) -> Shapes:
        """``weight`` [O, I, K] and ``bias`` [O]."""
        return {"weight": (self.out_channels, self.in_channels, self.kernel_size), "bias": (self.out_channels,)}


@dataclass(frozen=True)
class Scaling(_Featurewise):
    """y = (x − mean) / std with the statistics of the training data, or ``inverse``, back: y = x ⊙ std + mean.

    Attributes:
        features: F.
        inverse: which of the two.
    """

    kind: ClassVar[str] = "scaling"
    features: Size
    inverse: Flag = False

    def shapes(self) -> Shapes:
        """``mean`` and ``std`` [F]; a file whose std is not above 0 is refused."""
        return {"mean": (self.features,), "std": (self.features,)}


@dataclass(frozen=True)
class QuantileMix(_Block):
    """Q quantiles = a mixture of K given candidates + Q corrections.

    The Q + K inputs are the corrections, then the logits of the mixture.

    Attributes:
        candidates: K.
        quantiles: Q.
    """

    kind: ClassVar[str] = "quantile_mix"
    candidates: Size
    quantiles: Size

    @property
    def input_size(self) -> int:
        """Q + K."""
        return self.quantiles + self.candidates

    @property
    def output_size(self) -> int:
        """Q."""
        return self.quantiles

    def shapes(self) -> Shapes:
        """It has no weights."""
        return {}


Block = Lstm | Embedding | Linear | LayerNorm | Conv1d | Scaling | QuantileMix
"""Every block has a kind, and says its widths and the names and shapes of its weights."""

BLOCKS: Mapping[str, type[Block]] = MappingProxyType(
    {block.kind: block for block in (Lstm, Embedding, Linear, LayerNorm, Conv1d, Scaling, QuantileMix)}
)


def describe_block(block: Block) -> dict[str, object]:
    """The block as plain data."""
    return {"block": block.kind, **asdict(block)}

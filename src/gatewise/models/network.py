"""The network that a list of blocks describes."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, dropout, pad

from gatewise.errors import InputError
from gatewise.format import (
    Block,
    Conv1d,
    Embedding,
    LayerNorm,
    Linear,
    Lstm,
    ModelFile,
    QuantileMix,
    Scaling,
    check_chain,
)
from gatewise.models.inference import infer, serves
from gatewise.nn import LSTM


@final
class QuantileMixture(nn.Module):
    """Quantiles as a mixture of candidate forecasts plus corrections.

    ::

        w = softmax(logits)        q_j = Σ_k w_k candidate_k + correction_j

    Args:
        block: K candidates and Q quantiles.

    Shapes:
        x [B, T, Q + K], corrections before logits; candidates [B, T', K] for the last T' of the T steps; quantiles
        [B, T', Q].
    """

    def __init__(self, block: QuantileMix):
        super().__init__()
        self.sizes = (block.quantiles, block.candidates)

    def forward(self, x: Tensor, candidates: Tensor) -> Tensor:
        """Return the quantiles, in no enforced order."""
        steps, ahead = x.shape[1], candidates.shape[1]
        if ahead > steps:
            raise InputError(f"candidates are for {ahead} steps, but only {steps} come to the mixture.")
        correction, logits = x[:, steps - ahead :].split(self.sizes, dim=-1)
        return (logits.softmax(-1) * candidates).sum(-1, keepdim=True) + correction


@final
class Convolution(nn.Module):
    """A convolution over time, padded with zeros so that ceil(T / stride) steps come out.

    ::

        y_t = bias + Σ_k weight_k x[t · stride + k · dilation − left]

    Args:
        block: its sizes; ``block.padding`` says how many zeros are on the left and on the right.

    Shapes:
        x [B, T, I]; result [B, ⌈T / stride⌉, O].
    """

    def __init__(self, block: Conv1d):
        super().__init__()
        plain = nn.Conv1d(block.in_channels, block.out_channels, block.kernel_size)
        self.weight, self.bias = plain.weight, plain.bias
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolved sequence."""
        if not x.shape[1]:
            return x.new_zeros(x.shape[0], 0, self.block.out_channels)
        padded = pad(x.transpose(1, 2), self.block.padding)
        y = conv1d(padded, self.weight, self.bias, self.block.stride, 0, self.block.dilation)
        return y.transpose(1, 2)


@final
class Standardisation(nn.Module):
    """y = (x − mean) / std, or ``inverse``, back: y = x ⊙ std + mean. Statistics are given, not learned.

    Args:
        block: the features, and which of the two.

    Shapes:
        x and y [B, T, F].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, block: Scaling):
        super().__init__()
        self.inverse = block.inverse
        self.register_buffer("mean", torch.zeros(block.features))
        self.register_buffer("std", torch.ones(block.features))

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled sequence."""
        return x * self.std + self.mean if self.inverse else (x - self.mean) / self.std


@final
class Network(nn.Module):
    """The blocks of an architecture, one after the other.

    Args:
        blocks: the architecture.
        dropout: probability of zeroing a value between LSTM layers and after the last, in training.

    Shapes:
        x [B, T, D] of the first block, or whole numbers [B, T] for an embedding; candidates [B, T', K] for a quantile
        mixture; the last block's output.

    Raises:
        InputError: blocks do not fit each other; or, of a call, candidates are missing.

    Example:
        >>> import torch
        >>> net = Network([Lstm(3, 8), Linear(8, 5), QuantileMix(candidates=2, quantiles=3)])
        >>> net(torch.randn(4, 10, 3), torch.randn(4, 6, 2)).shape
        torch.Size([4, 6, 3])
        >>> Network([Embedding(20, 3), Conv1d(3, 8, kernel_size=2)])(torch.randint(20, (4, 10))).shape
        torch.Size([4, 10, 8])
    """

    def __init__(self, blocks: Sequence[Block], dropout: float = 0.0):
        super().__init__()
        check_chain(blocks)
        self.blocks = tuple(blocks)
        self.dropout = dropout
        for index, block in enumerate(self.blocks):
            self.add_module(str(index), _BUILD[type(block)](block, dropout))

    def forward(self, x: Tensor, candidates: Tensor | None = None) -> Tensor:
        """Pass x through the blocks; in inference by the operators of ``gatewise.runtime``, to the same bits."""
        modules = list(self.children())
        if serves(modules, self.blocks, x, candidates):
            return infer(modules, self.blocks, x, candidates)
        for layer in modules:
            if isinstance(layer, LSTM):
                x = dropout(layer(x)[0], self.dropout, self.training)
            elif isinstance(layer, QuantileMixture):
                if candidates is None:
                    raise InputError("the network mixes candidate forecasts: call it with candidates [B, T', K] too.")
                x = layer(x, candidates)
            else:
                x = layer(x)
        return x

    def run_block(self, index: int, x: Tensor) -> Tensor:
        """Pass x [B, T, ·] through one block that is no LSTM and no mixture, to the bits that ``forward`` gives."""
        module, block = self.get_submodule(str(index)), self.blocks[index]
        return infer([module], [block], x, None) if serves([module], [block], x, None) else module(x)

    def lstm(self) -> LSTM:
        """The first LSTM of the network."""
        return next(layer for layer in self.children() if isinstance(layer, LSTM))

    def weights(self) -> dict[str, np.ndarray]:
        """The weights by the names of the model file, float32."""
        return {name: value.detach().cpu().numpy().astype(np.float32) for name, value in self.state_dict().items()}


def from_file(model: ModelFile) -> Network:
    """Build the network of a model file, with its weights, ready to predict."""
    network = Network(model.architecture)
    network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in model.weights.items()})
    return network.eval()


def _lstm(block: Lstm, dropout: float) -> LSTM:
    opens = block.bias and "f" in block.variant.cell.gate_names
    return LSTM(
        block.input_size,
        block.hidden_size,
        block.num_layers,
        batch_first=True,
        bias=block.bias,
        # Both are for layers that are not there in a small stack, of which the module warns.
        dropout=dropout if block.num_layers > 1 else 0.0,
        residual=block.residual and block.num_layers > 2,
        bidirectional=block.bidirectional,
        proj_size=block.proj_size,
        nonrecurrent_proj_size=block.nonrecurrent_proj_size,
        cell=block.cell,
        peephole=block.peephole,
        clip=block.clip,
        layer_norm=block.layer_norm,
        learned_state=block.learned_state,
        # An open forget gate lets the gradient reach far back from the first step on (Gers et al. 2000).
        forget_bias=1.0 if opens else None,
    )


_BUILD: Mapping[type, Callable[..., nn.Module]] = MappingProxyType(
    {
        Lstm: _lstm,
        Embedding: lambda block, _: nn.Embedding(block.num_embeddings, block.embedding_dim),
        Linear: lambda block, _: nn.Linear(block.in_features, block.out_features, block.bias),
        LayerNorm: lambda block, _: nn.LayerNorm(block.features, block.eps),
        Conv1d: lambda block, _: Convolution(block),
        Scaling: lambda block, _: Standardisation(block),
        QuantileMix: lambda block, _: QuantileMixture(block),
    }
)

"""The network that a list of blocks describes."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from gatewise.format import Block, Linear, Lstm, ModelFile, QuantileMix
from gatewise.nn import LSTM
from gatewise.spec import CELLS


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
        correction, logits = x[:, x.shape[1] - candidates.shape[1] :].split(self.sizes, dim=-1)
        return (logits.softmax(-1) * candidates).sum(-1, keepdim=True) + correction


@final
class Network(nn.Module):
    """The blocks of an architecture, one after the other.

    Args:
        blocks: the architecture.
        dropout: probability of zeroing a value between LSTM layers and after the last, in training.

    Shapes:
        x [B, T, D] of the first block; candidates [B, T', K] for a quantile mixture; the last block's output.

    Example:
        >>> import torch
        >>> net = Network([Lstm(3, 8), Linear(8, 5), QuantileMix(candidates=2, quantiles=3)])
        >>> net(torch.randn(4, 10, 3), torch.randn(4, 6, 2)).shape
        torch.Size([4, 6, 3])
    """

    def __init__(self, blocks: Sequence[Block], dropout: float = 0.0):
        super().__init__()
        self.blocks = tuple(blocks)
        self.dropout = dropout
        for index, block in enumerate(self.blocks):
            self.add_module(str(index), _BUILD[type(block)](block, dropout))

    def forward(self, x: Tensor, candidates: Tensor) -> Tensor:
        """Pass x through the blocks."""
        for layer in self.children():
            if isinstance(layer, LSTM):
                x = dropout(layer(x)[0], self.dropout, self.training)
            elif isinstance(layer, QuantileMixture):
                x = layer(x, candidates)
            else:
                x = layer(x)
        return x

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
    between = dropout if block.num_layers > 1 else 0.0
    return LSTM(
        block.input_size,
        block.hidden_size,
        block.num_layers,
        batch_first=True,
        dropout=between,
        cell=block.cell,
        # An open forget gate lets the gradient reach far back from the first step on (Gers et al. 2000).
        forget_bias=1.0 if "f" in CELLS[block.cell].gate_names else None,
    )


def _linear(block: Linear, _: float) -> nn.Linear:
    return nn.Linear(block.in_features, block.out_features)


def _mixture(block: QuantileMix, _: float) -> QuantileMixture:
    return QuantileMixture(block)


_BUILD: Mapping[type, Callable[..., nn.Module]] = MappingProxyType(
    {Lstm: _lstm, Linear: _linear, QuantileMix: _mixture}
)

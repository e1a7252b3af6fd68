"""A model's blocks as the native core runs them: what the runtime and the torch model in inference share."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatewise import _native
from gatewise.errors import InputError
from gatewise.format import Block, Conv1d, Embedding, LayerNorm, Linear, Lstm, QuantileMix, Scaling
from gatewise.runtime.layers import WEIGHTS, described

Floats = NDArray[np.float32]


def executor(blocks: Sequence[Block], *, halved: bool = False) -> _native.Model:
    """Return the core's model of an architecture, which wants its weights packed next.

    Args:
        blocks: the architecture.
        halved: whether recurrent weights are kept as bfloat16.
    """
    model = _native.Model()
    for block in blocks:
        if isinstance(block, Lstm):
            _lstm(model, block, halved)
        else:
            _ADD[type(block)](model, block)
    return model


def packed(model: _native.Model, blocks: Sequence[Block], weights: Mapping[str, Floats]) -> Floats:
    """Return the weights in the order in which the core reads them, in memory that comes back when the array goes."""
    to = _native.empty(max(model.packed_size, 1))
    pack(model, blocks, weights, to)
    return to


def pack(model: _native.Model, blocks: Sequence[Block], weights: Mapping[str, Floats], to: Floats) -> None:
    """Write the weights in the order in which the core reads them; some places between them stay as they are.

    Args:
        model: of these blocks.
        blocks: the architecture.
        weights: by the names of the model file, float32.
        to: [``model.packed_size``].

    Raises:
        InputError: a weight has another shape or dtype than the blocks say.
    """
    arrays: list[Floats | None] = []
    for name, shape in _weights(tuple(blocks)):
        array = None if name is None else np.require(weights[name], requirements=["C", "A"])
        if array is not None and (array.shape != shape or array.dtype != np.float32):
            raise InputError(f"weight {name} must be float32 {list(shape)}, got {array.dtype} {list(array.shape)}.")
        arrays.append(array)
    model.pack([0 if array is None else array.ctypes.data for array in arrays], to.ctypes.data)


def bind(model: _native.Model, packed: Floats) -> None:
    """Give a model its packed weights, which it keeps."""
    model.bind(packed.ctypes.data, packed)


def run(
    model: _native.Model,
    blocks: Sequence[Block],
    x: NDArray[Any],
    *,
    lengths: NDArray[np.int64] | None = None,
    reset: NDArray[np.bool_] | None = None,
    candidates: Floats | None = None,
    threads: int = 1,
) -> Floats:
    """Run whole sequences from the beginning.

    Args:
        model: with its weights.
        blocks: its architecture.
        x: float32 [B, T, D], or int64 [B, T] in the range of the embedding.
        lengths: [B], each 0 to T; or None.
        reset: [B, T], or None.
        candidates: [B, T', K] for quantile mixtures: K of each, and T' no more than the steps that come to it.
        threads: the most that are used.

    Returns:
        [B, T', O]; past the end of a row zeros.
    """
    rows, steps = x.shape[:2]
    given = _time_major(x)
    cut = None if reset is None else _time_major(reset.view(np.uint8))
    mixed = None if candidates is None else _time_major(candidates)
    ends = None if lengths is None else np.ascontiguousarray(lengths)
    states = np.empty(max(rows * model.state_size, 1), np.float32)
    model.begin(states.ctypes.data, rows)
    ahead = 0 if mixed is None else len(mixed)
    y = np.empty((_steps_through(blocks, steps, ahead), rows, blocks[-1].output_size), np.float32)
    tokens = isinstance(blocks[0], Embedding)
    model.run(
        steps,
        rows,
        0 if tokens else given.ctypes.data,
        given.ctypes.data if tokens else 0,
        _address(ends),
        _address(cut),
        _address(mixed),
        ahead,
        states.ctypes.data,
        y.ctypes.data,
        threads,
    )
    return np.ascontiguousarray(y.transpose(1, 0, 2))


def mixtures(blocks: Sequence[Block], steps: int, ahead: int) -> list[tuple[int, int]]:
    """The steps that come to each quantile mixture of an architecture, of candidates for ``ahead`` steps, and its K."""
    return [
        (_steps_through(blocks[:index], steps, ahead), block.candidates)
        for index, block in enumerate(blocks)
        if isinstance(block, QuantileMix)
    ]


def _steps_through(blocks: Sequence[Block], steps: int, ahead: int) -> int:
    for block in blocks:
        if isinstance(block, Conv1d):
            steps = -(-steps // block.stride)
        elif isinstance(block, QuantileMix):
            steps = ahead
    return steps


def _time_major(array: NDArray[Any]) -> NDArray[Any]:
    return np.require(array.swapaxes(0, 1), requirements=["C", "A"])


def _address(array: NDArray[Any] | None) -> int:
    return 0 if array is None else array.ctypes.data


@lru_cache(maxsize=256)
def _weights(blocks: tuple[Block, ...]) -> tuple[tuple[str | None, tuple[int, ...]], ...]:
    """Name and shape of every weight in the core's order; None for a bias that a block has not."""
    weights: list[tuple[str | None, tuple[int, ...]]] = []
    for index, block in enumerate(blocks):
        shapes = block.shapes()
        weights += [
            (f"{index}.{name}", shapes[name]) for name in (_lstm_names(block) if isinstance(block, Lstm) else shapes)
        ]
        if isinstance(block, Linear) and not block.bias:
            weights.append((None, ()))
    return tuple(weights)


def _lstm_names(block: Lstm) -> list[str]:
    """Of each layer and direction its kinds of weights, then of each its learned states."""
    ends = [
        f"_l{layer}{end}" for layer in range(block.num_layers) for end in ("", "_reverse")[: 1 + block.bidirectional]
    ]
    states = [f"{name}_0" for name in block.variant.cell.states] if block.learned_state else []
    return [kind + end for kinds in (_kinds(block), states) for end in ends for kind in kinds]


def _kinds(block: Lstm) -> list[str]:
    return list(block.variant.shapes(block.input_size, block.hidden_size))


def _lstm(model: _native.Model, block: Lstm, halved: bool) -> None:
    above, text = block.output_size, block.variant.text
    widths = [above if layer else block.input_size for layer in range(block.num_layers)]
    directions = 1 + block.bidirectional
    layers = [described(text, width, block.hidden_size, block.bias) for width in widths for _ in range(directions)]
    kinds = [WEIGHTS.index(kind) for kind in _kinds(block)]
    model.add_recurrent(layers, directions, block.residual, block.learned_state, halved, kinds)


def _conv1d(model: _native.Model, block: Conv1d) -> None:
    model.add_convolution(
        block.in_channels, block.out_channels, block.kernel_size, block.stride, block.dilation, block.causal
    )


_ADD: Mapping[type, Callable[[_native.Model, Any], None]] = MappingProxyType(
    {
        Embedding: lambda model, block: model.add_embedding(block.num_embeddings, block.embedding_dim),
        Linear: lambda model, block: model.add_linear(block.in_features, block.out_features),
        LayerNorm: lambda model, block: model.add_layer_norm(block.features, block.eps),
        Conv1d: _conv1d,
        Scaling: lambda model, block: model.add_scaling(block.features, block.inverse),
        QuantileMix: lambda model, block: model.add_mixture(block.candidates, block.quantiles),
    }
)

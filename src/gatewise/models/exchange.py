"""Torch modules to and from ONNX files; the files themselves are ``gatewise.exchange``'s."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from gatewise.errors import InputError
from gatewise.exchange import export_blocks, export_file, import_blocks
from gatewise.format import Block, Embedding, Lstm, ModelFile
from gatewise.models.network import Network, from_file
from gatewise.nn import LSTM, from_torch

OPSET = 17


def export_onnx(
    module: nn.Module | str | Path,
    path: str | Path,
    *,
    batch_first: bool | None = None,
    lengths: bool = False,
    opset: int = OPSET,
) -> None:
    """Write a model as an ONNX file, as it computes in evaluation; see docs/onnx.md for its inputs and outputs.

    Args:
        module: an ``LSTM``, ``torch.nn.LSTM`` or ``torch.nn.RNN``, a ``Network``, what ``from_onnx`` returned, or the
            path of a model file or a run folder.
        path: the file; what is there is replaced once the new one is complete.
        batch_first: whether the graph's input and output are [B, T, ·] instead of [T, B, ·]; by default as the module
            has them. Forecasts have no axis of time to choose.
        lengths: whether the graph has an input for the lengths of the rows.
        opset: the version of the operators, 17 to 22.

    Raises:
        InputError: the module has something that cannot be said in ONNX, onnx is not installed, or the file cannot be
            written.

    Example:
        >>> import tempfile
        >>> from gatewise import LSTM, export_onnx
        >>> export_onnx(LSTM(3, 8, cell="peephole"), tempfile.mkdtemp() + "/m.onnx")
    """
    if isinstance(module, str | Path):
        export_file(module, path, batch_first=batch_first, lengths=lengths, opset=opset)
        return
    blocks, weights, own = _described(module)
    batch_first = own if batch_first is None else batch_first
    export_blocks(blocks, weights, path, batch_first=batch_first, lengths=lengths, opset=opset)


def from_onnx(path: str | Path) -> "Imported":
    """Read an ONNX file that is made of LSTM nodes, linear parts and what stands between those.

    Args:
        path: the file. It is not trusted: nothing in it is run, and nothing beside it is opened.

    Returns:
        A module that computes what the graph does, on our engine, in evaluation mode.

    Raises:
        InputError: the file is missing or damaged, or has a node that cannot be taken, which the text names.

    Example:
        >>> import tempfile, torch
        >>> from gatewise import LSTM, export_onnx, from_onnx
        >>> layer, path = LSTM(3, 8), tempfile.mkdtemp() + "/m.onnx"
        >>> export_onnx(layer, path)
        >>> x = torch.randn(5, 4, 3)
        >>> output, ((h, c),) = from_onnx(path)(x)
        >>> torch.equal(output, layer(x)[0])
        True
    """
    return Imported(import_blocks(path))


@final
class Imported(nn.Module):
    """A model that was an ONNX graph.

    Args:
        file: what ``gatewise.exchange.import_blocks`` returns.

    Shapes:
        x as the graph has it, [B, T, D] or [T, B, D] (``batch_first`` tells), or tokens without D; the output as the
        graph has it, [B, ·] where it keeps only the end of each row. States are those of ``gatewise.LSTM``, one for
        each stack of layers.

    Attributes:
        network: the blocks, trainable as any module.
        batch_first: whether inputs are [B, T, ·].
    """

    def __init__(self, file: ModelFile):
        super().__init__()
        settings: Any = file.settings
        self.network = from_file(file)
        self.batch_first = bool(settings["batch_first"])
        self._output_batch_first = bool(settings["output_batch_first"])
        self._take: tuple[int, str] | None = None if settings["take"] is None else tuple(settings["take"])
        self.eval()

    def forward(
        self,
        x: Tensor,
        state: Sequence[Any] | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """Run the model.

        Args:
            x: the sequences.
            state: the initial state of each stack of layers; None for zeros or the learned ones.
            lengths: the number of steps of each row, 0 to T.

        Returns:
            The output, and the final states.
        """
        x = x if self.batch_first else x.transpose(0, 1)
        given = list(state) if state is not None else [None] * self._stacks()
        if len(given) != self._stacks():
            raise InputError(f"state must have one entry for each of {self._stacks()} stacks, got {len(given)}.")
        final: list[Any] = []
        for index, block in enumerate(self.network.blocks):
            layer = self.network.get_submodule(str(index))
            if isinstance(layer, LSTM):
                x, after = layer(x, given[len(final)], lengths=lengths)
                final.append(after)
            elif x.dim() == 2 and not isinstance(block, Embedding):
                x = self.network.run_block(index, x[:, None])[:, 0]
            else:
                x = self.network.run_block(index, x)
            if self._take == (index, "last"):
                x = x[:, -1]
            elif self._take == (index, "final"):
                x = final[-1].h[-1]
        turned = self._take is None and not self._output_batch_first
        return x.transpose(0, 1) if turned else x, tuple(final)

    def _stacks(self) -> int:
        return sum(isinstance(block, Lstm) for block in self.network.blocks)


def _described(module: nn.Module) -> tuple[Sequence[Block], dict[str, np.ndarray], bool]:
    """The blocks and weights of a module, and whether it has the batch first."""
    if isinstance(module, Imported):
        if module._take is not None:
            raise InputError("this model keeps only the end of each row, which is not written.")
        return module.network.blocks, module.network.weights(), module.batch_first
    if isinstance(module, Network):
        return module.blocks, module.weights(), True
    if isinstance(module, nn.LSTM | nn.RNN):
        module = from_torch(module)
    if not isinstance(module, LSTM):
        raise InputError(
            f"gatewise writes an LSTM, a Network, or the path of a model file as ONNX, not {type(module).__name__}."
        )
    if any(module.zoneout):
        raise InputError("zoneout cannot be written as ONNX: it changes what the layer computes in evaluation.")
    block = Lstm(
        module.input_size,
        module.hidden_size,
        module.num_layers,
        cell=module.cell,
        bidirectional=module.bidirectional,
        bias=module.bias,
        peephole=module.peephole,
        layer_norm=module.layer_norm,
        clip=module.clip,
        proj_size=module.proj_size,
        nonrecurrent_proj_size=module.nonrecurrent_proj_size,
        residual=module.residual,
        learned_state=module.learned_state,
    )
    # Asked for by attribute, a parametrized weight has its value.
    values: dict[str, Tensor] = {name: getattr(module, name) for name in block.shapes()}
    weights = {f"0.{name}": value.detach().to("cpu", torch.float32).numpy() for name, value in values.items()}
    return (block,), weights, module.batch_first

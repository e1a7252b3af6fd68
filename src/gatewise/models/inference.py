"""A network's inference on the operators that the runtime uses, so that both give the same bits."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gatewise.format import Block, Embedding
from gatewise.nn import LSTM
from gatewise.ops import DIRECT, undisturbed
from gatewise.runtime.executor import bind, executor, mixtures, packed, run


def serves(modules: Sequence[nn.Module], blocks: Sequence[Block], x: Tensor, candidates: Tensor | None) -> bool:
    """Whether a call is plain inference: on the CPU, in float32, with nothing that watches the modules."""
    if torch.is_grad_enabled() or not undisturbed():
        return False
    tokens = isinstance(blocks[0], Embedding)
    if x.dim() != (2 if tokens else 3) or (not tokens and x.shape[2] != blocks[0].input_size):
        return False
    if not _fit(blocks, x, candidates) or not all(_whole(module) for module in modules):
        return False
    held = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    floats = [*held, *(given for given in (None if tokens else x, candidates) if given is not None)]
    plain = all(type(tensor) in {Tensor, nn.Parameter} and tensor.is_cpu for tensor in (*floats, x))
    return plain and (not tokens or x.dtype is torch.int64) and all(t.dtype is torch.float32 for t in floats)


def infer(modules: Sequence[nn.Module], blocks: Sequence[Block], x: Tensor, candidates: Tensor | None) -> Tensor:
    """Run a call that ``serves``.

    Args:
        modules: whose weights are read as they are now.
        blocks: what each of them is.
        x: [B, T, D], or [B, T] for an embedding.
        candidates: [B, T', K] for a quantile mixture.
    """
    model = executor(blocks)
    weights = {
        f"{index}.{name}": value.detach().numpy()
        for index, module in enumerate(modules)
        for name, value in module.state_dict().items()
    }
    bind(model, packed(model, blocks, weights))
    given = x.resolve_neg().numpy()
    mixed = None if candidates is None else candidates.resolve_neg().numpy()
    return torch.from_numpy(run(model, blocks, given, candidates=mixed, threads=torch.get_num_threads()))


def _fit(blocks: Sequence[Block], x: Tensor, candidates: Tensor | None) -> bool:
    """Whether the candidates are those that the mixtures want; others torch may know what to do with, or refuse."""
    if candidates is None:
        return not mixtures(blocks, 0, 0)
    if candidates.dim() != 3:
        return False
    rows, ahead, count = candidates.shape
    wanted = mixtures(blocks, x.shape[1], ahead)
    return bool(wanted) and rows == x.shape[0] and all(ahead <= most and count == k for most, k in wanted)


def _whole(module: nn.Module) -> bool:
    """Whether a module's weights are all that there is to it."""
    hooked = module._forward_hooks or module._forward_pre_hooks or nn.utils.parametrize.is_parametrized(module)
    return not (hooked or module.training) and (not isinstance(module, LSTM) or module.backend in DIRECT)

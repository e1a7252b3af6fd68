"""From torch's recurrent modules to ours, and back."""

from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from gatewise.errors import InputError
from gatewise.nn.cell import LSTMCell
from gatewise.nn.lstm import LSTM

_Module = TypeVar("_Module", bound=nn.Module)


def from_torch(module: nn.Module) -> LSTM | LSTMCell:
    """Return a module of ours that computes what one of torch's does.

    Args:
        module: an ``nn.LSTM``, ``nn.RNN``, ``nn.LSTMCell`` or ``nn.RNNCell``.

    Returns:
        A module with a copy of its weights, on their device and in their dtype, in the same mode (training or not) and
        as frozen; of parametrized and pruned weights, the values.

    Raises:
        InputError: it is another module.

    Example:
        >>> import torch
        >>> from gatewise import from_torch
        >>> theirs = torch.nn.LSTM(3, 8, num_layers=2)
        >>> ours = from_torch(theirs)
        >>> x = torch.randn(5, 4, 3)
        >>> torch.allclose(ours(x)[0], theirs(x)[0], atol=1e-6)
        True
    """
    if isinstance(module, nn.LSTM | nn.RNN):
        like: Tensor = getattr(module, "weight_ih_l0")  # noqa: B009 - of no known type as an attribute
        ours = LSTM(
            module.input_size,
            module.hidden_size,
            module.num_layers,
            bias=module.bias,
            batch_first=module.batch_first,
            dropout=module.dropout,
            bidirectional=module.bidirectional,
            proj_size=module.proj_size,
            device=like.device,
            dtype=like.dtype,
            cell="lstm" if isinstance(module, nn.LSTM) else _RNN[module.nonlinearity],
        )
        return _copied(module, ours)
    if isinstance(module, nn.LSTMCell | nn.RNNCell):
        like: Tensor = getattr(module, "weight_ih")  # noqa: B009
        cell = "lstm" if isinstance(module, nn.LSTMCell) else _RNN[module.nonlinearity]
        sizes = (module.input_size, module.hidden_size, module.bias)
        return _copied(module, LSTMCell(*sizes, device=like.device, dtype=like.dtype, cell=cell))
    raise InputError(f"from_torch takes nn.LSTM, nn.RNN, nn.LSTMCell and nn.RNNCell, got {type(module).__name__}.")


def to_torch(module: LSTM | LSTMCell) -> nn.LSTM | nn.RNN | nn.LSTMCell | nn.RNNCell:
    """Return torch's module that computes what one of ours does.

    Args:
        module: a ``gatewise.LSTM`` or ``gatewise.LSTMCell`` of a cell that torch has (``lstm``, ``np``, ``rnn``,
            ``rnn-relu``), without the options that torch lacks.

    Returns:
        A module with a copy of its weights, on their device and in their dtype, in the same mode (training or not).

    Raises:
        InputError: torch cannot compute this; the text says what it lacks.

    Example:
        >>> from gatewise import LSTM, to_torch
        >>> to_torch(LSTM(3, 8, batch_first=True))
        LSTM(3, 8, batch_first=True)
    """
    if not isinstance(module, LSTM | LSTMCell):
        raise InputError(f"to_torch takes gatewise.LSTM and gatewise.LSTMCell, got {type(module).__name__}.")
    own = module.variant
    cell = own.cell
    relu = {name: word for word, name in _RNN.items()}
    missing = [name for name, used in _beyond_torch(module).items() if used]
    if not replace(own, clip=None, layer_norm=False).vanilla and cell.name not in relu:
        missing.insert(0, f"cell {cell.name!r}" + (" with peepholes" if own.peephole else ""))
    if missing:
        raise InputError(f"torch has no {', '.join(missing)}.")
    like = getattr(module, "weight_ih" if isinstance(module, LSTMCell) else "weight_ih_l0")
    made = {"bias": module.bias, "device": like.device, "dtype": like.dtype}
    made |= {"nonlinearity": relu[cell.name]} if cell.name in relu else {}
    sizes = (module.input_size, module.hidden_size)
    if isinstance(module, LSTMCell):
        return _copied(module, (nn.RNNCell if cell.name in relu else nn.LSTMCell)(*sizes, **made))
    made |= {"num_layers": module.num_layers, "batch_first": module.batch_first, "dropout": module.dropout}
    made |= {"bidirectional": module.bidirectional}
    if cell.name in relu:
        return _copied(module, nn.RNN(*sizes, **made))
    return _copied(module, nn.LSTM(*sizes, **made, proj_size=module.proj_size))


_RNN = {"tanh": "rnn", "relu": "rnn-relu"}


def _beyond_torch(module: LSTM | LSTMCell) -> dict[str, object]:
    """The options that torch lacks, and whether they are on."""
    own = module.variant
    options: dict[str, object] = {
        "clip": own.clip is not None,
        "layer_norm": own.layer_norm,
        "nonrecurrent_proj_size": own.nonrecurrent_proj_size,
    }
    if isinstance(module, LSTM):
        names = ("residual", "recurrent_dropout", "weight_drop", "learned_state")
        options |= {name: getattr(module, name) for name in names} | {"zoneout": any(module.zoneout)}
    return options


@torch.enable_grad()
def _copied(source: nn.Module, target: _Module) -> _Module:
    # By name, not by state_dict: a parametrized or a pruned weight is none of the parameters.
    for name, parameter in target.named_parameters():
        weight = getattr(source, name)
        with torch.no_grad():
            parameter.copy_(weight)
        parameter.requires_grad_(weight.requires_grad)
    return target.train(source.training)

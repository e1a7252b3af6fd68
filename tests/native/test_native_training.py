"""Training on the engine follows the same curve as torch.nn.LSTM, and as the reference for cells torch has not.

Two layers, a linear head, AdamW, 30 steps. The bound on the distance to the same training in float64: for every loss
1e-6 of the largest, for every weight at the end a thousandth of the learning rate, or twice the distance of the
float32 peer.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from native_stack import BACKEND
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from gatewise import LSTM

T, B, D, H, STEPS = 12, 16, 3, 24, 30
LENGTHS = torch.arange(B) % T + 1
RATE = 0.01


class Model(nn.Module):
    """A recurrent stack with a linear head on every output."""

    def __init__(self, recurrent: nn.Module, lengths: Tensor | None) -> None:
        super().__init__()
        self.recurrent, self.lengths = recurrent, lengths
        variant = getattr(recurrent, "variant", None)
        width = variant.output_size(H) if variant else getattr(recurrent, "proj_size", 0) or H
        self.head = nn.Linear(width * (1 + bool(recurrent.bidirectional)), 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.lengths is None:
            return self.head(self.recurrent(x)[0])
        if isinstance(self.recurrent, LSTM):
            return self.head(self.recurrent(x, lengths=self.lengths)[0])
        packed = pack_padded_sequence(x, self.lengths, enforce_sorted=False)
        return self.head(pad_packed_sequence(self.recurrent(packed)[0], total_length=T)[0])


def trained(
    make: Callable[[], nn.Module],
    ragged: bool,
    dtype: torch.dtype = torch.float32,
    *,
    toward: float | None = None,
    rate: float = RATE,
) -> list[Tensor]:
    """Train, and return the losses and the weights at the end, in float64.

    Args:
        make: the recurrent stack.
        ragged: whether rows have lengths of their own.
        dtype: what it is trained in.
        toward: move every input to the next float32 toward this.
        rate: AdamW's learning rate.
    """
    torch.manual_seed(4)
    model = Model(make(), LENGTHS if ragged else None).to(dtype)
    x = torch.randn(T, B, D, generator=torch.Generator().manual_seed(9)).to(dtype)
    target = x[..., :1].cumsum(0).tanh()
    x = x if toward is None else x.nextafter(torch.tensor(toward))
    valid = (torch.arange(T)[:, None] < LENGTHS)[..., None] if ragged else torch.ones(T, B, 1, dtype=torch.bool)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    losses: list[Tensor] = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = (model(x) - target)[valid].square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    # A curve that goes down, so that equal curves say something.
    assert losses[-1] < 0.8 * losses[0]
    return [torch.stack(losses).double(), *(parameter.detach().double() for parameter in model.parameters())]


def assert_near(ours: list[Tensor], peers: list[Tensor], truth: list[Tensor]) -> None:
    """Compare what ``trained`` returns: the losses, and the weights."""
    bounds = [1e-6 * truth[0].max().item(), *([RATE / 1000] * (len(truth) - 1))]
    for got, peer, exact, bound in zip(ours, peers, truth, bounds, strict=True):
        # Written so that a NaN fails.
        assert (got - exact).abs().max().item() <= max(bound, 2 * (peer - exact).abs().max().item())


ARGUMENTS: list[tuple[str, dict[str, Any]]] = [
    ("all", {}),
    ("states", {"bidirectional": True}),
    ("all", {"proj_size": 9}),
    ("states", {"bias": False}),
]


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("ragged", [False, True], ids=["whole", "lengths"])
@pytest.mark.parametrize(("save", "arguments"), ARGUMENTS, ids=str)
@pytest.mark.usefixtures("isa")
def test_the_loss_curve_is_torchs(save: str, arguments: dict[str, Any], ragged: bool):
    ours = trained(lambda: LSTM(D, H, 2, **arguments, save=save, backend=BACKEND), ragged)
    assert_near(ours, *torchs(tuple(arguments.items()), ragged))


@cache
def torchs(arguments: tuple[tuple[str, Any], ...], ragged: bool) -> tuple[list[Tensor], list[Tensor]]:
    """What torch's layer ends with in float32 and in float64, for all instruction sets at once."""

    def make() -> nn.Module:
        return nn.LSTM(D, H, 2, **dict(arguments))

    return trained(make, ragged), trained(make, ragged, torch.float64)


@pytest.mark.usefixtures("isa")
def test_the_seed_of_dropout_gives_torchs_curve():
    """The masks between the layers are drawn from the same generator in the same order."""

    def theirs() -> nn.Module:
        return nn.LSTM(D, H, 2, dropout=0.3)

    ours, peer = trained(lambda: LSTM(D, H, 2, dropout=0.3, backend=BACKEND), False), trained(theirs, False)
    assert_near(ours, peer, peer)


CELLS: dict[str, dict[str, Any]] = {
    "peephole": {"layer_norm": True, "proj_size": 8, "nonrecurrent_proj_size": 4},
    "cifg": {"clip": 3.0},
    "slstm": {},
    "fgr": {},
}


def rate_of(cell: str) -> float:
    """Layer norm divides by a deviation that may be small.

    At the full rate each step multiplies the last one's rounding by ten, and how far any float32 run ends from the
    truth is luck; at a fifth of it runs stay within 1e-5.
    """
    return RATE / 5 if "layer_norm" in CELLS[cell] else RATE


def maker(cell: str, backend: str) -> Callable[[], nn.Module]:
    return lambda: LSTM(D, H, 2, cell=cell, **CELLS[cell], backend=backend)


@cache
def references(cell: str) -> tuple[Tensor, Tensor]:
    """The losses in float64, and how far the reference's in float32 have been from them by then."""
    make, rate = maker(cell, "reference"), rate_of(cell)
    truth = trained(make, True, torch.float64, rate=rate)[0]
    moves = [None, -torch.inf, 0.0, torch.inf] if "layer_norm" in CELLS[cell] else [None]
    peers = [trained(make, True, toward=move, rate=rate)[0] for move in moves]
    return truth, torch.stack([(peer - truth).abs() for peer in peers]).amax(0).cummax(0).values


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.usefixtures("isa")
def test_the_loss_curve_of_other_cells_is_the_references(cell: str):
    # The losses alone: some of these cells' weights hardly matter, and AdamW makes steps of their rounding. Each is
    # held to what the peers had lost by then.
    truth, lost = references(cell)
    ours = trained(maker(cell, BACKEND), True, rate=rate_of(cell))[0]
    assert ((ours - truth).abs() <= (2 * lost).clamp(min=1e-6 * truth.max().item())).all()

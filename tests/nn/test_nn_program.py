"""One program, run twice: with torch's layers and with ours in their place."""

import contextlib
import io
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from gatewise import LSTM

PROGRAM = """
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from {home} import LSTM, LSTMCell

torch.manual_seed(0)


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 6, padding_idx=0)
        self.lstm = LSTM(6, 8, num_layers=2, batch_first=True, bidirectional=True)
        self.cell = LSTMCell(16, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, words, lengths):
        packed = pack_padded_sequence(self.embedding(words), lengths, batch_first=True, enforce_sorted=False)
        self.lstm.flatten_parameters()
        packed, (h, c) = self.lstm(packed)
        output, lengths = pad_packed_sequence(packed, batch_first=True)
        state, summaries = (h.new_zeros(len(words), 5), c.new_zeros(len(words), 5)), []
        for t in range(output.size(1)):
            state = self.cell(output[:, t], state)
            summaries.append(state[0])
        return self.head(torch.stack(summaries, 1)), h[-1].mean() + c[0].mean()


lengths = torch.tensor([3, 7, 7, 1])
words = torch.randint(1, 11, (4, 7)) * (torch.arange(7) < lengths[:, None])
tags = torch.randint(3, (4, 7))
tagger = Tagger()
optimizer = torch.optim.Adam(tagger.parameters(), lr=0.05)
for epoch in range(8):
    optimizer.zero_grad()
    scores, extra = tagger(words, lengths)
    loss = nn.functional.cross_entropy(scores.flatten(0, 1), tags.flatten()) + 0.1 * extra
    loss.backward()
    nn.utils.clip_grad_norm_(tagger.parameters(), 1.0)
    optimizer.step()
    print("tagger", epoch, loss.item())
torch.save(tagger.state_dict(), folder / "tagger.pt")
again = Tagger()
again.load_state_dict(torch.load(folder / "tagger.pt"))
again.eval()
with torch.no_grad():
    print("loaded", again(words, lengths)[0].mean().item())

wave = torch.sin(torch.arange(60) * 0.3)[:, None, None] + 0.1 * torch.randn(60, 2, 1)
lstm, readout = LSTM(1, 9, 2), nn.Linear(9, 1)
optimizer = torch.optim.Adam([*lstm.parameters(), *readout.parameters()], lr=0.02)
hidden = None
for start in range(0, 50, 10):
    output, hidden = lstm(wave[start : start + 10], hidden)
    loss = (readout(output) - wave[start + 1 : start + 11]).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    hidden = tuple(part.detach() for part in hidden)
    print("wave", start, loss.item())
h, c = hidden
torch.save((h, c), folder / "state.pt")
with torch.no_grad():
    output, (h, c) = lstm(wave[50:], torch.load(folder / "state.pt"))
    print("carried on", readout(output).sum().item(), h.norm().item(), c.norm().item())
    print("one alone", readout(lstm(wave[50:, 0], (h[:, 0], c[:, 0]))[0]).sum().item())
"""


class Run(NamedTuple):
    """What the program printed, each line's first word and its numbers, and the folder it wrote to."""

    printed: list[tuple[str, list[float]]]
    folder: Path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    return {home: _run(home, tmp_path_factory.mktemp(home)) for home in ("torch.nn", "gatewise")}


def _run(home: str, folder: Path) -> Run:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(PROGRAM.format(home=home), home, "exec"), {"folder": folder, "__name__": "program"})
    lines = [line.split() for line in out.getvalue().splitlines()]
    return Run([(line[0], [float(word) for word in line if word[-1].isdigit()]) for line in lines], folder)


def test_a_program_prints_the_same_with_either_layer(runs: dict[str, Run]):
    theirs, ours = runs["torch.nn"].printed, runs["gatewise"].printed
    assert len(theirs) == 16
    assert [word for word, _ in ours] == [word for word, _ in theirs]
    for (word, got), (_, expected) in zip(ours, theirs, strict=True):
        assert got == pytest.approx(expected, rel=0, abs=2e-6), word


def test_the_program_learns(runs: dict[str, Run]):
    """So what it prints depends on what the layers computed."""
    losses = [numbers[-1] for word, numbers in runs["gatewise"].printed if word == "tagger"]
    assert losses[-1] < losses[0] - 0.2


def test_files_of_either_run_are_alike(runs: dict[str, Run]):
    for name in ("tagger.pt", "state.pt"):
        theirs, ours = (torch.load(run.folder / name) for run in runs.values())
        if isinstance(theirs, dict):
            assert list(ours) == list(theirs)
            theirs, ours = theirs.values(), ours.values()
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_a_state_is_saved_and_loaded_as_it_came(tmp_path: Path):
    """torch's state is a plain tuple, so nobody takes it apart before saving it."""
    _, state = LSTM(3, 4)(torch.randn(5, 2, 3))
    torch.save({"state": state}, tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt")["state"]
    assert len(loaded) == 2
    assert all(torch.equal(a, b) for a, b in zip(loaded, state, strict=True))

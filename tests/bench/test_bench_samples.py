"""The bench of per-sample gradients and ensembles: everything it compares computes the same; nothing is timed here."""

import pytest
import torch

from bench import samples


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "T", 3)
    monkeypatch.setattr(samples, "H", 8)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("problem", samples.PROBLEMS)
def test_all_compute_the_same(problem: str):
    runs = samples.samples(4, 3) if "samples" in problem else samples.PROBLEMS[problem]()
    ours = runs["ours"]()
    for name, run in runs.items():
        assert not samples.differing(ours, run()), name


def test_what_differs_is_refused():
    one = {"y": torch.zeros(2), "h": torch.zeros(2)}
    assert not samples.differing(one, one)
    assert samples.differing(one, {**one, "h": torch.tensor([0.0, 1e-5])}) == "h"
    assert samples.differing({**one, "y": torch.tensor([0.0, torch.nan])}, one) == "y"

"""Trained models that the tests of the commands share."""

from pathlib import Path

import pytest
from cli_tools import SHOP_ROLES, SMALL, long_table, shop_table, succeeds

from gatewise.tasks.forecast import run, training

PAGE = "<!doctype html><title>no figures</title>"


def _hurry(patch: pytest.MonkeyPatch) -> None:
    """Epochs of 4 steps, and a report without figures, which have tests of their own."""
    patch.setattr(training, "STEPS_PER_EPOCH", 4)
    patch.setattr(run, "render_report", lambda data: PAGE)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder to work in, where a fit takes a tenth of a second."""
    _hurry(monkeypatch)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with table.csv and a run of it."""
    folder = tmp_path_factory.mktemp("trained")
    long_table().write_csv(folder / "table.csv")
    _fit_quickly(folder / "table.csv", *SMALL, "--out", folder / "run")
    return folder


@pytest.fixture(scope="session")
def shops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shops.csv, which has every kind of covariate and a known future, and a run of it."""
    folder = tmp_path_factory.mktemp("shops")
    shop_table().write_csv(folder / "shops.csv")
    _fit_quickly(folder / "shops.csv", *SMALL, *SHOP_ROLES, "--out", folder / "run")
    return folder


def _fit_quickly(*words: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        _hurry(patch)
        succeeds("fit", *words)

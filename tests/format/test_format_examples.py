"""The example files of every format: read as they are, and what their networks give is what they gave."""

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from gatewise import Forecaster
from gatewise.format import BLOCKS, FORMAT_VERSION, Lstm, describe, load_model, save_model
from gatewise.models import from_file
from gatewise.spec import BUILT_IN

FOLDER = Path(__file__).parent / "examples"
FILES = sorted(FOLDER.glob("*.safetensors"))
by_name = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def _close(value: np.ndarray, golden: np.ndarray) -> None:
    assert value.shape == golden.shape
    assert np.abs(value - golden).max() <= 1e-6 * max(1, np.abs(golden).max())


@by_name
def test_the_network_gives_what_it_gave(path: Path, tmp_path: Path) -> None:
    golden = np.load(path.with_suffix(".npz"))
    given = [torch.from_numpy(golden[name]) for name in ("x", "candidates") if name in golden]
    model = load_model(path)
    save_model(model, tmp_path / "again")
    for file in (model, load_model(tmp_path / "again")):
        with torch.no_grad():
            _close(from_file(file)(*given).numpy(), golden["y"])


@pytest.mark.parametrize("name", ["v1", "v2-forecaster"])
def test_the_forecaster_says_what_it_said(name: str) -> None:
    k = np.arange(60)
    wave = 3.0 * np.sin(k / 6 * 2 * np.pi) + 0.05 * k + 0.1 * (k * 7 % 5)
    hours = pl.datetime_range(pl.datetime(2024, 1, 1), pl.datetime(2024, 1, 3, 11), "1h", eager=True)
    table = pl.concat(
        pl.DataFrame({"unique_id": [shop] * 60, "ds": hours, "y": level + wave, "open": (k % 3 > 0).astype(float)})
        for shop, level in (("north", 10.0), ("south", 20.0))
    )
    past = pl.int_range(60).over("unique_id") < 56
    forecast = Forecaster.load(FOLDER / f"{name}.safetensors").predict(table.with_columns(pl.when(past).then("y")))
    _close(forecast.select("q0.1", "q0.5", "q0.9").to_numpy(), np.load(FOLDER / f"{name}.npz")["forecast"])


@by_name
def test_the_name_tells_the_format(path: Path) -> None:
    assert path.stem.startswith(f"v{describe(path)['format']}")


def test_every_format_block_and_cell_has_an_example() -> None:
    models = {path: load_model(path) for path in FILES}
    blocks = [block for path, model in models.items() if path.stem.startswith("v2") for block in model.architecture]
    assert {int(re.findall(r"\d+", path.stem)[0]) for path in FILES} == set(range(1, FORMAT_VERSION + 1))
    assert {block.kind for block in blocks} == set(BLOCKS)
    assert {block.cell for block in blocks if isinstance(block, Lstm)} == set(BUILT_IN)
    assert any(model.vocabulary for model in models.values())


def test_format_1_has_what_later_fields_default_to() -> None:
    assert (
        load_model(FOLDER / "v1.safetensors").architecture
        == load_model(FOLDER / "v2-forecaster.safetensors").architecture
    )

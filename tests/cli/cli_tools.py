"""The command line in process, small tables, and snapshots of folders."""

import contextlib
import io
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
from safetensors.numpy import load_file

from gatewise.cli import main

GATEWISE = shutil.which("gatewise", path=str(Path(sys.executable).parent)) or "gatewise"
START = datetime(2024, 1, 1)
SMALL = ["--horizon", "4", "--season", "6", "--window", "12", "--hidden", "4", "--epochs", "1", "--batch", "4"]
"""A model that trains in no time: 16 rows of a series are enough."""
RUN_FILES = {"model.safetensors", "config.toml", "metrics.json", "forecast.csv", "report.html"}
TRAINING = {"checkpoints", "log.jsonl", "tensorboard"}


def small(*more: str) -> list[str]:
    """``SMALL`` with other options, which take the place of its own."""
    pairs = zip(SMALL[::2], SMALL[1::2], strict=True)
    return [word for name, value in pairs if name not in more for word in (name, value)] + [*more]


@dataclass(frozen=True)
class Result:
    """What a command did; ``out`` and ``err`` have single spaces, because tables are wrapped at any width."""

    code: int
    raw_out: str
    raw_err: str

    @property
    def out(self) -> str:
        return " ".join(self.raw_out.split())

    @property
    def err(self) -> str:
        return " ".join(self.raw_err.split())


def command(*words: object) -> Result:
    """Run ``gatewise`` with some words."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:
            code = int(str(stop.code))
    return Result(code, out.getvalue(), err.getvalue())


def succeeds(*words: object) -> Result:
    """Run a command that must exit with 0."""
    result = command(*words)
    assert result.code == 0, result.raw_err
    return result


def finished(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run ``gatewise`` as a process of its own, in a folder."""
    return subprocess.run([GATEWISE, *words], cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def same_weights(one: Path, other: Path) -> bool:
    """Whether two run folders hold the same model, bit by bit."""
    a, b = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert a.keys() == b.keys()
    return all(np.array_equal(a[name], b[name]) for name in a)


def refuses(*words: object) -> str:
    """Run a command that must exit with 1 and one line on stderr; that line, without "gatewise: "."""
    result = command(*words)
    assert result.code == 1, result.raw_err
    assert result.raw_err.startswith("gatewise: ")
    assert result.raw_err.count("\n") == 1
    assert "Traceback" not in result.raw_out + result.raw_err
    return result.raw_err.removeprefix("gatewise: ").rstrip("\n")


def wave(k: int, level: float = 10.0) -> float:
    """A season of 6 steps, a trend, and a ripple that no season explains."""
    return round(level + 3 * math.sin(k / 6 * 2 * math.pi) + 0.05 * k + 0.1 * ((k * 7) % 5), 4)


def hourly(k: int) -> datetime:
    return START + timedelta(hours=k)


def long_table(
    ids: Iterable[object] = ("a", "b"), rows: int = 60, time: Callable[[int], object] = hourly
) -> pl.DataFrame:
    """``rows`` rows for each id, of the columns unique_id, ds, y."""
    names = list(ids)
    return pl.DataFrame(
        {
            "unique_id": [name for name in names for _ in range(rows)],
            "ds": [time(k) for _ in names for k in range(rows)],
            "y": [wave(k, 10 + 5 * n) for n, _ in enumerate(names) for k in range(rows)],
        }
    )


def shop_table(rows: int = 48, future: int = 4) -> pl.DataFrame:
    """Two daily shops with every kind of covariate; below the history, ``future`` rows with a blank target."""
    days = [START.date() + timedelta(days=k) for k in range(rows + future)]
    frames = [
        pl.DataFrame(
            {
                "shop": [name] * len(days),
                "day": days,
                "sales": [wave(k, 20 + 10 * n) if k < rows else None for k in range(len(days))],
                "price": [1.0 + 0.1 * ((k + n) % 3) for k in range(len(days))],
                "visitors": [float(50 + 7 * (k % 5)) if k < rows else None for k in range(len(days))],
                "city": [f"city {name}"] * len(days),
                "size": [100 + 50 * n] * len(days),
            }
        )
        for n, name in enumerate(("north", "south"))
    ]
    return pl.concat(frames)


SHOP_ROLES = [
    "--target",
    "sales",
    "--id",
    "shop",
    "--time",
    "day",
    "--future",
    "price",
    "--past",
    "visitors",
    "--static",
    "city",
    "size",
]


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its bytes, and every folder with None."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def results(folder: Path) -> dict[str, bytes | None]:
    """The same without what a run keeps to go on from, and its log."""
    return {name: data for name, data in snapshot(folder).items() if not TRAINING & set(Path(name).parts)}


def check_forecast(
    forecast: pl.DataFrame,
    history: pl.DataFrame,
    *,
    horizon: int = 4,
    levels: tuple[float, ...] = (0.1, 0.5, 0.9),
    id: str = "unique_id",
    time: str = "ds",
) -> None:
    """Exactly the next ``horizon`` steps of every series, once each, under the table's own names."""
    assert forecast.columns == [id, time, *(f"q{level}" for level in levels)]
    names = history[id].unique(maintain_order=True).to_list()
    assert forecast[id].to_list() == [name for name in names for _ in range(horizon)]
    for name in names:
        seen = history.filter(pl.col(id) == name)[time]
        step = seen[1] - seen[0]
        expected = [seen[-1] + step * (k + 1) for k in range(horizon)]
        assert forecast.filter(pl.col(id) == name)[time].to_list() == expected
    values = forecast.select(pl.exclude(id, time)).to_numpy()
    assert values.dtype == float
    assert (abs(values) < 1e6).all()
    assert (values[:, 1:] >= values[:, :-1]).all()
    assert len({tuple(row) for row in values.tolist()}) == len(values)

"""Writing a store: panels appended one after the other become column files, which take their place whole or not at all.

What the files are is said in `store.py`, which reads them.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
from collections.abc import Generator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, final

import numpy as np
import polars as pl

from gatewise.data.frequency import Frequency
from gatewise.data.panel import POLICIES, Panel
from gatewise.data.roles import Columns
from gatewise.data.store import (
    FILES,
    FIRST,
    ID,
    INDEX,
    KIND,
    MISSING,
    SERIES,
    VERSION,
    file_name,
    is_store,
    static_name,
)
from gatewise.errors import InputError
from gatewise.format.atomic import sync_folder
from gatewise.runtime.rows import extremes_so_far, forward_filled


@contextlib.contextmanager
def store_writer(folder: str | Path, *, missing: str = "error", force: bool = False) -> Generator["StoreWriter"]:
    """Write a store beside its place and move it there once it is complete and on disk.

    Args:
        folder: where the store will be; it must not exist, or be empty.
        missing: the policy by which the panels were built, kept for the model: "error", "ffill" or "mask".
        force: whether a store in the folder is replaced.

    Raises:
        InputError: the folder holds something else or cannot be written (disk full, for instance), or nothing was
            appended. Nothing half-written stays, and a store that was there before is untouched.

    Example:
        >>> import tempfile
        >>> from gatewise.data import Columns, Store, build_panel, store_writer
        >>> folder = Path(tempfile.mkdtemp()) / "store"
        >>> with store_writer(folder) as writer:
        ...     for name in ("a", "b"):
        ...         df = pl.DataFrame({"shop": [name] * 3, "y": [1.0, 2.0, 3.0]})
        ...         writer.append(build_panel(df, Columns(id="shop")))
        >>> Store.open(folder).ids.to_list()
        ['a', 'b']
    """
    folder = Path(folder).resolve()
    if missing not in POLICIES:
        raise InputError(f"missing={missing!r} is unknown: accepted are {', '.join(POLICIES)}.")
    check_place(folder, force=force)
    temporary = folder.with_name(f".{folder.name}.{os.urandom(4).hex()}.tmp")
    writer = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        writer = StoreWriter(temporary, missing)
        yield writer
        writer.finish()
        _replace(temporary, folder)
    except OSError as error:
        raise InputError(f"the store {folder} cannot be written: {error.strerror or error}.") from error
    finally:
        if writer is not None:
            writer.close()
        shutil.rmtree(temporary, ignore_errors=True)


def check_place(folder: Path, *, force: bool) -> None:
    """Raises `InputError` unless the folder is absent, empty or, with force, a store."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; a store needs a folder of its own.")
    held = {path.name for path in folder.iterdir()}
    stored, foreign = is_store(folder), sorted(held - FILES)
    if held and stored and foreign and force:
        raise InputError(f"the store {folder} also holds {foreign[0]!r}, not its own file: move it, or give another.")
    if held and not (force and stored):
        remedy = "or --force to replace the store in it" if stored else "which does not exist or is empty"
        raise InputError(f"the folder {folder} is not empty: give another, {remedy}.")


@dataclass
class _Column:
    """One column file while it grows."""

    file: IO[bytes]
    dtype: np.dtype
    width: int | None
    rows: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def write(self, values: np.ndarray) -> None:
        data = np.ascontiguousarray(values, self.dtype).data.cast("B") if values.size else b""
        self.file.write(data)
        self.digest.update(data)
        self.rows += len(values)

    def describe(self) -> dict[str, Any]:
        shape = [self.rows] if self.width is None else [self.rows, self.width]
        size = self.file.tell()
        return {"dtype": self.dtype.str, "shape": shape, "bytes": size, "sha256": self.digest.hexdigest()}


@final
class StoreWriter:
    """Takes panels of whole series, in order; made by `store_writer`."""

    def __init__(self, folder: Path, missing: str):
        self._folder, self._policy = folder, missing
        self._files: dict[str, _Column] = {}
        self._series: list[pl.DataFrame] = []
        self._like: tuple[Columns, Frequency, pl.Schema] | None = None
        self.rows = 0
        """Rows appended so far."""
        self._missing = 0

    def append(self, panel: Panel) -> None:
        """Add the series of a panel below those that are there.

        Args:
            panel: whole series, of the columns, types and frequency of the panels before. Its target and covariates
                are kept as float32.

        Raises:
            InputError: a panel differs from those before, or its stamps cannot be had back from the grid.
        """
        series = _series_table(panel)
        self._check_like(panel, series.schema)
        _check_grid(panel)
        y = forward_filled(panel.y, panel.offsets).astype(np.float32)
        self._write("offsets", panel.offsets[:-1] + self.rows, np.int64)
        self._write("ends", panel.ends + self.rows, np.int64)
        self._write("y", y, np.float32)
        self._write("extremes", extremes_so_far(y, panel.offsets), np.float32)
        self._write("missing", panel.missing, np.uint8)
        self._write("past", panel.past, np.float32)
        self._write("future", panel.future, np.float32)
        self._series.append(series)
        self.rows += len(y)
        self._missing += int(panel.missing.sum())

    def finish(self) -> None:
        """Write what stands beside the columns; the files are then complete and on disk."""
        if self._like is None:
            raise InputError("there is nothing to store: no series was given.")
        self._write("offsets", np.array([self.rows]), np.int64)
        series = pl.concat(self._series)
        _check_names(series[ID], self._like[0])
        buffer = io.BytesIO()
        series.write_parquet(buffer)
        data = buffer.getvalue()
        (self._folder / SERIES).write_bytes(data)
        columns, frequency, _ = self._like
        described = {file_name(name): column.describe() for name, column in self._files.items()}
        if not self._missing:
            # Nothing is missing: no file need say so for every row.
            column = self._files.pop("missing")
            column.file.close()
            (self._folder / file_name("missing")).unlink()
            del described[file_name("missing")]
        described[SERIES] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        index: dict[str, Any] = {
            "kind": KIND,
            "version": VERSION,
            "columns": asdict(columns),
            "frequency": frequency.text,
            "missing": self._policy,
            "series": len(series),
            "rows": self.rows,
            "files": described,
        }
        for column in self._files.values():
            column.file.flush()
            os.fsync(column.file.fileno())
        text = json.dumps(index, indent=1)
        digest = hashlib.sha256(text.encode()).hexdigest()
        (self._folder / INDEX).write_text(json.dumps({"sha256": digest, "index": index}, indent=1) + "\n")
        for name in (INDEX, SERIES):
            _sync_file(self._folder / name)
        sync_folder(self._folder)

    def close(self) -> None:
        """Close the files."""
        for column in self._files.values():
            with contextlib.suppress(OSError):
                column.file.close()

    def _write(self, name: str, values: np.ndarray, dtype: type) -> None:
        if values.ndim > 1 and not values.shape[1]:
            return  # no covariate of this kind
        if name not in self._files:
            file = open(self._folder / file_name(name), "xb", buffering=2**20)  # noqa: SIM115 - closed by close()
            width = values.shape[1] if values.ndim > 1 else None
            self._files[name] = _Column(file, np.dtype(dtype).newbyteorder("<"), width)
        self._files[name].write(values)

    def _check_like(self, panel: Panel, schema: pl.Schema) -> None:
        if self._like is None:
            self._like = panel.columns, panel.frequency, schema
            return
        columns, frequency, before = self._like
        if panel.columns != columns:
            raise InputError(f"the columns of a part are {panel.columns}, and of the parts before {columns}.")
        if panel.frequency != frequency:
            raise InputError(
                f"the series from {panel.ids[0]!r} on are {panel.frequency.describe()}, and those before "
                f"{frequency.describe()}: a store has one frequency."
            )
        if schema != before:
            name = next(name for name in schema if schema[name] != before[name])
            names = dict(zip(schema, (columns.id, columns.time, MISSING, *columns.static), strict=True))
            raise InputError(
                f"the column {names[name]!r} holds {schema[name]} in the series from {panel.ids[0]!r} on, and "
                f"{before[name]} before: give all parts the same types."
            )


def _series_table(panel: Panel) -> pl.DataFrame:
    """What is kept of each series: its name, first stamp, number of missing cells and static covariates."""
    text = (pl.Categorical, pl.Enum)
    parts = [panel.ids.alias(ID), panel.time.gather(panel.offsets[:-1]).alias(FIRST)]
    missing = np.concatenate([[0], np.cumsum(panel.missing)])
    parts.append(pl.Series(MISSING, np.diff(missing[panel.offsets])))
    parts += [panel.static[name].alias(static_name(i)) for i, name in enumerate(panel.columns.static)]
    return pl.DataFrame([part.cast(pl.String) if isinstance(part.dtype, text) else part for part in parts])


def _check_grid(panel: Panel) -> None:
    """Whether every stamp can be had back from the first of its series: only first stamps are kept."""
    sizes, frequency = np.diff(panel.offsets), panel.frequency
    position, phase = frequency.index(panel.time.gather(panel.offsets[:-1]))
    if getattr(panel.time.dtype, "time_zone", None) is None:
        # Without a clock that is put forward and back, a last stamp in its place leaves no other for those before.
        rows, steps = panel.offsets[1:] - 1, sizes - 1
        again = frequency.stamps(position + steps, phase, panel.time)
    else:
        rows = np.arange(len(panel.time))
        steps = rows - np.repeat(panel.offsets[:-1], sizes)
        again = frequency.stamps(np.repeat(position, sizes) + steps, np.repeat(phase, sizes), panel.time)
    same = (again == panel.time.gather(rows)).to_numpy()
    if not same.all():
        at = int(np.argmin(same))
        row = int(rows[at])
        series = int(np.searchsorted(panel.offsets, row, side="right")) - 1
        raise InputError(
            f"series {panel.ids[series]!r} has the stamp {panel.time[row]} where the {frequency.describe()} grid has "
            f"{again[at]}, as where a clock is put back: give the time in UTC."
        )


def _check_names(ids: pl.Series, columns: Columns) -> None:
    if ids.n_unique() == len(ids):
        return
    names = ids.filter(ids.is_duplicated())
    which = f"--id {columns.id}" if columns.id else "--id"
    raise InputError(
        f"{names.n_unique():,} series have rows in more than one part of the table, the first {names[0]!r}: the rows "
        f"of a series must lie together ({which})."
    )


def _replace(source: Path, folder: Path) -> None:
    old = None
    if folder.is_dir() and any(folder.iterdir()):
        old = folder.with_name(f".{folder.name}.{os.urandom(4).hex()}.old")
        folder.replace(old)
    try:
        source.replace(folder)
    except BaseException:
        # A signal, too, must leave the old one in its place.
        if old is not None and not folder.exists():
            old.replace(folder)
        raise
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)
    sync_folder(folder.parent)


def _sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())

"""A store: the series of a table as column files, mapped into memory instead of read.

::

    index.json       format, version, roles, frequency, counts; of every file its type, shape, bytes and SHA-256
    series.parquet   of each series its name, first stamp, missing cells and static covariates
    offsets.bin      int64 [N+1], the first row of each series, and R
    ends.bin         int64 [N], the row after the history of each series
    y.bin            float32 [R], the target, where it is missing or still to come the value before
    extremes.bin     float32 [R, 2], the smallest and largest y of the series up to each row
    missing.bin      uint8 [R], 1 where a target was missing; absent where none was
    past.bin         float32 [R, P]
    future.bin       float32 [R, F]

Numbers are little-endian. Time is not kept for each row: series lie on the regular grid of the frequency, so the first
stamp tells the others.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gatewise.data.frequency import Frequency
from gatewise.data.panel import POLICIES, Panel, summary
from gatewise.data.roles import Columns
from gatewise.errors import InputError

KIND, VERSION = "gatewise store", 1
INDEX, SERIES = "index.json", "series.parquet"
ID, FIRST, MISSING = "id", "first", "missing"
_READ_AT_ONCE = ("offsets", "ends")
_DTYPES = {
    "offsets": np.int64,
    "ends": np.int64,
    "y": np.float32,
    "extremes": np.float32,
    "missing": np.uint8,
    "past": np.float32,
    "future": np.float32,
}
_CHUNK = 2**22
_INDEX_BEGINS = 200
"""Characters of the index within which it says what it is."""


def file_name(column: str) -> str:
    """The file of a column."""
    return f"{column}.bin"


FILES = frozenset({INDEX, SERIES, *map(file_name, _DTYPES)})
"""All that a store may hold."""


def static_name(index: int) -> str:
    """The column of a static covariate in the table of series: a user's name could be one of ours."""
    return f"static {index}"


def is_store(path: str | Path) -> bool:
    """Whether a path is a folder with the index of a store, of any version, whole or damaged."""
    try:
        with open(Path(path) / INDEX, encoding="utf-8", errors="replace") as file:
            return KIND in file.read(_INDEX_BEGINS)
    except OSError:
        return False


@dataclass(frozen=True)
class Store:
    """N series of a store, or some of them; what has R rows is mapped, not read.

    Attributes:
        path: The folder.
        columns: The roles of the table's columns.
        frequency: The step between rows.
        policy: By which missing cells were treated: "error", "ffill" or "mask".
        ids: [N] names of the series.
        first: [N] the first stamp of each.
        missing_cells: [N] how many targets of its history were missing.
        static: [N, S].
        starts: int64 [N], the first row of each series.
        stops: int64 [N], the row after its last; beyond ``kept`` are rows of which only the stamps are known.
        kept: int64 [N], the row after its last that the files hold.
        ends: int64 [N], the row after its history.
        y: float32 [R], the target; where it is missing or still to come, the value before.
        extremes: float32 [R, 2], the smallest and the largest y of the series up to each row.
        missing: uint8 [R], or None where nothing is missing.
        past: float32 [R, P]; NaN where it is unknown in future rows.
        future: float32 [R, F].
    """

    path: Path
    columns: Columns
    frequency: Frequency
    policy: str
    ids: pl.Series
    first: pl.Series
    missing_cells: pl.Series
    static: pl.DataFrame
    starts: np.ndarray
    stops: np.ndarray
    kept: np.ndarray
    ends: np.ndarray
    y: np.ndarray
    extremes: np.ndarray
    missing: np.ndarray | None
    past: np.ndarray
    future: np.ndarray

    @classmethod
    def open(cls, path: str | Path) -> "Store":
        """Opens a store.

        The index, the table of series, offsets and ends are checked by their SHA-256; of the large files only the
        sizes are: `verify` reads them through.

        Raises:
            InputError: The folder is no store, is of a newer version, or one of its files is cut or damaged.
        """
        path = Path(path)
        index = _read_index(path)
        try:
            return _opened(path, index)
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _damaged(path / INDEX, f"it is not complete ({error!r})") from None
        except OSError as error:
            name = error.filename or path
            raise InputError(f"{name} cannot be read: {error.strerror or error}.") from None

    def verify(self) -> None:
        """Reads every file through and compares its SHA-256 with that of the index.

        Raises:
            InputError: A file is damaged; it is named.
        """
        for name, about in _read_index(self.path)["files"].items():
            digest = hashlib.sha256()
            try:
                with open(self.path / name, "rb") as file:
                    while part := file.read(_CHUNK):
                        digest.update(part)
            except OSError as error:
                raise InputError(f"{self.path / name} cannot be read: {error.strerror or error}.") from None
            if digest.hexdigest() != about["sha256"]:
                raise _damaged(self.path / name, "its content does not match its SHA-256")

    def fingerprint(self) -> str:
        """32 hexadecimal digits that tell these series from others."""
        digest = hashlib.blake2b((self.path / INDEX).read_bytes(), digest_size=16)
        for values in (self.starts, self.stops, self.ends):
            digest.update(values.tobytes())
        return digest.hexdigest()

    def lengths(self) -> np.ndarray:
        """int64 [N], rows of history of each series."""
        return self.ends - self.starts

    def select(self, mask: np.ndarray) -> "Store":
        """Only the series where the boolean mask [N] is true; no row is copied."""
        mask = np.asarray(mask, bool)
        chosen = pl.Series(mask)
        return replace(
            self,
            ids=self.ids.filter(chosen),
            first=self.first.filter(chosen),
            missing_cells=self.missing_cells.filter(chosen),
            static=self.static.filter(chosen) if self.static.width else self.static,
            starts=self.starts[mask],
            stops=self.stops[mask],
            kept=self.kept[mask],
            ends=self.ends[mask],
        )

    def extended(self, steps: int) -> "Store":
        """With at least ``steps`` future rows of every series; of those added only the stamps are known."""
        return replace(self, stops=np.maximum(self.stops, self.ends + steps))

    def summary(self) -> list[tuple[str, str]]:
        """What a person wants to see before training, as (label, value) pairs."""
        missing, rows = int(self.missing_cells.sum()), int((self.stops - self.starts).sum())
        return summary(self.columns, self.frequency, self.lengths(), self.span(), missing=missing, rows=rows)

    def span(self) -> tuple[Any, Any]:
        """The first and the last stamp."""
        return self.first.min(), self.stamps(np.arange(len(self.ids)), self.stops - 1).max()

    def target(self, series: int, rows: slice) -> np.ndarray:
        """float64, the target of some rows of a series; NaN where it is missing or still to come."""
        out = np.full(rows.stop - rows.start, np.nan)
        held = slice(rows.start, min(rows.stop, int(self.ends[series])))
        values = self.y[held].astype(np.float64)
        if self.missing is not None and self.policy == "mask":
            values[self.missing[held] > 0] = np.nan
        out[: len(values)] = values
        return out

    def stamps(self, series: np.ndarray, rows: np.ndarray) -> pl.Series:
        """The stamps of n rows, each of a series; rows after a series' last are its future.

        Args:
            series: int [n].
            rows: int [n].
        """
        position, phase = self.frequency.index(self.first.gather(series))
        return self.frequency.stamps(position + rows - self.starts[series], phase, self.first)


AnyPanel = Panel | Store
"""Series in memory or in a store; what both have is named alike."""


def _opened(path: Path, index: dict[str, Any]) -> Store:
    files = index["files"]
    known = FILES - {INDEX}
    for name, about in files.items():
        if name not in known:
            raise ValueError(name)
        size = (path / name).stat().st_size
        if size != about["bytes"]:
            raise _damaged(path / name, f"it has {size:,} bytes where the index says {about['bytes']:,}")
    columns: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in index["columns"].items()}
    roles = Columns(**columns)
    series = _read_series(path / SERIES, files[SERIES])
    n, rows = index["series"], index["rows"]
    if len(series) != n:
        raise _damaged(path / SERIES, f"it has {len(series):,} series where the index says {n:,}")
    shapes = {
        "offsets": (n + 1,),
        "ends": (n,),
        "y": (rows,),
        "extremes": (rows, 2),
        "missing": (rows,),
        "past": (rows, len(roles.past)),
        "future": (rows, len(roles.future)),
    }
    arrays = {name: _column(path, files, name, shape) for name, shape in shapes.items()}
    for name in _READ_AT_ONCE:
        if hashlib.sha256(arrays[name].data).hexdigest() != files[file_name(name)]["sha256"]:
            raise _damaged(path / file_name(name), "its content does not match its SHA-256")
    if index["missing"] not in POLICIES:
        raise ValueError(index["missing"])
    missing = arrays["missing"] if file_name("missing") in files else None
    offsets = arrays["offsets"]
    return Store(
        path=path,
        columns=roles,
        frequency=Frequency(index["frequency"]),
        policy=index["missing"],
        ids=series[ID].alias(roles.id or "unique_id"),
        first=series[FIRST].alias(roles.time or "ds"),
        missing_cells=series[MISSING],
        static=series.select(pl.col(static_name(i)).alias(name) for i, name in enumerate(roles.static)),
        starts=offsets[:-1],
        stops=offsets[1:],
        kept=offsets[1:],
        ends=arrays["ends"],
        missing=missing,
        **{name: arrays[name] for name in ("y", "extremes", "past", "future")},
    )


def _column(path: Path, files: dict[str, Any], name: str, shape: tuple[int, ...]) -> np.ndarray:
    dtype = np.dtype(_DTYPES[name]).newbyteorder("<")
    file = path / file_name(name)
    if file.name not in files:
        if shape[-1] and name != "missing":
            raise _damaged(path / INDEX, f"it does not list {file.name}")
        return np.empty(shape if not shape[-1] else (0,), dtype)
    about = files[file.name]
    if about["dtype"] != dtype.str or tuple(about["shape"]) != shape:
        raise _damaged(
            path / INDEX, f"it gives {file.name} as {about['dtype']} {about['shape']}, not {dtype.str} {list(shape)}"
        )
    if about["bytes"] != dtype.itemsize * int(np.prod(shape)):
        raise _damaged(path / INDEX, f"it gives {file.name} {about['bytes']:,} bytes, which do not fit its shape")
    # As a plain array: every slice of a memmap would pay for being one.
    return np.asarray(np.memmap(file, dtype, "r", shape=shape))


def _read_index(path: Path) -> dict[str, Any]:
    file = path / INDEX
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path} is not a store: it has no {INDEX}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read: {error}.") from None
    try:
        whole = json.loads(text)
        index = whole["index"]
        kind, version = index["kind"], index["version"]
        digest = hashlib.sha256(json.dumps(index, indent=1).encode()).hexdigest()
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(file, f"it is not the index of a store ({error!r})") from None
    if kind != KIND:
        raise InputError(f"{path} is not a store: its {INDEX} is of {kind!r}.")
    if version != VERSION:
        newer = isinstance(version, int) and version > VERSION
        raise InputError(
            f"the store {path} has version {version}{', from a newer gatewise' * newer}; this reads {VERSION}."
        )
    if digest != whole.get("sha256"):
        raise _damaged(file, "its content does not match its SHA-256")
    return index


def _read_series(file: Path, about: dict[str, Any]) -> pl.DataFrame:
    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != about["sha256"]:
        raise _damaged(file, "its content does not match its SHA-256")
    try:
        return pl.read_parquet(data)
    except pl.exceptions.PolarsError as error:
        raise _damaged(file, f"it is not Parquet ({error})") from None


def _damaged(file: Path, why: str) -> InputError:
    return InputError(f"{file} is damaged: {why}; prepare the store again.")

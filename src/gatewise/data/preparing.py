"""A table of any size made into a store, by streaming, in bounded memory.

1. The rows are read in chunks; the columns that are needed become files of numbers in the order of the table.
2. If the rows of a series do not lie together, a counting sort brings them together.
3. Some whole series at a time are laid out by `build_part`, with the checks and policies of every table, and appended.

What grows with the table is the names of the series and three numbers for each. A series is laid out as a whole.
"""

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gatewise.data.databases import database_kind, open_database
from gatewise.data.frequency import Frequency
from gatewise.data.infer import infer_over
from gatewise.data.intake import Labels, Numbers, Times
from gatewise.data.panel import Panel, build_part, check_policy
from gatewise.data.roles import Columns, check_columns, count, usual_columns
from gatewise.data.scratch import Scratch, ahead
from gatewise.data.sources import Source, open_files
from gatewise.data.store import Store
from gatewise.data.store_writer import check_place, store_writer
from gatewise.errors import InputError

ROWS = 2**20
"""Rows that are laid out at once, unless a series is longer."""

Watch = Callable[[str, int], None]


def prepare(
    table: str | Path,
    folder: str | Path,
    *,
    target: str = "y",
    id: str | None = None,
    time: str | None = None,
    past: Sequence[str] = (),
    future: Sequence[str] = (),
    static: Sequence[str] = (),
    missing: str = "error",
    query: str | None = None,
    force: bool = False,
    watch: Watch | None = None,
) -> Store:
    r"""Makes a long table of any size into a store, in memory that does not grow with its rows.

    Args:
        table: A path or pattern of CSV, TSV or Parquet files, also gzipped; a folder of Parquet files; or a database
            of DuckDB or SQLite.
        folder: Where the store will be. Beside it there must be room for the columns as well, 16 bytes for each row
            and 4 more for each covariate; twice that while a table is sorted.
        target: What is forecast.
        id: Names the series; by default unique_id if the table has it, else the table is one series.
        time: Stamps or whole numbers; by default ds if the table has it, else the order of the rows.
        past: Covariates known up to now.
        future: Covariates known for the future too.
        static: What stays the same within a series.
        missing: The policy for missing cells, kept in the store: "error", "ffill" or "mask".
        query: The rows of a database, as a SELECT.
        force: Whether a store in the folder is replaced.
        watch: Called with what is being done, in words, and the rows done so far.

    Returns:
        The store. Its series are in order of first appearance, as those of `build_panel`.

    Raises:
        InputError: Whatever the user can mend, with row, column, series and stamp. Nothing stays on the disk then.

    Example:
        >>> import tempfile
        >>> here = Path(tempfile.mkdtemp())
        >>> _ = (here / "t.csv").write_text("unique_id,ds,y\na,1,1\nb,1,5\na,2,2\nb,2,6\n")
        >>> prepare(here / "t.csv", here / "store").y.tolist()
        [1.0, 2.0, 5.0, 6.0]
    """
    folder = Path(folder)
    check_policy(missing)
    check_place(folder, force=force)
    made = [parent for parent in folder.parents if not parent.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            source = _open(table, query, folder.parent, stack)
            columns = usual_columns(
                source.names, target=target, id=id, time=time, past=past, future=future, static=static
            )
            work = _Work(columns, source, folder.parent, stack, watch or (lambda stage, rows: None))
            work.read(source)
            work.sort()
            with (
                store_writer(folder, missing=missing, force=force) as writer,
                contextlib.closing(ahead(work.panels(missing))) as panels,
            ):
                for panel in panels:
                    writer.append(panel)
    except OSError as error:
        raise InputError(f"the store {folder} cannot be written: {error.strerror or error}.") from error
    finally:
        for parent in made:  # what fails leaves nothing, and what is there stays: it is not empty
            with contextlib.suppress(OSError):
                parent.rmdir()
    return Store.open(folder)


def _open(table: str | Path, query: str | None, scratch: Path, stack: contextlib.ExitStack) -> Source:
    table = Path(table).expanduser()
    kind = database_kind(table)
    if kind is None and query is None:
        return open_files(table, scratch, stack)
    if kind is None:
        open_files(table, scratch, stack)  # which names a path that is wrong
        raise InputError(f"{table} is no database: --query is for files of DuckDB and SQLite.")
    if query is None:
        raise InputError(f"{table} is a database of {kind}: name its rows, as in --query 'select * from sales'.")
    return open_database(table, kind, query, scratch, stack)


class _Work:
    """A table on its way: what of it is on disk, and what is known of its series.

    Attributes:
        names: [N] of the series.
        offsets: int64 [N+1], the first row of each series once they lie together.
    """

    def __init__(self, columns: Columns, source: Source, folder: Path, stack: contextlib.ExitStack, watch: Watch):
        check_columns(pl.DataFrame({name: [None] for name in source.names}), columns)
        self._columns, self._folder, self._stack, self._watch = columns, folder, stack, watch
        text = source.text
        self._ids = Labels(columns.id, text=text, id=True) if columns.id else None
        self._times = Times(columns.time, text=text) if columns.time else None
        roles = [(role, name) for role, name in columns.roles() if name not in {columns.id, columns.time}]
        self._labels = {name: Labels(name, text=text) for name in columns.static}
        self._numbers = {name: Numbers(name, role, text=text) for role, name in roles if name not in columns.static}
        self._files: dict[str, Scratch] = {}
        self._codes: Scratch | None = None
        self._rows = 0
        self._remap: np.ndarray | None = None
        self._sorted = False
        self.names = pl.Series("unique_id", ["series"])
        self.offsets = np.zeros(2, np.int64)

    def read(self, source: Source) -> None:
        """Pass 1: the columns as files, in the order of the table."""
        columns = self._columns
        self._files = {name: self._new(np.float32) for name in self._numbers}
        self._files |= {name: self._new(np.int32) for name in self._labels}
        if columns.time:
            self._files[columns.time] = self._new(np.int64)
        if self._ids:
            self._codes = self._new(np.int32)
        takers = {**self._numbers, **self._labels}
        if self._times and columns.time:
            takers[columns.time] = self._times
        counts, together, last = np.zeros(1, np.int64), True, 0
        needed = [name for _, name in columns.roles()]
        with contextlib.closing(ahead(source.chunks(needed))) as chunks:
            for chunk in chunks:
                for name, taker in takers.items():
                    self._files[name].append(taker.take(chunk, self._rows))
                if self._ids and self._codes:
                    codes = self._ids.take(chunk, self._rows)
                    self._codes.append(codes)
                    # Numbered by first appearance, the rows of the series lie together if the numbers never descend.
                    together = together and codes[0] >= last and not (np.diff(codes) < 0).any()
                    last = int(codes[-1])
                    counts = _added(counts, np.bincount(codes, minlength=len(self._ids.names)))
                self._rows += len(chunk)
                self._watch("reading", self._rows)
        if not self._rows:
            raise InputError("the table has no rows: at least one series with values is needed.")
        self._settle(counts if self._ids else np.array([self._rows]), together)

    def _settle(self, counts: np.ndarray, together: bool) -> None:
        """What the names stand for is known when all are."""
        self._sorted = together
        if self._ids:
            names = self._ids.values()
            if (blank := names.is_null()).any():
                rows = int(counts[blank.to_numpy()].sum())
                first = min(self._ids.names.row(number) for number in blank.arg_true())
                raise InputError(
                    f"the id column {names.name!r} is blank in {count(rows, 'row')}, first in row {first + 1}: every "
                    "row needs a value."
                )
            self.names = names.unique(maintain_order=True)
            if len(self.names) < len(names):  # such as 1 and 1.0
                index = pl.DataFrame({"name": self.names}).with_row_index("number")
                found = pl.DataFrame({"name": names}).join(index, on="name", how="left", maintain_order="left")
                self._remap = found["number"].cast(pl.Int32).to_numpy()
                counts = np.bincount(self._remap, counts).astype(np.int64)
                self._sorted = False
        self.offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self._statics = {name: labels.values() for name, labels in self._labels.items()}

    def sort(self) -> None:
        """Pass 2: the rows of each series together, in the order that they have in the table."""
        if self._sorted:
            return
        given = self._files
        self._files = {name: self._new(file.dtype, self._rows) for name, file in given.items()}
        into = {name: file.mapped() for name, file in self._files.items()}
        cursor = self.offsets[:-1].copy()
        for start, stop, codes in self._coded():
            order = _stable_order(codes)
            grouped = codes[order]
            begins = np.flatnonzero(np.diff(grouped, prepend=-1))
            series, sizes = grouped[begins], np.diff(begins, append=len(codes))
            place = np.arange(len(codes)) + np.repeat(cursor[series] - begins, sizes)
            cursor[series] += sizes
            for name, file in given.items():
                into[name][place] = file.read(start, stop)[order]
            self._watch("sorting", stop)
        for file in given.values():
            file.close()

    def panels(self, missing: str) -> Generator[Panel]:
        """Pass 3: all series, some whole ones at a time."""
        frequency = Frequency("1") if self._times is None else infer_over(self._parts)
        for low, high in self._batches():
            try:
                panel = build_part(self._frame(low, high), self._columns, frequency, missing=missing)
            except InputError:
                self._refuse(low, high, frequency, missing)
                raise
            yield replace(panel, ids=self.names[low:high]) if self._ids else panel
            self._watch("writing", int(self.offsets[high]))

    def _parts(self) -> Iterator[tuple[pl.Series, np.ndarray]]:
        """The stamps of some whole series, and where each begins, for the frequency of them all."""
        assert self._times is not None
        for low, high in self._batches():
            starts = self.offsets[low:high] - self.offsets[low]
            ticks = self._files[self._times.name].read(int(self.offsets[low]), int(self.offsets[high]))
            wrong = np.diff(ticks) <= 0
            wrong[starts[1:] - 1] = False
            if wrong.any():  # the frequency would mean nothing, and this is what is to be said
                self._refuse(low, high, Frequency("1"), "error")
            yield self._times.series(ticks), starts

    def _refuse(self, low: int, high: int, frequency: Frequency, missing: str) -> None:
        """Lays out series that do not pass again, with their names and row numbers, for the message."""
        try:
            frame = self._frame(low, high, named=True)
            build_part(frame, self._columns, frequency, missing=missing, numbers=self._numbers_of(low, high))
        except InputError as error:
            total = len(self.offsets) - 1
            rest = f" Looked at were the first {high:,} of {total:,} series." if high < total else ""
            raise InputError(f"{error}{rest}") from None

    def _frame(self, low: int, high: int, *, named: bool = False) -> pl.DataFrame:
        """The rows of some series; their names are numbers, unless someone will read them."""
        start, stop = int(self.offsets[low]), int(self.offsets[high])
        columns = {name: pl.Series(name, self._files[name].read(start, stop)) for name in self._numbers}
        if self._times:
            name = self._times.name
            columns[name] = self._times.series(self._files[name].read(start, stop))
        for name, values in self._statics.items():
            codes = pl.Series(self._files[name].read(start, stop))
            columns[name] = values.gather(codes.set(codes < 0, None))
        if self._columns.id:
            codes = np.repeat(np.arange(low, high), np.diff(self.offsets[low : high + 1]))
            columns[self._columns.id] = self.names.gather(codes) if named else pl.Series(codes)
        return pl.DataFrame(columns)

    def _numbers_of(self, low: int, high: int) -> np.ndarray:
        """The rows of some series in the user's table."""
        if self._sorted:
            return np.arange(self.offsets[low], self.offsets[high])
        found = [np.empty(0, np.int64)]
        labels = [np.empty(0, np.int32)]
        for start, _, codes in self._coded():
            rows = np.flatnonzero((codes >= low) & (codes < high))
            found.append(start + rows)
            labels.append(codes[rows])
        return np.concatenate(found)[np.argsort(np.concatenate(labels), kind="stable")]

    def _batches(self) -> Iterator[tuple[int, int]]:
        """Numbers of series, from one to the one before another, that have about `ROWS` rows together."""
        low, total = 0, len(self.offsets) - 1
        while low < total:
            high = max(low + 1, int(np.searchsorted(self.offsets, self.offsets[low] + ROWS, side="right")) - 1)
            yield low, high
            low = high

    def _coded(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """The series of each row, in the order of the table: from row, to row, numbers."""
        assert self._codes is not None
        for start in range(0, self._rows, ROWS):
            stop = min(start + ROWS, self._rows)
            codes = self._codes.read(start, stop)
            yield start, stop, codes if self._remap is None else self._remap[codes]

    def _new(self, dtype: Any, rows: int | None = None) -> Scratch:
        return Scratch(self._folder, dtype, self._stack, rows)


def _added(counts: np.ndarray, more: np.ndarray) -> np.ndarray:
    more[: len(counts)] += counts
    return more


def _stable_order(codes: np.ndarray) -> np.ndarray:
    """The order that sorts codes and keeps the order of equal ones; NumPy sorts 16 bits without comparing."""
    order = np.argsort(codes.astype(np.uint16), kind="stable")
    if codes.max() < 2**16:
        return order
    return order[np.argsort((codes[order] >> 16).astype(np.uint16), kind="stable")]

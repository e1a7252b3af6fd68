"""Rows of a table laid on the grid of time: grouped by series, checked for order, completed where rows are missing."""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from gatewise.data.frequency import Frequency
from gatewise.data.infer import infer_frequency
from gatewise.data.roles import Columns, count, id_column, time_column
from gatewise.errors import InputError

POLICY_HINT = "fill the cells, or choose how to treat them: --missing ffill or --missing mask"


@dataclass(frozen=True)
class Rows:
    """R rows of N series in time order, and where each came from.

    Attributes:
        columns: The roles, for messages.
        ids: [N] the series' names, in order of first appearance.
        offsets: int64 [N+1], the first row of each series, and R.
        source: int64 [R], row of the user's table; a row that was added repeats the one before it.
        added: bool [R], whether the row was missing from the table.
        time: [R] stamps.
        numbers: int64, the number of each row of the given table (from 0) in the user's, where that is a part of it.
    """

    columns: Columns
    ids: pl.Series
    offsets: np.ndarray
    source: np.ndarray
    added: np.ndarray
    time: pl.Series
    numbers: np.ndarray | None = None

    def series_of(self, row: int) -> int:
        """The series that a row belongs to."""
        return int(np.searchsorted(self.offsets, row, side="right")) - 1

    def series_name(self, series: int) -> str:
        """A series in words."""
        return f"series {self.ids[series]!r}" if self.columns.id else "the series"

    def stamp(self, row: int) -> str:
        """A row's time in words."""
        return f"{self.columns.time or 'step'} {self.time[row]}"

    def place(self, row: int) -> str:
        """A row in words: series, time, and row of the user's table, counted from 1 below the header."""
        where = f"{self.series_name(self.series_of(row))}, {self.stamp(row)}"
        if self.added[row]:
            return where
        given = self.source[row] if self.numbers is None else self.numbers[self.source[row]]
        return f"{where} (row {given + 1})"

    def keep(self, mask: np.ndarray) -> "Rows":
        """Only the rows where the mask is true; a series may become empty."""
        before = np.concatenate([[0], np.cumsum(mask)])
        return replace(
            self,
            offsets=before[self.offsets],
            source=self.source[mask],
            added=self.added[mask],
            time=self.time.filter(pl.Series(mask)),
        )


def group_rows(df: pl.DataFrame, columns: Columns, numbers: np.ndarray | None = None) -> Rows:
    """Groups the rows by series, in order of first appearance; within a series their order stays as it is."""
    total = df.height
    ids = id_column(df, columns.id) if columns.id else pl.Series("unique_id", ["series"])
    time = time_column(df, columns.time) if columns.time else None
    source = np.arange(total)
    offsets = np.array([0, total], np.int64)
    if columns.id:
        groups = pl.DataFrame({"id": ids}).with_row_index("row").group_by("id", maintain_order=True).agg("row")
        source = groups["row"].explode().cast(pl.Int64).to_numpy()
        offsets = np.concatenate([[0], np.cumsum(groups["row"].list.len().to_numpy(), dtype=np.int64)])
        ids = groups["id"].alias(columns.id)
    if time is None:
        lengths = np.diff(offsets)
        time = pl.Series("ds", np.arange(total) - np.repeat(offsets[:-1], lengths))
    elif np.any(np.diff(source) < 0):
        time = time.gather(source)
    return Rows(columns, ids, offsets, source, np.zeros(total, bool), time, numbers)


def check_order(rows: Rows) -> None:
    """Raises `InputError` if the stamps of a series do not ascend."""
    ticks = rows.time.to_physical().cast(pl.Int64).to_numpy()
    step = np.diff(ticks)
    wrong = (step <= 0) & (np.diff(_series_numbers(rows.offsets)) == 0)
    if not wrong.any():
        return
    row = int(np.argmax(wrong)) + 1
    hint = "" if rows.columns.id else " If the table holds several series, name their column with --id."
    if step[row - 1] == 0:
        total = int(np.sum(wrong & (step == 0)))
        raise InputError(
            f"the table has {count(total, 'duplicate stamp')}, the first at {rows.place(row)}: each stamp may appear "
            f"once in a series.{hint}"
        )
    raise InputError(
        f"the table is not sorted: {rows.place(row)} comes after {rows.stamp(row - 1)}; sort the table by time.{hint}"
    )


def settle_frequency(rows: Rows, given: Frequency | None) -> Frequency:
    """The table's own frequency, which must agree with the given one, if there is one."""
    if rows.columns.time is None:
        found = Frequency("1")
    elif given is None:
        return infer_frequency(rows.time, rows.offsets)
    elif int(np.diff(rows.offsets).max()) < 2:
        found = given if given.fits(rows.time.dtype) else None
    else:
        found = infer_frequency(rows.time, rows.offsets)
    if given is None or (found and found.like(given)):
        assert found is not None
        return found
    if _steps_like(rows, given):
        return given
    now = found.describe() if found else f"of type {rows.time.dtype}"
    raise InputError(
        f"the model was trained on {given.describe()} data, but this table is {now}: give a table of the same "
        "frequency."
    )


def _steps_like(rows: Rows, frequency: Frequency) -> bool:
    """Whether all stamps lie on the grid and most neighbours are one step apart, whatever else they may look like."""
    if not frequency.fits(rows.time.dtype) or frequency.whole:
        return False
    position, phase = frequency.index(rows.time)
    inner = np.diff(_series_numbers(rows.offsets)) == 0
    steps = np.diff(position)[inner]
    return (
        not (np.diff(phase)[inner].any() or (phase < 0).any())
        and len(steps) > 0
        and 2 * np.sum(steps == 1) > len(steps)
    )


def complete(rows: Rows, frequency: Frequency, *, fill: bool) -> Rows:
    """Adds the rows that are missing from the grid, or refuses them.

    Raises:
        InputError: A stamp lies off the grid; rows are missing and `fill` is false; or a gap is absurdly long.
    """
    if rows.columns.time is None:
        return rows
    position, phase = frequency.index(rows.time)
    if (phase < 0).any():
        raise InputError(
            f"irregular frequency: {rows.place(int(np.argmax(phase < 0)))} lies on a weekend, where the grid of "
            f"{frequency.text} ({frequency.describe()}) has no step."
        )
    inner = np.diff(_series_numbers(rows.offsets)) == 0
    step = np.diff(position)
    off = ((np.diff(phase) != 0) | (step < 1)) & inner
    if off.any():
        row = int(np.argmax(off)) + 1
        raise InputError(
            f"irregular frequency: {rows.place(row)} follows {rows.stamp(row - 1)}, which is no whole number of "
            f"steps of {frequency.text} ({frequency.describe()}); {count(int(off.sum()), 'step')} like this."
        )
    gaps = np.where(inner, step - 1, 0)
    if not gaps.any():
        return rows
    _check_gaps(rows, frequency, gaps, fill=fill)
    return _insert(rows, frequency, position, phase, gaps)


def _check_gaps(rows: Rows, frequency: Frequency, gaps: np.ndarray, *, fill: bool) -> None:
    row, total = int(np.argmax(gaps > 0)), int(gaps.sum())
    if not fill:
        raise InputError(
            f"{count(total, 'row')} {'is' if total == 1 else 'are'} missing from the {frequency.describe()} grid, the "
            f"first after {rows.place(row)}; {POLICY_HINT}."
        )
    if total > 1_000_000 + 10 * len(rows.source):
        row = int(np.argmax(gaps))
        raise InputError(
            f"{count(int(gaps[row]), 'row')} are missing from the {frequency.describe()} grid after {rows.place(row)}, "
            "too many to fill: check that stamp and the next."
        )


def _insert(rows: Rows, frequency: Frequency, position: np.ndarray, phase: np.ndarray, gaps: np.ndarray) -> Rows:
    copies = np.append(gaps, 0) + 1
    before = np.repeat(np.arange(len(copies)), copies)
    starts = np.concatenate([[0], np.cumsum(copies)])
    ahead = np.arange(len(before)) - starts[before]
    added = ahead > 0
    time = rows.time
    # Only the added stamps are computed, so that the given ones stay untouched to the last tick.
    extra = frequency.stamps((position[before] + ahead)[added], phase[before][added], time)
    order = np.where(added, len(time) + np.cumsum(added) - 1, before)
    return replace(
        rows,
        offsets=starts[rows.offsets],
        source=rows.source[before],
        added=added,
        time=pl.concat([time, extra]).gather(order),
    )


def _series_numbers(offsets: np.ndarray) -> np.ndarray:
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))

"""The panel: all series of a table as flat arrays, on a regular grid, with every missing cell accounted for.

Rows lie series by series in time order. The history of a series ends with its last target; rows below it are the
future, whose targets are blank and whose known-future covariates a forecast needs.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from gatewise.data.forks import check_fork
from gatewise.data.frequency import Frequency
from gatewise.data.grid import POLICY_HINT, Rows, check_order, complete, group_rows, settle_frequency
from gatewise.data.roles import Columns, check_columns, check_finite, count, number_column
from gatewise.data.table import with_future
from gatewise.errors import InputError

__all__ = ["POLICIES", "Columns", "Panel", "build_panel", "with_future"]

POLICIES = ("error", "ffill", "mask")
"""What to do with missing cells: refuse them, repeat the value before, or leave the target out of the loss."""


@dataclass(frozen=True)
class Panel:
    """N series of R rows in all.

    Attributes:
        columns: The roles of the table's columns.
        ids: [N] names of the series, in order of first appearance.
        offsets: int64 [N+1]; series i has the rows offsets[i] to offsets[i+1].
        time: [R] stamps, of the table's own type.
        y: float64 [R] target; NaN in future rows, and in missing cells under the policy "mask".
        ends: int64 [N]; the history of series i ends before row ends[i].
        past: float32 [R, P]; NaN where it is unknown in future rows.
        future: float32 [R, F].
        static: [N, S], of the table's own types; without static covariates an empty frame.
        frequency: The step between rows.
        missing: bool [R]; history rows whose target was blank or which the table lacked.
    """

    columns: Columns
    ids: pl.Series
    offsets: np.ndarray
    time: pl.Series
    y: np.ndarray
    ends: np.ndarray
    past: np.ndarray
    future: np.ndarray
    static: pl.DataFrame
    frequency: Frequency
    missing: np.ndarray

    @property
    def starts(self) -> np.ndarray:
        """int64 [N], the first row of each series."""
        return self.offsets[:-1]

    @property
    def stops(self) -> np.ndarray:
        """int64 [N], the row after the last of each series."""
        return self.offsets[1:]

    def lengths(self) -> np.ndarray:
        """int64 [N], rows of history of each series."""
        return self.ends - self.starts

    def stamps(self, series: np.ndarray, rows: np.ndarray) -> pl.Series:
        """The stamps of rows int [n], each of a series int [n]."""
        return self.time.gather(rows)

    def target(self, series: int, rows: slice) -> np.ndarray:
        """float64, the target of some rows of a series; NaN where it is missing or still to come."""
        return self.y[rows]

    def span(self) -> tuple[Any, Any]:
        """The first and the last stamp."""
        return self.time.min(), self.time.max()

    def fingerprint(self) -> str:
        """32 hexadecimal digits that tell these series from others."""
        digest = hashlib.blake2b(digest_size=16)
        for values in (self.offsets, self.ends, self.y, self.past, self.future, self.missing):
            digest.update(np.ascontiguousarray(values).data)
        names = (self.columns, self.frequency.text, str(self.time[0]), self.ids.to_list(), self.static.rows())
        digest.update(repr(names).encode())
        return digest.hexdigest()

    def select(self, mask: np.ndarray) -> "Panel":
        """Only the series where the boolean mask [N] is true."""
        mask = np.asarray(mask, bool)
        sizes = np.diff(self.offsets)
        rows = np.repeat(mask, sizes)
        offsets = np.concatenate([[0], np.cumsum(sizes[mask])]).astype(np.int64)
        chosen = pl.Series(mask)
        return replace(
            self,
            ids=self.ids.filter(chosen),
            offsets=offsets,
            time=self.time.filter(pl.Series(rows)),
            y=self.y[rows],
            ends=offsets[:-1] + self.lengths()[mask],
            past=self.past[rows],
            future=self.future[rows],
            static=self.static.filter(chosen) if self.static.width else self.static,
            missing=self.missing[rows],
        )

    def summary(self) -> list[tuple[str, str]]:
        """What a person wants to see before training, as (label, value) pairs."""
        span, missing = self.span(), int(self.missing.sum())
        return summary(self.columns, self.frequency, self.lengths(), span, missing=missing, rows=len(self.y))


def summary(
    columns: Columns, frequency: Frequency, lengths: np.ndarray, span: tuple[Any, Any], *, missing: int, rows: int
) -> list[tuple[str, str]]:
    """Some series in (label, value) pairs.

    Args:
        columns: The roles of the columns.
        frequency: The step between rows.
        lengths: [N], rows of history.
        span: The first and the last stamp.
        missing: How many cells of the history are.
        rows: Of history and future.
    """
    history = int(lengths.sum())
    pairs = [("series", f"{len(lengths):,}"), ("rows", f"{history:,}")]
    if len(lengths):
        spread = f"{lengths.min():,} / {np.median(lengths):,.0f} / {lengths.max():,}"
        pairs.append(("length (shortest / median / longest)", spread))
        pairs.append(("time", f"{span[0]} to {span[1]}"))
    pairs.append(("frequency", f"{frequency.describe()} ({frequency.text})"))
    pairs.append(("missing cells", f"{missing:,} ({missing / max(history, 1):.2%})" if missing else "none"))
    kinds = (("past", columns.past), ("known future", columns.future), ("static", columns.static))
    named = [f"{kind}: {', '.join(names)}" for kind, names in kinds if names]
    pairs.append(("covariates", "; ".join(named) or "none"))
    pairs.append(("future rows", f"{rows - history:,}"))
    return pairs


def build_panel(
    df: pl.DataFrame,
    columns: Columns,
    *,
    frequency: Frequency | None = None,
    missing: str = "error",
    need_future: int = 0,
) -> Panel:
    """Checks a long table and lays it out as a panel.

    Args:
        df: One row per series and time; series may be interleaved, the rows of each must ascend in time.
        columns: Which column is what.
        frequency: The frequency that the table must have; None infers it.
        missing: For blank targets inside a series, rows missing from the grid, and blank covariates. "error" refuses
            them. "ffill" repeats the value before. "mask" leaves the target NaN and repeats covariates. Both leave out
            rows before a series' first target, and fill the first covariates of a series backwards. Blank targets at
            the end of a series are its future and always allowed.
        need_future: How many future rows every series must have if the table has known-future covariates.

    Raises:
        InputError: Whatever the user can mend, with series, stamp, row and column.

    Example:
        >>> panel = build_panel(pl.DataFrame({"y": [1.0, 2.0, None]}), Columns())
        >>> panel.lengths().tolist(), panel.time.to_list()
        ([2], [0, 1, 2])
    """
    check_fork()
    check_policy(missing)
    check_columns(df, columns)
    return _lay_out(df, columns, lambda rows: settle_frequency(rows, frequency), missing, need_future=need_future)


def build_part(
    df: pl.DataFrame,
    columns: Columns,
    frequency: Frequency,
    *,
    missing: str = "error",
    numbers: np.ndarray | None = None,
) -> Panel:
    """The same for some whole series of a table whose columns are checked and whose frequency is known.

    Args:
        df: The rows of the series.
        columns: Which column is what.
        frequency: Of the whole table.
        missing: The policy.
        numbers: int64, for each row its number in the whole table (from 0), for messages.
    """
    return _lay_out(df, columns, lambda _: frequency, missing, numbers=numbers)


def check_policy(missing: str) -> None:
    """Raises `InputError` if there is no such policy."""
    if missing not in POLICIES:
        raise InputError(f"missing={missing!r} is unknown: accepted are {', '.join(POLICIES)}.")


def _lay_out(
    df: pl.DataFrame,
    columns: Columns,
    settle: Callable[[Rows], Frequency],
    missing: str,
    *,
    need_future: int = 0,
    numbers: np.ndarray | None = None,
) -> Panel:
    target = number_column(df, columns.target, "target")
    rows = group_rows(df, columns, numbers)
    check_order(rows)
    step = settle(rows)
    rows = complete(rows, step, fill=missing != "error")
    y = np.where(rows.added, np.nan, target[rows.source])
    rows, y = _trim(rows, y, missing)
    ends = _last_value(y, rows.offsets)
    history = np.arange(len(y)) < np.repeat(ends, np.diff(rows.offsets))
    blank = np.isnan(y) & history
    _check_blank_target(rows, blank, missing)
    if missing == "ffill":
        y = np.where(history, _filled(y, rows.offsets), y)
    if columns.future and need_future:
        _check_future_rows(rows, ends, int(need_future))
    return Panel(
        columns=columns,
        ids=rows.ids,
        offsets=rows.offsets,
        time=rows.time,
        y=y,
        ends=ends,
        past=_covariates(df, rows, "past", history, missing),
        future=_covariates(df, rows, "future", history, missing),
        static=_statics(df, rows),
        frequency=step,
        missing=blank,
    )


def _trim(rows: Rows, y: np.ndarray, missing: str) -> tuple[Rows, np.ndarray]:
    """Leaves out what comes before each series' first target, if a policy allows it; every series must have one."""
    valid = np.flatnonzero(~np.isnan(y))
    first = np.searchsorted(valid, rows.offsets[:-1])
    begin = np.append(valid, len(y))[first]
    empty = np.flatnonzero(begin >= rows.offsets[1:])
    if len(empty):
        names = ", ".join(repr(rows.ids[int(series)]) for series in empty[:3]) + (", …" if len(empty) > 3 else "")
        which = f" in {len(empty):,} series ({names})" if rows.columns.id else ""
        raise InputError(f"the target {rows.columns.target!r} has no value at all{which}: give values or leave it out.")
    if missing == "error":
        return rows, y
    keep = np.arange(len(y)) >= np.repeat(begin, np.diff(rows.offsets))
    return (rows, y) if keep.all() else (rows.keep(keep), y[keep])


def _last_value(y: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """One past the last row with a value, for each series; each has one."""
    valid = np.flatnonzero(~np.isnan(y))
    return valid[np.searchsorted(valid, offsets[1:]) - 1].astype(np.int64) + 1


def _check_blank_target(rows: Rows, blank: np.ndarray, missing: str) -> None:
    if missing == "error" and blank.any():
        raise InputError(
            f"the target {rows.columns.target!r} is blank in {count(int(blank.sum()), 'cell')} inside the series, the "
            f"first at {rows.place(int(np.argmax(blank)))}; {POLICY_HINT}."
        )


def _check_future_rows(rows: Rows, ends: np.ndarray, need: int) -> None:
    have = rows.offsets[1:] - ends
    short = np.flatnonzero(have < need)
    if len(short):
        series = int(short[0])
        names = ", ".join(rows.columns.future)
        raise InputError(
            f"future covariates are missing: {rows.series_name(series)} has {have[series]} future rows with {names} "
            f"where {need} are needed ({len(short):,} of {len(have):,} series are short); add rows with a blank "
            "target, or give --future-table."
        )


def _covariates(df: pl.DataFrame, rows: Rows, kind: str, history: np.ndarray, missing: str) -> np.ndarray:
    """float32 [R, P or F], filled by the policy; blanks that no policy may fill are refused."""
    names = rows.columns.past if kind == "past" else rows.columns.future
    out = np.empty((len(rows.source), len(names)), np.float32)
    for column, name in enumerate(names):
        values = number_column(df, name, f"{kind} covariate")[rows.source]
        blank = np.isnan(values)
        if kind == "future":
            _refuse_blank(rows, blank & ~history & ~rows.added, f"future covariate {name!r} is missing", "its future")
        if missing == "error":
            _refuse_blank(rows, blank & history, f"{kind} covariate {name!r} is blank", "the history", POLICY_HINT)
        elif blank.any():
            _check_any_value(rows, name, kind, values, history)
            filled = _filled(values, rows.offsets)
            values = filled if kind == "future" else np.where(history, filled, values)
        out[:, column] = values
    return out


def _refuse_blank(rows: Rows, blank: np.ndarray, what: str, where: str, hint: str = "give a value in each") -> None:
    if blank.any():
        raise InputError(
            f"the {what} in {count(int(blank.sum()), 'row')} of {where}, the first at "
            f"{rows.place(int(np.argmax(blank)))}; {hint}."
        )


def _check_any_value(rows: Rows, name: str, kind: str, values: np.ndarray, history: np.ndarray) -> None:
    known = ~np.isnan(values) & (history if kind == "past" else True)
    before = np.concatenate([[0], np.cumsum(known)])
    empty = np.flatnonzero(np.diff(before[rows.offsets]) == 0)
    if len(empty):
        where = rows.series_name(int(empty[0]))
        raise InputError(f"the {kind} covariate {name!r} has no value at all in {where}: give values or leave it out.")


def _filled(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Each NaN replaced by the value before it in its series, or by the first value after it."""
    valid = ~np.isnan(values)
    known = np.flatnonzero(valid)
    sizes = np.diff(offsets)
    before = np.maximum.accumulate(np.where(valid, np.arange(len(values)), -1))
    first = np.append(known, 0)[np.searchsorted(known, offsets[:-1])]
    return values[np.where(before < np.repeat(offsets[:-1], sizes), np.repeat(first, sizes), before)]


def _statics(df: pl.DataFrame, rows: Rows) -> pl.DataFrame:
    """[N, S]: one value per series, which all its rows share."""
    firsts = rows.source[rows.offsets[:-1]]
    sizes = np.diff(rows.offsets)
    out: dict[str, pl.Series] = {}
    for name in rows.columns.static:
        column = df[name]
        blank = column.is_null() | (column.is_nan() if column.dtype.is_float() else False)
        if blank.any():
            at = np.argmax(blank.to_numpy()[rows.source])
            raise InputError(
                f"the static covariate {name!r} is blank at {rows.place(int(at))}: every row needs a value."
            )
        if column.dtype.is_float() and column.is_infinite().any():
            at = int(np.argmax(column.is_infinite().to_numpy()[rows.source]))
            raise InputError(f"the static covariate {name!r} is infinite at {rows.place(at)}: give finite numbers.")
        if column.dtype.is_numeric():
            check_finite(column.cast(pl.Float64).to_numpy(), name, "static covariate")
        changed = (column.gather(np.repeat(firsts, sizes)) != column.gather(rows.source)).to_numpy()
        if changed.any():
            at = int(np.argmax(changed))
            raise InputError(
                f"the static covariate {name!r} changes within {rows.series_name(rows.series_of(at))}: it is "
                f"{column[int(firsts[rows.series_of(at)])]!r} at first and {column[int(rows.source[at])]!r} at "
                f"{rows.stamp(at)}. Name it as a past or future covariate instead."
            )
        out[name] = column.gather(firsts)
    return pl.DataFrame(out)

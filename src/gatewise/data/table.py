"""Tables put together before they become a panel."""

import numpy as np
import polars as pl

from gatewise.data.roles import Columns, check_columns, check_present, count, id_column, number_column, time_column
from gatewise.errors import InputError


def with_future(df: pl.DataFrame, future_df: pl.DataFrame, columns: Columns) -> pl.DataFrame:
    """Appends a separate table of future rows, whose targets become blank, below the history.

    Args:
        df: The history.
        future_df: Id and time (where the history has them) and every known-future covariate; the target is absent or
            blank; other columns are not used. Static covariates are taken from the history.
        columns: Which column is what, in both.

    Raises:
        InputError: A column is absent, a series is unknown, a stamp does not come after the history, or the table
            holds targets.

    Example:
        >>> history = pl.DataFrame({"y": [1.0, 2.0], "holiday": [0, 0]})
        >>> with_future(history, pl.DataFrame({"holiday": [1]}), Columns(future=("holiday",)))["y"].to_list()
        [1.0, 2.0, None]
    """
    check_columns(df, columns)
    if future_df.is_empty():
        raise InputError("the future table has no rows: give one row per series and future stamp.")
    needed = [name for name in (columns.id, columns.time, *columns.future) if name]
    for name in needed:
        check_present(future_df, name, "future", "the future table")
    _check_blank_target(future_df, columns)
    rows = future_df.select(needed)
    if columns.time:
        times = time_column(df, columns.time)
        df = df.with_columns(times)
        rows = rows.with_columns(_same_time(time_column(rows, columns.time), times))
    if columns.id:
        rows = rows.with_columns(_same_ids(id_column(rows, columns.id), id_column(df, columns.id)))
    rows = _with_statics(rows, df, columns)
    _check_after(df, rows, columns)
    for name in columns.future:
        # Covariates may be whole in one table and broken in the other; both become float64.
        both = [
            pl.Series(name, number_column(table, name, "future covariate"), nan_to_null=True) for table in (df, rows)
        ]
        df, rows = df.with_columns(both[0]), rows.with_columns(both[1])
    blank = [pl.lit(None, dtype).alias(name) for name, dtype in df.schema.items() if name not in rows.columns]
    return pl.concat([df, rows.with_columns(blank).select(df.columns)])


def _check_blank_target(future_df: pl.DataFrame, columns: Columns) -> None:
    if columns.target not in future_df.columns:
        return
    target = number_column(future_df, columns.target, "target")
    known = int((~np.isnan(target)).sum())
    if known:
        raise InputError(
            f"the future table has {count(known, 'value')} of the target {columns.target!r}: leave that column blank "
            "or out, and put known targets into the history."
        )


def _same_time(times: pl.Series, like: pl.Series) -> pl.Series:
    if times.dtype == like.dtype:
        return times
    zones = [getattr(column.dtype, "time_zone", None) for column in (times, like)]
    if times.dtype.is_integer() == like.dtype.is_integer() and zones[0] == zones[1]:
        same = times.cast(like.dtype, strict=False)
        # A cast from datetime to date would drop the time of day.
        if not same.null_count() and (same.cast(times.dtype) == times).all():
            return same
    raise InputError(
        f"the future table's time {times.name!r} is {times.dtype} where the history has {like.dtype}: give stamps of "
        "the same type and time zone."
    )


def _same_ids(ids: pl.Series, like: pl.Series) -> pl.Series:
    try:
        same = ids if ids.dtype == like.dtype else ids.cast(like.dtype)
    except pl.exceptions.PolarsError:
        same = None
    known = None if same is None else same.cast(pl.String).is_in(like.cast(pl.String).unique().implode())
    if same is None or known is None or not known.all():
        row = 0 if known is None else ((~known).arg_max() or 0)
        raise InputError(f"the future table's series {ids[row]!r} (row {row + 1}) is not in the history.")
    return same


def _with_statics(rows: pl.DataFrame, df: pl.DataFrame, columns: Columns) -> pl.DataFrame:
    if not columns.static:
        return rows
    statics = list(columns.static)
    if columns.id is None:
        return rows.with_columns(pl.lit(df[name][0], df.schema[name]).alias(name) for name in statics)
    firsts = df.select(columns.id, *statics).unique(columns.id, keep="first")
    return rows.join(firsts, on=columns.id, how="left", maintain_order="left")


def _check_after(df: pl.DataFrame, rows: pl.DataFrame, columns: Columns) -> None:
    """Every future row must come after the last row of its series."""
    if columns.time is None:
        return
    time = pl.col(columns.time)
    if columns.id is None:
        late = rows.with_columns(pl.lit(df[columns.time].max(), df.schema[columns.time]).alias("\0last"))
    else:
        last = df.group_by(columns.id).agg(time.max().alias("\0last"))
        late = rows.join(last, on=columns.id, how="left", maintain_order="left")
    ends = late["\0last"]
    early = late[columns.time] <= ends
    if early.any():
        row = early.arg_max() or 0
        series = f"series {rows[columns.id][row]!r}, " if columns.id else ""
        raise InputError(
            f"the future table overlaps the history in {count(int(early.sum()), 'row')}: {series}{columns.time} "
            f"{rows[columns.time][row]} (row {row + 1}) is not after {ends[row]}, where the history ends."
        )

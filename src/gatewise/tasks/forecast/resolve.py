"""What the settings become once the table is known: its columns, season, window and lags."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import polars as pl

from gatewise.data import AnyPanel, Columns, Frequency, Store, usual_columns
from gatewise.data.windows import SomePanel
from gatewise.errors import InputError
from gatewise.runtime.rows import forward_filled
from gatewise.tasks.forecast.settings import Settings

USUAL_WINDOW = 168
LONGEST_USUAL_WINDOW = 336
USUAL_HOLDOUT = 0.05
MOST_HORIZONS_HELD_OUT = 10
MOST_SERIES_FOR_LAGS = 1000
MOST_ROWS_FOR_LAGS = 2**20
"""Of each series, its last."""
_DAY = 86_400
_SEASONS_OF_MONTHS = {1: 12, 3: 4}


def resolve_columns(df: pl.DataFrame, settings: Settings) -> Columns:
    """The roles of the columns: unique_id and ds are taken where the table has them and no other is named."""
    columns = usual_columns(
        df.columns,
        target=settings.target,
        id=settings.id,
        time=settings.time,
        past=settings.past,
        future=settings.future,
        static=settings.static,
    )
    check_quantile_names(columns, settings)
    return columns


def check_quantile_names(columns: Columns, settings: Settings) -> None:
    """Raises `InputError` if a column of the forecast would be there twice."""
    for role, name in (("id", columns.id), ("time", columns.time)):
        if name in {f"q{level}" for level in settings.quantiles}:
            raise InputError(f"the {role} column {name!r} is called like a quantile of the forecast: rename it.")


def settings_of_store(settings: Settings, store: Store) -> Settings:
    """The settings with the roles and the policy that a store was prepared with.

    Raises:
        InputError: a setting says something else.
    """
    stored: dict[str, Any] = {**vars(store.columns), "missing": store.policy}
    usual = {field.name: field.default for field in fields(Settings)}
    for name, value in stored.items():
        given = getattr(settings, name)
        same = set(given) == set(value) if isinstance(value, tuple) else given == value
        if not same and given != usual[name]:
            raise InputError(
                f"{name} is {_said(given)}, but the store {store.path} was prepared with {_said(value)}: leave the "
                "setting out, or prepare the store again."
            )
    check_quantile_names(store.columns, settings)
    return replace(settings.plain(), **stored)


def check_store(store: Store, columns: Columns, frequency: Frequency, missing: str, need_future: int) -> None:
    """Whether a model can read a store.

    Args:
        store: what was prepared.
        columns: of the model.
        frequency: of the model.
        missing: the policy of the model.
        need_future: how many future rows every series must have, if there are known-future covariates.

    Raises:
        InputError: the store was prepared otherwise, or lacks future rows.
    """
    if store.columns != columns:
        raise InputError(
            f"the store {store.path} was prepared with {_roles(store.columns)}, and the model was trained with "
            f"{_roles(columns)}."
        )
    if not store.frequency.like(frequency):
        raise InputError(
            f"the model was trained on {frequency.describe()} data, but the store {store.path} is "
            f"{store.frequency.describe()}."
        )
    if store.policy != missing and (store.missing is not None or missing == "error"):
        raise InputError(
            f"the store {store.path} was prepared with missing={store.policy!r}, and the model was trained with "
            f"missing={missing!r}."
        )
    short = np.flatnonzero(store.kept - store.ends < need_future) if columns.future else []
    if len(short):
        raise InputError(
            f"future covariates are missing: {len(short):,} of {len(store.ids):,} series, the first "
            f"{store.ids[int(short[0])]!r}, have fewer than {need_future} future rows with "
            f"{', '.join(columns.future)} in the store {store.path}."
        )


def _roles(columns: Columns) -> str:
    return ", ".join(f"{role} {name!r}" for role, name in columns.roles())


def _said(value: object) -> str:
    return repr(", ".join(value) if isinstance(value, tuple | list) else value)


def unused_time_column(df: pl.DataFrame, columns: Columns) -> tuple[str, ...]:
    """A word to the user who has time stamps but did not name them."""
    if columns.time is not None:
        return ()
    stamps = [name for name in df.columns if df[name].dtype.is_temporal()]
    return (
        (f"the rows are taken in their order; {stamps[0]} looks like time stamps (--time {stamps[0]})",)
        if stamps
        else ()
    )


def usual_season(frequency: Frequency) -> int:
    """Steps in the season that is usual for a frequency; 1 where none is."""
    if frequency.months:
        return _SEASONS_OF_MONTHS.get(frequency.months, 1)
    if frequency.text == "1bd":
        return 5
    seconds = frequency.seconds
    if 0 < seconds < _DAY and _DAY % seconds == 0:
        return int(_DAY // seconds)
    return {"1d": 7, "1w": 52}.get(frequency.text, 1)


def usual_holdout(length: int, horizon: int) -> int:
    """One horizon, and more where series are long: whole horizons up to 5 % of the length, at most ten."""
    return horizon * min(max(int(USUAL_HOLDOUT * length / horizon), 1), MOST_HORIZONS_HELD_OUT)


def usual_window(length: int, season: int, horizon: int, holdout: int) -> int:
    """About 168 steps in whole seasons, at most 336, at least the horizon; less where series are short.

    It goes down to two seasons (to the horizon where those would be more than 336 steps) and no further: what is
    shorter is for the policy to settle.
    """
    usual = max(min(season * max(2, round(USUAL_WINDOW / season)), LONGEST_USUAL_WINDOW), horizon)
    least = max(2 * season, horizon) if 2 * season <= LONGEST_USUAL_WINDOW else horizon
    room = length - 2 * horizon - holdout
    return max(min(usual, room), min(usual, least))


def drop_short(panel: SomePanel, least: int, policy: str, need: str, remedy: str) -> tuple[SomePanel, tuple[str, ...]]:
    """Apply the policy for series with fewer than ``least`` rows.

    Args:
        panel: the series.
        least: rows that a series must have.
        policy: "error", "pad" (keep them) or "drop".
        need: what ``least`` rows are, in words.
        remedy: what the user can do about it.

    Returns:
        The series that stay, and what was left out, in words.

    Raises:
        InputError: the policy is "error" and there are short series, or it is "drop" and none would be left.
    """
    short = panel.lengths() < least
    if policy == "pad" or not short.any():
        return panel, ()
    names = listed(panel.ids.filter(pl.Series(short)).head(6).cast(pl.String).to_list())
    which = f"{int(short.sum()):,} of {len(short):,} series"
    if policy == "drop" and not short.all():
        return panel.select(~short), (f"left out {which}, shorter than the {need}: {names}",)
    shortest = int(panel.lengths()[short].min())
    none = " None is left." if policy == "drop" else ""
    raise InputError(f"{which} are too short for the {need}: {names} (the shortest has {shortest}).{none} {remedy}")


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first few names, in words."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def choose_lags(panel: AnyPanel, train_ends: np.ndarray, season: int, window: int) -> tuple[int, ...]:
    """The season, and the multiple of it within the window that complements it best (a week of days).

    Two candidates are worth as much as a mixture of them can be, so the multiple is the one for which the smaller of
    the two errors is smallest on the training rows.
    """
    if season == 1:
        return ()
    longest = window // season * season
    multiples = np.arange(2 * season, longest + 1, season)
    if not len(multiples):
        return (season,)  # a season longer than the window is still there to repeat
    picked = np.linspace(0, len(panel.ids) - 1, min(len(panel.ids), MOST_SERIES_FOR_LAGS)).astype(np.int64)
    total = np.zeros(len(multiples))
    for series in picked.tolist():
        stop = int(train_ends[series])
        y = panel.target(series, slice(max(int(panel.starts[series]), stop - MOST_ROWS_FOR_LAGS), stop))
        y = forward_filled(y, np.array([0, len(y)]))[int(np.isnan(y).argmin()) :]
        spread = y.std() if len(y) > longest else 0.0
        if spread > 0:
            # The same rows for every multiple, so that none is favoured.
            first, *others = (
                np.abs(y[longest:] - y[longest - lag : len(y) - lag]) / spread for lag in (season, *multiples)
            )
            total += [np.minimum(first, other).mean() for other in others]
    return season, int(multiples[np.argmin(total)])

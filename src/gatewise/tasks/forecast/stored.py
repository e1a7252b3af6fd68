"""The rows of a store as windows read them: encoded when they are read, from files that are mapped."""

from typing import final

import numpy as np

from gatewise.data import Store, clock
from gatewise.runtime import calendar
from gatewise.runtime.encoding import Encoding, Floats
from gatewise.runtime.rows import Doubles, Whole, stretches
from gatewise.tasks.forecast.encoding import check_calendar, constant

LARGEST_CALENDAR = 2**20
"""Positions of the grid whose calendar features are kept: 119 years of hours, in 24 MiB."""


@final
class StoreRows:
    """The rows of a store; see `gatewise.runtime.rows.Rows`. The bits are those of the same rows in arrays.

    Args:
        store: N series, with the future rows that windows need.
        encoding: of the covariates.
    """

    def __init__(self, store: Store, encoding: Encoding):
        check_calendar(encoding, store.frequency)
        self.starts, self.stops = store.starts, store.stops
        self.static: Floats = constant(encoding, store)
        self._store, self._encoding = store, encoding
        self._masked = store.missing is not None and store.policy == "mask"
        self._calendar = _Calendar(store, encoding) if encoding.calendar else None

    def shown(self, series: Whole, first: Whole, count: int) -> Doubles:
        """[B, count]; see `Rows`."""
        values = self.filled(series, first, count)
        return self._without_missing(values, first) if self._masked else values

    def filled(self, series: Whole, first: Whole, count: int) -> Doubles:
        """[B, count]; see `Rows`."""
        return stretches(self._store.y, first, count).astype(np.float64)

    def truths(self, series: Whole, first: Whole, count: int) -> Doubles:
        """[B, count]; see `Rows`."""
        values = self._without_missing(self.filled(series, first, count), first)
        return _blank_after(values, self._store.ends[series] - first)

    def spread(self, rows: Whole) -> Doubles:
        """[B]; see `Rows`."""
        return np.diff(self._store.extremes[rows].astype(np.float64), axis=1)[:, 0]

    def past(self, series: Whole, first: Whole, count: int) -> Floats:
        """[B, count, P]; see `Rows`."""
        values = stretches(self._store.past, first, count)
        return self._encoding.unknown(values.reshape(-1, values.shape[-1])).reshape(values.shape)

    def known(self, series: Whole, first: Whole, count: int) -> Floats:
        """[B, count, K]; see `Rows`."""
        parts: list[Floats] = []
        if self._encoding.future:
            values = stretches(self._store.future, first, count)
            values = self._encoding.known(values.reshape(-1, values.shape[-1]), None).reshape(values.shape)
            parts.append(_blank_after(values, self._store.kept[series] - first))
        if self._calendar is not None:
            parts.append(self._calendar.read(series, first, count))
        return np.concatenate(parts, axis=2) if len(parts) > 1 else parts[0]

    def _without_missing(self, values: Doubles, first: Whole) -> Doubles:
        missing = self._store.missing
        if missing is not None:
            values[stretches(missing, first, values.shape[1]) > 0] = np.nan
        return values


class _Calendar:
    """The calendar features of a store's rows: all series lie on one grid, so those of its positions serve them all."""

    def __init__(self, store: Store, encoding: Encoding):
        self._store, self._names = store, encoding.calendar
        position, phase = store.frequency.index(store.first)
        phases, which = np.unique(phase, return_inverse=True)
        # A share of a store's series may be none.
        begin = int(position.min()) if len(position) else 0
        span = int((position + store.stops - store.starts).max(initial=begin) - begin)
        self._table: Floats | None = None
        if 0 < len(phases) * span <= LARGEST_CALENDAR:
            places = np.tile(np.arange(begin, begin + span), len(phases))
            stamps = store.frequency.stamps(places, np.repeat(phases, span), store.first)
            self._table = calendar.calendar_features(clock(stamps), self._names)
        # Where in the table the first row of each series stands, less that row.
        self._shift = which * span + position - begin - store.starts

    def read(self, series: Whole, first: Whole, count: int) -> Floats:
        """float32 [B, count, C]."""
        if self._table is not None:
            return stretches(self._table, first + self._shift[series], count)
        rows = (first[:, None] + np.arange(count)).ravel()
        stamps = self._store.stamps(np.repeat(series, count), rows)
        return calendar.calendar_features(clock(stamps), self._names).reshape(len(first), count, len(self._names))


def _blank_after(values: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Values [B, n, …], NaN from step ``held`` [B] on."""
    if held.min(initial=values.shape[1]) < values.shape[1]:
        values[np.arange(values.shape[1]) >= held[:, None]] = np.nan
    return values

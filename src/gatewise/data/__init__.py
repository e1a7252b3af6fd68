"""Tables in, series out: readers, the panel of series, its frequency, and calendar features.

This layer knows Polars and NumPy and no model. Everything that a user can mend raises `gatewise.errors.InputError`.
"""

from gatewise.data.calendar import calendar_features, calendar_names, clock
from gatewise.data.frequency import Frequency
from gatewise.data.infer import infer_frequency
from gatewise.data.panel import Columns, Panel, build_panel, with_future
from gatewise.data.preparing import prepare
from gatewise.data.read import csv_text, read_table, to_polars, write_table
from gatewise.data.roles import usual_columns
from gatewise.data.store import Store, is_store
from gatewise.data.store_writer import StoreWriter, store_writer

__all__ = [
    "Columns",
    "Frequency",
    "Panel",
    "Store",
    "StoreWriter",
    "build_panel",
    "calendar_features",
    "calendar_names",
    "clock",
    "csv_text",
    "infer_frequency",
    "is_store",
    "prepare",
    "read_table",
    "store_writer",
    "to_polars",
    "usual_columns",
    "with_future",
    "write_table",
]

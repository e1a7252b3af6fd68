"""Tables in, series out: readers, the panel of series, its frequency, and calendar features.

This layer knows Polars and NumPy and no model. Everything that a user can mend raises `gatewise.errors.InputError`.
"""

from gatewise.data.anytable import to_table, whole
from gatewise.data.calendar import calendar_features, calendar_names, clock
from gatewise.data.frequency import Frequency
from gatewise.data.infer import infer_frequency
from gatewise.data.panel import Columns, Panel, build_panel, with_future
from gatewise.data.preparing import prepare
from gatewise.data.read import csv_text, read_table, to_polars, write_table
from gatewise.data.roles import usual_columns
from gatewise.data.store import AnyPanel, Store, is_store
from gatewise.data.store_writer import StoreWriter, store_writer
from gatewise.data.write import csv_parts, write_parts

__all__ = [
    "AnyPanel",
    "Columns",
    "Frequency",
    "Panel",
    "Store",
    "StoreWriter",
    "build_panel",
    "calendar_features",
    "calendar_names",
    "clock",
    "csv_parts",
    "csv_text",
    "infer_frequency",
    "is_store",
    "prepare",
    "read_table",
    "store_writer",
    "to_polars",
    "to_table",
    "usual_columns",
    "whole",
    "with_future",
    "write_parts",
    "write_table",
]

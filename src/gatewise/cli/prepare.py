"""`gatewise prepare`: a table of any size made into a store."""

from collections.abc import Sequence
from dataclasses import dataclass
from signal import SIGTERM
from time import perf_counter
from typing import Annotated, Literal

import tyro

from gatewise.cli.codes import raised_on_sigterm, stopped_by


@dataclass
class Prepare:
    """Make a store of a table of any size, in memory that does not grow with its rows.

    TABLE is a long table, one row per series and time: CSV, TSV or Parquet, also gzipped, a path or a quoted glob; a
    folder of Parquet files; or a DuckDB or SQLite database with --query. The rows of each series ascend in time;
    series may be interleaved. The table is checked as it is for fit, and nothing is written if it does not pass.

    Examples:
        gatewise prepare sales.csv --target units --id shop --time day -o stores/sales

        gatewise prepare 'sales/*.parquet' --target units --id shop --time day --future price -o stores/sales

        gatewise prepare shop.duckdb --query 'select * from sales' --target units --id shop --time day -o stores/sales
    """

    table: tyro.conf.Positional[str]
    """the table or database"""
    output: Annotated[str, tyro.conf.arg(aliases=["-o"])]
    """the folder of the store"""
    target: str = "y"
    """column to forecast"""
    id: str | None = None
    """column that names the series; by default unique_id if the table has it, else the table is one series"""
    time: str | None = None
    """column of time stamps or whole numbers; by default ds if the table has it, else the order of the rows"""
    past: tuple[str, ...] = ()
    """columns known up to the forecast (covariates)"""
    future: tuple[str, ...] = ()
    """columns known for the forecast horizon too, such as prices or holidays"""
    static: tuple[str, ...] = ()
    """columns that do not change within a series, numbers or names"""
    missing: Literal["error", "ffill", "mask"] = "error"
    """what to do with missing target cells inside a series: refuse (error), repeat the last value (ffill), or leave
    them out of inputs and loss (mask); kept in the store"""
    query: str | None = None
    """the rows of a database, as a SELECT"""
    force: bool = False
    """replace the store in the folder"""

    def run(self, words: Sequence[str]) -> int:
        """Prepare, and say what the store holds."""
        from rich.console import Console

        from gatewise.data import prepare

        begin = perf_counter()
        console = Console(stderr=True)
        with raised_on_sigterm(SystemExit(stopped_by(SIGTERM))), console.status("reading") as status:
            store = prepare(
                self.table,
                self.output,
                target=self.target,
                id=self.id,
                time=self.time,
                past=self.past,
                future=self.future,
                static=self.static,
                missing=self.missing,
                query=self.query,
                force=self.force,
                watch=lambda stage, rows: status.update(f"{stage}: {rows:,} rows"),
            )
        rows, seconds = len(store.y), perf_counter() - begin
        print(
            f"{self.output}: {rows:,} rows of {len(store.ids):,} series, {store.frequency.describe()}, in "
            f"{seconds:.1f} s ({rows / seconds:,.0f} rows/s)"
        )
        return 0

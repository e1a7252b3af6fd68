"""What ``gatewise predict`` does: read, forecast, write; alone, for a shard, or as one of torchrun's processes."""

import sys
from typing import TYPE_CHECKING

from gatewise.cli.outputs import check_output
from gatewise.data import csv_parts, read_table, to_table, whole, with_future, write_parts
from gatewise.errors import InputError
from gatewise.machine import process
from gatewise.tasks.forecast.model import ForecastModel
from gatewise.tasks.forecast.shares import parse_shard, part_path, predict_together, share

if TYPE_CHECKING:
    from gatewise.cli.commands import Predict


def predict(command: "Predict") -> int:
    """Forecast and write; the exit code."""
    shard = None if command.shard is None else _shard(command.shard, command.output)
    output = command.output if shard is None else str(part_path(command.output or "", *shard))
    if output is not None:
        check_output(output, command.table, command.future_table, command.model)
    table = to_table(command.table)
    model = ForecastModel.load(command.model)
    if command.future_table is not None:
        table = with_future(whole(table), read_table(command.future_table), model.columns)
    panel, notes = model.read(table)
    if not process().rank:
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
    if shard is None:
        parts = predict_together(model, panel)
    else:
        panel = share(panel, *shard)
        parts = model.predict_parts(panel)
    if parts is None:
        return 0
    if output is None:
        sys.stdout.writelines(csv_parts(parts))
    else:
        rows = write_parts(parts, output)
        print(f"{rows:,} rows for {len(panel.ids):,} series in {output}", file=sys.stderr)
    return 0


def _shard(text: str, output: str | None) -> tuple[int, int]:
    """Index and count, where a shard can be written."""
    shard = parse_shard(text)
    if output is None:
        raise InputError("--shard needs -o: every shard is a file of its own, whose name says which it is.")
    if process().size > 1:
        raise InputError("--shard is for processes that know nothing of each other: torchrun shares the series out.")
    return shard

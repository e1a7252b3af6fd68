"""The arguments of every command, and what it calls."""

import inspect
import json
import shlex
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Union

import tyro

from gatewise.cli.outputs import check_output
from gatewise.cli.prepare import Prepare
from gatewise.cli.tune import Tune
from gatewise.cli.watch import Watch
from gatewise.errors import InputError
from gatewise.tasks.forecast import Settings

Word = tyro.conf.Positional[str]


@dataclass
class Fit:
    """Train an LSTM that forecasts the series of a table, and write a run folder.

    TABLE is a long table, one row per series and time: CSV, TSV or Parquet, also gzipped, a path or a quoted glob.
    It is read whole; one that is too large for the memory goes through gatewise prepare, whose store is taken in its
    place. The run folder gets the model, its settings, its score on held-out rows beside naive and seasonal naive, the
    forecast of what comes next, and a report to open in a browser.

    Examples:
        gatewise fit data.csv --target load --time date --horizon 24

        gatewise fit 'sales/*.parquet' --target units --id shop --time day --horizon 28 --future price holiday

        gatewise fit data.csv --horizon 48 --config runs/data/config.toml --seed 1 --out runs/again
    """

    table: Word
    """the table to learn from"""
    settings: tyro.conf.OmitArgPrefixes[Settings]
    out: str | None = None
    """the run folder; by default runs/ and the name of the table"""
    force: bool = False
    """replace the run in the folder"""
    resume: bool = False
    """go on from the last checkpoint in the run folder, to the weights of a run that was never stopped; begin if there
    is none"""
    save_every: int = 100
    """steps between two checkpoints"""
    config: str | None = None
    """a TOML file of settings, such as the config.toml of a run; options given beside it win"""

    def run(self, words: Sequence[str]) -> int:
        """Train and write; ``words`` are the command's own, for the report."""
        from gatewise.cli.fitting import fit

        return fit(self, f"gatewise {shlex.join(words)}")


@dataclass
class Predict:
    """Forecast what comes after the end of every series of a table.

    MODEL is a run folder or its model file. TABLE holds the history of the series, at least one window of each, in
    the columns that the model was trained with; a second window lets it look back further.

    Examples:
        gatewise predict runs/data data.csv -o forecast.csv

        gatewise predict runs/sales sales.parquet --future-table plan.csv -o forecast.parquet

        gatewise predict runs/sales sales.parquet --shard 2/4 -o forecast.parquet

    The last writes forecast.2-of-4.parquet, the forecast of the second quarter of the series: on each of four machines
    another quarter. The parts in the order of their names are the whole. Under torchrun, its processes share the series
    out and write one file.
    """

    model: Word
    """a run folder or model file"""
    table: Word
    """the history"""
    output: Annotated[str | None, tyro.conf.arg(aliases=["-o"])] = None
    """where to write, .csv or .parquet; by default CSV to standard output"""
    future_table: str | None = None
    """rows of the horizon with the known-future covariates, if the table does not have them"""
    shard: str | None = None
    """i/n: only the i-th of n shares of the series, into a file whose name says so (forecast.2-of-4.parquet)"""

    def run(self, words: Sequence[str]) -> int:
        """Forecast and write."""
        from gatewise.cli.predicting import predict

        return predict(self)


@dataclass
class Evaluate:
    """Score a model on rows that it has not seen, beside naive and seasonal naive.

    Forecasts start at every series' training cut-off and then every --stride steps, to the end of the table. With
    --truth, exactly the rows of that table are scored, which follow the rows of TABLE.

    Examples:
        gatewise evaluate runs/data newer.csv

        gatewise evaluate runs/m4 train.parquet --truth test.parquet --json scores.json
    """

    model: Word
    """a run folder or model file"""
    table: Word
    """the history, and the rows to score if --truth is not given"""
    truth: str | None = None
    """a table of the rows to score, with the columns of TABLE"""
    stride: int | None = None
    """steps from one forecast to the next; by default the horizon"""
    in_sample: bool = False
    """score the whole table, training rows too, labelled so"""
    json: str | None = None
    """also write the scores, overall and by step, as JSON to this file, or - to print JSON and nothing else"""

    def run(self, words: Sequence[str]) -> int:
        """Score and print."""
        from gatewise.data import read_table, to_table
        from gatewise.format import atomic_file

        if self.json not in (None, "-"):
            check_output(self.json, self.table, self.truth, self.model)
        table = to_table(self.table)

        from gatewise.cli.progress import print_scores
        from gatewise.tasks.forecast.evaluate import evaluate
        from gatewise.tasks.forecast.model import ForecastModel

        model = ForecastModel.load(self.model)
        truth = None if self.truth is None else read_table(self.truth)
        metrics = evaluate(model, table, truth=truth, stride=self.stride, in_sample=self.in_sample)
        text = json.dumps(metrics, indent=2) + "\n"
        if self.json == "-":
            sys.stdout.write(text)
            return 0
        print_scores(metrics, by_step=True)
        if self.json is not None:
            with atomic_file(self.json) as file:
                file.write(text.encode())
        return 0


@dataclass
class Export:
    """Write a model as an ONNX file, which other runtimes run without gatewise.

    MODEL is a run folder or a model file. A forecaster's graph takes the raw history and gives quantiles in its units;
    other models take and give sequences, and their states, so that a stream can be run step by step.

    Examples:
        gatewise export runs/data -o model.onnx

        gatewise export tagger.safetensors --lengths -o tagger.onnx
    """

    model: Word
    """a run folder or model file"""
    output: Annotated[str, tyro.conf.arg(aliases=["-o"])]
    """where to write, .onnx"""
    lengths: bool = False
    """with an input for the lengths of the rows; not for forecasters"""
    time_first: bool = False
    """input and output as [time, batch, …] instead of [batch, time, …]; not for forecasters"""

    def run(self, words: Sequence[str]) -> int:
        """Write."""
        from gatewise.exchange import export_file

        batch_first = False if self.time_first else None
        export_file(self.model, self.output, batch_first=batch_first, lengths=self.lengths)
        print(f"{self.output} ({Path(self.output).stat().st_size:,} bytes)", file=sys.stderr)
        return 0


@dataclass
class Cells:
    """Show the recurrent cells: all of them in a table, or one with its equations and the shapes of its parameters.

    Examples:
        gatewise cells

        gatewise cells fgr

        gatewise cells lstm --peephole --latex
    """

    name: tyro.conf.Positional[str | None] = None
    """one cell"""
    latex: bool = False
    """print only the cell's equations, as LaTeX"""
    peephole: bool = False
    """with peepholes"""
    no_peephole: bool = False
    """without peepholes"""
    markdown: bool = False
    """print the page of documentation about all cells"""

    def run(self, words: Sequence[str]) -> int:
        """Print."""
        from gatewise.cli import cells

        about_one = self.latex or self.peephole or self.no_peephole
        if self.markdown and (self.name is not None or about_one):
            raise InputError("--markdown prints one page about all cells: it takes no other words.")
        if self.name is None and about_one:
            raise InputError("--latex, --peephole and --no-peephole are about one cell: name it.")
        if self.peephole and self.no_peephole:
            raise InputError("give --peephole or --no-peephole, not both.")
        if self.markdown:
            cells.show_page()
        elif self.name is None:
            cells.show_table()
        else:
            peephole = self.peephole if self.peephole or self.no_peephole else None
            (cells.show_latex if self.latex else cells.show_cell)(self.name, peephole)
        return 0


@dataclass
class Show:
    """Show what a model file holds: its blocks, weights, settings and training record.

    The whole file is checked first, as whoever uses it would; nothing in it is run.

    Examples:
        gatewise show runs/data

        gatewise show model.safetensors --json
    """

    model: Word
    """a run folder or model file"""
    json: bool = False
    """print everything as JSON, nothing shortened"""

    def run(self, words: Sequence[str]) -> int:
        """Print."""
        from gatewise.cli import show
        from gatewise.format import describe

        (show.show_json if self.json else show.show_model)(describe(self.model))
        return 0


@dataclass
class Stream:
    """Step a model line by line: JSON in on standard input, JSON out on standard output, at once.

    A line is an array of numbers, or an object {"x": [...], "id": "name", "reset": true}: every id is a stream of its
    own, which reset begins anew before the step and {"id": "name", "close": true} ends. The answer is {"y": [...]}
    with the id, or {"error": "...", "line": 7} for a line that is refused, which changes no stream; the exit status is
    then 1 at the end.

    Examples:
        gatewise stream model.safetensors < steps.jsonl

        gatewise stream model.safetensors --state states.bin < steps.jsonl
    """

    model: Word
    """a run folder or model file"""
    max_streams: int = 10_000
    """the most streams that are open at once"""
    state: str | None = None
    """a file of the streams' states, which go on from there if it exists; it is written anew at the end, also when
    stopped by Ctrl-C or SIGTERM"""

    def run(self, words: Sequence[str]) -> int:
        """Answer the lines."""
        from gatewise import runtime
        from gatewise.runtime.lines import stream_lines

        model, write = runtime.load(self.model), partial(print, flush=True)
        return stream_lines(model, sys.stdin.buffer, write, max_streams=self.max_streams, state=self.state)


Command = Fit | Predict | Evaluate | Tune | Prepare | Watch | Export | Cells | Show | Stream
COMMANDS: dict[str, type[Command]] = {
    "fit": Fit,
    "predict": Predict,
    "evaluate": Evaluate,
    "tune": Tune,
    "prepare": Prepare,
    "watch": Watch,
    "export": Export,
    "cells": Cells,
    "show": Show,
    "stream": Stream,
}
_PATHS = ("table", "model", "folder", "out", "output", "truth", "future_table", "json")
"""Arguments that name a file or a folder."""
_MARKERS = (tyro.conf.DisallowNone, tyro.conf.PositionalMetavarFromFieldName, tyro.conf.FlagCreatePairsOff)


def parse(args: Sequence[str]) -> Command:
    """The command that the words ask for; exits with 2 if they are not understood, with 0 after --help."""
    if not args or args[0] not in COMMANDS:
        return _overview(args)
    command = COMMANDS[args[0]]
    parsed: Command = tyro.cli(
        command,
        args=list(args[1:]),
        prog=f"gatewise {args[0]}",
        description=inspect.getdoc(command),
        default=command(tyro.MISSING, _configured(args)) if command in (Fit, Tune) else tyro.MISSING_NONPROP,
        config=_MARKERS,
    )
    _refuse_twice(args[1:])
    for name in _PATHS:
        if getattr(parsed, name, None) == "":
            raise InputError(f"{name} is empty, as where a variable of the shell has no value: name a file or folder.")
    return parsed


def _refuse_twice(words: Sequence[str]) -> None:
    """An option that is given again would take the place of the first without a word, columns too."""
    seen: set[str] = set()
    for word in takewhile("--".__ne__, words):
        if word.startswith("--"):
            name = word.partition("=")[0].replace("_", "-")
        elif word.startswith("-o"):
            name = "--output"
        else:
            continue
        if name in seen:
            raise InputError(f"{name} is given twice: give it once, with all its values.")
        seen.add(name)


def _overview(args: Sequence[str]) -> Command:
    """Help for all commands, and the error for words that are none."""
    choices = [
        Annotated[command, tyro.conf.subcommand(name, description=(inspect.getdoc(command) or "").partition("\n")[0])]
        for name, command in COMMANDS.items()
    ]
    return tyro.cli(
        Union[tuple(choices)],  # type: ignore[arg-type]  # noqa: UP007 - built from the table of commands
        args=list(args),
        prog="gatewise",
        description="The LSTM, whole. Train one on a table of time series, forecast with it, and score it.\n\n"
        "For example\n\n"
        "    gatewise fit data.csv --target load --horizon 24\n\n"
        "    gatewise predict runs/data data.csv -o forecast.csv\n\n"
        "    gatewise cells lstm\n\n"
        "gatewise COMMAND --help tells all about a command; gatewise --version tells the version.",
        config=_MARKERS,
    )


def _configured(args: Sequence[str]) -> Settings:
    """The settings that --config names, as the defaults of the command line."""
    path = None
    for index, word in enumerate(args):
        if word == "--config" and index + 1 < len(args):
            path = args[index + 1]
        elif word.startswith("--config="):
            path = word.removeprefix("--config=")
    values = {} if path is None else _read_config(Path(path))
    return Settings(**({"horizon": tyro.MISSING} | values))


def _read_config(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"the config file {path} does not exist.") from None
    except OSError as error:
        raise InputError(f"the config file {path} cannot be read: {error.strerror}.") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"the config file {path} cannot be read: {error}.") from None
    known = [setting.name for setting in fields(Settings)]
    for name in values:
        if name not in known:
            from difflib import get_close_matches

            close = get_close_matches(name, known, 1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise InputError(f"the config file {path} has {name!r}, which is no setting{hint}: {', '.join(known)}.")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    trial: dict[str, Any] = {"horizon": 1} | values
    try:
        Settings(**trial).check()
    except InputError as error:
        raise InputError(f"the config file {path}: {error}") from None
    return values

"""A forecaster as one graph, from the raw target to quantiles in its units: what ``gatewise.tasks.forecast`` does.

What prepares a window is computed in float64, as there: levels of a million with changes of one need it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from gatewise.errors import InputError
from gatewise.exchange.graph import INT_MAX, Graph
from gatewise.exchange.writing import Flow, Layout, add_blocks, finish, write_model
from gatewise.format import Lstm, ModelFile
from gatewise.runtime.windows import LARGEST_INPUT, SMALLEST_SCALE, SMALLEST_SHARES

TASK = "forecast"

_FLOAT, _DOUBLE = 1, 11  # onnx.TensorProto


@dataclass(frozen=True)
class _Plan:
    """The settings that shape the graph: W, h, the lags, the covariates as they are read."""

    window: int
    horizon: int
    lags: tuple[int, ...]
    past: Sequence[Mapping[str, Any]]
    future: Sequence[Mapping[str, Any]]
    calendar: Sequence[str]
    static: Sequence[Mapping[str, Any]]

    @property
    def steps(self) -> int:
        """W + h."""
        return self.window + self.horizon


def export_forecast(file: ModelFile, path: str | Path, *, opset: int) -> None:
    """Write a forecaster; docs/onnx.md tells its inputs.

    Raises:
        InputError: its settings are not complete, or the file cannot be written.
    """
    try:
        plan = _plan(cast("dict[str, Any]", file.settings))
    except (KeyError, TypeError) as error:
        raise InputError(f"the model's settings are not complete ({error!r}).") from None
    graph = Graph()
    history = graph.input("y", np.float64, ["batch", "history"])
    window = _Window(graph, history, plan)
    x = graph.op("Concat", *window.channels(), *_covariates(graph, history, plan), axis=2)
    first = file.architecture[0]
    width = first.input_size if isinstance(first, Lstm) else 0
    flow = Flow(x, width, Layout(), batch_first=True, candidates=window.candidates(), states=False)
    scaled = add_blocks(graph, file.architecture, file.weights, flow)
    forecast = window.unscaled(graph.op("Cast", scaled.value, to=_DOUBLE))
    # Quantiles that were learned one by one may cross.
    ascending = graph.ops("TopK", forecast, graph.integers(scaled.width), results=2, axis=-1, largest=0)[0]
    graph.output("forecast", ascending, ["batch", plan.horizon, scaled.width], np.float64)
    write_model(finish(graph, opset), path)


def _plan(settings: Mapping[str, Any]) -> _Plan:
    encoding = settings["encoding"]
    return _Plan(
        *(settings["window"], settings["horizon"], tuple(settings["lags"])),
        **{name: encoding[name] for name in ("past", "future", "calendar", "static")},
    )


class _Window:
    """The end of some histories [B, N], NaN where the target is unknown: its channels and candidate forecasts."""

    def __init__(self, graph: Graph, history: str, plan: _Plan):
        self.graph = graph
        self.plan = plan
        self.filled, self.last, spread = self._followed(history)
        start = graph.integers(-plan.window)
        self.shown_values = graph.op("Slice", history, start, graph.integers(INT_MAX), graph.integers(1))
        self.shown = graph.op("Not", graph.op("IsNaN", self.shown_values))
        self.level, self.scale = self._level_and_scale(spread)

    def channels(self) -> list[str]:
        """The target, whether it is shown, how far into the horizon, the target some lags back: each [B, W+h, 1]."""
        graph, plan = self.graph, self.plan
        clipped = self._clipped(self._scaled(self.shown_values))
        target = graph.op("Where", self.shown, clipped, self._number(0.0))
        ahead = self._rows(np.arange(1, plan.horizon + 1) / plan.horizon)
        hidden = self._rows(np.zeros(plan.horizon))
        parts = [
            graph.op("Concat", target, hidden, axis=1),
            graph.op("Concat", graph.op("Cast", self.shown, to=_DOUBLE), hidden, axis=1),
            graph.op("Concat", self._rows(np.zeros(plan.window)), ahead, axis=1),
        ]
        for lag in plan.lags:
            scaled = self._scaled(self._lagged(lag))
            known = graph.op("Where", graph.op("IsNaN", scaled), self._number(0.0), scaled)
            parts.append(self._clipped(known))
        return [self._column(part) for part in parts]

    def candidates(self) -> str:
        """The last value, and the last season of each lag, over and over [B, h, K]."""
        graph, plan = self.graph, self.plan
        columns = [self._column(graph.op("Expand", self._scaled(self.last), graph.integers(1, plan.horizon)))]
        for lag in plan.lags:
            ahead = graph.rows(self._lagged(lag), slice(plan.window, plan.steps), axis=1)
            known = graph.op("Where", graph.op("IsNaN", ahead), self.last, ahead)
            columns.append(self._column(self._scaled(known)))
        return graph.op("Concat", *columns, axis=2)

    def unscaled(self, values: str) -> str:
        """Scaled values [B, h, Q] in the units of the target."""
        level, scale = (self.graph.op("Unsqueeze", part, self.graph.integers(2)) for part in (self.level, self.scale))
        return self.graph.op("Add", level, self.graph.op("Mul", scale, values))

    def _followed(self, history: str) -> tuple[str, str, str]:
        """Each NaN replaced by the value before it [B, N]; the last value and the range of all [B, 1]."""
        graph, body = self.graph, Graph(self.graph)
        before = [body.input(body.fresh(name), np.float64, ["batch"]) for name in ("last", "high", "low")]
        y = body.input(body.fresh("y"), np.float64, ["batch"])
        unknown = body.op("IsNaN", y)
        last, high, low = before
        grown = [y, body.op("Max", high, y), body.op("Min", low, y)]
        after = [body.op("Where", unknown, old, new) for old, new in zip(before, grown, strict=True)]
        for value in (*after, after[0]):
            body.output(body.fresh("next"), value, ["batch"], np.float64)
        size = graph.size(history, 0)
        start = [graph.op("Expand", self._number(value), size) for value in (np.nan, -np.inf, np.inf)]
        over_time = graph.op("Transpose", history, perm=[1, 0])
        last, high, low, filled = graph.ops(
            "Scan", *start, over_time, results=4, body=body.proto("y"), num_scan_inputs=1
        )
        spread = graph.op("Where", graph.op("IsNaN", last), self._number(0.0), graph.op("Sub", high, low))
        last, spread = (graph.op("Unsqueeze", part, graph.integers(1)) for part in (last, spread))
        return graph.op("Transpose", filled, perm=[1, 0]), last, spread

    def _level_and_scale(self, spread: str) -> tuple[str, str]:
        """Mean and standard deviation [B, 1] of the shown values; the last value where none is shown."""
        graph, zero = self.graph, self._number(0.0)
        shown = graph.op("Cast", self.shown, to=_DOUBLE)
        number = self._sum(shown)
        count = graph.op("Max", number, self._number(1.0))
        mean = graph.op("Div", self._sum(graph.op("Where", self.shown, self.shown_values, zero)), count)
        level = graph.op("Where", graph.op("Greater", number, zero), mean, self.last)
        deviation = graph.op("Where", self.shown, graph.op("Sub", self.shown_values, level), zero)
        scale = graph.op("Sqrt", graph.op("Div", self._sum(graph.op("Mul", deviation, deviation)), count))
        of_range = graph.op("Mul", spread, self._number(SMALLEST_SHARES[0]))
        of_level = graph.op("Mul", graph.op("Abs", level), self._number(SMALLEST_SHARES[1]))
        least = graph.op("Add", graph.op("Max", of_range, of_level), self._number(SMALLEST_SCALE))
        return level, graph.op("Max", scale, least)

    def _lagged(self, lag: int) -> str:
        """[B, W+h] the last known value whole multiples of ``lag`` steps back; NaN before the history."""
        graph, plan = self.graph, self.plan
        steps = np.concatenate([np.arange(-plan.window, 0), np.arange(plan.horizon) % lag]) - lag
        rows = graph.op("Add", graph.size(self.filled, 1), graph.constant(steps.astype(np.int64)))
        zero = graph.constant(np.int64(0))
        values = graph.op("Gather", self.filled, graph.op("Max", rows, zero), axis=1)
        return graph.op("Where", graph.op("Less", rows, zero), self._number(np.nan), values)

    def _scaled(self, values: str) -> str:
        return self.graph.op("Div", self.graph.op("Sub", values, self.level), self.scale)

    def _clipped(self, values: str) -> str:
        return self.graph.op("Clip", values, self._number(-LARGEST_INPUT), self._number(LARGEST_INPUT))

    def _sum(self, values: str) -> str:
        return self.graph.op("ReduceSum", values, self.graph.integers(1), keepdims=1)

    def _number(self, value: float) -> str:
        return self.graph.constant(np.float64(value))

    def _rows(self, values: np.ndarray) -> str:
        """The same values [n] for each row of the batch [B, n]."""
        graph = self.graph
        shape = graph.op("Concat", graph.size(self.level, 0), graph.integers(len(values)), axis=0)
        return graph.op("Expand", graph.constant(values.astype(np.float64)), shape)

    def _column(self, values: str) -> str:
        """[B, n] as one channel [B, n, 1], float32."""
        return self.graph.op("Unsqueeze", self.graph.op("Cast", values, to=_FLOAT), self.graph.integers(2))


def _covariates(graph: Graph, history: str, plan: _Plan) -> list[str]:
    """The channels of the covariates: each kind an input of its own if the model has any of it."""
    parts: list[str] = []
    if plan.past:
        past = graph.input("past", np.float64, ["batch", plan.window, len(plan.past)])
        hidden = graph.integers(0, 0, 0, 0, plan.horizon, 0)
        parts.append(graph.op("Pad", _standardised(graph, past, plan.past), hidden))
    if plan.future:
        future = graph.input("future", np.float64, ["batch", plan.steps, len(plan.future)])
        parts.append(_standardised(graph, future, plan.future))
    if plan.calendar:
        parts.append(graph.input("calendar", np.float32, ["batch", plan.steps, len(plan.calendar)]))
    if plan.static:
        columns = [item for item in plan.static for _ in item.get("categories", [0])]
        static = graph.input("static", np.float64, ["batch", len(columns)])
        rows = graph.op("Unsqueeze", _standardised(graph, static, columns), graph.integers(1))
        parts.append(graph.op("Expand", rows, graph.integers(1, plan.steps, 1)))
    return parts


def _standardised(graph: Graph, values: str, columns: Sequence[Mapping[str, Any]]) -> str:
    """(value − mean) / std of each column, float32; what is unknown is zero. Categories are 0 and 1 already."""
    mean, std = (
        graph.constant(np.array([column.get(name, default) for column in columns], np.float64))
        for name, default in (("mean", 0.0), ("std", 1.0))
    )
    scaled = graph.op("Cast", graph.op("Div", graph.op("Sub", values, mean), std), to=_FLOAT)
    return graph.op("Where", graph.op("IsNaN", scaled), graph.constant(np.float32(0)), scaled)

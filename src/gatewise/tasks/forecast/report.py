"""The forecasting report: one HTML page that opens anywhere, without network or script.

`render_report` takes plain data, so the page can be drawn, tested and looked at without a model. What the page says
is computed here, how it looks is in `report.html.j2`, and its figures are in `report_figures.py`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from gatewise.tasks.forecast.report_figures import (
    Fan,
    GateTrace,
    bands,
    error_by_step,
    fan_chart,
    gate_maps,
    learning_curve,
    training_curves,
)
from gatewise.tasks.forecast.report_page import render_page

__all__ = ["Fan", "GateTrace", "ReportData", "render_report", "verdict"]

DASH = "–"
MEANINGS = {
    "MAE": "The average distance between forecast and truth, in the units of {target}. Lower is better.",
    "RMSE": "Like MAE, but large misses weigh more; in the units of {target}. Lower is better.",
    "sMAPE": "The average distance as a percentage of the size of forecast and truth, from 0 to 200. Lower is better.",
    "MASE": "The average distance divided by that of repeating the last season in the history before, so that "
    "series of any size can be compared. Lower is better; below 1 beats that yardstick.",
    "mean weighted quantile loss": "How far all quantiles, not only the median, lie from the truth, relative to its "
    "size. Lower is better.",
}
JUDGED_BY = ("MASE", "MAE", "RMSE", "sMAPE")  # the verdict takes the first that could be computed


@dataclass(frozen=True)
class ReportData:
    """All that the report shows; an empty part hides its section.

    Attributes:
        title: The heading of the page.
        summary: The data in labels and values.
        config: The resolved settings; nested mappings are allowed.
        curve: For each epoch `epoch`, `train_loss` and, if there was one, `val_loss`; and, if known, `learning_rate`,
            `gradient_norm` (before clipping), `values` (of the loss) and `seconds`.
        best_epoch: The epoch whose weights were kept.
        metrics: `scored` (what was scored, in words), `models` (ours first), `overall` and `by_step` by model.
        levels: The quantile levels of the forecasts.
        fans: Series to show, such as the best, the median and the worst.
        gates: One window through one layer.
        target: The name of the target column.
        footer: Version, date and command.
        clip_norm: The norm that gradients were scaled down to.
    """

    title: str
    summary: Sequence[tuple[str, str]]
    config: Mapping[str, object]
    curve: Sequence[Mapping[str, Any]]
    best_epoch: int
    metrics: Mapping[str, Any]
    levels: Sequence[float]
    fans: Sequence[Fan]
    gates: GateTrace | None
    target: str
    footer: str
    clip_norm: float | None = None


@dataclass(frozen=True)
class Row:
    """One metric for all models: the texts of the cells, and which of them are the best."""

    name: str
    meaning: str
    cells: tuple[str, ...]
    best: tuple[bool, ...]


def render_report(data: ReportData) -> str:
    """Draw the whole page.

    The same data give the same page, byte for byte. All text is escaped, whatever the series are called.

    Args:
        data: What to show.

    Returns:
        The HTML, with all styles and figures inside it.
    """
    models = list(data.metrics.get("models", ()))
    fans = [
        (fan.title, fan_chart(fan, data.levels, data.target, f"fan-{number}")) for number, fan in enumerate(data.fans)
    ]
    figures: dict[str, str | None] = {
        "curve": learning_curve(data.curve, data.best_epoch) if data.curve else None,
        "training": training_curves(data.curve, data.clip_norm),
        "steps": error_by_step(data.metrics.get("by_step") or {}, models, data.target),
        "gates": gate_maps(data.gates, data.target) if data.gates and data.gates.gates else None,
    }
    return render_page(
        "report.html.j2",
        data=data,
        verdict=verdict(data.metrics).replace(" %", "\u00a0%"),
        models=models,
        rows=_accuracy_rows(data.metrics, data.target),
        coverage_note=_coverage_note(data.metrics),
        band=next(iter(bands(data.levels)), None),
        fans=fans,
        settings=[(name, _text(value)) for name, value in _flatten(data.config)],
        text=_text,
        **figures,
    )


def verdict(metrics: Mapping[str, Any]) -> str:
    """Say in one sentence whether the model beats the best of the baselines, and by how much."""
    overall = metrics.get("overall") or {}
    models = list(metrics.get("models", ()))
    for name in JUDGED_BY:
        ours, *others = (_number(overall.get(model, {}).get(name)) for model in models or [""])
        if not math.isfinite(ours):
            continue
        rivals = [(error, model) for error, model in zip(others, models[1:], strict=True) if math.isfinite(error)]
        if not rivals:
            return f"{name} {ours:.3g}; there is no baseline to compare it with."
        error, rival = min(rivals)
        change = 100 * (ours / error - 1) if error else math.inf if ours else 0.0
        if change <= -0.5:
            return f"{name} {ours:.3g}: {-change:.0f} % lower error than {rival} ({error:.3g})."
        if change < 0.5:
            return f"{models[0]} does not beat {rival}: {name} {ours:.3g} against {error:.3g}, practically equal."
        by = f", {change:,.0f} % higher error" if math.isfinite(change) else ""
        return f"{models[0]} does not beat {rival}: {name} {ours:.3g} against {error:.3g}{by}."
    return "The forecasts were not scored: no held-out values were available."


def _accuracy_rows(metrics: Mapping[str, Any], target: str) -> list[Row]:
    overall = [metrics.get("overall", {}).get(model, {}) for model in metrics.get("models", ())]
    names = list(dict.fromkeys(name for scores in overall for name in scores if name != "coverage"))
    rows = []
    for name in names:
        values = [_number(scores.get(name)) for scores in overall]
        unit = " (%)" if name == "sMAPE" else ""
        cells = _aligned(values)
        rows.append(Row(name + unit, MEANINGS.get(name, "").format(target=target), cells, _best(values)))
    for name in dict.fromkeys(name for scores in overall for name in scores.get("coverage") or {}):
        values = [_number((scores.get("coverage") or {}).get(name)) for scores in overall]
        nominal = _nominal(name)
        cells = tuple(f"{100 * value:.1f}\u00a0%" if math.isfinite(value) else DASH for value in values)
        aim = f"Closer to {100 * nominal:.3g}\u00a0% is better." if math.isfinite(nominal) else ""
        label = f"coverage of {name.replace('-', DASH)}"
        meaning = f"How often the truth lies between these two quantiles. {aim}"
        rows.append(Row(label, meaning, cells, _best([abs(value - nominal) for value in values])))
    return rows


def _coverage_note(metrics: Mapping[str, Any]) -> str:
    """Judge the width of our own bands, in words."""
    ours = next(iter(metrics.get("models", ())), "")
    notes = []
    for name, value in ((metrics.get("overall") or {}).get(ours, {}).get("coverage") or {}).items():
        got, nominal = _number(value), _nominal(name)
        if not (math.isfinite(got) and math.isfinite(nominal)):
            continue
        judgement = "about right" if abs(got - nominal) <= 0.05 else "too narrow" if got < nominal else "too wide"
        notes.append(
            f"The {name.replace('-', DASH)} band should hold {100 * nominal:.3g}\u00a0% of the true values and held "
            f"{100 * got:.1f}\u00a0%: {judgement}."
        )
    return " ".join(notes)


def _nominal(name: str) -> float:
    """Read how much a band such as "0.1-0.9" should cover."""
    low, _, high = name.partition("-")
    try:
        return float(high) - float(low)
    except ValueError:
        return math.nan


def _best(values: Sequence[float]) -> tuple[bool, ...]:
    """Mark the smallest; one value alone is no winner."""
    known = [value for value in values if math.isfinite(value)]
    return tuple(len(known) > 1 and value == min(known) for value in values)


def _aligned(values: Sequence[float]) -> tuple[str, ...]:
    """Write numbers with the same decimals, so that three digits of the smallest can be read."""
    sizes = [abs(value) for value in values if math.isfinite(value) and value]
    power = math.floor(math.log10(min(sizes))) if sizes else 0
    style = f",.{max(0, 2 - power)}f" if -5 <= power <= 9 else ".3g"
    return tuple(format(value, style) if math.isfinite(value) else DASH for value in values)


def _number(value: object) -> float:
    return float(value) if isinstance(value, Real) else math.nan


def _text(value: object) -> str:
    """Write a value of the summary or the settings for people."""
    if value is None or value == "" or (isinstance(value, Real) and math.isnan(value)):
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Real) and not isinstance(value, int):
        return f"{float(value):.6g}"
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return ", ".join(_text(item) for item in value) or DASH
    return str(value)


def _flatten(config: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    flat: list[tuple[str, object]] = []
    for name, value in config.items():
        flat += _flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(f"{prefix}{name}", value)]
    return flat

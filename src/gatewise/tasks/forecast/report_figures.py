"""The figures of the forecasting report, drawn from plain arrays.

Colours are Okabe and Ito's (the orange darkened, so that a thin line is seen on white), and no two lines differ by
colour alone. Heat maps are perceptually uniform: cividis for what lies in [0, 1], purple to orange for what has a sign.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from gatewise.tasks.forecast.report_svg import (
    GREY,
    STYLE,
    WIDTH,
    add_legend,
    axis_values,
    floats,
    marker_gap,
    new_figure,
    shorten,
    thin,
    time_axis,
    to_svg,
    write_tick,
)

BLACK, BLUE, SKY, ORANGE, GREEN, RED = "#000000", "#0072B2", "#56B4E9", "#B87A00", "#009E73", "#D55E00"
MODEL_STYLES = [(BLUE, "-", "o"), (RED, "--", "s"), (GREEN, "-.", "^"), (ORANGE, ":", "D"), (GREY, "-", "v")]

HISTORY_HORIZONS = 3  # how much of the past a fan chart shows, in horizons
MOST_CELLS = (400, 128)  # of a heat map, in time and units; five maps of noise must fit into the page
COLOURS = 64  # levels of a heat map: more cannot be told apart, and fewer compress better


@dataclass(frozen=True)
class Fan:
    """One series' forecast against the truth.

    Attributes:
        title: What the reader sees above the chart, such as "median series: H212, MASE 0.91".
        history_time: Datetimes or integers, [n].
        history: The past the model saw, [n].
        time: Datetimes or integers, [horizon].
        truth: What happened, [horizon], NaN where unknown; None if nothing is known.
        quantiles: The forecast, [horizon, Q], in the order of the report's levels.
    """

    title: str
    history_time: Sequence[Any]
    history: np.ndarray
    time: Sequence[Any]
    truth: np.ndarray | None
    quantiles: np.ndarray


@dataclass(frozen=True)
class GateTrace:
    """What one layer did over one window.

    Attributes:
        series: The id of the series.
        time: Datetimes or integers, [T].
        y: The window's target in the user's units, [T], NaN where masked.
        gates: Activations of the layer, [T, H] each, under the names i, f, g, o and c.
    """

    series: str
    time: Sequence[Any]
    y: np.ndarray
    gates: Mapping[str, np.ndarray]


def learning_curve(curve: Sequence[Mapping[str, Any]], best_epoch: int) -> str:
    """Draw training and validation loss by epoch, with the epoch whose weights were kept."""
    epochs = [int(row["epoch"]) for row in curve]
    lines = {
        label: floats([row.get(key) for row in curve])
        for key, label in (("train_loss", "training"), ("val_loss", "validation"))
    }
    lines = {label: loss for label, loss in lines.items() if np.isfinite(loss).any()}
    judged = lines.get("validation", lines.get("training"))
    alt = f"Line chart of the loss over {len(epochs)} epochs."
    with rc_context(STYLE):
        figure, ax = new_figure(280)
        for (label, loss), (color, style, marker) in zip(lines.items(), MODEL_STYLES, strict=False):
            ax.plot(epochs, loss, style, color=color, marker=marker, markevery=marker_gap(len(epochs)), label=label)
            first, last = loss[np.isfinite(loss)][[0, -1]]
            alt += f" The {label} loss goes from {first:.3g} to {last:.3g}."
        if judged is not None and best_epoch in epochs and np.isfinite(at := judged[epochs.index(best_epoch)]):
            ax.axvline(best_epoch, color=BLACK, linestyle=":", linewidth=1.2)
            ax.plot([best_epoch], [at], "*", color=BLACK, markersize=12, label=f"best epoch ({best_epoch})", zorder=5)
            alt += f" The best epoch, marked, is {best_epoch}, with a loss of {at:.3g}."
        known = np.concatenate([loss[np.isfinite(loss)] for loss in lines.values()] or [np.ones(1)])
        _log_scale(ax, known)
        ax.yaxis.set_major_formatter(write_tick)
        ax.set(xlabel="epoch", ylabel="loss: pinball, scaled units", xlim=(min(epochs) - 0.5, max(epochs) + 0.5))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        add_legend(figure)
        return to_svg(figure, "learning-curve", alt)


def training_curves(curve: Sequence[Mapping[str, Any]], clip_norm: float | None) -> str | None:
    """Draw learning rate, gradient norm and values per second by epoch; None for records that have none of them."""
    epochs = [int(row["epoch"]) for row in curve]
    panels = {
        "learning rate": floats([row.get("learning_rate") for row in curve]),
        "gradient norm before clipping, mean of the epoch": floats([row.get("gradient_norm") for row in curve]),
        "values per second, with validation": _speed(curve),
    }
    panels = {title: values for title, values in panels.items() if np.isfinite(values).any()}
    if not panels:
        return None
    alt = f"Line charts over {len(epochs)} epochs."
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH / 72, (30 + 110 * len(panels)) / 72), dpi=72)
        axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
        for ax, (title, values) in zip(axes, panels.items(), strict=True):
            known = values[np.isfinite(values)]
            ax.plot(epochs, values, color=BLUE, marker="o", markevery=marker_gap(len(epochs)))
            ax.set_title(title)
            ax.set_ylim(0, 1.1 * known.max() or 1)
            alt += f" {title.partition(',')[0]}: from {known[0]:.3g} to {known[-1]:.3g}."
            if title.startswith("gradient"):
                alt += _finish_norms(ax, known, clip_norm)
            ax.yaxis.set_major_formatter(write_tick)
        axes[-1].set(xlabel="epoch", xlim=(min(epochs) - 0.5, max(epochs) + 0.5))
        axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        return to_svg(figure, "training-curves", alt)


def _speed(curve: Sequence[Mapping[str, Any]]) -> np.ndarray:
    values, seconds = (floats([row.get(key) for row in curve]) for key in ("values", "seconds"))
    return np.divide(values, seconds, out=np.full(len(values), np.nan), where=seconds > 0)


def _finish_norms(ax: Axes, norms: np.ndarray, clip_norm: float | None) -> str:
    """Scale the axis of gradient norms, draw what they are scaled down to, unless far above, and say where it lies."""
    is_log = _log_scale(ax, norms, ticks=(1,))
    if is_log:
        ax.set_ylim(norms.min() / 1.3, norms.max() * 1.3)
    if clip_norm is None:
        return ""
    if clip_norm > 3 * norms.max():
        where = f"clipped at {clip_norm:g}, far above"
    else:
        where = f"dashed: clipped at {clip_norm:g}"
        ax.axhline(clip_norm, color=RED, linestyle="--", linewidth=1.4)
        low, high = ax.get_ylim()
        ax.set_ylim(min(low, clip_norm / 2) if is_log else 0, max(high, 1.1 * clip_norm))
    ax.set_title(f"{ax.get_title(loc='left')}; {where}")
    return f" Gradients are {where.removeprefix('dashed: ')}."


def _log_scale(ax: Axes, known: np.ndarray, ticks: Sequence[float] = (1, 2, 5)) -> bool:
    """Make the y axis logarithmic if one value far above all others would flatten the part that matters."""
    if not 0 < 20 * known.min() < known.max():
        return False
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=ticks))
    ax.yaxis.set_minor_formatter(NullFormatter())
    return True


def fan_chart(fan: Fan, levels: Sequence[float], target: str, name: str) -> str:
    """Draw one series: its recent past, what happened next, and the forecast with its bands."""
    horizon = len(fan.time)
    tail = slice(-min(len(fan.history), max(HISTORY_HORIZONS * horizon, 24)) or None, None)
    past, past_y = axis_values(fan.history_time)[tail], floats(fan.history)[tail]
    ahead, quantiles = axis_values(fan.time), floats(fan.quantiles)
    order = np.argsort(levels)
    quantiles, levels = quantiles[:, order], [float(levels[k]) for k in order]
    alt = f"{fan.title}. Line chart of {target}: the last {len(past)} values of the series, then {horizon} steps of "
    with rc_context(STYLE):
        figure, ax = new_figure(300)
        keep = thin(len(past))
        ax.plot(past[keep], past_y[keep], color=GREY, linewidth=1.4, label="history")
        if fan.truth is not None and np.isfinite(truth := floats(fan.truth)).any():
            # Starts at the last known value: history and truth are one series.
            x, y = np.append(past[-1:], ahead), np.append(past_y[-1:], truth)
            keep = thin(len(x))
            dots = {"marker": ".", "markevery": marker_gap(len(keep), 48)}
            ax.plot(x[keep], y[keep], color=BLACK, linewidth=1.6, label="truth", **dots)
            alt += "truth and "
        _draw_bands(ax, ahead, quantiles, levels)
        middle = int(np.argmin(np.abs(np.array(levels) - 0.5)))
        label = "median forecast" if np.isclose(levels[middle], 0.5) else f"q{levels[middle]:g} forecast"
        keep = thin(horizon)
        line = {"color": BLUE, "linestyle": (0, (4, 1.5)), "marker": "o", "markevery": marker_gap(len(keep))}
        ax.plot(ahead[keep], quantiles[keep, middle], linewidth=2, label=label, zorder=4, **line)
        alt += label + "".join(f", with a band from q{low:g} to q{high:g}" for low, high in bands(levels)) + "."
        if len(past):
            ax.axvline((past[-1] + ahead[0]) / 2, color=GREY, linestyle=":", linewidth=1.2)
        ax.set_ylabel(shorten(target))
        ax.yaxis.set_major_formatter(write_tick)
        time_axis(ax, fan.time)
        add_legend(figure)
        return to_svg(figure, name, alt)


def bands(levels: Sequence[float]) -> list[tuple[float, float]]:
    """Pair the quantile levels from the outside in; at most three pairs, so that a chart stays readable."""
    ranked = sorted(float(level) for level in levels)
    pairs = [(ranked[k], ranked[-1 - k]) for k in range(len(ranked) // 2)]
    return [pairs[k] for k in thin(len(pairs), most=3)]


def _draw_bands(ax: Axes, x: np.ndarray, quantiles: np.ndarray, levels: Sequence[float]) -> None:
    keep = thin(len(x))
    for (low, high), alpha in zip(bands(levels), (0.35, 0.45, 0.55), strict=False):
        lower, upper = quantiles[keep, levels.index(low)], quantiles[keep, levels.index(high)]
        look: dict[str, Any] = {
            "color": SKY,
            "alpha": alpha,
            "linewidth": 0 if len(x) > 1 else 10,  # an area of one point would have no width
            "label": f"{100 * (high - low):.3g} % band (q{low:g}–q{high:g})",
        }
        if len(x) > 1:
            ax.fill_between(x[keep], lower, upper, **look)
        else:
            ax.vlines(x, lower, upper, **look)


def error_by_step(by_step: Mapping[str, Mapping[str, Any]], models: Sequence[str], target: str) -> str | None:
    """Draw the error at each step ahead, one line for each model; None if there are not two steps to compare."""
    for metric in ("MASE", "MAE", "RMSE", "sMAPE"):
        errors = {model: floats(by_step.get(model, {}).get(metric, ())) for model in models}
        errors = {model: error for model, error in errors.items() if np.isfinite(error).sum() > 1}
        if errors:
            break
    else:
        return None
    unit = {"MASE": "MASE (no unit)", "sMAPE": "sMAPE (%)"}.get(metric, f"{metric} of {shorten(target, 18)}")
    alt = f"Line chart of {metric} by step ahead; lower is better."
    longest, top = max(map(len, errors.values())), max(np.nanmax(error) for error in errors.values())
    with rc_context(STYLE):
        figure, ax = new_figure(280)
        for (model, error), (color, style, marker) in zip(errors.items(), MODEL_STYLES * len(errors), strict=False):
            keep, known = thin(len(error)), error[np.isfinite(error)]
            width = 2.4 if model == models[0] else 1.6
            look = {"color": color, "linestyle": style, "marker": marker, "markevery": marker_gap(len(keep))}
            ax.plot(keep + 1, error[keep], linewidth=width, label=shorten(model), **look)
            alt += f" {model}: from {known[0]:.3g} to {known[-1]:.3g}."
        ax.set(xlabel="steps ahead", ylabel=unit, xlim=(0.5, longest + 0.5), ylim=(0, 1.08 * top or 1))
        ax.yaxis.set_major_formatter(write_tick)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        add_legend(figure)
        return to_svg(figure, "error-by-step", alt)


GATE_TITLES = {
    "i": "input gate i: 0 keeps new content out, 1 lets it in",
    "f": "forget gate f: 0 erases the memory, 1 keeps it",
    "o": "output gate o: 0 hides the memory, 1 shows it",
    "g": "candidate g: new content, from −1 to 1",
    "c": "cell state c: the memory itself",
}


def gate_maps(trace: GateTrace, target: str) -> str:
    """Draw the input series and, on the same time axis, one heat map for each gate and the cell state."""
    names = [*(n for n in GATE_TITLES if n in trace.gates), *(n for n in trace.gates if n not in GATE_TITLES)]
    sorter = "f" if "f" in trace.gates else names[0]
    # Unsorted units look like noise; neighbours that remember alike show the structure.
    order = np.argsort(-np.nan_to_num(floats(trace.gates[sorter])).mean(axis=0), kind="stable")
    time = axis_values(trace.time)
    half = (time[-1] - time[0]) / max(len(time) - 1, 1) / 2 or 0.5
    extent = (float(time[0] - half), float(time[-1] + half), len(order) + 0.5, 0.5)
    alt = (
        f"Heat maps over {len(time)} steps of series {trace.series}, {len(order)} hidden units sorted by the mean of "
        f"{sorter}, under a line chart of the input. Means: "
    )
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH / 72, (120 + 128 * len(names)) / 72), dpi=72)
        grid = figure.add_gridspec(len(names) + 1, 2, width_ratios=(50, 1), height_ratios=(0.9, *[1] * len(names)))
        top = figure.add_subplot(grid[0, 0])
        top.plot(time, floats(trace.y), color=BLACK, linewidth=1.4)
        top.set_title(f"input: {shorten(target, 32)}, in the units of the table")
        top.yaxis.set_major_formatter(write_tick)
        top.tick_params(labelbottom=False)
        for row, name in enumerate(names, start=1):
            values = floats(trace.gates[name])[:, order]
            ax = figure.add_subplot(grid[row, 0], sharex=top)
            image = _heat_map(ax, name, values, extent)
            ax.set_title(GATE_TITLES.get(name, name))
            ax.set_yticks(sorted({1, len(order)}))
            ax.tick_params(labelbottom=row == len(names))
            _color_bar(figure.add_subplot(grid[row, 1]), image)
            alt += f"{name} {_known(values).mean():.2g}, "
        time_axis(figure.axes[-2], trace.time)
        figure.supylabel(f"hidden unit, sorted by mean of {sorter}", fontsize=12)
        return to_svg(figure, "gates", alt[:-2] + ".")


def _heat_map(ax: Axes, name: str, values: np.ndarray, extent: tuple[float, float, float, float]) -> AxesImage:
    """Draw [T, H] activations: a sequential map for gates in [0, 1], a diverging one centred at 0 for all else."""
    known = _known(values)
    if name not in "gc" and known.min() >= 0 and known.max() <= 1:
        colors, low, high = "cividis", 0.0, 1.0
    else:
        # Not the maximum: a few large cells would wash out all others.
        high = max(float(np.percentile(np.abs(known), 99.5)), 1.0 if name == "g" else 1e-6)
        colors, low = "PuOr", -high
    colors = colormaps[colors].resampled(COLOURS).with_extremes(bad="#BBBBBB")
    cells = _shrink(_shrink(values, MOST_CELLS[0]).T, MOST_CELLS[1])
    ax.spines[:].set_visible(False)
    ax.grid(False)
    # Uninterpolated, the SVG carries one pixel for each cell and the browser enlarges it.
    return ax.imshow(cells, colors, extent=extent, vmin=low, vmax=high, aspect="auto", interpolation="none")


def _color_bar(ax: Axes, image: AxesImage) -> None:
    """Draw the scale of a heat map as one small image: the 64 areas of a stock colour bar show seams in browsers."""
    low, high = image.get_clim()
    scale = np.linspace(low, high, COLOURS)[:, None]
    ax.imshow(scale, image.get_cmap(), extent=(0, 1, low, high), origin="lower", aspect="auto", interpolation="none")
    ax.spines[:].set_visible(False)
    ax.set_xticks([])
    ax.grid(False)
    ax.yaxis.tick_right()
    ax.set_yticks([low, (low + high) / 2, high])
    ax.yaxis.set_major_formatter(lambda value, _: write_tick(float(f"{value:.2g}")))


def _known(values: np.ndarray) -> np.ndarray:
    """Pick the finite values, or a zero where a diverged model left none."""
    known = values[np.isfinite(values)]
    return known if known.size else np.zeros(1)


def _shrink(values: np.ndarray, most: int) -> np.ndarray:
    """Average neighbouring rows until at most `most` are left."""
    size = -(-len(values) // most)
    starts = np.arange(0, len(values), size)
    return np.add.reduceat(values, starts, axis=0) / np.diff(np.append(starts, len(values)))[:, None]

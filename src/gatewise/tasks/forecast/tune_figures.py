"""The figures of a search: its history, the importance of each setting, and each setting against the loss."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullFormatter

from gatewise.tasks.forecast.report_figures import BLACK, BLUE, RED
from gatewise.tasks.forecast.report_svg import GREY, STYLE, WIDTH, add_legend, new_figure, to_svg, write_tick
from gatewise.tasks.forecast.space import Range
from gatewise.tasks.forecast.study import Trial, best_of

LOOKS = {
    "complete": {"marker": "o", "color": BLUE, "s": 26, "linewidths": 0},
    "pruned": {"marker": "x", "color": GREY, "s": 26, "linewidths": 1.4},
    "diverged": {"marker": "v", "color": RED, "s": 30, "linewidths": 0},
}
COLUMNS = 2
HEADROOM = 3.0
"""Losses are shown up to so many times the distance from the lowest to the median."""


def history(trials: Sequence[Trial]) -> str:
    """Draw the loss of each trial, and the lowest so far."""
    best = best_of(tuple(trials))
    with rc_context(STYLE):
        figure, ax = new_figure(300)
        heights = _loss_axis(ax, trials)
        _scatter(ax, [trial.number for trial in trials], trials, heights)
        complete = [trial for trial in trials if trial.state == "complete"]
        if complete and best:
            lowest = np.minimum.accumulate([trial.loss for trial in complete])
            x, y = [trial.number for trial in complete], [_shown(loss, *heights) for loss in lowest]
            ax.step([*x, len(trials)], [*y, y[-1]], where="post", color=BLACK, linewidth=1.6, label="best so far")
            _star(ax, best.number, best)
        ax.set(xlabel="trial", xlim=(0.3, len(trials) + 0.7))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        add_legend(figure)
        return to_svg(
            figure, "history", f"Scatter plot of the validation loss of {len(trials)} trials. {_told(trials)}"
        )


def importance_bars(importance: Mapping[str, float]) -> str:
    """Draw the share of each setting as a bar, the greatest at the top."""
    names = list(importance)[::-1]
    shares = [100 * importance[name] for name in names]
    with rc_context(STYLE):
        figure, ax = new_figure(46 + 30 * len(names))
        ax.barh(names, shares, color=BLUE, height=0.62)
        for y, share in enumerate(shares):
            ax.annotate(f"{share:.0f} %", (share, y), (5, 0), textcoords="offset points", va="center", fontsize=11)
        ax.set(xlabel="share of the importance (%)", xlim=(0, 1.12 * max(shares)))
        ax.tick_params(axis="y", length=0)
        ax.grid(False, axis="y")
        told = ", ".join(f"{name} {100 * share:.0f} %" for name, share in importance.items())
        return to_svg(figure, "importance", f"Bar chart of the importance of each setting: {told}.")


def against_loss(trials: Sequence[Trial], ranges: Sequence[Range]) -> str:
    """Draw each setting against the loss, in small scatter plots of one scale."""
    rows = math.ceil(len(ranges) / COLUMNS)
    best = best_of(tuple(trials))
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH / 72, (30 + 178 * rows) / 72), dpi=72)
        for index, row in enumerate(ranges):
            ax = figure.add_subplot(rows, COLUMNS, index + 1)
            heights = _loss_axis(ax, trials, label=index % COLUMNS == 0)
            x = _places(ax, row, [trial.drawn[row.name] for trial in trials])
            _scatter(ax, x, trials, heights)
            if best:
                at = x[[trial.number for trial in trials].index(best.number)]
                _star(ax, at, best)
            ax.set_xlabel(row.name)
        add_legend(figure)
        names = ", ".join(row.name for row in ranges)
        return to_svg(figure, "settings", f"Scatter plots of the validation loss against {names}. {_told(trials)}")


def _places(ax: Axes, row: Range, drawn: Sequence[float]) -> list[float]:
    """Set up the x axis for a range, and place what was drawn on it."""
    if row.choices:
        ax.set_xticks(range(len(row.choices)), [f"{choice:g}" for choice in row.choices])
        ax.set_xlim(-0.5, len(row.choices) - 0.5)
        return [row.choices.index(value) for value in drawn]
    margin = 0.06
    if row.scale == "uniform":
        room = margin * (row.high - row.low)
        ax.set_xlim(row.low - room, row.high + room)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=row.whole, min_n_ticks=1))
    else:
        room = (row.high / row.low) ** margin
        ax.set_xscale("log")
        ax.set_xlim(row.low / room, row.high * room)
        if row.high / row.low < 100:
            ax.xaxis.set_major_locator(FixedLocator(_steps(row.low, row.high)))
        else:
            ax.xaxis.set_major_locator(LogLocator(numticks=4))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:.6g}")
    return list(drawn)


def _steps(low: float, high: float) -> list[float]:
    """Ticks on a logarithmic axis of less than two decades: doublings, from the lower bound."""
    return [low * 2**k for k in range(int(math.log2(high / low) + 1e-9) + 1)]


def _loss_axis(ax: Axes, trials: Sequence[Trial], label: bool = True) -> tuple[float, float]:
    """Scale the y axis to the losses that matter; the highest that it shows, and where those above it stand.

    A few bad ones would flatten all others, so they have a band of their own.
    """
    losses = np.array([trial.loss for trial in trials if np.isfinite(trial.loss)] or [1.0])
    low, high = losses.min(), losses.max()
    spread = HEADROOM * (np.median(losses) - low) or 0.1 * abs(low) or 1.0
    top = min(high, low + spread) if high > low else low + spread
    size, crowded = top - low, any(trial.loss > top for trial in trials)
    band = top + 0.13 * size
    ax.set_ylim(low - 0.08 * size, top + (0.2 if crowded else 0.08) * size)
    ticks = MaxNLocator(nbins=5).tick_values(low, top)
    ax.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if tick <= top + 0.02 * size]))
    ax.yaxis.set_major_formatter(write_tick)
    if crowded:
        ax.axhspan(top + 0.06 * size, top + 0.2 * size, color="#F0F0F0", linewidth=0)
        ax.text(-0.02, band, "above", transform=ax.get_yaxis_transform(), ha="right", va="center", fontsize=11)
    if label:
        ax.set_ylabel("validation loss")
    return float(top), float(band)


def _shown(loss: float, top: float, band: float) -> float:
    return loss if loss <= top else band


def _scatter(ax: Axes, x: Sequence[float], trials: Sequence[Trial], heights: tuple[float, float]) -> None:
    for state, look in LOOKS.items():
        chosen = [index for index, trial in enumerate(trials) if trial.state == state]
        if chosen:
            y = [_shown(trials[index].loss, *heights) for index in chosen]
            ax.scatter([x[index] for index in chosen], y, label=state, zorder=3, clip_on=False, **look)


def _star(ax: Axes, x: float, best: Trial) -> None:
    ax.plot(x, best.loss, "*", color=BLACK, markersize=13, label=f"best (trial {best.number})", zorder=5)


def _told(trials: Sequence[Trial]) -> str:
    best = best_of(tuple(trials))
    counts = {state: sum(trial.state == state for trial in trials) for state in LOOKS}
    text = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return f"{text}." + (f" The best, trial {best.number}, has {best.loss:.4g}." if best else "")

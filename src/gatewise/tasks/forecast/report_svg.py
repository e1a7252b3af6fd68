"""From a matplotlib figure to SVG inside HTML: one style, axes for numbers and time, and a small, repeatable file.

Only `Figure` is used, never pyplot, so no display is needed and the caller's own figures are left alone.
"""

import re
import warnings
from base64 import b64decode, b64encode
from collections.abc import Sequence
from hashlib import sha256
from html import escape
from io import BytesIO, StringIO
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

WIDTH = 520  # drawing units; 12-unit text is then readable on a phone and as large as the body text in a wide window
MOST_POINTS = 400  # of a line, about one for each drawing unit: more only makes the page larger
GREY = "#6B6B6B"

STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.labelsize": 12,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "figure.constrained_layout.use": True,
    "font.size": 12,
    "grid.color": "#E4E4E4",
    "legend.fontsize": 12,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "svg.fonttype": "none",  # text stays text: small, searchable, set in the page's font
    "text.parse_math": False,  # a column called a$b$c is not a formula
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
}

# For ticks at years, months, days, hours, minutes and seconds; a bare day of the month would leave a reader guessing.
_DATES: dict[str, Any] = {
    "formats": ["%Y", "%b", "%d %b", "%H:%M", "%H:%M", "%S.%f"],
    "zero_formats": ["", "%Y", "%d %b", "%d %b", "%H:%M", "%H:%M"],
    "offset_formats": ["", "%Y", "%Y", "%Y", "%d %b %Y", "%d %b %Y %H:%M"],
}


def new_figure(height: int) -> tuple[Figure, Axes]:
    """Make a figure of one pair of axes, as wide as all others on the page."""
    figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
    return figure, figure.add_subplot()


def add_legend(figure: Figure) -> None:
    """Put the legend above the axes, where it covers no data."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if labels:
        columns = len(labels) if len(labels) <= 4 else 3
        figure.legend(handles, labels, loc="outside upper left", ncols=columns, columnspacing=1.2, handlelength=2.2)


def floats(values: Any) -> np.ndarray:
    """Take numbers as float64, with NaN for None and infinities: what cannot be drawn is left out."""
    array = np.array(values, dtype=float)
    return np.where(np.isfinite(array), array, np.nan)


def axis_values(time: Sequence[Any]) -> np.ndarray:
    """Place datetimes or integers on an axis."""
    values = np.asarray(time)
    return np.asarray(date2num(values)) if values.dtype.kind in "OM" else values.astype(float)


def time_axis(ax: Axes, time: Sequence[Any]) -> None:
    """Label the x axis with datetimes, in their own time zone, or with integers."""
    if np.asarray(time).dtype.kind in "OM":
        zone = getattr(time[0], "tzinfo", None)
        locator = AutoDateLocator(tz=zone, minticks=3, maxticks=7)
        ax.xaxis.set_major_locator(locator)
        ax.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=zone, **_DATES))
        ax.set_xlabel(f"time ({zone})" if zone else "time")
    else:
        ax.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:.10g}")  # no comma: it may be a year
        ax.set_xlabel("time step")


def write_tick(value: float, _: object = None) -> str:
    """Write all digits of a tick: a factor of 1e6 in a corner of the chart is easily overlooked."""
    return f"{value:,.10g}".replace("-", "−")


def marker_gap(n: int, most: int = 12) -> int:
    """Space the markers of a line: they tell lines apart and must not hide them."""
    return max(1, -(-n // most))


def thin(n: int, most: int = MOST_POINTS) -> np.ndarray:
    """Choose at most `most` of n indices, evenly, with the first and the last."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int))


def shorten(text: str, most: int = 24) -> str:
    """Cut a name that would be longer than its axis."""
    return text if len(text) <= most else text[: most - 1] + "…"


def to_svg(figure: Figure, name: str, alt: str) -> str:
    """Turn a figure into an SVG element for use inside HTML.

    Args:
        figure: The figure, which must have been made under `STYLE`.
        name: Unique on the page: ids are made from it.
        alt: The figure in words, for those who cannot see it; escaped here.
    """
    buffer = StringIO()
    # The salt makes the ids of clip paths repeatable, and different from those of the other figures on the page.
    with rc_context({"svg.hashsalt": name}), warnings.catch_warnings():
        # The browser has glyphs that the layout's font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    body = buffer.getvalue()
    body = body[body.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body[body.index(">") + 1 :], flags=re.DOTALL)
    # Each pattern starts with the "<" of a tag, so none can match the user's words.
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = re.sub(r'(<image [^>]*) id="[^"]*"', r"\1", body)
    body = re.sub(r"(<(?:use|image) [^>]*?)xlink:href", r"\1href", body)
    body = re.sub(r"<path [^>]*", lambda tag: re.sub(r"(\.\d\d)\d+", r"\1", tag[0]), body)
    body = _renamed_clips(body, name)
    body = re.sub(r'(<image [^>]*?base64,)([^"]*)', lambda tag: tag[1] + _repack(tag[2]), body)
    width, height = (72 * side for side in figure.get_size_inches())
    return f'<svg role="img" aria-label="{escape(alt)}" viewBox="0 0 {width:g} {height:g}">{body}'


def _renamed_clips(body: str, name: str) -> str:
    """Give clip paths ids that depend on their order alone: the layout's last digits, in matplotlib's, vary."""
    clips = dict.fromkeys(re.findall(r'<[^>]*clip-path="url\(#(p[0-9a-f]+)\)"', body))
    for number, clip in enumerate(clips):
        stable = "p" + sha256(f"{name} {number}".encode()).hexdigest()[:10]
        body = re.sub(rf'(<[^>]*(?:url\(#|id=")){clip}(?=[")])', rf"\g<1>{stable}", body)
    return body


def _repack(png: str) -> str:
    """Give a PNG of at most 256 colours a palette: a third of the size, the same pixels."""
    packed = BytesIO()
    with Image.open(BytesIO(b64decode(png))) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(packed, "png", optimize=True)
    return b64encode(packed.getvalue()).decode()

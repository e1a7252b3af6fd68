import math
import re
from dataclasses import replace
from datetime import datetime, timedelta
from html.parser import HTMLParser

import numpy as np
import pytest

from gatewise.tasks.forecast.report import Fan, GateTrace, ReportData, render_report, verdict

MODELS = ["gatewise", "naive", "seasonal naive"]
HOSTILE = "<script>alert('x')</script> & \"q\" {{ 1 }} $a$ 目"


def _metrics(*mase: float | None) -> dict:
    overall = {
        model: {"MAE": 10.0 + 10 * k, "MASE": value} for k, (model, value) in enumerate(zip(MODELS, mase, strict=True))
    }
    return {"scored": "the held-out end", "models": MODELS, "overall": overall}


def _fan(title: str, history: int, horizon: int, levels: int) -> Fan:
    rng = np.random.default_rng(0)
    y = rng.normal(size=history + horizon).cumsum()
    spread = np.linspace(-3, 3, levels) * np.sqrt(np.arange(1, horizon + 1))[:, None]
    time = [datetime(2026, 1, 5) + timedelta(hours=k) for k in range(len(y))]
    truth = np.where(np.arange(horizon) % 7 == 3, np.nan, y[history:])
    return Fan(title, time[:history], y[:history], time[history:], truth, y[history:, None] + spread)


def _gates(steps: int, hidden: int) -> GateTrace:
    rng = np.random.default_rng(1)
    gates = {name: rng.uniform(-1 if name in "gc" else 0, 1, size=(steps, hidden)) for name in "ifgoc"}
    return GateTrace(HOSTILE, range(steps), rng.normal(size=steps), gates)


def _extreme() -> ReportData:
    """Noise everywhere, which compresses worst, at the largest sizes; and hostile names."""
    rng = np.random.default_rng(2)
    metrics = _metrics(0.918, 2.0, 1.193)
    metrics["overall"]["gatewise"]["coverage"] = {"0.1-0.9": 0.742}
    metrics["overall"]["naive"]["coverage"] = None
    metrics["overall"]["naive"]["MAE"] = math.nan
    metrics["by_step"] = {model: {"MAE": [None, *rng.uniform(1, 2, size=999)]} for model in MODELS}
    return ReportData(
        title=f"Forecast of {HOSTILE}",
        summary=[("series", "414"), ("frequency", ""), (HOSTILE, HOSTILE)],
        config={"horizon": 1000, "future": None, "model": {"hidden": 256, "dropout": 0.1}, HOSTILE: [HOSTILE]},
        curve=[{"epoch": k, "train_loss": 3 * math.exp(-k / 9), "val_loss": 1.0} for k in range(1, 200)],
        best_epoch=150,
        metrics=metrics,
        levels=[0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95],
        fans=[_fan(f"{kind} series: {HOSTILE}", 20_000, 1000, 9) for kind in ("best", "median", "worst")],
        gates=_gates(1000, 256),
        target=HOSTILE,
        footer=f"gatewise fit {HOSTILE}",
    )


class _Page(HTMLParser):
    """Collect what the tests ask about: tags, attributes that load something, and the texts of each figure."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.figures: list[dict] = []
        self.cells: list[str] = []
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._open.append(tag)
        values = dict(attrs)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "data")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag == "svg":
            self.figures.append({"alt": values.get("aria-label"), "role": values.get("role"), "texts": []})

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "text" and data.strip():
            self.figures[-1]["texts"].append(data.strip())
        if self._open and self._open[-1] in ("td", "strong") and data.strip():
            self.cells.append(data.strip())


@pytest.fixture(scope="module")
def extreme() -> tuple[ReportData, str]:
    data = _extreme()
    return data, render_report(data)


@pytest.fixture(scope="module")
def html(extreme: tuple[ReportData, str]) -> str:
    return extreme[1]


@pytest.fixture(scope="module")
def page(html: str) -> _Page:
    return _Page(html)


def test_the_page_stays_below_one_megabyte(html: str) -> None:
    assert len(html.encode()) < 1_000_000


def test_the_page_needs_no_network_and_no_script(html: str, page: _Page) -> None:
    assert page.loads
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.loads)
    assert all(link.startswith("#") for link in re.findall(r"url\((.*?)\)", html))
    assert "http" not in html
    assert "@import" not in html
    assert not {"script", "link", "iframe", "object"} & set(page.tags)


def test_names_are_escaped_and_survive(html: str, page: _Page) -> None:
    assert "<script" not in html
    assert html.count("&lt;script&gt;alert") >= 8
    assert HOSTILE in page.cells
    assert all(HOSTILE in figure["alt"] for figure in page.figures[1:4])


def test_every_figure_has_labels_and_a_description(page: _Page) -> None:
    curve, *fans, steps, gates = page.figures
    assert all(figure["role"] == "img" and len(figure["alt"]) > 40 for figure in page.figures)
    assert {"epoch", "loss: pinball, scaled units", "training", "validation", "best epoch (150)"} <= set(curve["texts"])
    assert len(fans) == 3
    for fan in fans:
        assert {"time", "history", "truth", "median forecast", "90 % band (q0.05–q0.95)"} <= set(fan["texts"])
        assert any(text.startswith("<script>") for text in fan["texts"])
    assert {"steps ahead", *MODELS} <= set(steps["texts"])
    assert any(text.startswith("MAE of <script>") for text in steps["texts"])
    assert {"time step", "hidden unit, sorted by mean of f"} <= set(gates["texts"])
    assert sum(text.startswith(("input", "forget", "output", "candidate", "cell")) for text in gates["texts"]) == 6


def test_ids_are_unique(page: _Page) -> None:
    assert len(page.ids) == len(set(page.ids))


def test_the_same_data_give_the_same_page(extreme: tuple[ReportData, str]) -> None:
    data, html = extreme
    assert render_report(data) == html


def test_what_is_missing_is_a_dash(html: str, page: _Page) -> None:
    visible = re.sub(r"<svg.*?</svg>", "", html, flags=re.DOTALL)
    assert not re.search(r"\b(nan|NaN|None|inf)\b", visible)
    assert page.cells.count("–") >= 5  # MAE and coverage of the baselines, an empty summary, a setting without value


def test_the_best_of_each_row_is_bold_and_coverage_is_judged(html: str) -> None:
    assert "<strong>0.918</strong>" in html
    assert "<strong>2.000</strong>" not in html
    assert "should hold 80\u00a0% of the true values and held 74.2\u00a0%: too narrow." in html


@pytest.mark.parametrize(
    ("mase", "sentence"),
    [
        ((0.92, 2.0, 1.19), "MASE 0.92: 23 % lower error than seasonal naive (1.19)."),
        ((0.92, 0.8, 1.19), "gatewise does not beat naive: MASE 0.92 against 0.8, 15 % higher error."),
        ((1.19, None, 1.19), "gatewise does not beat seasonal naive: MASE 1.19 against 1.19, practically equal."),
        ((0.5, math.nan, 0.0), "gatewise does not beat seasonal naive: MASE 0.5 against 0."),
        ((0.5, None, math.nan), "MASE 0.5; there is no baseline to compare it with."),
    ],
)
def test_the_verdict_is_honest(mase: tuple, sentence: str) -> None:
    assert verdict(_metrics(*mase)) == sentence


def test_the_verdict_falls_back_to_another_metric_or_says_so() -> None:
    assert verdict(_metrics(math.nan, None, None)) == "MAE 10: 50 % lower error than naive (20)."
    assert verdict({}) == "The forecasts were not scored: no held-out values were available."


def test_empty_parts_hide_their_sections(extreme: tuple[ReportData, str]) -> None:
    assert _sections(extreme[1]) == ["accuracy", "data", "learning", "forecasts", "steps", "gates", "settings"]
    empty = replace(extreme[0], summary=[], config={}, curve=[], metrics={}, fans=[], gates=None)
    html = render_report(empty)
    assert _sections(html) == []
    assert "<svg" not in html
    assert "not scored" in html


def test_the_smallest_case_draws(extreme: tuple[ReportData, str]) -> None:
    """Horizon 1, one epoch, one series without truth, one level pair without a median, a diverged unit."""
    fan = replace(_fan("the series", 3, 1, 2), truth=None)
    gates = GateTrace("s", [0], np.full(1, np.nan), {"f": np.ones((1, 1)), "c": np.full((1, 1), np.nan)})
    curve = [{"epoch": 1, "train_loss": 0.5, "val_loss": None}]
    metrics = _metrics(1.0, 2.0, 3.0) | {"by_step": {"gatewise": {"MASE": [1.0]}}}
    data = replace(extreme[0], levels=[0.1, 0.9], fans=[fan], gates=gates, curve=curve, best_epoch=1, metrics=metrics)
    html = render_report(data)
    assert _sections(html) == ["accuracy", "data", "learning", "forecasts", "gates", "settings"]
    assert "Forecasts against the truth" not in html
    assert "80 % band (q0.1–q0.9)" in html


def _sections(html: str) -> list[str]:
    return re.findall(r'<section id="(\w+)">', html)


def _trained(epochs: int, norm: float, **changes: object) -> dict:
    """The data of a page that shows nothing but the curves of a training."""
    curve = [
        {
            "epoch": k,
            "train_loss": 1 / k,
            "val_loss": None,
            "learning_rate": 0.004 / k,
            "gradient_norm": norm / k,
            "values": 6400,
            "seconds": 2.0 + k % 2,
        }
        | changes
        for k in range(1, epochs + 1)
    ]
    return {"curve": curve, "fans": [], "gates": None, "metrics": {}, "clip_norm": 1.0}


@pytest.mark.parametrize(
    ("epochs", "norm", "title", "alt"),
    [
        (6, 3.0, "; dashed: clipped at 1", " from 3 to 0.5. Gradients are clipped at 1."),
        (1, 0.5, "; dashed: clipped at 1", " from 0.5 to 0.5. Gradients are clipped at 1."),
        (60, 90.0, "; dashed: clipped at 1", " from 90 to 1.5. Gradients are clipped at 1."),
        (5, 0.3, "; clipped at 1, far above", " from 0.3 to 0.06. Gradients are clipped at 1, far above."),
    ],
)
def test_rate_gradients_and_speed_are_drawn(
    epochs: int, norm: float, title: str, alt: str, extreme: tuple[ReportData, str]
) -> None:
    data = replace(extreme[0], **_trained(epochs, norm))
    html = render_report(data)
    assert render_report(data) == html
    _, figure = _Page(html).figures
    norms = "gradient norm before clipping, mean of the epoch"
    assert {"epoch", "learning rate", norms + title, "values per second, with validation"} <= set(figure["texts"])
    assert f"gradient norm before clipping:{alt}" in figure["alt"]
    assert f"learning rate: from 0.004 to {0.004 / epochs:.3g}." in figure["alt"]
    assert f"values per second: from {6400 / 3:.3g} to {6400 / (2 + epochs % 2):.3g}." in figure["alt"]
    dashed = re.findall(r"<path[^>]*stroke-dasharray[^>]*stroke: #d55e00", html, flags=re.IGNORECASE)
    assert len(dashed) == title.startswith("; dashed")
    assert len(_Page(html).ids) == len(set(_Page(html).ids))


def test_curves_that_a_record_lacks_are_left_out(extreme: tuple[ReportData, str]) -> None:
    older = replace(extreme[0], **_trained(4, 1.0))
    for row in older.curve:
        for name in ("learning_rate", "gradient_norm", "values"):
            del row[name]  # type: ignore[attr-defined]
    html = render_report(older)
    assert len(_Page(html).figures) == 1
    assert "Learning rate, gradients and speed" not in html
    odd = replace(extreme[0], **_trained(4, 1.0, seconds=0.0, gradient_norm=math.nan) | {"clip_norm": None})
    _, figure = _Page(render_report(odd)).figures
    assert figure["alt"] == "Line charts over 4 epochs. learning rate: from 0.004 to 0.001."

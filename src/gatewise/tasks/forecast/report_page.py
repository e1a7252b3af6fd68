"""HTML pages from the templates beside this file: one style, all text escaped."""

from pathlib import Path

from jinja2 import Environment, StrictUndefined


def render_page(template: str, **values: object) -> str:
    """Fill a template; it gets the common style sheet as ``style``."""
    folder = Path(__file__).parent
    text = (folder / template).read_text(encoding="utf-8")
    style = (folder / "report.css").read_text(encoding="utf-8").rstrip()
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(text).render(style=style, **values)

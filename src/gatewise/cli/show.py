"""What ``gatewise show`` prints of a model file's description."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from gatewise.format import BLOCKS

_WIDE = 100
"""Characters of a value; longer ones are cut."""

_ITEMS = 8
"""Items of a list or object that are shown."""


def show_json(model: Mapping[str, Any]) -> None:
    """Print all of it as JSON."""
    print(json.dumps(model, indent=2))


def show_model(model: Mapping[str, Any]) -> None:
    """Print it for a person."""
    print(printable(model["file"]))
    blocks, symbols = model["blocks"], model["vocabulary"]
    about = {
        "format": model["format"],
        "task": model["task"],
        "weights": f"{model['weights']:,} in {len(blocks)} block{'s' * (len(blocks) != 1)}",
        "bytes": f"{model['bytes']:,}",
        "vocabulary": f"{len(symbols):,} symbols: {' '.join(map(repr, symbols[:_ITEMS]))}" if symbols else "none",
        "sha256": model["sha256"],
    }
    print(_aligned((name, _value(value)) for name, value in about.items()))
    _section("blocks", [("", "", "weights", ""), *((str(k), *_block(block)) for k, block in enumerate(blocks))])
    for name in ("settings", "training"):
        _section(name, [(printable(key), _value(value)) for key, value in model[name].items()])


def _section(name: str, rows: Sequence[Sequence[str]]) -> None:
    print(f"\n{name}\n{_aligned(rows) if rows else '  none'}")


def _block(block: Mapping[str, Any]) -> tuple[str, str, str]:
    """Its kind, its weights, and the fields that are not at their defaults."""
    defaults = {field.name: field.default for field in fields(BLOCKS[block["block"]])}
    told = {name: block[name] for name, default in defaults.items() if block[name] != default}
    return block["block"], f"{block['weights']:,}", ", ".join(f"{name}={_text(value)}" for name, value in told.items())


def _value(value: object) -> str:
    """A JSON value on one line, cut where it is long."""
    text = printable(_text(value))
    return text if len(text) <= _WIDE else f"{text[: _WIDE - 1]}…"


def _text(value: object) -> str:
    if isinstance(value, dict):
        shown = [f"{key}={_inner(item)}" for key, item in list(value.items())[:_ITEMS]]
    elif isinstance(value, list):
        shown = [_inner(item) for item in value[:_ITEMS]]
    else:
        return value if isinstance(value, str) else json.dumps(value)
    rest = len(value) - len(shown)
    return ", ".join([*shown, f"… ({rest:,} more)"] if rest else shown) or "none"


def _inner(value: object) -> str:
    """A value inside another: in brackets, where its commas could be the other's."""
    return f"({_text(value)})" if isinstance(value, dict | list) and len(value) > 1 else _text(value)


def printable(text: str) -> str:
    """Text from a file, which must not command the terminal."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _aligned(rows: Iterable[Sequence[str]]) -> str:
    lines = list(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  " + "  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)

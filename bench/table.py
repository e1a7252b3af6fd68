"""The report as Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.cases import PEERS
from bench.rows import Row
from bench.targets import GROUPS, Group, Verdict, judge

_UNITS = {"seconds": (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)), "bytes": (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))}
_OTHERS = 0.15  # cores
_MET = {True: "yes", False: "**no**", None: "not measured"}


def markdown(report: Mapping[str, Any]) -> str:
    """Write a report: the machine, the targets, and the rows of each."""
    rows = [Row.from_json(row) for row in report["rows"]]
    parts = [*_heading(report, rows), _summary(rows)]
    shown: set[tuple[object, ...]] = set()
    for group in GROUPS:
        of = group.rows(rows)
        if of:
            parts += [f"### {group.title}: against {group.against}", _details(of)]
            shown |= {*map(_key, of)}
    other = [row for row in rows if _key(row) not in shown]
    if other:
        parts += ["### Other rows", _details(other)]
    peers = dict.fromkeys(row.peer for row in rows)
    parts.append("\n".join(["Peers:", "", *(f"- {peer}: {PEERS[peer]}" for peer in PEERS if peer in peers)]))
    return "\n\n".join(parts) + "\n"


def _key(row: Row) -> tuple[object, ...]:
    return row.case, row.peer, row.threads, row.malloc


def _heading(report: Mapping[str, Any], rows: Sequence[Row]) -> list[str]:
    machine = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = [
        f"`{report['command']}`, {report['date']}, backend {report['backend']}",
        f"{machine['processor']}, {machine['cores']} cores, {machine['isa']}; {machine['system']}; {versions}.",
        "A ratio is the peer's time over ours, the median of the rounds and its quartiles in one process: above 1, "
        "gatewise is faster. Times are those of the layer alone.",
    ]
    if report["missing"]:
        lines.append("Not there: " + "; ".join(report["missing"]) + ".")
    timed = [row for row in rows if row.details]
    busy = [row for row in timed if row.details["machine"].get("others", 0.0) > _OTHERS]
    if busy:
        lines.append(f"The machine was busy: during {len(busy)} of {len(timed)} rows others used it too.")
    return lines


def _summary(rows: Sequence[Row]) -> str:
    lines = [
        "| work | against | setting | rows | target | measured | met |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for group in GROUPS:
        lines += [_judged(group, verdict) for verdict in judge(group, rows)]
    return "\n".join(lines)


def _judged(group: Group, verdict: Verdict) -> str:
    work = f"{group.title}: {verdict.target.work}"
    cells = [
        work,
        group.against,
        _setting(verdict.threads, verdict.malloc),
        str(verdict.rows or ""),
        str(verdict.target),
    ]
    measured = "" if verdict.measured is None else f"{verdict.measured:.2f}×"
    return _line([*cells, measured, _MET[verdict.met]])


def _details(rows: Iterable[Row]) -> str:
    lines = [
        "| case: B,T,D,H | setting | peer | peer's | ours | ratio | GF/s |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        head = [row.case, _setting(row.threads, row.malloc), row.peer]
        if row.status == "ok":
            lines.append(_line([*head, *_figures(row)]))
        else:
            lines.append(_line([*head, f"{row.status}: {row.why}", "", "", ""]))
    return "\n".join(lines)


def _figures(row: Row) -> list[str]:
    rate = f"{row.rate / 1e9:.0f}" if row.rate else ""
    spread = f"{row.ratio:.2f} ({row.low:.2f}–{row.high:.2f})"
    return [_amount(row.theirs, row.unit), _amount(row.ours, row.unit), spread, rate]


def _amount(value: float, unit: str) -> str:
    name, size = next((pair for pair in _UNITS[unit] if value >= pair[1]), _UNITS[unit][-1])
    return f"{value / size:.3g} {name}"


def _setting(threads: int, malloc: str) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''}, {malloc} malloc" if threads else ""


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

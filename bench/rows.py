"""One measured row, as it stands in the JSON."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from bench.cases import Problem

Status = Literal["ok", "refused", "unsupported", "missing", "failed"]


@dataclass(frozen=True)
class Row:
    """Ours against one peer, in one setting.

    Attributes:
        case: the case's name.
        status: "ok", or why there are no figures: the results differ ("refused"), our engine does not serve
            ("unsupported"), the peer is not installed ("missing"), something raised ("failed").
        why: the reason, if not "ok".
        unit: what ``ours`` and ``theirs`` are: "seconds" or "bytes" of one call or training step.
        ratio: the median over the rounds of theirs / ours: above 1, ours is better. Against "product" it is our rate
            of operations over the product's.
        low, high: the quartiles of that ratio.
        rate: our floating-point operations per second, of the products only.
        details: of "ours" and "theirs": page faults in a call, cores in use, the seconds of a call with torch's
            operators around it; of "theirs" the seconds that building the peer took (compiling); of the "machine" how
            many cores all other processes used meanwhile.
    """

    case: str
    problem: Problem
    peer: str
    threads: int
    malloc: str
    status: Status = "ok"
    why: str = ""
    unit: Literal["seconds", "bytes"] = "seconds"
    rounds: int = 0
    ours: float = 0.0
    theirs: float = 0.0
    ratio: float = 0.0
    low: float = 0.0
    high: float = 0.0
    rate: float = 0.0
    details: dict[str, dict[str, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(values: dict[str, Any]) -> "Row":
        read: dict[str, Any] = {"problem": Problem(**values["problem"])}
        return Row(**(values | read))

"""What a row of the cell table holds."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, cast, get_args

from gatewise.errors import InputError

Squash = Literal["sigmoid", "tanh", "relu", "identity", "wide_sigmoid", "centred_sigmoid", "exp"]
"""σ, tanh, relu, x, 4σ − 2, 2σ − 1, exp."""

Update = Literal["recurrent", "additive", "exponential"]
"""How the states follow from the gates: h = g; c = f c₋ + i g; the same with exponential gates and a normaliser."""

Option = Literal["peephole", "layer_norm", "clip", "projection", "zoneout", "learned_state"]

STATES: Mapping[Update, tuple[str, ...]] = MappingProxyType(
    {"recurrent": ("h",), "additive": ("h", "c"), "exponential": ("h", "c", "n", "m")}
)
"""What each update carries from step to step, besides the gates that some cells see again."""

GATES: Mapping[Update, tuple[str, ...]] = MappingProxyType(
    {"recurrent": ("g",), "additive": ("i", "f", "g", "o"), "exponential": ("i", "f", "g", "o")}
)
"""The gates that each update uses, all of them."""

EVERY_OPTION: frozenset[Option] = frozenset(get_args(Option))

OPTIONS: Mapping[Update, frozenset[Option]] = MappingProxyType(
    {
        "recurrent": frozenset({"clip", "zoneout", "learned_state"}),
        "additive": EVERY_OPTION,
        "exponential": frozenset({"clip"}),
    }
)
"""The options that can be defined for cells with each update."""


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate.

    Attributes:
        name: ``i``, ``f``, ``g`` or ``o``.
        squash: the function of its pre-activation.
        meaning: what it does, in a few words.
        kind: "learned" gates have weights, a block of H rows; "open" ones are 1; "coupled" ones are one minus another.
        complement: the gate that a coupled one is one minus.
        peeps: the cell state that it sees through its peephole, when the cell has peepholes: the one "before" this
            step's update or the one "after" it.
    """

    name: str
    squash: Squash
    meaning: str
    kind: Literal["learned", "open", "coupled"] = "learned"
    complement: str = ""
    peeps: Literal["before", "after"] | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """A recurrent cell.

    Attributes:
        name: the word users choose the cell by.
        title: what it is, in a few words.
        gates: the gates its update uses, in the order in which the rows of the learned ones lie in ``weight_ih``,
            ``weight_hh`` and the biases. Nothing else in the project states an order: whoever needs a gate asks for it
            by name.
        paper: where the cell was published.
        update: how the states follow from the gates.
        output_squash: the function between the cell state and the output.
        peephole: whether the gates peep unless the user says otherwise.
        sees: gates of the step before that each of these gates sees as well, through weights of their own.
        options: the options that are defined for the cell.
        learned: the gates that have weights, in the order of their rows.
        gate_names: their names.
        states: what is carried from step to step; the first one, h, is the output.

    Raises:
        InputError: the row contradicts itself.
        TypeError: a field is of another type.
    """

    name: str
    title: str
    gates: tuple[Gate, ...]
    paper: str
    update: Update = "additive"
    output_squash: Squash = "tanh"
    peephole: bool = False
    sees: tuple[str, ...] = ()
    options: frozenset[Option] = EVERY_OPTION
    # What follows from the row is computed once: the time loop of the reference asks for it at every step.
    learned: tuple[Gate, ...] = field(init=False, repr=False, compare=False)
    gate_names: tuple[str, ...] = field(init=False, repr=False, compare=False)
    states: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        # Lists would do as well, but could be changed.
        object.__setattr__(self, "gates", _items("gates", self.gates, Gate, (tuple, list)))
        object.__setattr__(self, "sees", _items("sees", self.sees, str, (tuple, list)))
        options = _items("options", self.options, str, (frozenset, set, tuple, list))
        object.__setattr__(self, "options", frozenset(options))
        self._check_words()
        learned = tuple(gate for gate in self.gates if gate.kind == "learned")
        object.__setattr__(self, "learned", learned)
        object.__setattr__(self, "gate_names", tuple(gate.name for gate in learned))
        object.__setattr__(self, "states", (*STATES[self.update], *self.sees))
        names = [gate.name for gate in self.gates]
        if sorted(names) != sorted(GATES[self.update]):
            raise InputError(f"a cell with the update {self.update!r} has the gates {', '.join(GATES[self.update])}.")
        for gate in self.gates:
            self._check_gate(gate)
        self._check_update()
        undefined = sorted(self.options - OPTIONS[self.update])
        if undefined:
            raise InputError(f"{', '.join(undefined)} cannot be defined for a cell with the update {self.update!r}.")
        if self.peephole and "peephole" not in self.options:
            raise InputError(f"the cell {self.name!r} peeps but does not allow peepholes.")
        if not set(self.sees) <= set(self.gate_names) or len(set(self.sees)) < len(self.sees):
            raise InputError(f"the cell {self.name!r} can see only its learned gates, and each once.")

    def _check_words(self) -> None:
        if not (isinstance(self.name, str) and self.name.strip() and self.name.isprintable()):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"the name of a cell must be printable text, got {self.name!r}.")
        texts = [("title", self.title), ("paper", self.paper)]
        for gate in self.gates:
            texts += [("meaning", gate.meaning), ("complement", gate.complement)]
        for what, text in texts:
            if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"{what} must be text, got {type(text).__name__}.")
        words: list[tuple[str, str, tuple[str, ...]]] = [
            ("update", self.update, get_args(Update)),
            ("output_squash", self.output_squash, get_args(Squash)),
        ]
        for gate in self.gates:
            words += [("squash", gate.squash, get_args(Squash)), ("kind", gate.kind, ("learned", "open", "coupled"))]
            words += [("peeps", gate.peeps, ("before", "after"))] if gate.peeps is not None else []
        for what, word, known in words:
            if word not in known:
                raise InputError(f"{what} must be one of {', '.join(known)}, got {word!r}.")

    def _check_gate(self, gate: Gate) -> None:
        if gate.kind != "learned" and (gate.name == "g" or self.update == "exponential"):
            raise InputError(f"the gate {gate.name!r} must be learned in a cell with the update {self.update!r}.")
        if gate.kind == "coupled" and (
            gate.name == "o" or gate.complement not in self.gate_names or gate.complement not in {"i", "f"}
        ):
            raise InputError(f"the coupled gate {gate.name!r} must be i or f, and one minus the other, learned one.")
        if gate.peeps == "after" and gate.name != "o":
            raise InputError(f"the gate {gate.name!r} cannot see the new cell state: it is needed to compute it.")

    def _check_update(self) -> None:
        """Refuse what the update would leave out without a word."""
        if self.update == "recurrent" and (self.output_squash != "identity" or self.sees):
            raise InputError("a cell with the update 'recurrent' has the output_squash 'identity' and sees no gates.")
        if self.update == "exponential" and (self.gate("i").squash, self.gate("f").squash) != ("exp", "sigmoid"):
            raise InputError("a cell with the update 'exponential' has the squash 'exp' for i and 'sigmoid' for f.")

    def gate(self, name: str) -> Gate:
        """Return a gate by its name."""
        for gate in self.gates:
            if gate.name == name:
                return gate
        raise KeyError(name)

    def rows(self, gate: str, hidden: int) -> slice:
        """Return the rows of one learned gate in weights that have ``len(learned) * hidden`` rows."""
        start = self.gate_names.index(gate) * hidden
        return slice(start, start + hidden)


def _items(name: str, given: object, kind: type, holders: tuple[type, ...]) -> tuple[Any, ...]:
    """Return the items of a row's field.

    Raises:
        TypeError: it holds something else, or is none of the holders.
    """
    if not isinstance(given, holders):
        raise TypeError(f"{name} must be a {holders[0].__name__} of {kind.__name__}, got {type(given).__name__}.")
    items = tuple(cast("Iterable[object]", given))
    for item in items:
        if not isinstance(item, kind):
            raise TypeError(f"{name} must hold {kind.__name__} only, got {type(item).__name__}.")
    return items

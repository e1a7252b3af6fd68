"""Which settings a search tries, as data. No torch and no Optuna here.

The window is in no space: forecasts are scaled by their window, so losses of different windows are in different units.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from gatewise.errors import InputError
from gatewise.tasks.forecast.settings import Settings

Scale = Literal["uniform", "log", "1 - log"]


@dataclass(frozen=True)
class Range:
    """Where one setting is searched: between two bounds, or among choices.

    Attributes:
        setting: its name in ``Settings``.
        low: the lower bound, included; whole for a setting of whole numbers.
        high: the upper bound, included, above ``low``.
        scale: "uniform"; "log", as many draws from 1 to 10 as from 10 to 100; or "1 - log": what is drawn, between the
            bounds and on the logarithmic scale, is one minus the setting, as for momentum near 1.
        choices: at least two values, in place of the bounds.
    """

    setting: str
    low: float = 0
    high: float = 0
    scale: Scale = "uniform"
    choices: tuple[float, ...] = ()

    @property
    def name(self) -> str:
        """What is drawn, in words: the setting, or one minus it."""
        return f"1 - {self.setting}" if self.scale == "1 - log" else self.setting

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are drawn."""
        return all(isinstance(value, int) for value in (self.choices or (self.low, self.high)))

    def other(self, value: float) -> float:
        """The setting for what was drawn, and the other way round: either is one minus the other, or they are equal."""
        return 1 - value if self.scale == "1 - log" else value

    def holds(self, drawn: float) -> bool:
        """Whether a value can be drawn."""
        return drawn in self.choices if self.choices else self.low <= drawn <= self.high

    def text(self) -> str:
        """The range for people."""
        if self.choices:
            return ", ".join(f"{value:g}" for value in self.choices)
        scale = {"uniform": "uniform", "log": "log-uniform", "1 - log": "one minus log-uniform"}[self.scale]
        return f"{self.low:g} to {self.high:g}, {scale}"


@dataclass(frozen=True)
class Space:
    """A search: ranges, what is fixed meanwhile, and how the ranges are gone through.

    Attributes:
        name: of the space.
        ranges: one for each setting that is searched.
        fixed: settings that the space needs at a value of its own.
        sampler: "tpe", which learns from the trials before (Bergstra et al. 2011), or "random".
        starts_as_given: whether the first trial is the settings as they were given, so that the best is no worse.
        rescaled: whether a trial trains with the drawn learning rate × (1 − momentum), so that steps of any momentum
            are of one size.
        about: where the ranges come from.

    Example:
        >>> from gatewise.tasks.forecast import Settings
        >>> space = Space("sizes", (Range("hidden", 8, 64, "log"), Range("layers", 1, 2)))
        >>> chosen = space.settings(Settings(horizon=24), {"hidden": 20, "layers": 2})
        >>> chosen.hidden, chosen.layers, chosen.learning_rate
        (20, 2, 0.006)
    """

    name: str
    ranges: tuple[Range, ...]
    fixed: Mapping[str, Any] = field(default_factory=dict[str, Any])
    sampler: Literal["tpe", "random"] = "tpe"
    starts_as_given: bool = False
    rescaled: bool = False
    about: str = ""

    def check(self) -> None:
        """Refuse ranges that the settings do not have or allow.

        Raises:
            InputError: names the space, the range and what is wrong with it.
        """
        known = {setting.name for setting in fields(Settings)}
        searched = [row.setting for row in self.ranges]
        if not searched or len(set(searched)) < len(searched) or set(searched) & set(self.fixed):
            raise InputError(
                f"the space {self.name!r} must search at least one setting, each once, and not fix it too."
            )
        for row in self.ranges:
            if row.setting not in known:
                raise InputError(f"the space {self.name!r} searches {row.setting!r}, which is no setting.")
            drawable = row.low < row.high and (row.scale == "uniform" or row.low > 0)
            if not (drawable or len(row.choices) > 1):
                raise InputError(
                    f"the space {self.name!r} must search {row.setting} between two ascending numbers, above 0 on a "
                    f"logarithmic scale, or among two choices; it has {row.low!r} and {row.high!r}."
                )
            for bound in row.choices or (row.low, row.high):
                try:
                    replace(Settings(horizon=1), **{row.setting: row.other(bound)}).check()
                except InputError as error:
                    raise InputError(f"the space {self.name!r}: {error}") from None

    def keeping(self, names: Iterable[str]) -> "Space":
        """The space without some settings, which stay as they are given.

        Raises:
            InputError: the space does not have one of them, or nothing would be left.
        """
        ours = [row.setting for row in self.ranges] + list(self.fixed)
        kept = list(names)
        for name in kept:
            if name not in ours:
                raise InputError(f"the space {self.name!r} does not change {name!r}; it changes {', '.join(ours)}.")
        ranges = tuple(row for row in self.ranges if row.setting not in kept)
        if not ranges:
            raise InputError(f"nothing is left to search in the space {self.name!r}: keep fewer settings.")
        fixed = {name: value for name, value in self.fixed.items() if name not in kept}
        return replace(self, ranges=ranges, fixed=fixed)

    def settings(self, given: Settings, drawn: Mapping[str, float]) -> Settings:
        """The settings of a trial.

        Args:
            given: what the space does not change.
            drawn: for each range, by its name, what was drawn.
        """
        values = {row.setting: row.other(drawn[row.name]) for row in self.ranges}
        chosen = replace(given.plain(), **self.fixed, **values)
        return replace(chosen, learning_rate=chosen.learning_rate * (1 - chosen.momentum)) if self.rescaled else chosen

    def refuse_changed(self, given: Settings) -> None:
        """Refuse settings that were given for nothing, because the space sets them.

        Raises:
            InputError: names them and how to keep them.
        """
        usual = {setting.name: setting.default for setting in fields(Settings)}
        names = (*(row.setting for row in self.ranges), *self.fixed)
        changed = [name for name in names if getattr(given, name) != usual[name]]
        if changed:
            told = ", ".join(f"{name} {getattr(given, name)}" for name in changed)
            raise InputError(
                f"the search space {self.name!r} sets {', '.join(changed)} itself, so {told} would mean nothing: "
                f"leave it out, or say --keep {' '.join(changed)} to search the others only."
            )

    def start(self, given: Settings) -> dict[str, float] | None:
        """What the first trial draws: the settings as given, where the space begins with them and has them."""
        drawn = {row.name: row.other(getattr(given, row.setting)) for row in self.ranges}
        inside = all(row.holds(drawn[row.name]) for row in self.ranges)
        return drawn if self.starts_as_given and inside else None


SPACES = {
    space.name: space
    for space in (
        Space(
            "adamw",
            (
                Range("learning_rate", 3e-4, 3e-2, "log"),
                Range("hidden", 16, 256, "log"),
                Range("layers", 1, 3),
                Range("dropout", 0.0, 0.5),
                Range("batch", choices=(16, 32, 64, 128, 256)),
                Range("weight_decay", 1e-6, 1e-1, "log"),
            ),
            starts_as_given=True,
            about="around the defaults, for AdamW with warm-up and cosine",
        ),
        Space(
            "greff2017",
            (
                Range("hidden", 20, 200, "log"),
                Range("learning_rate", 1e-6, 1e-2, "log"),
                Range("momentum", 0.01, 1.0, "1 - log"),
                Range("input_noise", 0.0, 1.0),
            ),
            fixed={"optimizer": "sgd", "schedule": "constant"},
            sampler="random",
            rescaled=True,
            about="Greff et al. 2017, LSTM: A Search Space Odyssey",
        ),
    )
}
"""The spaces with names."""


def space_of(name: "str | Space") -> Space:
    """A space by its name, checked.

    Raises:
        InputError: there is none of that name, or it does not fit the settings.
    """
    if isinstance(name, str) and name not in SPACES:
        raise InputError(f"there is no search space {name!r}; there are {', '.join(SPACES)}.")
    space = SPACES[name] if isinstance(name, str) else name
    space.check()
    return space

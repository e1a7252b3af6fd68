"""Everything a forecaster can be told, in one place: the command line and the Python class both read it here.

No torch here, so that ``gatewise fit --help`` answers at once.
"""

from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import ClassVar, Literal

from gatewise.errors import InputError

_FRACTIONS = {
    "dropout",
    "input_noise",
    "learning_rate",
    "weight_decay",
    "momentum",
    "clip_norm",
    "clip_value",
    "average",
}


@dataclass
class Settings:
    """The settings of a forecaster.

    Args:
        horizon: how many steps to forecast, at least 1.
        season: steps in one season, for instance 24 for hourly data with a daily rhythm; by default what is usual for
            the frequency of the table (1, no season, for integer time).
        target: column to forecast.
        id: column that names the series; by default unique_id if the table has it, else the table is one series.
        time: column of time stamps or whole numbers; by default ds if the table has it, else the order of the rows.
        past: columns known up to the forecast (covariates).
        future: columns known for the forecast horizon too, such as prices or holidays.
        static: columns that do not change within a series, numbers or names.
        quantiles: levels to forecast, between 0 and 1, ascending, 0.5 among them.
        window: steps of history that the LSTM reads before a forecast (beside each, it is shown the value one and some
            seasons before); by default about 168 in whole seasons, less if the series are short.
        hidden: H, units of the LSTM.
        layers: L, layers of the LSTM.
        dropout: probability of zeroing an output of the LSTM in training.
        input_noise: standard deviation of Gaussian noise on the scaled inputs in training.
        epochs: at most this many, of 100 batches of windows drawn at random.
        batch: B, windows in a batch.
        learning_rate: the highest of the schedule.
        optimizer: adamw, sgd, or another of torch.optim by name.
        weight_decay: pulls weights towards zero; for adamw apart from the gradient.
        momentum: of sgd.
        schedule: what the rate does after its warm-up: fall as a cosine, halve whenever validation no longer improves
            (plateau), or stay (constant).
        clip_norm: gradients are scaled down to this norm.
        clip_value: each element of a gradient is cut to plus or minus this; by default it is not.
        accumulate: parts in which a batch goes through the network, so that memory is that of a part.
        average: share, such as 0.999, that an exponential average of the weights keeps at each step; the average is
            what is validated and kept. 0 for none.
        autocast: bfloat16 lets torch's operators compute in it where that is safe; by default all is float32.
        patience: stop after this many epochs without a better validation loss.
        holdout: last steps of every series kept from training and used to score the model; by default the horizon,
            or up to ten of them where series are long (5 % of their length); 0 to train on everything.
        missing: what to do with missing target cells inside a series: refuse (error), repeat the last value (ffill),
            or leave them out of inputs and loss (mask).
        short: what to do with series shorter than window + horizon: refuse (error), fill up from the left (pad), or
            leave them out (drop).
        freeze_lstm: leave the LSTM's weights at their random start and train only the rest: the control experiment
            that shows what the recurrence is worth.
        seed: of weights, batches and dropout.
        threads: of the processor, for training. A seed gives the same weights for the same number of threads, on
            machines of the same kind.
    """

    horizon: int
    season: int | None = None
    target: str = "y"
    id: str | None = None
    time: str | None = None
    past: tuple[str, ...] = ()
    future: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    quantiles: tuple[float, ...] = (0.1, 0.5, 0.9)
    window: int | None = None
    hidden: int = 64
    layers: int = 1
    dropout: float = 0.0
    input_noise: float = 0.0
    epochs: int = 12
    batch: int = 64
    learning_rate: float = 6e-3
    optimizer: str = "adamw"
    weight_decay: float = 1e-4
    momentum: float = 0.9
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    clip_norm: float = 1.0
    clip_value: float | None = None
    accumulate: int = 1
    average: float = 0.0
    autocast: Literal["bfloat16"] | None = None
    patience: int = 4
    holdout: int | None = None
    missing: Literal["error", "ffill", "mask"] = "error"
    short: Literal["error", "pad", "drop"] = "error"
    freeze_lstm: bool = False
    seed: int = 0
    threads: int = 1

    _RANGES: ClassVar[dict[str, tuple[float, float]]] = {
        "horizon": (1, 100_000),
        "season": (1, 1_000_000),
        "window": (1, 1_000_000),
        "hidden": (1, 65_536),
        "layers": (1, 64),
        "dropout": (0, 0.99),
        "input_noise": (0, 100),
        "epochs": (1, 1_000_000),
        "batch": (1, 1_000_000),
        "learning_rate": (1e-9, 10),
        "weight_decay": (0, 1e3),
        "momentum": (0, 0.9999),
        "clip_norm": (1e-9, 1e9),
        "clip_value": (1e-9, 1e9),
        "accumulate": (1, 1_000_000),
        "average": (0, 0.999999),
        "patience": (1, 1_000_000),
        "holdout": (0, 1_000_000),
        "seed": (0, 2**63 - 1),
        "threads": (1, 1024),
    }
    _CHOICES: ClassVar[dict[str, tuple[str | None, ...]]] = {
        "missing": ("error", "ffill", "mask"),
        "short": ("error", "pad", "drop"),
        "schedule": ("cosine", "plateau", "constant"),
        "autocast": ("bfloat16", None),
    }
    _OPTIONAL: ClassVar[frozenset[str]] = frozenset({"season", "window", "holdout", "clip_value"})

    def plain(self) -> "Settings":
        """The same settings in Python's own types, whatever NumPy scalars and lists they came as."""
        values = {field.name: getattr(self, field.name) for field in fields(Settings)}
        for name in self._RANGES:
            if values[name] is not None:
                values[name] = (float if name in _FRACTIONS else int)(values[name])
        for name in ("past", "future", "static"):
            values[name] = tuple(values[name])
        values["quantiles"] = tuple(float(level) for level in values["quantiles"])
        return Settings(**values)

    def check(self) -> None:
        """Refuse settings out of range.

        Raises:
            InputError: names the setting, its value and what is accepted.
        """
        for name, (low, high) in self._RANGES.items():
            value = getattr(self, name)
            if value is None and name in self._OPTIONAL:
                continue
            whole = name not in _FRACTIONS
            if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
                raise InputError(f"{name} must be a {'whole ' * whole}number, not {value!r}.")
            if not low <= float(value) <= high:
                raise InputError(f"{name} must be from {low:g} to {high:g}, not {value}.")
        for name, choices in self._CHOICES.items():
            if getattr(self, name) not in choices:
                raise InputError(f"{name} must be one of {', '.join(map(str, choices))}, not {getattr(self, name)!r}.")
        for name in ("past", "future", "static"):
            value = getattr(self, name)
            if not isinstance(value, tuple | list) or not all(isinstance(column, str) for column in value):
                raise InputError(f"{name} must be a list of column names, not {value!r}.")
        for name in ("target", "id", "time"):
            value = getattr(self, name)
            if not (isinstance(value, str) or (value is None and name != "target")):
                raise InputError(f"{name} must be the name of a column, not {value!r}.")
        if not isinstance(self.freeze_lstm, bool):
            raise InputError(f"freeze_lstm must be true or false, not {self.freeze_lstm!r}.")
        self._check_quantiles()

    def _check_quantiles(self) -> None:
        levels = self.quantiles if isinstance(self.quantiles, tuple | list) else ()
        numbers = all(isinstance(level, float) and 0 < level < 1 for level in levels)
        if not numbers or list(levels) != sorted(set(levels)) or 0.5 not in levels:
            raise InputError(
                f"quantiles must be numbers between 0 and 1, ascending, 0.5 among them, not {self.quantiles!r}."
            )

"""The file of a search: an Optuna study in SQLite, which one process at a time goes on with.

Optuna: Akiba et al. (2019). A study knows what it was made of, so that it is never gone on with over another table or
other settings.
"""

import contextlib
import fcntl
import json
import os
import sqlite3
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from gatewise.data import AnyPanel
from gatewise.errors import InputError
from gatewise.tasks.forecast.settings import Settings
from gatewise.tasks.forecast.space import Range, Space

STUDY_NAME, TRIALS_NAME, PAGE_NAME = FILES = ("study.db", "trials.csv", "tune.html")
DIVERGED = "diverged"
"""A trial's attribute: what became infinite."""
_NAME, _MADE_OF = "gatewise", "made of"
_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class Trial:
    """A trial that is over.

    Attributes:
        number: counted from 1, without trials that were broken off.
        drawn: for each range of the space, by its name, what was drawn.
        losses: the validation loss of each epoch.
        state: "complete", "pruned" (its losses were worse than the median of the others), or "diverged".
        seconds: that it took.
    """

    number: int
    drawn: Mapping[str, float]
    losses: tuple[float, ...]
    state: Literal["complete", "pruned", "diverged"]
    seconds: float

    @property
    def loss(self) -> float:
        """The lowest validation loss; infinite if there was no epoch."""
        return min(self.losses, default=float("inf"))


def trials_of(study: optuna.Study) -> tuple[Trial, ...]:
    """The trials that are over, in their order."""
    return tuple(_trial(n, frozen) for n, frozen in enumerate(study.get_trials(False, _FINISHED), 1))


def best_of(trials: tuple[Trial, ...]) -> Trial | None:
    """The complete trial of the lowest loss, the first of equals; None before there is one."""
    return min((trial for trial in trials if trial.state == "complete"), key=lambda trial: trial.loss, default=None)


def _trial(number: int, frozen: FrozenTrial) -> Trial:
    pruned = "diverged" if DIVERGED in frozen.user_attrs else "pruned"
    took = frozen.duration
    return Trial(
        number,
        frozen.params,
        tuple(loss for _, loss in sorted(frozen.intermediate_values.items())),
        "complete" if frozen.state == TrialState.COMPLETE else pruned,
        took.total_seconds() if took else 0.0,
    )


def distribution(row: Range) -> BaseDistribution:
    """A range as Optuna has it."""
    if row.choices:
        return CategoricalDistribution(row.choices)
    log = row.scale != "uniform"
    return IntDistribution(int(row.low), int(row.high), log) if row.whole else FloatDistribution(row.low, row.high, log)


def sampler(space: Space, given: Settings, number: int) -> BaseSampler:
    """What draws a trial: from the seed, its number and the trials before it, so that going on changes nothing."""
    start = space.start(given) if number == 1 else None
    if start is not None:
        return _Given(start)
    seed = int(np.random.SeedSequence((given.seed, number)).generate_state(1)[0])
    return RandomSampler(seed) if space.sampler == "random" else TPESampler(seed=seed, constant_liar=False)


class _Given(BaseSampler):
    """Draws what is given."""

    def __init__(self, drawn: Mapping[str, float]) -> None:
        self._drawn = drawn

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._drawn[param_name]


def made_of(space: Space, given: Settings, panel: AnyPanel, prune: bool) -> dict[str, Any]:
    """What a study's trials depend on, as plain data: the table, the space and the other settings."""
    own = {row.setting for row in space.ranges} | set(space.fixed)
    about = {
        "table": {"rows": len(panel.y), "fingerprint": panel.fingerprint()},
        "space": {**asdict(space), "about": "", "fixed": dict(space.fixed)},
        "settings": {name: value for name, value in asdict(given.plain()).items() if name not in own},
        "prune": prune,
    }
    return json.loads(json.dumps(about))


@contextlib.contextmanager
def opened(folder: Path, about: Mapping[str, Any], *, anew: bool) -> Generator[optuna.Study]:
    """The study of a folder, for this process alone; a trial that was broken off is failed.

    Args:
        folder: made if it is not there.
        about: what the study is made of, as ``made_of`` tells it.
        anew: whether what an earlier search left is removed.

    Raises:
        InputError: it was made of something else, it is damaged, another process works on it, or it cannot be written.
    """
    path = folder / STUDY_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be made: {error.strerror}.") from error
    with _locked(folder), _readable(path), _quiet():
        for name in FILES if anew else ():
            (folder / name).unlink(missing_ok=True)
        if not path.exists():
            _make(path, about)
        with _connected(path) as study:
            _refuse_another(path, study.user_attrs.get(_MADE_OF), about)
            for frozen in study.get_trials(False, (TrialState.RUNNING,)):
                study.tell(frozen.number, state=TrialState.FAIL)
            yield study


def _make(path: Path, about: Mapping[str, Any]) -> None:
    """Write a new study, which takes its place with all that it was made of."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        with _connected(temporary) as study:
            study.set_user_attr(_MADE_OF, dict(about))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _connected(path: Path) -> Generator[optuna.Study]:
    # A connection of our own making, because a path may hold what a URL may not.
    options = {"creator": lambda: sqlite3.connect(path, timeout=60), "poolclass": sqlalchemy.NullPool}
    try:
        storage = optuna.storages.RDBStorage("sqlite://", options)
    except RuntimeError as error:
        raise InputError(f"the study {path} was written by another version of Optuna: {error}") from error
    try:
        yield optuna.create_study(storage=storage, study_name=_NAME, load_if_exists=True, direction="minimize")
    finally:
        storage.remove_session()
        storage.engine.dispose()


@contextlib.contextmanager
def _locked(folder: Path) -> Generator[None]:
    """Hold a folder for one search; the system lets go of it when the process ends, however that happens."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another search is at work in {folder}: wait for it, or give another --out.") from None
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _readable(path: Path) -> Generator[None]:
    """Tell the user about a file that is damaged or a disk that is full."""
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        cause = error if isinstance(error, SQLAlchemyError) else error.__cause__
        raise InputError(f"the study {path} cannot be read or written: {getattr(cause, 'orig', error)}.") from error


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Without Optuna's own lines about what it does."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _refuse_another(path: Path, before: Mapping[str, Any] | None, about: Mapping[str, Any]) -> None:
    """Raise if a study was made of something else, and name what differs."""
    if before is None:
        raise InputError(f"{path} is a study that gatewise tune did not make: give another --out.")
    settings = [setting.name for setting in fields(Settings)]
    told = []
    for part in about:
        if before.get(part) == about[part]:
            continue
        if part == "settings":
            then, now = before[part], about[part]
            differ = [name for name in settings if name in then and name in now and then[name] != now[name]]
            told += [f"{name} was {then[name]!r} and is {now[name]!r}" for name in differ]
        elif part == "space":
            names = before[part]["name"], about[part]["name"]
            told.append(
                f"the space was {names[0]!r} and is {names[1]!r}" if len(set(names)) > 1 else "the ranges of the space"
            )
        elif part == "prune":
            told.append(f"pruning was {'on' if before.get(part) else 'off'} and is {'on' if about[part] else 'off'}")
        else:
            then, now = before[part], about[part]
            rows = f" ({then['rows']:,} rows, now {now['rows']:,})" if then["rows"] != now["rows"] else ""
            told.append("the table" + rows)
    if told:
        raise InputError(
            f"the study in {path.parent} is of another search: {'; '.join(told)}. Give another --out, or --force to "
            "begin it anew."
        )

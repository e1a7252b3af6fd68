"""The search: the same study whatever interrupts it, pruning by its definition, the best trial as a run folder."""

import fcntl
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import polars as pl
import pytest
from test_forecaster import table

from gatewise import Forecaster
from gatewise.errors import InputError
from gatewise.tasks.forecast import SPACES, Range, Settings, Space, Tuned, fitting, run, training, tune, tuning
from gatewise.tasks.forecast.space import space_of
from gatewise.tasks.forecast.study import Trial, distribution, sampler
from gatewise.tasks.forecast.tune_report import TuneData, importance_of, render_tune, verdict
from gatewise.tasks.forecast.tuning import SilentTuning
from gatewise.train import DivergedError

SMALL = Settings(horizon=4, season=6, window=12, hidden=4, epochs=3, batch=4)
RATES = Space("rates", (Range("learning_rate", 1e-5, 1e-1, "log"), Range("layers", 1, 2)))
FILES = {
    "model.safetensors", "config.toml", "metrics.json", "forecast.csv", "report.html",
    "study.db", "trials.csv", "tune.html",
}  # fmt: skip
TRIALS = 13
"""More than the ten that TPE draws at random."""


@pytest.fixture(autouse=True)
def short_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    _hurry(monkeypatch)


def _hurry(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(training, "STEPS_PER_EPOCH", 4)
    patch.setattr(run, "render_report", lambda data: "a page")
    patch.setattr(tuning, "render_tune", lambda data: "another page")


def search(folder: Path, trials: int = 3, **options: Any) -> Tuned:
    return tune(table(), options.pop("settings", SMALL), folder, **({"trials": trials, "space": RATES} | options))


def outcome(tuned: Tuned) -> list[tuple[Any, ...]]:
    """All of the trials but the time that they took."""
    return [(t.number, dict(t.drawn), t.losses, t.state) for t in tuned.trials]


def weights(folder: Path) -> dict[str, np.ndarray]:
    model = Forecaster.load(folder).model_
    assert model is not None
    return dict(model.weights)


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """A search that nothing interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        _hurry(patch)
        return search(tmp_path_factory.mktemp("whole"), TRIALS)


def test_the_folder_is_a_run_of_the_best_trial(whole: Tuned) -> None:
    assert {path.name for path in whole.folder.iterdir()} == FILES
    model = Forecaster(**vars(whole.settings)).fit(table()).model_
    assert model is not None
    assert same(dict(model.weights), weights(whole.folder))
    assert whole.best.loss == min(trial.loss for trial in whole.trials if trial.state == "complete")
    assert whole.settings.layers == whole.best.drawn["layers"]
    metrics = json.loads((whole.folder / "metrics.json").read_text())
    assert metrics == whole.metrics
    assert min(epoch["val_loss"] for epoch in metrics["training"]["epochs"]) == whole.best.loss
    listed = pl.read_csv(whole.folder / "trials.csv")
    assert listed.columns == ["trial", "state", "val_loss", "epochs", "seconds", "learning_rate", "layers"]
    assert listed["val_loss"].to_list() == [trial.loss for trial in whole.trials]
    # It holds no file that is there for a moment only.
    assert not list(whole.folder.parent.glob(".whole*"))


def test_going_on_gives_the_study_that_was_never_stopped(whole: Tuned, tmp_path: Path) -> None:
    for trials in (2, 11, TRIALS):
        tuned = search(tmp_path, trials)
        assert len(tuned.trials) == trials
    assert outcome(tuned) == outcome(whole)
    assert same(weights(tmp_path), weights(whole.folder))
    # There is nothing left to do, and fewer trials than there are change nothing.
    assert outcome(search(tmp_path, 1)) == outcome(whole)


def test_a_seed_decides_and_another_gives_another_study(whole: Tuned, tmp_path: Path) -> None:
    other = search(tmp_path, 2, settings=replace(SMALL, seed=1))
    assert outcome(other) != outcome(whole)[:2]
    # Nor does a trial draw what the one before did.
    assert len({trial.drawn["learning_rate"] for trial in whole.trials}) == TRIALS


class Breaker(SilentTuning):
    """Breaks a trial off in its second epoch."""

    def __init__(self, number: int, action: Callable[[], None]) -> None:
        self._number, self._action = number, action

    def epoch(self, number: int, epoch: Any) -> None:
        if (number, epoch.epoch) == (self._number, 2):
            self._action()


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_a_trial_that_ctrl_c_breaks_off_is_failed_and_run_again(whole: Tuned, tmp_path: Path) -> None:
    for broken in (1, 4):
        with pytest.raises(KeyboardInterrupt) as stop:
            search(tmp_path, TRIALS, watch=Breaker(broken, press_ctrl_c))
        assert getattr(stop.value, "signal", None) == signal.SIGINT
        assert [state.name for state in states(tmp_path)].count("FAIL") == [0, 1, 0, 0, 2][broken]
    assert len(pl.read_csv(tmp_path / "trials.csv")) == 3
    assert outcome(search(tmp_path, TRIALS)) == outcome(whole)
    assert len(states(tmp_path)) == TRIALS + 2


def states(folder: Path) -> list[optuna.trial.TrialState]:
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'study.db'}")
    try:
        return [trial.state for trial in optuna.load_study(study_name="gatewise", storage=storage).trials]
    finally:
        storage.remove_session()
        storage.engine.dispose()


KILLED = """
import os, signal, sys
from pathlib import Path
import pytest
sys.path.insert(0, {tests!r})
from test_tune import RATES, SMALL, TRIALS, SilentTuning, _hurry, search

class Killer(SilentTuning):
    def trial(self, trial, settings, is_best):
        if {between} and trial.number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
    def epoch(self, number, epoch):
        if not {between} and (number, epoch.epoch) == (3, 2):
            os.kill(os.getpid(), signal.SIGKILL)

with pytest.MonkeyPatch.context() as patch:
    _hurry(patch)
    search(Path({folder!r}), TRIALS, watch=Killer())
"""


@pytest.mark.parametrize("between", [True, False])
def test_the_study_survives_sigkill(whole: Tuned, tmp_path: Path, between: bool) -> None:
    code = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path), between=between)
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    connection = sqlite3.connect(tmp_path / "study.db")
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    expected = ["COMPLETE"] * 3 if between else ["COMPLETE", "COMPLETE", "RUNNING"]
    assert [state.name for state in states(tmp_path)] == expected
    # The best model so far was on disk before its trial counted.
    best = min(whole.trials[: 3 if between else 2], key=lambda trial: trial.loss)
    training = Forecaster.load(tmp_path).model_.training  # type: ignore[union-attr]
    assert min(epoch["val_loss"] for epoch in training["epochs"]) == best.loss
    assert outcome(search(tmp_path, 6)) == outcome(whole)[:6]


def test_trials_are_pruned_by_the_median_of_the_others(whole: Tuned) -> None:
    assert {trial.state for trial in whole.trials} == {"complete", "pruned"}
    for trial in whole.trials:
        before = [other for other in whole.trials[: trial.number - 1] if other.state == "complete"]
        for epoch in range(1, len(trial.losses) + 1):
            # The first half of the epochs, rounded to two of three, is left alone but for its last.
            judged = len(before) >= 5 and epoch >= 2
            median = np.median([other.losses[epoch - 1] for other in before]) if judged else np.inf
            pruned = trial.state == "pruned" and epoch == len(trial.losses)
            assert (min(trial.losses[:epoch]) > median) == pruned


def test_without_pruning_every_trial_ends(tmp_path: Path) -> None:
    tuned = search(tmp_path, 8, prune=False)
    assert {(trial.state, len(trial.losses)) for trial in tuned.trials} == {("complete", 3)}


def test_a_diverged_trial_counts_as_one_and_is_never_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit, fits = fitting.fit_model, iter(range(1, 100))

    def fit_model(settings: Settings, *args: Any) -> Any:
        if next(fits) in (1, 3):
            raise DivergedError("the loss became nan")
        return fit(settings, *args)

    monkeypatch.setattr(tuning, "fit_model", fit_model)
    tuned = search(tmp_path, 4)
    assert [trial.state for trial in tuned.trials] == ["diverged", "complete", "diverged", "complete"]
    assert tuned.best.number in (2, 4)
    assert pl.read_csv(tmp_path / "trials.csv")["val_loss"].to_list()[::2] == [None, None]


def test_if_all_diverge_there_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fit_model(*args: Any) -> Any:
        raise DivergedError("the loss became nan in epoch 1")

    monkeypatch.setattr(tuning, "fit_model", fit_model)
    with pytest.raises(InputError, match=r"none of the trials gave a model\. Trial 1: the loss became nan in epoch 1"):
        search(tmp_path, 2)


@pytest.mark.parametrize("name", ["model.safetensors", "metrics.json"])
def test_a_model_that_is_gone_is_trained_again(whole: Tuned, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole.folder, folder)
    (folder / name).unlink()
    again: list[int] = []

    class Watch(SilentTuning):
        def again(self, trial: Trial) -> None:
            again.append(trial.number)

    tuned = search(folder, TRIALS, watch=Watch())
    assert again == [whole.best.number]
    assert tuned.best == whole.best
    assert same(weights(folder), weights(whole.folder))


def test_the_first_trial_of_adamw_is_the_settings_as_given(tmp_path: Path) -> None:
    seen: list[Settings] = []

    class Watch(SilentTuning):
        def start(self, number: int, settings: Settings) -> None:
            seen.append(settings)

    search(
        tmp_path, 2, space="adamw", settings=replace(SMALL, hidden=4, batch=4), keep=("hidden", "batch"), watch=Watch()
    )
    assert seen[0] == replace(SMALL, hidden=4, batch=4)
    assert seen[1].learning_rate != SMALL.learning_rate
    assert (seen[1].hidden, seen[1].batch) == (4, 4)


def test_greff_searches_sgd_at_random_with_rescaled_steps(tmp_path: Path) -> None:
    seen: list[Settings] = []

    class Watch(SilentTuning):
        def start(self, number: int, settings: Settings) -> None:
            seen.append(settings)

    settings = replace(SMALL, hidden=64, epochs=1)
    tuned = search(tmp_path, 4, space="greff2017", settings=settings, watch=Watch())
    for trial, chosen in zip(tuned.trials, seen, strict=True):
        assert (chosen.optimizer, chosen.schedule) == ("sgd", "constant")
        assert chosen.momentum == 1 - trial.drawn["1 - momentum"]
        assert chosen.learning_rate == trial.drawn["learning_rate"] * (1 - chosen.momentum)
        assert chosen.input_noise == trial.drawn["input_noise"]
        assert 20 <= chosen.hidden <= 200
    assert len({trial.drawn["learning_rate"] for trial in tuned.trials}) == 4


def test_greff_draws_from_the_ranges_of_the_paper() -> None:
    space, study = SPACES["greff2017"], optuna.create_study()
    drawn = []
    for number in range(1, 201):
        study.sampler = sampler(space, SMALL, number)
        trial = study.ask({row.name: distribution(row) for row in space.ranges})
        study.tell(trial, 1.0)
        drawn.append(trial.params)
    # Medians of log-uniform and uniform numbers; the fifth part of the range is 5 standard errors wide or more.
    hidden, rate, momentum, noise = (np.array([row[r.name] for row in drawn]) for r in space.ranges)
    assert 20 <= hidden.min() < 25
    assert 170 < hidden.max() <= 200
    assert abs(np.log10(np.median(hidden) / np.sqrt(20 * 200))) < 0.2
    assert abs(np.log10(np.median(rate) / 1e-4)) < 0.8
    assert abs(np.log10(np.median(momentum) / 0.1)) < 0.4
    assert abs(np.median(noise) - 0.5) < 0.2


@pytest.mark.parametrize("name", SPACES)
def test_the_spaces_are_ranges_of_the_settings(name: str) -> None:
    assert space_of(name) is SPACES[name]
    SPACES[name].refuse_changed(Settings(horizon=1))


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ("adam", "there is no search space 'adam'; there are adamw, greff2017"),
        (Space("s", ()), "must search at least one setting"),
        (Space("s", (Range("hiden", 1, 2),)), "searches 'hiden', which is no setting"),
        (Space("s", (Range("hidden", 1.5, 2.5),)), "hidden must be a whole number"),
        (Space("s", (Range("hidden", 8, 4),)), "must search hidden between two ascending numbers"),
        (Space("s", (Range("dropout", 0.0, 0.5, "log"),)), "above 0 on a logarithmic scale"),
        (Space("s", (Range("dropout", 0.0, 1.5),)), "dropout must be from 0 to 0.99"),
        (Space("s", (Range("momentum", 0.01, 1.5, "1 - log"),)), "momentum must be from 0"),
        (Space("s", (Range("batch", choices=(0, 8)),)), "batch must be from 1"),
        (Space("s", (Range("batch", 1, 8),), fixed={"batch": 4}), "and not fix it"),
    ],
)
def test_a_space_that_does_not_fit_is_refused(tmp_path: Path, space: str | Space, said: str) -> None:
    with pytest.raises(InputError, match=said):
        search(tmp_path / "run", space=space)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"trials": 0}, "trials must be a whole number of at least 1, not 0"),
        ({"trials": 2.0}, "trials must be a whole number"),
        ({"keep": ("batch",)}, "the space 'rates' does not change 'batch'; it changes learning_rate, layers"),
        ({"keep": ("layers", "learning_rate")}, "nothing is left to search"),
        ({"space": "adamw"}, "sets hidden, batch itself.*hidden 4, batch 4 would.*--keep hidden batch to"),
        ({"settings": replace(SMALL, dropout=2.0)}, "dropout must be from"),
        ({"settings": replace(SMALL, window=50)}, "no series is long enough for a validation window.*58 rows"),
        ({"settings": replace(SMALL, window=80)}, "too short"),
        ({"settings": replace(SMALL, target="z")}, "'z'"),
    ],
)
def test_wrong_input_is_refused_before_any_trial(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        search(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"settings": replace(SMALL, seed=3, epochs=2)}, "epochs was 3 and is 2; seed was 0 and is 3"),
        ({"space": Space("sizes", RATES.ranges)}, "the space was 'rates' and is 'sizes'"),
        ({"keep": ("layers",)}, "the ranges of the space"),
        ({"prune": False}, "pruning was on and is off"),
    ],
)
def test_a_study_of_another_search_is_refused(whole: Tuned, options: dict[str, Any], said: str) -> None:
    before = (whole.folder / "study.db").read_bytes()
    with pytest.raises(InputError, match=f"is of another search: .*{said}.*Give another --out, or --force"):
        search(whole.folder, TRIALS, **options)
    assert (whole.folder / "study.db").read_bytes() == before


def test_a_study_of_another_table_is_refused(whole: Tuned) -> None:
    longer, changed = table(61), table().with_columns(pl.col("y") + 1)
    with pytest.raises(InputError, match=r"the table \(120 rows, now 122\)"):
        tune(longer, SMALL, whole.folder, trials=TRIALS, space=RATES)
    with pytest.raises(InputError, match=r"is of another search: the table\. Give"):
        tune(changed, SMALL, whole.folder, trials=TRIALS, space=RATES)


def test_force_begins_anew(whole: Tuned, tmp_path: Path) -> None:
    search(tmp_path, 1, settings=replace(SMALL, seed=5))
    (tmp_path / "notes.txt").write_text("mine")
    tuned = search(tmp_path, 1, force=True)
    assert outcome(tuned) == outcome(whole)[:1]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty"):
        search(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_damaged_study_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"no database " * 1000)
    with pytest.raises(InputError, match=r"study\.db cannot be read or written: file is not a database"):
        search(tmp_path)


def test_a_study_of_somebody_else_is_refused(tmp_path: Path) -> None:
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'study.db'}")
    optuna.create_study(storage=storage, study_name="theirs")
    storage.remove_session()
    storage.engine.dispose()
    with pytest.raises(InputError, match="is a study that gatewise tune did not make"):
        search(tmp_path)


def test_two_searches_in_one_folder_are_refused(whole: Tuned) -> None:
    handle = os.open(whole.folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another search is at work in"):
            search(whole.folder, TRIALS)
    finally:
        os.close(handle)


def test_any_name_of_a_folder_will_do(tmp_path: Path) -> None:
    folder = tmp_path / "50 % of? #1 & é"
    search(folder, 1)
    assert {path.name for path in folder.iterdir()} == FILES


# --- the report -----------------------------------------------------------------------------------------------------


def made_up(count: int, space: Space = SPACES["adamw"]) -> list[Trial]:
    """Trials of which the learning rate alone decides; some pruned, the third diverged."""
    study, trials = optuna.create_study(), []
    for number in range(1, count + 1):
        study.sampler = sampler(replace(space, sampler="random"), SMALL, number)
        asked = study.ask({row.name: distribution(row) for row in space.ranges})
        loss = 1 + np.log10(asked.params["learning_rate"] / 3e-3) ** 2
        losses = (loss + 1, loss) if loss < 1.5 else (loss + 1,)
        state = "complete" if len(losses) > 1 else "pruned"
        if number == 3:
            losses, state = (), "diverged"
        trials.append(Trial(number, dict(asked.params), losses, state, 1.0))
        study.tell(asked, 1.0)
    return trials


def test_importance_finds_what_decides() -> None:
    importance = importance_of(made_up(60), SPACES["adamw"])
    assert next(iter(importance)) == "learning_rate"
    assert importance["learning_rate"] > 0.5
    assert sum(importance.values()) == pytest.approx(1)
    assert set(importance) == {row.name for row in SPACES["adamw"].ranges}


def test_importance_of_a_few_trials_is_not_told() -> None:
    assert importance_of(made_up(9), SPACES["adamw"]) == {}
    assert importance_of([replace(trial, losses=(1.0,)) for trial in made_up(20)], SPACES["adamw"]) == {}


def page(trials: list[Trial], title: str = "Search") -> str:
    space = SPACES["adamw"]
    return render_tune(TuneData(title, space, SMALL, trials, importance_of(trials, space), "gatewise tune"))


def test_the_page_shows_importance_history_and_every_setting() -> None:
    trials = made_up(40)
    html = page(trials, "<script>alert(1)</script>")
    assert html == page(trials, "<script>alert(1)</script>")
    assert "<script" not in html
    assert "http" not in html
    assert html.count("<svg role=") == 3
    assert len(html) < 300_000
    texts = re.sub(r"<[^>]+>", " ", html)
    for row in SPACES["adamw"].ranges:
        assert texts.count(row.setting) >= 4  # the best settings, importance, scatter plot, table
    pruned = [trial.number for trial in trials if trial.state == "pruned"]
    assert len(pruned) > 3
    assert all(f"{number} after epoch 1" in html for number in pruned)
    assert "not finite: 3." in texts


def test_the_page_of_very_few_trials_draws() -> None:
    for trials in (made_up(1), made_up(2), [replace(trial, losses=(), state="diverged") for trial in made_up(2)]):
        html = page(trials)
        assert html.count("<svg role=") == 2
        assert "Shown from 10 trials" in html
        assert not re.search(r"\b(nan|inf)\b", re.sub(r"<svg.*?</svg>", "", html, flags=re.DOTALL))


def test_the_verdict_compares_with_the_settings_as_given() -> None:
    space = replace(SPACES["adamw"], name="adamw")
    given = Settings(horizon=4)
    start = space.start(given)
    assert start is not None
    first = Trial(1, start, (0.5, 0.4), "complete", 1.0)
    better = Trial(2, start | {"hidden": 20}, (0.3,), "complete", 1.0)

    def said(*trials: Trial) -> str:
        return verdict(TuneData("", space, given, trials, {}, ""))

    assert said(first) == "Trial 1 of 1 is the best: validation loss 0.4, that of the settings as they were given."
    assert said(first, better) == (
        "Trial 2 of 2 is the best: validation loss 0.3, 25.0\u00a0% below the settings as given (0.4)."
    )
    assert said(replace(better, number=1)) == "Trial 1 of 1 is the best: validation loss 0.3."


def test_validation_windows_without_a_known_target_are_refused(tmp_path: Path) -> None:
    y = [float(k % 6) for k in range(200)]
    y[170:194] = [float("nan")] * 24
    settings = Settings(horizon=6, season=6, window=12, hidden=4, epochs=1, batch=4, holdout=6, missing="mask")
    with pytest.raises(InputError, match="no target of the validation windows is known, by which trials are judged"):
        tune(pl.DataFrame({"y": y}), settings, tmp_path / "run", trials=1, space=RATES)

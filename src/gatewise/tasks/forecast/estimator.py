"""The Python face of the task: an estimator with scikit-learn's manners."""

import warnings
from dataclasses import dataclass, fields
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING, Any, Self, final

import narwhals as nw
import polars as pl

from gatewise.data import Store, to_polars, to_table, whole, with_future
from gatewise.errors import InputError
from gatewise.tasks.forecast.evaluate import evaluate
from gatewise.tasks.forecast.model import ForecastModel
from gatewise.tasks.forecast.settings import Settings

if TYPE_CHECKING:
    from gatewise.tasks.forecast.fitting import Fitted
    from gatewise.tasks.forecast.training import Watcher


@final
@dataclass(eq=False)
class Forecaster(Settings):
    """Forecast the series of a table with one LSTM; the arguments are those of ``Settings``.

    A window of W steps, scaled by its own mean and standard deviation, is read by the LSTM, which then reads on
    through the horizon, where only what is known in advance is shown. At each step of the horizon it weighs simple
    candidates (the last value, the last season, the best multiple of the season) and corrects them::

        q_j = Σ_k softmax(a)_k candidate_k + correction_j        (a, correction) = W h_t + b

    After ``fit``, ``model_`` holds what predicts and ``fitted_`` what a report needs.

    Raises:
        InputError: a setting is out of range (when ``fit`` is called), or a table is not as described.

    Example:
        >>> import numpy as np, polars as pl
        >>> from gatewise import Forecaster
        >>> df = pl.DataFrame({"y": np.sin(np.arange(300) / 12 * 2 * np.pi) + 5})
        >>> model = Forecaster(horizon=12, season=12, hidden=8, epochs=1).fit(df)
        >>> model.predict().columns
        ['unique_id', 'ds', 'q0.1', 'q0.5', 'q0.9']
    """

    def __post_init__(self) -> None:
        self.model_: ForecastModel | None = None
        self.fitted_: Fitted | None = None
        self._backend: Any = None

    def fit(
        self,
        frame: object,
        y: None = None,
        *,
        watch: "Watcher | None" = None,
        checkpoints: str | Path | None = None,
        resume: bool = False,
    ) -> Self:
        """Train on a long table.

        Args:
            frame: one row per series and time: a Polars, pandas or pyarrow frame, or the path of a table; or a
                store, or its path.
            y: None; here because scikit-learn's tools pass it. The target is a column of the frame.
            watch: told of the data, every step and every epoch.
            checkpoints: a folder for the last two checkpoints of the training; by default none are saved.
            resume: go on from the last checkpoint, if there is one, to the weights of a fit that was never stopped.

        Ctrl-C or SIGTERM after the first epoch ends the training: the best model so far is kept, with a warning.
        """
        if y is not None:
            raise InputError("y must be None: the target is a column of the frame, named by target.")
        # Here, because torch is for training only.
        from gatewise.tasks.forecast.fitting import fit_model
        from gatewise.tasks.forecast.training import Silent

        self.model_, self.fitted_ = fit_model(
            self, to_table(frame), watch or Silent(), checkpoints=checkpoints, resume=resume
        )
        self._backend = _backend_of(frame)
        if self.fitted_.history.interrupted:
            by = Signals(self.fitted_.history.stopped).name
            warnings.warn(f"stopped by {by}: kept epoch {self.fitted_.history.best}, the best so far.", stacklevel=2)
        return self

    def predict(self, frame: object | None = None, *, future: object | None = None) -> Any:
        """Forecast the horizon after the end of every series.

        Args:
            frame: the history of the series; by default the table of ``fit``.
            future: rows of the horizon with the known-future covariates, if ``frame`` does not have them.

        Returns:
            A frame of the kind that was given, with N × horizon rows: the series, the time, and a column for each
            quantile, q0.1 and so on.
        """
        model = self._model()
        if frame is None:
            if self.fitted_ is None:
                raise InputError("a loaded forecaster has no table of its own: give the history to predict().")
            if future is not None:
                raise InputError("future rows need the history that they follow: give the frame too.")
            return _like(model.predict(self.fitted_.panel), self._backend)
        table = to_table(frame)
        if future is not None:
            table = with_future(whole(table), to_polars(future), model.columns)
        panel, notes = model.read(table)
        for note in notes:
            warnings.warn(note, stacklevel=2)
        return _like(model.predict(panel), _backend_of(frame))

    def evaluate(
        self, frame: object, *, truth: object | None = None, stride: int | None = None, in_sample: bool = False
    ) -> dict[str, Any]:
        """Score rolling origins after each series' training cut-off, beside naive and seasonal naive.

        Args:
            frame: the history, and the rows to score if ``truth`` is not given.
            truth: rows that follow ``frame``; then exactly these are scored.
            stride: steps from one origin to the next; by default the horizon.
            in_sample: score the whole table, training rows too; the result says so.

        Returns:
            Plain data: what was scored, and for each model the metrics overall and by step of the horizon.

        Raises:
            InputError: there is nothing to score, or ``truth`` does not follow the table.
        """
        later = None if truth is None else to_polars(truth)
        return evaluate(self._model(), to_table(frame), truth=later, stride=stride, in_sample=in_sample)

    def save(self, path: str | Path) -> None:
        """Write the model file (.safetensors)."""
        self._model().save(path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a model file or a run folder."""
        model = ForecastModel.load(path)
        loaded = cls(horizon=model.shape.horizon)
        known = loaded.get_params()
        for name, value in model.training["settings"].items():
            if name in known:
                setattr(loaded, name, tuple(value) if isinstance(value, list) else value)
        loaded.model_ = model
        return loaded

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments by name, as in scikit-learn."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def set_params(self, **params: Any) -> Self:
        """Change arguments by name, as in scikit-learn."""
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise InputError(f"Forecaster has no parameter {name!r}; it has {', '.join(known)}.")
            setattr(self, name, value)
        return self

    def _model(self) -> ForecastModel:
        if self.model_ is None:
            raise InputError("this forecaster is not fitted yet: call fit() first, or Forecaster.load().")
        return self.model_


def _backend_of(frame: object) -> Any:
    """The library of a frame; None for Polars, for paths and for stores."""
    if isinstance(frame, str | Path | Store | pl.DataFrame | pl.LazyFrame):
        return None
    return nw.from_native(frame).implementation  # type: ignore[call-overload]  # to_polars has accepted the frame


def _like(df: pl.DataFrame, backend: Any) -> Any:
    if backend is None:
        return df
    return nw.from_dict({name: df[name].to_list() for name in df.columns}, backend=backend).to_native()

"""A saved model, ready to run."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gatewise.errors import InputError
from gatewise.format import Block, Conv1d, Embedding, ModelFile, QuantileMix, model_path
from gatewise.format.file import read_model
from gatewise.machine import engine
from gatewise.runtime.arrays import array, float32, int64
from gatewise.runtime.executor import Floats, bind, executor, mixtures, pack, packed, run
from gatewise.runtime.mapped import mapped
from gatewise.runtime.streams import Pool, Stream

_KEPT = ("f32", "bf16")


def load(
    path: str | Path, *, weights: str = "f32", threads: int | None = None, shared: str | Path | None = None
) -> "Model":
    """Read a model file, or the one in a run folder, and make it ready to run.

    Args:
        path: the file or folder.
        weights: "f32", or "bf16" to keep recurrent weights as bfloat16 in half the memory: a step of a large model is
            bound by reading them. The arithmetic is float32's on the rounded weights (a part in 2⁹ at most), and whole
            sequences, streams and pools agree to the bit with each other, not with "f32".
        threads: the most that ``run`` and pools use; by default as many as there are processors.
        shared: a folder, which must exist, for the weights as the core reads them. The first process writes them
            there; all map the same memory, read-only. A folder that others can write to is not for this.

    Raises:
        InputError: the file is missing, damaged, newer or no model file; or the folder cannot be used.

    Example:
        >>> import tempfile
        >>> from gatewise import runtime
        >>> from gatewise.format import Lstm, ModelFile, save_model
        >>> block, path = Lstm(3, 4), tempfile.mkdtemp() + "/model.safetensors"
        >>> weights = {f"0.{name}": np.full(shape, 0.1, np.float32) for name, shape in block.shapes().items()}
        >>> save_model(ModelFile("demo", (block,), weights), path)
        >>> load(path).run(np.zeros((2, 5, 3)), lengths=[5, 2]).shape
        (2, 5, 4)
    """
    reading = read_model(model_path(path))
    return Model(reading.model, reading.description["sha256"], weights=weights, threads=threads, shared=shared)


class Model:
    """A model whose weights are packed once and never change; ``load`` makes one of a file.

    It may be used from several threads, and has as many streams as memory allows.

    Args:
        file: what a model file holds.
        identity: the SHA-256 that the file states; states go to models of the same identity only.
        weights: as for ``load``.
        threads: as for ``load``.
        shared: as for ``load``.

    Attributes:
        task: what the model does.
        architecture: its blocks.
        settings: what its task needs around the blocks.
        vocabulary: what its whole numbers stand for.
        threads: the most that ``run`` and pools use.
    """

    def __init__(
        self,
        file: ModelFile,
        identity: str,
        *,
        weights: str = "f32",
        threads: int | None = None,
        shared: str | Path | None = None,
    ):
        if weights not in _KEPT:
            raise InputError(f"weights must be one of {', '.join(_KEPT)}, not {weights!r}.")
        self.task, self.settings, self.vocabulary = file.task, file.settings, file.vocabulary
        self.architecture: tuple[Block, ...] = file.architecture
        self.threads = engine().threads if threads is None else _count("threads", threads)
        self._identity = identity
        self._mixes = any(isinstance(block, QuantileMix) for block in file.architecture)
        self._model = executor(file.architecture, halved=weights == "bf16")
        given = (self._model, file.architecture, file.weights)
        if shared is None:
            ready = packed(*given)
        else:
            ready = mapped(Path(shared), f"{identity}-{weights}", self._model, partial(pack, *given))
        bind(self._model, ready)

    def run(
        self,
        x: ArrayLike,
        *,
        lengths: Sequence[int] | NDArray[Any] | None = None,
        reset: ArrayLike | None = None,
        candidates: ArrayLike | None = None,
    ) -> Floats:
        """Run whole sequences from the beginning.

        Args:
            x: numbers [B, T, D], or [T, D] for a single sequence; for an embedding whole numbers [B, T] or [T].
                Computed in float32.
            lengths: the steps of each row [B], 0 to T; past a row's end outputs are zero.
            reset: bool [B, T] ([T] for a single sequence): a row begins anew before each step that is true.
            candidates: [B, T', K], for a model with a quantile mixture only: the forecasts that it mixes.

        Returns:
            float32 [B, T', O], or [T', O]. T' is T, less where a convolution has strides, and the candidates' where
            they are mixed.

        Raises:
            InputError: an argument does not fit the model.
        """
        given, single = self._inputs(x)
        rows, steps = given.shape[:2]
        if self._mixes and candidates is None:
            raise InputError("the model mixes candidates: give them as [B, T′, K].")
        if candidates is not None and not self._mixes:
            raise InputError("the model has no mixture: candidates are for those with a quantile mixture.")
        ends = None if lengths is None else self._lengths(lengths, rows, steps)
        cut = None if reset is None else self._reset(reset, (rows, steps), single)
        mixed = None if candidates is None else self._candidates(candidates, rows, steps, single)
        y = run(
            self._model,
            self.architecture,
            given,
            lengths=ends,
            reset=cut,
            candidates=mixed,
            threads=self.threads,
        )
        return y[0] if single else y

    def stream(self) -> Stream:
        """Begin a stream.

        Raises:
            InputError: the model cannot go step by step; the text says which block is in the way.
        """
        self._check_steps()
        return Stream(self._model, *self._sizes(), self._identity)

    def streams(self, capacity: int) -> Pool:
        """Make room for many streams that step together.

        Args:
            capacity: the most streams at once, 1 or more.

        Raises:
            InputError: the model cannot go step by step, or the capacity is out of range.
        """
        self._check_steps()
        return Pool(self._model, self._sizes(), _count("capacity", capacity), self.threads, self._identity)

    @property
    def packed_bytes(self) -> int:
        """The memory of the weights, as the core reads them."""
        return 4 * self._model.packed_size

    def _sizes(self) -> tuple[int, int]:
        return self.architecture[0].input_size or 0, self.architecture[-1].output_size

    def _check_steps(self) -> None:
        if why := self._model.whole_only:
            raise InputError(f"this model cannot go step by step: {why}. Use run().")

    def _inputs(self, x: ArrayLike) -> tuple[NDArray[Any], bool]:
        """The inputs with their batch, of the dtype that the core reads, and whether they were a single sequence."""
        first, given = self.architecture[0], array("x", x)
        width = first.input_size
        axes, dims = ("[B, T, D] or [T, D]", 3) if width else ("[B, T] or [T]", 2)
        if given.ndim not in (dims, dims - 1):
            raise InputError(f"x must have the dimensions {axes}, got {list(given.shape)}.")
        single = given.ndim == dims - 1
        given = given[None] if single else given
        if isinstance(first, Embedding):
            whole = int64("x", given)
            if given.size and not (given.min() >= 0 and given.max() < first.num_embeddings):
                raise InputError(f"x must be from 0 to {first.num_embeddings - 1}, got {given.min()} to {given.max()}.")
            return whole, single
        if given.shape[-1] != width:
            raise InputError(f"x must have {width} features, got {given.shape[-1]} ({list(given.shape)}).")
        return float32("x", given), single

    def _lengths(self, lengths: Sequence[int] | NDArray[Any], rows: int, steps: int) -> NDArray[np.int64]:
        if self._mixes:
            raise InputError("lengths cannot go with a quantile mixture, which takes whole windows.")
        given = array("lengths", lengths)
        if given.shape != (rows,):
            raise InputError(f"lengths must be {rows} whole numbers, got an array of shape {list(given.shape)}.")
        given = int64("lengths", given)
        if ((given < 0) | (given > steps)).any():
            row = int(np.argmax((given < 0) | (given > steps)))
            raise InputError(f"lengths must be from 0 to T, {steps}; lengths[{row}] is {given[row]}.")
        return given

    def _reset(self, reset: ArrayLike, shape: tuple[int, int], single: bool) -> NDArray[np.bool_]:
        for block in self.architecture:
            if isinstance(block, Conv1d) and block.stride > 1:
                raise InputError("reset cannot go with a convolution that skips steps (stride > 1).")
        given = array("reset", reset)
        given = given[None] if single else given
        if given.dtype != np.bool_ or given.shape != shape:
            raise InputError(f"reset must be bool {list(shape)}, got {given.dtype} {list(given.shape)}.")
        return given

    def _candidates(self, candidates: ArrayLike, rows: int, steps: int, single: bool) -> Floats:
        given = array("candidates", candidates)
        given = given[None] if single else given
        ahead = given.shape[1] if given.ndim == 3 else 0
        for most, count in mixtures(self.architecture, steps, ahead):
            if given.ndim != 3 or (given.shape[0], given.shape[2]) != (rows, count) or ahead > most:
                raise InputError(
                    f"candidates must be [{rows}, T′, {count}] with T′ at most {most}, got {list(given.shape)}."
                )
        return float32("candidates", given)


_MOST = MappingProxyType({"threads": 1 << 12, "capacity": 1 << 30})
"""Far above what any machine has, and small enough that no product of sizes overflows."""


def _count(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST[name]:
        raise InputError(f"{name} must be a whole number from 1 to {_MOST[name]:,}, not {value!r}.")
    return value

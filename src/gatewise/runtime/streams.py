"""Models step by step: one stream, or a pool of them that step together."""

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gatewise import _native
from gatewise.errors import InputError
from gatewise.runtime.arrays import array, float32, int64
from gatewise.runtime.state import read_state, write_state

Floats = NDArray[np.float32]


class Stream(_native.Stream):
    """One stream of a model; made by ``Model.stream``.

    ``step(x, out=None)`` takes the inputs of one step, float32 [D] (for an embedding int64 [1]), and returns float32
    [O], in ``out`` if that is given: the same bits as the whole sequence gives. It raises TypeError or ValueError, with
    nothing changed, if an array is not of this dtype and shape, in one piece, or the token is out of range. Threads
    may share a stream; their steps then come one after the other.

    Example:
        >>> import tempfile
        >>> from gatewise import runtime
        >>> from gatewise.format import Lstm, ModelFile, save_model
        >>> block, path = Lstm(3, 4), tempfile.mkdtemp() + "/model.safetensors"
        >>> weights = {f"0.{name}": np.full(shape, 0.1, np.float32) for name, shape in block.shapes().items()}
        >>> save_model(ModelFile("demo", (block,), weights), path)
        >>> stream = runtime.load(path).stream()
        >>> y = stream.step(np.ones(3, np.float32))
        >>> saved = stream.state
        >>> after = stream.step(np.zeros(3, np.float32))
        >>> stream.state = saved
        >>> bool((stream.step(np.zeros(3, np.float32)) == after).all())
        True
    """

    def __init__(self, model: _native.Model, inputs: int, outputs: int, identity: str):
        super().__init__(model, inputs, partial(np.empty, outputs, np.float32))
        self._identity = identity
        self._sizes = (inputs, outputs)
        self._state_bytes = 4 * model.state_size

    def steps(self, x: ArrayLike, out: Floats | None = None) -> Floats:
        """Take several steps at once, at the price of the arithmetic alone.

        Args:
            x: numbers [N, D], or for an embedding whole numbers [N]. Computed in float32.
            out: float32 [N, O], in one piece, to write to, sharing no memory with x.

        Returns:
            [N, O], ``out`` if it was given: what N calls of ``step`` return.

        Raises:
            InputError: x is no array of such numbers.
            ValueError: an array has another shape, or a token is out of range.
            TypeError: ``out`` cannot be written to, or is not in one piece. Whatever is raised, no step was taken; but
                Ctrl-C comes between steps.
        """
        inputs, outputs = self._sizes
        given = _numbers(x, inputs)
        if out is None:
            out = np.empty((len(given), outputs), np.float32)
        self._steps(given, out, len(given))
        return out

    @property
    def state(self) -> bytes:
        """All that the stream remembers, as bytes of a fixed length; assign them to any stream of the same model.

        Raises:
            InputError: when assigned, if the bytes are not of this model, or damaged.
        """
        return write_state(self.read(), self._identity)

    @state.setter
    def state(self, data: bytes) -> None:
        self.write(read_state(data, self._identity, self._state_bytes))


class Pool:
    """Streams of one model that step together, any of them at a time; made by ``Model.streams``.

    Each has a slot, a whole number below the capacity, from ``open`` to ``close``. A stream's results do not depend on
    which others step with it. Threads may share a pool; their calls then come one after the other.

    Args:
        model: with its weights.
        sizes: D (0 for an embedding) and O.
        capacity: the most streams at once, 1 or more; their states are allocated now.
        threads: the most that a step uses.
        identity: the SHA-256 of the model file.
    """

    def __init__(self, model: _native.Model, sizes: tuple[int, int], capacity: int, threads: int, identity: str):
        self.capacity = capacity
        self._inputs, self._outputs = sizes
        self._identity = identity
        self._state_bytes = 4 * model.state_size
        self._pool = _native.Pool(model, self._inputs, capacity, threads)

    def __len__(self) -> int:
        """The streams that are open."""
        return self._pool.live()

    def open(self, state: bytes | None = None) -> int:
        """Begin a stream and return its slot.

        Args:
            state: of a stream of the same model (``Stream.state``, ``snapshot``) that goes on here; None begins anew.

        Raises:
            InputError: all slots are taken, or the state does not fit.
        """
        values = None if state is None else read_state(state, self._identity, self._state_bytes)
        slot = self._pool.open(values)
        if slot is None:
            raise InputError(f"all {self.capacity:,} streams of the pool are open: close one, or make a larger pool.")
        return slot

    def close(self, slot: int) -> None:
        """End a stream; its slot is free for another.

        Raises:
            InputError: the slot is not open.
        """
        if not self._pool.close(self._slot(slot)):
            raise InputError(f"slot {slot} is not open.")

    def snapshot(self, slot: int) -> bytes:
        """Return all that a stream remembers, as ``Stream.state`` does.

        Raises:
            InputError: the slot is not open.
        """
        values = self._pool.snapshot(self._slot(slot))
        if values is None:
            raise InputError(f"slot {slot} is not open.")
        return write_state(values, self._identity)

    def step(self, slots: Sequence[int] | NDArray[Any], x: ArrayLike, out: Floats | None = None) -> Floats:
        """Step some of the streams, each by one step.

        Args:
            slots: [N] of open streams, each once, in any order.
            x: numbers [N, D], or for an embedding whole numbers [N]: row i is for slots[i]. Computed in float32.
            out: float32 [N, O], in one piece, to write to, sharing no memory with x.

        Returns:
            [N, O], ``out`` if it was given.

        Raises:
            InputError: a slot is not open or comes twice, or slots or x are not such numbers.
            ValueError: an array has another shape, or a token is out of range.
            TypeError: ``out`` cannot be written to, or is not in one piece. Whatever is raised, no stream has stepped.
        """
        places = np.ascontiguousarray(int64("slots", array("slots", slots)))
        given = _numbers(x, self._inputs)
        if out is None:
            out = np.empty((places.size, self._outputs), np.float32)
        wrong = self._pool.step(places, given, out, places.size)
        if wrong >= 0:
            slot = places[wrong]
            twice = slot in places[:wrong]
            raise InputError(f"slots[{wrong}] is {slot}, which {'comes twice' if twice else 'is not open'}.")
        return out

    def _slot(self, slot: object) -> int:
        if isinstance(slot, bool) or not isinstance(slot, (int, np.integer)) or not 0 <= slot < self.capacity:
            raise InputError(f"slot must be a whole number from 0 to {self.capacity - 1}, not {slot!r}.")
        return int(cast("int", slot))


def _numbers(x: ArrayLike, inputs: int) -> NDArray[Any]:
    """The inputs of steps, in one piece, of the dtype that the core reads."""
    given = array("x", x)
    if not given.ndim:
        raise InputError(f"x must have one entry for each step, got {x!r} alone.")
    return np.ascontiguousarray(float32("x", given) if inputs else int64("x", given))

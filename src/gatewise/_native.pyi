"""The compiled core (csrc/bindings.cc). Addresses are not checked here: gatewise.ops does that."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, dtype

class Layer:
    """What a layer computes: csrc/layer.h."""

class Tape:
    """What forward kept for backward."""

class Tapes:
    """What forward kept for backward of each member of an ensemble."""

class Torch:
    """How torch's tensors are read and made: csrc/tensor.h."""

class Kept:
    """What a stack's forward kept for its backward."""

class Pieces:
    """The lengths and the resets of a call's rows."""

class Stack:
    """The layers of a module as one call: csrc/stack.h. Tensors given are x, the initial states and the weights."""

    def __init__(
        self,
        torch: Torch,
        layers: Sequence[Layer],
        directions: int,
        step: bool,
        places: Sequence[int],
        names: tuple[str, ...],
        shapes: Sequence[Sequence[int]],
    ) -> None: ...
    def cut(self, lengths: object, reset: object, batch_first: bool) -> Pieces | None:
        """Copy lengths and resets; None if they are not what csrc/stack.h says."""

    def gather(
        self,
        parameters: Mapping[str, Tensor | None],
        x: object,
        states: object,
        batch_first: bool,
        pieces: Pieces | None,
        autocast: bool,
    ) -> tuple[tuple[Tensor, ...], bool] | None:
        """Return the tensors of a call and whether one requires a gradient; None if the call does not fit."""

    def infer(
        self,
        parameters: Mapping[str, Tensor | None],
        x: object,
        states: object,
        batch_first: bool,
        pieces: Pieces | None,
        autocast: bool,
        threads: int,
    ) -> tuple[Tensor, ...] | None:
        """Gather and run the layers where nobody wants a gradient; None as from ``gather``."""

    def forward(
        self,
        given: tuple[Tensor, ...],
        batch_first: bool,
        pieces: Pieces | None,
        autocast: bool,
        keep: str,
        threads: int,
    ) -> tuple[tuple[Tensor, ...], Kept | None]:
        """Run the layers on what was gathered: the results, and what is kept unless ``keep`` is "nothing".

        Of bfloat16, and under autocast, nothing is kept.
        """

    def backward(
        self,
        kept: Kept,
        saved: tuple[Tensor, ...],
        wanted: tuple[bool, ...],
        gradients: tuple[Tensor | None, ...],
        threads: int,
    ) -> tuple[Tensor | None, ...] | None:
        """Return the gradients, or None if one given or a saved tensor (the first result, then ``given``) is unfit."""

def torch(
    exchange: object,
    kinds: tuple[type[Tensor], type[Tensor]],
    kept: int,
    empty: Callable[[Sequence[int], dtype], Tensor],
    half: dtype,
    dense: Callable[[Tensor], Tensor],
) -> Torch | None:
    """Read tensors of these two types through DLPack's exchange, a capsule; None if that is None or too new.

    ``half`` is the dtype to ask ``empty`` for where results are bfloat16.
    """

def available_isas() -> list[str]:
    """Return the instruction sets built in and supported by this CPU, the best first."""

def isa() -> str:
    """Return the instruction set in use; ValueError if GATEWISE_ISA names one that is not available."""

def use_isa(name: str) -> None:
    """Use an instruction set from now on, in all threads; ValueError if it is not available. For tests."""

def multiplies_bfloat16() -> bool:
    """Return whether the instruction set in use has products of bfloat16, which ``forward_narrow`` takes."""

def team() -> str:
    """Return whose threads do the work: "libgomp" or "own", or "none" after a fork."""

def layer(
    inputs: int,
    hidden: int,
    update: str,
    gates: Sequence[Sequence[str]],
    output: str,
    seen: Sequence[str],
    bias: bool,
    layer_norm: bool,
    clip: float | None,
    projected: int,
    beside: int,
) -> Layer:
    """Describe a layer; gates in the order of their rows, then the others, each (name, kind, squash, peep)."""

def empty(count: int) -> NDArray[np.float32]:
    """Return floats that are not initialised, in memory that is kept and used again when the array goes."""

def empty_double(count: int) -> NDArray[np.float64]:
    """``empty`` of float64."""

def forward(
    layer: Layer,
    weights: Sequence[int],
    reverse: bool,
    call: Sequence[int],
    state: Sequence[int],
    start: Sequence[int],
    final: Sequence[int],
    trace: Sequence[int],
    keep: str,
    threads: int,
) -> Tape | None:
    """Run a layer in one direction: csrc/engine.h. 0 is no tensor; strides in elements; releases the GIL."""

forward_double = forward
"""``forward`` of float64."""

forward_narrow = forward
"""``forward`` with products of bfloat16, of float32 tensors; ValueError without them, or if anything is to be kept."""

def backward(
    layer: Layer,
    tape: Tape,
    weights: Sequence[int],
    reverse: bool,
    call: Sequence[int],
    state: Sequence[int],
    start: Sequence[int],
    gradient_call: Sequence[int],
    dfinal: Sequence[int],
    dtrace: Sequence[int],
    dstate: Sequence[int],
    dstart: Sequence[int],
    dweights: Sequence[int],
    threads: int,
) -> None:
    """Compute the gradients of the run that kept the tape, of its type: csrc/engine.h."""

def forward_members(
    layer: Layer,
    count: int,
    weights: Sequence[int],
    reverse: bool,
    call: Sequence[int],
    state: Sequence[int],
    start: Sequence[int],
    final: Sequence[int],
    trace: Sequence[int],
    keep: str,
    threads: int,
) -> Tapes:
    """Run a layer for each member: csrc/members.h.

    Each list is that of ``forward``, and once more behind it what is to be added to get from one member to the next.
    """

forward_members_double = forward_members
"""``forward_members`` of float64."""

def backward_members(
    layer: Layer,
    tapes: Tapes,
    weights: Sequence[int],
    reverse: bool,
    call: Sequence[int],
    state: Sequence[int],
    start: Sequence[int],
    gradient_call: Sequence[int],
    dfinal: Sequence[int],
    dtrace: Sequence[int],
    dstate: Sequence[int],
    dstart: Sequence[int],
    dweights: Sequence[int],
    samples: int,
    dweights_step: Sequence[int],
    threads: int,
) -> None:
    """Compute the gradients of ``forward_members``'s run; those of the weights by samples, or 0 for one sum."""

def math(name: str, source: int, target: int, count: int, isa: str | None = None) -> None:
    """Apply exp, sigmoid or tanh to an array of float32."""

math_double = math
"""``math`` of float64."""

class Model:
    """A model's blocks: csrc/executor.h. Addresses are not checked; 0 is none."""

    isa: str
    packed_size: int
    state_size: int
    whole_only: str | None

    def add_recurrent(
        self,
        layers: Sequence[Layer],
        directions: int,
        residual: bool,
        learned: bool,
        halved: bool,
        kinds: Sequence[int],
    ) -> None: ...
    def add_embedding(self, count: int, width: int) -> None: ...
    def add_linear(self, inputs: int, outputs: int) -> None: ...
    def add_layer_norm(self, width: int, eps: float) -> None: ...
    def add_convolution(
        self, inputs: int, outputs: int, kernel: int, stride: int, dilation: int, causal: bool
    ) -> None: ...
    def add_scaling(self, width: int, inverse: bool) -> None: ...
    def add_mixture(self, candidates: int, quantiles: int) -> None: ...
    def pack(self, weights: Sequence[int], to: int) -> None:
        """Pack the weights of all blocks into ``packed_size`` floats."""

    def bind(self, packed: int, owner: object) -> None:
        """Use packed weights from now on, which ``owner`` keeps."""

    def begin(self, states: int, rows: int) -> None:
        """Write the states that rows begin with: ``state_size`` floats for each."""

    def run(
        self,
        steps: int,
        rows: int,
        x: int,
        tokens: int,
        lengths: int,
        reset: int,
        candidates: int,
        candidate_steps: int,
        states: int,
        y: int,
        threads: int,
    ) -> None:
        """Run whole sequences, everything dense and time-major; releases the GIL."""

class SharedSum:
    """Sums over processes that share memory: csrc/shared_sum.cc."""

    def __init__(self, memory: int, bytes: int, rank: int, size: int) -> None: ...
    def put(self, source: int, bytes: int) -> None:
        """Begin a turn with the values of this process."""

    def missing(self, seconds: float) -> int | None:
        """Wait for all to have begun it; one that has not after so long."""

    def sum_float32(self, target: int, count: int) -> None:
        """Add up the values of all, once none is missing."""

    def sum_float64(self, target: int, count: int) -> None:
        """The same of float64."""

class Stream:
    """One stream of a model; what it is given is checked."""

    def __init__(self, model: Model, inputs: int, make: Callable[[], NDArray[np.float32]]) -> None: ...
    def step(self, x: NDArray[Any], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]: ...
    def _steps(self, x: NDArray[Any], out: NDArray[np.float32], count: int) -> None: ...
    def reset(self) -> None:
        """Begin anew."""

    def read(self) -> bytes: ...
    def write(self, values: bytes) -> None: ...

class Pool:
    """Streams of a model that step together; what it is given is checked."""

    def __init__(self, model: Model, inputs: int, capacity: int, threads: int) -> None: ...
    def open(self, state: bytes | None) -> int | None: ...
    def close(self, slot: int) -> bool: ...
    def snapshot(self, slot: int) -> bytes | None: ...
    def live(self) -> int: ...
    def step(self, slots: NDArray[np.int64], x: NDArray[Any], out: NDArray[np.float32], rows: int) -> int:
        """Step; or return the place of a slot that is not open or comes twice, else -1."""

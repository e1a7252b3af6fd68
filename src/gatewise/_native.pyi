"""The compiled core (csrc/bindings.cc). Addresses are not checked here: gatewise.ops does that."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

class Layer:
    """What a layer computes: csrc/layer.h."""

class Tape:
    """What forward kept for backward."""

def available_isas() -> list[str]:
    """Return the instruction sets built in and supported by this CPU, the best first."""

def isa() -> str:
    """Return the instruction set in use; ValueError if GATEWISE_ISA names one that is not available."""

def use_isa(name: str) -> None:
    """Use an instruction set from now on, in all threads; ValueError if it is not available. For tests."""

def team() -> str:
    """Return whose threads do the work: "libgomp" or "own"."""

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
    """Run a layer in one direction: csrc/engine.h. 0 is no tensor; strides in floats; releases the GIL."""

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
    """Compute the gradients of ``forward``'s run: csrc/engine.h."""

def math(name: str, source: int, target: int, count: int, isa: str | None = None) -> None:
    """Apply exp, sigmoid or tanh to an array of float32."""

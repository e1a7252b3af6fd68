"""Turns, medians and the check of results."""

import gc
import math
import resource
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from time import perf_counter, process_time, sleep
from types import MappingProxyType
from typing import NamedTuple, Protocol

import torch

from bench.problem import Results

_MOST = 2000  # calls in a turn
_PAUSE = 0.002  # seconds: other engines' threads stop waiting for work
_LONG = 0.05  # seconds: a longer call needs no other to warm up


class Turn(NamedTuple):
    """One engine's part of a round, by the call.

    Attributes:
        seconds: in the engine.
        around: in the engine and in torch's operators around it.
        faults: page faults, those of torch's operators too.
        cores: processors in use.
    """

    seconds: float
    around: float
    faults: float
    cores: float


class Timed(Protocol):
    """What can be measured: ``step`` computes once and returns the seconds that it took."""

    @property
    def threads(self) -> int: ...
    def step(self) -> float: ...


def take_turn(engine: Timed, calls: int, *, warm: bool) -> Turn:
    """Let an engine compute a number of times."""
    torch.set_num_threads(engine.threads)
    sleep(_PAUSE)
    if warm:
        engine.step()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    begin, begin_cpu, seconds = perf_counter(), process_time(), 0.0
    for _ in range(calls):
        seconds += engine.step()
    around, cores = perf_counter() - begin, process_time() - begin_cpu
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    return Turn(seconds / calls, around / calls, faults / calls, cores / around)


def take_turns(engines: Mapping[str, Timed], rounds: int, seconds: float) -> dict[str, list[Turn]]:
    """Let engines take turns: in each round every one, in reversed order every second time.

    Args:
        engines: the engines by name.
        rounds: how many.
        seconds: how long a turn lasts at least.
    """
    plan: dict[str, tuple[int, bool]] = {}
    turns: dict[str, list[Turn]] = {name: [] for name in engines}
    gc.disable()
    try:
        for name, engine in engines.items():
            first = take_turn(engine, 1, warm=True).around
            calls = 1 if first > seconds else min(_MOST, math.ceil(seconds / first))
            plan[name] = (calls, first < _LONG)
        for number in range(rounds):
            for name in reversed(list(engines)) if number % 2 else list(engines):
                calls, warm = plan[name]
                turns[name].append(take_turn(engines[name], calls, warm=warm))
    finally:
        gc.enable()
    return turns


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def medians(turns: Sequence[Turn]) -> dict[str, float]:
    """Return the medians of the turns, by field."""
    return {field: statistics.median(getattr(turn, field) for turn in turns) for field in Turn._fields}


class Check:
    """Whether results are equal: within the dtype's rounding of the peer's or of the truth, or as exact as torch's own.

    Args:
        own: computes the results of torch's own operators in the problem's dtype.
        truth: computes them in float64. Both are called only if needed.
    """

    # By dtype. In float64 the truth is as inexact as the peer, so there this decides.
    CLOSE: Mapping[torch.dtype, float] = MappingProxyType({torch.float32: 1e-6, torch.float64: 1e-14})
    FACTOR = 2
    # A peer's rounding is its own affair; but it must compute the same thing.
    SAME = 1e-3

    def __init__(self, own: Callable[[], Results], truth: Callable[[], Results]):
        self._own, self._truth = cache(own), cache(truth)

    def differing(self, ours: Results, theirs: Results | None = None) -> str:
        """Say what differs, nothing if all is well; without a peer's results ours are compared with torch's own."""
        if theirs is None:
            theirs = self._own()
        if ours.keys() != theirs.keys():
            return f"results are {', '.join(ours)}, the peer's {', '.join(theirs)}"
        said = (self._differing(name, ours, theirs) for name in ours)
        return "; ".join(sentence for sentence in said if sentence)

    def _differing(self, name: str, ours: Results, theirs: Results) -> str:
        if ours[name].shape != theirs[name].shape:
            return f"{name} is {list(ours[name].shape)}, the peer's {list(theirs[name].shape)}"
        close = self.CLOSE[ours[name].dtype]
        if _distance(ours, theirs, name) <= close * max(1.0, _size(theirs, name)):
            return ""
        own, truth = self._own(), self._truth()
        bound = max(self.FACTOR * _distance(own, truth, name), close * max(1.0, _size(truth, name)))
        error = _distance(ours, truth, name)
        if not error <= bound:
            return f"{name} is off by {error:.1e}, at most {bound:.1e} allowed"
        error, bound = _distance(theirs, truth, name), self.SAME * max(1.0, _size(truth, name))
        if not error <= bound:
            return f"the peer's {name} is off by {error:.1e}"
        return ""


def _distance(a: Results, b: Results, name: str) -> float:
    return (a[name].double() - b[name].double()).abs().max().item()


def _size(results: Results, name: str) -> float:
    return results[name].abs().max().item()

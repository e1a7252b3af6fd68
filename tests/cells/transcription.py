"""Every cell written once more, from variants.md and the papers alone: NumPy, one loop over time, nothing of gatewise.

Everything takes complex numbers as well, so that a derivative can be had by a complex step: Im f(x + jε) / ε. (NumPy
compares complex numbers by their real parts first, which is what a maximum or a clip needs there.)
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Values = dict[str, Array]

# The gates with weights of their own, in the order of their rows; the others have all four.
LEARNED = {"rnn": "g", "rnn-relu": "g", "lstm-1997": "igo", "nig": "fgo", "nfg": "igo", "nog": "ifg", "cifg": "igo"}
# What a cell carries from step to step; the others carry h and c.
STATES = {"rnn": "h", "rnn-relu": "h", "slstm": "hcnm", "fgr": "hcifo"}


def learned_gates(cell: str) -> str:
    return LEARNED.get(cell, "ifgo")


def state_names(cell: str) -> str:
    return STATES.get(cell, "hc")


def sigma(x: Array) -> Array:
    # Only exp of something not above zero, which cannot overflow.
    small = np.exp(np.where(np.real(x) > 0, -x, x))
    return np.where(np.real(x) > 0, 1, small) / (1 + small)


def log_sigma(x: Array) -> Array:
    return np.minimum(x, 0) - np.log1p(np.exp(np.where(np.real(x) > 0, -x, x)))


def normalize(x: Array) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)


@dataclass(frozen=True)
class Step:
    """One step's pre-activations: v("i", c) is the input gate's, its peephole looking at c."""

    learned: str
    x: Array
    before: Values
    weights: Values
    clip: float | None

    def __call__(self, gate: str, c: Array | None = None) -> Array:
        v = np.split(self._rows(), len(self.learned), axis=-1)[self.learned.index(gate)]
        if c is not None and "weight_peephole" in self.weights:
            v = v + self._peephole(gate) * c
        if gate in "ifo" and "weight_gates" in self.weights:
            v = v + self._gates_before(gate)
        return v if self.clip is None else np.clip(v, -self.clip, self.clip)

    def normalize_cell(self, c: Array) -> Array:
        if "weight_ln_cell" not in self.weights:
            return c
        return normalize(c) * self.weights["weight_ln_cell"] + self.weights["bias_ln_cell"]

    def _rows(self) -> Array:
        from_x, from_h = self.x @ self.weights["weight_ih"].T, self.before["h"] @ self.weights["weight_hh"].T
        if "weight_ln_ih" in self.weights:
            from_x, from_h = normalize(from_x) * self.weights["weight_ln_ih"], normalize(from_h)
            from_h = from_h * self.weights["weight_ln_hh"]
        return from_x + from_h + self.weights.get("bias_ih", 0) + self.weights.get("bias_hh", 0)

    def _peephole(self, gate: str) -> Array:
        peeping = [name for name in "ifo" if name in self.learned]
        return np.split(self.weights["weight_peephole"], len(peeping))[peeping.index(gate)]

    def _gates_before(self, gate: str) -> Array:
        R = np.split(self.weights["weight_gates"], 3)["ifo".index(gate)]
        R_i, R_f, R_o = np.split(R, 3, axis=1)
        return self.before["i"] @ R_i.T + self.before["f"] @ R_f.T + self.before["o"] @ R_o.T


# Each cell returns its gates, its states but h, and `out`: its output before any projection.


def rnn(v: Step, before: Values) -> Values:
    g = np.tanh(v("g"))
    return {"g": g, "out": g}


def rnn_relu(v: Step, before: Values) -> Values:
    g = np.maximum(v("g"), 0)
    return {"g": g, "out": g}


def lstm(v: Step, before: Values) -> Values:
    # np has the same equations, peephole adds the peepholes, fgr the gates of the step before.
    i, f, g = sigma(v("i", before["c"])), sigma(v("f", before["c"])), np.tanh(v("g"))
    c = f * before["c"] + i * g
    o = sigma(v("o", c))
    return {"i": i, "f": f, "g": g, "o": o, "c": c, "out": o * np.tanh(v.normalize_cell(c))}


def lstm_1997(v: Step, before: Values) -> Values:
    i, g = sigma(v("i", before["c"])), 4 * sigma(v("g")) - 2
    c = before["c"] + i * g
    o = sigma(v("o", c))
    return {"i": i, "g": g, "o": o, "c": c, "out": o * (2 * sigma(v.normalize_cell(c)) - 1)}


def nig(v: Step, before: Values) -> Values:
    f, g = sigma(v("f", before["c"])), np.tanh(v("g"))
    c = f * before["c"] + g
    o = sigma(v("o", c))
    return {"f": f, "g": g, "o": o, "c": c, "out": o * np.tanh(v.normalize_cell(c))}


def nfg(v: Step, before: Values) -> Values:
    i, g = sigma(v("i", before["c"])), np.tanh(v("g"))
    c = before["c"] + i * g
    o = sigma(v("o", c))
    return {"i": i, "g": g, "o": o, "c": c, "out": o * np.tanh(v.normalize_cell(c))}


def nog(v: Step, before: Values) -> Values:
    i, f, g = sigma(v("i", before["c"])), sigma(v("f", before["c"])), np.tanh(v("g"))
    c = f * before["c"] + i * g
    return {"i": i, "f": f, "g": g, "c": c, "out": np.tanh(v.normalize_cell(c))}


def niaf(v: Step, before: Values) -> Values:
    i, f, g = sigma(v("i", before["c"])), sigma(v("f", before["c"])), v("g")
    c = f * before["c"] + i * g
    o = sigma(v("o", c))
    return {"i": i, "f": f, "g": g, "o": o, "c": c, "out": o * np.tanh(v.normalize_cell(c))}


def noaf(v: Step, before: Values) -> Values:
    i, f, g = sigma(v("i", before["c"])), sigma(v("f", before["c"])), np.tanh(v("g"))
    c = f * before["c"] + i * g
    o = sigma(v("o", c))
    return {"i": i, "f": f, "g": g, "o": o, "c": c, "out": o * v.normalize_cell(c)}


def cifg(v: Step, before: Values) -> Values:
    i, g = sigma(v("i", before["c"])), np.tanh(v("g"))
    f = 1 - i
    c = f * before["c"] + i * g
    o = sigma(v("o", c))
    return {"i": i, "f": f, "g": g, "o": o, "c": c, "out": o * np.tanh(v.normalize_cell(c))}


def slstm(v: Step, before: Values) -> Values:
    m_before = np.where(before["n"] == 0, -np.inf, before["m"])
    log_i, log_f, z, o = v("i"), log_sigma(v("f")), np.tanh(v("g")), sigma(v("o"))
    m = np.maximum(log_f + m_before, log_i)
    i, f = np.exp(log_i - m), np.exp(log_f + m_before - m)
    c, n = f * before["c"] + i * z, f * before["n"] + i
    return {"i": i, "f": f, "g": z, "o": o, "c": c, "n": n, "m": m, "out": o * c / n}


CELLS = {
    "rnn": rnn,
    "rnn-relu": rnn_relu,
    "lstm": lstm,
    "lstm-1997": lstm_1997,
    "peephole": lstm,
    "nig": nig,
    "nfg": nfg,
    "nog": nog,
    "niaf": niaf,
    "noaf": noaf,
    "cifg": cifg,
    "np": lstm,
    "fgr": lstm,
    "slstm": slstm,
}


@dataclass(frozen=True)
class Layer:
    """One layer in one direction; `zoneout` is the pair for h and c, as its expectation."""

    cell: str
    weights: Values
    clip: float | None = None
    zoneout: tuple[float, float] = (0.0, 0.0)

    def step(self, x: Array, before: Values) -> tuple[Array, Values]:
        new = CELLS[self.cell](Step(learned_gates(self.cell), x, before, self.weights, self.clip), before)
        out = new.pop("out")
        new["h"] = out @ self.weights["weight_hr"].T if "weight_hr" in self.weights else out
        for name, probability in zip("hc", self.zoneout, strict=True):
            if name in new:
                new[name] = before[name] + (1 - probability) * (new[name] - before[name])
        beside = [out @ self.weights["weight_hp"].T] if "weight_hp" in self.weights else []
        return np.concatenate([new["h"], *beside], axis=-1), new

    def run(self, x: Array, state: Values, reverse: bool) -> tuple[Array, Values, Values]:
        outputs, steps = [], []
        for t in reversed(range(len(x))) if reverse else range(len(x)):
            y, new = self.step(x[t], state)
            state = {name: new[name] for name in state_names(self.cell)}
            outputs.append(y)
            steps.append(new)
        order = -1 if reverse else 1
        trace = {name: np.stack([new[name] for new in steps[::order]]) for name in steps[0]}
        return np.stack(outputs[::order]), state, trace


def network(
    cell: str,
    x: Array,
    states: Values,
    weights: Values,
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    residual: bool = False,
    clip: float | None = None,
    zoneout: tuple[float, float] = (0.0, 0.0),
) -> tuple[Array, Values, list[Values]]:
    """Return the output, the final states [L*S, B, ·] and the trace of each layer and direction."""
    finals, traces = [], []
    for k in range(num_layers):
        outputs = []
        for direction in ("", "_reverse") if bidirectional else ("",):
            suffix = f"_l{k}{direction}"
            own = {name.removesuffix(suffix): value for name, value in weights.items() if name.endswith(suffix)}
            start = {name: value[len(finals)] for name, value in states.items()}
            y, final, trace = Layer(cell, own, clip, zoneout).run(x, start, bool(direction))
            outputs.append(y)
            finals.append(final)
            traces.append(trace)
        y = np.concatenate(outputs, axis=-1)
        x = y + x if residual and k >= 2 else y
    return x, {name: np.stack([final[name] for final in finals]) for name in states}, traces

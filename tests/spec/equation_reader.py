"""Reads the text equations of a variant and computes with them in NumPy: they are held to be the definition.

A line is ``name = expression`` or ``name = expression where name = number``. Here the notation is known, and no cell.
"""

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Values = dict[str, Array]

TOKEN = re.compile(
    r"\s*(?P<token>tanh|exp|log|max|relu|clip|where|LN|[WUbpRγβv]_\w+|(?:[if]̃|ĩ|[a-zWUb])₋?"
    r"|\d[\d.]*(?:e[+-]\d+)?|[σ⊙∗+−/()=,;±∞])"
)
FUNCTIONS: Mapping[str, Callable[[Array], Array]] = {
    "σ": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "exp": np.exp,
    "log": np.log,
    "relu": lambda x: np.maximum(x, 0),
}


def tokens(line: str) -> list[str]:
    found, end = [], 0
    while end < len(line):
        match = TOKEN.match(line, end)
        assert match, f"{line[end:]!r} in {line!r}"
        found.append(match["token"])
        end = match.end()
    return found


def layer_norm(x: Array, scale: Array, shift: Array | float) -> Array:
    centred = x - x.mean(1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5) * scale + shift


def convolve(x: Array, kernel: Array) -> Array:
    """Correlate images [B, D, Y, X] with kernels [H, D, odd, odd], keeping their size, as networks do."""
    height, width = kernel.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (height // 2,) * 2, (width // 2,) * 2))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), (2, 3))
    return np.einsum("bdyxij,hdij->bhyx", windows, kernel)


class Line:
    """One line, computed while it is read."""

    def __init__(self, line: str, values: Mapping[str, Array]):
        self.rest = tokens(line)
        self.values = values

    def take(self, *expected: str) -> str:
        token = self.rest.pop(0)
        assert not expected or token in expected, f"{token!r}, not {expected}"
        return token

    def next_is(self, *words: str) -> bool:
        return bool(self.rest) and self.rest[0] in words

    def equation(self) -> tuple[str, Array]:
        name = self.take()
        self.take("=")
        value = self.sum()
        if self.next_is("where"):
            self.take()
            other = self.values[self.take()]
            self.take("=")
            value = np.where(other == float(self.take()), value, self.values[name])
        assert not self.rest, self.rest
        return name, value

    def sum(self) -> Array:
        value = -self.product() if self.next_is("−") and self.take() else self.product()
        while self.next_is("+", "−"):
            value = value + self.product() if self.take() == "+" else value - self.product()
        return value

    def product(self) -> Array:
        value = self.factor()
        while self.next_is("⊙", "/"):
            value = value * self.factor() if self.take() == "⊙" else value / self.factor()
        return value

    def factor(self) -> Array:
        token = self.take()
        if token[0].isdigit():
            value = np.array(float(token))
            return value * self.factor() if self.next_is("σ") else value
        if token == "(":
            value = self.sum()
            self.take(")")
            return value
        if token in FUNCTIONS:
            return FUNCTIONS[token](self.factor())
        if token in {"max", "clip", "LN"}:
            return self.call(token)
        return self.weighed(self.values[token]) if token[0] in "WUR" else self.values[token]

    def weighed(self, weight: Array) -> Array:
        if not self.next_is("∗"):
            return self.values[self.take()] @ weight.T
        self.take()
        return convolve(self.values[self.take()], weight)

    def call(self, function: str) -> Array:
        self.take("(")
        value = self.sum()
        if function == "LN":
            self.take(";")
            scale, shift = self.sum(), 0.0
            if self.next_is(","):
                self.take()
                shift = self.sum()
            value = layer_norm(value, scale, shift)
        else:
            self.take(",")
            if function == "max":
                value = np.maximum(value, self.sum())
            else:
                self.take("±")
                bound = float(self.take())
                value = np.minimum(np.maximum(value, -bound), bound)
        self.take(")")
        return value


def compute(lines: Sequence[str], values: Mapping[str, Array], rows: Sequence[str]) -> Values:
    """Compute line after line; ``rows`` are the gates whose rows a stacked v has, in order."""
    known = {"∞": np.array(np.inf), **values}
    for line in lines:
        name, value = Line(line, known).equation()
        known[name] = value
        if name == "v":
            known |= {f"v_{gate}": part for gate, part in zip(rows, np.split(value, len(rows), 1), strict=True)}
    return known

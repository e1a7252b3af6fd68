"""One cell with random weights and states, run by gatewise and by the transcription."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import transcription
from torch import Tensor
from transcription import Array, Values, learned_gates, state_names

from gatewise import LSTM

CELLS = list(transcription.CELLS)
PLAIN = ["rnn", "rnn-relu", "slstm"]  # neither peepholes nor projections are defined for these
PEEPING = {"peephole", "nig", "nfg", "nog", "niaf", "noaf", "cifg", "fgr"}  # without being asked to


@dataclass(frozen=True)
class Problem:
    cell: str
    T: int = 4
    B: int = 3
    D: int = 5
    H: int = 7
    options: dict[str, Any] = field(default_factory=dict)

    def get(self, name: str) -> Any:
        return self.options.get(name, 0)

    @property
    def recurrent(self) -> int:
        return self.get("proj_size") or self.H

    @property
    def sides(self) -> int:
        return 2 if self.get("bidirectional") else 1

    @property
    def stacked(self) -> int:
        return self.sides * (self.get("num_layers") or 1)

    def state_shapes(self) -> dict[str, int]:
        return {name: self.recurrent if name == "h" else self.H for name in state_names(self.cell)}

    def parameter_shapes(self, D: int) -> dict[str, tuple[int, ...]]:
        """Return what one layer and direction must hold, from the interface alone."""
        H, R, rows = self.H, self.recurrent, len(learned_gates(self.cell)) * self.H
        peeping = len(set("ifo") & set(learned_gates(self.cell)))
        peephole = self.options.get("peephole")
        shapes: dict[str, tuple[int, ...] | None] = {
            "weight_ih": (rows, D),
            "weight_hh": (rows, R),
            "bias_ih": (rows,) if self.options.get("bias", True) else None,
            "bias_hh": (rows,) if self.options.get("bias", True) else None,
            "weight_hr": (R, H) if self.get("proj_size") else None,
            "weight_hp": (self.get("nonrecurrent_proj_size"), H) if self.get("nonrecurrent_proj_size") else None,
            "weight_peephole": (peeping * H,) if peephole or (peephole is None and self.cell in PEEPING) else None,
            "weight_gates": (3 * H, 3 * H) if self.cell == "fgr" else None,
        }
        if self.get("layer_norm"):
            shapes |= {"weight_ln_ih": (rows,), "weight_ln_hh": (rows,), "weight_ln_cell": (H,), "bias_ln_cell": (H,)}
        if self.get("learned_state"):
            shapes |= {f"{name}_0": (size,) for name, size in self.state_shapes().items()}
        return {name: shape for name, shape in shapes.items() if shape}

    def weights(self, scale: float = 0.8) -> Values:
        rng = np.random.default_rng([self.D, self.H])
        weights: Values = {}
        for index in range(self.stacked):
            k, side = divmod(index, self.sides)
            D = self.sides * (self.recurrent + self.get("nonrecurrent_proj_size")) if k else self.D
            for name, shape in self.parameter_shapes(D).items():
                weights[f"{name}_l{k}{'_reverse' * side}"] = rng.uniform(-scale, scale, shape)
        return weights

    def inputs(self) -> Array:
        return np.random.default_rng(self.T).uniform(-2, 2, (self.T, self.B, self.D))

    def states(self) -> Values:
        """Draw a state of every kind; slstm's normaliser is a sum of positive terms."""
        rng = np.random.default_rng(self.B)
        shapes = {name: (self.stacked, self.B, size) for name, size in self.state_shapes().items()}
        return {name: rng.uniform(0.5 if name == "n" else -1, 1.5, shape) for name, shape in shapes.items()}

    def zeros(self) -> Values:
        return {name: np.zeros((self.stacked, self.B, size)) for name, size in self.state_shapes().items()}

    def layer(self, weights: Values, dtype: torch.dtype = torch.float64, **more: Any) -> LSTM:
        """Build the module; names and shapes of its parameters must be those of `weights`."""
        layer = LSTM(self.D, self.H, dtype=dtype, cell=self.cell, **self.options, **more)
        layer.load_state_dict({name: torch.from_numpy(value).to(dtype) for name, value in weights.items()}, strict=True)
        return layer.eval()

    def transcribe(self, x: Array, states: Values, weights: Values) -> tuple[Array, Values, list[Values]]:
        known = ("num_layers", "bidirectional", "residual", "clip")
        options = {name: value for name, value in self.options.items() if name in known}
        zoneout = self.options.get("zoneout", 0.0)
        pair = zoneout if isinstance(zoneout, tuple) else (zoneout, zoneout)
        return transcription.network(self.cell, x, states, weights, zoneout=pair, **options)


def tensors(states: Values, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(value).to(dtype) for value in states.values())


def assert_close(ours: Tensor, theirs: Array, what: str, tolerance: float = 1e-12) -> None:
    got = ours.detach().numpy()
    assert got.shape == theirs.shape, what
    # Written so that a NaN fails.
    assert np.all(np.abs(got - theirs) <= tolerance * max(1.0, np.abs(theirs).max())), what


def assert_states_close(state: Any, reference: Values) -> None:
    assert state._fields == tuple(reference)
    for name, value in reference.items():
        assert_close(getattr(state, name), value, f"final {name}")


def assert_traces_close(traces: list[dict[str, Tensor]], reference: list[Values]) -> None:
    for index, (ours, theirs) in enumerate(zip(traces, reference, strict=True)):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert_close(ours[name], value, f"traced {name} of layer and direction {index}")


def assert_equals_transcription(problem: Problem, weights: Values, x: Array, states: Values | None) -> None:
    """Compare outputs, final states and traces, with and without a gradient."""
    layer, hx = problem.layer(weights), None if states is None else tensors(states)
    y, final, trace = problem.transcribe(x, problem.zeros() if states is None else states, weights)
    for gradient in (False, True):
        with torch.set_grad_enabled(gradient):
            output, state = layer(torch.from_numpy(x), hx)
            traced_output, traced_state, traces = layer(torch.from_numpy(x), hx, trace=True)
        for got, kept in ((output, state), (traced_output, traced_state)):
            assert_close(got, y, "output")
            assert_states_close(kept, final)
        assert_traces_close(traces, trace)

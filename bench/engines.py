"""The engines in terms of torch: ours, torch.nn.LSTM, a loop, its compilation.

Only the layer's own forward and backward are timed. Between them run, as in a real training step, a linear head, a
loss, its gradient and an update of the weights: they use torch's threads, and push the layer out of the caches.
"""

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import gatewise
from bench.cases import Problem
from bench.loop import loop
from bench.problem import Data, Results

Run = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
"""From x to y, and the final h and c, each [B, ·]."""

LOSSES = 30  # steps of a model's training that are compared
_RATE = 1e-12  # the weights are written to, yet stay what they are


class Engine(Protocol):
    """One way to compute a problem."""

    threads: int

    def step(self) -> float:
        """Compute once, with torch's operators around; return the seconds that the layer took."""
        ...

    def results(self) -> Results: ...


class Head:
    """What stands around the layer in a model."""

    def __init__(self, width: int, dtype: torch.dtype = torch.float32):
        self.linear = nn.Linear(width, 8, dtype=dtype)

    def loss(self, y: Tensor) -> Tensor:
        return (self.linear(y) - 0.1).square().mean()

    def gradient(self, y: Tensor) -> Tensor:
        leaf = y.detach().requires_grad_()
        self.linear.zero_grad()
        self.loss(leaf).backward()
        assert leaf.grad is not None
        return leaf.grad


class TorchEngine:
    """A function of torch tensors."""

    def __init__(self, problem: Problem, data: Data, weights: Mapping[str, nn.Parameter], run: Run, threads: int):
        self.threads = threads
        self.weights = weights
        self._run = run
        self._training = problem.training
        self._packing = None
        x, self._gy = data.x, data.gy
        if data.lengths is not None and isinstance(run, _Packed):
            packed = pack_padded_sequence(x, data.lengths, enforce_sorted=False)
            self._packing = run.packing = packed
            x = packed.data
            self._gy = pack_padded_sequence(data.gy, data.lengths, enforce_sorted=False).data
        self.x = x.detach().clone().requires_grad_(problem.training)
        self._head = Head(data.gy.shape[-1], data.gy.dtype)

    def step(self) -> float:
        if not self._training:
            with torch.no_grad():
                start = perf_counter()
                y = self._run(self.x)[0]
                spent = perf_counter() - start
                self._head.loss(y)
                return spent
        start = perf_counter()
        y = self._run(self.x)[0]
        spent = perf_counter() - start
        gradient = self._head.gradient(y)
        start = perf_counter()
        y.backward(gradient)
        spent += perf_counter() - start
        self.update()
        return spent

    def forward_backward(self) -> None:
        """Run the layer alone."""
        self._run(self.x)[0].backward(self._gy)

    def update(self) -> None:
        with torch.no_grad():
            for weight in self.weights.values():
                assert weight.grad is not None
                weight.add_(weight.grad, alpha=-_RATE)
        self.clear()

    def clear(self) -> None:
        for tensor in (self.x, *self.weights.values()):
            tensor.grad = None

    def results(self) -> Results:
        with torch.set_grad_enabled(self._training):
            y, h, c = self._run(self.x)
        found = {"y": self._unpacked(y), "h": h, "c": c}
        if self._training:
            y.backward(self._gy)
            assert self.x.grad is not None
            found["grad x"] = self._unpacked(self.x.grad)
            for kind, weight in self.weights.items():
                assert weight.grad is not None
                found[f"grad {kind}"] = weight.grad
            self.clear()
        return {name: value.detach() for name, value in found.items()}

    def _unpacked(self, flat: Tensor) -> Tensor:
        if self._packing is None:
            return flat
        return pad_packed_sequence(self._packing._replace(data=flat))[0]


class ModelEngine(TorchEngine):
    """Layers with a linear head and AdamW, as a training script has them: a step is timed from end to end.

    The results are the losses of the first steps. All start from the same weights.
    """

    def __init__(self, problem: Problem, data: Data, layers: nn.Module, threads: int):
        torch.manual_seed(0)  # drawn in float32 in any dtype
        layers.load_state_dict(nn.LSTM(problem.D, problem.H, problem.layers).state_dict())
        self._linear = nn.Linear(problem.H, 1).to(data.x.dtype)
        super().__init__(problem, data, dict(layers.named_parameters()), layers, threads)
        self._inputs, self._target = data.x, data.x[..., :1].cumsum(0).tanh()
        self._optimizer = torch.optim.AdamW([*layers.parameters(), *self._linear.parameters()])

    def step(self) -> float:
        start = perf_counter()
        self._advance()
        return perf_counter() - start

    def results(self) -> Results:
        return {"losses": torch.stack([self._advance() for _ in range(LOSSES)])}

    def _advance(self) -> Tensor:
        self._optimizer.zero_grad()
        loss = (self._linear(self._run(self._inputs)[0]) - self._target).square().mean()
        loss.backward()
        self._optimizer.step()
        return loss.detach()


class _Packed:
    """torch.nn.LSTM over a batch that was packed before."""

    def __init__(self, module: nn.LSTM):
        self.module = module
        self.packing: PackedSequence | None = None

    def __call__(self, flat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        assert self.packing is not None
        y, (h, c) = self.module(self.packing._replace(data=flat))
        return y.data, h[0], c[0]


def _fill(module: nn.Module, data: Data) -> dict[str, nn.Parameter]:
    module.load_state_dict({f"{kind}_l0": weight for kind, weight in data.weights.items()})
    return {name.removesuffix("_l0"): parameter for name, parameter in module.named_parameters()}


def gatewise_engine(problem: Problem, data: Data, threads: int, backend: str) -> TorchEngine:
    """Ours; raises gatewise.errors.InputError where the backend cannot serve."""
    keywords: dict[str, Any] = {"save": problem.save} if problem.save != "all" else {}
    layer = gatewise.LSTM(
        problem.D,
        problem.H,
        problem.layers,
        cell=problem.cell,
        layer_norm=problem.layer_norm,
        proj_size=problem.proj,
        dtype=data.x.dtype,
        backend=backend,
        **keywords,
    )
    if problem.layers > 1:
        return ModelEngine(problem, data, layer, threads)

    def run(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, (h, c, *_) = layer(x, lengths=data.lengths, reset=data.reset)
        return y, h[0], c[0]

    if data.lengths is None and data.reset is None:  # no keyword that nobody would write

        def run(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            y, (h, c, *_) = layer(x)
            return y, h[0], c[0]

    return TorchEngine(problem, data, _fill(layer, data), run, threads)


def torch_engine(problem: Problem, data: Data, threads: int) -> TorchEngine:
    """torch.nn.LSTM."""
    if not problem.vanilla:
        raise ValueError(f"torch.nn.LSTM does not compute {problem}")
    module = nn.LSTM(problem.D, problem.H, problem.layers, proj_size=problem.proj, dtype=data.x.dtype)
    if problem.layers > 1:
        return ModelEngine(problem, data, module, threads)
    weights = _fill(module, data)
    if data.lengths is not None:
        return TorchEngine(problem, data, weights, _Packed(module), threads)

    def run(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, (h, c) = module(x)
        return y, h[0], c[0]

    return TorchEngine(problem, data, weights, run, threads)


def loop_engine(problem: Problem, data: Data, threads: int, *, compiled: bool = False) -> TorchEngine:
    """A loop over torch's operators, as one writes it by hand."""
    variant = problem.variant
    weights = {kind: nn.Parameter(weight.clone()) for kind, weight in data.weights.items()}
    function = torch.compile(loop, fullgraph=True, dynamic=False) if compiled else loop
    return TorchEngine(problem, data, weights, lambda x: function(x, weights, variant), threads)


def truth(problem: Problem, data: Data, threads: int) -> Results:
    """The results in float64."""
    return yardstick(problem, data.double(), threads)


def yardstick(problem: Problem, data: Data, threads: int) -> Results:
    """The results of torch's own operators, in the data's dtype."""
    if problem.vanilla:
        return torch_engine(problem, data, threads).results()
    return gatewise_engine(problem, data, threads, "reference").results()

"""The engines that are not torch's: ONNX Runtime, JAX; and a matrix product, for the machine's rate.

Torch's operators run between their calls too, on one thread: a team of torch's waiting for work would only be in the
way of theirs.
"""

from importlib.util import find_spec
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.cases import Problem
from bench.engines import Head
from bench.problem import Data, Results

NEEDED = {"onnxruntime": ("onnx", "onnxruntime"), "jax": ("jax",)}
"""The packages that a peer needs."""


def missing(peer: str) -> str:
    """Return what has to be installed for a peer, nothing if all is there."""
    absent = [package for package in NEEDED.get(peer, ()) if find_spec(package) is None]
    return f"{', '.join(absent)} not installed" if absent else ""


class OnnxEngine:
    """A session of one LSTM node, its weights in the graph."""

    threads = 1

    def __init__(self, problem: Problem, data: Data, threads: int):
        import onnxruntime

        if problem.training or not problem.vanilla or problem.proj or problem.lengths:
            raise ValueError(f"no session is written for {problem}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        model = _model(problem, data)
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._feeds = {"X": data.x.numpy()}
        self._between = _Between(data)

    def step(self) -> float:
        start = perf_counter()
        self._session.run(None, self._feeds)
        spent = perf_counter() - start
        self._between()
        return spent

    def results(self) -> Results:
        y, h, c = (torch.from_numpy(part) for part in self._session.run(None, self._feeds))
        return {"y": y[:, 0], "h": h[0], "c": c[0]}


class JaxEngine:
    """A jitted scan; NPROC, which XLA reads when it starts, tells it its number of threads."""

    threads = 1

    def __init__(self, problem: Problem, data: Data, threads: int):
        import jax

        if not problem.vanilla or problem.proj or problem.lengths:
            raise ValueError(f"no scan is written for {problem}")
        self._training = problem.training
        kinds = list(data.weights)
        x, gy, *weights = (jax.numpy.asarray(tensor.numpy()) for tensor in (data.x, data.gy, *data.weights.values()))
        self._arguments: tuple[Any, ...] = (dict(zip(kinds, weights, strict=True)), x)
        self._wait = jax.block_until_ready
        function = _jax_layer
        if self._training:

            def loss(weights: Any, x: Any, gy: Any) -> tuple[Any, Any]:
                results = _jax_layer(weights, x)
                return (results[0] * gy).sum(), results

            function = jax.value_and_grad(loss, (0, 1), has_aux=True)
            self._arguments += (gy,)
        self._function = jax.jit(function)
        self._between = _Between(data)

    def step(self) -> float:
        start = perf_counter()
        self._wait(self._function(*self._arguments))
        spent = perf_counter() - start
        self._between()
        return spent

    def results(self) -> Results:
        found = self._wait(self._function(*self._arguments))
        if not self._training:
            return dict(zip("yhc", map(_tensor, found), strict=True))
        (_, outputs), (weights, x) = found
        results = dict(zip("yhc", map(_tensor, outputs), strict=True)) | {"grad x": _tensor(x)}
        return results | {f"grad {kind}": _tensor(value) for kind, value in weights.items()}


class Product:
    """A large float32 matrix product of torch."""

    size = 2048
    operations = 2 * size**3

    def __init__(self, threads: int):
        self.threads = threads
        self._a, self._b, self._c = (torch.randn(self.size, self.size) for _ in range(3))

    def step(self) -> float:
        start = perf_counter()
        torch.mm(self._a, self._b, out=self._c)
        return perf_counter() - start

    def results(self) -> Results:
        return {}


class _Between:
    """A head's work on outputs like those of the layer."""

    def __init__(self, data: Data):
        self._y = torch.zeros_like(data.gy)
        self._head = Head(self._y.shape[-1])

    def __call__(self) -> None:
        self._head.gradient(self._y)


def _tensor(array: Any) -> Tensor:
    return torch.from_numpy(np.array(array))


def _jax_layer(weights: Any, x: Any) -> tuple[Any, Any, Any]:
    import jax
    from jax import numpy as jnp

    inputs = x @ weights["weight_ih"].T + (weights["bias_ih"] + weights["bias_hh"])
    recurrent = weights["weight_hh"].T

    def step(state: Any, here: Any) -> Any:
        h, c = state
        i, f, g, o = jnp.split(here + h @ recurrent, 4, axis=1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zeros = jnp.zeros((x.shape[1], recurrent.shape[0]), x.dtype)
    (h, c), y = jax.lax.scan(step, (zeros, zeros), inputs)
    return y, h, c


def _model(problem: Problem, data: Data) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    def reordered(kind: str) -> np.ndarray:
        i, f, g, o = data.weights[kind].chunk(4)
        return torch.cat([i, o, f, g])[None].numpy()  # ONNX's order of gates

    bias = np.concatenate([reordered("bias_ih"), reordered("bias_hh")], 1)
    arrays = {"W": reordered("weight_ih"), "R": reordered("weight_hh"), "B": bias}
    names = ["Y", "Y_h", "Y_c"]
    graph = helper.make_graph(
        [helper.make_node("LSTM", ["X", *arrays], names, hidden_size=problem.H)],
        "lstm",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [problem.T, problem.B, problem.D])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    return model.SerializeToString()

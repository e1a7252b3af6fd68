"""torch.compile: outputs and gradients of eager calls, one graph for every batch and length, no unrolling."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from differentiated import BOTH, assert_close, build, draw, gradients, leaves
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd.graph import saved_tensors_hooks

from gatewise import LSTM

Values = list[Tensor]
# At the first call no two dimensions are alike: the compiler would take them for one, and compile again when they part.
SIZES = [(11, 7), (5, 6)]


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Compiled:
    """A layer in one graph, and how often it was compiled."""

    def __init__(self, layer: LSTM, backend: str = "aot_eager", dynamic: bool | None = True) -> None:
        self.counter = CompileCounterWithBackend(backend)
        self.call = torch.compile(layer, fullgraph=True, dynamic=dynamic, backend=self.counter)

    @property
    def graphs(self) -> int:
        return self.counter.frame_count

    @property
    def nodes(self) -> int:
        return len(self.counter.graphs[-1].graph.nodes)


def results(call: Any, layer: LSTM, given: tuple[Tensor, ...], **keywords: Any) -> Values:
    """Return outputs, states and traces, and the gradients of all that was given and all parameters."""
    inputs = [tensor.detach().clone().requires_grad_() for tensor in given]
    torch.manual_seed(4)
    values = leaves(call(inputs[0], tuple(inputs[1:]) or None, **keywords))
    return [*values, *gradients(values, [*inputs, *layer.parameters()])]


def keywords_of(T: int, B: int) -> dict[str, Any]:
    """Lengths with a zero and a whole row; resets in the last row, which is whole."""
    reset = torch.zeros(T, B, dtype=torch.bool)
    reset[1, -1] = reset[T - 1, -1] = True
    return {"lengths": torch.tensor([*(k % T for k in range(B - 1)), T]), "reset": reset, "trace": True}


def assert_compiles(layer: LSTM, *, with_state: bool = True, with_keywords: bool = False, **choice: Any) -> None:
    compiled = Compiled(layer, **choice)
    counts = []
    for T, B in SIZES:
        x, *hx = draw(layer, T, B)
        given = (x, *hx) if with_state else (x,)
        keywords = keywords_of(T, B) if with_keywords else {}
        assert_close(results(compiled.call, layer, given, **keywords), results(layer, layer, given, **keywords))
        counts.append(compiled.graphs)
    assert counts[0] == counts[-1] > 0


@pytest.mark.parametrize("cell", ["rnn", "lstm", "peephole", "fgr"])
def test_cells(cell: str):
    assert_compiles(build(cell))


OPTIONS = [
    ("lstm", {"num_layers": 3, "dropout": 0.4, "residual": True}),
    ("lstm", {"bias": False, "proj_size": 2, "nonrecurrent_proj_size": 1, "batch_first": True}),
    ("rnn", {"zoneout": 0.4, "weight_drop": 0.4, "recurrent_dropout": 0.4}),
    ("cifg", {"layer_norm": True, "clip": 0.5, "backend": "reference"}),
]


@pytest.mark.parametrize(("cell", "options"), OPTIONS, ids=str)
def test_options(cell: str, options: dict[str, Any]):
    assert_compiles(build(cell, **options))


@pytest.mark.parametrize(("cell", "with_state"), [("lstm", True), ("slstm", False)])
def test_lengths_resets_and_traces(cell: str, with_state: bool):
    assert_compiles(build(cell, bidirectional=True), with_state=with_state, with_keywords=True)


def test_a_learned_state():
    layer = build("peephole", learned_state=True, layer_norm=True, zoneout=0.3).eval()
    assert_compiles(layer, with_state=False, with_keywords=True)


# Said inside torch when its own compiler is first loaded.
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_inductor():
    assert_compiles(build("peephole", **BOTH), with_keywords=True, backend="inductor")


@pytest.mark.parametrize(("T", "B"), [(1, 3), (3, 1)])
def test_sizes_that_compilers_treat_alone(T: int, B: int):
    layer = build("peephole")
    compiled = Compiled(layer)
    for size in [(4, 2), (T, B)]:
        given = draw(layer, *size)
        assert_close(results(compiled.call, layer, given), results(layer, layer, given))


def test_a_single_sequence():
    layer = build("cifg")
    x, *hx = draw(layer)
    given = (x[:, 0], *(part[:, 0] for part in hx))
    assert_close(results(Compiled(layer).call, layer, given), results(layer, layer, given))


def test_lengths_as_a_list():
    layer = build("lstm", bidirectional=True)
    x = draw(layer, 5, 3)[:1]
    lengths = [3, 0, 5]
    expected = results(layer, layer, x, lengths=lengths)
    assert_close(results(Compiled(layer).call, layer, x, lengths=lengths), expected)


@pytest.mark.parametrize(("cell", "options"), [("lstm", BOTH), ("peephole", {})], ids=str)
def test_graph_and_memory_do_not_grow_with_time(cell: str, options: dict[str, Any]):
    nodes, counts, sizes = [], [], []
    layer = build(cell, **options)
    for T in (64, 1024):
        torch._dynamo.reset()
        compiled = Compiled(layer, dynamic=False)
        saved: list[Tensor] = []
        x, *hx = (tensor.requires_grad_() for tensor in draw(layer, T, 2))
        with saved_tensors_hooks(lambda t, saved=saved: saved.append(t) or t, lambda t: t):
            output, _ = compiled.call(x, tuple(hx))
        nodes.append(compiled.nodes)
        counts.append(len(saved))
        sizes.append(sum(tensor.nbytes for tensor in saved if tensor.shape[:1] == (T,)))
        # Of all that the layers compute over time, only what they read is kept: gates and cells are computed again.
        between = output.nbytes * (layer.num_layers - 1)
        assert sizes[-1] == x.nbytes + between
        assert bool(torch.autograd.grad(output.sum(), x)[0].any())
    assert nodes[0] == nodes[1] > 0
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize(
    ("cell", "dtype", "mode"), [("lstm", torch.float32, torch.no_grad), ("fgr", torch.float64, torch.inference_mode)]
)
def test_without_gradients(cell: str, dtype: torch.dtype, mode: Any):
    layer = build(cell, dtype, bidirectional=True)
    compiled = Compiled(layer)
    with mode():
        for T, B in SIZES:
            x, *hx = draw(layer, T, B)
            ours, theirs = leaves(compiled.call(x, tuple(hx))), leaves(layer(x, tuple(hx)))
            assert not any(value.requires_grad for value in ours)
            assert_close(ours, theirs, tolerance=0)


def test_training_sees_fresh_weights_without_compiling_again():
    eager = build("peephole", **BOTH)
    layer = copy.deepcopy(eager)
    compiled = Compiled(layer)
    losses: list[list[float]] = []
    counts = []
    for module, call in ((eager, eager), (layer, compiled.call)):
        optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
        losses.append([])
        for step in range(6):
            x = draw(layer, 5 + step, 11 + step % 3)[0]
            loss = call(x)[0].square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
            counts.append(compiled.graphs)
    assert losses[1] == pytest.approx(losses[0], rel=1e-9)
    assert losses[0][-1] < 0.7 * losses[0][0]
    assert_close(layer.parameters(), eager.parameters(), tolerance=1e-9)
    assert counts[6] == counts[-1] > 0


def test_weights_changed_in_place():
    layer = build("lstm", torch.float32)
    compiled = Compiled(layer)
    x = draw(layer)[0]
    with torch.no_grad():
        before = compiled.call(x)[0]
        for parameter in layer.parameters():
            parameter.data.mul_(0.5)
        after = compiled.call(x)[0]
        assert not torch.allclose(before, after)
        assert_close([after], [layer(x)[0]], tolerance=0)


def test_frozen_weights():
    layer = build("fgr").requires_grad_(False)
    layer.get_parameter("weight_gates_l0").requires_grad_()
    x, wanted = draw(layer)[0], [layer.get_parameter("weight_gates_l0")]
    ours = gradients(leaves(Compiled(layer).call(x)), wanted)
    assert_close(ours, gradients(leaves(layer(x)), wanted))

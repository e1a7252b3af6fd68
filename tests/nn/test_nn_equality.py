"""The module in torch.nn.LSTM's place, over all combinations of its arguments and inputs."""

import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from gatewise import LSTM

T, B, D, H, P = 4, 3, 3, 5, 2
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-6}

ARGUMENTS = [
    {"num_layers": layers, "bias": bias, "batch_first": batch_first, "bidirectional": both, "proj_size": projection}
    for layers, bias, batch_first, both, projection in itertools.product(
        [1, 2, 3], [True, False], [False, True], [False, True], [0, P]
    )
]
PACKED = {
    "packed, sorted": {"lengths": [4, 2, 1], "enforce_sorted": True},
    "packed, sorted by torch": {"lengths": [2, 4, 1], "enforce_sorted": False},
}
FORMS = ["batched", "unbatched", *PACKED]
WAYS = [("auto", True), ("auto", False), ("reference", True), ("torch", True)]


def name_of(arguments: dict[str, Any]) -> str:
    return ",".join(f"{name}:{value}" for name, value in arguments.items())


@pytest.fixture(autouse=True)
def _every_warning_each_time() -> Iterator[None]:
    """Else what torch says once a process would be heard in the first test only."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(before)


def seeded(module: type[nn.Module], seed: int = 0, **arguments: Any) -> Any:
    torch.manual_seed(seed)
    return module(D, H, **arguments)


def draw(layer: Any, form: str) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Draw an input, not yet packed, and a state."""
    dtype, generator = layer.weight_ih_l0.dtype, torch.Generator().manual_seed(1)
    shape = (T, D) if form == "unbatched" else (B, T, D) if layer.batch_first else (T, B, D)
    stacked, rows = layer.num_layers * (1 + layer.bidirectional), () if form == "unbatched" else (B,)
    x, h, c = (
        torch.randn(size, generator=generator, dtype=dtype, requires_grad=True)
        for size in (shape, (stacked, *rows, layer.proj_size or H), (stacked, *rows, H))
    )
    return x, (h, c)


def call(layer: Any, form: str, x: Tensor, hx: tuple[Tensor, Tensor] | None) -> tuple[Any, tuple[Tensor, Tensor]]:
    if form not in PACKED:
        return layer(x, hx)
    return layer(pack_padded_sequence(x, batch_first=layer.batch_first, **PACKED[form]), hx)


def theirs_called(layer: nn.LSTM, *arguments: Any) -> Any:
    """Call torch's layer, which warns of its own projections."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "LSTM with projections is not supported with oneDNN", UserWarning)
        return call(layer, *arguments)


def tensors(output: Any, state: Any) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {"h": state[0], "c": state[1]}
    if not isinstance(output, PackedSequence):
        return named | {"output": output}
    parts: dict[str, Tensor | None] = output._asdict()
    return named | {name: part for name, part in parts.items() if part is not None}


def with_gradients(results: dict[str, Tensor], leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the gradients of a loss in which every number of the results weighs something else."""
    generator, loss = torch.Generator().manual_seed(2), torch.zeros(())
    for value in results.values():
        if value.requires_grad:
            loss = loss + (value * torch.randn(value.shape, generator=generator, dtype=value.dtype)).sum()
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    return results | {f"gradient of {name}": part for name, part in zip(leaves, gradients, strict=True)}


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor], what: object = "") -> None:
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        got = ours[name]
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype), (what, name)
        if expected.is_floating_point() and expected.numel():
            # Written so that a NaN fails.
            bound = TOLERANCES[expected.dtype] * max(1.0, expected.abs().max().item())
            assert (got - expected).abs().max() <= bound, (what, name)
        else:
            assert torch.equal(got, expected), (what, name)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("given", [False, True], ids=["zeros", "state"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=name_of)
def test_results_and_gradients_are_torchs(arguments: dict[str, Any], form: str, given: bool, dtype: torch.dtype):
    theirs = seeded(nn.LSTM, **arguments, dtype=dtype)
    x, state = draw(theirs, form)
    hx = state if given else None
    leaves = {"input": x} | (dict(zip("hc", state, strict=True)) if given else {})
    expected = with_gradients(tensors(*theirs_called(theirs, form, x, hx)), leaves | dict(theirs.named_parameters()))
    ours = LSTM(D, H, **arguments, dtype=dtype)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    for backend, gradient in WAYS:
        ours.backend = backend
        with torch.set_grad_enabled(gradient):
            got = tensors(*call(ours, form, x, hx))
        assert got["h"].requires_grad == gradient
        if gradient:
            got = with_gradients(got, leaves | dict(ours.named_parameters()))
        assert_equal(got, {name: expected[name] for name in got}, (backend, gradient))


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=name_of)
def test_the_same_seed_gives_torchs_parameters(arguments: dict[str, Any]):
    ours, theirs = seeded(LSTM, **arguments), seeded(nn.LSTM, **arguments)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
    for mine, other in zip(ours.all_weights, theirs.all_weights, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, other, strict=True))
    for layer in (ours, theirs):
        torch.manual_seed(7)
        layer.reset_parameters()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=name_of)
def test_each_loads_the_others_state_dict(arguments: dict[str, Any]):
    for source, target in itertools.permutations([LSTM, nn.LSTM]):
        state_dict = seeded(source, 1, **arguments).state_dict()
        loaded = seeded(target, 2, **arguments)
        assert loaded.load_state_dict(state_dict, strict=True) == ([], [])
        assert all(torch.equal(value, state_dict[name]) for name, value in loaded.state_dict().items())


@pytest.mark.parametrize("module", [LSTM, nn.LSTM])
def test_a_state_dict_of_other_arguments_is_refused(module: type[nn.Module]):
    whole = seeded(LSTM, num_layers=2, bidirectional=True, proj_size=P).state_dict()
    for changed in ({"proj_size": 0}, {"bidirectional": False}, {"num_layers": 3}, {"bias": False}):
        layer = seeded(module, **{"num_layers": 2, "bidirectional": True, "proj_size": P} | changed)
        with pytest.raises(RuntimeError, match="in loading state_dict"):
            layer.load_state_dict(whole, strict=True)


DROPPING = [arguments for arguments in ARGUMENTS if arguments["num_layers"] == 3 and arguments["bias"]]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("arguments", DROPPING, ids=name_of)
def test_the_same_seed_drops_what_torch_drops(arguments: dict[str, Any], form: str):
    theirs = seeded(nn.LSTM, **arguments, dropout=0.4)
    x, state = draw(theirs, form)
    leaves = {"input": x, "h": state[0], "c": state[1]}
    torch.manual_seed(3)
    expected = with_gradients(tensors(*theirs_called(theirs, form, x, state)), leaves | dict(theirs.named_parameters()))
    ours = seeded(LSTM, **arguments, dropout=0.4)
    for backend, gradient in WAYS:
        ours.backend = backend
        torch.manual_seed(3)
        with torch.set_grad_enabled(gradient):
            got = tensors(*call(ours, form, x, state))
            assert not torch.equal(tensors(*call(ours, form, x, state))["h"], got["h"])
        if gradient:
            got = with_gradients(got, leaves | dict(ours.named_parameters()))
        assert_equal(got, {name: expected[name] for name in got}, (backend, gradient))


def test_evaluation_drops_nothing():
    layer = seeded(LSTM, num_layers=3, dropout=0.9).eval()
    x, state = draw(layer, "batched")
    plain = seeded(LSTM, num_layers=3)
    assert torch.equal(layer(x, state)[0], plain(x, state)[0])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("gradient", [False, True])
def test_only_torchs_layer_warns_of_its_projections(form: str, gradient: bool):
    """The filter above hides no warning of ours: of the two, given the same, torch's alone has something to say."""
    theirs, ours = seeded(nn.LSTM, proj_size=P), seeded(LSTM, proj_size=P)
    x, state = draw(theirs, form)
    with torch.set_grad_enabled(gradient):
        if form not in PACKED:
            with pytest.warns(UserWarning, match="projections is not supported with oneDNN"):
                call(theirs, form, x, state)
        for backend in ("auto", "torch", "reference"):
            ours.backend = backend
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                call(ours, form, x, state)
            assert not caught

"""The module among torch's tools: saving, copying, moving, parametrizing, pruning, averaging, hooks; never stale."""

import copy
import io
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from gatewise import LSTM, LSTMCell
from gatewise.spec import CELLS

T, B, D, H, P, N = 4, 3, 4, 6, 3, 2
X = torch.randn(T, B, D, generator=torch.Generator().manual_seed(4))

KINDS = ["weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr", "weight_hp", "weight_peephole", "weight_gates"]
KINDS += ["weight_ln_ih", "weight_ln_hh", "weight_ln_cell", "bias_ln_cell", "h_0", "c_0", "i_0", "f_0", "o_0"]
GATES = {"rnn": "g", "rnn-relu": "g", "lstm-1997": "igo", "nig": "fgo", "nfg": "igo", "nog": "ifg", "cifg": "igo"}
OPTIONS: dict[str, tuple[dict[str, Any], set[str], set[str]]] = {
    # What an option adds to the parameters and what it takes away.
    "plain": ({}, set(), set()),
    "bias": ({"bias": False}, set(), {"bias_ih", "bias_hh"}),
    "projection": ({"proj_size": P}, {"weight_hr"}, set()),
    "both projections": ({"proj_size": P, "nonrecurrent_proj_size": N}, {"weight_hr", "weight_hp"}, set()),
    "peephole": ({"peephole": True}, {"weight_peephole"}, set()),
    "no peephole": ({"peephole": False}, set(), {"weight_peephole"}),
    "layer_norm": ({"layer_norm": True}, {"weight_ln_ih", "weight_ln_hh", "weight_ln_cell", "bias_ln_cell"}, set()),
    "learned_state": ({"learned_state": True}, {"h_0", "c_0"}, set()),
}
NEEDS = {"both projections": "projection", "bias": "", "plain": "", "no peephole": ""}
CASES = [
    (cell, option) for cell in CELLS for option in OPTIONS if NEEDS.get(option, option) in {"", *CELLS[cell].options}
]


def seeded(**arguments: Any) -> LSTM:
    torch.manual_seed(0)
    return LSTM(D, H, **arguments)


def theirs_like(layer: nn.Module, **arguments: Any) -> nn.LSTM:
    """Build torch's layer with the weights that a layer of ours computes with now."""
    theirs = nn.LSTM(D, H, **arguments, dtype=layer.weight_ih_l0.dtype)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.copy_(getattr(layer, name))
    return theirs.train(layer.training)


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    # Written so that a NaN fails.
    bound = 1e-12 if ours.dtype is torch.float64 else 1e-6
    assert (ours - theirs).abs().max() <= bound * max(1.0, theirs.abs().max().item())


@pytest.mark.parametrize(("cell", "option"), CASES)
def test_the_state_dict_has_the_names_in_the_order_of_the_documentation(cell: str, option: str):
    arguments, added, removed = OPTIONS[option]
    kinds = {"weight_ih", "weight_hh", "bias_ih", "bias_hh"} | added
    if CELLS[cell].peephole:
        kinds.add("weight_peephole")
    if cell == "fgr":
        kinds |= {"weight_gates"} | ({"i_0", "f_0", "o_0"} if option == "learned_state" else set())
    if cell.startswith("rnn"):
        kinds.discard("c_0")
    expected = [kind for kind in KINDS if kind in kinds - removed]
    layer = LSTM(D, H, 2, bidirectional=True, cell=cell, **arguments)
    suffixes = ["_l0", "_l0_reverse", "_l1", "_l1_reverse"]
    assert list(layer.state_dict()) == [kind + suffix for suffix in suffixes for kind in expected]
    rows = len(GATES.get(cell, "ifgo")) * H
    assert layer.get_parameter("weight_ih_l0").shape == (rows, D)
    assert not list(layer.buffers())
    # The second layer reads both directions of all outputs.
    width = arguments.get("proj_size", H) + arguments.get("nonrecurrent_proj_size", 0)
    assert layer.get_parameter("weight_ih_l1").shape == (rows, 2 * width)
    fresh = LSTM(D, H, 2, bidirectional=True, cell=cell, **arguments)
    assert fresh.load_state_dict(layer.state_dict(), strict=True) == ([], [])
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), layer.parameters(), strict=True))


@pytest.mark.parametrize("cell", ["cifg", "peephole", "slstm", "rnn"])
def test_a_state_dict_of_another_cell_is_refused(cell: str):
    state = LSTM(D, H, cell="fgr", learned_state=True).state_dict()
    with pytest.raises(RuntimeError, match=r"Unexpected key.*h_0_l0"):
        LSTM(D, H, cell=cell).load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"Missing key.*h_0_l0"):
        LSTM(D, H, cell="fgr", learned_state=True).load_state_dict(LSTM(D, H, cell=cell).state_dict())
    if cell == "cifg":
        with pytest.raises(RuntimeError, match="size mismatch for weight_ih_l0"):
            LSTM(D, H, cell=cell).load_state_dict(LSTM(D, H, cell="peephole").state_dict())


def through_torch(value: Any, **options: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, **options)


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "torch.save": lambda value: through_torch(value, weights_only=False),
}
FULL: dict[str, Any] = {"num_layers": 3, "bidirectional": True, "dropout": 0.1, "learned_state": True}
FULL |= {"proj_size": P, "nonrecurrent_proj_size": N, "zoneout": (0.1, 0.2), "residual": True, "init": "chrono"}
FULL |= {"peephole": True, "clip": 2.0, "layer_norm": True, "recurrent_dropout": 0.1, "weight_drop": 0.1}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("arguments", [*({"cell": cell} for cell in CELLS), FULL], ids=lambda a: a.get("cell", "full"))
def test_copies_compute_the_same_and_are_independent(arguments: dict[str, Any], way: str):
    layer = seeded(**arguments).eval()
    twin = COPIES[way](layer)
    assert (repr(twin), twin.variant, twin.init, twin.training) == (repr(layer), layer.variant, layer.init, False)
    y, state = layer(X)
    again, same = twin(X)
    assert torch.equal(y, again)
    assert type(same) is type(state)
    twin.get_parameter("weight_hh_l0").data.zero_()
    assert not torch.equal(twin(X)[0], y)
    assert torch.equal(layer(X)[0], y)
    twin.reset_parameters()


@pytest.mark.parametrize("cell", CELLS)
def test_states_survive_every_way_of_saving(cell: str):
    y, state = seeded(cell=cell)(X)
    y, state = y.detach(), type(state)(*(part.detach() for part in state))
    ways = [*COPIES.values(), through_torch]
    for way in ways:
        again, same = way((y, state))
        assert torch.equal(again, y)
        assert type(same) is type(state)
        assert same._fields == CELLS[cell].states
        assert all(torch.equal(a, b) for a, b in zip(same, state, strict=True))
    plain = through_torch(tuple(state))
    assert seeded(cell=cell)(X, plain)[0].shape == y.shape


def test_a_saved_state_loads_in_a_program_that_has_only_imported_the_module(tmp_path):
    path = tmp_path / "state.pt"
    torch.save(seeded()(X)[1], path)
    program = f"import torch; from gatewise import LSTM; print(torch.load({str(path)!r}).h.shape)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == f"torch.Size([1, {B}, {H}])\n", textwrap.shorten(done.stderr, 300)


DTYPES: dict[str, tuple[Callable[[LSTM], Any], torch.dtype]] = {
    "half": (lambda layer: layer.half(), torch.float16),
    "bfloat16": (lambda layer: layer.bfloat16(), torch.bfloat16),
    "double": (lambda layer: layer.double(), torch.float64),
    "to": (lambda layer: layer.to(torch.float64), torch.float64),
    "set": (lambda layer: layer.to(torch.float64).float(), torch.float32),
}


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("way", DTYPES)
@pytest.mark.parametrize("cell", ["lstm", "cifg", "slstm", "fgr"])
def test_a_layer_moves_to_another_dtype(cell: str, way: str, gradient: bool):
    move, dtype = DTYPES[way]
    layer = seeded(cell=cell, num_layers=2)
    expected, _ = layer(X)
    move(layer)
    with torch.set_grad_enabled(gradient):
        y, state = layer(X.to(dtype))
    assert {y.dtype, *(part.dtype for part in state)} == {dtype}
    bound = max(1e-6, 4 * torch.finfo(dtype).eps)
    assert (y.double() - expected).abs().max() <= bound
    assert y.requires_grad == gradient


@pytest.mark.parametrize("hints", [{}, {"lengths": [4, 0, 2]}, {"reset": torch.zeros(T, B, dtype=torch.bool)}], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_on_meta_only_shapes_are_computed(cell: str, hints: dict[str, Any]):
    layer = seeded(cell=cell, num_layers=2, bidirectional=True).to("meta")
    moved = {name: value.to("meta") if isinstance(value, Tensor) else value for name, value in hints.items()}
    for gradient in (False, True):
        with torch.set_grad_enabled(gradient):
            y, state = layer(X.to("meta"), **moved)
        assert (y.device.type, y.shape) == ("meta", (T, B, 2 * H))
        assert all(part.shape == (4, B, H) for part in state)


def test_frozen_weights_need_no_gradient():
    layer = seeded().requires_grad_(False)
    assert not layer(X)[0].requires_grad
    x = X.clone().requires_grad_()
    layer(x)[0].sum().backward()
    assert x.grad is not None
    assert all(parameter.grad is None for parameter in layer.parameters())


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight / 2


PARAMETRIZED: dict[str, Callable[[nn.Module], Any]] = {
    "own": lambda layer: parametrize.register_parametrization(layer, "weight_hh_l0", Doubled()),
    "weight_norm": lambda layer: parametrizations.weight_norm(layer, "weight_hh_l0"),
    "spectral_norm": lambda layer: parametrizations.spectral_norm(layer, "weight_hh_l0"),
    "orthogonal": lambda layer: parametrizations.orthogonal(layer, "weight_hh_l0"),
    "of the input": lambda layer: parametrizations.weight_norm(layer, "weight_ih_l1"),
    "of a bias": lambda layer: parametrize.register_parametrization(layer, "bias_hh_l0", Doubled()),
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight_hh_l0", 0.4),
    "pruned rows": lambda layer: prune.random_structured(layer, "weight_ih_l1", 0.3, dim=0),
}


# torch.compile says this of any module that holds a tensor which is no leaf, as pruning makes one.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("way", PARAMETRIZED)
def test_a_parametrized_or_pruned_weight_is_the_one_computed_with(way: str, compiled: bool):
    torch.compiler.reset()
    # In evaluation, where reading a spectral norm changes nothing.
    layer = seeded(num_layers=2).double()
    PARAMETRIZED[way](layer)
    layer.eval()
    for name, parameter in layer.named_parameters():
        if "original" in name or "_orig" in name:
            parameter.data.mul_(1.5)
    run, x = torch.compile(layer, backend="aot_eager") if compiled else layer, X.double()
    for gradient in (False, True):
        with torch.set_grad_enabled(gradient):
            y, _ = run(x)
        if way.startswith("pruned"):
            # Pruning writes the masked weight in a hook before each call.
            layer(x)
        assert_close(y, theirs_like(layer, num_layers=2)(x)[0])
    y.square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    if way.startswith("pruned"):
        ((name, kept),) = layer.named_buffers()
        gradient_of = layer.get_parameter(name.replace("_mask", "_orig")).grad
        assert gradient_of is not None
        assert not gradient_of[kept == 0].any()


@pytest.mark.filterwarnings("ignore:.*is deprecated in favor:FutureWarning")
@pytest.mark.parametrize("way", ["weight_norm", "spectral_norm"])
def test_the_older_reparametrizations_are_computed_with_too(way: str):
    layer = seeded().double()
    getattr(nn.utils, way)(layer, "weight_hh_l0")
    name = "weight_hh_l0_g" if way == "weight_norm" else "weight_hh_l0_orig"
    layer.eval()
    layer.get_parameter(name).data.mul_(2)
    y, _ = layer(X.double())
    assert_close(y, theirs_like(layer)(X.double())[0])


@torch.no_grad()
def _copy(layer: LSTM) -> None:
    for parameter in layer.parameters():
        parameter.copy_(parameter.flip(0))


def _data(layer: LSTM) -> None:
    layer.get_parameter("weight_hh_l1").data.add_(0.2)


def _step(layer: LSTM) -> None:
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    layer(X)[0].sum().backward()
    optimizer.step()


def _fused_step(layer: LSTM) -> None:
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1, fused=True)
    layer(X)[0].sum().backward()
    optimizer.step()


def _assign(layer: LSTM) -> None:
    layer.load_state_dict({name: value.flip(0).clone() for name, value in layer.state_dict().items()}, assign=True)


def _load(layer: LSTM) -> None:
    layer.load_state_dict({name: value.flip(0).clone() for name, value in layer.state_dict().items()})


def _swap(layer: LSTM) -> None:
    other = nn.Parameter(layer.get_parameter("weight_hh_l0").detach().flip(0).clone())
    torch.utils.swap_tensors(layer.get_parameter("weight_hh_l0"), other)


def _vector(layer: LSTM) -> None:
    vector = nn.utils.parameters_to_vector(layer.parameters())
    nn.utils.vector_to_parameters(vector.flip(0).detach().clone(), layer.parameters())


def _apply(layer: LSTM) -> None:
    def draw(module: nn.Module) -> None:
        for parameter in module.parameters():
            nn.init.uniform_(parameter, -1, 1)

    layer.apply(draw)


def _share(layer: LSTM) -> None:
    layer.weight_hh_l1 = layer.weight_hh_l0


CHANGES = [_copy, _data, _step, _fused_step, _assign, _load, _swap, _vector, _apply, _share]


@pytest.mark.parametrize("backend", ["auto", "torch", "reference"])
@pytest.mark.parametrize("change", CHANGES)
def test_weights_are_never_stale(change: Callable[[LSTM], None], backend: str):
    layer = seeded(num_layers=2, backend=backend)
    results: list[Tensor] = []
    for gradient in (False, True):
        with torch.set_grad_enabled(gradient):
            results.append(layer(X)[0].detach())
    change(layer)
    with torch.no_grad():
        expected = theirs_like(layer, num_layers=2)(X)[0]
    for gradient, before in zip((False, True), results, strict=True):
        with torch.set_grad_enabled(gradient):
            y = layer(X)[0].detach()
        assert_close(y, expected)
        assert (y - before).abs().max() > 1e-3


def test_skip_init_leaves_memory_as_it_was_and_loads_weights():
    layer = nn.utils.skip_init(LSTM, D, H, 2, cell="cifg", layer_norm=True)
    source = seeded(num_layers=2, cell="cifg", layer_norm=True)
    layer.load_state_dict(source.state_dict())
    assert next(layer.parameters()).device.type == "cpu"
    assert torch.equal(layer(X)[0], source(X)[0])


VANILLA = [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}, {"proj_size": P, "num_layers": 2}]


@pytest.mark.parametrize("arguments", VANILLA, ids=str)
def test_all_weights_are_torchs_the_very_parameters(arguments: dict[str, Any]):
    ours, theirs = LSTM(D, H, **arguments), nn.LSTM(D, H, **arguments)
    names = {id(parameter): name for name, parameter in [*ours.named_parameters(), *theirs.named_parameters()]}
    found, expected = ([[names[id(w)] for w in row] for row in layer.all_weights] for layer in (ours, theirs))
    assert found == expected


def test_an_average_of_models_follows():
    layer = seeded(num_layers=2)
    average = torch.optim.swa_utils.AveragedModel(layer, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    average.update_parameters(layer)
    first = {name: value.clone() for name, value in layer.named_parameters()}
    _step(layer)
    average.update_parameters(layer)
    for name, value in layer.named_parameters():
        assert_close(average.module.get_parameter(name), (first[name] + value) / 2)
    assert_close(average(X)[0], theirs_like(average.module, num_layers=2)(X)[0])


def test_hooks_see_and_change_what_passes():
    layer = seeded()
    y, state = layer(X)
    seen: list[Any] = []
    layer.register_forward_pre_hook(lambda module, args: (2 * args[0], *args[1:]))
    layer.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    layer.register_full_backward_hook(lambda module, into, out: seen.append(out))
    again, _ = layer((X / 2).requires_grad_())
    assert torch.equal(again, y)
    assert torch.equal(seen[0][0], X)
    again.sum().backward()
    assert torch.equal(seen[1][0], torch.ones_like(y))
    assert seen[0][1][1]._fields == state._fields


SHOWN = """num_layers=3, batch_first=True, dropout=0.1, bidirectional=True, proj_size=3, cell='cifg', clip=2.0,
layer_norm=True, nonrecurrent_proj_size=2, residual=True, zoneout=(0.1, 0.2), recurrent_dropout=0.1, weight_drop=0.1,
init='chrono', learned_state=True"""


def test_repr_shows_every_argument_that_differs():
    assert repr(LSTM(D, H)) == f"LSTM({D}, {H})"
    more: dict[str, Any] = {"cell": "cifg", "batch_first": True}
    text = repr(LSTM(D, H, **(FULL | more)))
    wanted = {part.strip() for part in SHOWN.replace("\n", " ").split(", ")}
    assert set(text.removeprefix(f"LSTM({D}, {H}, ").removesuffix(")").split(", ")) == wanted
    assert repr(LSTM(D, H, cell="cifg", peephole=False)) == f"LSTM({D}, {H}, cell='cifg', peephole=False)"
    assert repr(LSTM(D, H, bias=False, backend="torch")) == f"LSTM({D}, {H}, bias=False, backend='torch')"
    assert repr(LSTM(D, H, forget_bias=1.0)) == f"LSTM({D}, {H}, forget_bias=1.0)"
    assert repr(LSTMCell(D, H, cell="nig", bias=False)) == f"LSTMCell({D}, {H}, bias=False, cell='nig')"

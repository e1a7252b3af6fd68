"""Dropout and zoneout of the module: what is dropped, what is kept, and that every draw can be had again."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

from gatewise import LSTM, ops
from gatewise.spec import CELLS

T, B, D, H, P = 6, 3, 4, 5, 3
ZONED = [name for name, cell in CELLS.items() if "zoneout" in cell.options]

NOISES: dict[str, dict[str, Any]] = {
    "dropout": {"dropout": 0.5},
    "recurrent_dropout": {"recurrent_dropout": 0.5},
    "zoneout": {"zoneout": 0.5},
    "zoneout of c": {"zoneout": (0.0, 0.5)},
    "weight_drop": {"weight_drop": 0.5},
    "all": {"dropout": 0.3, "recurrent_dropout": 0.3, "zoneout": (0.2, 0.4), "weight_drop": 0.3},
}


def made(**options: Any) -> LSTM:
    """Build a layer whose every parameter matters."""
    layer = LSTM(D, H, dtype=torch.float64, **options)
    generator = torch.Generator().manual_seed(8)
    for parameter in layer.parameters():
        parameter.data.uniform_(-0.9, 0.9, generator=generator)
    return layer


def inputs(batch: int = B) -> Tensor:
    return torch.randn(T, batch, D, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def assert_close(ours: Tensor, reference: Tensor) -> None:
    assert ours.shape == reference.shape
    # Written so that a NaN fails.
    assert (ours - reference).abs().max() <= 1e-12 * max(1.0, reference.abs().max().item())


def states_before(trace: dict[str, Tensor], name: str) -> Tensor:
    """Each step's old state, from zero on."""
    return torch.cat([torch.zeros_like(trace[name][:1]), trace[name][:-1]])


def logit(p: Tensor) -> Tensor:
    return p.log() - (-p).log1p()


def test_dropout_acts_between_layers_alone():
    layer = made(num_layers=3, dropout=1.0)
    y, state, traces = layer(inputs(), trace=True)
    # The first layer reads its input whole; those above read zeros, yet return their own outputs whole.
    assert_close(state.h[0], made(num_layers=3)(inputs())[1].h[0])
    blind = made(num_layers=3, dropout=1.0)
    for k in (1, 2):
        blind.get_parameter(f"weight_ih_l{k}").data.zero_()
    assert_close(y, blind.eval()(inputs())[0])
    assert torch.equal(y, traces[2]["h"])
    assert y.all()


@pytest.mark.parametrize("generator", [None, 5])
def test_what_dropout_keeps_is_scaled(generator: int | None):
    torch.manual_seed(2)
    source = None if generator is None else torch.Generator().manual_seed(generator)
    layer = LSTM(D, 40, num_layers=2, dropout=0.25, generator=source, dtype=torch.float64)
    # An identity of a layer: what it reads can be computed from its candidate.
    layer.get_parameter("weight_hh_l1").data.zero_()
    weight = layer.get_parameter("weight_ih_l1").data
    weight[80:120] = torch.eye(40)
    bias = (layer.get_parameter("bias_ih_l1") + layer.get_parameter("bias_hh_l1")).detach()[80:120]
    _, _, traces = layer(inputs(), trace=True)
    ratio = (torch.atanh(traces[1]["g"]) - bias) / traces[0]["h"]
    kept = ratio > 0.5
    assert_close(ratio, kept.double() / 0.75)
    assert 0.6 < kept.double().mean() < 0.9
    assert not torch.equal(kept[0], kept[1])


@pytest.mark.parametrize("generator", [None, 5])
@pytest.mark.parametrize("options", [{}, {"proj_size": P}, {"bidirectional": True}, {"cell": "rnn"}], ids=str)
def test_recurrent_dropout_takes_one_mask_for_a_sequence(options: dict[str, Any], generator: int | None):
    torch.manual_seed(1)
    source = None if generator is None else torch.Generator().manual_seed(generator)
    layer = made(recurrent_dropout=0.5, generator=source, **options)
    y, state, traces = layer(inputs(), trace=True)
    weights = layer.all_weights
    width = options.get("proj_size", H)
    masks = [found_mask(layer, inputs(), trace, k) for k, trace in enumerate(traces)]
    directions = []
    for k, mask in enumerate(masks):
        assert set(mask.unique().tolist()) == {0.0, 2.0}
        start = tuple(
            torch.zeros(B, width if name == "h" else H, dtype=torch.float64) for name in layer.variant.cell.states
        )
        kinds = dict(zip(layer.variant.shapes(D, H), weights[k], strict=True))
        directions.append(ops.Direction(start, ops.Weights(**kinds), k == 1, noise=ops.Noise(mask)))
    again = ops.layer(inputs(), directions, layer.variant)
    assert_close(y, again.y)
    for k, parts in enumerate(again.states):
        for got, part in zip(state, parts, strict=True):
            assert_close(got[k], part)
    if len(masks) == 2:
        assert not torch.equal(masks[0], masks[1])


def found_mask(layer: LSTM, x: Tensor, trace: dict[str, Tensor], k: int) -> Tensor:
    """What a trace says about the mask [B, R], by least squares over all steps after the first."""
    w_ih, w_hh, b_ih, b_hh = layer.all_weights[k][:4]
    cell, order = layer.variant.cell, range(T - 1, -1, -1) if k else range(T)
    pre = torch.cat([(torch.atanh if gate == "g" else logit)(trace[gate]) for gate in cell.gate_names], -1)
    recurrent = pre - (x @ w_ih.T + b_ih + b_hh)
    steps = list(order)
    rows = []
    for b in range(B):
        matrix = torch.cat([w_hh * trace["h"][old, b] for old in steps[:-1]])
        target = torch.cat([recurrent[new, b] for new in steps[1:]])
        solution = torch.linalg.lstsq(matrix, target[:, None]).solution[:, 0]
        # One mask explains every step exactly.
        assert (matrix @ solution - target).abs().max() <= 1e-9
        rows.append(solution.detach().round(decimals=6).abs())
    return torch.stack(rows)


ZONEOUTS = [(0.5, 0.5), (0.4, 0.0), (0.0, 0.6)]


@pytest.mark.parametrize(
    ("cell", "zoneout"),
    [(cell, pair) for cell in ZONED for pair in ZONEOUTS if "c" in CELLS[cell].states or not pair[1]],
    ids=str,
)
def test_zoneout_keeps_units_exactly_or_takes_them_new(cell: str, zoneout: tuple[float, float]):
    torch.manual_seed(3)
    layer = made(cell=cell, zoneout=zoneout)
    _, _, (trace,) = layer(inputs(), trace=True)
    kept: dict[str, Tensor] = {}
    for name, p in zip("hc", zoneout, strict=True):
        if name in trace:
            kept[name] = trace[name] == states_before(trace, name)
            assert kept[name].any() or not p
            assert not kept[name].all()
    # What was not kept is what a step from the old states gives.
    names = layer.variant.cell.states
    before = [states_before(trace, name).reshape(T * B, -1) for name in names]
    step = made(cell=cell)
    x = inputs().reshape(1, T * B, D)
    _, fresh = step(x, tuple(part[None] for part in before))
    for name, new, old in zip(names, fresh, before, strict=True):
        chosen = new[0]
        if dict(zip("hc", zoneout, strict=True)).get(name):
            chosen = torch.where(kept[name].reshape(T * B, -1), old, chosen)
        assert_close(trace[name].reshape(T * B, -1), chosen)
    if len(kept) == 2 and all(zoneout):
        assert not torch.equal(kept["h"], kept["c"])


@pytest.mark.parametrize("generator", [None, 5])
def test_zoneout_keeps_at_its_rate_and_anew_at_every_step(generator: int | None):
    source = None if generator is None else torch.Generator().manual_seed(generator)
    torch.manual_seed(0)
    layer = LSTM(D, 64, zoneout=(0.2, 0.7), generator=source, dtype=torch.float64)
    x = torch.randn(50, 8, D, dtype=torch.float64)
    _, _, (trace,) = layer(x, trace=True)
    for name, p in (("h", 0.2), ("c", 0.7)):
        kept = trace[name] == states_before(trace, name)
        count = kept.numel()
        # Five standard deviations of a binomial mean.
        assert abs(kept.double().mean() - p) < 5 * (p * (1 - p) / count) ** 0.5
        assert not any(torch.equal(kept[t], kept[t + 1]) for t in range(49))


def test_evaluation_takes_the_expectation_of_zoneout():
    # With linear squashing and the recurrence cut, one step is linear in the masks.
    layer = made(cell="nog", zoneout=(0.3, 0.6), peephole=False, recurrent_dropout=0.0)
    x, hx = inputs(4000)[:1, :1].expand(1, 4000, D), torch.rand(1, 1, H, dtype=torch.float64)
    state = (hx.expand(1, 4000, H), 0.5 * hx.expand(1, 4000, H))
    torch.manual_seed(0)
    _, drawn = layer(x, state)
    _, expected = layer.eval()(x, state)
    fresh = made(cell="nog", peephole=False)(x, state)[1]
    for got, mean, old, new, p in zip(drawn, expected, state, fresh, (0.3, 0.6), strict=True):
        assert_close(mean, p * old + (1 - p) * new)
        bound = 5 * (p * (1 - p) / 4000) ** 0.5 * (new - old).abs()
        assert ((got.mean(1) - mean[:, 0]).abs() <= bound[:, 0] + 1e-12).all()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("cell", ZONED)
def test_zoneout_of_nothing_and_of_everything(cell: str, training: bool):
    x = inputs()
    plain = made(cell=cell)
    y, state = plain(x)
    free = made(cell=cell, zoneout=0.0).train(training)
    assert torch.equal(free(x)[0], y)
    frozen = made(cell=cell, zoneout=1.0).train(training)
    given = tuple(0.3 + torch.rand_like(part) for part in state)
    kept, final = frozen(x, given)
    assert torch.equal(kept, given[0].expand(T, B, H))
    for name, a, b in zip(plain.variant.cell.states, final, given, strict=True):
        # The gates that fgr carries are not zoned out.
        assert torch.equal(a, b) == (name in "hc")


def test_zoneout_of_a_projected_layer_leaves_the_second_projection_alone():
    layer, plain = (made(proj_size=P, nonrecurrent_proj_size=2, zoneout=z) for z in ((1.0, 0.0), 0.0))
    x, one = inputs(), inputs()[:1]
    y, state = layer(x)
    assert not y[..., :P].any()
    assert not state.h.any()
    assert torch.equal(layer(one)[0][..., P:], plain(one)[0][..., P:])


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("generator", [None, 5])
def test_weight_drop_zeros_recurrent_weights_in_training_alone(generator: int | None, gradient: bool):
    torch.manual_seed(0)
    source = None if generator is None else torch.Generator().manual_seed(generator)
    layer = made(weight_drop=0.5, num_layers=2, bidirectional=True, generator=source)
    before = {name: value.clone() for name, value in layer.named_parameters()}
    with torch.set_grad_enabled(gradient):
        y, _ = layer(inputs())
    assert all(torch.equal(value, before[name]) for name, value in layer.named_parameters())
    plain = made(num_layers=2, bidirectional=True)
    assert torch.equal(layer.eval()(inputs())[0], plain(inputs())[0])
    assert not torch.equal(y, plain(inputs())[0])
    if not gradient:
        return
    y.square().sum().backward()
    for name, value in layer.named_parameters():
        assert value.grad is not None
        share = (value.grad == 0).double().mean()
        # What was dropped gets no gradient.
        assert 0.3 < share < 0.7 if "weight_hh" in name else share == 0, name


def test_weight_drop_of_everything_cuts_the_recurrence():
    layer, cut = made(weight_drop=1.0), made()
    cut.get_parameter("weight_hh_l0").data.zero_()
    assert_close(layer(inputs())[0], cut(inputs())[0])


def called(layer: LSTM, form: str) -> Tensor:
    x = inputs()
    if form == "packed":
        return layer(pack_padded_sequence(x, [2, 6, 3], enforce_sorted=False))[0].data
    return layer(x[:, 0] if form == "unbatched" else x, **({"lengths": [4, 6, 0]} if form == "lengths" else {}))[0]


@pytest.mark.parametrize("form", ["batched", "unbatched", "lengths", "packed"])
@pytest.mark.parametrize("noise", NOISES)
def test_torchs_seed_decides_and_evaluation_is_deterministic(noise: str, form: str):
    layer = made(num_layers=2, bidirectional=True, **NOISES[noise])
    torch.manual_seed(5)
    first, second = called(layer, form), called(layer, form)
    torch.manual_seed(5)
    assert torch.equal(called(layer, form), first)
    assert not torch.equal(first, second)
    layer.eval()
    state = torch.get_rng_state()
    quiet = called(layer, form)
    assert torch.equal(called(layer, form), quiet)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(quiet, first)
    layer.train()
    assert not torch.equal(called(layer, form), quiet)


@pytest.mark.parametrize("noise", NOISES)
def test_a_generator_of_ones_own_decides_alone(noise: str):
    generator = torch.Generator()
    layer = made(num_layers=2, bidirectional=True, generator=generator, **NOISES[noise])
    generator.manual_seed(5)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, second = called(layer, "batched"), called(layer, "batched")
    assert torch.equal(torch.get_rng_state(), state)
    generator.manual_seed(5)
    torch.manual_seed(2)
    assert torch.equal(called(layer, "batched"), first)
    assert not torch.equal(first, second)
    before = generator.get_state()
    layer.eval()
    called(layer, "batched")
    assert torch.equal(generator.get_state(), before)


def saved_and_loaded(layer: LSTM) -> LSTM:
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


COPIES: dict[str, Callable[[LSTM], LSTM]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
    "torch.save": saved_and_loaded,
}


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_draws_on_from_where_its_generator_was(way: str):
    layer = made(num_layers=2, generator=torch.Generator().manual_seed(5), **NOISES["all"])
    called(layer, "batched")
    twin = COPIES[way](layer)
    assert twin.generator is not layer.generator
    expected = called(layer, "batched")
    assert torch.equal(called(twin, "batched"), expected)
    # Each has its own from here on.
    called(twin, "batched")
    assert not torch.equal(called(twin, "batched"), called(layer, "batched"))


@pytest.mark.parametrize("generator", [None, 5])
@pytest.mark.parametrize("noise", NOISES)
def test_vmap_draws_one_mask_or_one_for_each(noise: str, generator: int | None):
    source = None if generator is None else torch.Generator().manual_seed(generator)
    layer = made(num_layers=2, generator=source, **NOISES[noise])
    x = inputs()[None].expand(4, T, B, D)

    def run(randomness: str) -> Tensor:
        return torch.func.vmap(lambda one: layer(one)[0], randomness=randomness)(x)

    torch.manual_seed(0)
    same, different = run("same"), run("different")
    assert_close(same, same[:1].expand(4, T, B, H))
    assert ((different[1:] - different[0]).abs().amax((1, 2, 3)) > 1e-3).all()
    with pytest.raises(RuntimeError, match="randomness"):
        run("error")
    layer.eval()
    assert_close(run("error")[0], layer(x[0])[0])


@pytest.mark.parametrize("noise", NOISES)
def test_every_row_draws_its_own(noise: str):
    layer = made(num_layers=2, **NOISES[noise])
    torch.manual_seed(0)
    y = layer(inputs()[:, :1].expand(T, B, D))[0]
    # The weights that are dropped are those of the layer, the same for all rows.
    apart = (y[:, 1:] - y[:, :1]).abs().amax((0, 2))
    assert ((apart <= 1e-12) if noise == "weight_drop" else (apart > 1e-3)).all()


@pytest.mark.parametrize("generator", [None, 5])
@pytest.mark.parametrize("noise", NOISES)
def test_an_ensemble_draws_different_masks_for_the_same_input(noise: str, generator: int | None):
    source = None if generator is None else torch.Generator().manual_seed(generator)
    layer = made(num_layers=2, generator=source, **NOISES[noise])
    stacked = {name: value.detach().expand(3, *value.shape) for name, value in layer.named_parameters()}

    def run(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(layer, parameters, (inputs(),))[0]

    torch.manual_seed(0)
    y = torch.func.vmap(run, randomness="different")(stacked)
    assert ((y[1:] - y[0]).abs().amax((1, 2, 3)) > 1e-3).all()
    y = torch.func.vmap(run, randomness="same")(stacked)
    assert_close(y, y[:1].expand(3, T, B, H))

"""What each option of the module does: initial values, layer norm, learned states, residuals, clip, projections."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gatewise import LSTM, LSTMCell
from gatewise.errors import InputError
from gatewise.spec import CELLS, variant

T, B, D, H, P, N = 5, 3, 4, 6, 4, 3


def seeded(seed: int = 0, **options: Any) -> LSTM:
    torch.manual_seed(seed)
    return LSTM(D, options.pop("hidden_size", H), dtype=options.pop("dtype", torch.float64), **options)


def spread(layer: nn.Module) -> None:
    """Give every parameter values that matter: what starts at zero or one would hide a mistake."""
    generator = torch.Generator().manual_seed(9)
    for parameter in layer.parameters():
        parameter.data.uniform_(-0.9, 0.9, generator=generator)


def inputs(*, batch: int = B, width: int = D) -> Tensor:
    return torch.randn(T, batch, width, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def assert_close(ours: Tensor, reference: Tensor) -> None:
    assert ours.shape == reference.shape
    # Written so that a NaN fails.
    assert (ours - reference).abs().max() <= 1e-12 * max(1.0, reference.abs().max().item())


def total_bias(layer: nn.Module, gate: str, cell: str, suffix: str = "_l0") -> Tensor:
    rows = CELLS[cell].rows(gate, H)
    return (layer.get_parameter(f"bias_ih{suffix}") + layer.get_parameter(f"bias_hh{suffix}"))[rows].detach()


GATED = [name for name, cell in CELLS.items() if "f" in cell.gate_names]
COUPLED = ["cifg"]
PROJECTED = [name for name, cell in CELLS.items() if "projection" in cell.options]
UNGATED = ["rnn", "rnn-relu", "lstm-1997", "nfg"]


def test_the_lists_here_name_every_cell():
    assert sorted(GATED + COUPLED + UNGATED) == sorted(CELLS)


STACKS: list[dict[str, Any]] = [
    {},
    {"num_layers": 3, "bidirectional": True},
    {"bias": False, "num_layers": 2},
    {"proj_size": P, "num_layers": 2, "bidirectional": True},
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("arguments", STACKS, ids=str)
def test_torchs_scheme_is_torchs_seed_by_seed(arguments: dict[str, Any], dtype: torch.dtype):
    for seed in range(3):
        torch.manual_seed(seed)
        theirs = nn.LSTM(D, H, **arguments, dtype=dtype)
        ours = seeded(seed, **arguments, dtype=dtype, init="torch")
        for (name, a), (other, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
            assert name == other
            assert torch.equal(a, b)
        # Both have drawn the same number of values.
        after = torch.rand(())
        torch.manual_seed(seed)
        nn.LSTM(D, H, **arguments, dtype=dtype)
        assert torch.equal(after, torch.rand(()))


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_draws_weights_and_biases_from_torchs_range(cell: str):
    layer = seeded(cell=cell, hidden_size=40, num_layers=2, bidirectional=True)
    bound = 40**-0.5
    for name, value in layer.named_parameters():
        if name.startswith(("weight", "bias")) and "peephole" not in name:
            assert 0.8 * bound < value.abs().max() <= bound, name
            assert value.min() < 0 < value.max()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("cell", "proj_size"), [*((cell, 0) for cell in CELLS), *((cell, P) for cell in PROJECTED)])
def test_orthogonal_makes_each_gates_block_orthogonal(cell: str, proj_size: int, dtype: torch.dtype):
    layer = seeded(cell=cell, init="orthogonal", proj_size=proj_size, num_layers=2, bidirectional=True, dtype=dtype)
    plain = seeded(cell=cell, proj_size=proj_size, num_layers=2, bidirectional=True, dtype=dtype)
    # Rounding the elements of an orthogonal matrix to eps moves its products by a few eps.
    bound = {torch.float64: 1e-12, torch.float32: 2e-6}.get(dtype, 4 * torch.finfo(dtype).eps)
    blocks: list[Tensor] = []
    for name, value in layer.named_parameters():
        if not name.startswith("weight_hh"):
            continue
        assert value.shape == (len(CELLS[cell].learned) * H, proj_size or H)
        for block in value.detach().double().split(H):
            assert (block.T @ block - torch.eye(proj_size or H)).abs().max() <= bound
            blocks.append(block)
    assert not any(torch.equal(a, b) for k, a in enumerate(blocks) for b in blocks[:k])
    # The first weights are drawn before.
    assert torch.equal(layer.get_parameter("weight_ih_l0"), plain.get_parameter("weight_ih_l0"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("max_lag", [3, 50, 1000])
@pytest.mark.parametrize("cell", [name for name in [*GATED, *COUPLED] if name != "slstm"])
def test_chrono_spreads_the_memories(cell: str, max_lag: int, dtype: torch.dtype):
    layer = seeded(cell=cell, init="chrono", max_lag=max_lag, num_layers=2, bidirectional=True, dtype=dtype)
    lags: list[Tensor] = []
    for suffix in ("_l0", "_l0_reverse", "_l1", "_l1_reverse"):
        forward = "f" in CELLS[cell].gate_names
        bias = total_bias(layer, "f", cell, suffix) if forward else -total_bias(layer, "i", cell, suffix)
        if forward and "i" in CELLS[cell].gate_names:
            assert torch.equal(total_bias(layer, "i", cell, suffix), -bias)
        lags.append(bias.double().exp())
    # u = exp(b) lies in [1, max_lag − 1], up to rounding, and is spread over it.
    u = torch.cat(lags)
    assert u.min() >= 1 - 1e-6
    assert u.max() <= (max_lag - 1) * (1 + 1e-6)
    assert u.max() - u.min() > 0.7 * (max_lag - 2)
    assert len(set(u.tolist())) == u.numel()


@pytest.mark.parametrize("cell", ["lstm", "cifg"])
def test_chrono_leaves_the_other_gates_as_torch_draws_them(cell: str):
    chrono, plain = seeded(cell=cell, init="chrono"), seeded(cell=cell)
    for gate in set(CELLS[cell].gate_names) - {"f", "i"}:
        assert torch.equal(total_bias(chrono, gate, cell), total_bias(plain, gate, cell))
    assert torch.equal(chrono.get_parameter("weight_hh_l0"), plain.get_parameter("weight_hh_l0"))


@pytest.mark.parametrize("module", [LSTM, LSTMCell])
@pytest.mark.parametrize("cell", [*UNGATED, "slstm"])
def test_chrono_is_refused_where_it_means_nothing(cell: str, module: type[nn.Module]):
    with pytest.raises(InputError, match=f"init='chrono' means nothing for the cell '{cell}'"):
        module(D, H, cell=cell, init="chrono")


@pytest.mark.parametrize("value", [1.0, -2.5, 0, 10**30])
@pytest.mark.parametrize("cell", GATED)
def test_forget_bias_is_the_sum_of_both_biases(cell: str, value: float):
    layer = seeded(cell=cell, forget_bias=value, num_layers=2, bidirectional=True)
    plain = seeded(cell=cell, num_layers=2, bidirectional=True)
    for suffix in ("_l0", "_l0_reverse", "_l1", "_l1_reverse"):
        assert torch.equal(total_bias(layer, "f", cell, suffix), torch.full((H,), float(value), dtype=torch.float64))
        for gate in set(CELLS[cell].gate_names) - {"f"}:
            assert torch.equal(total_bias(layer, gate, cell, suffix), total_bias(plain, gate, cell, suffix))


@pytest.mark.parametrize("module", [LSTM, LSTMCell])
@pytest.mark.parametrize("cell", [*UNGATED, *COUPLED])
def test_forget_bias_is_refused_where_no_forget_gate_is_learned(cell: str, module: type[nn.Module]):
    with pytest.raises(InputError, match=f"forget_bias means nothing for the cell '{cell}'"):
        module(D, H, cell=cell, forget_bias=1.0)


CONFLICTS: dict[str, dict[str, Any]] = {
    "choose one": {"init": "chrono", "forget_bias": 1.0},
    "need biases.*bias=False": {"init": "chrono", "bias": False},
    "need biases": {"forget_bias": 1.0, "bias": False},
    "nonrecurrent_proj_size needs .*proj_size": {"nonrecurrent_proj_size": 2},
    "proj_size must be smaller than hidden_size": {"proj_size": H},
    "layer_norm is not defined for the cell 'fgr'": {"cell": "fgr", "layer_norm": True},
}


@pytest.mark.parametrize("text", CONFLICTS)
def test_options_that_contradict_each_other_are_refused(text: str):
    with pytest.raises(InputError, match=text):
        LSTM(D, H, **CONFLICTS[text])


def test_orthogonal_and_forget_bias_go_together():
    layer = seeded(init="orthogonal", forget_bias=2.0)
    assert torch.equal(total_bias(layer, "f", "lstm"), torch.full((H,), 2.0, dtype=torch.float64))
    block = layer.get_parameter("weight_hh_l0")[:H]
    assert_close(block @ block.T, torch.eye(H, dtype=torch.float64))


@pytest.mark.parametrize("init", ["torch", "orthogonal", "chrono"])
def test_reset_parameters_draws_anew_as_the_options_say(init: Any):
    options = {"init": init, "layer_norm": True, "learned_state": True, "num_layers": 2, "peephole": True}
    layer, again = seeded(7, **options), seeded(3, **options)
    spread(again)
    torch.manual_seed(7)
    again.reset_parameters()
    for (name, value), (_, other) in zip(again.named_parameters(), layer.named_parameters(), strict=True):
        assert torch.equal(value, other), name


@pytest.mark.parametrize("name", ["weight_hh_l0", "bias_ih_l0"])
def test_reset_parameters_draws_what_is_parametrized_anew(name: str):
    class Doubled(nn.Module):
        def forward(self, half: Tensor) -> Tensor:
            return 2 * half

        def right_inverse(self, whole: Tensor) -> Tensor:
            return whole / 2

    layer = seeded(forget_bias=3.0)
    plain = seeded(1, forget_bias=3.0)
    parametrize.register_parametrization(layer, name, Doubled())
    torch.manual_seed(1)
    layer.reset_parameters()
    assert torch.equal(getattr(layer, name), getattr(plain, name))


@pytest.mark.parametrize("cell", [name for name, cell in CELLS.items() if "layer_norm" in cell.options])
def test_layer_norm_starts_at_gain_one_and_shift_zero(cell: str):
    layer = seeded(cell=cell, layer_norm=True, num_layers=2, bidirectional=True)
    for name, value in layer.named_parameters():
        if "_ln_" in name:
            assert torch.equal(value, torch.full_like(value, float(name.startswith("weight")))), name
    rows = len(CELLS[cell].learned) * H
    assert layer.get_parameter("weight_ln_ih_l1_reverse").shape == (rows,)
    assert layer.get_parameter("weight_ln_hh_l1").shape == (rows,)
    assert layer.get_parameter("bias_ln_cell_l0").shape == (H,)


LEARNING = [name for name, cell in CELLS.items() if "learned_state" in cell.options]


def expanded(layer: LSTM, batch: int) -> tuple[Tensor, ...]:
    """The learned state as if it were given."""
    names = [name for name, _ in layer.named_parameters() if "_0_l" in name]
    kinds = list(dict.fromkeys(name.split("_l")[0] for name in names))
    assert kinds == [f"{state}_0" for state in layer.variant.cell.states]
    parts = [[layer.get_parameter(name) for name in names if name.startswith(f"{kind}_")] for kind in kinds]
    return tuple(torch.stack([part.expand(batch, -1) for part in one]) for one in parts)


@pytest.mark.parametrize(("cell", "proj_size"), [*((cell, 0) for cell in LEARNING), *((cell, P) for cell in PROJECTED)])
def test_a_learned_state_starts_sequences_and_restarts(cell: str, proj_size: int):
    layer = seeded(cell=cell, learned_state=True, num_layers=2, bidirectional=True, proj_size=proj_size)
    x = inputs()
    for name, value in layer.named_parameters():
        assert "_0_l" not in name or not value.any()
    fresh = expanded(layer, B)
    zeros = tuple(torch.zeros_like(part) for part in fresh)
    assert_close(layer(x)[0], layer(x, zeros)[0])
    spread(layer)
    learned = expanded(layer, B)
    (y, state), (y_given, state_given) = layer(x), layer(x, learned)
    for a, b in zip((y, *state), (y_given, *state_given), strict=True):
        assert_close(a, b)
    # A row that restarts before its first step takes the learned state in place of what is given.
    reset = torch.zeros(T, B, dtype=torch.bool)
    reset[0, 1] = reset[2, 1] = True
    other = tuple(part + 0.3 for part in learned)
    pieces = seeded(cell=cell, learned_state=True, proj_size=proj_size)
    pieces.load_state_dict({k: v for k, v in layer.state_dict().items() if "_l0" in k and "reverse" not in k})
    alone = torch.cat([pieces(x[:2, 1:2])[0], pieces(x[2:, 1:2])[0]])
    assert_close(pieces(x, tuple(part[:1] for part in other), reset=reset)[0][:, 1:2], alone)


@pytest.mark.parametrize("cell", LEARNING)
def test_a_learned_state_gets_gradients(cell: str):
    layer = seeded(cell=cell, learned_state=True, num_layers=2, bidirectional=True)
    spread(layer)
    x = inputs()
    layer(x)[0].square().sum().backward()
    starts = {name: value for name, value in layer.named_parameters() if "_0_l" in name}
    assert len(starts) == 4 * len(CELLS[cell].states)
    by_default = {name: value.grad for name, value in starts.items()}
    learned = tuple(part.detach().requires_grad_() for part in expanded(layer, B))
    layer.zero_grad()
    layer(x, learned)[0].square().sum().backward()
    for index, (kind, part) in enumerate(zip(layer.variant.cell.states, learned, strict=True)):
        assert part.grad is not None, index
        for place, suffix in enumerate(("_l0", "_l0_reverse", "_l1", "_l1_reverse")):
            got = by_default[f"{kind}_0{suffix}"]
            assert got is not None
            assert got.any()
            assert_close(got, part.grad[place].sum(0))
    assert all(value.grad is None for value in starts.values())
    # With a given state only restarts reach the learned one.
    layer.zero_grad()
    reset = torch.zeros(T, B, dtype=torch.bool)
    reset[2, 0] = True
    layer(x, tuple(part.detach() for part in learned), reset=reset)[0].square().sum().backward()
    assert all(value.grad is not None and value.grad.any() for value in starts.values())


@pytest.mark.parametrize(
    "options",
    [{}, {"bidirectional": True}, {"proj_size": P}, {"proj_size": P, "nonrecurrent_proj_size": N}, {"cell": "rnn"}],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:residual=True acts from the third layer up")
@pytest.mark.parametrize("layers", [2, 3, 4])
def test_residual_adds_the_input_from_the_third_layer_up(options: dict[str, Any], layers: int):
    stack = seeded(num_layers=layers, residual=True, **options)
    spread(stack)
    y = inputs()
    finals: list[tuple[Tensor, ...]] = []
    for k in range(layers):
        single = LSTM(y.shape[-1], H, dtype=torch.float64, **options)
        named = {name.replace(f"_l{k}", "_l0"): value for name, value in stack.state_dict().items() if f"_l{k}" in name}
        single.load_state_dict(named)
        out, state = single(y)
        y = out + y if k >= 2 else out
        finals.append(state)
    output, state = stack(inputs())
    assert_close(output, y)
    for got, parts in zip(state, zip(*finals, strict=True), strict=True):
        assert_close(got, torch.cat(parts))
    plain = LSTM(D, H, layers, dtype=torch.float64, **options)
    plain.load_state_dict(stack.state_dict())
    assert torch.equal(plain(inputs())[0], output) == (layers < 3)


def test_residuals_pass_by_the_dropout_between_layers():
    stack = seeded(num_layers=3, residual=True, dropout=1.0)
    spread(stack)
    traced, _, traces = stack(inputs(), trace=True)
    # With everything dropped the third layer reads zeros; what it adds is the second layer's whole output.
    third = seeded()
    third.load_state_dict(
        {k.replace("_l2", "_l0"): v for k, v in stack.state_dict().items() if "_l2" in k}
        | {"weight_ih_l0": torch.zeros(4 * H, D, dtype=torch.float64)}
    )
    assert_close(traced, third(inputs())[0] + traces[1]["h"])
    assert_close(traces[2]["h"], third(inputs())[0])


CLIPPED = [name for name, cell in CELLS.items() if "clip" in cell.options]


@pytest.mark.parametrize("cell", CLIPPED)
@pytest.mark.parametrize("clip", [0.25, 1, 1e9])
def test_clip_bounds_every_gates_pre_activation(cell: str, clip: float):
    free, layer = seeded(cell=cell), seeded(cell=cell, clip=clip)
    spread(free)
    layer.load_state_dict(free.state_dict())
    x = 5 * inputs()
    with torch.no_grad():
        (y, _, traces), (y_free, _, _) = layer(x, trace=True), free(x, trace=True)
    # Not torch.equal: the same numbers in another memory order take torch's other loops.
    assert ((y - y_free).abs().max() <= 1e-12) == (clip > 1e6)
    bound = torch.tensor(float(clip), dtype=torch.float64)
    squashed = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "identity": lambda v: v, "relu": torch.relu}
    squashed["wide_sigmoid"] = lambda v: 4 * torch.sigmoid(v) - 2
    reached = 0
    for gate in CELLS[cell].learned if cell != "slstm" else [CELLS[cell].gate("g"), CELLS[cell].gate("o")]:
        low, high = squashed[gate.squash](-bound), squashed[gate.squash](bound)
        value = traces[0][gate.name]
        assert value.min() >= low - 1e-15
        assert value.max() <= high + 1e-15
        reached += int((value == high).sum())
    assert (reached > 0) == (clip < 1e6)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("gradient", [False, True])
def test_the_second_projection_stands_beside_h(bidirectional: bool, gradient: bool):
    layer = seeded(num_layers=2, proj_size=P, nonrecurrent_proj_size=N, bidirectional=bidirectional)
    spread(layer)
    sides = 1 + bidirectional
    assert layer.get_parameter("weight_hp_l1").shape == (N, H)
    # The second layer reads both projections of the first.
    assert layer.get_parameter("weight_ih_l1").shape == (4 * H, sides * (P + N))
    with torch.set_grad_enabled(gradient):
        output, (h, c), traces = layer(inputs(), trace=True)
    assert (output.shape, h.shape, c.shape) == ((T, B, sides * (P + N)), (2 * sides, B, P), (2 * sides, B, H))
    for side, part in enumerate(output.split(P + N, dim=2)):
        trace, suffix = traces[sides + side], "_l1_reverse" if side else "_l1"
        m = trace["o"] * trace["c"].tanh()
        for name, value in (("weight_hr", part[..., :P]), ("weight_hp", part[..., P:])):
            assert_close(value, m @ layer.get_parameter(name + suffix).T)
    whole = seeded(proj_size=P, nonrecurrent_proj_size=N, bidirectional=bidirectional)
    whole.load_state_dict({k: v for k, v in layer.state_dict().items() if "_l0" in k})
    second = LSTM(
        sides * (P + N), H, dtype=torch.float64, proj_size=P, nonrecurrent_proj_size=N, bidirectional=bidirectional
    )
    second.load_state_dict({k.replace("_l1", "_l0"): v for k, v in layer.state_dict().items() if "_l1" in k})
    assert_close(second(whole(inputs())[0])[0], output)
    # It does not recur.
    plain = seeded(proj_size=P, bidirectional=bidirectional)
    plain.load_state_dict({k: v for k, v in whole.state_dict().items() if "weight_hp" not in k})
    assert_close(whole(inputs())[1].h, plain(inputs())[1].h)


@pytest.mark.parametrize("cell", CELLS)
def test_parameters_have_the_shapes_that_the_variant_lists(cell: str):
    layer = LSTM(D, H, 2, cell=cell)
    for k, width in enumerate((D, H)):
        shapes = variant(cell).shapes(width, H)
        assert {name: tuple(layer.get_parameter(f"{name}_l{k}").shape) for name in shapes} == shapes
    assert len(list(layer.parameters())) == 2 * len(variant(cell).shapes(D, H))

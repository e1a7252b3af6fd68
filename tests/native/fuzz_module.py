"""Random calls of the torch modules: stacks of layers, single steps, padded, packed and single sequences."""

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from fuzz_drawing import HALVES, Draw, FarGradientError, Moved, check_edges, compare, engine, same_bits
from native_problem import Tensors, multiplies
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from gatewise import LSTM, LSTMCell, _native
from gatewise.spec import CELLS, Option

Call = Callable[[nn.Module, Sequence[Tensor]], Tensors]
"""Runs a module on x and the initial states; the results by name."""


def run_module(case: Draw) -> None:
    module = drawn_module(case)
    T, B = case.choice([1, case.randint(0, 12)]), case.choice([1, case.size(20)])
    form = case.choice(["padded", "padded", "single", "packed"])
    if form == "packed":
        T, B = max(T, 1), max(B, 1)
    case.note(T=T, B=B, form=form)
    first = module.batch_first and form != "single"
    shape = (T,) if form == "single" else (B, T) if first else (T, B)
    x = case.uniform_tensor(*shape, module.input_size)
    lengths = None if form == "single" else case.lengths(B, T)
    if form == "packed":
        lengths = [case.randint(1, T) for _ in range(B)]
    reset = None if form == "packed" else case.reset(T, B if form != "single" else 1)
    if reset is not None:
        reset = reset[:, 0] if form == "single" else reset.T if first else reset
    case.note(lengths=lengths, reset=None if reset is None else int(reset.sum()))
    given = [x, *drawn_states(case, module, () if form == "single" else (B,))]
    ends, cut = case.given_lengths(lengths) if form == "padded" else None, reset
    cut = cut if cut is None else case.layout(cut)
    trace = case.flag(0.15)
    case.note(trace=trace, hx=len(given) > 1)

    def call(layer: nn.Module, tensors: Sequence[Tensor], trace: bool = trace) -> Tensors:
        sequence, *states = tensors
        hx = (tuple(states) if len(states) > 1 else states[0]) if states else None
        fed: Tensor | PackedSequence = sequence
        if form == "packed":
            fed = pack_padded_sequence(sequence, torch.tensor(lengths), batch_first=first, enforce_sorted=False)
        y, state, *traces = layer(fed, hx, lengths=ends, reset=cut, trace=trace)
        results = {"y": y.data if isinstance(y, PackedSequence) else y}
        results |= {f"state.{name}": value for name, value in state._asdict().items()}
        for number, values in enumerate(traces[0] if traces else []):
            results |= {f"{number}.{k}": v.data if isinstance(v, PackedSequence) else v for k, v in values.items()}
        return results

    check(case, module, call, given, lambda layer, tensors: call(layer, tensors, trace=True))


def run_cell(case: Draw) -> None:
    name, options = drawn_cell(case, {"peephole", "layer_norm", "clip"})
    module = LSTMCell(case.size(40), case.size(72), bias=case.flag(0.8), cell=name, **options, backend="native")
    redraw(case, module)
    rows: tuple[int, ...] = () if case.flag(0.2) else (case.choice([0, 1, case.size(40)]),)
    case.note(module=repr(module), rows=rows)
    given = [case.uniform_tensor(*rows, module.input_size)]
    if case.flag():
        given += [case.uniform_tensor(*rows, module.hidden_size).abs() + 0.1 for _ in CELLS[name].states]

    def call(cell: nn.Module, tensors: Sequence[Tensor]) -> Tensors:
        x, *states = tensors
        hx = tuple(states) or None
        for _ in range(2):
            hx = cell(x, hx)
        return dict(zip(CELLS[name].states, hx or (), strict=True))

    def traced(cell: nn.Module, tensors: Sequence[Tensor]) -> Tensors:
        """The same two steps by a layer with the cell's weights."""
        layer = LSTM(module.input_size, module.hidden_size, bias=module.bias, cell=name, **options)
        layer.load_state_dict({f"{key}_l0": value for key, value in cell.state_dict().items()})
        layer.to(tensors[0].dtype).backend = str(cell.backend)
        x, *states = [tensor[None] for tensor in tensors]
        hx = (tuple(states) if len(states) > 1 else states[0]) if states else None
        _, _, traces = layer(x.expand(2, *x.shape[1:]), hx, trace=True)
        return dict(traces[0])

    check(case, module, call, given, traced)


def drawn_cell(case: Draw, allowed: set[Option]) -> tuple[str, dict[str, Any]]:
    name = case.choice(["lstm", "lstm", *CELLS])
    able = CELLS[name].options & allowed
    options: dict[str, Any] = {option: True for option in sorted({"peephole", "layer_norm"} & able) if case.flag(0.2)}
    if "clip" in able and case.flag(0.2):
        options["clip"] = case.choice([0.1, 0.7, 2.0])
    return name, options


def drawn_module(case: Draw) -> LSTM:
    name, options = drawn_cell(case, {"peephole", "layer_norm", "clip"})
    able, hidden = CELLS[name].options, case.size(48)
    if "projection" in able and hidden > 1 and case.flag(0.25):
        options |= {
            "proj_size": case.randint(1, hidden - 1),
            "nonrecurrent_proj_size": case.choice([0, 0, case.size(9)]),
        }
    if "learned_state" in able:
        options["learned_state"] = case.flag(0.15)
    for option in ("bias", "batch_first", "bidirectional"):
        options[option] = case.flag()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of residual where there is no third layer
        layers, save, residual = case.randint(1, 3), case.choice(["all", "states"]), case.flag(0.2)
        module = LSTM(
            case.size(33), hidden, layers, cell=name, save=save, residual=residual, backend="native", **options
        )
    if "zoneout" in able and case.flag(0.1):
        # Numbers that every dtype has.
        module.zoneout = (0.25, 0.125) if "c" in CELLS[name].states else 0.25
        module.eval()
    redraw(case, module)
    case.note(module=repr(module), zoneout=module.zoneout)
    return module


def redraw(case: Draw, module: nn.Module) -> None:
    """All parameters random, those too that start as zeros or ones; some that lie anyhow in memory."""
    for name, parameter in module.named_parameters():
        size = 1.0 if parameter.dim() < 2 else parameter.shape[-1] ** -0.5
        values = case.uniform_tensor(*parameter.shape) * size
        if name.startswith("n_0"):
            values = values.abs() + 0.5
        parameter.data = case.layout(values) if case.flag(0.1) else values


def drawn_states(case: Draw, module: LSTM, rows: Sequence[int]) -> list[Tensor]:
    if case.flag():
        return []
    count = module.num_layers * (1 + module.bidirectional)
    drawn: list[Tensor] = []
    for name, size in module.variant.state_sizes(module.hidden_size).items():
        values = case.uniform_tensor(count, *rows, size)
        # A normaliser is a sum of positive weights, and a gate is mostly between zero and one.
        drawn.append(values if name in "hcm" else values.abs() + 0.5)
    return drawn


class Wanted(NamedTuple):
    """A call of a module: what its results weigh, which leaves want a gradient, and in which dtype it is made."""

    call: Call
    names: Sequence[str]
    leaves: Sequence[str]
    seed: int
    dtype: torch.dtype

    def outcome(self, module: Any, given: Sequence[Tensor], keep: bool = False) -> Tensors:
        """Results and gradients by name, gradients with a d before them; ``keep`` has them twice."""
        own = [tensor.detach() for tensor in given]
        by_name = dict(zip(self.names, [*own, *module.parameters()], strict=True))
        for name, leaf in by_name.items():
            leaf.requires_grad_(name in self.leaves)
        # Where the reference is asked for half the width, it too is to compute in float32, which autocast does.
        cast = module.backend == "reference" and own[0].dtype in HALVES
        with torch.autocast("cpu", self.dtype if cast else None, enabled=cast):
            values = self.call(module, own)
        found = {name: value.detach() for name, value in values.items()}
        outputs = {name: value for name, value in values.items() if value.requires_grad}
        generator = torch.Generator().manual_seed(self.seed)
        # Drawn for all results: which of them depend on a leaf is not the same for every backend.
        drawn = {name: torch.rand(value.shape, generator=generator) * 2 - 1 for name, value in values.items()}
        pulls = [drawn[name].to(self.dtype).to(own[0].dtype) for name in outputs]
        if not outputs:
            # Nothing depends on anything, which the reference says of no steps, and the engine by zeros.
            return found | {f"d {name}": torch.zeros_like(by_name[name]) for name in self.leaves}

        def gradients(retain: bool) -> Tensors:
            inputs, results = [by_name[name] for name in self.leaves], list(outputs.values())
            ds = torch.autograd.grad(
                results, inputs, pulls, retain_graph=retain, allow_unused=True, materialize_grads=True
            )
            return {f"d {name}": d for name, d in zip(self.leaves, ds, strict=True)}

        first = gradients(keep)
        if keep:
            same_bits("a second backward", gradients(False), first)
        return found | first


def check(case: Draw, module: Any, call: Call, given: Sequence[Tensor], traced: Call) -> None:
    """Forward and backward on the engine, twice, and by the reference; ``traced`` is the call with its gates."""
    names = ["x", *(f"hx{i}" for i in range(len(given) - 1)), *dict(module.named_parameters())]
    leaves = case.some(names, case.choice([0.2, 0.9])) if case.flag() else names
    dtype = case.dtype(module.variant, module.hidden_size)
    wanted = Wanted(call, names, leaves, case.randrange(1 << 30), dtype)
    keep = case.flag()
    case.note(leaves=leaves, twice=keep, dtype=dtype)
    module, given = module.to(dtype), [tensor.to(dtype) for tensor in given]
    with engine(case):
        laid = [case.layout(tensor) for tensor in given]
        ours = wanted.outcome(module, laid, keep)
        alone = without_gradients(wanted, module, laid)
        torch.set_num_threads(1)
        other = copy.deepcopy(module)
        if hasattr(other, "save"):
            other.save = "states" if other.save == "all" else "all"
        same_bits("layout, threads and save", wanted.outcome(other, given), ours)
        if dtype is torch.bfloat16 and _native.multiplies_bfloat16():
            same_bits("layout and threads without gradients", without_gradients(wanted, other, given), alone)
        else:
            same_bits("gradients", alone, {name: ours[name] for name in alone})
    hold(module, wanted, given, ours, traced)


@torch.no_grad()
def without_gradients(wanted: Wanted, module: Any, given: Sequence[Tensor]) -> Tensors:
    return wanted.call(module, given)


def hold(module: Any, wanted: Wanted, given: Sequence[Tensor], ours: Tensors, traced: Call) -> None:
    """Hold the results of a call to the reference."""
    dtype, variant = wanted.dtype, module.variant
    between = dtype in HALVES and rounds_between(module)
    if between and (variant.clip is not None or any(gate.squash == "relu" for gate in variant.cell.learned)):
        # Rounding decides on which side of an edge a gate is, and here it is coarse.
        ours = {name: value for name, value in ours.items() if not name.startswith("d ")}
    # In which the neighbours are next to each other.
    near = dtype if between else torch.float32

    def reference(dtype: torch.dtype, seed: int) -> Tensors:
        move, peer = Moved(seed), copy.deepcopy(module).to(near)
        own = [move(tensor.to(near)) if seed else tensor for tensor in given]
        if seed:
            for parameter in peer.parameters():
                parameter.data = move(parameter.data)
        peer.to(dtype).backend = "reference"
        found = wanted.outcome(peer, [tensor.to(dtype) for tensor in own])
        return {name: found[name] for name in ours}

    try:
        compare(ours, reference, 3 if multiplies(variant) else 2, dtype, between=between)
    except FarGradientError:
        exact, same = copy.deepcopy(module).double(), copy.deepcopy(module)
        exact.backend = "reference"
        if dtype in HALVES:
            same.float()
        width = next(same.parameters()).dtype
        with torch.no_grad():
            gates = traced(same, [tensor.to(width) for tensor in given])
            check_edges(gates, traced(exact, [tensor.double() for tensor in given]), variant)
        raise


def rounds_between(module: Any) -> bool:
    """Whether results are rounded on the way to others: of layers, of steps, and of rows whose sum a gradient is."""
    return isinstance(module, LSTMCell) or module.num_layers > 1 or module.learned_state

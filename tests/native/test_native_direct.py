"""The short way: what fits it, and what does not; that it gives the same as the long way, and keeps nothing alive."""

import ctypes
import sys
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from native_stack import BACKEND, assert_near, assert_same
from torch import Tensor, nn

from gatewise import LSTM, LSTMCell, _native, ops
from gatewise.errors import InputError
from gatewise.ops import direct
from gatewise.ops.native import KEPT, dense, empty
from gatewise.spec import variant

T, B, D, H = 4, 3, 3, 5
VARIANT = variant("lstm")
SHAPES = VARIANT.shapes(D, H)
NAMES = {kind: kind for kind in SHAPES}


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape) + sum(shape)))


def weights() -> dict[str, Tensor]:
    return {name: nn.Parameter(draw(*shape) / 2) for name, shape in SHAPES.items()}


def run(parameters: Mapping[str, Any], x: Any, hx: object = None, batch_first: bool = False) -> Any:
    return ops.Direct(VARIANT, D, H, [NAMES], 1).run(parameters, x, hx, batch_first, "all")


class Tagged(Tensor):
    """A tensor that is more than its values."""


def _misaligned(tensor: Tensor) -> Tensor:
    memory = bytearray(1 + tensor.numel() * 4)
    return torch.frombuffer(memory, dtype=torch.float32, offset=1).view(tensor.shape).copy_(tensor)


def _shrunk(tensor: Tensor) -> Tensor:
    tensor = tensor.clone()
    tensor.untyped_storage().resize_(tensor.numel() * 4 - 4)
    return tensor


def _end_of_a_shrunk(tensor: Tensor) -> Tensor:
    both = torch.cat([tensor, tensor])
    part = both[len(tensor) :]
    both.untyped_storage().resize_(both.numel() * 4 - 4)
    return part


def _freed(tensor: Tensor) -> Tensor:
    tensor = tensor.clone()
    tensor.untyped_storage().resize_(0)
    return tensor


# Two-dimensional tensors, and three-dimensional ones, that the engine cannot read as they are.
STRANGE: dict[str, Callable[[Tensor], Any]] = {
    "double": Tensor.double,
    "half": Tensor.half,
    "bfloat16": Tensor.bfloat16,
    "integers": Tensor.int,
    "complex": lambda tensor: tensor.to(torch.complex64),
    "transposed": lambda tensor: tensor.transpose(-1, -2).contiguous().transpose(-1, -2),
    "every second": lambda tensor: tensor.repeat_interleave(2, -1)[..., ::2],
    "negated": torch._neg_view,  # pyright: ignore[reportPrivateImportUsage]
    "misaligned": _misaligned,
    "sparse": Tensor.to_sparse,
    "compressed": lambda tensor: tensor.to_sparse_csr() if tensor.dim() == 2 else tensor.to_sparse(),
    "nested": lambda tensor: torch.nested.nested_tensor(list(tensor)),
    "jagged": lambda tensor: torch.nested.nested_tensor(list(tensor), layout=torch.jagged),
    "mkldnn": Tensor.to_mkldnn,
    "meta": lambda tensor: tensor.to("meta"),
    "no memory": lambda tensor: torch._efficientzerotensor(tensor.shape),  # pyright: ignore[reportPrivateImportUsage]
    "subclass": lambda tensor: tensor.as_subclass(Tagged),
    "shrunk": _shrunk,
    "end of a shrunk": _end_of_a_shrunk,
    "freed": _freed,
    "shorter": lambda tensor: tensor[:-1].clone(),
    "wider": lambda tensor: torch.cat([tensor, tensor[..., :1]], -1),
    "flat": Tensor.flatten,
    "deeper": lambda tensor: tensor.reshape(1, 1, *tensor.shape),
    "none": lambda tensor: None,
    "array": lambda tensor: tensor.numpy(),
    "list": Tensor.tolist,
}


@pytest.mark.filterwarnings("ignore:.* support is in beta", "ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("kind", STRANGE)
def test_what_the_engine_cannot_read_does_not_fit(kind: str):
    strange, parameters, x = STRANGE[kind], weights(), draw(T, B, D)
    state = draw(1, B, H), draw(1, B, H)
    with torch.no_grad():
        assert run(parameters, x, state) is not None
        weight = strange(parameters["weight_hh"].detach())
        assert run(parameters | {"weight_hh": weight}, x, state) is None
        assert run(parameters, x, (state[0], strange(state[1]))) is None
        if kind != "shorter":
            assert run(parameters, strange(x), state) is None


@pytest.mark.usefixtures("isa")
def test_what_fits_although_it_is_not_contiguous():
    x, padded = draw(T, B, D), torch.full((B, 2 * T, D + 2), torch.nan)
    padded[:, ::2, 1:-1] = x.transpose(0, 1)
    view = padded[:, ::2, 1:-1]
    with torch.no_grad():
        expected = run(weights(), x)
        first = run(weights(), view, batch_first=True)
        assert_same([first[0].transpose(0, 1), *first[1:]], expected)
        assert_same(run(weights(), view.transpose(0, 1)), expected)
        one = x[:, :1]
        state = (draw(1, H, 1).transpose(1, 2), draw(H, 1, 1).transpose(0, 2))
        # Sizes of 1 may have any stride.
        assert_same(run(weights(), one, state), run(weights(), one, tuple(part.contiguous() for part in state)))


def test_calls_of_other_kinds_do_not_fit():
    parameters, x, state = weights(), draw(T, B, D), (draw(1, B, H), draw(1, B, H))
    short = dict(parameters)
    del short["bias_ih"]
    calls: list[tuple[Any, ...]] = [
        (short, x),
        (parameters, x, state[0]),
        (parameters, x, list(state)),
        (parameters, x, ()),
        (parameters, x, state[:1]),
        (parameters, x, (*state, state[0])),
        (parameters, x, state, True),
        (parameters, x[0]),
        (parameters, x[:0]),
        (parameters, x[:, :0]),
    ]
    assert [run(*call) for call in calls] == [None] * len(calls)


def test_an_error_of_the_parameters_is_passed_on():
    class Broken(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(Broken(weights()), draw(T, B, D))


SWAPPED = ["transposed", "every second", "negated", "misaligned"]


def results(layer: Any, x: Tensor, gradient: bool) -> list[Tensor]:
    with torch.set_grad_enabled(gradient):
        y, (h, c) = layer(x)
        if not gradient:
            return [y, h, c]
        loss = (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum() + h.sum() + c.square().sum()
        return [y.detach(), h.detach(), c.detach(), *torch.autograd.grad(loss, list(layer.parameters()))]


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("kind", SWAPPED)
@pytest.mark.usefixtures("isa")
def test_what_does_not_fit_goes_the_long_way(kind: str, gradient: bool):
    layer, x = LSTM(D, H, 2, bidirectional=True, backend=BACKEND), draw(T, B, D)
    expected = results(layer, x, gradient)
    weight = layer.get_parameter("weight_hh_l1")
    other = STRANGE[kind](weight.data)
    # A negated view reads as the opposite of what it was made from.
    weight.data = other if kind != "negated" else STRANGE[kind](-weight.data)
    assert_same(results(layer, x, gradient), expected)


def test_without_an_exchange_all_go_the_long_way(monkeypatch: pytest.MonkeyPatch):
    layer, x = LSTM(D, H, 2, bidirectional=True, backend=BACKEND), draw(T, B, D)
    cell = LSTMCell(D, H, backend=BACKEND)
    monkeypatch.setattr(direct, "_TORCH", None)
    old, old_cell = LSTM(D, H, 2, bidirectional=True, backend=BACKEND), LSTMCell(D, H, backend=BACKEND)
    old.load_state_dict(layer.state_dict())
    old_cell.load_state_dict(cell.state_dict())
    assert ops.Direct(VARIANT, D, H, [NAMES], 1).run(weights(), x, None, False, "all") is None
    for gradient in (False, True):
        assert_same(results(old, x, gradient), results(layer, x, gradient))
    assert_same(old_cell(x[0]), cell(x[0]))


class Head(ctypes.Structure):
    """The part of an exchange that does not change from version to version; then its functions."""

    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("older", ctypes.c_void_p),
        ("functions", ctypes.c_void_p * 5),
    ]


def test_the_exchange_is_of_a_version_that_is_understood():
    def read(exchange: object) -> object:
        return _native.torch(exchange, (Tensor, nn.Parameter), KEPT, empty, torch.bfloat16, dense)

    def capsule(head: Head) -> object:
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        return new(ctypes.addressof(head), b"dlpack_exchange_api", None)

    # One version before 1, whose functions nobody knows, and one that has no function to read a tensor.
    unknown, empty_one = Head(0, 9, None), Head(1, 3, None)
    newer = Head(2, 0, ctypes.addressof(empty_one))
    assert [read(None), *(read(capsule(head)) for head in (unknown, empty_one, newer))] == [None] * 4
    known = Head(1, 3, None)
    known.functions[3] = 1
    newer.older = ctypes.addressof(known)
    assert isinstance(read(capsule(known)), _native.Torch)
    assert isinstance(read(capsule(newer)), _native.Torch)
    with pytest.raises(ValueError, match="PyCapsule_GetPointer"):
        read(object())


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("name", ["lstm", "rnn", "slstm", "fgr", "peephole"])
@pytest.mark.usefixtures("isa")
def test_a_step_is_the_reference(name: str, given: bool):
    def step(backend: str, dtype: torch.dtype) -> list[Tensor]:
        torch.manual_seed(0)
        cell = LSTMCell(D, H, cell=name, backend=backend).to(dtype)
        x = draw(B, D).to(dtype).requires_grad_()
        count = len(cell.variant.state_sizes(H))
        state = [(draw(B, H).abs() / (1 + i)).to(dtype).requires_grad_() for i in range(count)] if given else []
        first = cell(x, tuple(state) or None)
        second = cell(x.sin(), first)
        loss = sum((part * (1 + i)).sum() + first[i].square().sum() for i, part in enumerate(second))
        assert isinstance(loss, Tensor)
        found = torch.autograd.grad(loss, [x, *state, *cell.parameters()], create_graph=True)
        twice = torch.autograd.grad(found[0].sin().sum(), [x, *cell.parameters()])
        return [part.detach() for part in (*first, *second, *found, *twice)]

    assert_near(
        step(BACKEND, torch.float32), step("reference", torch.float32), step("reference", torch.float64), bound=4e-6
    )


def test_a_step_takes_the_short_way():
    step = ops.Direct(VARIANT, D, H, [NAMES], 0)
    parameters, x, state = weights(), draw(B, D), (draw(B, H), draw(B, H))
    strided = torch.cat([x, x], 1)[:, D:]
    for gradient in (False, True):
        with torch.set_grad_enabled(gradient):
            h, c = step.run(parameters, x, state, False, "all") or (x, x)
            assert h.shape == c.shape == (B, H)
            # h is y: a layer's step has both.
            y, *final = run(parameters, x[None], tuple(part[None] for part in state))
            assert_same([h, h, c], [y[0], *(part[0] for part in final)])
            assert_same(step.run(parameters, strided, state, True, "all") or (), (h, c))
            assert step.run(parameters, x[None], None, False, "all") is None
            assert step.run(parameters, x[0], None, False, "all") is None


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.usefixtures("isa")
def test_each_gradient_can_be_had_alone(directions: int):
    layer = LSTM(D, H, 2, bidirectional=directions == 2, backend=BACKEND)
    state = [draw(2 * directions, B, H), draw(2 * directions, B, H).sin()]
    leaves = [draw(T, B, D), *state, *layer.parameters()]

    def gradients(result: int, wanted: list[Tensor]) -> list[Tensor]:
        for leaf in leaves:
            leaf.requires_grad_(any(leaf is one for one in wanted))
        y, final = layer(leaves[0], tuple(leaves[1:3]))
        found = torch.autograd.grad((y, *final)[result].square().sum(), wanted, allow_unused=True)
        return [torch.zeros(()) if part is None else part for part in found]

    for result in range(3):
        together = gradients(result, leaves)
        assert all(bool(part.any()) for part in together)
        for leaf, expected in zip(leaves, together, strict=True):
            assert_same(gradients(result, [leaf]), [expected])


def test_a_longer_sequence_in_the_place_of_a_saved_one_is_an_error():
    """What was kept would be read past its end."""
    layer, x = LSTM(D, H, backend=BACKEND), draw(T, B, D).requires_grad_()
    _, (_, c) = layer(x)
    x.data = torch.zeros(2 * T, B, D)
    with pytest.raises(InputError, match="changed its shape or its memory"):
        c.sum().backward()


@pytest.mark.parametrize("spoil", ["shrunk", "freed", "double", "misaligned", "transposed", "shorter", "wider"])
@pytest.mark.parametrize("which", ["x", "weight"])
def test_saved_tensors_are_looked_at_again(which: str, spoil: str):
    layer, x = LSTM(D, H, backend=BACKEND), draw(T, B, D).requires_grad_()
    weight = layer.get_parameter("weight_hh_l0")
    y, _ = layer(x)
    changed = x if which == "x" else weight
    changed.data = STRANGE[spoil](changed.data)
    with pytest.raises((InputError, RuntimeError)):
        y.sum().backward()


@pytest.mark.parametrize("size", [0, T * B * H * 4 - 4])
def test_outputs_whose_memory_has_gone_are_an_error(size: int):
    layer = LSTM(D, H, backend=BACKEND)
    y, _ = layer(draw(T, B, D))
    loss = y.sum()
    y.untyped_storage().resize_(size)
    with pytest.raises(InputError, match="storage is smaller than its shape"):
        loss.backward()


@pytest.mark.parametrize("kind", ["expanded", "transposed", "negated", "misaligned", "every second"])
@pytest.mark.usefixtures("isa")
def test_gradients_come_in_any_memory(kind: str):
    layer, x = LSTM(D, H, backend=BACKEND), draw(T, B, D)
    y, (h, _) = layer(x)
    dy, dh = draw(T, B, H), draw(1, B, H)
    strange = STRANGE[kind] if kind in STRANGE else lambda tensor: tensor[:1, :1, :1].expand(tensor.shape)
    odd = strange(dy), strange(dh)
    plain = tuple(part.resolve_neg().contiguous().clone() for part in odd)
    leaves = list(layer.parameters())
    expected = torch.autograd.grad((y, h), leaves, plain, retain_graph=True)
    assert_same(torch.autograd.grad((y, h), leaves, odd), expected)


def test_a_gradient_may_be_of_any_class():
    ours, peer = LSTM(D, H, backend=BACKEND), LSTM(D, H, backend=BACKEND)
    peer.load_state_dict(ours.state_dict())
    for layer, kind in ((ours, Tagged), (peer, Tensor)):
        y, _ = layer(draw(T, B, D))
        y.backward(draw(T, B, H).as_subclass(kind))
    assert_same([p.grad for p in ours.parameters()], [p.grad for p in peer.parameters()])  # pyright: ignore[reportArgumentType] - they are there


@pytest.mark.parametrize("save", ["nothing", "some"])
def test_a_word_of_no_meaning_is_told(save: str):
    layer = LSTM(D, H, backend=BACKEND)
    layer.save = save
    with torch.no_grad(), pytest.raises(InputError, match="save must be one of all, states"):
        layer(draw(T, B, D))


def test_batch_first_may_be_a_number():
    layer = LSTM(D, H, batch_first=True, backend=BACKEND)
    x = draw(B, T, D)
    expected = layer(x)[0]
    layer.batch_first = 1  # pyright: ignore[reportAttributeAccessIssue] - which is what is tried
    assert_same([layer(x)[0]], [expected])


def test_what_hooks_hand_back_serves_for_more_than_one_backward():
    layer, x = LSTM(D, H, 2, bidirectional=True, backend=BACKEND), draw(T, B, D)
    leaves = list(layer.parameters())
    expected = torch.autograd.grad(layer(x)[0].sum(), leaves)
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, torch.clone):
        y, _ = layer(x)
    for _ in range(2):
        assert_same(torch.autograd.grad(y.sum(), leaves, retain_graph=True), expected)


def test_large_results_lie_in_the_engines_memory():
    layer = LSTM(D, 64, backend=BACKEND)
    small, large = draw(4, 32, D), draw(32, 32, D)
    torch.use_deterministic_algorithms(False)
    with torch.no_grad():
        assert layer(small)[0].untyped_storage().resizable()
        y, _ = layer(large)
        assert not y.untyped_storage().resizable()
    assert_same([layer(large)[0].detach()], [y])


def test_calls_leave_no_references():
    layer = LSTM(D, H, 2, bidirectional=True, backend=BACKEND)
    x, state = draw(T, B, D).requires_grad_(), (draw(4, B, H), draw(4, B, H))
    cotangent, odd = draw(T, B, 2 * H), draw(B, T, D).transpose(0, 2)
    parameters = dict(layer.named_parameters())
    watched = [x, state, *state, cotangent, odd, *parameters.values(), *parameters, None, 0, H, T, "all", "new"]

    def call() -> None:
        with torch.no_grad():
            layer(x, state)
        y, _ = layer(x, state)
        torch.autograd.grad(y, [x, *layer.parameters()], cotangent)
        assert layer._direct.run(layer._parameters, odd, None, False, "all") is None
        assert layer._direct.run(layer._parameters, x, state[:1], False, "all") is None
        assert layer._direct.run({}, x, state, False, "all") is None
        given = x.sin()
        y, _ = layer(given, state)
        given.data = odd
        with pytest.raises(InputError):
            torch.autograd.grad(y, given, cotangent)

    call()
    before = [sys.getrefcount(each) for each in watched]
    for _ in range(100):
        call()
    after = [sys.getrefcount(each) for each in watched]
    assert [b - a for a, b in zip(before, after, strict=True) if abs(b - a) >= 50] == []


def test_results_end_with_their_last_reference():
    layer, x = LSTM(D, H, backend=BACKEND), draw(T, B, D)
    for gradient in (False, True):
        with torch.set_grad_enabled(gradient):
            y, (h, c) = layer(x)
        ends = [weakref.ref(part) for part in (y, h, c)]
        del y, h, c
        assert [end() for end in ends] == [None] * 3

"""The choice of a backend: every obstacle is seen, and no call it concerns reaches native memory."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from gatewise import ops
from gatewise.errors import InputError
from gatewise.ops import Direction, Noise, Weights, explain, layer, lstm
from gatewise.ops.support import BACKENDS, OBSTACLES
from gatewise.reference import scan
from gatewise.spec import variant

T, B, D, H = 3, 2, 4, 5


def _layer() -> tuple[tuple[Tensor, Tensor], Weights]:
    generator = torch.Generator().manual_seed(0)
    weight_ih, weight_hh = torch.randn(4 * H, D, generator=generator), torch.randn(4 * H, H, generator=generator)
    return (torch.zeros(B, H), torch.zeros(B, H)), Weights(weight_ih, weight_hh)


STATE, WEIGHTS = _layer()
X = torch.randn(T, B, D, generator=torch.Generator().manual_seed(1))


class Tagged(Tensor):
    pass


def auto(x: Tensor) -> Tensor:
    return lstm(x, STATE, WEIGHTS)[0]


def native(x: Tensor) -> Tensor:
    return lstm(x, STATE, WEIGHTS, backend="native")[0]


def truth(x: Tensor) -> Tensor:
    return scan(x, STATE, WEIGHTS)[0]


def test_the_table_uses_only_words_it_explains():
    for backend in BACKENDS.values():
        assert backend.stopped_by <= set(OBSTACLES)
    assert list(BACKENDS) == ["native", "torch", "reference"]


def test_a_plain_call_is_native():
    assert explain(X, [Direction(STATE, WEIGHTS)]) == ops.Choice("native", "first choice")
    assert explain(X, [Direction(STATE, WEIGHTS)], backend="torch").reason == "asked for by name"


def test_a_gradient_is_native_too():
    x = X.clone().requires_grad_()
    assert explain(x, [Direction(STATE, WEIGHTS)]) == ops.Choice("native", "first choice")
    assert torch.equal(auto(x), native(X))


def test_a_gradient_of_a_mask_goes_past_native_and_torch_and_says_why():
    mask = torch.ones(B, H, requires_grad=True)
    directions = [Direction(STATE, WEIGHTS, noise=Noise(recurrent=mask))]
    whose = "a gradient of a dropout or zoneout mask is needed"
    assert explain(X, directions) == ops.Choice(
        "reference", f"not native: {whose}; not torch: dropout or zoneout masks are given"
    )
    with pytest.raises(InputError, match=f"backend 'native' cannot serve this call: {whose}[.]"):
        explain(X, directions, backend="native")
    with torch.no_grad():
        assert explain(X, directions) == ops.Choice("native", "first choice")


@pytest.mark.parametrize("backend", ["auto", "native", "reference"])
@pytest.mark.parametrize(("cell", "name"), [("slstm", "h"), ("slstm", "c"), ("rnn", "c")])
def test_a_zoneout_mask_of_a_cell_that_has_none_is_refused(cell: str, name: str, backend: str):
    kind = variant(cell)
    weights = Weights(**{name: torch.zeros(shape) for name, shape in kind.shapes(D, H).items()})
    state = tuple(torch.zeros(B, H) for _ in kind.cell.states)
    directions = [Direction(state, weights, noise=Noise(**{name: torch.ones(T, B, H)}))]
    with pytest.raises(
        InputError, match=f"a mask of {name} is for cells with a state {name} and zoneout, unlike {cell!r}"
    ):
        layer(X, directions, kind, backend=backend)


def test_two_obstacles_are_both_named():
    with pytest.raises(InputError, match=r"is a tensor subclass, and the tensors are not on a device .*[.]$"):
        lstm(
            X.to("meta").as_subclass(Tagged),
            (STATE[0].to("meta"), STATE[1].to("meta")),
            Weights(WEIGHTS.weight_ih.to("meta"), WEIGHTS.weight_hh.to("meta")),
            backend="native",
        )


def _vmap(run: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.func.vmap(run)(torch.stack([X, 2 * X]))[1]


def _jvp(run: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.func.jvp(run, (X,), (torch.ones_like(X),))[1]


def _dual(run: Callable[[Tensor], Tensor]) -> Tensor:
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(run(forward_ad.make_dual(X, torch.ones_like(X)))).tangent
        assert tangent is not None
        return tangent


def _grad(run: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.func.grad(lambda x: run(x).square().sum())(X)


def _jacobian(run: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.func.jacrev(run)(X)


TRANSFORMS = {"vmap": _vmap, "jvp": _jvp, "dual": _dual, "grad": _grad, "jacrev": _jacobian}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own forward mode uses it
def test_transforms_are_served_and_right(transform: str):
    apply = TRANSFORMS[transform]
    expected = apply(truth)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(apply(auto), expected, rtol=0, atol=1e-5)
    with pytest.raises(InputError, match="backend 'torch' cannot serve this call"):
        apply(lambda x: lstm(x, STATE, WEIGHTS, backend="torch")[0])
    if transform in {"jvp", "dual"}:
        with pytest.raises(InputError, match="backend 'native' cannot serve this call: forward-mode"):
            apply(native)
    else:
        torch.testing.assert_close(apply(native), expected, rtol=0, atol=1e-5)


def test_functionalize_goes_past_native():
    def run(x: Tensor) -> Tensor:
        return torch.func.functionalize(auto)(x)

    torch.testing.assert_close(run(X), truth(X), rtol=0, atol=1e-6)
    with pytest.raises(InputError, match="functionalize is active"):
        torch.func.functionalize(native)(X)


def test_compiled_as_one_graph():
    compiled = torch.compile(auto, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(X), truth(X), rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traced():
    traced = torch.jit.trace(auto, X, check_trace=False)
    torch.testing.assert_close(traced(2 * X), truth(2 * X), rtol=0, atol=1e-6)  # pyright: ignore[reportCallIssue]


def test_fake_and_meta_tensors():
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert auto(torch.empty(T, B, D)).shape == (T, B, H)
    meta = lstm(X.to("meta"), (STATE[0].to("meta"), STATE[1].to("meta")), Weights(*(w.to("meta") for w in WEIGHTS[:2])))
    assert meta[0].shape == (T, B, H)
    assert meta[0].is_meta


def test_dispatch_modes_see_the_work():
    seen: list[str] = []

    class Log(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    with Log():
        auto(X)
    assert any("lstm" in name or "rnn" in name or "mm" in name for name in seen)


def test_subclasses_keep_to_torch():
    tagged = X.as_subclass(Tagged)
    assert explain(tagged, [Direction(STATE, WEIGHTS)]) == ops.Choice(
        "torch", "not native: an argument is a tensor subclass"
    )
    torch.testing.assert_close(auto(tagged).as_subclass(Tensor), truth(X), rtol=0, atol=1e-6)


def test_a_tensor_that_escaped_its_transform_does_not_reach_memory():
    escaped: list[Tensor] = []
    torch.func.vmap(lambda x: escaped.append(x) or x)(torch.stack([X, X]))
    with pytest.raises(RuntimeError, match=r"storage|data pointer|data_ptr|vmap|level"):
        native(escaped[0])


def test_a_zero_tensor_does_not_reach_memory():
    zeros = torch._efficientzerotensor(T, B, D)  # pyright: ignore[reportPrivateImportUsage]
    with pytest.raises(InputError, match="storage"):
        native(zeros)


def test_what_autocast_converts_is_native():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert explain(X, [Direction(STATE, WEIGHTS)]) == ("native", "first choice")


def test_what_autocast_leaves_alone_is_torchs_business():
    named = {name: weight.double() for name, weight in WEIGHTS._asdict().items() if weight is not None}
    exact = Direction(tuple(part.double() for part in STATE), Weights(**named))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert "autocast is on" in explain(X.double(), [exact]).reason


def test_out_and_gradient_exclude_each_other():
    with pytest.raises(InputError, match="no backend can serve this call"):
        lstm(X.clone().requires_grad_(), STATE, WEIGHTS, out=torch.empty(T, B, H))


def test_inference_mode_is_native():
    with torch.inference_mode():
        assert explain(X + 1, [Direction(STATE, WEIGHTS)]).backend == "native"
        assert auto(X + 1).is_inference()

"""The compiled kernel on every instruction set of this machine, against the equations and against itself."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_problem import ISAS, Problem, assert_close, assert_same_bits

from gatewise import _native

HIDDEN = [1, 7, 16, 33, 64]

every_isa = pytest.mark.parametrize("isa", ISAS)


@every_isa
@pytest.mark.parametrize("H", HIDDEN)
@pytest.mark.parametrize("B", [1, 2, 3, 4, 5, 7, 13])
@pytest.mark.parametrize(("bias", "reverse"), [(True, False), (False, True)])
def test_equals_the_reference(isa: str, H: int, B: int, bias: bool, reverse: bool):
    problem = Problem.draw(7, B, 5, H, bias=bias, reverse=reverse)
    assert_close(problem.native(isa), problem.reference())


@every_isa
@pytest.mark.parametrize("T", [0, 1, 2, 63])
@pytest.mark.parametrize(("B", "D"), [(0, 3), (1, 1), (9, 13)])
def test_every_length(isa: str, T: int, B: int, D: int):
    problem = Problem.draw(T, B, D, 33)
    assert_close(problem.native(isa), problem.reference())


@every_isa
@pytest.mark.parametrize("H", [16, 33])
def test_long_sequences_are_as_exact_as_torch(isa: str, H: int):
    problem = Problem.draw(1000, 3, 5, H)
    truth, (h, c) = problem.reference(torch.float64)
    state = tuple(s.unsqueeze(0) for s in problem.state)
    theirs, *_ = torch.lstm(problem.x, state, list(problem.weights[:4]), True, 1, 0.0, False, False, False)  # pyright: ignore
    ours, (h_n, c_n) = problem.native(isa)
    bound = 2 * (theirs - truth).abs().max()
    assert (ours - truth).abs().max() <= bound
    assert (h_n - h).abs().max() <= bound
    assert (c_n - c).abs().max() <= 1e-6 * max(1.0, float(c.abs().max()))


@every_isa
def test_saturated_gates(isa: str):
    problem = Problem.draw(9, 4, 3, 17)
    for size in (50.0, 1e30):
        x = torch.zeros_like(problem.x)
        x[..., 1] = problem.x[..., 1].sign() * size
        extreme = Problem(x, problem.state, problem.weights)
        y, (h, c) = extreme.native(isa)
        assert y.isfinite().all()
        assert_close((y, (h, c)), extreme.reference())


@every_isa
def test_infinite_inputs_give_the_limits(isa: str):
    H = 9
    problem = Problem.draw(1, 2, 1, H)
    weights = problem.weights._replace(weight_ih=torch.ones(4 * H, 1))
    for sign, limit in ((1.0, "open"), (-1.0, "shut")):
        at_end = Problem(torch.full((1, 2, 1), sign * torch.inf), problem.state, weights)
        y, (_, c) = at_end.native(isa)
        expected = problem.state[1] + 1 if limit == "open" else torch.zeros(2, H)
        torch.testing.assert_close(c, expected, rtol=0, atol=2e-7)
        torch.testing.assert_close(y[0], expected.tanh(), rtol=0, atol=2e-7)


@every_isa
def test_subnormal_inputs(isa: str):
    problem = Problem.draw(5, 3, 4, 12).map(lambda tensor: tensor * 1e-40)
    assert_close(problem.native(isa), problem.reference())


@every_isa
@pytest.mark.parametrize("H", [1, 16, 33])
def test_a_nan_row_leaves_the_others_alone(isa: str, H: int):
    problem = Problem.draw(6, 8, 5, H)
    clean, (h, c) = problem.native(isa)
    for row in range(8):
        x = problem.x.clone()
        x[2, row, 3] = torch.nan
        y, (h_n, c_n) = Problem(x, problem.state, problem.weights).native(isa)
        others = [b for b in range(8) if b != row]
        assert_same_bits((y[:, others], (h_n[others], c_n[others])), (clean[:, others], (h[others], c[others])))
        assert y[2:, row].isnan().all()
        assert c_n[row].isnan().all()


@every_isa
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_bits_depend_on_neither_batch_nor_position(isa: str, data: st.DataObject):
    H = data.draw(st.integers(1, 40))
    problem = Problem.draw(4, 16, data.draw(st.integers(1, 9)), H, reverse=data.draw(st.booleans()))
    y, (h, c) = problem.native(isa)
    chosen = data.draw(st.lists(st.integers(0, 15), min_size=1, max_size=20))
    assert_same_bits(problem.rows(chosen).native(isa), (y[:, chosen], (h[chosen], c[chosen])))


@every_isa
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_bits_do_not_depend_on_cuts_in_time(isa: str, data: st.DataObject):
    problem = Problem.draw(12, data.draw(st.integers(1, 7)), 3, data.draw(st.integers(1, 40)))
    cuts = [0, *sorted(data.draw(st.sets(st.integers(1, 11)))), 12]
    state, parts = problem.state, []
    for start, stop in pairwise(cuts):
        y, state = Problem(problem.x[start:stop], state, problem.weights).native(isa)
        parts.append(y)
    assert_same_bits((torch.cat(parts), state), problem.native(isa))


def test_instruction_sets_with_fma_agree_to_the_bit():
    fused = [isa for isa in ISAS if isa != "baseline"]
    for H in HIDDEN:
        problem = Problem.draw(9, 7, 5, H)
        results = [problem.native(isa) for isa in fused]
        for result in results[1:]:
            assert_same_bits(result, results[0])


@every_isa
def test_strided_inputs_and_outputs_are_used_in_place(isa: str):
    T, B, D, H = 6, 5, 3, 19
    problem = Problem.draw(T, B, D, H)
    wide = torch.full((B, T, 2 * D), torch.nan)
    wide[..., D:] = problem.x.transpose(0, 1)
    canvas = torch.full((B, T, 3 * H), 7.0)
    out = canvas[..., H : 2 * H].transpose(0, 1)
    strided = Problem(wide[..., D:].transpose(0, 1), problem.state, problem.weights)
    y, final = strided.native(isa, out)
    assert y.data_ptr() == out.data_ptr()
    assert_same_bits((y, final), problem.native(isa))
    assert (canvas[..., :H] == 7).all()
    assert (canvas[..., 2 * H :] == 7).all()


@every_isa
def test_calls_from_several_threads_do_not_mix(isa: str):
    problems = [Problem.draw(20, 3 + n % 4, 5, 10 + 7 * n) for n in range(8)]
    expected = [problem.native(isa) for problem in problems]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for result, wanted in zip(pool.map(lambda p: p.native(isa), problems), expected, strict=True):
                assert_same_bits(result, wanted)


def test_an_order_that_repeats_a_gate_is_refused() -> None:
    for order in ("iiff", "ifg", "ifgx", ""):
        with pytest.raises(ValueError, match="order must name the gates"):
            _native.lstm_forward(0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, False, order, None)

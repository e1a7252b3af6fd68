"""The choice of an instruction set: made once, at the first use, in processes of their own; and switched, for tests."""

import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from native_problem import draw
from native_stack import same_bits

from gatewise import _native


def _python(code: str, isa: str | None) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "GATEWISE_ISA"}
    if isa is not None:
        env["GATEWISE_ISA"] = isa
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)


SHOW = "from gatewise import _native; print(_native.isa())"


@pytest.mark.parametrize("isa", _native.available_isas())
def test_the_environment_chooses(isa: str):
    assert _python(SHOW, isa).stdout.strip() == isa


def test_the_best_is_the_default():
    for unset in (None, ""):
        assert _python(SHOW, unset).stdout.strip() == _native.available_isas()[0]


def test_a_bad_name_is_an_error_that_lists_the_good_ones():
    run = _python("import gatewise; gatewise.LSTM", "sse9")
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("gatewise.errors.InputError: instruction set 'sse9' is not available")
    assert all(isa in last for isa in _native.available_isas())


def test_a_bad_name_in_a_call_is_an_error():
    with pytest.raises(ValueError, match="'sse9' is not available"):
        _native.math("exp", 0, 0, 0, "sse9")
    with pytest.raises(ValueError, match="no function 'cosh'"):
        _native.math("cosh", 0, 0, 0)


def test_the_baseline_is_always_there():
    assert _native.available_isas()[-1] == "baseline"


@pytest.fixture
def _chosen_again() -> Iterator[None]:
    former = _native.isa()
    yield
    _native.use_isa(former)


@pytest.mark.usefixtures("_chosen_again")
def test_a_process_can_switch_and_every_call_follows():
    x = np.linspace(-3, 3, 1000, dtype=np.float32)
    for isa in _native.available_isas():
        _native.use_isa(isa)
        assert _native.isa() == isa
        results = np.full((2, x.size), np.nan, dtype=np.float32)
        for result, named in zip(results, (None, isa), strict=True):
            _native.math("sigmoid", x.ctypes.data, result.ctypes.data, x.size, named)
        assert np.array_equal(results[0], results[1])


@pytest.mark.usefixtures("_chosen_again")
def test_a_switch_to_an_unknown_one_changes_nothing():
    before = _native.isa()
    for bad in ("sse9", "", "AVX2"):
        with pytest.raises(ValueError, match=f"{bad!r} is not available"):
            _native.use_isa(bad)
        assert _native.isa() == before


def test_a_layer_follows_the_switch(isa: str):
    """The baseline rounds products and sums apart, the others at once: the bits tell which one ran."""
    problem = draw("lstm", 9, 5, 16, 32, "both")
    ours = problem.run()
    _native.use_isa("baseline")
    baseline = problem.run()
    assert same_bits(ours.values["y"], baseline.values["y"]) == (isa == "baseline")
    assert same_bits(ours.gradients["0.weight_hh"], baseline.gradients["0.weight_hh"]) == (isa == "baseline")


@pytest.mark.parametrize("save", ["all", "states"])
def test_a_graph_keeps_the_one_of_its_forward(isa: str, save: str):
    problem = draw("peephole", 5, 11, 6, 21)
    expected = problem.run(save=save).gradients["x"]
    cast = problem.map(lambda name, tensor: tensor.clone().requires_grad_())
    values = cast.forward(trace=True, save=save)
    for other in _native.available_isas():
        _native.use_isa(other)
        cotangents = [problem.cotangents[name] for name in values]
        (found,) = torch.autograd.grad(list(values.values()), cast.x, cotangents, retain_graph=True)
        assert same_bits(found, expected), (isa, other)

"""The choice of an instruction set, in processes of their own: it is made once, at the first use."""

import os
import subprocess
import sys

import pytest

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

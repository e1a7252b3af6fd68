"""``gatewise.engine()`` says on what the engine runs, and the environment decides it."""

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

import gatewise
from gatewise import _native


@pytest.fixture(autouse=True)
def _one_thread_again() -> Iterator[None]:
    yield
    torch.set_num_threads(1)


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in {"GATEWISE_ISA", "OMP_NUM_THREADS"}}
    return subprocess.run(
        [sys.executable, "-c", code], env=kept | environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_fields_of_the_engine():
    engine = gatewise.engine()
    assert engine._fields == ("isa", "isas", "threads", "team", "bfloat16")
    assert engine.bfloat16 == _native.multiplies_bfloat16()
    assert engine.isa == _native.isa()
    assert tuple(engine.isas) == tuple(_native.available_isas())
    assert "engine" in gatewise.__all__
    assert gatewise.engine() == engine == pickle.loads(pickle.dumps(engine))
    assert repr(engine).startswith(f"Engine(isa={engine.isa!r}, isas=")


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_are_torchs_at_the_moment(threads: int):
    torch.set_num_threads(threads)
    assert gatewise.engine().threads == threads


@pytest.mark.skipif(sys.platform != "linux", reason="torch brings another OpenMP elsewhere")
def test_the_team_is_the_one_that_torch_runs_on():
    assert gatewise.engine().team == "libgomp"


WITHOUT_TORCH = (
    "import gatewise, sys; e = gatewise.engine(); print(e.team, e.threads > 0, e.isa, 'torch' in sys.modules)"
)


def test_without_torch_the_team_is_its_own_and_torch_is_not_loaded():
    done = python(WITHOUT_TORCH)
    assert done.stdout.split() == ["own", "True", _native.available_isas()[0], "False"], done.stderr


TRAINED = """
import os, torch, gatewise
torch.manual_seed(0)
layer = gatewise.LSTM(5, 9, bidirectional=True, backend="native")
# It is read once.
os.environ["GATEWISE_ISA"] = "sse9"
exact = gatewise.LSTM(5, 9, bidirectional=True, backend="reference")
exact.load_state_dict(layer.state_dict())
exact.double()
x = torch.randn(6, 3, 5)
y, wanted = layer(x)[0], exact(x.double())[0]
y.sum().backward()
wanted.sum().backward()
near = [(y - wanted).abs().max() < 1e-6]
near += [(a.grad - b.grad).abs().max() < 1e-5 for a, b in zip(layer.parameters(), exact.parameters(), strict=True)]
print(gatewise.engine().isa, all(near))
"""


@pytest.mark.parametrize("isa", _native.available_isas())
def test_the_environment_forces_an_instruction_set(isa: str):
    done = python(TRAINED, GATEWISE_ISA=isa)
    assert done.stdout.split() == [isa, "True"], done.stderr


def test_an_unknown_instruction_set_is_an_error_that_lists_the_known():
    done = python("import gatewise; gatewise.engine()", GATEWISE_ISA="sse9")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("gatewise.errors.InputError: instruction set 'sse9' is not available")
    assert all(isa in last for isa in _native.available_isas())

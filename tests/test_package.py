"""What ``import gatewise`` gives, and what it must not bring along."""

import subprocess
import sys

import pytest

import gatewise
import gatewise.tasks.forecast

HEAVY = {"torch", "polars", "numpy", "safetensors", "matplotlib", "narwhals", "pandas", "pyarrow", "rich", "tyro"}


def modules_after(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after some code."""
    script = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    )


def test_import_is_cheap() -> None:
    loaded = modules_after("import gatewise; dir(gatewise); gatewise.__version__")
    assert "gatewise" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("from gatewise.tasks.forecast import Settings", HEAVY),
        ("import gatewise.cli.commands", {"torch", "matplotlib", "polars"}),
        ("import gatewise.spec, gatewise.format", {"torch", "polars"}),
        ("import gatewise.exchange", {"torch", "polars", "onnx"}),
        ("import gatewise.data", {"torch", "matplotlib"}),
    ],
)
def test_what_needs_no_torch_does_not_load_it(code: str, absent: set[str]) -> None:
    assert not modules_after(code) & absent


def test_torch_is_loaded_by_what_needs_it() -> None:
    assert "torch" in modules_after("from gatewise import LSTM")


def test_the_public_names() -> None:
    modules = ["ConvLSTM", "Forecaster", "LSTM", "LSTMCell", "Stack"]
    assert dir(gatewise) == [*modules, "__version__", "engine", "export_onnx", "from_onnx", "from_torch", "to_torch"]
    assert set(gatewise.__all__) == set(dir(gatewise))


def test_public_names_are_where_they_live() -> None:
    import gatewise.machine
    import gatewise.nn
    import gatewise.tasks.forecast
    from gatewise.tasks.forecast.estimator import Forecaster

    assert gatewise.LSTM is gatewise.nn.LSTM
    assert gatewise.engine is gatewise.machine.engine
    assert gatewise.Forecaster is gatewise.tasks.forecast.Forecaster is Forecaster


def test_the_version_is_the_installed_one() -> None:
    from importlib.metadata import version

    assert gatewise.__version__ == version("gatewise")


@pytest.mark.parametrize("module", [gatewise, gatewise.tasks.forecast])
def test_unknown_names_are_named(module: object) -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Forcaster'"):
        getattr(module, "Forcaster")  # noqa: B009 - it is not there

"""onnx's own backend node tests of LSTM, by onnx's runner: all six, none skipped."""

import unittest
import warnings
from typing import Any

import pytest
from conformance_onnx import GatewiseBackend, LSTMRep
from onnx import ModelProto
from onnx.backend.test import BackendTest

NAMES = [
    "test_lstm_batchwise",
    "test_lstm_bidirectional",
    "test_lstm_defaults",
    "test_lstm_reverse",
    "test_lstm_with_initial_bias",
    "test_lstm_with_peepholes",
]


class CountingBackend(GatewiseBackend):
    """Counts what it runs: the runner can pass a test without running it."""

    prepared: list[ModelProto]

    @classmethod
    def prepare(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> LSTMRep:
        cls.prepared.append(model)
        return super().prepare(model, device, **kwargs)


@pytest.fixture(scope="module")
def cases() -> type[unittest.TestCase]:
    """The runner's node tests; it marks all whose name does not match as skipped."""
    with warnings.catch_warnings():
        # To collect, onnx computes the expected values of every operator's tests; some overflow or divide by zero.
        warnings.filterwarnings("ignore", category=RuntimeWarning)
        runner = BackendTest(CountingBackend, __name__)
    return runner.include(r"^test_lstm_.*_cpu$").test_cases["OnnxBackendNodeModelTest"]


def test_the_six_are_all_there_are(cases: type[unittest.TestCase]) -> None:
    assert [name for name in dir(cases) if name.startswith("test_lstm_") and name.endswith("_cpu")] == [
        f"{name}_cpu" for name in NAMES
    ]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("isa")
def test_node(cases: type[unittest.TestCase], name: str) -> None:
    CountingBackend.prepared = []
    result = unittest.TestResult()
    cases(f"{name}_cpu").run(result)
    assert (result.testsRun, len(result.skipped), len(CountingBackend.prepared)) == (1, 0, 1)
    assert not result.errors + result.failures, (result.errors + result.failures)[0][1]

"""onnxruntime as an oracle: Y, Y_h and Y_c over a table of everything its LSTM can do.

onnxruntime 1.31 agrees with the equations on the whole table (error against float64 about 1e-7; under ``clip`` it
clips the pre-activations, peepholes included, not c) but for one corner: of a row of length 0 it returns zeros as final
states, whatever the initial ones. Here such a row gets its initial state back; the test expects that, and checks that
onnxruntime still does what is said of it.
"""

import itertools
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest
import torch
from conformance_onnx import Feeds, GatewiseBackend
from onnx import ModelProto, TensorProto, helper

# An odd number of units, more than one vector of any instruction set.
T, B, D, H = 5, 4, 3, 17
CLIP = 0.3  # most pre-activations are beyond it
TOLERANCE = 1e-6  # times max(1, max|expected|), as everywhere here; the largest difference seen is 6e-7
LENGTHS = {"full": None, "mixed": [3, 5, 1, 4], "zero-inside": [5, 0, 2, 5], "all-zero": [0, 0, 0, 0]}
OUTPUTS = ("Y", "Y_h", "Y_c")


class Case(NamedTuple):
    direction: str
    peephole: bool
    coupled: bool
    clip: float | None
    lengths: str
    state: bool

    def __str__(self) -> str:
        words = {"peephole": self.peephole, "coupled": self.coupled, "clip": self.clip, "state": self.state}
        return "-".join([self.direction, *(word for word, present in words.items() if present), self.lengths])


CASES = [
    Case(*row)
    for row in itertools.product(
        ("forward", "reverse", "bidirectional"), (False, True), (False, True), (None, CLIP), LENGTHS, (False, True)
    )
]


@pytest.mark.parametrize("gradient", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.usefixtures("isa")
def test_equals_onnxruntime(case: Case, layout: int, gradient: bool) -> None:
    feeds = draw(case)
    expected = with_initial_states_of_empty_rows(oracle(case), case, feeds)
    with torch.set_grad_enabled(gradient):
        actual = ours(case, feeds, layout)
    for name, got, wanted in zip(OUTPUTS, actual, expected, strict=True):
        tolerance = TOLERANCE * max(1.0, np.abs(wanted).max())
        np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("option", ["direction", "peephole", "coupled", "clip", "lengths", "state"])
def test_every_option_matters(option: str) -> None:
    """On the same numbers, each option changes the answer by far more than the tolerance; else the table is blind."""
    plain = Case("forward", False, False, None, "full", False)
    full = Case("reverse", True, True, CLIP, "mixed", True)
    for case, other in ((plain, full), (full, plain)):
        changed = case._replace(**{option: getattr(other, option)})
        assert np.abs(oracle(case)[0] - oracle(changed)[0]).max() > 0.01


def with_initial_states_of_empty_rows(
    outputs: tuple[np.ndarray, ...], case: Case, feeds: Feeds
) -> tuple[np.ndarray, ...]:
    """Where a row is empty, expect its initial state instead of onnxruntime's zeros."""
    y, h_n, c_n = (output.copy() for output in outputs)
    lengths = LENGTHS[case.lengths]
    for row in [] if lengths is None else np.flatnonzero(np.equal(lengths, 0)):
        assert not y[:, :, row].any()
        assert not h_n[:, row].any()
        assert not c_n[:, row].any()
        if case.state:
            h_n[:, row], c_n[:, row] = feeds["initial_h"][:, row], feeds["initial_c"][:, row]
    return y, h_n, c_n


@cache
def oracle(case: Case) -> tuple[np.ndarray, ...]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    serialized = describe(case, layout=0).SerializeToString()
    session = onnxruntime.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])
    return tuple(np.asarray(output) for output in session.run(list(OUTPUTS), dict(draw(case))))


def ours(case: Case, feeds: Feeds, layout: int) -> tuple[np.ndarray, ...]:
    """Run the case by our backend; onnxruntime refuses layout 1, so its equal is had by transposing."""
    if layout == 0:
        return GatewiseBackend.run_model(describe(case, layout), list(feeds.values()))
    swapped = {name: feeds[name].swapaxes(0, 1) for name in ("X", "initial_h", "initial_c") if name in feeds}
    y, h_n, c_n = GatewiseBackend.run_model(describe(case, layout), list({**feeds, **swapped}.values()))
    return y.transpose(1, 2, 0, 3), h_n.swapaxes(0, 1), c_n.swapaxes(0, 1)


def describe(case: Case, layout: int) -> ModelProto:
    """Return the model of one LSTM node whose graph takes and gives exactly what the case has."""
    attributes: dict[str, Any] = {"hidden_size": H, "direction": case.direction, "layout": layout}
    if case.clip is not None:
        attributes["clip"] = case.clip
    if case.coupled:
        attributes["input_forget"] = 1
    feeds = draw(case)
    slots = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
    node = helper.make_node("LSTM", [slot if slot in feeds else "" for slot in slots], OUTPUTS, **attributes)
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), [None] * value.ndim)
        for name, value in feeds.items()
    ]
    ranks = zip(OUTPUTS, (4, 3, 3), strict=True)
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank) for name, rank in ranks]
    graph = helper.make_graph([node], "lstm", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


@cache
def draw(case: Case) -> Feeds:
    """Draw what the case is fed, in the order of the node's inputs; the same numbers for the same slot of any case."""
    S = 2 if case.direction == "bidirectional" else 1
    shapes = {"X": (T, B, D), "W": (S, 4 * H, D), "R": (S, 4 * H, H), "B": (S, 8 * H)}
    shapes |= {"sequence_lens": (B,), "initial_h": (S, B, H), "initial_c": (S, B, H), "P": (S, 3 * H)}
    generator = np.random.default_rng(7)
    drawn = {name: generator.uniform(-1, 1, shape).astype(np.float32) for name, shape in shapes.items()}
    drawn["sequence_lens"] = np.array(LENGTHS[case.lengths] or [], np.int32)
    absent = {"sequence_lens"} if LENGTHS[case.lengths] is None else set[str]()
    absent |= set() if case.state else {"initial_h", "initial_c"}
    absent |= set() if case.peephole else {"P"}
    return {name: value for name, value in drawn.items() if name not in absent}

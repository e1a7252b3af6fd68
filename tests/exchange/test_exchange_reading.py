"""Graphs made by hand, as other exporters write them, against onnxruntime; and what is wrong with a node, by name."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from exchange_tools import assert_close, run, session
from onnx import helper, numpy_helper
from onnx.backend.test.loader import load_model_tests
from onnx_graphs import D, H, lstm, model, node, plain, saved, weights

from gatewise import from_onnx
from gatewise.errors import InputError
from gatewise.exchange import import_blocks
from gatewise.models import Imported

AXES = {"axes": np.array([1])}


def equal(proto: onnx.ModelProto, folder: Path, feeds: dict[str, Any], lengths: Any = None) -> Imported:
    """Read a model, and compare its output with onnxruntime's."""
    path = saved(proto, folder)
    onnx.checker.check_model(proto, full_check=True)
    expected = run(session(path), feeds)
    back = from_onnx(path)
    x = torch.from_numpy(next(iter(feeds.values())))
    output, states = back(x, lengths=lengths)
    for name, value in expected.items():
        if name in {"Y_h", "Y_c"}:
            assert_close(getattr(states[-1], name[-1]), value, name)
        else:
            assert_close(output, value, name)
    return back


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(8).normal(size=shape).astype(np.float32)


def test_the_smallest_graph(tmp_path: Path) -> None:
    equal(plain(), tmp_path, {"x": draw(4, 2, D)})


@pytest.mark.parametrize("form", ["squeeze", "squeeze 11", "reshape", "reshape named", "transpose and reshape"])
def test_the_ways_to_drop_the_axis_of_one_direction(form: str, tmp_path: Path) -> None:
    nodes, constants, opset = [lstm()], weights(), 17
    if form == "squeeze":
        nodes, constants = [*nodes, node("Squeeze", "Y axes", "y")], constants | AXES
    elif form == "squeeze 11":
        nodes, opset = [*nodes, node("Squeeze", "Y", "y", axes=[1])], 11
    elif form == "reshape":
        nodes, constants = [*nodes, node("Reshape", "Y shape", "y")], constants | {"shape": np.array([0, -1, H])}
    elif form == "reshape named":
        nodes += [
            node("Shape", "x", "s"),
            node("Slice", "s zero two", "ab"),
            node("Concat", "ab rest", "shape", axis=0),
        ]
        constants |= {"zero": np.array([0]), "two": np.array([2]), "rest": np.array([-1])}
        nodes.append(node("Reshape", "Y shape", "y"))
    else:
        nodes += [node("Transpose", "Y", "t", perm=[0, 2, 1, 3]), node("Reshape", "t shape", "y")]
        constants |= {"shape": np.array([0, 0, -1])}
    equal(model(nodes, constants, {"y": 3}, opset=opset), tmp_path, {"x": draw(4, 2, D)})


def test_last_steps_that_are_cut_and_squeezed(tmp_path: Path) -> None:
    nodes = [lstm(), node("Squeeze", "Y axes", "y"), node("Slice", "y last end time", "kept")]
    nodes += [node("Squeeze", "kept time", "row"), node("Gemm", "row V v", "out", transB=1)]
    constants = weights() | AXES | {"last": np.array([-1]), "end": np.array([2**63 - 1]), "time": np.array([0])}
    constants |= {"V": draw(2, H), "v": draw(2)}
    back = equal(model(nodes, constants, {"out": 2}), tmp_path, {"x": draw(4, 2, D)})
    assert [type(block).__name__ for block in back.network.blocks] == ["Lstm", "Linear"]


@pytest.mark.parametrize("squeezed", [True, False])
def test_the_final_state_of_rows_with_lengths(squeezed: bool, tmp_path: Path) -> None:
    nodes = [lstm("x", "W", "R", "B", "lengths")]
    nodes += [node("Squeeze", "Y_h axes", "h") if squeezed else node("Gather", "Y_h place", "h", axis=0)]
    constants = weights() | {"axes": np.array([0]), "place": np.array(-1), "V": draw(H, 2)}
    del constants["place" if squeezed else "axes"]
    proto = model([*nodes, node("MatMul", "h V", "y")], constants, {"y": 2}, {"x": ["a", "b", D], "lengths": ["b"]})
    lengths = np.array([5, 1, 3], np.int32)
    equal(proto, tmp_path, {"x": draw(5, 3, D), "lengths": lengths}, torch.from_numpy(lengths))


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("options", [{}, {"clip": 0.3}, {"input_forget": 1}, {"peephole": True}])
def test_the_options_of_the_node(options: dict[str, Any], directions: int, tmp_path: Path) -> None:
    attributes = dict(options)
    constants = weights(directions, attributes.pop("peephole", False))
    inputs = ["x", "W", "R", "B", *(["", "", "", "P"] if "P" in constants else [])]
    direction = {"direction": "bidirectional"} if directions == 2 else {}
    nodes = [lstm(*inputs, **attributes, **direction), node("Transpose", "Y", "t", perm=[0, 2, 1, 3])]
    nodes.append(node("Reshape", "t shape", "y"))
    outputs = {"y": 3, "Y_h": 3, "Y_c": 3}
    equal(model(nodes, constants | {"shape": np.array([0, 0, -1])}, outputs), tmp_path, {"x": draw(6, 2, D)})


@pytest.mark.parametrize("bias", [True, False])
def test_layout_1(bias: bool, tmp_path: Path) -> None:
    """onnxruntime refuses it, so the same graph with transposes is what it must equal."""
    constants = weights()
    names = ("x", "W", "R", "B") if bias else ("x", "W", "R")
    constants = {name: constants[name] for name in names[1:]}
    squeezed = node("Squeeze", "Y axes", "y")
    batch = model([lstm(*names, layout=1), squeezed], constants | {"axes": np.array([2])}, {"y": 3})
    time = model([lstm(*names), squeezed], constants | AXES, {"y": 3})
    x = draw(4, 2, D)
    expected = run(session(saved(time, tmp_path)), {"x": x})["y"]
    back = from_onnx(saved(batch, tmp_path))
    assert back.batch_first
    assert_close(back(torch.from_numpy(x).transpose(0, 1))[0].transpose(0, 1), expected)


def test_activations_make_the_cell(tmp_path: Path) -> None:
    cells = {}
    for activations, alpha, beta in (
        (["Sigmoid", "Tanh", "Tanh"], [], []),
        (["sigmoid", "tanh", "affine"], [1.0], [0.0]),
        (["Sigmoid", "Affine", "Tanh"], [1.0], [0.0]),
    ):
        given: dict[str, Any] = {"activation_alpha": alpha, "activation_beta": beta} if alpha else {}
        nodes = [lstm(activations=activations, **given), node("Squeeze", "Y axes", "y")]
        back = equal(model(nodes, weights() | AXES, {"y": 3}), tmp_path, {"x": draw(4, 2, D)})
        cells[activations[1].lower(), activations[2].lower()] = back.network.lstm().cell
    assert cells == {("tanh", "tanh"): "lstm", ("tanh", "affine"): "noaf", ("affine", "tanh"): "niaf"}


@pytest.mark.parametrize("shape", [(1, 1, H), (1, 2, H)])
def test_a_start_that_the_file_holds_is_a_learned_state(shape: tuple[int, ...], tmp_path: Path) -> None:
    constants = weights() | AXES | {"h": np.broadcast_to(draw(1, 1, H), shape).copy(), "c": np.zeros(shape, np.float32)}
    nodes = [lstm("x", "W", "R", "B", "", "h", "c"), node("Squeeze", "Y axes", "y")]
    if shape[1] == 1:
        nodes = [node("Shape", "x", "s", start=1, end=2), node("Concat", "one s one", "all", axis=0), *nodes]
        nodes = [*nodes[:2], node("Expand", "h all", "h2"), lstm("x", "W", "R", "B", "", "h2"), nodes[-1]]
        constants |= {"one": np.array([1])}
        del constants["c"]
    back = equal(model(nodes, constants, {"y": 3}), tmp_path, {"x": draw(4, 2, D)})
    assert back.network.lstm().learned_state


def test_scaling_before_and_after(tmp_path: Path) -> None:
    nodes = [node("Sub", "x mean", "a"), node("Div", "a std", "b"), lstm("b", "W", "R", "B")]
    nodes += [node("Squeeze", "Y axes", "c"), node("Mul", "c scale", "d"), node("Add", "d shift", "y")]
    constants = weights() | AXES | {"mean": draw(D), "std": np.array([2.0, 0.5, 3.0], np.float32)}
    constants |= {"scale": np.float32(3.0), "shift": draw(1, 1, H)}
    back = equal(model(nodes, constants, {"y": 3}), tmp_path, {"x": draw(4, 2, D)})
    assert [type(block).__name__ for block in back.network.blocks] == ["Scaling", "Lstm", "Scaling"]


SUITE = ["defaults", "with_initial_bias", "with_peepholes", "bidirectional", "batchwise"]


@pytest.fixture(scope="module")
def examples() -> dict[str, Any]:
    with warnings.catch_warnings():
        # To collect, onnx computes the expected values of every operator's tests; some overflow or divide by zero.
        warnings.filterwarnings("ignore", category=RuntimeWarning)
        return {case.name: case for case in load_model_tests(kind="node") if case.name.startswith("test_lstm_")}


@pytest.mark.parametrize("name", SUITE)
def test_onnxs_own_examples(examples: dict[str, Any], name: str, tmp_path: Path) -> None:
    """They feed the weights: here they become constants of the file, as they are in any model."""
    case = examples[f"test_lstm_{name}"]
    proto = onnx.ModelProto.FromString(case.model.SerializeToString())
    inputs, outputs = case.data_sets[0]
    feeds = dict(zip((info.name for info in proto.graph.input), inputs, strict=True))
    for info in list(proto.graph.input)[1:]:
        proto.graph.initializer.append(numpy_helper.from_array(feeds[info.name], info.name))
        proto.graph.input.remove(info)
    if name == "with_peepholes":
        # Its lengths are an input too; all rows have all their steps.
        assert (feeds["sequence_lens"] == feeds["X"].shape[0]).all()
        proto.graph.node[0].input[4] = ""
    output, (state,) = from_onnx(saved(proto, tmp_path))(torch.from_numpy(feeds["X"]))
    for info, expected in zip(proto.graph.output, outputs, strict=True):
        if info.name in {"Y_h", "Y_c"}:
            part = getattr(state, info.name[-1])
            assert_close(part if name != "batchwise" else part.transpose(0, 1), expected)
        else:
            assert_close(output, expected.reshape(output.shape))


W = weights()
WRONG: dict[str, tuple[Any, str]] = {
    "reverse": ({"direction": "reverse"}, "its direction is 'reverse'; gatewise reads forward and bidirectional"),
    "hidden": ({"hidden_size": 4}, "its hidden_size is 4, its R is for 5"),
    "clip": ({"clip": -1.0}, "its clip is -1.0, which must be above 0"),
    "activation": ({"activations": ["Sigmoid", "Softsign", "Tanh"]}, "its activation 'Softsign' is none of Affine,"),
    "no such cell": ({"activations": ["Tanh", "Tanh", "Tanh"]}, "no cell of gatewise has its activations Tanh, Tanh"),
    "no alpha": ({"activations": ["Sigmoid", "Affine", "Tanh"]}, "its activation 'Affine' has no alpha and beta"),
    "too few": ({"activations": ["Sigmoid", "Tanh"]}, "its activations must be 3, the same for each direction"),
    "unknown": ({"linear_before_reset": 1}, "it has the attributes linear_before_reset"),
}


@pytest.mark.parametrize("name", WRONG)
def test_attributes_of_a_layer_that_cannot_be_taken(name: str, tmp_path: Path) -> None:
    attributes, reason = WRONG[name]
    proto = model([lstm(**attributes), node("Squeeze", "Y axes", "y")], W | AXES, {"y": 3})
    with pytest.raises(InputError, match=rf"^cannot take node 'layer' \(LSTM\): {reason}"):
        import_blocks(saved(proto, tmp_path))


@pytest.mark.parametrize(
    ("slot", "value", "reason"),
    [
        ("W", W["W"][:, :-1], r"its W must be float32 \[1, 20, 3\], not float32 \[1, 19, 3\]"),
        ("W", np.concatenate([W["W"]] * 2), r"its W must be float32 \[1, 20, 3\]"),
        ("W", W["W"][..., :2], "it reads 2 features and gets 3"),
        ("W", W["W"].astype(np.int64), "its W must be float32"),
        ("R", W["R"][..., :4], r"its W must be float32 \[1, 16, 3\]"),
        ("B", W["B"][:, :-1], r"its B must be float32 \[1, 40\]"),
        ("B", W["B"][0], r"its B must be float32 \[1, 40\]"),
    ],
)
def test_weights_of_other_sizes(slot: str, value: np.ndarray, reason: str, tmp_path: Path) -> None:
    proto = model([lstm(), node("Squeeze", "Y axes", "y")], W | AXES | {slot: value}, {"y": 3})
    with pytest.raises(InputError, match=reason):
        import_blocks(saved(proto, tmp_path))


def test_weights_that_are_inputs_are_named(tmp_path: Path) -> None:
    constants = {name: value for name, value in W.items() if name != "B"} | AXES
    inputs = {"x": ["a", "b", D], "B": [1, 8 * H]}
    proto = model([lstm(), node("Squeeze", "Y axes", "y")], constants, {"y": 3}, inputs)
    with pytest.raises(InputError, match=r"the input 'B' is neither the lengths of rows .* must be an initializer"):
        import_blocks(saved(proto, tmp_path))


@pytest.mark.parametrize(("dims", "kind"), [(["a", D], 1), (["a", "b", D], 11), (["a", "b", D], 7), (None, 1)])
def test_inputs_that_are_no_sequences(dims: Any, kind: int, tmp_path: Path) -> None:
    proto = plain()
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", kind, dims))
    with pytest.raises(InputError, match="the first input 'x' must be sequences"):
        import_blocks(saved(proto, tmp_path))


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("nan"), float("inf")])
def test_an_epsilon_that_is_none(epsilon: float, tmp_path: Path) -> None:
    norm = node("LayerNormalization", "x gain", "y", epsilon=epsilon)
    with pytest.raises(InputError, match=r"its epsilon is .*, which must be above 0"):
        import_blocks(saved(model([norm], {"gain": np.ones(D, np.float32)}, {"y": 3}), tmp_path))


@pytest.mark.parametrize(
    ("kind", "constant", "reason"),
    [
        ("Div", np.zeros(D, np.float32), "it divides by zero"),
        ("Sub", np.ones(D + 1, np.float32), "one number for each of 3 features"),
        ("Mul", np.ones((2, D), np.float32), "one number for each of 3 features"),
        ("MatMul", np.ones((D + 1, 2), np.float32), "it reads 4 features, and gets first, second, features .3."),
        ("MatMul", np.ones((1, D, 2), np.float32), "its matrix must be float32 with two axes"),
    ],
)
def test_constants_that_do_not_fit(kind: str, constant: np.ndarray, reason: str, tmp_path: Path) -> None:
    proto = model([node(kind, "x k", "y")], {"k": constant}, {"y": 3})
    with pytest.raises(InputError, match=rf"^cannot take node '{kind} of y' \({kind}\): .*{reason}"):
        import_blocks(saved(proto, tmp_path))


def test_time_is_one_axis(tmp_path: Path) -> None:
    """A layer over time and one over the batch is no stack of layers."""
    constants = weights() | AXES | {"W2": draw(1, 4 * H, H)}
    nodes = [lstm(), node("Squeeze", "Y axes", "y"), node("Transpose", "y", "t", perm=[1, 0, 2])]
    nodes += [lstm("t", "W2", "R", "B", outputs=("Z",)), node("Squeeze", "Z axes", "z")]
    with pytest.raises(InputError, match="its time axis is the batch axis of a layer before"):
        import_blocks(saved(model(nodes, constants, {"z": 3}), tmp_path))

"""--target model.onnx: a black box of onnxruntime, for any batch size of the file."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import advgan
from advgan.attacks import fgsm, square
from advgan.classifiers import BlackBox
from advgan.core.errors import InputError
from advgan.data import Data, Split
from advgan.defenses import load_classifier
from advgan.evaluation.compatibility import prepare_model_and_data

X = torch.rand(7, 1, 4, 4, generator=torch.Generator().manual_seed(0))
W = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)


def write_linear_model(
    path: Path,
    *,
    batch: int | str = "n",
    size: int | str = 4,
    softmax: bool = False,
    dtype: int = TensorProto.FLOAT,
    weights: np.ndarray = W,
    labels: bool = False,
    external: str = "",
) -> str:
    """Writes a linear classifier of 4 x 4 images to a file."""
    w = numpy_helper.from_array(weights.astype(helper.tensor_dtype_to_np_dtype(dtype)), "w")
    if external:
        w.ClearField("raw_data")
        w.data_location = TensorProto.EXTERNAL
        w.external_data.add(key="location", value=external)
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["z"])]
    last = "Softmax" if softmax else "Identity"
    nodes.append(helper.make_node("ArgMax", ["z"], ["y"], axis=1) if labels else helper.make_node(last, ["z"], ["y"]))
    output = (TensorProto.INT64, [batch, 1]) if labels else (dtype, [batch, 3])
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", dtype, [batch, 1, size, size])],
        [helper.make_tensor_value_info("y", *output)],
        [w],
    )
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    )
    return str(path)


@pytest.mark.parametrize("batch", [1, 4, "n"])
@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [
        ({}, 1e-5),
        ({"softmax": True}, 1e-5),
        ({"dtype": TensorProto.FLOAT16}, 2e-2),
        ({"dtype": TensorProto.DOUBLE}, 1e-5),
    ],
)
def test_log_probabilities_for_any_batch_size(
    kind: dict[str, Any], tolerance: float, batch: int | str, tmp_path: Path
) -> None:
    box = load_classifier(write_linear_model(tmp_path / "it.onnx", batch=batch, **kind))
    expected = (X.flatten(1) @ torch.from_numpy(W)).log_softmax(1)
    for n in (0, 1, 4, 7):
        assert torch.allclose(box(X[:n]), expected[:n], atol=tolerance)
    assert isinstance(box, BlackBox)
    assert (box.image_shape, box.num_classes, box.queries) == ((1, 4, 4), 3, 12), "no queries are counted while loading"


def test_a_missing_normalisation_is_an_error(tmp_path: Path) -> None:
    """A file made of a network whose normalisation was in the loader had a low accuracy, and nothing was reported."""
    x = torch.rand(64, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    y = ((2 * x - 1).flatten(1) @ torch.from_numpy(W)).argmax(1)
    box = load_classifier(write_linear_model(tmp_path / "it.onnx"))
    with pytest.raises(InputError, match=r"has accuracy \d+% on 64 images, and 100% after \[-1, 1\] normalisation"):
        advgan.compare(box, x, y, ["noise-sign"], eps=0.1, progress=False)
    split = Split((255 * x).round().byte(), y)
    with pytest.raises(InputError, match=r"after \[-1, 1\] normalisation"):
        prepare_model_and_data(box, Data("folder", split, split, split, ("0", "1", "2")))
    prepare_model_and_data(box, Data("folder", *[split.labelled(box(x).argmax(1))] * 3, ("0", "1", "2")))
    fails = BlackBox(lambda x: box.predict(x) / (x.min() >= 0), 3)  # infinite outside of [0, 1]
    fails.normalises = False
    advgan.compare(fails, x, y, ["noise-sign"], eps=0.1, progress=False)


def test_score_attack_runs_and_gradient_attack_raises(tmp_path: Path) -> None:
    box, rng = load_classifier(write_linear_model(tmp_path / "it.onnx")), torch.Generator().manual_seed(0)
    y = box(X).argmax(1)
    assert (box(square(box, X, y, eps=0.5, queries=30, rng=rng)).argmax(1) != y).any()
    with pytest.raises(InputError, match="passes no gradient to its input"):
        fgsm(box, X, y, eps=0.3)


def test_identity_depends_on_external_weights(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(W.tobytes())
    path = write_linear_model(tmp_path / "it.onnx", external="w.bin")
    before = load_classifier(path)
    assert torch.allclose(before(X), load_classifier(write_linear_model(tmp_path / "inside.onnx"))(X))
    (tmp_path / "w.bin").write_bytes((2 * W).tobytes())
    assert load_classifier(path).identity != before.identity
    (tmp_path / "deep").mkdir()
    with pytest.raises(InputError, match=r"has weights in \.\./w\.bin, expected them in its folder"):
        load_classifier(write_linear_model(tmp_path / "deep/it.onnx", external="../w.bin"))
    os.mkfifo(tmp_path / "pipe.bin")
    with pytest.raises(InputError, match=r"cannot read .*pipe\.bin: a regular file expected"):
        load_classifier(write_linear_model(tmp_path / "piped.onnx", external="pipe.bin"))


def test_invalid_files_raise(tmp_path: Path) -> None:
    path = Path(write_linear_model(tmp_path / "it.onnx"))
    with pytest.raises(InputError, match="takes images of 1 x 4 x 4, got 3 x 4 x 4"):
        load_classifier(str(path), image_shape=(3, 4, 4))
    with pytest.raises(InputError, match="holds its own weights"):
        load_classifier(str(path), "w.pt")
    with pytest.raises(InputError, match="takes images of 1 x any x any, no fixed size"):
        load_classifier(write_linear_model(tmp_path / "any.onnx", size="s"))
    with pytest.raises(InputError, match=r"any\.onnx cannot take images of shape \(1, 5, 5\)"):
        load_classifier(str(tmp_path / "any.onnx"), image_shape=(1, 5, 5))
    with pytest.raises(InputError, match=r"must return scores, floats of shape \(n, classes\), got y tensor\(int64\)"):
        load_classifier(write_linear_model(tmp_path / "labels.onnx", labels=True))
    with pytest.raises(InputError, match=r"nan\.onnx returns NaN or infinity"):
        load_classifier(write_linear_model(tmp_path / "nan.onnx", weights=W * np.nan))(X)
    with pytest.raises(InputError, match=r"must return, for 4 images, scores of shape \(4, classes\), got \(4, 0\)"):
        load_classifier(write_linear_model(tmp_path / "empty.onnx", weights=W[:, :0]))
    with pytest.raises(InputError, match=r"has weights in w\\x00\.bin, expected them in its folder"):
        load_classifier(write_linear_model(tmp_path / "nul.onnx", external="w\0.bin"))
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(InputError, match=r"cannot read .*it\.onnx: truncated, or no ONNX model"):
        load_classifier(str(path))
    model = onnx.load(tmp_path / "any.onnx")
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1]))
    onnx.save(model, tmp_path / "two.onnx")
    with pytest.raises(InputError, match=r"must take one input, images .*, got 2: x, mask"):
        load_classifier(str(tmp_path / "two.onnx"))


def write_single_output_model(path: Path, last: str, *, flat: bool = False) -> str:
    """f = w . x - 2, through `last`, as one column (n, 1) or (n,)."""
    w, two = (
        numpy_helper.from_array(np.ones((16, 1), np.float32) / 4, "w"),
        numpy_helper.from_array(np.float32(2.0), "two"),
    )
    axes = numpy_helper.from_array(np.array([1]), "axes")
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["m"]),
        helper.make_node("Sub", ["m", "two"], ["f"]),
        helper.make_node(last, ["f"], ["g"]),
        helper.make_node("Squeeze", ["g", "axes"], ["y"]) if flat else helper.make_node("Identity", ["g"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"] if flat else ["n", 1])],
        [w, two, axes],
    )
    return save(path, graph)


def save(path: Path, graph: Any, functions: Any = ()) -> str:
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=list(functions))
    path.write_bytes(model.SerializeToString())
    return str(path)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("last", ["Sigmoid", "Identity"])
def test_single_output_is_probability_or_logit(tmp_path: Path, last: str, flat: bool) -> None:
    box = load_classifier(write_single_output_model(tmp_path / "one.onnx", last, flat=flat))
    p = (X.flatten(1).sum(1) / 4 - 2).sigmoid()
    assert box.num_classes == 2
    torch.testing.assert_close(box.query(X), torch.stack([1 - p, p], 1))


def write_multi_output_model(path: Path, values: dict[str, str]) -> str:
    """z (n, 3) and functions of it, as outputs with these names."""
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["z"])]
    nodes += [helper.make_node(kind, ["z"], [name]) for name, kind in values.items()]
    graph = helper.make_graph(
        nodes,
        "several",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 4, 4])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in values],
        [numpy_helper.from_array(W, "w")],
    )
    return save(path, graph)


def test_output_is_chosen_by_name(tmp_path: Path) -> None:
    path = write_multi_output_model(tmp_path / "two.onnx", {"features": "Relu", "scores": "Identity"})
    with pytest.raises(
        InputError, match=r"has 2 outputs that may be the scores: .*#output=NAME with one of features .*, "
    ):
        load_classifier(path)
    box, other = load_classifier(f"{path}#output=scores"), load_classifier(f"{path}#output=features")
    z = X.flatten(1) @ torch.from_numpy(W)
    torch.testing.assert_close(box(X), z.log_softmax(1))
    torch.testing.assert_close(other(X), z.relu().log_softmax(1))
    assert box.identity != other.identity
    for fragment in ("output=logits", "scores", "out=scores"):
        with pytest.raises(
            InputError, match=r"has no such output: expected .*two.onnx#output=NAME with one of features"
        ):
            load_classifier(f"{path}#{fragment}")


def test_independent_probabilities_raise(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="3 independent probabilities per image"):
        load_classifier(write_multi_output_model(tmp_path / "it.onnx", {"y": "Sigmoid"}))


def test_scores_without_a_batch_for_one_image_raise(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"scores of shape \(1, 3\) for one image, got \(1,\) \(a squeeze\(\) that drops"
    ):
        load_classifier(write_multi_output_model(tmp_path / "it.onnx", {"y": "Squeeze"}))


def test_batch_dependent_scores_raise(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["z"]),
        helper.make_node("ReduceMean", ["z", "zero"], ["mean"]),
        helper.make_node("Sub", ["z", "mean"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(W, "w"), numpy_helper.from_array(np.array([0]), "zero")],
    )
    with pytest.raises(InputError, match="other probabilities for an image alone than inside a batch of 4"):
        load_classifier(save(tmp_path / "wide.onnx", graph))


@pytest.mark.parametrize("where", ["constant", "branch", "function"])
def test_identity_covers_external_weights_in_any_node(tmp_path: Path, where: str) -> None:
    w = numpy_helper.from_array(W, "w")
    w.ClearField("raw_data")
    w.data_location = TensorProto.EXTERNAL
    w.external_data.add(key="location", value="w.bin")
    constant, functions = helper.make_node("Constant", [], ["c"], value=w), []
    nodes = [constant]
    if where == "branch":
        yes = helper.make_graph([constant], "yes", [], [helper.make_tensor_value_info("c", TensorProto.FLOAT, [16, 3])])
        truth = helper.make_node("Constant", [], ["t"], value=numpy_helper.from_array(np.array(True)))
        nodes = [truth, helper.make_node("If", ["t"], ["c"], then_branch=yes, else_branch=yes)]
    elif where == "function":
        functions = [helper.make_function("local", "weights", [], ["c"], [constant], [helper.make_opsetid("", 18)], [])]
        nodes = [helper.make_node("weights", [], ["c"], domain="local")]
    nodes += [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "c"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "external",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
    )
    path = save(tmp_path / "it.onnx", graph, functions)
    before = None
    for factor in (1, 2):
        (tmp_path / "w.bin").write_bytes((factor * W).tobytes())
        box = load_classifier(path)
        torch.testing.assert_close(box(X), (factor * X.flatten(1) @ torch.from_numpy(W)).log_softmax(1))
        assert box.identity != before
        before = box.identity

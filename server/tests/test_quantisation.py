# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.calibrate import TensorData

from ai102_server.cli import main
from ai102_server.errors import ServerError
from ai102_server.quantisation import SampleSet, split
from toolkit import save_model

CLASSES = 4


def classifier(path: Path, opset: int = 17) -> Path:
    """Convolution, pooling and a linear layer: [n, 3, 8, 8] to [n, 4]."""
    random = np.random.default_rng(5)

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(random.normal(0, 0.5, shape).astype(np.float32), name)

    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "k", "kb"], ["c"], name="conv"),
            helper.make_node("Relu", ["c"], ["r"], name="relu"),
            helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
            helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
            helper.make_node("MatMul", ["f", "w"], ["m"], name="linear"),
            helper.make_node("Add", ["m", "b"], ["y"], name="bias"),
        ],
        "classifier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", CLASSES])],
        [weights("k", 8, 3, 3, 3), weights("kb", 8), weights("w", 8, CLASSES), weights("b", CLASSES)],
    )
    if opset == 17:
        return save_model(graph, path)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 7
    onnx.save(model, path)
    return path


def inputs(count: int, seed: int) -> Any:
    return np.random.default_rng(seed).normal(0, 1, (count, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return classifier(tmp_path / "model.onnx")


@pytest.fixture
def samples(tmp_path: Path, model: Path) -> Path:
    """Twenty samples, labelled with what the model answers, so that it is always right."""
    x = inputs(20, 1)
    (y,) = ort.InferenceSession(str(model)).run(None, {"x": x})
    path = tmp_path / "samples.npz"
    np.savez(path, x=x, labels=y.argmax(1))
    return path


def quantize(model: Path, samples: Path, output: Path, *more: str) -> int:
    command = ["quantize", "--model", str(model), "--samples", str(samples), "--output", str(output), "--seconds", "0"]
    return main([*command, *more])


def kinds(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_static(method: str, model: Path, samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, report = tmp_path / "q.onnx", tmp_path / "report.json"
    options = ("--method", method, "--report", str(report), "--max-drop", "0.3")
    assert quantize(model, samples, output, *options) == 0
    assert "QuantizeLinear" in kinds(output)
    (y,) = ort.InferenceSession(str(output)).run(None, {"x": inputs(4, 2)})
    (expected,) = ort.InferenceSession(str(model)).run(None, {"x": inputs(4, 2)})
    assert 0 < np.abs(y - expected).max() < 0.5
    found = json.loads(report.read_text())
    evaluation = found["evaluation"]
    # Five of twenty are held out, spread evenly, and none of them calibrates.
    assert (found["calibration_samples"], evaluation["samples"]) == (15, 5)
    assert evaluation["metric"] == "accuracy"
    assert evaluation["accuracy_original"] == 1.0
    assert evaluation["comparisons"][0]["cosine_mean"] > 0.99
    assert evaluation["size_original"] == model.stat().st_size
    out = capsys.readouterr().out
    assert "accuracy" in out
    # What ONNX Runtime's tools print is not a part of the report.
    assert "histogram" not in out


def test_dynamic_leaves_convolutions_alone(model: Path, samples: Path, tmp_path: Path) -> None:
    output = tmp_path / "q.onnx"
    assert quantize(model, samples, output, "--method", "dynamic", "--max-drop", "0.3") == 0
    assert "MatMulInteger" in kinds(output)
    assert "Conv" in kinds(output)


def test_gpu_has_symmetric_ranges(model: Path, samples: Path, tmp_path: Path) -> None:
    output = tmp_path / "q.onnx"
    assert quantize(model, samples, output, "--target", "gpu", "--max-drop", "0.3") == 0
    zero_points = [
        numpy_helper.to_array(item) for item in onnx.load(output).graph.initializer if "zero_point" in item.name
    ]
    assert zero_points
    assert all(item.dtype == np.int8 and not item.any() for item in zero_points)


def test_per_channel_and_excluded_nodes(model: Path, samples: Path, tmp_path: Path) -> None:
    scales = {}
    for name, options in (("channel", ()), ("tensor", ("--per-tensor",))):
        output = tmp_path / f"{name}.onnx"
        assert quantize(model, samples, output, "--exclude", "lin*", "--max-drop", "1", *options) == 0
        graph = onnx.load(output).graph
        scales[name] = {
            item.name: numpy_helper.to_array(item).size for item in graph.initializer if "scale" in item.name
        }
        assert "w" in {item.name for item in graph.initializer}, "the excluded node keeps its weights as they were"
    assert scales["channel"]["k_scale"] == 8
    assert scales["tensor"]["k_scale"] == 1


def test_old_opset_is_converted(tmp_path: Path, samples: Path) -> None:
    """Scales for channels need opset 13; PP-OCR's models are of opset 11."""
    output = tmp_path / "q.onnx"
    assert quantize(classifier(tmp_path / "old.onnx", 11), samples, output, "--max-drop", "0.3") == 0
    assert onnx.load(output).opset_import[0].version >= 13


def test_refusal_leaves_no_file(model: Path, samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, report = tmp_path / "q.onnx", tmp_path / "report.json"
    options = ("--metric", "cosine", "--max-drop", "1e-9", "--report", str(report))
    table = ("--tensorrt-table", str(tmp_path / "table"))
    before = set(tmp_path.iterdir())
    assert quantize(model, samples, output, *options, *table) == 1
    assert "refused: the drop of cosine is" in capsys.readouterr().err
    assert set(tmp_path.iterdir()) - before == {report}
    assert "the drop of cosine" in json.loads(report.read_text())["refused"]


def test_answers_that_are_no_numbers_are_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two answers of NaN have their largest element in the same place."""
    x = inputs(12, 1)
    x[9:] = np.nan
    np.savez(tmp_path / "good.npz", x=x[:9])
    np.savez(tmp_path / "bad.npz", x=x[9:])
    output = tmp_path / "q.onnx"
    options = ("--evaluate", str(tmp_path / "bad.npz"), "--metric", "agreement", "--max-drop", "1")
    assert quantize(model, tmp_path / "good.npz", output, *options) == 1
    assert "the original model answers NaN or infinity in output 'y'" in capsys.readouterr().err
    assert not output.exists()


def test_tensorrt_table(model: Path, samples: Path, tmp_path: Path) -> None:
    """The table holds, for every tensor, the largest magnitude, also where that is at the lower end."""
    from onnxruntime.quantization.CalTableFlatBuffers.TrtTable import TrtTable

    table = tmp_path / "table"
    assert quantize(model, samples, tmp_path / "q.onnx", "--tensorrt-table", str(table), "--max-drop", "0.3") == 0
    root = TrtTable.GetRootAsTrtTable((table / "calibration.flatbuffers").read_bytes(), 0)
    entries = [root.Dict(i) for i in range(root.DictLength())]
    found = {item.Key().decode(): float(item.Value()) for item in entries}
    assert {"x", "c", "r", "p", "y"} <= set(found)
    with np.load(samples) as archive:
        calibration = np.delete(archive["x"], [2, 6, 10, 14, 18], axis=0)
    assert found["x"] == pytest.approx(np.abs(calibration).max())
    (y,) = ort.InferenceSession(str(model)).run(None, {"x": calibration})
    assert found["y"] == pytest.approx(np.abs(y).max(), rel=1e-5)
    lines = (table / "calibration.cache").read_text().splitlines()
    assert dict(line.split() for line in lines)["x"] == str(found["x"])


def test_ranges_of_the_table_are_symmetric() -> None:
    """ONNX Runtime's writer takes the upper end of a range, which says nothing of a tensor that is mostly negative."""
    from ai102_server.quantisation.tensorrt import _symmetric

    found = _symmetric(TensorData(lowest=np.array(-5, np.float32), highest=np.array(2, np.float32)))
    assert [float(end) for end in found.range_value] == [-5.0, 5.0]


def test_ragged_json_samples(tmp_path: Path) -> None:
    """Requests of different lengths, as sentences are; each with several rows and labels."""
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("ReduceMean", ["h"], ["y"], axes=[1], keepdims=0),
        ],
        "ragged",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "length", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(np.random.default_rng(3).normal(0, 1, (4, 2)).astype(np.float32), "w")],
    )  # fmt: skip
    path = save_model(graph, tmp_path / "ragged.onnx")
    session = ort.InferenceSession(str(path))
    directory = tmp_path / "requests"
    directory.mkdir()
    for index in range(6):
        x = np.random.default_rng(index).normal(0, 1, (2, 3 + index, 4)).astype(np.float32)
        (y,) = session.run(None, {"x": x})
        tensor = {"name": "x", "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist()}
        document = {"requests": [{"request": {"inputs": [tensor]}, "label": y.argmax(1).tolist()}]}
        (directory / f"{index}.json").write_text(json.dumps(document))
    report = tmp_path / "report.json"
    options = ("--method", "percentile", "--report", str(report), "--hold-out", "0.5", "--max-drop", "0.5")
    assert quantize(path, directory, tmp_path / "q.onnx", *options) == 0
    evaluation = json.loads(report.read_text())["evaluation"]
    assert (evaluation["samples"], evaluation["comparisons"][0]["rows"]) == (3, 6)
    assert evaluation["accuracy_original"] == 1.0


def test_split_is_even_and_needs_enough() -> None:
    samples = SampleSet(tuple({"x": np.array([i])} for i in range(8)))
    calibration, held_out = split(samples, 0.25)
    assert [int(feed["x"][0]) for feed in held_out.feeds] == [2, 6]
    assert len(calibration) == 6
    with pytest.raises(ServerError, match="1 samples cannot be split"):
        split(samples.pick([0]), 0.25)


def _with(tmp_path: Path, **arrays: Any) -> Path:
    np.savez(tmp_path / "s.npz", **arrays)
    return tmp_path / "s.npz"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"z": np.zeros((4, 3, 8, 8), np.float32)}, "has arrays z; the model's inputs: x"),
        ({"x": np.zeros((4, 3, 8, 8))}, "'x' is of type float64, the model wants float32"),
        ({"x": np.zeros((4, 3, 8, 9), np.float32)}, r"'x' has rows of shape \[3, 8, 9\], the model wants \[3, 8, 8\]"),
        ({"x": np.zeros((0, 3, 8, 8), np.float32)}, "the same number of rows, at least one"),
        ({"x": np.zeros((4, 3, 8, 8), np.float32), "labels": np.zeros(3, int)}, "the same number of rows"),
        ({"x": np.zeros((4, 3, 8, 8), np.float32), "labels": np.zeros(4)}, "'label' must be a whole number"),
        ({"x": np.array([{}], object)}, "it is no .npz of plain arrays"),
    ],
)
def test_wrong_samples(
    arrays: dict[str, Any], message: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quantize(model, _with(tmp_path, **arrays), tmp_path / "q.onnx") == 1
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--exclude", "nowhere*"), "--exclude 'nowhere*' names no node; there are, for example: conv"),
        (("--method", "dynamic", "--target", "gpu"), "dynamic quantisation is for CPUs"),
        (("--op-type", "Relu", "--method", "dynamic"), "has nothing to quantise"),
        (("--provider", "NoExecutionProvider"), "does not have NoExecutionProvider"),
    ],
)
def test_wrong_options(
    options: tuple[str, ...], message: str, model: Path, samples: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    output = tmp_path / "q.onnx"
    assert quantize(model, samples, output, *options) == 1
    assert message in capsys.readouterr().err
    assert not output.exists()


def test_output_is_never_overwritten(model: Path, samples: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = model.read_bytes()
    assert quantize(model, samples, model) == 1
    assert "exists: remove it, or name another --output" in capsys.readouterr().err
    assert model.read_bytes() == before


def test_judging_with_the_calibration_set_is_refused(
    model: Path, samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quantize(model, samples, tmp_path / "q.onnx", "--evaluate", str(samples)) == 1
    assert "says nothing about the rest" in capsys.readouterr().err


def test_unlabelled_samples_have_no_accuracy(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _with(tmp_path, x=inputs(8, 1))
    assert quantize(model, path, tmp_path / "q.onnx", "--metric", "accuracy") == 1
    assert "there is no accuracy without labels" in capsys.readouterr().err

# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""``convert``: with TensorFlow where there is one (this interpreter, or the one that TENSORFLOW_PYTHON names)."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from ai102_server.cli import main

MAKE = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow as tf
class Model(tf.Module):
    @tf.function(input_signature=[
        tf.TensorSpec([None, 3], tf.float32, name="x"), tf.TensorSpec([None], tf.float32, name="by")
    ])
    def serve(self, x, by):
        y = tf.nn.softmax(x * by[:, None])
        return {"scores": y, "best": tf.argmax(y, 1)}
model = Model()
tf.saved_model.save(model, sys.argv[1], signatures={"serving_default": model.serve})
"""


@pytest.fixture(scope="session")
def tensorflow_python() -> str:
    python = os.environ.get("TENSORFLOW_PYTHON", sys.executable)
    if "TENSORFLOW_PYTHON" not in os.environ and not all(map(importlib.util.find_spec, ("tensorflow", "tf2onnx"))):
        pytest.skip("the extra 'convert' is not installed; TENSORFLOW_PYTHON may name an interpreter that has it")
    return python


@pytest.fixture
def saved_model(tmp_path: Path, tensorflow_python: str) -> Path:
    subprocess.run([tensorflow_python, "-c", MAKE, str(tmp_path / "saved")], check=True, capture_output=True)
    return tmp_path / "saved"


def convert(source: Path, output: Path, *more: str) -> int:
    return main(["convert", "--saved-model", str(source), "--output", str(output), *more])


def test_convert(saved_model: Path, tensorflow_python: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "model.onnx"
    python = ("--python", tensorflow_python)
    assert convert(saved_model, output, *python) == 0
    session = ort.InferenceSession(str(output))
    x = np.array([[1, 2, 3], [3, 2, 1]], np.float32)
    found = dict(
        zip(
            (item.name for item in session.get_outputs()),
            session.run(None, {"x": x, "by": np.array([1, 2], np.float32)}),
            strict=True,
        )
    )
    scaled = np.exp(x * [[1], [2]])
    assert np.allclose(found["scores"], scaled / scaled.sum(1, keepdims=True), atol=1e-5)
    assert found["best"].tolist() == [2, 0]
    assert "differs from TensorFlow" in capsys.readouterr().err
    # What does not answer as the original does is not written.
    for options, message in (
        (("--tolerance", "-1"), "more than the tolerance"),
        (("--signature", "other"), "it has no signature 'other'; it has: serving_default"),
    ):
        other = tmp_path / "other.onnx"
        assert convert(saved_model, other, *python, *options) == 1
        assert message in capsys.readouterr().err
        assert not other.exists()


def empty(tmp_path: Path) -> Path:
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"")
    return tmp_path / "saved"


def test_without_tensorflow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("tensorflow") is not None:
        pytest.skip("TensorFlow is installed here")
    before = set(tmp_path.iterdir())
    assert convert(empty(tmp_path), tmp_path / "m.onnx") == 1
    assert "has no tensorflow: pip install 'ai102-server[convert]'" in capsys.readouterr().err
    assert {path.name for path in set(tmp_path.iterdir()) - before} == {"saved"}


def test_wrong_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(tmp_path, tmp_path / "m.onnx") == 1
    assert "is not a SavedModel: it has no saved_model.pb" in capsys.readouterr().err
    source = empty(tmp_path)
    (tmp_path / "there.onnx").touch()
    assert convert(source, tmp_path / "there.onnx") == 1
    assert "exists: remove it" in capsys.readouterr().err
    assert convert(source, tmp_path / "no" / "m.onnx") == 1
    assert "does not exist: make it" in capsys.readouterr().err
    assert convert(source, tmp_path / "m.onnx", "--python", str(tmp_path / "nobody")) == 1
    assert "nobody cannot be run: No such file" in capsys.readouterr().err

# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN401  (TensorFlow has no types, and is not there where types are checked)
"""Converts a TensorFlow SavedModel; run as a program by ``convert``, in the interpreter that has TensorFlow.

That interpreter need not know this package: nothing of it is imported here. The job comes as JSON in the first
argument, the result leaves as JSON in the last line of the output. Exit status 3: a library is missing (its name is on
standard error), 4: the model cannot be converted (why is there).
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, NoReturn

MISSING = 3
REFUSED = 4
BATCHES = (1, 3)


def refuse(text: str) -> NoReturn:
    """End with the reason."""
    print(text, file=sys.stderr)
    sys.exit(REFUSED)


def first_line(error: Exception) -> str:
    """What an error says, without the rest of it."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def sample(spec: Any, batch: int, random: Any) -> Any:
    """Random input for a tensor; open axes are ``batch`` long."""
    import numpy as np

    shape = [batch if axis is None else axis for axis in spec.shape]
    dtype = np.dtype(spec.dtype.as_numpy_dtype)
    if dtype.kind == "O":
        return np.full(shape, "text", dtype=object)
    if dtype.kind == "f":
        return random.normal(0, 1, shape).astype(dtype)
    return random.integers(0, 2, shape).astype(dtype)


def difference(model: Any, function: Any, specs: dict[str, Any]) -> float:
    """Largest difference of the answers, as a share of the largest element (at least 1); refuses when none fits."""
    import numpy as np
    import onnxruntime as ort
    import tensorflow as tf

    random = np.random.default_rng(1)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch in BATCHES:
        feed = {name: sample(spec, batch, random) for name, spec in specs.items()}
        expected = function(**{name: tf.constant(value) for name, value in feed.items()})
        for node, got in zip(session.get_outputs(), session.run(None, feed), strict=True):
            want = expected[node.name].numpy()
            if got.shape != want.shape:
                refuse(f"output '{node.name}' has shape {got.shape} in ONNX and {want.shape} in TensorFlow")
            if want.dtype.kind == "f":
                scale = max(1.0, float(np.abs(want).max(initial=0)))
                worst = max(worst, float(np.abs(got.astype(np.float64) - want).max(initial=0)) / scale)
            elif not np.array_equal(got.astype(want.dtype), want):
                refuse(f"output '{node.name}' is not what TensorFlow answers")
    return worst


def main() -> None:
    """Convert, compare, write."""
    job = json.loads(sys.argv[1])
    # Its start would fill the screen, and the conversion needs no GPU.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    try:
        import numpy  # noqa: F401 (all are looked for before the work begins)
        import onnx
        import onnxruntime
        import tensorflow as tf
        import tf2onnx
    except ImportError as error:
        print(error.name, file=sys.stderr)
        sys.exit(MISSING)
    try:
        loaded = tf.saved_model.load(job["model"])
    except Exception as error:  # noqa: BLE001 (TensorFlow raises what its parts raise; the reason is what counts)
        refuse(f"TensorFlow cannot load it: {first_line(error)}")
    function = loaded.signatures.get(job["signature"])
    if function is None:
        refuse(f"it has no signature '{job['signature']}'; it has: {', '.join(loaded.signatures) or 'none'}")
    specs = function.structured_input_signature[1]
    # Signatures take their tensors by name, and tf2onnx calls by position.
    signature = [tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in specs.items()]

    def by_position(*values: Any) -> Any:
        return function(**dict(zip(specs, values, strict=True)))

    try:
        wrapped = tf.function(by_position, input_signature=signature)
        model, _ = tf2onnx.convert.from_function(wrapped, input_signature=signature, opset=job["opset"])
        onnx.checker.check_model(model)
        worst = difference(model, function, specs)
    except Exception as error:  # noqa: BLE001 (as above)
        refuse(first_line(error))
    if not worst <= job["tolerance"]:
        refuse(f"answers differ by {worst:g} from TensorFlow's, more than the tolerance of {job['tolerance']:g}")
    onnx.save(model, job["output"])
    print(
        json.dumps(
            {
                "inputs": [item.name for item in model.graph.input],
                "outputs": [item.name for item in model.graph.output],
                "difference": worst,
                "tensorflow": tf.__version__,
                "onnxruntime": onnxruntime.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()

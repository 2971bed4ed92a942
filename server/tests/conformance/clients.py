# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code=import-untyped
"""The official clients against a running server: every call they have for it, every datatype, both encodings.

``tritonclient`` runs in this interpreter; KServe's client, which wants other versions of common libraries, in the one
given by ``--kserve-python`` (``pip install kserve`` into an environment of its own).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from conformance.server import VALUES, package, serving
from toolkit import ONNX_TYPES, doubling_model

__all__ = ["build_models", "check_triton", "main"]

SCRIPT = Path(__file__).parent / "kserve_client.py"


def build_models(root: Path) -> list[dict[str, str]]:
    """``doubling``, and ``echo_<datatype>`` for every datatype."""
    root.mkdir(parents=True, exist_ok=True)
    doubling_model(root / "doubling.onnx")
    models = [package(root / "packages", "doubling", (root / "doubling.onnx").read_bytes())]
    for name, kind in {**ONNX_TYPES, "BF16": TensorProto.BFLOAT16}.items():
        graph = helper.make_graph(
            [helper.make_node("Identity", ["x"], ["y"])],
            "echo",
            [helper.make_tensor_value_info("x", kind, ["n", 2])],
            [helper.make_tensor_value_info("y", kind, ["n", 2])],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 9
        onnx.checker.check_model(model)
        models.append(package(root / "packages", f"echo_{name.lower()}", model.SerializeToString()))
    return models


def array_of(datatype: str) -> Any:
    """The values of a datatype as the clients want them: [2, 2], with ``bytes`` for BYTES."""
    numpy_types = {"BOOL": "?", "FP16": "f2", "FP32": "f4", "FP64": "f8", "BF16": ml_dtypes.bfloat16}
    if datatype == "BYTES":
        return np.array([item.encode() for item in VALUES[datatype]], dtype=object).reshape(2, 2)
    return np.array(VALUES[datatype], numpy_types.get(datatype, datatype.lower())).reshape(2, 2)


def check_triton(address: str) -> int:
    """Every call of ``tritonclient.http`` that this server answers. Returns how many; raises when one is wrong."""
    checked = 0
    with triton.InferenceServerClient(address) as client:
        for check in (_health, _metadata, _datatypes, _requests, _compression, _errors, _repository):
            checked += check(client)
    return checked


def _expect(*conditions: bool) -> int:
    for number, condition in enumerate(conditions):
        if not condition:
            raise AssertionError(f"condition {number} does not hold")
    return len(conditions)


def _health(client: Any) -> int:
    return _expect(
        client.is_server_live(),
        client.is_server_ready(),
        client.is_model_ready("doubling"),
        client.is_model_ready("doubling", "1"),
        not client.is_model_ready("none"),
        not client.is_model_ready("doubling", "7"),
    )


def _metadata(client: Any) -> int:
    model = client.get_model_metadata("doubling", "1")
    config = client.get_model_config("doubling")
    index = {item["name"]: item["state"] for item in client.get_model_repository_index()}
    return _expect(
        "binary_tensor_data" in client.get_server_metadata()["extensions"],
        model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}],
        model["versions"] == ["1"],
        config["input"][0] == {"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 3]},
        index["doubling"] == "READY",
        len(index) == len(VALUES) + 1,
    )


def _datatypes(client: Any) -> int:
    checked = 0
    for datatype in VALUES:
        array = array_of(datatype)
        for binary_in in (True, False):
            for binary_out in (True, False):
                if datatype == "BF16" and not (binary_in and binary_out):
                    # The client itself refuses to send BF16 in JSON, and the protocol's JSON has no form for it.
                    continue
                tensor = triton.InferInput("x", [2, 2], datatype)
                tensor.set_data_from_numpy(array, binary_data=binary_in)
                wanted = triton.InferRequestedOutput("y", binary_data=binary_out)
                result = client.infer(f"echo_{datatype.lower()}", [tensor], outputs=[wanted])
                found = result.as_numpy("y")
                if datatype == "BYTES" and not binary_out:
                    found = np.array([item.encode() for item in found.reshape(-1)], dtype=object).reshape(2, 2)
                if datatype == "BYTES":
                    same = found.tolist() == array.tolist()
                else:
                    same = found.dtype == array.dtype and found.tobytes() == array.tobytes()
                assert same, (datatype, binary_in, binary_out, found)
                checked += 1
    return checked


def _doubling(rows: int = 1, binary: bool = True) -> tuple[Any, Any]:
    array = np.arange(3 * rows, dtype=np.float32).reshape(rows, 3)
    tensor = triton.InferInput("x", list(array.shape), "FP32")
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor, array


def _requests(client: Any) -> int:
    checked = 0
    for binary in (True, False):
        tensor, array = _doubling(4, binary)
        # Without outputs the client asks for all of them in binary form.
        result = client.infer("doubling", [tensor], model_version="1", request_id="i 1", timeout=5_000_000, priority=1)
        checked += _expect(
            result.get_response()["id"] == "i 1",
            result.get_response()["model_version"] == "1",
            np.array_equal(result.as_numpy("y"), array * 2),
            np.array_equal(result.as_numpy("total"), (array * 2).sum(1)),
        )
        empty, _array = _doubling(0, binary)
        checked += _expect(client.infer("doubling", [empty]).as_numpy("y").shape == (0, 3))
    tensor, array = _doubling()
    outputs = [triton.InferRequestedOutput("total", binary_data=False), triton.InferRequestedOutput("y")]
    result = client.infer("doubling", [tensor], outputs=outputs, parameters={"own": "ignored"})
    names = [output["name"] for output in result.get_response()["outputs"]]
    later = [client.async_infer("doubling", [tensor]) for _ in range(8)]
    answers = [request.get_result().as_numpy("y") for request in later]
    body, length = triton.InferenceServerClient.generate_request_body([tensor])
    return checked + _expect(
        names == ["total", "y"],
        np.array_equal(result.as_numpy("y"), array * 2),
        all(np.array_equal(answer, array * 2) for answer in answers),
        0 < length < len(body),
    )


def _compression(client: Any) -> int:
    checked = 0
    tensor, array = _doubling(1000)
    for asked in ("gzip", "deflate"):
        for wanted in (None, "gzip", "deflate"):
            result = client.infer(
                "doubling",
                [tensor],
                request_compression_algorithm=asked,
                response_compression_algorithm=wanted,
            )
            checked += _expect(np.array_equal(result.as_numpy("y"), array * 2))
    return checked


def _refused(call: Callable[[], object], status: str, message: str) -> int:
    try:
        call()
    except InferenceServerException as error:
        return _expect(error.status() == status, message in error.message())
    raise AssertionError(f"not refused: {message}")


def _errors(client: Any) -> int:
    tensor, _array = _doubling()
    wrong = triton.InferInput("z", [1, 3], "FP32")
    wrong.set_data_from_numpy(np.zeros((1, 3), np.float32))
    shared = triton.InferInput("x", [1, 3], "FP32")
    shared.set_shared_memory("region", 12)
    classes = triton.InferRequestedOutput("y", class_count=3)
    return (
        _refused(lambda: client.infer("none", [tensor]), "404", "unknown model 'none'")
        + _refused(lambda: client.infer("doubling", [tensor], model_version="9"), "404", "has no version '9'")
        + _refused(lambda: client.infer("doubling", [wrong]), "400", "unknown input 'z'")
        + _refused(lambda: client.infer("doubling", [shared]), "400", "'shared_memory_region'")
        + _refused(lambda: client.infer("doubling", [tensor], outputs=[classes]), "400", "'classification'")
        + _refused(lambda: client.infer("doubling", [tensor], sequence_id=7), "400", "'sequence_id'")
        + _refused(lambda: client.get_model_metadata("none"), "404", "unknown model 'none'")
        + _refused(lambda: client.load_model("none"), "404", "'none'")
        + _refused(lambda: client.load_model("doubling", config="{}"), "400", "parameter 'config' is not supported")
    )


def _repository(client: Any) -> int:
    checked = 0
    client.unload_model("echo_int8")
    checked += _expect(not client.is_model_ready("echo_int8"))
    client.load_model("echo_int8")
    checked += _expect(client.is_model_ready("echo_int8"))
    (model,) = client.get_inference_statistics("doubling")["model_stats"]
    return checked + _expect(
        model["name"] == "doubling",
        model["version"] == "1",
        model["inference_stats"]["success"]["count"] >= 0,
        len(client.get_inference_statistics()["model_stats"]) == len(VALUES) + 1,
    )


def check_kserve(python: str, address: str) -> int:
    """``kserve_client.py`` in the interpreter ``python``. Returns how many calls were right."""
    done = subprocess.run([python, str(SCRIPT), f"http://{address}"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"KServe's client:\n{done.stdout}{done.stderr}")
    return int(done.stdout.split()[-1])


def main() -> int:
    """Run both clients and print what was checked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kserve-python", help="interpreter that has the package kserve")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        with serving(root / "server", build_models(root), limits={"queue": 64}) as server:
            address = f"127.0.0.1:{server.config['listen']['port']}"
            print(f"tritonclient: {check_triton(address)} checks passed")
            if options.kserve_python is None:
                print("KServe's client: not run, give --kserve-python")
            elif shutil.which(options.kserve_python) is None:
                print(f"KServe's client: not run, there is no {options.kserve_python}")
                return 1
            else:
                print(f"KServe's client: {check_kserve(options.kserve_python, address)} checks passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())

# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plain Flask: what one writes in an afternoon. V2 in JSON, and raw tensors for images."""

from __future__ import annotations

import json

import numpy as np
from bench_session import NAME, load_session
from flask import Flask, Response, jsonify, request

DTYPES = {"FP32": np.float32, "INT64": np.int64}
CODES = {"float32": "FP32", "int64": "INT64"}

app = Flask(__name__)
session = load_session()
outputs = [item.name for item in session.get_outputs()]


@app.get("/v2/health/ready")
def ready() -> Response:
    """Answer health checks."""
    return jsonify(ready=True)


@app.post(f"/v2/models/{NAME}/infer")
def infer() -> Response:
    """Answer an inference request."""
    length = request.headers.get("Inference-Header-Content-Length")
    if length is None:
        document, rest = request.get_json(), b""
    else:
        body = request.get_data()
        document, rest = json.loads(body[: int(length)]), memoryview(body)[int(length) :]
    feed = {}
    offset = 0
    for item in document["inputs"]:
        dtype = DTYPES[item["datatype"]]
        if "data" in item:
            feed[item["name"]] = np.array(item["data"], dtype).reshape(item["shape"])
        else:
            size = item["parameters"]["binary_data_size"]
            feed[item["name"]] = np.frombuffer(rest[offset : offset + size], dtype).reshape(item["shape"])
            offset += size
    arrays = session.run(outputs, feed)
    described = [
        {"name": name, "shape": list(array.shape), "datatype": CODES[array.dtype.name]}
        for name, array in zip(outputs, arrays, strict=True)
    ]
    if length is None:
        for item, array in zip(described, arrays, strict=True):
            item["data"] = array.ravel().tolist()
        return jsonify(model_name=NAME, outputs=described)
    for item, array in zip(described, arrays, strict=True):
        item["parameters"] = {"binary_data_size": array.nbytes}
    head = json.dumps({"model_name": NAME, "outputs": described}).encode()
    body = b"".join([head, *(array.tobytes() for array in arrays)])
    return Response(
        body, mimetype="application/octet-stream", headers={"Inference-Header-Content-Length": str(len(head))}
    )

# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a sample becomes a request of each kind, and how the answer is read."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import orjson

CODES = {"float32": "FP32", "int64": "INT64"}
LENGTH = "Inference-Header-Content-Length"
Feed = dict[str, np.ndarray]


@dataclass(frozen=True)
class Request:
    """A request without its connection."""

    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)

    def raw(self, host: str) -> bytes:
        """All bytes that go over the wire."""
        headers = {"Host": host, **self.headers, "Content-Length": str(len(self.body))}
        lines = [f"POST {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        return "\r\n".join(lines).encode() + self.body


def _json(document: object) -> bytes:
    # numbers of 32 bits as short as they can be written without loss
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def v2_json(model: str, feed: Feed) -> Request:
    """Open Inference Protocol V2, JSON."""
    inputs = [
        {"name": name, "shape": list(array.shape), "datatype": CODES[array.dtype.name], "data": array.ravel()}
        for name, array in feed.items()
    ]
    return Request(f"/v2/models/{model}/infer", _json({"inputs": inputs}), {"Content-Type": "application/json"})


def v2_binary(model: str, feed: Feed) -> Request:
    """Open Inference Protocol V2 with its binary tensor extension, both ways."""
    inputs = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": CODES[array.dtype.name],
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in feed.items()
    ]
    head = _json({"inputs": inputs, "parameters": {"binary_data_output": True}})
    body = b"".join([head, *(array.tobytes() for array in feed.values())])
    return Request(
        f"/v2/models/{model}/infer", body, {"Content-Type": "application/octet-stream", LENGTH: str(len(head))}
    )


def named_json(_model: str, feed: Feed) -> Request:
    """Nested lists by the names of the inputs."""
    return Request("/predict", _json(feed), {"Content-Type": "application/json"})


def stacked_json(_model: str, feed: Feed) -> Request:
    """One nested list: the inputs of a model that has several are stacked."""
    arrays = list(feed.values())
    x = arrays[0] if len(arrays) == 1 else np.stack(arrays, axis=1)
    return Request("/predict", _json({"x": x}), {"Content-Type": "application/json"})


def raw_tensor(_model: str, feed: Feed) -> Request:
    """The bytes of the only input, its shape in the address."""
    ((_name, array),) = feed.items()
    shape = ",".join(str(axis) for axis in array.shape)
    return Request(f"/predict?shape={shape}", array.tobytes(), {"Content-Type": "application/octet-stream"})


def read_v2(headers: http.client.HTTPMessage, body: bytes) -> np.ndarray:
    """The first output of a V2 answer, flat."""
    length = headers.get(LENGTH)
    if length is None:
        return np.array(json.loads(body)["outputs"][0]["data"], np.float32).ravel()
    (output,) = json.loads(body[: int(length)])["outputs"]
    if "data" in output:
        return np.array(output["data"], np.float32).ravel()
    return np.frombuffer(body[int(length) :], np.float32)


def read_named(headers: http.client.HTTPMessage, body: bytes) -> np.ndarray:
    """Raw bytes, nested lists below `outputs`, or nested lists as such; flat."""
    if headers.get_content_type() == "application/octet-stream":
        return np.frombuffer(body, np.float32)
    document = json.loads(body)
    return np.array(document["outputs"] if isinstance(document, dict) else document, np.float32).ravel()


Make = Callable[[str, Feed], Request]
Read = Callable[[http.client.HTTPMessage, bytes], np.ndarray]


@dataclass(frozen=True)
class Wire:
    """What a server understands: JSON, and binary tensors where it does."""

    json: Make
    binary: Make | None
    read: Read

    def make(self, encoding: str) -> Make | None:
        """How to make requests of this encoding."""
        return self.json if encoding == "json" else self.binary


V2 = Wire(v2_json, v2_binary, read_v2)
V2_JSON_ONLY = Wire(v2_json, None, read_v2)
NAMED = Wire(named_json, None, read_named)
NAMED_OR_RAW = Wire(named_json, raw_tensor, read_named)
STACKED = Wire(stacked_json, None, read_named)


@dataclass(frozen=True)
class Samples:
    """Samples of a model's input and ONNX Runtime's answers to them."""

    model: str
    directory: Path
    feeds: list[Feed]
    answers: list[np.ndarray]
    output: str = "y"

    @classmethod
    def load(cls, directory: Path) -> Samples:
        """Read what models.py wrote."""
        samples, answers = np.load(directory / "samples.npz"), np.load(directory / "answers.npz")
        arrays = {name: samples[name] for name in samples.files}
        (output,) = answers.files
        expected = answers[output]
        count = len(expected)
        feeds = [{name: array[i : i + 1] for name, array in arrays.items()} for i in range(count)]
        return cls(directory.name, directory, feeds, [expected[i : i + 1] for i in range(count)], output)

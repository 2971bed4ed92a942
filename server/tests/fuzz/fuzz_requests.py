# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Sends mutated requests through the codec, and through the whole WSGI application with real models.

``python tests/fuzz/fuzz_requests.py codec 500000 [seed]``, and ``app`` for the application. JSON documents are made
and mutated as structures and as bytes, with binary tails and headers that fit, nearly fit or do not; compressed bodies
too. Whatever comes in, the codec answers with tensors of the right type and shape or with ``RequestError`` of status
400 or 413, and the application never with 500.
"""

from __future__ import annotations

import gzip
import io
import json
import logging
import math
import random
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "src")]

import numpy as np

from ai102_server.codec import (
    DATATYPES,
    TensorSpec,
    decode_request,
    decompress,
    encode_response,
    request_encoding,
)
from ai102_server.errors import RequestError

__all__ = ["Sent", "build_app", "cases", "run_app", "run_codec"]

SPECS: Final[dict[str, TensorSpec]] = {
    **{f"in_{name}": TensorSpec(f"in_{name}", datatype, (-1, 2)) for name, datatype in DATATYPES.items()},
    "scalar": TensorSpec("scalar", DATATYPES["FP32"], ()),
    "image": TensorSpec("image", DATATYPES["BYTES"], (-1,), binary=True),
    "free": TensorSpec("free", DATATYPES["INT64"], (-1, -1, -1)),
}
ODD: Final[tuple[Any, ...]] = (
    None, True, False, 0, -1, 1, 2, 1.5, -0.0, 1e308, 1e39, 70000, 2**31, 2**53 + 1, 2**63, 2**64, 2**64 - 1, -(2**63),
    10**30, math.nan, math.inf, -math.inf, "", "x", "é", "\ud800", "\x00", "NaN", "1", "aGVsbG8=", "a" * 300, [], [[]],
    {}, [None], [[[[]]]], [1, "a"], [[1], [2, 3]], {"a": 1}, "FP32", "BYTES", "BF16", "in_FP32",
)  # fmt: skip
KEYS: Final = ("inputs", "outputs", "parameters", "id", "name", "shape", "datatype", "data", "binary_data_size",
               "binary_data", "binary_data_output", "timeout", "classification", "shared_memory_region", "sequence_id",
               "", "__proto__", "model_name")  # fmt: skip
HEADERS: Final = ("", "-1", "+5", " 5", "5.0", "1_0", "99999", "9" * 5000, "٣", "0", "0x10", "\x00")
TIMEOUTS: Final = ("1", "0.25", "250m", "0", "-1", "nan", "1e9", "", "9" * 30, "5S", "٣", "1\n")
DEEP: Final = tuple(b"[" * depth + b"]" * depth for depth in (10, 60, 500, 1100, 20_000))


class Sent(NamedTuple):
    """One request, made for ``model``; headers as WSGI has them in ``environ``."""

    model: str
    path: str
    body: bytes
    environ: dict[str, str]


class Maker:
    """Makes requests for models with the tensors ``specs``; the same ones for the same seed."""

    def __init__(
        self, seed: int, models: Mapping[str, tuple[Mapping[str, TensorSpec], Mapping[str, TensorSpec]]]
    ) -> None:
        self.random: Final = random.Random(seed)
        self.models: Final = models

    def value(self, spec: TensorSpec, wild: float) -> Any:
        """An element for JSON, mostly of the right kind."""
        pick = self.random
        if pick.random() < wild:
            return pick.choice(ODD)
        kind = spec.datatype.kind
        if kind == "b":
            return pick.random() < 0.5
        if kind == "O":
            return pick.choice(("", "text", "zwölf", "aGVsbG8=", "nul\0", "\U0001f600"))
        if kind == "f":
            return pick.choice((0, 1, -1, 0.5, pick.uniform(-1e4, 1e4), pick.randrange(-1000, 1000)))
        return pick.randrange(0, 128)

    def tensor(self, spec: TensorSpec, wild: float) -> tuple[dict[str, Any], bytes]:
        """An input, and its raw bytes when it is in binary form."""
        pick = self.random
        shape = [pick.choice((1, 1, 2, 3, 0)) if axis < 0 else axis for axis in spec.shape]
        count = math.prod(shape)
        item: dict[str, Any] = {"name": spec.name, "shape": shape, "datatype": spec.datatype.name}
        if pick.random() < 0.45 or not spec.datatype.in_json:
            raw = self.raw(spec, count)
            item["parameters"] = {"binary_data_size": len(raw)}
            return item, raw
        data: Any = [self.value(spec, wild) for _ in range(count)]
        if pick.random() < 0.4 and len(shape) > 1 and count:
            for length in reversed(shape[1:]):
                data = [data[at : at + length] for at in range(0, len(data), length)]
        item["data"] = data
        return item, b""

    def raw(self, spec: TensorSpec, count: int) -> bytes:
        """Elements in binary form."""
        pick = self.random
        if spec.datatype.wire is None:
            texts = [pick.choice((b"", b"text", "zwölf".encode(), b"\xff\xfe", b"\x00")) for _ in range(count)]
            return b"".join(struct.pack("<I", len(text)) + text for text in texts)
        if spec.datatype.kind == "b":
            return bytes(pick.choice((0, 1, 1, 2 if pick.random() < 0.05 else 0)) for _ in range(count))
        return pick.randbytes(count * spec.datatype.wire.itemsize)

    def mutate(self, document: Any, depth: int = 0) -> Any:
        """The document with something in it replaced, removed, added or swapped."""
        pick = self.random
        if depth > 4 or pick.random() < 0.12 or not isinstance(document, (dict, list)) or not document:
            return pick.choice(ODD)
        if isinstance(document, dict):
            key = pick.choice(list(document))
            action = pick.random()
            if action < 0.15:
                return {name: item for name, item in document.items() if name != key}
            if action < 0.3:
                return {**document, pick.choice(KEYS): pick.choice(ODD)}
            return {**document, key: self.mutate(document[key], depth + 1)}
        place = pick.randrange(len(document))
        action = pick.random()
        if action < 0.15:
            return document[:place] + document[place + 1 :]
        if action < 0.3:
            return [*document, document[place]]
        return [*document[:place], self.mutate(document[place], depth + 1), *document[place + 1 :]]

    def noise(self, raw: bytes) -> bytes:
        """The bytes with some of them replaced, inserted, removed, repeated or cut off."""
        pick = self.random
        for _ in range(pick.choice((1, 1, 2, 5))):
            place = pick.randrange(len(raw) + 1)
            action = pick.randrange(6)
            if action == 0:
                raw = raw[:place] + bytes([pick.randrange(256)]) + raw[place + 1 :]
            elif action == 1:
                raw = (
                    raw[:place]
                    + pick.choice((b"[", b"]", b"{", b"}", b'"', b",", b":", b"1", b"e9", b"\\u", b"NaN"))
                    + raw[place:]
                )
            elif action == 2:
                raw = raw[:place] + raw[place + 1 :]
            elif action == 3:
                raw = raw[:place]
            elif action == 4:
                raw = raw[:place] + raw[place : place + 20] + raw[place:]
            else:
                raw = raw.replace(b"1", pick.choice((b"1e400", b"-0", b"NaN", b"true", b"null", b"-Infinity")), 1)
        return raw

    def request(self) -> Sent:
        """One request, right or wrong."""
        pick = self.random
        name = pick.choice(list(self.models))
        inputs, outputs = self.models[name]
        wild = pick.choice((0.0, 0.0, 0.02, 0.3))
        items, tails = [], []
        for spec in inputs.values():
            item, raw = self.tensor(spec, wild)
            items.append(item)
            tails.append(raw)
        document: Any = {"inputs": items}
        if pick.random() < 0.4:
            document["id"] = pick.choice(("a", "é", "x" * 100))
        if pick.random() < 0.5:
            document["parameters"] = {"binary_data_output": pick.random() < 0.7}
        if pick.random() < 0.4:
            chosen = pick.sample(list(outputs), pick.randrange(1, len(outputs) + 1))
            document["outputs"] = [
                {"name": each, "parameters": {"binary_data": pick.random() < 0.6}} for each in chosen
            ]
        for _ in range(pick.choice((0, 0, 0, 1, 1, 3))):
            document = self.mutate(document)
        head = json.dumps(document).encode("utf-8", "surrogatepass")
        if pick.random() < 0.2:
            head = self.noise(head)
        if pick.random() < 0.01:
            head = head.replace(b"[", pick.choice(DEEP), 1)
        tail = b"".join(tails)
        if tail and pick.random() < 0.15:
            tail = self.noise(tail)
        environ: dict[str, str] = {}
        if tail or pick.random() < 0.1:
            length = len(head) + (0 if pick.random() < 0.9 else pick.randrange(-3, 4))
            value = str(length) if pick.random() < 0.95 else pick.choice(HEADERS)
            environ["HTTP_INFERENCE_HEADER_CONTENT_LENGTH"] = value
        if pick.random() < 0.05:
            environ["HTTP_X_REQUEST_TIMEOUT"] = pick.choice(TIMEOUTS)
        body = head + tail
        if pick.random() < 0.1:
            environ["HTTP_CONTENT_ENCODING"] = encoding = pick.choice(("gzip", "deflate", "deflate", "br", "identity"))
            body = {"gzip": lambda data: gzip.compress(data, 1), "deflate": zlib.compress}.get(encoding, bytes)(body)
            if pick.random() < 0.3:
                body = self.noise(body)
        return Sent(name, self.path(name), body, environ)

    def path(self, model: str) -> str:
        """Where it is sent: mostly to the model it was made for."""
        pick = self.random
        if pick.random() < 0.95:
            return f"/v2/models/{model}/infer"
        odd = pick.choice((model, "none", "..", "%00", "a/b", "é", "x" * 2000, ""))
        return pick.choice(
            (
                f"/v2/models/{odd}/infer",
                f"/v2/models/{odd}/versions/{pick.choice(('1', '7', '', 'é', '1/2'))}/infer",
                f"/v2/repository/models/{odd}/load",
                "/v2/repository/index",
                f"/v2/models/{odd}/stats",
                "/auth/token",
                f"/v2/{odd}",
            )
        )


def cases(
    count: int, seed: int, models: Mapping[str, tuple[Mapping[str, TensorSpec], Mapping[str, TensorSpec]]]
) -> Iterator[Sent]:
    """``count`` requests."""
    maker = Maker(seed, models)
    for _ in range(count):
        yield maker.request()


# --------------------------------------------------------------------------------------------------------------------
# The codec
# --------------------------------------------------------------------------------------------------------------------
_ONE: Final = {name: ({name: spec}, {name: spec}) for name, spec in SPECS.items()}
_SOME: Final = {name: SPECS[name] for name in ("in_FP32", "in_BYTES", "scalar", "free")}
CODEC_MODELS: Final = {**_ONE, "some": (_SOME, _SOME)}


def run_codec(count: int, seed: int) -> tuple[Counter[str], list[tuple[Sent, str]]]:
    """Decode each request, and encode what was decoded. Returns how each ended, and the findings."""
    ends: Counter[str] = Counter()
    found: list[tuple[Sent, str]] = []
    for sent in cases(count, seed, CODEC_MODELS):
        try:
            ends[_codec(sent)] += 1
        except RequestError as error:
            ends[str(error.status)] += 1
            if error.status not in {400, 413, 415} or len(error.message) > 2000:
                found.append((sent, f"{error.status} {error.message[:200]}"))
        except BaseException as error:  # noqa: BLE001  # anything at all is a finding
            found.append((sent, repr(error)[:300]))
    return ends, found


def _codec(sent: Sent) -> str:
    inputs, outputs = CODEC_MODELS[sent.model]
    body = sent.body
    encoding = request_encoding(sent.environ.get("HTTP_CONTENT_ENCODING"))
    if encoding is not None:
        body = decompress((body[at : at + 50] for at in range(0, len(body), 50)), encoding, 4096)
    strict = len(body) % 3 == 0
    request = decode_request(
        body,
        sent.environ.get("HTTP_INFERENCE_HEADER_CONTENT_LENGTH"),
        inputs,
        outputs,
        timeout=sent.environ.get("HTTP_X_REQUEST_TIMEOUT"),
        max_batch=2 if len(body) % 5 == 0 else None,
        allow_nan=not strict,
    )
    for name, spec in inputs.items():
        array = request.inputs[name]
        assert array.dtype == spec.datatype.dtype
        assert len(array.shape) == len(spec.shape)
        assert all(want in (-1, axis) for axis, want in zip(array.shape, spec.shape, strict=True))
        assert array.flags.aligned
        assert array.flags.c_contiguous
        if spec.datatype.kind == "O":
            wanted = bytes if spec.binary else str
            assert all(type(item) is wanted for item in array.reshape(-1))
        elif spec.datatype.kind == "f" and strict:
            assert np.isfinite(array).all()
        elif spec.datatype.kind == "b":
            assert array.view(np.uint8).reshape(-1).max(initial=0) <= 1
    assert request.deadline_seconds is None or request.deadline_seconds > 0
    arrays = [request.inputs[output.name] for output in request.outputs]
    response = encode_response("m", "1", request, arrays, outputs)
    json.loads(response.body[: response.header_length])
    return "200"


# --------------------------------------------------------------------------------------------------------------------
# The application
# --------------------------------------------------------------------------------------------------------------------
App = Callable[[dict[str, Any], Callable[..., Any]], Any]


def build_app(root: Path) -> App:
    """The server's WSGI application with the models ``doubling`` and ``echo``; no process, no socket."""
    from ai102_server.api import Application
    from ai102_server.config import parse_config
    from ai102_server.service import Service
    from toolkit import Signer, doubling_model, echo_model

    signer = Signer(root)
    models = [signer.package("doubling", "1", doubling_model), signer.package("echo", "1", echo_model)]
    config = {
        "listen": {"port": 1},
        "workers": 1,
        "models": models,
        "limits": {"max_body_bytes": 65536},
        "log": {"level": "error", "access": False},
    }
    return Application(Service(parse_config(config)))


def _app_models() -> dict[str, tuple[dict[str, TensorSpec], dict[str, TensorSpec]]]:
    from toolkit import ONNX_TYPES

    def specs(prefix: str) -> dict[str, TensorSpec]:
        return {f"{prefix}{name}": TensorSpec(f"{prefix}{name}", DATATYPES[name], (-1, -1)) for name in ONNX_TYPES}

    fp32 = DATATYPES["FP32"]
    doubling = {"y": TensorSpec("y", fp32, (-1, 3)), "total": TensorSpec("total", fp32, (-1,))}
    echo = (specs("in_"), specs("out_"))
    x = {"x": TensorSpec("x", fp32, (-1, 3))}
    return {"doubling": (x, doubling), "again": (x, doubling), "echo": echo}


def run_app(app: App, count: int, seed: int) -> tuple[Counter[str], list[tuple[Sent, str]]]:
    """Send each request to the application. Returns how each ended, and the findings."""
    ends: Counter[str] = Counter()
    found: list[tuple[Sent, str]] = []
    answered: list[str] = []
    for sent in cases(count, seed, _app_models()):
        environ = _environ(sent)
        try:
            chunks = app(environ, lambda status, _headers, *_rest: answered.append(status))
            body = b"".join(chunks)
            status = int(answered.pop().split()[0])
            ends[str(status)] += 1
            # Some have a deadline of a microsecond, and it does pass.
            late = status == 504 and (b"timeout" in sent.body or "HTTP_X_REQUEST_TIMEOUT" in sent.environ)
            if (
                (status >= 500 and not late)
                or 300 <= status < 400
                or (status >= 400 and list(json.loads(body)) not in (["error"], ["error", "error_description"]))
            ):
                found.append((sent, f"{status} {body[:200]!r}"))
        except BaseException as error:  # noqa: BLE001  # anything at all is a finding
            found.append((sent, repr(error)[:300]))
    return ends, found


def _environ(sent: Sent) -> dict[str, Any]:
    binary = "HTTP_INFERENCE_HEADER_CONTENT_LENGTH" in sent.environ
    return {
        "REQUEST_METHOD": "GET" if sent.path.endswith("stats") else "POST",
        "PATH_INFO": sent.path.replace("/again/", "/doubling/"),
        "QUERY_STRING": "",
        "SCRIPT_NAME": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "CONTENT_LENGTH": str(len(sent.body)),
        "CONTENT_TYPE": "application/octet-stream" if binary else "application/json",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(sent.body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        **sent.environ,
    }


def main() -> int:
    """Run as a script."""
    what, count = sys.argv[1], int(sys.argv[2])
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else random.SystemRandom().randrange(2**32)
    print(f"{what}: {count} cases, seed {seed}", flush=True)
    logging.disable(logging.ERROR)
    started = time.monotonic()
    if what == "codec":
        ends, found = run_codec(count, seed)
    else:
        with tempfile.TemporaryDirectory() as name:
            ends, found = run_app(build_app(Path(name)), count, seed)
    print(f"{time.monotonic() - started:.0f} s; ended with {dict(sorted(ends.items()))}; {len(found)} findings")
    for sent, what_happened in found[:20]:
        print(f"{what_happened}\n    {sent.path} {sent.environ} {sent.body[:300]!r}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

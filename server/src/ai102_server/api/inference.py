# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""One inference request from its headers to its answer: the hot path, free of any web framework."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Final, NamedTuple

import orjson

from ai102_server.access import REQUEST_ID_KEY, Ticket
from ai102_server.codec import BINARY_HEADER, EncodedResponse, decode_request, encode_response
from ai102_server.codec.compression import choose_encoding, compress, decompress, request_encoding
from ai102_server.codec.datatypes import Array
from ai102_server.codec.deadline import parse_timeout_header
from ai102_server.engine import LoadedModel
from ai102_server.errors import RequestError
from ai102_server.service import Service
from ai102_server.telemetry import Record

__all__ = ["InferenceEndpoint", "Reply", "error_reply"]

logger = logging.getLogger(__name__)

JSON: Final = "application/json"
_CONTENT_TYPES: Final = frozenset({"", JSON, "application/octet-stream"})
_CHUNK: Final = 1 << 20
_SERVER_ERROR: Final = 500


@dataclass
class Reply:
    """An HTTP answer."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)


def error_reply(error: RequestError) -> Reply:
    """A V2 error object."""
    return Reply(error.status, orjson.dumps({"error": error.message}), headers=dict(error.headers))


class _About(NamedTuple):
    """A model that a request names and that is not here: access control speaks first, and tells nobody so."""

    name: str
    version: str
    tags: frozenset[str] = frozenset()


class _Trace:
    """What is known of a request by the time it ends. Times in seconds; None: it did not come so far."""

    __slots__ = (
        "batch",
        "decode",
        "encode",
        "error",
        "inference",
        "queue",
        "read",
        "reason",
        "received",
        "subject",
        "version",
    )

    def __init__(self, version: str) -> None:
        self.version = version
        self.received = 0
        self.subject = ""
        self.error: str | None = None
        self.reason = ""
        self.batch = 0
        self.read: float | None = None
        self.decode: float | None = None
        self.queue: float | None = None
        self.inference: float | None = None
        self.encode: float | None = None


class InferenceEndpoint:
    """Answers ``POST /v2/models/<model>[/versions/<version>]/infer``: who may ask, what it costs, and the answer.

    Every request is admitted or turned away, let in by access control, and recorded, here and nowhere else: the way
    that avoids Flask passes none of its hooks.
    """

    def __init__(self, service: Service) -> None:
        limits = service.config.limits
        self._service: Final = service
        self._limit: Final = limits.max_body_bytes
        self._max_batch: Final = limits.max_batch
        self._allow_nan: Final = limits.allow_nan
        self._compress_from: Final = limits.compress_from
        self._admission: Final = service.admission
        self._enter: Final = service.access.enter
        self._record: Final = service.telemetry.add

    def __call__(self, environ: dict[str, Any], model: str, version: str | None, request_id: str) -> Reply:
        """Answer the request of a WSGI environment. Never raises for what a client sent."""
        started = time.time()
        begun = time.perf_counter()
        environ[REQUEST_ID_KEY] = request_id
        trace = _Trace(version or "")
        ticket: Ticket | None = None
        try:
            # First of all, because it is what those who are turned away cost.
            with self._admission:
                registry = self._service.registry
                ticket = self._enter(environ, "infer", registry.lookup(model, version) or _About(model, version or ""))
                trace.subject = ticket.subject
                reply = self._answer(environ, registry.get_ready(model, version), trace, begun)
        except RequestError as error:
            trace.error, trace.reason = error.message, error.reason
            reply = error_reply(error)
        except Exception as error:
            # What a library says may hold parts of the payload or paths: it is not for clients.
            logger.exception("inference failed", extra={"request_id": request_id, "model": model[:100]})
            trace.error = type(error).__name__
            reply = error_reply(RequestError(_SERVER_ERROR, "internal error; the server's log has the details"))
        finally:
            if ticket is not None:
                ticket.close()
        get = environ.get
        self._record(
            Record(
                model,
                trace.version,
                reply.status,
                started,
                time.perf_counter() - begun,
                trace.queue,
                trace.inference,
                trace.received,
                len(reply.body),
                request_id,
                get("HTTP_TRACEPARENT"),
                trace.subject,
                trace.error,
                trace.batch,
                trace.reason,
                get("HTTP_TRACESTATE"),
                trace.read,
                trace.decode,
                trace.encode,
            )
        )
        return reply

    def _answer(self, environ: Mapping[str, Any], model: LoadedModel, trace: _Trace, begun: float) -> Reply:
        clock = time.perf_counter
        get = environ.get
        trace.version = model.version
        if get("CONTENT_TYPE") != JSON:
            _check_content_type(environ)
        body = _read_body(environ, self._limit)
        trace.received = len(body)
        read = clock()
        trace.read = read - begun
        timeout = get("HTTP_X_REQUEST_TIMEOUT")
        arrived = time.monotonic() - trace.read
        limit = None if timeout is None else arrived + parse_timeout_header(timeout)
        run = model.run
        assert run is not None  # noqa: S101 - the model is ready
        with run.turn(limit) as turn:
            turned = clock()
            request = decode_request(
                body,
                get("HTTP_INFERENCE_HEADER_CONTENT_LENGTH"),
                model.inputs,
                model.outputs,
                timeout=timeout,
                max_batch=self._max_batch,
                allow_nan=self._allow_nan,
            )
            pipeline = model.pipeline
            names = [output.name for output in request.outputs]
            inputs: Mapping[str, Array] = request.inputs
            sources: Sequence[str] = names
            if pipeline is not None:
                inputs, sources = pipeline.before(inputs), pipeline.sources(names)
            trace.decode = clock() - turned
            seconds = request.deadline_seconds
            outcome = turn(inputs, sources, None if seconds is None else arrived + seconds)
            trace.queue, trace.inference, trace.batch = outcome.queued, outcome.ran, outcome.batch
            ran = clock()
            arrays = outcome.outputs
            if pipeline is not None:
                finished = pipeline.after(dict(zip(sources, arrays, strict=True)))
                arrays = [finished[name] for name in names]
            response = encode_response(model.name, model.version, request, arrays, model.outputs)
            reply = self._reply(response, get("HTTP_ACCEPT_ENCODING"))
            trace.encode = clock() - ran
        return reply

    def _reply(self, response: EncodedResponse, accepted: str | None) -> Reply:
        headers = {} if response.header_length is None else {BINARY_HEADER: str(response.header_length)}
        body = response.body
        if self._compress_from and len(body) >= self._compress_from:
            encoding = choose_encoding(accepted)
            headers["Vary"] = "Accept-Encoding"
            if encoding is not None:
                body = compress(body, encoding)
                headers["Content-Encoding"] = encoding
        return Reply(200, body, response.content_type, headers)


def _check_content_type(environ: Mapping[str, Any]) -> None:
    content_type = environ.get("CONTENT_TYPE") or ""
    if content_type.partition(";")[0].strip().lower() not in _CONTENT_TYPES:
        raise RequestError(415, "Content-Type must be application/json, or application/octet-stream for binary tensors")


def _read_body(environ: Mapping[str, Any], limit: int) -> bytes:
    """Read the body, of known length or chunked, compressed or not. Raises ``RequestError`` (400, 413, 415)."""
    stream: IO[bytes] = environ["wsgi.input"]
    encoded = environ.get("HTTP_CONTENT_ENCODING")
    if encoded is not None and (encoding := request_encoding(encoded)) is not None:
        return decompress(iter(lambda: stream.read(_CHUNK), b""), encoding, limit)
    declared = environ.get("CONTENT_LENGTH") or ""
    if not declared:
        return _read_chunked(stream, limit)
    if not (declared.isascii() and declared.isdigit()):
        raise RequestError(400, "Content-Length must be a number of bytes")
    length = int(declared)
    if length > limit:
        raise _too_large(limit)
    body = stream.read(length)
    while len(body) < length:
        more = stream.read(length - len(body))
        if not more:
            raise RequestError(400, f"the body ended after {len(body)} of {length} bytes")
        body += more
    return body


def _read_chunked(stream: IO[bytes], limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while part := stream.read(min(_CHUNK, limit + 1 - size)):
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        parts.append(part)
    return b"".join(parts)


def _too_large(limit: int) -> RequestError:
    return RequestError(413, f"the body is larger than the {limit} bytes allowed")

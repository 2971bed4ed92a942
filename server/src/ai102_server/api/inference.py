# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""One inference request from its headers to its answer: the hot path, free of any web framework."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Final

import orjson

from ai102_server.codec import BINARY_HEADER, EncodedResponse, InferRequest, decode_request, encode_response
from ai102_server.codec.datatypes import Array
from ai102_server.engine import LoadedModel
from ai102_server.errors import RequestError
from ai102_server.service import Service

__all__ = ["InferenceEndpoint", "Reply", "error_reply"]

logger = logging.getLogger(__name__)
access_logger = logging.getLogger("ai102_server.access")

JSON: Final = "application/json"
_CONTENT_TYPES: Final = frozenset({"", JSON, "application/octet-stream"})
_CHUNK: Final = 1 << 20
_ERROR: Final = 400
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


@dataclass
class _Trace:
    """What is known of a request by the time it ends, for metrics and log."""

    model: str
    version: str
    received: int = 0
    inference: float | None = None
    error: str | None = None


class InferenceEndpoint:
    """Answers ``POST /v2/models/<model>[/versions/<version>]/infer``; counts and logs every request."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._limit = service.config.limits.max_body_bytes
        self._log_all = service.config.log.access

    def __call__(self, environ: Mapping[str, Any], model: str, version: str | None, request_id: str) -> Reply:
        """Answer the request of a WSGI environment. Never raises for what a client sent."""
        started = time.perf_counter()
        trace = _Trace(model, version or "")
        try:
            response = self._infer(environ, trace, version)
            headers = {} if response.header_length is None else {BINARY_HEADER: str(response.header_length)}
            reply = Reply(200, response.body, response.content_type, headers)
        except RequestError as error:
            trace.error = error.message
            reply = error_reply(error)
        except Exception as error:
            # What a library says may hold parts of the payload or paths: it is not for clients.
            logger.exception("inference failed", extra={"request_id": request_id, "model": model})
            trace.error = type(error).__name__
            reply = error_reply(RequestError(_SERVER_ERROR, "internal error; the server's log has the details"))
        self._account(trace, reply, time.perf_counter() - started, request_id)
        return reply

    def _infer(self, environ: Mapping[str, Any], trace: _Trace, version: str | None) -> EncodedResponse:
        model = self._service.registry.get_ready(trace.model, version)
        trace.version = model.version
        _check_headers(environ)
        # Admitted before the body is read: those who are turned away cost next to nothing.
        with self._service.admission:
            body = _read_body(environ, self._limit)
            trace.received = len(body)
            header_length = environ.get("HTTP_INFERENCE_HEADER_CONTENT_LENGTH")
            request = decode_request(body, header_length, model.inputs, model.outputs)
            arrays = self._run(model, request, trace)
            return encode_response(model.name, model.version, request, arrays, model.outputs)

    @staticmethod
    def _run(model: LoadedModel, request: InferRequest, trace: _Trace) -> list[Array]:
        assert model.run is not None  # noqa: S101 - the model is ready
        names = [output.name for output in request.outputs]
        outcome = model.run(request.inputs, names, None)
        trace.inference = outcome.ran
        return outcome.outputs

    def _account(self, trace: _Trace, reply: Reply, seconds: float, request_id: str) -> None:
        self._service.metrics.observe(trace.model, trace.version, reply.status, seconds, trace.inference)
        failed = reply.status >= _ERROR
        if not (failed or self._log_all):
            return
        level = logging.INFO
        if failed:
            level = logging.ERROR if reply.status == _SERVER_ERROR else logging.WARNING
        if access_logger.isEnabledFor(level):
            facts: dict[str, Any] = {
                "request_id": request_id,
                "model": trace.model[:100],
                "version": trace.version[:100],
                "status": reply.status,
                "ms": round(seconds * 1000, 3),
                "bytes_in": trace.received,
                "bytes_out": len(reply.body),
            }
            if trace.inference is not None:
                facts["inference_ms"] = round(trace.inference * 1000, 3)
            if trace.error is not None:
                facts["error"] = trace.error[:300]
            access_logger.log(level, "infer", extra=facts)


def _check_headers(environ: Mapping[str, Any]) -> None:
    content_type = environ.get("CONTENT_TYPE") or ""
    if content_type.partition(";")[0].strip().lower() not in _CONTENT_TYPES:
        raise RequestError(415, "Content-Type must be application/json, or application/octet-stream for binary tensors")
    if (environ.get("HTTP_CONTENT_ENCODING") or "identity").strip().lower() != "identity":
        raise RequestError(415, "Content-Encoding is not supported: send the body as it is")


def _read_body(environ: Mapping[str, Any], limit: int) -> bytes:
    """Read the body, of known length or chunked. Raises ``RequestError`` (400, 413)."""
    stream: IO[bytes] = environ["wsgi.input"]
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

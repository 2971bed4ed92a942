# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""One inference request from its headers to its answer: the hot path, free of any web framework."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Final, NamedTuple

import orjson

from ai102_server.access import REQUEST_ID_KEY, Ticket
from ai102_server.codec import BINARY_HEADER, EncodedResponse, InferRequest, decode_request, encode_response
from ai102_server.codec.compression import choose_encoding, compress, decompress, request_encoding
from ai102_server.codec.datatypes import Array
from ai102_server.codec.deadline import parse_timeout_header
from ai102_server.engine import LoadedModel
from ai102_server.engine.batching import Outcome, Question
from ai102_server.errors import RequestError
from ai102_server.service import Service
from ai102_server.telemetry import Record
from ai102_server.threads import blocking

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


Send = Callable[[Reply], None]
"""Takes the answer of a request, on whatever thread it was made."""


def error_reply(error: RequestError) -> Reply:
    """A V2 error object."""
    return Reply(error.status, orjson.dumps({"error": error.message}), headers=dict(error.headers))


class _About(NamedTuple):
    """A model that a request names and that is not here: access control speaks first, and tells nobody so."""

    name: str
    version: str
    tags: frozenset[str] = frozenset()


class InferenceEndpoint:
    """Answers ``POST /v2/models/<model>[/versions/<version>]/infer``: who may ask, what it costs, and the answer.

    Every request is admitted or turned away, let in by access control, and recorded, here and nowhere else: the way
    that avoids Flask passes none of its hooks.
    """

    def __init__(self, service: Service) -> None:
        limits = service.config.limits
        self.service: Final = service
        self.limit: Final = limits.max_body_bytes
        self.max_batch: Final = limits.max_batch
        self.allow_nan: Final = limits.allow_nan
        self._compress_from: Final = limits.compress_from
        self.admission: Final = service.admission
        self.enter: Final = service.access.enter
        self.record: Final = service.telemetry.add

    def __call__(self, environ: dict[str, Any], model: str, version: str | None, request_id: str) -> Reply:
        """Answer the request of a WSGI environment. Never raises for what a client sent."""
        replies: list[Reply] = []
        done = threading.Lock()
        done.acquire()

        def send(reply: Reply) -> None:
            replies.append(reply)
            done.release()

        self.submit(environ, model, version, request_id, send)
        done.acquire()
        return replies[0]

    def submit(self, environ: dict[str, Any], model: str, version: str | None, request_id: str, send: Send) -> None:
        """Answer the request of a WSGI environment by ``send``, now or later, on this thread or another one.

        The body is read before this returns. Never raises for what a client sent.
        """
        environ[REQUEST_ID_KEY] = request_id
        inference = _Inference(self, environ, model, version, request_id, send)
        try:
            inference.begin()
        except Exception as error:  # noqa: BLE001 - it is logged there
            inference.fail(error)

    def reply(self, response: EncodedResponse, accepted: str | None) -> Reply:
        """The answer, compressed if that is worth it and ``Accept-Encoding`` allows it."""
        headers = {} if response.header_length is None else {BINARY_HEADER: str(response.header_length)}
        body = response.body
        if self._compress_from and len(body) >= self._compress_from:
            encoding = choose_encoding(accepted)
            headers["Vary"] = "Accept-Encoding"
            if encoding is not None:
                body = compress(body, encoding)
                headers["Content-Encoding"] = encoding
        return Reply(200, body, response.content_type, headers)


class _Inference:
    """One request. Its figures are in seconds; None: it did not come so far."""

    __slots__ = (
        "_admitted",
        "_arrived",
        "_batch",
        "_begun",
        "_body",
        "_decode",
        "_encode",
        "_endpoint",
        "_environ",
        "_error",
        "_found",
        "_inference",
        "_model",
        "_names",
        "_queue",
        "_read",
        "_reason",
        "_received",
        "_request",
        "_request_id",
        "_send",
        "_sources",
        "_started",
        "_ticket",
        "_timeout",
        "_version",
        "deadline",
    )

    def __init__(
        self,
        endpoint: InferenceEndpoint,
        environ: Mapping[str, Any],
        model: str,
        version: str | None,
        request_id: str,
        send: Send,
    ) -> None:
        self._started = time.time()
        self._begun = time.perf_counter()
        self._endpoint = endpoint
        self._environ = environ
        self._model = model
        self._version = version or ""
        self._request_id = request_id
        self._send: Send | None = send
        self._admitted = False
        self._ticket: Ticket | None = None
        self._found: LoadedModel | None = None
        self._body = b""
        self._timeout: str | None = None
        self._arrived = 0.0
        self._request: InferRequest | None = None
        self._names: list[str] = []
        self._sources: Sequence[str] = ()
        self._received = self._batch = 0
        self._error: str | None = None
        self._reason = ""
        self._read: float | None = None
        self._decode: float | None = None
        self._queue: float | None = None
        self._inference: float | None = None
        self._encode: float | None = None
        self.deadline: float | None = None

    def begin(self) -> None:
        """Let the request in, read it, and hand it to the model. Raises ``RequestError``."""
        endpoint, environ = self._endpoint, self._environ
        # First of all, because it is what those who are turned away cost.
        endpoint.admission.enter()
        self._admitted = True
        name, version = self._model, self._version or None
        registry = endpoint.service.registry
        self._ticket = endpoint.enter(environ, "infer", registry.lookup(name, version) or _About(name, self._version))
        model = self._found = registry.get_ready(name, version)
        self._version = model.version
        get = environ.get
        if get("CONTENT_TYPE") != JSON:
            _check_content_type(environ)
        with blocking():
            self._body = _read_body(environ, endpoint.limit)
        self._received = len(self._body)
        self._read = time.perf_counter() - self._begun
        self._arrived = time.monotonic() - self._read
        self._timeout = get("HTTP_X_REQUEST_TIMEOUT")
        if self._timeout is not None:
            self.deadline = self._arrived + parse_timeout_header(self._timeout)
        assert model.run is not None  # noqa: S101 - the model is ready
        model.run.submit(self)

    def ask(self) -> Question:
        """Decode the request. Raises ``RequestError``."""
        begun = time.perf_counter()
        endpoint, model = self._endpoint, self._found
        assert model is not None  # noqa: S101 - there is one since ``begin``
        request = self._request = decode_request(
            self._body,
            self._environ.get("HTTP_INFERENCE_HEADER_CONTENT_LENGTH"),
            model.inputs,
            model.outputs,
            timeout=self._timeout,
            max_batch=endpoint.max_batch,
            allow_nan=endpoint.allow_nan,
        )
        self._names = [output.name for output in request.outputs]
        inputs: Mapping[str, Array] = request.inputs
        self._sources = self._names
        pipeline = model.pipeline
        if pipeline is not None:
            inputs, self._sources = pipeline.before(inputs), pipeline.sources(self._names)
        self._decode = time.perf_counter() - begun
        seconds = request.deadline_seconds
        return Question(inputs, self._sources, None if seconds is None else self._arrived + seconds)

    def answer(self, outcome: Outcome) -> None:
        """Encode what came out, and send it."""
        self._queue, self._inference, self._batch = outcome.queued, outcome.ran, outcome.batch
        try:
            reply = self._encoded(outcome.outputs)
        except Exception as error:  # noqa: BLE001 - it is logged there
            self.fail(error)
        else:
            self._finish(reply)

    def _encoded(self, arrays: list[Array]) -> Reply:
        begun = time.perf_counter()
        model, request = self._found, self._request
        assert model is not None  # noqa: S101 - what has an outcome has been decoded
        assert request is not None  # noqa: S101 - as above
        pipeline = model.pipeline
        if pipeline is not None:
            finished = pipeline.after(dict(zip(self._sources, arrays, strict=True)))
            arrays = [finished[name] for name in self._names]
        response = encode_response(model.name, model.version, request, arrays, model.outputs)
        reply = self._endpoint.reply(response, self._environ.get("HTTP_ACCEPT_ENCODING"))
        self._encode = time.perf_counter() - begun
        return reply

    def fail(self, error: Exception) -> None:
        """Send an error."""
        if isinstance(error, RequestError):
            self._error, self._reason = error.message, error.reason
            self._finish(error_reply(error))
            return
        # What a library says may hold parts of the payload or paths: it is not for clients.
        facts = {"request_id": self._request_id, "model": self._model[:100]}
        logger.error("inference failed", exc_info=error, extra=facts)
        self._error = type(error).__name__
        self._finish(error_reply(RequestError(_SERVER_ERROR, "internal error; the server's log has the details")))

    def _finish(self, reply: Reply) -> None:
        """Give everything back, record the request, and send the answer; once."""
        send, self._send = self._send, None
        if send is None:
            return
        if self._admitted:
            self._endpoint.admission.leave()
        ticket = self._ticket
        if ticket is not None:
            ticket.close()
        get = self._environ.get
        self._endpoint.record(
            Record(
                self._model,
                self._version,
                reply.status,
                self._started,
                time.perf_counter() - self._begun,
                self._queue,
                self._inference,
                self._received,
                len(reply.body),
                self._request_id,
                get("HTTP_TRACEPARENT"),
                "" if ticket is None else ticket.subject,
                self._error,
                self._batch,
                self._reason,
                get("HTTP_TRACESTATE"),
                self._read,
                self._decode,
                self._encode,
            )
        )
        try:
            send(reply)
        except Exception:
            # Whoever ran the request has others to answer.
            logger.exception("an answer cannot be sent", extra={"request_id": self._request_id})


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
    # Where the server ends the input, it need not be told where: it then collects without a buffer of its own.
    body = stream.read() if environ.get("wsgi.input_terminated") else stream.read(length)
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

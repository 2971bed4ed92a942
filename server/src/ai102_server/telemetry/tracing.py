# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""OpenTelemetry spans, made of records when the requests are over, so that a request that is not traced costs nothing.

The parent comes from the W3C headers ``traceparent`` and ``tracestate`` (https://www.w3.org/TR/trace-context/). Whether
a request is traced: as its parent is, else by chance, and never more than so many a second.
"""

from __future__ import annotations

import logging
import os
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import requests
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.exporter.zipkin.json import ZipkinExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from ai102_server import __version__
from ai102_server.config.telemetry import Tracing
from ai102_server.errors import ServerError
from ai102_server.telemetry.record import Record, reason_of
from ai102_server.telemetry.traceparent import Parent

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

__all__ = ["Tracer"]

logger = logging.getLogger(__name__)

_MAX_TRACESTATE: Final = 512
_SERVER_ERROR: Final = 500
_COMPLAIN_SECONDS: Final = 60.0


class Tracer:
    """Makes spans and sends them. One thread at a time."""

    def __init__(
        self,
        config: Tracing,
        worker: int,
        provider_of: Callable[[str, str], str],
        subject_of: Callable[[str], str],
    ) -> None:
        """``provider_of`` says on which execution provider a model version runs."""
        self._config: Final = config
        self._provider_of: Final = provider_of
        self._subject_of: Final = subject_of
        self._second = 0
        self._left = 0
        self._random: Final = random.Random()  # noqa: S311  # chance, no secret
        self.exporter: Final = _Guard(_exporter(config), config)
        self._processor: Final = BatchSpanProcessor(
            self.exporter,
            max_queue_size=config.queue,
            schedule_delay_millis=config.delay_seconds * 1000,
            max_export_batch_size=config.batch,
        )
        # Decided here, before a span exists: see ``sample``.
        self._provider: Final = TracerProvider(
            sampler=ALWAYS_ON,
            shutdown_on_exit=False,
            resource=Resource.create(
                {
                    "service.name": config.service_name,
                    "service.version": __version__,
                    "service.instance.id": f"{socket.gethostname()}:{worker}",
                    "process.pid": os.getpid(),
                }
            ),
        )
        self._provider.add_span_processor(self._processor)
        self._tracer: Final = self._provider.get_tracer("ai102_server", __version__)
        self.made = 0
        """Spans made so far."""

    def sample(self, parent: Parent | None, now: float) -> bool:
        """Whether a request is traced."""
        if parent is not None and self._config.follow_parent:
            wanted = parent.sampled
        else:
            wanted = self._random.random() < self._config.sample_ratio
        if not wanted:
            return False
        if int(now) != self._second:
            self._second, self._left = int(now), self._config.per_second
        self._left -= 1
        return self._left >= 0

    def trace(self, record: Record, known: bool, parent: Parent | None) -> str:
        """Make the spans of a request. Returns the trace id, 32 hexadecimal characters."""
        begin = int(record.started * 1e9)
        end = begin + int(record.seconds * 1e9)
        span = self._tracer.start_span(
            f"infer {record.model}" if known else "infer",
            context=_context(parent, record.tracestate),
            kind=SpanKind.SERVER,
            start_time=begin,
            attributes=self._attributes(record, known),
        )
        if record.status >= _SERVER_ERROR:
            span.set_status(Status(StatusCode.ERROR))
        inside = trace.set_span_in_context(span)
        # The phases follow one another; clocks and rounding must not put them outside of the request.
        position = begin + int(((record.read_seconds or 0.0) + (record.decode_seconds or 0.0)) * 1e9)
        for name, seconds in (("queue", record.queue_seconds), ("inference", record.inference_seconds)):
            if seconds is not None:
                start = min(position, end)
                position = min(start + int(seconds * 1e9), end)
                self._tracer.start_span(name, context=inside, start_time=start).end(position)
                self.made += 1
        span.end(end)
        self.made += 1
        return f"{span.get_span_context().trace_id:032x}"

    def _attributes(self, record: Record, known: bool) -> dict[str, AttributeValue]:
        facts: dict[str, AttributeValue] = {
            "http.request.method": "POST",
            "http.response.status_code": record.status,
            "ai102.request_id": record.request_id,
        }
        if known:
            facts["ai102.model.name"] = record.model
            facts["ai102.model.version"] = record.version
            facts["ai102.provider"] = self._provider_of(record.model, record.version)
        if record.batch:
            facts["ai102.batch.size"] = record.batch
        if record.subject:
            facts["ai102.subject"] = self._subject_of(record.subject)
        reason = reason_of(record)
        if reason is not None:
            facts["error.type"] = reason
        return facts

    def flush(self, seconds: float) -> bool:
        """Send what there is, at most so long; whether it was sent."""
        # The processor has no limit of its own, and a collector that is gone would hold up the end of the process.
        thread = threading.Thread(target=self._processor.force_flush, name="trace-flush", daemon=True)
        thread.start()
        thread.join(seconds)
        return not thread.is_alive()

    def close(self) -> None:
        """End the thread that sends; what was not sent is lost."""
        self.exporter.closed = True
        thread = threading.Thread(target=self._processor.shutdown, name="trace-close", daemon=True)
        thread.start()
        thread.join(1.0)


def _context(parent: Parent | None, tracestate: str | None) -> Context:
    if parent is None:
        return Context()
    state = TraceState()
    if tracestate and len(tracestate) <= _MAX_TRACESTATE:
        state = TraceState.from_header([tracestate])
    context = SpanContext(
        int(parent.trace_id, 16), int(parent.span_id, 16), True, TraceFlags(TraceFlags.SAMPLED), state
    )
    return trace.set_span_in_context(NonRecordingSpan(context), Context())


class _Guard(SpanExporter):
    """An exporter that counts, and whose failures neither end the sending thread nor fill the log."""

    def __init__(self, exporter: SpanExporter, config: Tracing) -> None:
        self._exporter: Final = exporter
        self._endpoint: Final = config.endpoint
        self._complained = float("-inf")
        self.closed = False
        self.sent = 0
        self.failed = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch."""
        if self.closed:
            return SpanExportResult.FAILURE
        reason = "see the collector's log"
        try:
            result = self._exporter.export(spans)
        except Exception as error:  # noqa: BLE001  # whatever the network and its library come up with
            result, reason = SpanExportResult.FAILURE, type(error).__name__
        if result is SpanExportResult.SUCCESS:
            self.sent += len(spans)
        else:
            self.failed += len(spans)
            if time.monotonic() - self._complained > _COMPLAIN_SECONDS:
                self._complained = time.monotonic()
                facts = {"endpoint": self._endpoint, "failed": self.failed, "reason": reason}
                logger.warning("spans cannot be sent", extra=facts)
        return result

    def shutdown(self) -> None:
        """Close connections."""
        self._exporter.shutdown()


def _exporter(config: Tracing) -> SpanExporter:
    # They would repeat what is said above for every batch, with tracebacks.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    session = requests.Session()
    # Nothing of the environment: no proxy, no ~/.netrc.
    session.trust_env = False
    session.verify = str(config.ca) if config.ca is not None else True
    if config.certificate is not None:
        session.cert = (str(config.certificate), str(config.key))
    if config.exporter == "zipkin":
        return ZipkinExporter(endpoint=config.endpoint, timeout=max(1, round(config.timeout_seconds)), session=session)
    return OTLPSpanExporter(
        endpoint=config.endpoint,
        certificate_file=None if config.ca is None else str(config.ca),
        headers=_headers(config.headers_file),
        timeout=config.timeout_seconds,
        session=session,
    )


def _headers(path: Path | None) -> Mapping[str, str]:
    """Lines ``Name: value`` of a file. Raises ``ServerError``, which holds nothing of their values."""
    if path is None:
        return {}
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not ASCII text"
        raise ServerError(f"tracing.headers_file {path} cannot be read: {reason}") from None
    headers: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        name, colon, value = line.partition(":")
        if line.strip() and not (colon and re.fullmatch(r"[A-Za-z0-9-]+", name)):
            raise ServerError(f"tracing.headers_file {path}, line {number}: must be 'Name: value'")
        if line.strip():
            headers[name] = value.strip()
    return headers

# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Spans, as a collector receives them over HTTP."""

from __future__ import annotations

import gzip
import http.server
import json
import logging
import os
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from prometheus_client.parser import text_string_to_metric_families

from ai102_server.config import parse_config
from ai102_server.config.telemetry import Tracing
from ai102_server.errors import ServerError
from ai102_server.telemetry import Record, Telemetry
from ai102_server.telemetry.traceparent import Parent, parse_traceparent
from ai102_server.telemetry.tracing import Tracer
from toolkit import CLIENT_AUTH, SERVER_AUTH, Authority

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
STARTED = 1_700_000_000.25


class Collector:
    """An HTTP server that keeps what it is sent."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.status = 200
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.requests.append(
                    (self.path, {name.lower(): value for name, value in self.headers.items()}, body)
                )
                self.send_response(collector.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        scheme = "http" if context is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def otlp(self) -> list[Span]:
        """Spans of all OTLP requests."""
        return [
            span
            for _path, _headers, body in self.requests
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def zipkin(self) -> list[dict[str, Any]]:
        """Spans of all Zipkin requests."""
        return [span for _path, _headers, body in self.requests for span in json.loads(body)]


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Callable[..., Telemetry]]:
    """Telemetry that traces as said, and logs to ``tmp_path / "log"``; ended after the test."""
    made: list[Telemetry] = []
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def one(*, lines: int = 1000, access: bool = True, **tracing: Any) -> Telemetry:
        tracing = {"delay_seconds": 60, **tracing}
        log_section = {"queue": lines, "access": access}
        config = parse_config({"listen": {"port": 8080}, "models": [], "tracing": tracing, "log": log_section})
        telemetry = Telemetry(config, Telemetry.share(config, 1), 0, descriptor=log)
        telemetry.register_model("m", "1", "CPUExecutionProvider", "ab12", True, None)
        made.append(telemetry)
        return telemetry

    yield one
    for telemetry in made:
        telemetry.close()
    os.close(log)


def lines(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]


def record(**values: Any) -> Record:
    facts: dict[str, Any] = {
        "model": "m",
        "version": "1",
        "status": 200,
        "started": STARTED,
        "seconds": 0.01,
        "queue_seconds": 0.002,
        "inference_seconds": 0.004,
        "request_id": "r-1",
        "traceparent": f"00-{TRACE}-{SPAN}-01",
        "batch": 8,
        "read_seconds": 0.001,
        "subject": "alice",
    }
    return Record(**{**facts, **values})


def attributes(span: Span) -> dict[str, Any]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value") or "string_value") for item in span.attributes}


def test_otlp(build: Callable[..., Telemetry], collector: Collector, tmp_path: Path) -> None:
    headers = tmp_path / "headers"
    headers.write_text("X-Token: zzz\n\n")
    telemetry = build(
        exporter="otlp", endpoint=f"{collector.url}/v1/traces", service_name="inference-1", headers_file=str(headers)
    )
    telemetry.add(record(tracestate="vendor=a1,other=b2"))
    telemetry.flush()
    path, sent, body = collector.requests[0]
    assert (path, sent["content-type"], sent["x-token"]) == ("/v1/traces", "application/x-protobuf", "zzz")
    resource = ExportTraceServiceRequest.FromString(body).resource_spans[0].resource
    assert {"service.name": "inference-1"}.items() <= {
        item.key: item.value.string_value for item in resource.attributes
    }.items()
    spans = {span.name: span for span in collector.otlp()}
    assert set(spans) == {"infer m", "queue", "inference"}
    server = spans["infer m"]
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    assert server.parent_span_id.hex() == SPAN
    assert server.kind == Span.SPAN_KIND_SERVER
    assert server.trace_state == "vendor=a1,other=b2"
    assert server.start_time_unix_nano == pytest.approx(1_700_000_000_250_000_000, abs=1000)
    assert server.end_time_unix_nano - server.start_time_unix_nano == 10_000_000
    for name, start, seconds in (("queue", 1_000_000, 2_000_000), ("inference", 3_000_000, 4_000_000)):
        span = spans[name]
        assert span.parent_span_id == server.span_id
        assert span.start_time_unix_nano - server.start_time_unix_nano == start
        assert span.end_time_unix_nano - span.start_time_unix_nano == seconds
    found = attributes(server)
    assert found["ai102.model.name"] == "m"
    assert found["ai102.model.version"] == "1"
    assert found["ai102.provider"] == "CPUExecutionProvider"
    assert found["ai102.batch.size"] == 8
    assert found["ai102.request_id"] == "r-1"
    assert found["http.response.status_code"] == 200
    (line,) = lines(tmp_path)
    assert line["trace_id"] == TRACE
    # Who asked stands there as in the log: hashed.
    assert found["ai102.subject"] == line["subject"]
    assert b"alice" not in body


def test_zipkin(build: Callable[..., Telemetry], collector: Collector, tmp_path: Path) -> None:
    telemetry = build(exporter="zipkin", endpoint=f"{collector.url}/api/v2/spans")
    telemetry.add(record(status=503, inference_seconds=None, error="busy"))
    telemetry.flush()
    path, sent, _body = collector.requests[0]
    assert (path, sent["content-type"]) == ("/api/v2/spans", "application/json")
    spans = {span["name"]: span for span in collector.zipkin()}
    assert set(spans) == {"infer m", "queue"}
    server = spans["infer m"]
    assert server["traceId"] == spans["queue"]["traceId"] == TRACE
    assert (server["parentId"], spans["queue"]["parentId"]) == (SPAN, server["id"])
    assert (server["kind"], server["timestamp"], server["duration"]) == ("SERVER", 1_700_000_000_250_000, 10_000)
    assert server["localEndpoint"]["serviceName"] == "ai102-server"
    assert server["tags"]["error.type"] == "overload"
    assert server["tags"]["otel.status_code"] == "ERROR"
    assert server["tags"]["ai102.model.version"] == "1"
    assert lines(tmp_path)[0]["trace_id"] == TRACE


def test_which_requests_are_traced(build: Callable[..., Telemetry], collector: Collector, tmp_path: Path) -> None:
    telemetry = build(exporter="zipkin", endpoint=collector.url, sample_ratio=0)
    telemetry.add(record(traceparent=f"00-{TRACE}-{SPAN}-00", request_id="parent not traced"))
    telemetry.add(record(traceparent=None, request_id="no parent"))
    telemetry.add(record(traceparent="00-zz", request_id="no valid parent"))
    telemetry.add(record(request_id="traced"))
    telemetry.flush()
    servers = [span for span in collector.zipkin() if span["name"] == "infer m"]
    assert [span["tags"]["ai102.request_id"] for span in servers] == ["traced"]
    # An id that came along is logged, traced or not; none is made up for what is not traced.
    assert {line["request_id"]: line.get("trace_id") for line in lines(tmp_path)} == {
        "parent not traced": TRACE,
        "no parent": None,
        "no valid parent": None,
        "traced": TRACE,
    }


def test_a_trace_of_its_own(build: Callable[..., Telemetry], collector: Collector, tmp_path: Path) -> None:
    telemetry = build(exporter="zipkin", endpoint=collector.url, sample_ratio=1)
    telemetry.add(record(traceparent=None, tracestate="vendor=a1"))
    telemetry.add(record(traceparent=None))
    telemetry.flush()
    roots = [span for span in collector.zipkin() if span["name"] == "infer m"]
    assert all("parentId" not in span for span in roots)
    traces = [span["traceId"] for span in roots]
    assert len(set(traces)) == 2
    assert sorted(line["trace_id"] for line in lines(tmp_path)) == sorted(traces)


def test_unknown_models_are_not_named(build: Callable[..., Telemetry], collector: Collector) -> None:
    telemetry = build(exporter="zipkin", endpoint=collector.url)
    telemetry.add(record(model="typed-by-client", version="", status=404, queue_seconds=None, inference_seconds=None))
    telemetry.flush()
    (span,) = collector.zipkin()
    assert span["name"] == "infer"
    assert b"typed-by-client" not in collector.requests[0][2]


def test_not_more_than_so_many_a_second(build: Callable[..., Telemetry], collector: Collector) -> None:
    telemetry = build(exporter="zipkin", endpoint=collector.url, per_second=3, follow_parent=False, sample_ratio=1)
    for _ in range(10):
        telemetry.add(record(traceparent=f"00-{TRACE}-{SPAN}-00"))
    telemetry.add(record(started=STARTED + 1))
    telemetry.flush()
    assert len([span for span in collector.zipkin() if span["name"] == "infer m"]) == 4


def test_what_is_not_logged_is_traced(build: Callable[..., Telemetry], collector: Collector, tmp_path: Path) -> None:
    telemetry = build(exporter="zipkin", endpoint=collector.url, access=False)
    telemetry.add(record())
    telemetry.flush()
    assert len(collector.zipkin()) == 3
    assert lines(tmp_path) == []


def test_nothing_is_traced_when_there_is_too_much_to_log(
    build: Callable[..., Telemetry], collector: Collector, tmp_path: Path
) -> None:
    telemetry = build(exporter="zipkin", endpoint=collector.url, lines=1)
    with telemetry._drain_lock:
        for _ in range(2):
            telemetry.add(record())
    telemetry.flush()
    assert spans_counted(telemetry)["made"] == 0
    assert len(lines(tmp_path)) == 1
    telemetry.add(record())
    telemetry.flush()
    assert spans_counted(telemetry)["made"] == 3


def test_phases_stay_inside_of_the_request(build: Callable[..., Telemetry], collector: Collector) -> None:
    telemetry = build(exporter="zipkin", endpoint=collector.url)
    telemetry.add(record(read_seconds=5.0, queue_seconds=7.0))
    telemetry.flush()
    spans = {span["name"]: span for span in collector.zipkin()}
    end = spans["infer m"]["timestamp"] + spans["infer m"]["duration"]
    for name in ("queue", "inference"):
        assert spans[name]["timestamp"] + spans[name]["duration"] <= end


def spans_counted(telemetry: Telemetry) -> dict[str, float]:
    return {
        sample.labels["result"]: sample.value
        for family in text_string_to_metric_families(telemetry.expose().decode())
        if family.name == "ai102_spans"
        for sample in family.samples
    }


def test_a_collector_that_refuses(
    build: Callable[..., Telemetry], collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    collector.status = 400
    telemetry = build(exporter="otlp", endpoint=f"{collector.url}/v1/traces")
    for _ in range(2):
        telemetry.add(record())
        telemetry.flush()
    assert spans_counted(telemetry) == {"made": 6, "sent": 0, "failed": 6}
    # Said once, not for every batch, and not by the library.
    assert [item.message for item in caplog.records if item.levelno >= logging.WARNING] == ["spans cannot be sent"]
    collector.status = 200
    telemetry.add(record())
    telemetry.flush()
    assert spans_counted(telemetry) == {"made": 9, "sent": 3, "failed": 6}


@pytest.mark.parametrize("exporter", ["otlp", "zipkin"])
def test_a_collector_that_is_not_there(
    exporter: str, build: Callable[..., Telemetry], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    telemetry = build(exporter=exporter, endpoint="http://127.0.0.1:9/x", timeout_seconds=0.2)
    telemetry.add(record())
    telemetry.flush()
    assert spans_counted(telemetry)["failed"] == 3
    assert [line["request_id"] for line in lines(tmp_path)] == ["r-1"]
    assert "spans cannot be sent" in caplog.text


def test_the_environment_does_not_redirect_spans(
    build: Callable[..., Telemetry], collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    for exporter in ("otlp", "zipkin"):
        telemetry = build(exporter=exporter, endpoint=f"{collector.url}/x")
        telemetry.add(record())
        telemetry.flush()
    assert len(collector.requests) == 2


@pytest.mark.parametrize("exporter", ["otlp", "zipkin"])
def test_mutual_tls(exporter: str, build: Callable[..., Telemetry], tmp_path: Path) -> None:
    ours, other = Authority(tmp_path, "ours"), Authority(tmp_path, "other")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*ours.issue("collector", SERVER_AUTH))
    context.load_verify_locations(ours.path)
    context.verify_mode = ssl.CERT_REQUIRED
    certificate, key = map(str, ours.issue("server", CLIENT_AUTH))
    collector = Collector(context)
    try:
        settings = {"exporter": exporter, "endpoint": f"{collector.url}/x", "timeout_seconds": 0.5}
        for ca, own in ((other, {"certificate": certificate, "key": key}), (ours, {})):
            telemetry = build(**settings, ca=str(ca.path), **own)
            telemetry.add(record())
            telemetry.flush()
            assert spans_counted(telemetry)["sent"] == 0
        telemetry = build(**settings, ca=str(ours.path), certificate=certificate, key=key)
        telemetry.add(record())
        telemetry.flush()
        assert spans_counted(telemetry)["sent"] == 3
        assert len(collector.requests) == 1
    finally:
        collector.close()


def test_headers_file(tmp_path: Path) -> None:
    path = tmp_path / "headers"
    tracing = Tracing(exporter="otlp", endpoint="http://127.0.0.1:9/x", headers_file=path)
    with pytest.raises(ServerError, match="cannot be read: No such file"):
        Tracer(tracing, 0, lambda *_: "", str)
    path.write_text("Authorization: Bearer zzz\nsecret without a name\n")
    with pytest.raises(ServerError, match="line 2: must be 'Name: value'") as caught:
        Tracer(tracing, 0, lambda *_: "", str)
    assert "secret" not in str(caught.value)


# Examples of the standard, and what it says of them.
@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (f"00-{TRACE}-{SPAN}-01", Parent(TRACE, SPAN, True)),
        (f" 00-{TRACE}-{SPAN}-00 ", Parent(TRACE, SPAN, False)),
        (f"00-{TRACE}-{SPAN}-03", Parent(TRACE, SPAN, True)),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-brings", Parent(TRACE, SPAN, True)),
        (f"00-{TRACE}-{SPAN}-01-more", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        (f"00-{TRACE}-{SPAN}", None),
        (f"00-{TRACE}-{SPAN}-1", None),
        ("", None),
        (None, None),
    ],
)
def test_traceparent(header: str | None, expected: Parent | None) -> None:
    assert parse_traceparent(header) == expected


@given(st.text(max_size=80) | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", fullmatch=True))
def test_traceparent_of_any_text(header: str) -> None:
    parent = parse_traceparent(header)
    assert parent is None or (len(parent.trace_id), len(parent.span_id)) == (32, 16)

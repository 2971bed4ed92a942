# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""What is logged and traced: the sections ``log`` and ``tracing``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from ai102_server.config.reader import (
    Section,
    kind_of,
    to_choice,
    to_flag,
    to_integer,
    to_path,
    to_seconds,
    to_text,
)

__all__ = ["LOG_LEVELS", "Log", "Tracing", "read_log", "read_tracing"]

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
SUBJECTS: Final = ("hash", "plain", "none")
EXPORTERS: Final = ("none", "otlp", "zipkin")


@dataclass(frozen=True)
class Log:
    """What is logged. ``access`` switches the line for each inference request; failed ones are always logged.

    ``subject`` says how the caller stands in it: ``hash`` (salted, see ``privacy.hash_key``), ``plain`` or ``none``.
    ``queue`` is the number of access log lines of a worker that may wait to be written: a log that cannot keep up loses
    lines, which are counted, and never holds up requests or metrics.
    """

    level: str = "info"
    access: bool = True
    subject: str = "hash"
    queue: int = 20_000


@dataclass(frozen=True)
class Tracing:
    """OpenTelemetry traces, off without an ``exporter``: ``otlp`` (protobuf over HTTP) or ``zipkin`` (JSON, version 2).

    ``endpoint`` is the full URL, path included. A request with a W3C ``traceparent`` is traced when its sender traces
    it (``follow_parent``; otherwise the ratio decides); of the others, ``sample_ratio`` (0 to 1). A worker traces at
    most ``per_second`` requests each second, whatever senders ask for.

    ``ca`` are certificates to trust, ``certificate`` and ``key`` the server's own for the collector. ``headers_file``
    holds lines ``Name: value`` to send along, such as a token (``otlp`` only). At most ``queue`` spans wait; they are
    sent ``batch`` at a time, at the latest after ``delay_seconds``, and an attempt ends after ``timeout_seconds``.
    """

    exporter: str = "none"
    endpoint: str = ""
    service_name: str = "ai102-server"
    sample_ratio: float = 0.01
    follow_parent: bool = True
    per_second: int = 100
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    headers_file: Path | None = None
    queue: int = 2048
    batch: int = 512
    delay_seconds: float = 5.0
    timeout_seconds: float = 10.0


def read_log(section: Section) -> Log:
    """The section ``log``; mistakes are reported to it."""
    default = Log()
    log = Log(
        level=section.get("level", default.level, to_choice(LOG_LEVELS)),
        access=section.get("access", default.access, to_flag),
        subject=section.get("subject", default.subject, to_choice(SUBJECTS)),
        queue=section.get("queue", default.queue, to_integer(1, 10_000_000)),
    )
    section.finish()
    return log


def _ratio(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"must be a number from 0 to 1, not {kind_of(value)}")
    if not 0 <= value <= 1:
        raise ValueError(f"{value} is out of range, must be 0 to 1: 0.01 traces one request in a hundred")
    return float(value)


def _url(value: object) -> str:
    text = to_text(value)
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    # Not quoted in the message: it may hold a password, which is the next mistake.
    if not usable:
        raise ValueError("must be an http:// or https:// URL, such as http://collector.example.internal:4318/v1/traces")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a user or password: use headers_file, or certificate and key")
    return text


def read_tracing(section: Section) -> Tracing:
    """The section ``tracing``; mistakes are reported to it."""
    default = Tracing()
    before = len(section.problems)
    tracing = Tracing(
        exporter=section.get("exporter", default.exporter, to_choice(EXPORTERS)),
        endpoint=section.get("endpoint", default.endpoint, _url),
        service_name=section.get("service_name", default.service_name, to_text),
        sample_ratio=section.get("sample_ratio", default.sample_ratio, _ratio),
        follow_parent=section.get("follow_parent", default.follow_parent, to_flag),
        per_second=section.get("per_second", default.per_second, to_integer(1, 100_000)),
        ca=section.get("ca", None, to_path),
        certificate=section.get("certificate", None, to_path),
        key=section.get("key", None, to_path),
        headers_file=section.get("headers_file", None, to_path),
        queue=section.get("queue", default.queue, to_integer(1, 1_000_000)),
        batch=section.get("batch", default.batch, to_integer(1, 100_000)),
        delay_seconds=section.get("delay_seconds", default.delay_seconds, to_seconds(0.01, 3600)),
        timeout_seconds=section.get("timeout_seconds", default.timeout_seconds, to_seconds(0.1, 60)),
    )
    # What was reported already would only be reported again in other words.
    if len(section.problems) == before:
        _check_tracing(section, tracing)
    section.finish()
    return tracing


def _check_tracing(section: Section, tracing: Tracing) -> None:
    if tracing.exporter == "none":
        if section.has("endpoint"):
            section.report("exporter", "is missing: say otlp or zipkin, or remove endpoint")
    elif not tracing.endpoint:
        example = "http://host:9411/api/v2/spans" if tracing.exporter == "zipkin" else "http://host:4318/v1/traces"
        section.report("endpoint", f"is missing: the collector's full URL, such as {example}")
    if (tracing.certificate is None) != (tracing.key is None):
        section.report("certificate", "and key belong together: give both, or neither")
    if tracing.headers_file is not None and tracing.exporter == "zipkin":
        section.report("headers_file", "applies to otlp only: remove it")
    if tracing.batch > tracing.queue:
        section.report("batch", f"{tracing.batch} is larger than queue ({tracing.queue}): make it smaller")

#!/usr/bin/env python3
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sends a bounded load to an endpoint and prints as JSON what became of every request.

Needs nothing but Python 3.10. Each of the concurrent clients keeps one connection and sends its next request when the
answer to the last has come (a closed loop), so the load never exceeds the concurrency.

    benchmarks/load.py https://inference.example.internal/v2/models/file-type/infer --ca ca-bundle.pem \
        --body request.json --concurrency 8 --duration 10

Ends with 0 when no request failed, else with 1.

A connection that the server closed while it was idle, before it sent anything of the answer, is opened anew and the
request sent again, once, as HTTP clients do (RFC 9112, 9.3.1); such requests are counted as `resent` and not hidden.
`--strict` counts them as failures.
"""

from __future__ import annotations

import argparse
import http.client
import json
import signal
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

PERCENTILES = (50, 90, 99)


@dataclass
class Tally:
    """What one client saw; times in seconds."""

    latencies: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    upstreams: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    resent: int = 0
    connections: int = 0


class NamedConnection(http.client.HTTPSConnection):
    """An HTTPS connection that verifies another name than the one it connects to."""

    def __init__(self, server_name: str, context: ssl.SSLContext, **kwargs: Any) -> None:
        super().__init__(context=context, **kwargs)
        self._server_name, self._tls, self._source = server_name, context, kwargs["source_address"]

    def connect(self) -> None:
        """Connect, and verify the name."""
        raw = socket.create_connection((self.host, self.port), self.timeout, self._source)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = self._tls.wrap_socket(raw, server_hostname=self._server_name)


class Client:
    """One client of the load: a connection, and what it saw."""

    def __init__(self, options: argparse.Namespace, body: bytes | None, deadline: float) -> None:
        self.options, self.body, self.deadline = options, body, deadline
        self.tally = Tally()
        self.url: SplitResult = urlsplit(options.url)
        self.path = (self.url.path or "/") + (f"?{self.url.query}" if self.url.query else "")
        self.headers = {"User-Agent": "ai102-load", **dict(h.split(":", 1) for h in options.header)}
        if body is not None:
            self.headers["Content-Type"] = "application/json"
        self.context = self._tls() if self.url.scheme == "https" else None
        self.connection: http.client.HTTPConnection | None = None

    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.options.ca)
        if self.options.cert:
            context.load_cert_chain(self.options.cert, self.options.key)
        return context

    def _open(self) -> http.client.HTTPConnection:
        common: dict[str, Any] = {
            "host": self.url.hostname,
            "port": self.url.port or (443 if self.context else 80),
            "timeout": self.options.timeout,
            "source_address": (self.options.source, 0) if self.options.source else None,
        }
        self.tally.connections += 1
        if self.context is None:
            return http.client.HTTPConnection(**common)
        return NamedConnection(self.options.server_name or str(self.url.hostname), self.context, **common)

    def _close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def _send(self) -> http.client.HTTPResponse:
        if self.connection is None:
            self.connection = self._open()
        self.connection.request("POST" if self.body is not None else "GET", self.path, self.body, self.headers)
        return self.connection.getresponse()

    def once(self) -> None:
        """Sends one request and counts what became of it."""
        started = time.monotonic()
        if self.options.no_keepalive:
            self._close()
        try:
            try:
                response = self._send()
            except (ConnectionResetError, BrokenPipeError, http.client.RemoteDisconnected, ssl.SSLEOFError):
                # An idle connection may be closed at any moment, and Nginx may drop one that is made while it takes
                # another configuration: a client asks once more. Counted as `resent`; --strict calls it a failure.
                if self.options.strict:
                    raise
                self._close()
                self.tally.resent += 1
                response = self._send()
            response.read()
        except (OSError, http.client.HTTPException) as e:
            self._close()
            self.tally.failures[type(e).__name__] += 1
            return
        self.tally.latencies.append(time.monotonic() - started)
        self.tally.statuses[response.status] += 1
        served_by = response.getheader(self.options.upstream_header)
        if served_by:
            self.tally.upstreams[served_by] += 1
        if response.status not in self.options.expect:
            self.tally.failures[f"HTTP {response.status}"] += 1
        if response.will_close:
            self._close()

    def run(self) -> None:
        """Sends requests until the time is over, or the client's share of them is sent."""
        left = self.options.requests
        while time.monotonic() < self.deadline and left != 0:
            self.once()
            left -= 1
            if self.options.pause:
                time.sleep(self.options.pause)
        self._close()


def percentile(sorted_values: list[float], percent: float) -> float:
    """The nearest-rank percentile; 0 for no values."""
    if not sorted_values:
        return 0.0
    rank = max(1, -(-len(sorted_values) * percent // 100))
    return sorted_values[int(rank) - 1]


def summarise(tallies: list[Tally], seconds: float) -> dict[str, Any]:
    """The figures of all clients together."""
    latencies = sorted(value for t in tallies for value in t.latencies)
    failures: Counter[str] = sum((t.failures for t in tallies), Counter())
    statuses: Counter[int] = sum((t.statuses for t in tallies), Counter())
    upstreams: Counter[str] = sum((t.upstreams for t in tallies), Counter())
    unanswered = sum(n for kind, n in failures.items() if not kind.startswith("HTTP "))
    total = len(latencies) + unanswered
    return {
        "requests": total,
        "failed": failures.total(),
        "failures": dict(sorted(failures.items())),
        "statuses": {str(k): v for k, v in sorted(statuses.items())},
        "resent": sum(t.resent for t in tallies),
        "connections": sum(t.connections for t in tallies),
        "seconds": round(seconds, 2),
        "requests_per_second": round(total / seconds, 1) if seconds else 0.0,
        "latency_ms": {
            **{f"p{p}": round(percentile(latencies, p) * 1000, 2) for p in PERCENTILES},
            "max": round(latencies[-1] * 1000, 2) if latencies else 0.0,
        },
        "upstreams": dict(sorted(upstreams.items())),
    }


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--body", type=Path, help="file with the request's body; POST instead of GET")
    parser.add_argument("--duration", type=float, default=10.0, help="seconds (default %(default)s)")
    parser.add_argument("--requests", type=int, default=-1, help="requests of each client at most (default: no limit)")
    parser.add_argument("--concurrency", type=int, default=4, help="clients (default %(default)s)")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds for each answer (default %(default)s)")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between two requests of a client")
    parser.add_argument("--ca", help="PEM file of the authorities to believe")
    parser.add_argument("--cert", help="PEM file of the client certificate")
    parser.add_argument("--key", help="PEM file of its key")
    parser.add_argument("--server-name", help="name the certificate must carry, where the URL has an address")
    parser.add_argument("--source", help="local address to connect from")
    parser.add_argument("--header", action="append", default=[], metavar="NAME:VALUE")
    parser.add_argument("--expect", type=int, action="append", help="status that is no failure (default 200)")
    parser.add_argument("--no-keepalive", action="store_true", help="a new connection for every request")
    parser.add_argument(
        "--strict", action="store_true", help="a connection that was closed before an answer is a failure"
    )
    parser.add_argument("--upstream-header", default="X-Served-By", help="response header that names who answered")
    options = parser.parse_args(arguments)
    options.expect = options.expect or [200]
    if options.concurrency < 1:
        parser.error("--concurrency must be at least 1")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Entry point."""
    options = parse(arguments)
    body = options.body.read_bytes() if options.body else None
    started = time.monotonic()
    clients = [Client(options, body, started + options.duration) for _ in range(options.concurrency)]

    def end(_signal: int, _frame: object) -> None:
        for client in clients:
            client.deadline = 0.0

    signal.signal(signal.SIGINT, end)  # ends early, with the figures so far
    threads = [threading.Thread(target=client.run, daemon=True) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result = summarise([client.tally for client in clients], time.monotonic() - started)
    print(json.dumps(result, indent=2))
    return 1 if result["failed"] or not result["requests"] else 0


if __name__ == "__main__":
    sys.exit(main())

# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The load client tells every request that failed; a load that hides failures would prove nothing."""

from __future__ import annotations

import importlib.util
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

_SPEC = importlib.util.spec_from_file_location("load", Path(__file__).parents[3] / "benchmarks" / "load.py")
assert _SPEC is not None
assert _SPEC.loader is not None
load: Any = importlib.util.module_from_spec(_SPEC)
__import__("sys").modules["load"] = load  # dataclasses look their module up
_SPEC.loader.exec_module(load)


class Server(ThreadingHTTPServer):
    """Answers 200 from `a`, every fifth time 503 from `b`; hangs up before every seventh answer if told to."""

    daemon_threads = True
    counter = 0
    failing = False
    hanging_up = False
    lock = threading.Lock()

    def handle_error(self, *args: Any) -> None:
        pass


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            self.server.counter += 1
            number = self.server.counter
        if self.server.hanging_up and number % 7 == 0:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        bad = self.server.failing and number % 5 == 0
        self.send_response(503 if bad else 200)
        self.send_header("X-Served-By", "b" if bad else "a")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, port: int, *arguments: str) -> tuple[int, dict[str, Any]]:
    (tmp_path / "body.json").write_text("{}")
    url = f"http://127.0.0.1:{port}/v2"
    status = load.main([url, "--body", str(tmp_path / "body.json"), "--concurrency", "2", *arguments])
    return status, json.loads(capsys.readouterr().out)


def test_all_good(server: Server, capsys: Any, tmp_path: Path) -> None:
    status, figures = run(capsys, tmp_path, server.server_port, "--requests", "10")
    assert status == 0
    assert figures["requests"] == 20 == server.counter
    assert figures["failed"] == 0
    assert figures["upstreams"] == {"a": 20}
    assert figures["connections"] == 2
    assert 0 < figures["latency_ms"]["p50"] <= figures["latency_ms"]["p99"] <= figures["latency_ms"]["max"]


def test_statuses_are_failures(server: Server, capsys: Any, tmp_path: Path) -> None:
    server.failing = True
    status, figures = run(capsys, tmp_path, server.server_port, "--requests", "10")
    assert status == 1
    assert figures["failures"] == {"HTTP 503": 4}
    assert figures["upstreams"] == {"a": 16, "b": 4}
    assert figures["requests"] == 20
    status, figures = run(
        capsys, tmp_path, server.server_port, "--requests", "10", "--expect", "200", "--expect", "503"
    )
    assert status == 0


def test_cut_connections_are_counted_and_with_strict_failures(server: Server, capsys: Any, tmp_path: Path) -> None:
    server.hanging_up = True
    _status, figures = run(capsys, tmp_path, server.server_port, "--requests", "10")
    assert figures["resent"] + figures["failed"] >= 2
    assert figures["requests"] == 20
    server.counter = 0
    status, figures = run(capsys, tmp_path, server.server_port, "--requests", "10", "--strict")
    assert status == 1
    assert figures["resent"] == 0
    assert figures["failures"] == {"RemoteDisconnected": 2}


def test_nobody_there(capsys: Any, tmp_path: Path) -> None:
    status, figures = run(capsys, tmp_path, 9, "--requests", "3")
    assert status == 1
    assert figures["failures"] == {"ConnectionRefusedError": 6}
    assert figures["requests"] == 6


def test_duration_bounds_the_load(server: Server, capsys: Any, tmp_path: Path) -> None:
    _status, figures = run(capsys, tmp_path, server.server_port, "--duration", "0.3", "--pause", "0.05")
    assert figures["seconds"] < 2
    assert figures["requests"] < 20


@pytest.mark.parametrize(
    ("values", "percent", "result"), [([], 50, 0.0), ([1.0], 99, 1.0), ([1.0, 2.0, 3.0, 4.0], 50, 2.0)]
)
def test_percentile(values: list[float], percent: float, result: float) -> None:
    assert load.percentile(values, percent) == result

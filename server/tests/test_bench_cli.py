# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The commands ``bench`` and ``health``, against our server, and against one that misbehaves as it is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ai102_server.cli import main
from ai102_server.cli.bench import percentile
from toolkit import CLIENT_AUTH, SERVER_AUTH, Authority, ServerProcess, doubling_request, free_port

Answer = tuple[int, dict[str, str], bytes]


class Scripted:
    """A server that answers by a function of the headers and the number of the request."""

    def __init__(self, answer: Callable[[dict[str, str], int], Answer | None]) -> None:
        self.seen: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with lock:
                    outer.seen.append(dict(self.headers))
                    outer.bodies.append(body)
                    number = len(outer.seen)
                found = answer(dict(self.headers), number)
                if found is None:
                    self.close_connection = True
                    return
                status, headers, body = found
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def scripted() -> Iterator[Callable[..., Scripted]]:
    servers: list[Scripted] = []

    def make(answer: Callable[[dict[str, str], int], Answer | None]) -> Scripted:
        servers.append(Scripted(answer))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


@pytest.fixture
def request_file(tmp_path: Path) -> Path:
    path = tmp_path / "request.json"
    path.write_text(json.dumps(doubling_request()))
    return path


def bench(url: str, request: Path, *more: str) -> int:
    fixed = ["bench", "--url", url, "--model", "doubling", "--request", str(request), "--duration", "0.3"]
    return main([*fixed, "--warm-up", "0", "--concurrency", "2", *more])


def test_bench_of_a_real_server(
    start: Callable[..., ServerProcess], base_config: dict[str, Any], request_file: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    server = start(base_config)
    url = f"http://127.0.0.1:{server.config['listen']['port']}"
    assert bench(url, request_file, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["failed"] == 0
    assert found["statuses"] == {"200": found["requests"]}
    assert found["per_second"] == pytest.approx(found["requests"] / found["seconds"])
    latency = found["latency_seconds"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"]
    assert bench(url, request_file, "--version", "10") == 0
    assert "per second\nlatency: p50 " in capsys.readouterr().out
    assert bench(url, request_file, "--version", "7") == 1
    assert "answers 404" in capsys.readouterr().err


def test_bench_with_tls_and_client_certificate(
    start: Callable[..., ServerProcess], base_config: dict[str, Any], request_file: Path, tmp_path: Path
) -> None:
    authority = Authority(tmp_path, "ca")
    certificate, key = authority.issue("server", SERVER_AUTH)
    client, client_key = authority.issue("client", CLIENT_AUTH)
    tls = {"certificate": str(certificate), "key": str(key), "client_ca": str(authority.path)}
    server = start({**base_config, "listen": {"host": "127.0.0.1", "port": 0, "tls": tls}})
    url = f"https://127.0.0.1:{server.config['listen']['port']}"
    known = ("--ca", str(authority.path), "--cert", str(client), "--key", str(client_key))
    assert bench(url, request_file, *known, "--server-hostname", "server") == 0
    # The server wants a certificate that this one is not: it listens and speaks TLS, more cannot be known.
    assert main(["health", "--config", str(server.config_path), "--live"]) == 0


def test_bench_sends_the_token_and_all_requests_in_turn(
    scripted: Callable[..., Scripted], request_file: Path, tmp_path: Path
) -> None:
    server = scripted(lambda headers, _: (200 if headers.get("Authorization") == "Bearer abc.def" else 401, {}, b"{}"))
    token, second = tmp_path / "token", tmp_path / "second.json"
    token.write_text("abc.def\n")
    second.write_text("{}")
    assert (
        bench(server.url, request_file, "--request", str(second), "--token-file", str(token), "--concurrency", "1") == 0
    )
    assert set(server.bodies[2:]) == {request_file.read_bytes(), b"{}"}


@pytest.mark.parametrize("text", ["", "two words", "line\r\nbreak", "tökén"])
def test_what_is_no_token_is_refused(
    text: str, request_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = tmp_path / "token"
    token.write_text(text)
    assert bench("http://127.0.0.1:1", request_file, "--token-file", str(token)) == 1
    error = capsys.readouterr().err
    assert "holds no token" in error or "it is not ASCII text" in error
    assert not text or text not in error


def test_bench_counts_refusals_and_waits_as_told(
    scripted: Callable[..., Scripted], request_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every second request is refused for longer than the load lasts: each client is refused once, and waits."""
    server = scripted(lambda _, number: (200, {}, b"{}") if number < 4 else (503, {"Retry-After": "60"}, b"{}"))
    assert bench(server.url, request_file, "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["statuses"] == {"200": 2, "503": 2}
    assert found["failed"] == 2


def test_bench_counts_lost_connections(
    scripted: Callable[..., Scripted], request_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = scripted(lambda _, number: (200, {}, b"{}") if number != 4 else None)
    assert bench(server.url, request_file) == 1
    assert "failed with RemoteDisconnected: 1" in capsys.readouterr().out


def test_bench_of_nobody(request_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(f"http://127.0.0.1:{free_port()}", request_file) == 1
    assert "cannot be asked" in capsys.readouterr().err
    assert bench("http://127.0.0.1:1", request_file, "--concurrency", "0") == 1
    assert "--concurrency must be 1 or more" in capsys.readouterr().err


@pytest.mark.parametrize(("share", "expected"), [(50, 5.0), (90, 9.0), (99, 10.0), (100, 10.0), (1, 1.0)])
def test_percentile(share: float, expected: float) -> None:
    assert percentile([float(i) for i in range(1, 11)], share) == expected


def test_health(
    start: Callable[..., ServerProcess], base_config: dict[str, Any], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    broken = {"name": "absent", "version": "1", "path": str(tmp_path / "absent")}
    socket = str(tmp_path / "s.sock")
    models = [*base_config["models"][:1], broken]
    server = start({**base_config, "listen": {"uds": socket}, "models": models, "start": "degraded"}, ready=False)
    server.wait_for("STATUS=")
    deadline = 100
    while main(["health", "--config", str(server.config_path), "--live"]) != 0 and deadline:
        deadline -= 1
        threading.Event().wait(0.1)
    capsys.readouterr()
    assert main(["health", "--config", str(server.config_path), "--live"]) == 0
    # Alive, but not ready: one of the models is not.
    assert main(["health", "--config", str(server.config_path)]) == 1
    assert "not ready: 503" in capsys.readouterr().err
    server.terminate()
    server.wait()
    assert main(["health", "--config", str(server.config_path), "--live"]) == 1
    assert "the server cannot be asked" in capsys.readouterr().err

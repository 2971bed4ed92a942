# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""``gpu-exporter``: metrics of the GPUs of a host for Prometheus, over HTTP or (mutual) TLS."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import ssl
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from ai102_server.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Exporter", "TlsFiles", "add_parser"]

#: Seconds that a caller gets for the handshake and for each line of its request.
_PATIENCE: Final = 10.0


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``gpu-exporter``."""
    parser = commands.add_parser(
        "gpu-exporter", help="metrics of this machine's GPUs for Prometheus, with the names of NVIDIA's DCGM exporter"
    )
    parser.add_argument("--address", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    parser.add_argument("--port", type=int, default=9400, help="default: %(default)s")
    parser.add_argument("--certificate", type=Path, metavar="FILE", help="certificate with its chain, for TLS")
    parser.add_argument("--key", type=Path, metavar="FILE", help="its key")
    parser.add_argument(
        "--client-ca", type=Path, metavar="FILE", help="authority that callers' certificates must be of"
    )
    parser.add_argument("--once", action="store_true", help="print the metrics once and end")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from prometheus_client import CollectorRegistry, generate_latest

    from ai102_server.serving.systemd import Notifier
    from ai102_server.telemetry.nvml import GpuCollector

    registry = CollectorRegistry(auto_describe=False)
    registry.register(GpuCollector())
    if arguments.once:
        sys.stdout.write(generate_latest(registry).decode())
        return 0
    tls = None
    if arguments.certificate or arguments.key or arguments.client_ca:
        if not (arguments.certificate and arguments.key):
            raise ServerError("TLS needs --certificate and --key")
        tls = TlsFiles(arguments.certificate, arguments.key, arguments.client_ca)
        tls.context()
    try:
        server = Exporter((arguments.address, arguments.port), lambda: generate_latest(registry), tls)
    except OSError as error:
        raise ServerError(
            f"cannot listen at {arguments.address}:{arguments.port}: {error.strerror or error}"
        ) from error
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))  # nothing is kept that would have to be put away
    Notifier.take(os.environ).send("READY=1")
    with server:
        server.serve_forever()
    return 0


class TlsFiles:
    """Certificate, key and the callers' authority; read again when one of them changes, so that renewal is noticed."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self._paths: Final = (certificate, key, *((client_ca,) if client_ca else ()))
        self._client_ca = client_ca
        self._seen: tuple[int, ...] = ()
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """What a connection is made with. Raises ``ServerError`` when there never was a usable set of files."""
        try:
            seen = tuple(path.stat().st_mtime_ns for path in self._paths)
            if self._context is None or seen != self._seen:
                self._context, self._seen = self._read(), seen
        except (OSError, ssl.SSLError, ValueError) as error:
            # While files are being replaced they may not belong together; the former ones go on.
            if self._context is None:
                names = ", ".join(map(str, self._paths))
                raise ServerError(f"TLS files {names} cannot be used: {error}") from error
        return self._context

    def _read(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # The password is empty on purpose: without one OpenSSL would ask on the terminal.
        context.load_cert_chain(self._paths[0], self._paths[1], password="")
        if self._client_ca is not None:
            context.load_verify_locations(self._client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


class Exporter(ThreadingHTTPServer):
    """Answers ``GET /metrics``, each caller in a thread of its own."""

    daemon_threads = True
    request_queue_size = 16

    def __init__(self, address: tuple[str, int], metrics: Callable[[], bytes], tls: TlsFiles | None = None) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self.metrics: Final = metrics
        self._tls: Final = tls
        super().__init__(address, _Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401  # as the base class has it
        """Do the handshake in the caller's own thread: one that says nothing must not stop the others."""
        request.settimeout(_PATIENCE)
        if self._tls is not None:
            request = self._tls.context().wrap_socket(request, server_side=True, do_handshake_on_connect=False)
            try:
                request.do_handshake()
            except OSError:
                _let_read(request)
                raise
        try:
            super().finish_request(request, client_address)
        finally:
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)
            request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, ARG002
        """Say in one line who did not get an answer, and why."""
        error = sys.exc_info()[1]
        print(f"{client_address[0]}: {type(error).__name__}: {error}", file=sys.stderr)


def _let_read(connection: ssl.SSLSocket) -> None:
    """Close so that a refused caller can read why: with bytes of its own unread, all it would see is a reset."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_WR)
        connection.settimeout(1)
        for _turn in range(16):
            if not socket.socket.recv(connection, 4096):
                break
    connection.close()


class _Handler(BaseHTTPRequestHandler):
    server_version = "ai102-gpu-exporter"
    sys_version = ""
    protocol_version = "HTTP/1.0"
    pages: ClassVar = {"/metrics": "text/plain; version=0.0.4; charset=utf-8", "/": "text/plain; charset=utf-8"}

    def do_GET(self) -> None:  # the name is the base class's
        """Answer."""
        path = self.path.partition("?")[0]
        if path not in self.pages:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        exporter = self.server
        body = exporter.metrics() if path == "/metrics" and isinstance(exporter, Exporter) else b"see /metrics\n"
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", self.pages[path])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401
        """Scrapes are no news."""

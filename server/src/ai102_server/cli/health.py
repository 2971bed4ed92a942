# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""``health``: ask the server of a configuration whether it is alive or ready; for health checks of containers.

It reads the configuration that the server reads, so that address, Unix socket and TLS need not be said twice.
"""

from __future__ import annotations

import argparse
import http.client
import socket
import ssl
import sys
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from ai102_server.errors import ServerError

if TYPE_CHECKING:
    from ai102_server.config import Listen

__all__ = ["add_parser"]

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (compared with, not bound to)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``health``."""
    parser = commands.add_parser("health", help="ask the server of this machine whether it is ready (exit status 0)")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="configuration of the server (YAML)")
    parser.add_argument("--live", action="store_true", help="whether it is alive, ready or not")
    parser.add_argument("--timeout", type=float, default=4.0, metavar="SECONDS", help="default: %(default)s")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from ai102_server.config import load_config

    listen = load_config(arguments.config).listen
    what = "live" if arguments.live else "ready"
    connection = _Connection(listen, arguments.timeout)
    try:
        connection.request("GET", f"/v2/health/{what}", headers={"Host": "localhost"})
        response = connection.getresponse()
        response.read()
    except ssl.SSLError as error:
        # The server wants a certificate of a client, and ours is none that it knows: it listens and speaks TLS.
        if arguments.live and "ALERT" in str(error.reason or "").upper():
            return 0
        raise ServerError(f"the server cannot be asked: {error.reason or error}") from error
    except (OSError, http.client.HTTPException) as error:
        raise ServerError(f"the server cannot be asked: {error or type(error).__name__}") from error
    finally:
        connection.close()
    if response.status != HTTPStatus.OK:
        print(f"not {what}: {response.status}", file=sys.stderr)
        return 1
    return 0


class _Connection(http.client.HTTPConnection):
    """To where a configuration says that the server listens."""

    def __init__(self, listen: Listen, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._listen = listen
        self._seconds = timeout

    def connect(self) -> None:
        """Open the connection."""
        listen = self._listen
        if listen.uds is not None:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(self._seconds)
            self.sock.connect(str(listen.uds))
            return
        host = _EVERYWHERE.get(listen.host, listen.host)
        self.sock = socket.create_connection((host, listen.port), self._seconds)
        if listen.tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            # Nothing secret is sent, and the answer stays on this machine: who answers need not be proved.
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            # Where clients need a certificate, that of the server itself often is one.
            context.load_cert_chain(listen.tls.certificate, listen.tls.key, password="")
            self.sock = context.wrap_socket(self.sock, server_hostname="localhost")

# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""``predict``: ask a running server, with nothing but the standard library, as any client could."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import sys
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote, urlsplit

from ai102_server.errors import ServerError

__all__ = ["Target", "connect", "run_predict"]


@dataclass(frozen=True)
class Target:
    """A server and how to reach it. ``timeout`` is in seconds and applies to each step of the exchange."""

    url: str
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_hostname: str | None = None
    timeout: float = 30.0
    token_file: Path | None = None

    def headers(self) -> dict[str, str]:
        """Headers that say who asks. Raises ``ServerError`` when the token cannot be read."""
        if self.token_file is None:
            return {}
        try:
            return {"Authorization": f"Bearer {self.token_file.read_text(encoding='ascii').strip()}"}
        except (OSError, UnicodeDecodeError) as error:
            raise ServerError(f"{self.token_file} holds no token that can be read") from error


def run_predict(target: Target, model: str, version: str | None, source: str) -> int:
    """Send the request in the file ``source`` ("-": standard input), and print the answer. Returns 0 when it is one."""
    try:
        body = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise ServerError(f"{source} cannot be read: {error.strerror}") from error
    parts = urlsplit(target.url)
    path = f"{parts.path.rstrip('/')}/v2/models/{quote(model, safe='')}"
    if version is not None:
        path += f"/versions/{quote(version, safe='')}"
    headers = {"Content-Type": "application/json", **target.headers()}
    connection = connect(target)
    try:
        connection.request("POST", f"{path}/infer", body, headers)
        response = connection.getresponse()
        answer = response.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        raise ServerError(f"{target.url} cannot be asked: {error or type(error).__name__}") from error
    finally:
        connection.close()
    if response.status != HTTPStatus.OK:
        raise ServerError(f"{target.url} answers {response.status}: {_message(answer)}")
    print(answer)
    return 0


def _message(answer: str) -> str:
    try:
        return str(json.loads(answer)["error"])
    except (ValueError, KeyError, TypeError):
        return answer[:300]


def connect(target: Target) -> http.client.HTTPConnection:
    """A connection to a server, not opened yet. Raises ``ServerError`` for a wrong address or certificates."""
    parts = urlsplit(target.url)
    try:
        port = parts.port
    except ValueError as error:
        raise ServerError(f"'{target.url}' has no valid port") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ServerError(f"'{target.url}' must begin with http:// or https:// and name a host")
    if parts.scheme == "http":
        return http.client.HTTPConnection(parts.hostname, port, timeout=target.timeout)
    try:
        context = ssl.create_default_context(cafile=target.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if target.certificate is not None:
            context.load_cert_chain(target.certificate, target.key)
    except OSError as error:
        raise ServerError(f"certificates cannot be used: {error}") from error
    return _NamedConnection(parts.hostname, port, target, context)


class _NamedConnection(http.client.HTTPSConnection):
    """Connects to one name or address, and verifies the certificate of another."""

    def __init__(self, host: str, port: int | None, target: Target, context: ssl.SSLContext) -> None:
        super().__init__(host, port, timeout=target.timeout, context=context)
        self._named_context = context
        self._name = target.server_hostname or host
        self._timeout = target.timeout

    def connect(self) -> None:
        """Open the connection."""
        plain = socket.create_connection((self.host, self.port), self._timeout)
        self.sock = self._named_context.wrap_socket(plain, server_hostname=self._name)

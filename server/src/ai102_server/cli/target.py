# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""A running server, as commands reach it: with nothing but the standard library, as any client could."""

from __future__ import annotations

import argparse
import http.client
import socket
import ssl
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ai102_server.errors import ServerError

__all__ = ["Target", "add_target_options", "connect"]


@dataclass(frozen=True)
class Target:
    """A server and how to reach it. ``timeout`` is in seconds and applies to each step of an exchange."""

    url: str
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_hostname: str | None = None
    timeout: float = 30.0
    token_file: Path | None = None

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Target:
        """What the options of ``add_target_options`` say. Raises ``ServerError`` without an address."""
        if not arguments.url:
            raise ServerError("--url is missing: which server?")
        return cls(
            url=arguments.url,
            ca=arguments.ca,
            certificate=arguments.cert,
            key=arguments.key,
            server_hostname=arguments.server_hostname,
            timeout=arguments.timeout,
            token_file=getattr(arguments, "token_file", None),
        )

    @property
    def prefix(self) -> str:
        """Path in front of all paths of the API."""
        return urlsplit(self.url).path.rstrip("/")

    def headers(self) -> dict[str, str]:
        """Headers of a request in JSON, with the token if there is one. Raises ``ServerError`` if it cannot be read."""
        headers = {"Content-Type": "application/json"}
        if self.token_file is not None:
            headers["Authorization"] = f"Bearer {_token(self.token_file)}"
        return headers


def add_target_options(parser: argparse.ArgumentParser, *, required: bool = True, token: bool = True) -> None:
    """Add the options that say which server, and how to reach it."""
    add = parser.add_argument
    add("--url", required=required, help="such as https://inference.example.internal")
    add("--ca", type=Path, metavar="FILE", help="certificates to trust (default: the system's)")
    add("--cert", type=Path, metavar="FILE", help="client certificate")
    add("--key", type=Path, metavar="FILE", help="private key of the client certificate")
    add("--server-hostname", metavar="NAME", help="name in the server's certificate, if not the URL's")
    if token:
        add("--token-file", type=Path, metavar="FILE", help="file with a bearer token, - for standard input")
    add("--timeout", type=float, default=30.0, metavar="SECONDS", help="default: %(default)s")


def _token(path: Path) -> str:
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not ASCII text"
        raise ServerError(f"the token in {path} cannot be read: {reason}") from error
    token = text.strip()
    if not token or any(character.isspace() for character in token):
        raise ServerError(f"{path} holds no token: one line is expected")
    return token


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

# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Checks TLS files before anything listens, with messages that name the file."""

from __future__ import annotations

import ssl

from ai102_server.config import Tls
from ai102_server.errors import ServerError

__all__ = ["check_tls"]


def check_tls(tls: Tls) -> None:
    """Raise ``ServerError`` when certificate, key or client CA cannot be used."""
    for path in (tls.certificate, tls.key, *((tls.client_ca,) if tls.client_ca else ())):
        try:
            with path.open("rb"):
                pass
        except OSError as error:
            raise ServerError(f"TLS file {path} cannot be read: {error.strerror}") from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # The password is empty on purpose: without one OpenSSL would ask on the terminal.
        context.load_cert_chain(tls.certificate, tls.key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise ServerError(
            f"TLS certificate {tls.certificate} and key {tls.key} cannot be used together: {_reason(error)}"
        ) from error
    if tls.client_ca is not None:
        try:
            context.load_verify_locations(tls.client_ca)
        except ssl.SSLError as error:
            raise ServerError(f"client CA {tls.client_ca} holds no usable certificate: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error)

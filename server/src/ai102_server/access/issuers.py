# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Keys of external issuers: read from a file, or fetched in the background. No request ever waits for them."""

from __future__ import annotations

import logging
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Final

import orjson

from ai102_server.access.keys import VerifyingKey, parse_jwks
from ai102_server.access.state import State
from ai102_server.config.access import ExternalIssuer
from ai102_server.errors import ConfigError

__all__ = ["Fetcher", "fetch", "load_jwks"]

logger = logging.getLogger(__name__)

_TIMEOUT: Final = 10.0
_LARGEST: Final = 1 << 20
_RETRY_SECONDS: Final = 30.0


def load_jwks(issuer: ExternalIssuer, body: bytes, source: str) -> dict[str, VerifyingKey]:
    """Keys of a JWK set. Raises ``ConfigError``."""
    try:
        return parse_jwks(orjson.loads(body), issuer.algorithms)
    except orjson.JSONDecodeError:
        raise ConfigError(source, ["is not valid JSON"]) from None
    except ValueError as error:
        raise ConfigError(source, [str(error)]) from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args: object, **_kwargs: object) -> None:
        """Follow nothing: the address that the operator trusts is the one that was configured."""
        return


def fetch(url: str, ca: Path | None) -> bytes:
    """The document at a URL. ``ca`` is trusted in place of the system. Raises ``OSError`` or ``ValueError``."""
    context = ssl.create_default_context(cafile=ca)
    opener = urllib.request.build_opener(_NoRedirect(), urllib.request.HTTPSHandler(context=context))
    request = urllib.request.Request(url, headers={"Accept": "application/json"})  # noqa: S310  # https
    try:
        with opener.open(request, timeout=_TIMEOUT) as response:
            body: bytes = response.read(_LARGEST + 1)
    except HTTPException as error:
        raise ValueError(f"is not HTTP: {type(error).__name__}") from None
    if len(body) > _LARGEST:
        raise ValueError(f"is larger than {_LARGEST} bytes")
    return body


class Fetcher:
    """Keeps the keys of the issuers with a URL up to date, in a thread of its own. What cannot be renewed is kept."""

    def __init__(
        self,
        issuers: tuple[ExternalIssuer, ...],
        state: State,
        publish: Callable[[ExternalIssuer, Mapping[str, VerifyingKey]], None],
    ) -> None:
        self._issuers = tuple(issuer for issuer in issuers if issuer.jwks_url is not None)
        self._state = state
        self._publish = publish
        self._due = {issuer.name: 0.0 for issuer in self._issuers}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Publish what was kept from the last time, and begin."""
        for issuer in self._issuers:
            kept = self._state.document(f"jwks:{issuer.name}")
            if kept is not None:
                self._take(issuer, kept, keep=False)
        if self._issuers:
            self._thread = threading.Thread(target=self._run, name="access-keys", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread; one fetch may still be under way for some seconds."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            for issuer in self._issuers:
                if self._due[issuer.name] <= time.monotonic():
                    self.renew(issuer)
            self._stop.wait(max(1.0, min(self._due.values()) - time.monotonic()))

    def renew(self, issuer: ExternalIssuer) -> bool:
        """Fetch once, and publish. Returns whether that worked."""
        self._due[issuer.name] = time.monotonic() + min(_RETRY_SECONDS, issuer.refresh_seconds)
        try:
            body = fetch(issuer.jwks_url or "", issuer.ca)
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            logger.warning("keys cannot be fetched", extra={"issuer": issuer.name, "reason": str(reason)[:200]})
            return False
        if self._stop.is_set() or not self._take(issuer, body, keep=True):
            return False
        self._due[issuer.name] = time.monotonic() + issuer.refresh_seconds
        return True

    def _take(self, issuer: ExternalIssuer, body: bytes, *, keep: bool) -> bool:
        try:
            keys = load_jwks(issuer, body, issuer.jwks_url or issuer.name)
        except ConfigError as error:
            logger.warning("keys cannot be used", extra={"issuer": issuer.name, "reason": str(error)[:200]})
            return False
        if keep:
            self._state.keep_document(f"jwks:{issuer.name}", body)
        self._publish(issuer, keys)
        return True

# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""From name and password to a token: slow on purpose, and bounded so that it slows nothing else down."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from ai102_server.access.accounts import LONGEST_PASSWORD, Account
from ai102_server.access.gate import Access
from ai102_server.access.identity import ANONYMOUS, Identity, Source
from ai102_server.access.limits import REFUSED
from ai102_server.access.state import account_key, source_key
from ai102_server.config.access import Limit
from ai102_server.errors import RequestError

__all__ = ["Issued", "Login", "WrongPasswordError"]

LONGEST_NAME: Final = 256
_POLL_SECONDS: Final = 0.01


class WrongPasswordError(Exception):
    """Name and password do not belong together, or the account is disabled: which of these, nobody is told."""


class Issued(NamedTuple):
    """A token, and for how many seconds it holds."""

    token: str
    identity: Identity
    seconds: int


def _identity(account: Account) -> Identity:
    return Identity(account.name, account.role, account.tenant)


class Login:
    """Checks passwords and issues tokens."""

    def __init__(self, access: Access) -> None:
        self._access = access
        settings = access.config.login
        self._threads = threading.BoundedSemaphore(settings.concurrent + settings.waiting)
        self._turns = threading.BoundedSemaphore(settings.concurrent)
        self._rate = Limit(settings.per_second, max(1, math.ceil(settings.per_second)))
        self._key = access.table.key("\0log-ins", anonymous=False)
        self._passes = [False] * settings.concurrent
        self._lock = threading.Lock()

    def __call__(self, name: str, password: str, environ: Mapping[str, Any]) -> Issued:
        """Issue a token.

        Raises ``WrongPasswordError``; ``RequestError``: 400 for what no password can be, 404 without accounts, 429
        while account or source are locked or too many log in, 503 when this machine has too many to check.
        """
        access = self._access
        if access.accounts is None:
            raise RequestError(404, "this server has no accounts: ask its external issuer for a token")
        if not name or len(name) > LONGEST_NAME or len(password.encode("utf-8", "surrogatepass")) > LONGEST_PASSWORD:
            raise RequestError(400, f"name or password is missing, or longer than {LONGEST_PASSWORD} bytes")
        source = access.sources.of(environ)
        self._check_lock(name, source, environ)
        slot, wait = access.table.take(self._key, self._rate)
        if slot == REFUSED:
            raise RequestError(429, "too many log in at the moment", retry_after=max(1, math.ceil(wait)))
        with self._turn():
            # Asked again: those that waited in front may have been the failures that locked it.
            self._check_lock(name, source, environ)
            right = access.accounts.verify(name, password)
        account = access.accounts.get(name)
        if not right or account is None or account.disabled:
            reason = "unknown account" if account is None else "disabled" if right else "wrong password"
            self._failed(account, name, source, environ, reason)
            raise WrongPasswordError
        access.state.succeed(account_key(name))
        if access.accounts.outdated(account):
            access.audit.event("password.outdated", "success", who=_identity(account), source=source.text)
        before = access.state.revoked_before(name)
        try:
            token, identity = access.tokens.issue(account, max(0.0, before))
        except LookupError:
            raise RequestError(503, "there is no key to sign tokens with", retry_after=30) from None
        access.audit.event("token.issued", "success", who=identity, environ=environ, source=source.text)
        return Issued(token, identity, access.config.token_seconds)

    def _check_lock(self, name: str, source: Source, environ: Mapping[str, Any]) -> None:
        state = self._access.state
        seconds = max(state.locked(account_key(name)), state.locked(source_key(source.network)))
        if seconds > 0:
            self._access.audit.unproven("token.refused", environ=environ, source=source.text, reason="locked")
            raise RequestError(429, "too many failed attempts: wait", retry_after=max(1, math.ceil(seconds)))

    def _failed(
        self, account: Account | None, name: str, source: Source, environ: Mapping[str, Any], reason: str
    ) -> None:
        access, lockout = self._access, self._access.config.lockout
        # What was typed as the name of nobody may be a password.
        who = _identity(account) if account is not None else ANONYMOUS
        facts: dict[str, Any] = {"environ": environ, "source": source.text, "who": who}
        access.audit.event("token.refused", "denied", reason=reason, **facts)
        for what, key, attempts in (
            ("account", account_key(name), lockout.attempts),
            ("source", source_key(source.network), lockout.source_attempts),
        ):
            seconds = access.state.fail(key, attempts)
            if seconds:
                access.audit.event("locked", "denied", reason=what, seconds=round(seconds, 1), **facts)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait until it is our turn. Raises ``RequestError`` (503)."""
        busy = RequestError(503, "too many log in at the moment", retry_after=1)
        deadline = time.monotonic() + self._access.config.login.wait_seconds
        if not self._threads.acquire(blocking=False):
            raise busy
        try:
            if not self._turns.acquire(timeout=self._access.config.login.wait_seconds):
                raise busy
            try:
                number = self._pass(deadline)
                if number is None:
                    raise busy
                try:
                    yield
                finally:
                    with self._lock:
                        self._passes[number] = False
                        self._access.table.leave_pass(number)
            finally:
                self._turns.release()
        finally:
            self._threads.release()

    def _pass(self, deadline: float) -> int | None:
        """One of the passes that all processes share; None when there is none until the deadline."""
        while True:
            with self._lock:
                for number, taken in enumerate(self._passes):
                    if not taken and self._access.table.enter_pass(number):
                        self._passes[number] = True
                        return number
            if time.monotonic() >= deadline:
                return None
            # Only behind a log-in of another process, which takes some ten milliseconds.
            time.sleep(_POLL_SECONDS)

# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The gate that each request passes: token, policy, limits.

What was found out once about a token and a request is kept and costs a look-up from then on. Such an entry holds as
long as the token does, no file has changed, nobody's token was revoked, and, when a rule asks for the time, the minute
is the same.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any, Final

from ai102_server.access.accounts import Accounts
from ai102_server.access.audit import AuditLog
from ai102_server.access.files import signature
from ai102_server.access.identity import ANONYMOUS, Identity, ModelRefLike, Source, Sources
from ai102_server.access.issuers import Fetcher, load_jwks
from ai102_server.access.keys import KeyRing, VerifyingKey, key_paths
from ai102_server.access.limits import REFUSED, SharedTable
from ai102_server.access.policy import Policy
from ai102_server.access.state import State
from ai102_server.access.tokens import External, RefusedError, TokenService, bearer
from ai102_server.config.access import OPERATIONS, AccessConfig, ExternalIssuer, Limit
from ai102_server.errors import ConfigError, RequestError, ServerError

__all__ = ["REALM", "Access", "AccessShared", "Ticket"]

logger = logging.getLogger(__name__)

REALM: Final = 'Bearer realm="ai102"'
_ADMINISTRATION: Final = frozenset({"repository.load", "repository.unload", "accounts"})
_WATCH_SECONDS: Final = 1.0
_PURGE_EVERY: Final = 60
"""Looks at the files, that is, about a minute."""
_UNAUTHORISED: Final = 401
_FORBIDDEN: Final = 403


class Ticket:
    """Leave to go on, and for whom. ``close`` must be called when the request ends; twice does no harm."""

    __slots__ = ("role", "subject", "tenant")

    def __init__(self, subject: str, tenant: str, role: str) -> None:
        self.subject = subject
        self.tenant = tenant
        self.role = role

    def close(self) -> None:
        """Nothing to give back: there is one such object for all requests of a caller."""

    def __enter__(self) -> Ticket:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


class _CountedTicket(Ticket):
    """A ticket of one request that counts as in flight until it is closed."""

    __slots__ = ("_slot", "_table")

    def __init__(self, plain: Ticket, table: SharedTable, slot: int) -> None:
        super().__init__(plain.subject, plain.tenant, plain.role)
        self._table = table
        self._slot = slot

    def close(self) -> None:
        """Give the place back."""
        slot, self._slot = self._slot, REFUSED
        if slot != REFUSED:
            self._table.release(slot)


class AccessShared:
    """What all processes share; made before the fork. Raises ``ServerError`` when the state file cannot be used."""

    def __init__(self, config: AccessConfig) -> None:
        self.table: Final = SharedTable(config.limits.subjects_counted)
        if config.enabled:
            # Makes the file, and says now what would else be said by each process.
            _state(config).close()


def _state(config: AccessConfig) -> State:
    if config.state is None:
        raise ServerError("access.state is missing: a file in the state directory")
    return State(config.state, config.lockout)


@dataclass(frozen=True, eq=False)
class _Snapshot:
    """All that decisions follow from, as the files are at one moment. Two are equal only if they are the same one."""

    policy: Policy
    tokens: TokenService
    accounts: Accounts | None
    by_source: bool
    by_model: bool


class _Entry:
    """What was decided about one kind of request."""

    __slots__ = (
        "audited",
        "generation",
        "hint",
        "identity",
        "key",
        "limit",
        "plain",
        "rule",
        "snapshot",
        "ticket",
        "until",
    )
    rule: str | None
    audited: bool
    plain: bool

    def __init__(
        self, identity: Identity, snapshot: _Snapshot, generation: int, until: float, limit: Limit | None, key: int
    ) -> None:
        self.identity = identity
        self.snapshot = snapshot
        self.generation = generation
        self.until = until
        self.limit = limit
        self.key = key
        self.hint = 0
        self.ticket = Ticket(identity.subject, identity.tenant, identity.role)


class Access:
    """The gate of one process. Use ``load``; ``close`` ends its threads."""

    def __init__(self, config: AccessConfig, shared: AccessShared | None) -> None:
        self.config: Final = config
        self.enabled: Final = config.enabled
        self.audit: Final = AuditLog(config.audit)
        self.sources: Final = Sources(config.trusted_proxies)
        self.table: Final = (shared or AccessShared(config)).table
        self._generation = self.table.generation
        self._open = frozenset(config.anonymous if config.enabled else OPERATIONS)
        self._open_ticket = Ticket("", "", ANONYMOUS.role)
        self._entries: dict[tuple[object, ...], _Entry] = {}
        self._verified: dict[str, tuple[_Snapshot, Identity]] = {}
        self._lock = threading.Lock()
        self._change = threading.Lock()
        self._stop = threading.Event()
        self._fetched: dict[str, Mapping[str, VerifyingKey]] = {}
        self._file_keys: dict[str, Mapping[str, VerifyingKey]] = {}
        self._looks = 0

    @classmethod
    def load(cls, config: AccessConfig, shared: AccessShared | None = None) -> Access:
        """Read all files and begin to watch them. Raises ``ConfigError`` or ``ServerError``."""
        access = cls(config, shared)
        if config.enabled:
            access._begin()
        return access

    def _begin(self) -> None:
        self.table.claim()
        self.state: State = _state(self.config)
        self._revocations = self.state.revocations()
        self._signature = self._look()
        self._keys = KeyRing.load(self.config.keys, strict=True) if self.config.keys.given else KeyRing(())
        self._accounts = self._read_accounts()
        self._policy = Policy.load(self.config.policy)
        for issuer in self.config.issuers:
            self._read_issuer(issuer)
        self._check_roles()
        self._snapshot = self._assemble()
        self._fetcher = Fetcher(self.config.issuers, self.state, self._publish)
        self._fetcher.start()
        threading.Thread(target=self._watch, name="access-files", daemon=True).start()

    def close(self) -> None:
        """End the threads and close the state file."""
        if self.enabled:
            self._stop.set()
            self._fetcher.stop()
            with self._change:
                self.state.close()

    # The hot path ------------------------------------------------------------------------------------------------
    def enter(self, environ: Mapping[str, Any], operation: str, model: ModelRefLike | None) -> Ticket:
        """Let a request in. ``operation`` is one of ``OPERATIONS``; ``model`` is None when it is about no certain one.

        Raises ``RequestError``: 401 without a valid token where one is needed, 403 when policy forbids it, 429 with
        ``Retry-After`` above a limit.
        """
        if operation in self._open:
            return self._open_ticket
        snapshot = self._snapshot
        get = environ.get
        key: tuple[object, ...]
        if model is None:
            key = (get("HTTP_AUTHORIZATION"), operation)
        elif snapshot.by_model:
            key = (get("HTTP_AUTHORIZATION"), operation, model.name, model.version, model.tags)
        else:
            # Names that are not there, which clients can make up, then cost no more than others.
            key = (get("HTTP_AUTHORIZATION"), operation, model.tags)
        if snapshot.by_source:
            key += (get("REMOTE_ADDR"), get("HTTP_X_FORWARDED_FOR"), get("HTTP_X_REAL_IP"))
        entry = self._entries.get(key)
        if (
            entry is None
            or entry.snapshot is not snapshot
            or entry.generation != self._generation[0]
            or entry.until <= time()
        ):
            entry = self._decide(key, snapshot, environ, operation, model)
        if entry.plain:
            return entry.ticket
        return self._finish(entry, environ, operation, model)

    def _finish(self, entry: _Entry, environ: Mapping[str, Any], operation: str, model: ModelRefLike | None) -> Ticket:
        """Everything that must be done for each request: refusals, limits, audit."""
        if entry.rule is not None:
            self._refuse(entry, environ, operation, model)
        ticket = entry.ticket
        if entry.limit is not None:
            slot, wait = self.table.take(entry.key, entry.limit, entry.hint)
            if slot == REFUSED:
                self.audit.unproven("limited", **self._facts(entry, environ, operation, model))
                raise RequestError(
                    429, "more requests than this account may send: slow down", retry_after=max(1, math.ceil(wait))
                )
            entry.hint = slot
            if entry.limit.concurrent:
                ticket = _CountedTicket(ticket, self.table, slot)
        if entry.audited:
            self.audit.event("allowed", "success", **self._facts(entry, environ, operation, model))
        return ticket

    # Decisions ---------------------------------------------------------------------------------------------------
    def _decide(
        self,
        key: tuple[object, ...],
        snapshot: _Snapshot,
        environ: Mapping[str, Any],
        operation: str,
        model: ModelRefLike | None,
    ) -> _Entry:
        # Read before anything is looked up: what is revoked meanwhile makes the entry stale at once.
        generation, now = self._generation[0], time()
        source = self.sources.of(environ)
        identity = self._authenticate(snapshot, environ, operation, source)
        decision = snapshot.policy.decide(identity, operation, model, source, now)
        until = identity.expires
        if snapshot.policy.uses_time:
            until = min(until, now // 60 * 60 + 60)
        limit: Limit | None = self.config.limits.of(identity.subject, identity.role)
        if limit is None or limit.unlimited:
            limit, number = None, 0
        elif identity.subject:
            number = self.table.key(identity.subject, anonymous=False)
        else:
            number = self.table.key(source.network, anonymous=True)
        entry = _Entry(identity, snapshot, generation, until, limit, number)
        entry.rule = None if decision.allowed else decision.rule
        entry.audited = self.audit.allowed or operation in _ADMINISTRATION
        entry.plain = decision.allowed and limit is None and not entry.audited
        with self._lock:
            _make_room(self._entries, self.config.cache_entries)
            self._entries[key] = entry
        return entry

    def _authenticate(
        self, snapshot: _Snapshot, environ: Mapping[str, Any], operation: str, source: Source
    ) -> Identity:
        """Who asks. Raises ``RequestError`` (401) for a token that is not valid."""
        authorization = environ.get("HTTP_AUTHORIZATION")
        if not authorization:
            return ANONYMOUS
        try:
            return self._verify(snapshot, bearer(authorization))
        except RefusedError as error:
            self.audit.unproven(
                "denied", environ=environ, operation=operation, source=source.text, reason=f"token: {error}"
            )
            raise RequestError(
                _UNAUTHORISED,
                "the token is not valid, or no longer so: ask for another one",
                headers={"WWW-Authenticate": f'{REALM}, error="invalid_token"'},
            ) from None

    def _verify(self, snapshot: _Snapshot, token: str) -> Identity:
        known = self._verified.get(token)
        if known is not None and known[0] is snapshot and known[1].expires > time():
            identity = known[1]
        else:
            identity = snapshot.tokens.verify(token)
            with self._lock:
                _make_room(self._verified, self.config.cache_entries)
                self._verified[token] = (snapshot, identity)
        if self.state.revoked(identity):
            raise RefusedError("revoked")
        return identity

    def _refuse(self, entry: _Entry, environ: Mapping[str, Any], operation: str, model: ModelRefLike | None) -> None:
        facts = self._facts(entry, environ, operation, model)
        if not entry.identity.subject:
            self.audit.unproven("denied", reason="no token", **facts)
            raise RequestError(
                _UNAUTHORISED,
                "a token is needed: POST /auth/token gives one for name and password; send it as "
                "'Authorization: Bearer <token>'",
                headers={"WWW-Authenticate": REALM},
            )
        self.audit.event("denied", "denied", reason=entry.rule or "no rule allows it", **facts)
        what = f" model '{model.name[:100]}'" if model is not None else ""
        raise RequestError(_FORBIDDEN, f"role '{entry.identity.role}' does not permit {operation}{what}")

    def _facts(
        self, entry: _Entry, environ: Mapping[str, Any], operation: str, model: ModelRefLike | None
    ) -> dict[str, Any]:
        facts = {
            "who": entry.identity,
            "environ": environ,
            "operation": operation,
            "source": self.sources.of(environ).text,
        }
        if model is not None:
            facts["model"] = f"{model.name}/{model.version}" if model.version else model.name
        return facts

    # For others --------------------------------------------------------------------------------------------------
    def allows(self, environ: Mapping[str, Any], operation: str, model: ModelRefLike | None) -> bool:
        """Whether policy allows a request, counting and logging nothing: for lists of what a caller may see."""
        if operation in self._open:
            return True
        try:
            identity = self.identify(environ)
        except RefusedError:
            return False
        return self._snapshot.policy.decide(identity, operation, model, self.sources.of(environ), time()).allowed

    def identify(self, environ: Mapping[str, Any]) -> Identity:
        """Whose token a request bears. Raises ``RefusedError``."""
        authorization = environ.get("HTTP_AUTHORIZATION")
        return self._verify(self._snapshot, bearer(authorization)) if authorization else ANONYMOUS

    def verify(self, token: str) -> Identity:
        """Whom a token stands for, if it was not revoked. Raises ``RefusedError``."""
        return self._verify(self._snapshot, token)

    @property
    def accounts(self) -> Accounts | None:
        """The accounts at the moment."""
        return self._snapshot.accounts

    @property
    def tokens(self) -> TokenService:
        """What issues tokens at the moment."""
        return self._snapshot.tokens

    def revoke_token(self, jti: str, expires: float | None = None) -> None:
        """Refuse a token in all processes, from now on. ``expires`` is when it ends; None when that is not known."""
        self.state.revoke_token(jti, (time() + self._longest if expires is None else expires) + self._margin)
        self.table.bump()

    def revoke_subject(self, subject: str) -> None:
        """Refuse all tokens that a subject has now, in all processes."""
        now = time()
        self.state.revoke_subject(subject, now, now + self._longest + self._margin)
        self.table.bump()

    @property
    def _longest(self) -> float:
        return max([float(self.config.token_seconds), *(issuer.max_token_seconds for issuer in self.config.issuers)])

    @property
    def _margin(self) -> float:
        # Tokens are accepted that much after their end; the clock may be set back a little besides.
        return self.config.leeway_seconds + 60.0

    # Files -------------------------------------------------------------------------------------------------------
    def poll(self) -> None:
        """Take over what has changed in the files, what other programs revoked, and what dead processes left."""
        with self._change:
            if self._stop.is_set():
                return
            self.table.reclaim()
            revocations = self.state.revocations()
            if revocations != self._revocations:
                self._revocations = revocations
                self.table.bump()
            self._looks += 1
            if self._looks % _PURGE_EVERY == 0:
                self.state.purge()
            current = self._look()
            if current != self._signature:
                self._signature = current
                self._reload()

    def _watch(self) -> None:
        while not self._stop.wait(_WATCH_SECONDS):
            try:
                self.poll()
            except Exception:
                # Whatever it was, the next look may work; without this thread no change would ever be noticed again.
                logger.exception("access files cannot be watched")

    def _look(self) -> tuple[object, ...]:
        files: list[Path | None] = [self.config.accounts, self.config.policy]
        files += [issuer.jwks_file for issuer in self.config.issuers]
        return signature([path for path in files if path is not None] + key_paths(self.config.keys))

    def _reload(self) -> None:
        """Read all files again. One that cannot be used is logged, and what it said before goes on to hold."""
        problems: list[str] = []
        if self.config.keys.given:
            # Each key for itself: a removed key is refused even when another file is broken.
            self._keys = KeyRing.load(self.config.keys, strict=False)
        try:
            self._accounts = self._read_accounts()
        except ConfigError as error:
            problems.append(str(error))
        try:
            self._policy = Policy.load(self.config.policy)
        except ConfigError as error:
            problems.append(str(error))
        for issuer in self.config.issuers:
            try:
                self._read_issuer(issuer)
            except ConfigError as error:
                problems.append(str(error))
        try:
            self._check_roles()
        except ConfigError as error:
            # Such an account has no rights; the others keep theirs.
            problems.append(str(error))
        self._snapshot = self._assemble()
        if problems:
            logger.error("access files cannot be used", extra={"problems": problems})
        self.audit.event("reloaded", "failure" if problems else "success")

    def _read_accounts(self) -> Accounts | None:
        return Accounts.load(self.config.accounts, self.config.password) if self.config.accounts is not None else None

    def _read_issuer(self, issuer: ExternalIssuer) -> None:
        if issuer.jwks_file is not None:
            source = str(issuer.jwks_file)
            try:
                body = issuer.jwks_file.read_bytes()
            except OSError as error:
                raise ConfigError(source, [f"cannot be read: {error.strerror}"]) from error
            self._file_keys[issuer.name] = load_jwks(issuer, body, source)

    def _check_roles(self) -> None:
        named = {f"account '{name}'": role for name, role in (self._accounts.roles() if self._accounts else {}).items()}
        for issuer in self.config.issuers:
            named |= {f"issuer '{issuer.name}'": role for role in (*issuer.roles.values(), issuer.default_role) if role}
        named |= {f"limits.roles '{role}'": role for role in self.config.limits.roles}
        known = ", ".join(sorted(self._policy.roles))
        problems = [
            f"{where} has the role '{role}', which policy does not know; there are {known}"
            for where, role in named.items()
            if role not in self._policy.roles
        ]
        if problems:
            raise ConfigError("access", problems)

    def _publish(self, issuer: ExternalIssuer, keys: Mapping[str, VerifyingKey]) -> None:
        """New keys of an issuer were fetched."""
        with self._change:
            if self._fetched.get(issuer.name) != keys:
                self._fetched[issuer.name] = keys
                self._snapshot = self._assemble()

    def _assemble(self) -> _Snapshot:
        keys = {**self._fetched, **self._file_keys}
        externals = {issuer.issuer: External(issuer, keys.get(issuer.name)) for issuer in self.config.issuers}
        limits = self.config.limits
        return _Snapshot(
            policy=self._policy,
            tokens=TokenService(self.config, self._keys, self._accounts, externals),
            accounts=self._accounts,
            by_source=self._policy.uses_networks or not limits.of("", ANONYMOUS.role).unlimited,
            by_model=self._policy.uses_models,
        )

    @staticmethod
    def share(config: AccessConfig) -> AccessShared:
        """What all processes share; to be made before the fork."""
        return AccessShared(config)


def _make_room(cache: dict[Any, Any], most: int) -> None:
    """Take the oldest entries out of a full cache."""
    while len(cache) >= most:
        del cache[next(iter(cache))]

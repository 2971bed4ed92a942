# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Section ``access`` of the configuration file: who may ask for what, and how often."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from ai102_server.config.reader import (
    MISSING,
    Section,
    kind_of,
    to_flag,
    to_integer,
    to_path,
    to_seconds,
    to_text,
)

__all__ = [
    "ALGORITHMS",
    "BUILTIN_ROLES",
    "OPERATIONS",
    "UNIX_PEER",
    "AccessConfig",
    "Audit",
    "ExternalIssuer",
    "Keys",
    "Limit",
    "Limits",
    "Lockout",
    "Login",
    "Network",
    "Password",
    "read_access",
    "to_many",
    "to_name",
    "to_network",
    "to_networks",
    "to_operation",
]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

OPERATIONS: Final = (
    "infer",
    "metadata",
    "repository.index",
    "repository.load",
    "repository.unload",
    "statistics",
    "health",
    "metrics",
    "page",
    "accounts",
)
"""Everything a client can ask for. ``accounts`` is the administration of other people's tokens."""

BUILTIN_ROLES: Final[Mapping[str, tuple[str, ...]]] = {
    "anonymous": (),
    "viewer": ("anonymous",),
    "user": ("viewer",),
    "operator": ("user",),
    "admin": ("operator",),
}
"""Roles that exist without a policy file, each with the roles whose rights it has as well."""

ALGORITHMS: Final = ("EdDSA", "ES256", "ES384", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
"""Signatures that are accepted from external issuers: asymmetric ones only, so that no public key is ever a secret."""

UNIX_PEER: Final = "unix"
"""Stands for whoever is connected through the Unix socket, who has no address."""

_NAME: Final = re.compile(r"[A-Za-z0-9_@][A-Za-z0-9._@+-]{0,63}")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Keys:
    """Where the keys that sign tokens are: a directory of PEM files, or a systemd credential, or both.

    ``credential`` is the file of that name below ``$CREDENTIALS_DIRECTORY``, and the files ``<name>_*``, as systemd
    names those of a directory.
    """

    directory: Path | None = None
    credential: str | None = None

    @property
    def given(self) -> bool:
        """Whether there is any place for keys."""
        return self.directory is not None or self.credential is not None


@dataclass(frozen=True)
class Password:
    """Parameters of Argon2id for new hashes (RFC 9106): memory in KiB, passes, lanes."""

    memory_kib: int = 19456
    iterations: int = 2
    parallelism: int = 1


@dataclass(frozen=True)
class Login:
    """What log-ins may cost, right across the processes, so that they cannot starve inference.

    ``concurrent`` passwords are checked at once and ``waiting`` requests wait for that in each process, for at most
    ``wait_seconds``; ``per_second`` passwords are checked each second.
    """

    concurrent: int = 1
    waiting: int = 4
    wait_seconds: float = 2.0
    per_second: float = 10.0


@dataclass(frozen=True)
class Lockout:
    """When failed log-ins lock an account or a source network.

    After ``attempts`` failures an account, known or not, is locked for ``first_seconds``, then twice as long with each
    further one, up to ``longest_seconds``. The same holds for a source network with ``source_attempts``. Without a
    failure for ``forget_seconds``, all is forgotten.
    """

    attempts: int = 5
    source_attempts: int = 50
    first_seconds: float = 2.0
    longest_seconds: float = 900.0
    forget_seconds: float = 3600.0


@dataclass(frozen=True)
class Limit:
    """What one subject may do: requests per second with ``burst`` at once, ``concurrent`` in flight. 0: no limit."""

    requests_per_second: float = 0.0
    burst: int = 0
    concurrent: int = 0

    @property
    def unlimited(self) -> bool:
        """Whether there is nothing to count."""
        return not self.requests_per_second and not self.concurrent


@dataclass(frozen=True)
class Limits:
    """Limits of each subject: the one of its name, else of its role, else the default.

    Anonymous callers are counted by their source address. At least ``subjects_counted`` are counted at a time.
    """

    default: Limit = field(default_factory=Limit)
    roles: Mapping[str, Limit] = field(default_factory=dict)
    subjects: Mapping[str, Limit] = field(default_factory=dict)
    subjects_counted: int = 4096

    def of(self, subject: str, role: str) -> Limit:
        """The limit that holds for a subject."""
        return self.subjects.get(subject) or self.roles.get(role) or self.default

    @property
    def any(self) -> bool:
        """Whether anybody has a limit."""
        return any(not limit.unlimited for limit in (self.default, *self.roles.values(), *self.subjects.values()))


@dataclass(frozen=True)
class Audit:
    """What is audited.

    ``allowed`` logs permitted requests too. Refusals of callers who proved nothing are logged up to
    ``denied_per_second``; how many more there were is logged in one line.
    """

    allowed: bool = False
    denied_per_second: int = 50


@dataclass(frozen=True)
class ExternalIssuer:
    """Somebody else whose tokens are accepted. Its subjects are called ``<name>:<subject>`` here.

    The claims named may be paths such as ``realm_access.roles``. ``roles`` translates the values of the role claim;
    the first one that matches in the order of the file counts. ``tenant`` is the tenant of all its subjects, when
    there is no claim for that.
    """

    name: str
    issuer: str
    audience: str
    jwks_file: Path | None = None
    jwks_url: str | None = None
    ca: Path | None = None
    refresh_seconds: float = 300.0
    algorithms: tuple[str, ...] = ("EdDSA", "ES256", "RS256")
    subject_claim: str = "sub"
    role_claim: str | None = None
    tenant_claim: str | None = None
    attribute_claims: Mapping[str, str] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    default_role: str | None = None
    tenant: str = ""
    max_token_seconds: float = 86400.0


@dataclass(frozen=True)
class AccessConfig:
    """The whole section. Nothing is asked of anybody as long as ``enabled`` is false.

    Operations in ``anonymous`` ask for nothing: neither token nor policy nor limit.
    """

    enabled: bool = False
    state: Path | None = None
    anonymous: tuple[str, ...] = ("health", "page")
    accounts: Path | None = None
    policy: Path | None = None
    keys: Keys = field(default_factory=Keys)
    issuer: str = "ai102-server"
    audience: str = "ai102-inference"
    token_seconds: int = 7200
    leeway_seconds: float = 10.0
    issuers: tuple[ExternalIssuer, ...] = ()
    password: Password = field(default_factory=Password)
    login: Login = field(default_factory=Login)
    lockout: Lockout = field(default_factory=Lockout)
    limits: Limits = field(default_factory=Limits)
    trusted_proxies: tuple[Network | str, ...] = ()
    audit: Audit = field(default_factory=Audit)
    cache_entries: int = 4096


# --------------------------------------------------------------------------------------------------------------------
# Converters
# --------------------------------------------------------------------------------------------------------------------
def to_name(value: object) -> str:
    """Name of an account, a role, a tenant or an issuer."""
    text = to_text(value)
    if not _NAME.fullmatch(text):
        raise ValueError(f"'{text}' is no name: up to 64 letters, digits and . _ @ + -, not beginning with . + or -")
    return text


def to_many(convert: Callable[[object], _T]) -> Callable[[object], tuple[_T, ...]]:
    """A list, each item of which ``convert`` takes; one item need not stand in a list."""

    def convert_all(value: object) -> tuple[_T, ...]:
        if isinstance(value, dict):
            raise ValueError("must be a list, not a mapping")
        return tuple(convert(item) for item in (value if isinstance(value, list) else [value]))

    return convert_all


def to_operation(value: object) -> str:
    """One of ``OPERATIONS``."""
    text = to_text(value)
    if text not in OPERATIONS:
        raise ValueError(f"'{text}' is not an operation; there are {', '.join(OPERATIONS)}")
    return text


def to_network(value: object) -> Network | str:
    """A network or address, or ``unix`` for the peer of a Unix socket."""
    text = to_text(value)
    if text == UNIX_PEER:
        return text
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(f"'{text}' is not a network, such as 10.0.0.0/8 or fd00::/8, nor '{UNIX_PEER}'") from None


to_networks: Final = to_many(to_network)


def _number(low: float, high: float) -> Callable[[object], float]:
    def convert(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"must be a number, not {kind_of(value)}")
        if not low <= value <= high:
            raise ValueError(f"{value} is out of range, must be {low:g} to {high:g}")
        return float(value)

    return convert


def _algorithm(value: object) -> str:
    text = to_text(value)
    if text not in ALGORITHMS:
        raise ValueError(f"'{text}' is not one of {', '.join(ALGORITHMS)}: only asymmetric signatures are accepted")
    return text


def _names_to_text(convert: Callable[[object], str]) -> Callable[[object], Mapping[str, str]]:
    def convert_all(value: object) -> Mapping[str, str]:
        if not isinstance(value, dict):
            raise ValueError(f"must be a mapping, not {kind_of(value)}")
        return {to_text(key): convert(item) for key, item in value.items()}

    return convert_all


def _url(value: object) -> str:
    text = to_text(value)
    try:
        parts = urlsplit(text)
        host = parts.hostname or ""
    except ValueError:
        raise ValueError(f"'{text}' is not a URL") from None
    # Keys that come over plain HTTP are anybody's keys. On the machine itself there is no way in between.
    loopback = host in {"localhost", "127.0.0.1", "::1"}
    if not host or (parts.scheme != "https" and not (parts.scheme == "http" and loopback)):
        raise ValueError(f"'{text}' must begin with https:// and name a host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a user name or password")
    return text


# --------------------------------------------------------------------------------------------------------------------
# Sections
# --------------------------------------------------------------------------------------------------------------------
def _keys(parent: Section) -> Keys:
    section = parent.section("keys")
    keys = Keys(
        directory=section.get("directory", None, to_path),
        credential=section.get("credential", None, to_name),
    )
    section.finish()
    return keys


def _password(parent: Section) -> Password:
    section = parent.section("password")
    default = Password()
    password = Password(
        memory_kib=section.get("memory_kib", default.memory_kib, to_integer(8192, 1 << 20)),
        iterations=section.get("iterations", default.iterations, to_integer(1, 64)),
        parallelism=section.get("parallelism", default.parallelism, to_integer(1, 16)),
    )
    section.finish()
    return password


def _login(parent: Section) -> Login:
    section = parent.section("login")
    default = Login()
    login = Login(
        concurrent=section.get("concurrent", default.concurrent, to_integer(1, 64)),
        waiting=section.get("waiting", default.waiting, to_integer(0, 1024)),
        wait_seconds=section.get("wait_seconds", default.wait_seconds, to_seconds(0, 60)),
        per_second=section.get("per_second", default.per_second, _number(0.1, 10_000)),
    )
    section.finish()
    return login


def _lockout(parent: Section) -> Lockout:
    section = parent.section("lockout")
    default = Lockout()
    lockout = Lockout(
        attempts=section.get("attempts", default.attempts, to_integer(1, 1000)),
        source_attempts=section.get("source_attempts", default.source_attempts, to_integer(1, 1_000_000)),
        first_seconds=section.get("first_seconds", default.first_seconds, to_seconds(0.1, 3600)),
        longest_seconds=section.get("longest_seconds", default.longest_seconds, to_seconds(1, 86400)),
        forget_seconds=section.get("forget_seconds", default.forget_seconds, to_seconds(1, 30 * 86400)),
    )
    if lockout.longest_seconds < lockout.first_seconds:
        section.report("longest_seconds", f"is less than first_seconds ({lockout.first_seconds:g}): raise it")
    section.finish()
    return lockout


def _limit(section: Section) -> Limit:
    rate = section.get("requests_per_second", 0.0, _number(0.001, 1_000_000))
    limit = Limit(
        requests_per_second=rate,
        burst=section.get("burst", max(1, round(rate)), to_integer(1, 10_000_000)) if rate else 0,
        concurrent=section.get("concurrent", 0, to_integer(1, 1_000_000)),
    )
    if section.has("burst") and not section.has("requests_per_second"):
        section.report("burst", "has no meaning without requests_per_second: add it")
    section.known.append("burst")
    section.finish()
    return limit


def _limit_map(parent: Section, key: str, convert: Callable[[object], str]) -> Mapping[str, Limit]:
    section = parent.section(key)
    result: dict[str, Limit] = {}
    for name in section.data:
        try:
            result[convert(name)] = _limit(section.section(str(name)))
        except ValueError as error:
            section.report(str(name), str(error))
    return result


def _subject(value: object) -> str:
    """A name, or ``<issuer>:<subject>`` where the other side decides what a subject looks like."""
    text = to_text(value)
    return text if ":" in text else to_name(text)


def _limits(parent: Section) -> Limits:
    section = parent.section("limits")
    default = Limits()
    limits = Limits(
        default=_limit(section.section("default")),
        roles=_limit_map(section, "roles", to_name),
        subjects=_limit_map(section, "subjects", _subject),
        subjects_counted=section.get("subjects_counted", default.subjects_counted, to_integer(64, 1 << 20)),
    )
    section.finish()
    return limits


def _audit(parent: Section) -> Audit:
    section = parent.section("audit")
    default = Audit()
    audit = Audit(
        allowed=section.get("allowed", default.allowed, to_flag),
        denied_per_second=section.get("denied_per_second", default.denied_per_second, to_integer(1, 100_000)),
    )
    section.finish()
    return audit


def _claims(parent: Section) -> dict[str, Any]:
    section = parent.section("claims")
    none: Mapping[str, str] = {}
    claims: dict[str, Any] = {
        "subject_claim": section.get("subject", "sub", to_text),
        "role_claim": section.get("role", None, to_text),
        "tenant_claim": section.get("tenant", None, to_text),
        "attribute_claims": section.get("attributes", none, _names_to_text(to_text)),
    }
    section.finish()
    return claims


def _issuer(value: object, path: str, problems: list[str]) -> ExternalIssuer:
    section = Section(value, path, problems)
    before = len(problems)
    issuer = ExternalIssuer(
        name=section.require("name", "", to_name, "short name that stands in front of its subjects"),
        issuer=section.require("issuer", "", to_text, "what its tokens say in 'iss'"),
        audience=section.require("audience", "", to_text, "what its tokens for this server say in 'aud'"),
        jwks_file=section.get("jwks_file", None, to_path),
        jwks_url=section.get("jwks_url", None, _url),
        ca=section.get("ca", None, to_path),
        refresh_seconds=section.get("refresh_seconds", 300.0, to_seconds(10, 86400)),
        algorithms=section.get("algorithms", ("EdDSA", "ES256", "RS256"), to_many(_algorithm)),
        roles=section.get("roles", {}, _names_to_text(to_name)),
        default_role=section.get("default_role", None, to_name),
        tenant=section.get("tenant", "", to_name),
        max_token_seconds=section.get("max_token_seconds", 86400.0, to_seconds(60, 30 * 86400)),
        **_claims(section),
    )
    if len(problems) == before:
        if (issuer.jwks_file is None) == (issuer.jwks_url is None):
            section.report("", "needs either jwks_file or jwks_url")
        if not issuer.roles and issuer.default_role is None:
            section.report("", "gives nobody a role: add roles (values of its claim to roles here) or default_role")
        if issuer.roles and issuer.role_claim is None:
            section.report("claims.role", "is missing: which claim do the values in roles stand in?")
        if issuer.tenant and issuer.tenant_claim is not None:
            section.report("tenant", "cannot stand beside claims.tenant: keep one of them")
    section.finish()
    return issuer


def _issuers(parent: Section) -> tuple[ExternalIssuer, ...]:
    value = parent.raw("issuers")
    if value is MISSING:
        return ()
    if not isinstance(value, list):
        parent.report("issuers", f"must be a list, not {kind_of(value)}")
        return ()
    issuers = tuple(_issuer(item, parent.at(f"issuers[{index}]"), parent.problems) for index, item in enumerate(value))
    for what in ("name", "issuer"):
        seen = [getattr(issuer, what) for issuer in issuers if getattr(issuer, what)]
        for twice in sorted({item for item in seen if seen.count(item) > 1}):
            parent.report("issuers", f"{what} '{twice}' is listed twice")
    return issuers


def read_access(section: Section) -> AccessConfig:
    """Read the section ``access``. Mistakes are reported in ``section.problems``."""
    default = AccessConfig()
    before = len(section.problems)
    config = AccessConfig(
        enabled=section.get("enabled", default.enabled, to_flag),
        state=section.get("state", None, to_path),
        anonymous=section.get("anonymous", default.anonymous, to_many(to_operation)),
        accounts=section.get("accounts", None, to_path),
        policy=section.get("policy", None, to_path),
        keys=_keys(section),
        issuer=section.get("issuer", default.issuer, to_text),
        audience=section.get("audience", default.audience, to_text),
        token_seconds=section.get("token_seconds", default.token_seconds, to_integer(60, 7 * 86400)),
        leeway_seconds=section.get("leeway_seconds", default.leeway_seconds, to_seconds(1, 300)),
        issuers=_issuers(section),
        password=_password(section),
        login=_login(section),
        lockout=_lockout(section),
        limits=_limits(section),
        trusted_proxies=section.get("trusted_proxies", default.trusted_proxies, to_networks),
        audit=_audit(section),
        cache_entries=section.get("cache_entries", default.cache_entries, to_integer(16, 1 << 20)),
    )
    section.finish()
    if config.enabled and len(section.problems) == before:
        _check_whole(section, config)
    return config


def _check_whole(section: Section, config: AccessConfig) -> None:
    if config.state is None:
        section.report("state", "is missing: a file in the state directory, for revoked tokens and locked accounts")
    if config.accounts is not None and not config.keys.given:
        section.report("keys", "is missing: tokens of accounts are signed with keys in keys.directory")
    if config.keys.given and config.accounts is None:
        section.report("accounts", "is missing: only accounts get tokens signed with keys")
    if config.accounts is None and not config.issuers:
        section.report("", "lets nobody in: give accounts and keys, or issuers, or set enabled to false")
    if any(issuer.issuer == config.issuer for issuer in config.issuers):
        section.report("issuers", f"'{config.issuer}' is this server's own name (issuer): change one of them")

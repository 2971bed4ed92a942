# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Tokens: issuing ours, verifying ours and those of others (RFC 7519, RFC 8725)."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import jwt

from ai102_server.access.accounts import Account, Accounts
from ai102_server.access.identity import NO_ATTRIBUTES, Identity
from ai102_server.access.keys import KeyRing, VerifyingKey
from ai102_server.config.access import AccessConfig, ExternalIssuer

__all__ = ["LONGEST_TOKEN", "External", "RefusedError", "TokenService", "bearer"]

LONGEST_TOKEN: Final = 8192
# Three parts of base64url without padding; anything else need not be looked at.
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{2,}\.[A-Za-z0-9_-]{2,}\.[A-Za-z0-9_-]{2,}", re.ASCII)
_SUBJECT: Final = re.compile(r"[^\x00-\x20\x7f]{1,256}")
_TENANT: Final = re.compile(r"[A-Za-z0-9._@+-]{1,64}", re.ASCII)


class RefusedError(Exception):
    """A token is not accepted. The message is for the audit log: it never quotes the token."""


@dataclass(frozen=True)
class External:
    """An external issuer with the keys it has at the moment; None before they were read for the first time."""

    config: ExternalIssuer
    keys: Mapping[str, VerifyingKey] | None


def bearer(authorization: str) -> str:
    """The token of an ``Authorization`` header (RFC 6750). Raises ``RefusedError``."""
    scheme, _, token = authorization.partition(" ")
    token = token.strip(" ")
    if scheme.lower() != "bearer":
        raise RefusedError("not a bearer token")
    _check_form(token)
    return token


def _check_form(token: str) -> None:
    if len(token) > LONGEST_TOKEN or not _TOKEN.fullmatch(token):
        raise RefusedError("not a token")


class TokenService:
    """Issues and verifies. Has no state but keys and accounts: what is revoked is asked elsewhere."""

    def __init__(
        self, config: AccessConfig, keys: KeyRing, accounts: Accounts | None, externals: Mapping[str, External]
    ) -> None:
        self._config = config
        self.keys: Final = keys
        self._accounts = accounts
        self._externals = dict(externals)

    def issue(self, account: Account, not_before: float = 0.0) -> tuple[str, Identity]:
        """A token for an account, and whom it stands for. Tokens issued up to ``not_before`` were revoked.

        Raises ``LookupError`` without a signing key.
        """
        now = int(time.time())
        # Times are whole seconds: a token of the second in which the others were revoked must be newer than those.
        issued = max(now, int(not_before) + 1)
        jti = secrets.token_urlsafe(16)
        expires = now + self._config.token_seconds
        claims: dict[str, Any] = {
            "iss": self._config.issuer,
            "aud": self._config.audience,
            "sub": account.name,
            "role": account.role,
            "tenant": account.tenant,
            "iat": issued,
            "nbf": now,
            "exp": expires,
            "jti": jti,
        }
        identity = Identity(account.name, account.role, account.tenant, account.attributes, jti, issued, expires)
        return self.keys.encode(claims), identity

    def verify(self, token: str) -> Identity:
        """Whom a token stands for. Raises ``RefusedError``, and nothing else, for whatever is wrong."""
        try:
            return self._verify(token)
        except RefusedError:
            raise
        except jwt.PyJWTError as error:
            raise RefusedError(_REASONS.get(type(error), "not a token")) from None
        except Exception:  # noqa: BLE001  # see below
            # Somebody else wrote every byte of it, and no list of what libraries raise for that is ever complete.
            raise RefusedError("not a token") from None

    def _verify(self, token: str) -> Identity:
        _check_form(token)
        # Only to find out whose key to take; nothing of it is believed before the signature is.
        peek = jwt.decode_complete(token, options={"verify_signature": False})
        kid, issuer = peek["header"].get("kid"), peek["payload"].get("iss")
        if issuer == self._config.issuer:
            claims = self._claims(token, self.keys.verifying.get(kid), issuer, self._config.audience)
            return self._local(claims)
        external = self._externals.get(issuer) if isinstance(issuer, str) else None
        if external is None:
            raise RefusedError("unknown issuer")
        if external.keys is None:
            raise RefusedError("keys of the issuer are not known yet")
        claims = self._claims(token, external.keys.get(kid), issuer, external.config.audience)
        return _outside(external.config, claims)

    def _claims(self, token: str, key: VerifyingKey | None, issuer: str, audience: str) -> dict[str, Any]:
        if key is None:
            raise RefusedError("unknown key")
        return jwt.decode(
            token,
            key.key,
            # The algorithm is the key's. What the token says must be the same, and decides nothing.
            algorithms=[key.algorithm],
            audience=audience,
            issuer=issuer,
            leeway=self._config.leeway_seconds,
            options={"require": ["exp", "iat", "iss", "aud"]},
        )

    def _local(self, claims: Mapping[str, Any]) -> Identity:
        name, jti = claims.get("sub"), claims.get("jti")
        account = self._accounts.get(str(name)) if self._accounts is not None else None
        if account is None or account.disabled:
            raise RefusedError("account is gone or disabled")
        if (claims.get("role"), claims.get("tenant")) != (account.role, account.tenant):
            raise RefusedError("role or tenant of the account has changed")
        if not isinstance(jti, str) or not jti:
            raise RefusedError("no jti")
        issued, expires = float(claims["iat"]), float(claims["exp"])
        return Identity(account.name, account.role, account.tenant, account.attributes, jti, issued, expires)


_REASONS: Final[Mapping[type[Exception], str]] = {
    jwt.ExpiredSignatureError: "expired",
    jwt.ImmatureSignatureError: "not yet valid",
    jwt.InvalidAudienceError: "for another audience",
    jwt.InvalidIssuerError: "of another issuer",
    jwt.InvalidSignatureError: "wrong signature",
    jwt.InvalidAlgorithmError: "algorithm is not the key's",
    jwt.MissingRequiredClaimError: "a claim is missing",
}


def _outside(config: ExternalIssuer, claims: Mapping[str, Any]) -> Identity:
    """Translate the claims of an external issuer. Raises ``RefusedError``."""
    subject = _claim(claims, config.subject_claim)
    if not isinstance(subject, str) or not _SUBJECT.fullmatch(subject):
        raise RefusedError("no subject")
    issued, expires = float(claims["iat"]), float(claims["exp"])
    # How long a revocation must be remembered follows from how long a token may live.
    if not 0 <= expires - issued <= config.max_token_seconds:
        raise RefusedError("lives too long")
    tenant = config.tenant
    if config.tenant_claim is not None:
        tenant = _claim(claims, config.tenant_claim) or ""
        if not isinstance(tenant, str) or (tenant and not _TENANT.fullmatch(tenant)):
            raise RefusedError("tenant cannot be read")
    attributes = {
        name: value
        for name, path in config.attribute_claims.items()
        if isinstance(value := _claim(claims, path), str) and _SUBJECT.fullmatch(value)
    }
    jti = claims.get("jti")
    return Identity(
        f"{config.name}:{subject}",
        _role(config, claims),
        tenant,
        attributes or NO_ATTRIBUTES,
        f"{config.name}:{jti}" if jti else "",
        issued,
        expires,
    )


def _role(config: ExternalIssuer, claims: Mapping[str, Any]) -> str:
    """Role here; "" when the issuer gives none, which no rule allows anything."""
    value = _claim(claims, config.role_claim) if config.role_claim is not None else None
    values = value if isinstance(value, list) else [value]
    for theirs, ours in config.roles.items():
        if theirs in values:
            return ours
    return config.default_role or ""


def _claim(claims: Mapping[str, Any], path: str) -> Any:  # noqa: ANN401  # JSON
    """The claim of that name, which may hold dots (such as a URL), or else the one at the end of a path."""
    if path in claims:
        return claims[path]
    value: Any = claims
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value

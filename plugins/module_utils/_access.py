# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Accounts and tokens of the inference servers, made on the control node.

The control node has the key that signs tokens, encrypted; the hosts get it to log people in, and the control node
itself makes the short-lived tokens with which it asks hosts for their golden answers. Salts are derived from that key,
so the same accounts make the same file.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import secrets
import typing as t

from ansible_collections.ai102.inference.plugins.module_utils._site_key import SiteKey

#: The account with which hosts are asked for their golden answers. Nobody knows its password.
VERIFIER: t.Final = "ai102-verify"
VERIFIER_ROLE: t.Final = "user"
ISSUER: t.Final = "ai102-server"
AUDIENCE: t.Final = "ai102-inference"

#: A token is good from a while ago, because clocks differ, and for the questions of one host.
_BACKDATED_SECONDS: t.Final = 300
_GOOD_SECONDS: t.Final = 900

# The server's own parameters for new hashes (RFC 9106, OWASP's second choice).
_MEMORY_KIB: t.Final = 19456
_ITERATIONS: t.Final = 2
_LANES: t.Final = 1
_HASH_BYTES: t.Final = 32
_SALT_BYTES: t.Final = 16

_LONGEST_PASSWORD: t.Final = 1024
_SHORTEST_PASSWORD: t.Final = 8
_NAME: t.Final = re.compile(r"[A-Za-z0-9_@][A-Za-z0-9._@+-]{0,63}")
_HASH: t.Final = re.compile(r"\$argon2id\$v=19\$m=\d+,t=\d+,p=\d+\$[A-Za-z0-9+/]{11,}\$[A-Za-z0-9+/]{16,}")
_KEYS: t.Final = frozenset({"name", "password", "hash", "role", "tenant", "disabled", "attributes"})


class AccessError(Exception):
    """Accounts or a key that cannot be used; the message never holds a password or a key."""


class TokenKey(SiteKey):
    """The key that signs tokens.

    :param path: of the file; ``ensure`` makes it when there is none.
    :param passphrase: encrypts it, 8 characters or more.
    """

    def __init__(self, path: str | os.PathLike[str], passphrase: str) -> None:
        super().__init__(path, passphrase, "the key that signs tokens", AccessError)

    def pem(self) -> str:
        """Return the private key as the server reads it (PEM, PKCS #8, not encrypted).

        :raises AccessError: it cannot be read.
        """
        from cryptography.hazmat.primitives import serialization

        encoded: bytes = self.load().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return encoded.decode()

    def token(self, tenant: str = "", *, now: float, issuer: str = ISSUER, audience: str = AUDIENCE) -> str:
        """Return a token of the account that asks for golden answers.

        :param tenant: whose models are asked; "" for models of nobody.
        :param now: seconds since the epoch.
        :param issuer: as in the server's configuration.
        :param audience: likewise.
        :returns: a signed JWT (RFC 7519, EdDSA), good for 15 minutes.
        :raises AccessError: the key cannot be read.
        """
        key = self.load()
        # The name of the key is the thumbprint of its public half (RFC 7638).
        public = json.dumps(
            {"crv": "Ed25519", "kty": "OKP", "x": _base64url(key.public_key().public_bytes_raw())},
            separators=(",", ":"),
            sort_keys=True,
        )
        header = {"alg": "EdDSA", "kid": _base64url(hashlib.sha256(public.encode()).digest()), "typ": "JWT"}
        claims = {
            "iss": issuer,
            "aud": audience,
            "sub": verifier(tenant),
            "role": VERIFIER_ROLE,
            "tenant": tenant,
            "iat": int(now) - _BACKDATED_SECONDS,
            "nbf": int(now) - _BACKDATED_SECONDS,
            "exp": int(now) + _GOOD_SECONDS,
            "jti": secrets.token_urlsafe(16),
        }
        signed = ".".join(_base64url(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims))
        return f"{signed}.{_base64url(key.sign(signed.encode()))}"


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def verifier(tenant: str) -> str:
    """Return the name of the account that asks for golden answers of a tenant's models."""
    return f"{VERIFIER}-{hashlib.sha256(tenant.encode()).hexdigest()[:12]}" if tenant else VERIFIER


def hash_password(password: str, salt: bytes) -> str:
    """Return the Argon2id hash of a password in its encoded form (RFC 9106).

    :param salt: 16 bytes.
    """
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    derived = Argon2id(
        salt=salt, length=_HASH_BYTES, iterations=_ITERATIONS, lanes=_LANES, memory_cost=_MEMORY_KIB
    ).derive(password.encode())
    encoded = (base64.b64encode(part).rstrip(b"=").decode() for part in (salt, derived))
    return f"$argon2id$v=19$m={_MEMORY_KIB},t={_ITERATIONS},p={_LANES}${'$'.join(encoded)}"


def check_accounts(accounts: t.Sequence[t.Any]) -> list[dict[str, t.Any]]:
    """Check the accounts of an inventory.

    :returns: them, with every key.
    :raises AccessError: every mistake, each with the place; never a password.
    """
    problems: list[str] = []
    checked: list[dict[str, t.Any]] = []
    names: set[str] = set()
    for number, given in enumerate(accounts):
        place = f"ai102_accounts[{number}]"
        if not isinstance(given, dict):
            problems.append(f"{place}: must be a dictionary such as {{name: alice, role: user, password: …}}")
            continue
        name = given.get("name")
        place = f"{place} ({name})" if isinstance(name, str) else place
        if unknown := sorted(set(map(str, given)) - _KEYS):
            problems.append(f"{place}: unknown key {', '.join(unknown)}; there are {', '.join(sorted(_KEYS))}")
        problems.extend(f"{place}: {problem}" for problem in _problems(given))
        if isinstance(name, str):
            if name in names:
                problems.append(f"{place}: is there twice")
            if name == VERIFIER or name.startswith(f"{VERIFIER}-"):
                problems.append(f"{place}: names that begin with {VERIFIER} are kept for the verification of hosts")
            names.add(name)
        checked.append(
            {
                "name": name,
                "password": given.get("password"),
                "hash": given.get("hash"),
                "role": given.get("role"),
                "tenant": given.get("tenant") or "",
                "disabled": bool(given.get("disabled", False)),
                "attributes": given.get("attributes") or {},
            }
        )
    if problems:
        raise AccessError("; ".join(problems))
    return checked


def _problems(account: t.Mapping[str, t.Any]) -> t.Iterator[str]:
    rule = "up to 64 letters, digits and . _ @ + -, not beginning with . + or -"
    for key in ("name", "role"):
        if not isinstance(account.get(key), str) or not _NAME.fullmatch(account[key]):
            yield f"{key} must be {rule}"
    tenant = account.get("tenant")
    if tenant and (not isinstance(tenant, str) or not _NAME.fullmatch(tenant)):
        yield f"tenant must be {rule}"
    if not isinstance(account.get("disabled", False), bool):
        yield "disabled must be true or false"
    attributes = account.get("attributes") or {}
    if not isinstance(attributes, dict) or not all(
        isinstance(text, str) and _NAME.fullmatch(text) for pair in attributes.items() for text in pair
    ):
        yield f"attributes must be a dictionary of texts, each {rule}"
    password, hashed = account.get("password"), account.get("hash")
    if (password is None) == (hashed is None):
        yield "exactly one of password (from a vault) and hash ('ai102-server account hash' prints it) is needed"
    elif hashed is not None and (not isinstance(hashed, str) or not _HASH.fullmatch(hashed)):
        yield "hash is not an Argon2id hash; 'ai102-server account hash' prints one"
    elif password is not None and (
        not isinstance(password, str) or not _SHORTEST_PASSWORD <= len(password.encode()) <= _LONGEST_PASSWORD
    ):
        yield f"password must be text of {_SHORTEST_PASSWORD} to {_LONGEST_PASSWORD} bytes"


def accounts_document(accounts: t.Sequence[t.Any], tenants: t.Iterable[str], key: TokenKey) -> dict[str, t.Any]:
    """Return the document of the server's accounts, with those that ask for golden answers.

    :param accounts: of the inventory.
    :param tenants: of models, besides those of the accounts.
    :param key: salts are derived from it.
    :raises AccessError: accounts that cannot be used, or the key cannot be read.
    """
    checked = check_accounts(accounts)
    listed: list[dict[str, t.Any]] = []
    for account in checked:
        purpose = f"salt\0{account['name']}\0{account['password']}"
        entry = {
            "name": account["name"],
            "hash": account["hash"] or hash_password(account["password"], key.derive(purpose)[:_SALT_BYTES]),
            "role": account["role"],
        }
        for optional in ("tenant", "disabled", "attributes"):
            if account[optional]:
                entry[optional] = account[optional]
        listed.append(entry)
    owners = {"", *tenants, *(account["tenant"] for account in checked)}
    for tenant in sorted(owners):
        name = verifier(tenant)
        password = _base64url(key.derive(f"password\0{name}"))
        entry = {
            "name": name,
            "hash": hash_password(password, key.derive(f"salt\0{name}")[:_SALT_BYTES]),
            "role": VERIFIER_ROLE,
        }
        listed.append({**entry, "tenant": tenant} if tenant else entry)
    return {"accounts": listed}


def describe(document: t.Any) -> str:
    """Return accounts without their hashes, one in a line, for people and for a diff."""
    lines: list[str] = []
    for account in (document or {}).get("accounts") or []:
        shown = [f"{key}={account[key]}" for key in ("role", "tenant", "disabled", "attributes") if account.get(key)]
        mark = hashlib.sha256(str(account.get("hash")).encode()).hexdigest()[:8]
        lines.append(f"{account.get('name')}: {' '.join(shown)} (password {mark})")
    return "".join(f"{line}\n" for line in lines)

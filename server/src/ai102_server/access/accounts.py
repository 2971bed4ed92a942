# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Local accounts: a YAML file with Argon2id hashes, and the check of a password."""

from __future__ import annotations

import base64
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import argon2
from argon2.exceptions import Argon2Error, InvalidHashError

from ai102_server.access.files import read_yaml
from ai102_server.config.access import Password, to_name
from ai102_server.config.reader import MISSING, Section, kind_of, to_flag, to_text
from ai102_server.errors import ConfigError

__all__ = ["LONGEST_PASSWORD", "Account", "Accounts", "hasher", "parse_accounts", "to_hash"]

LONGEST_PASSWORD: Final = 1024
"""In bytes of UTF-8. Argon2 takes more, but somebody has to carry it."""

_MOST_MEMORY_KIB: Final = 1 << 20
_SALT_BYTES: Final = 16
_HASH_BYTES: Final = 32


@dataclass(frozen=True)
class Account:
    """Somebody who can log in. ``hash`` is in the encoded form of Argon2id."""

    name: str
    hash: str = field(repr=False)
    role: str
    tenant: str = ""
    disabled: bool = False
    attributes: Mapping[str, str] = field(default_factory=dict)


def hasher(password: Password) -> argon2.PasswordHasher:
    """What makes and verifies hashes with these parameters."""
    return argon2.PasswordHasher(
        time_cost=password.iterations, memory_cost=password.memory_kib, parallelism=password.parallelism
    )


def to_hash(value: object) -> str:
    """An Argon2id hash in its encoded form. The message never quotes it: what stands there may be a password."""
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {kind_of(value)}")
    try:
        parameters = argon2.extract_parameters(value)
    except InvalidHashError:
        parameters = None
    if parameters is None or parameters.type is not argon2.Type.ID:
        raise ValueError("is not an Argon2id hash; 'ai102-server account hash' makes one")
    if parameters.memory_cost > _MOST_MEMORY_KIB:
        raise ValueError(f"asks for more than {_MOST_MEMORY_KIB} KiB of memory; make a new one")
    return value


def _attributes(value: object) -> Mapping[str, str]:
    if not isinstance(value, dict):
        raise ValueError(f"must be a mapping of names to text, not {kind_of(value)}")
    return {to_name(key): to_name(item) for key, item in value.items()}


def parse_accounts(document: object, source: str) -> dict[str, Account]:
    """Check a parsed document ``{accounts: [...]}``. Raises ``ConfigError`` with every mistake."""
    problems: list[str] = []
    root = Section(document, "", problems)
    listed = root.raw("accounts")
    result: dict[str, Account] = {}
    if listed is not MISSING and not isinstance(listed, list):
        root.report("accounts", f"must be a list, not {kind_of(listed)}")
    for index, item in enumerate(listed if isinstance(listed, list) else ()):
        section = Section(item, f"accounts[{index}]", problems)
        account = Account(
            name=section.require("name", "", to_name, "name to log in with"),
            hash=section.require("hash", "", to_hash, "what 'ai102-server account hash' prints"),
            role=section.require("role", "", to_name, "such as user"),
            tenant=section.get("tenant", "", to_name),
            disabled=section.get("disabled", False, to_flag),
            attributes=section.get("attributes", {}, _attributes),
        )
        section.finish()
        if account.name in result:
            section.report("name", f"'{account.name}' is listed twice")
        result[account.name] = account
    root.finish()
    if problems:
        raise ConfigError(source, problems)
    return result


class Accounts:
    """All accounts, and the check of a password that takes as long for a name that does not exist."""

    def __init__(self, accounts: Mapping[str, Account], password: Password) -> None:
        self._accounts = dict(accounts)
        self._hasher = hasher(password)
        # Hashes made with other parameters take another time to verify. A name that does not exist must not stand out
        # by that either: it has the parameters of one of the accounts, always of the same one.
        self._secret = secrets.token_bytes(32)
        self._dummies = [_dummy(account.hash) for account in self._accounts.values()]
        if not self._dummies:
            self._dummies = [_dummy(self._hasher.hash(secrets.token_hex()))]

    @classmethod
    def load(cls, path: Path, password: Password) -> Accounts:
        """Read the file. Raises ``ConfigError``."""
        return cls(parse_accounts(read_yaml(path), str(path)), password)

    def get(self, name: str) -> Account | None:
        """The account of a name, disabled or not."""
        return self._accounts.get(name)

    def roles(self) -> dict[str, str]:
        """Role of each account."""
        return {account.name: account.role for account in self._accounts.values()}

    def verify(self, name: str, password: str) -> bool:
        """Whether this is the password of the account of that name. As slow for a name that does not exist."""
        account = self._accounts.get(name)
        encoded = account.hash if account is not None else self._dummy_for(name)
        try:
            self._hasher.verify(encoded, password)
        except Argon2Error:
            return False
        return account is not None

    def outdated(self, account: Account) -> bool:
        """Whether the hash was made with other parameters than new ones are."""
        return self._hasher.check_needs_rehash(account.hash)

    def _dummy_for(self, name: str) -> str:
        digest = hmac.digest(self._secret, name.encode("utf-8", "surrogatepass"), "sha256")
        return self._dummies[int.from_bytes(digest[:8], "big") % len(self._dummies)]


def _dummy(encoded: str) -> str:
    """A hash of nothing with the parameters of another one."""
    start = encoded.rsplit("$", 2)[0]
    salt, digest = (
        base64.b64encode(secrets.token_bytes(size)).rstrip(b"=").decode() for size in (_SALT_BYTES, _HASH_BYTES)
    )
    return f"{start}${salt}${digest}"


def account_to_yaml(account: Account) -> dict[str, Any]:
    """An account as it stands in the file."""
    entry: dict[str, Any] = {"name": account.name, "hash": account.hash, "role": account.role}
    if account.tenant:
        entry["tenant"] = account.tenant
    if account.disabled:
        entry["disabled"] = True
    if account.attributes:
        entry["attributes"] = {to_text(key): item for key, item in account.attributes.items()}
    return entry

# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the tests of access share: accounts, keys and gates in a directory."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jwt
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key

from ai102_server.access import Access, AccessShared
from ai102_server.access.accounts import hasher
from ai102_server.access.keys import public_jwk, thumbprint
from ai102_server.config.access import AccessConfig, Password, read_access
from ai102_server.config.reader import Section

CHEAP = {"memory_kib": 8192, "iterations": 1, "parallelism": 1}
ISSUER = "https://issuer.example"
AUDIENCE = "inference"


class Model(NamedTuple):
    name: str = "minilm"
    version: str = "1"
    tags: frozenset[str] = frozenset()


@lru_cache
def hashed(password: str) -> str:
    return hasher(Password(8192, 1, 1)).hash(password)


@lru_cache
def rsa_key(bits: int = 2048) -> RSAPrivateKey:
    """Making one takes a while: it is made once."""
    return generate_private_key(65537, bits)


def pem(key: Ed25519PrivateKey | RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_pem(key: Ed25519PrivateKey | RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def jwk(key: Ed25519PrivateKey | RSAPrivateKey, **more: Any) -> dict[str, Any]:
    return {**public_jwk(key.public_key()), "kid": thumbprint(key.public_key()), **more}


def account(name: str, role: str = "user", password: str = "right", **more: Any) -> dict[str, Any]:
    return {"name": name, "hash": hashed(password), "role": role, **more}


def settings(document: Mapping[str, Any]) -> AccessConfig:
    problems: list[str] = []
    config = read_access(Section(dict(document), "access", problems))
    assert problems == []
    return config


def request(token: str | None = None, address: str = "192.0.2.1", **headers: str) -> dict[str, Any]:
    environ: dict[str, Any] = {"REMOTE_ADDR": address}
    if token is not None:
        environ["HTTP_AUTHORIZATION"] = f"Bearer {token}"
    return environ | {f"HTTP_{name.upper()}": value for name, value in headers.items()}


@dataclass
class Site:
    """A directory with everything that access control reads."""

    path: Path
    accounts: list[dict[str, Any]] = field(
        default_factory=lambda: [
            account("ann", "admin"),
            account("otto", "operator"),
            account("uma", "user", tenant="acme", attributes={"clearance": "high"}),
            account("vic", "viewer"),
            account("dora", "user", disabled=True),
        ]
    )
    key: Ed25519PrivateKey | RSAPrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    more: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.path / "keys").mkdir(parents=True, exist_ok=True)
        self.write_key("1.pem", self.key)
        self.write_accounts()
        self.gates: list[Access] = []

    def write_key(self, name: str, key: Ed25519PrivateKey | RSAPrivateKey, data: bytes | None = None) -> Path:
        path = self.path / "keys" / name
        path.write_bytes(pem(key) if data is None else data)
        path.chmod(0o600)
        return path

    def write_accounts(self) -> None:
        (self.path / "accounts.yml").write_text(yaml.safe_dump({"accounts": self.accounts}))

    def write_policy(self, document: Any) -> None:
        (self.path / "policy.yml").write_text(yaml.safe_dump(document))
        self.more["policy"] = str(self.path / "policy.yml")

    def document(self, **more: Any) -> dict[str, Any]:
        return {
            "enabled": True,
            "state": str(self.path / "state.sqlite"),
            "accounts": str(self.path / "accounts.yml"),
            "keys": {"directory": str(self.path / "keys")},
            "password": CHEAP,
            "login": {"per_second": 1000.0},
            **self.more,
            **more,
        }

    def config(self, **more: Any) -> AccessConfig:
        return settings(self.document(**more))

    def load(self, shared: AccessShared | None = None, **more: Any) -> Access:
        gate = Access.load(self.config(**more), shared)
        self.gates.append(gate)
        return gate

    def token(self, gate: Access, name: str = "uma") -> str:
        assert gate.accounts is not None
        found = gate.accounts.get(name)
        assert found is not None
        return gate.tokens.issue(found)[0]

    def close(self) -> None:
        for gate in self.gates:
            gate.close()


class Outsider:
    """An issuer of its own, with a key and claims."""

    def __init__(self, path: Path, key: Ed25519PrivateKey | RSAPrivateKey | None = None) -> None:
        self.key = key or Ed25519PrivateKey.generate()
        self.algorithm = "RS256" if isinstance(self.key, RSAPrivateKey) else "EdDSA"
        self.file = path / "outside.json"
        self.publish()

    def publish(self, *keys: dict[str, Any]) -> None:
        self.file.write_text(json.dumps({"keys": list(keys) or [jwk(self.key)]}))

    def document(self, **more: Any) -> dict[str, Any]:
        return {
            "name": "corp",
            "issuer": ISSUER,
            "audience": AUDIENCE,
            "jwks_file": str(self.file),
            "claims": {"role": "realm.roles", "tenant": "org"},
            "roles": {"boss": "admin", "staff": "user"},
            **more,
        }

    def claims(self, **more: Any) -> dict[str, Any]:
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "eve",
            "realm": {"roles": ["x", "staff"]},
            "org": "acme",
            "iat": now,
            "exp": now + 600,
            "jti": "j1",
        } | more
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, headers: dict[str, Any] | None = None, **more: Any) -> str:
        kid = thumbprint(self.key.public_key())
        return jwt.encode(self.claims(**more), self.key, self.algorithm, {"kid": kid, **(headers or {})})

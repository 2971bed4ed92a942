# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Keys: those that sign our tokens, those of others, and the JSON documents they are published in (RFC 7517, 8037)."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

from ai102_server.config.access import Keys
from ai102_server.errors import ConfigError

__all__ = ["KeyRing", "PublicKey", "SigningKey", "parse_jwks", "parse_pem", "public_jwk", "thumbprint"]

logger = logging.getLogger(__name__)

PublicKey = Ed25519PublicKey | RSAPublicKey | EllipticCurvePublicKey
SigningKey = Ed25519PrivateKey | RSAPrivateKey

_SMALLEST_RSA: Final = 2048
_OTHERS_MAY_READ: Final = 0o007
_GROUP_MAY_WRITE: Final = 0o020
_BEGIN: Final = b"-----BEGIN "
_MOST_KEYS: Final = 1000
_CURVES: Final = {"ES256": "secp256r1", "ES384": "secp384r1"}


@dataclass(frozen=True)
class VerifyingKey:
    """A public key and the one algorithm it verifies."""

    key: PublicKey
    algorithm: str


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _number(value: int) -> str:
    return _b64(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def public_jwk(key: Ed25519PublicKey | RSAPublicKey) -> dict[str, str]:
    """The members of a public key that make it up (RFC 7517, RFC 8037)."""
    if isinstance(key, Ed25519PublicKey):
        return {"crv": "Ed25519", "kty": "OKP", "x": _b64(key.public_bytes_raw())}
    numbers = key.public_numbers()
    return {"e": _number(numbers.e), "kty": "RSA", "n": _number(numbers.n)}


def thumbprint(key: Ed25519PublicKey | RSAPublicKey) -> str:
    """The key's name: the SHA-256 of its members in base64url (RFC 7638)."""
    members = json.dumps(public_jwk(key), separators=(",", ":"), sort_keys=True)
    return _b64(hashlib.sha256(members.encode()).digest())


def _algorithm_of(key: PublicKey | SigningKey) -> str:
    return "EdDSA" if isinstance(key, (Ed25519PrivateKey, Ed25519PublicKey)) else "RS256"


def parse_pem(data: bytes) -> list[tuple[SigningKey | None, Ed25519PublicKey | RSAPublicKey]]:
    """All keys of a PEM file, private ones with their public halves. Raises ``ValueError``, which never quotes it."""
    result: list[tuple[SigningKey | None, Ed25519PublicKey | RSAPublicKey]] = []
    for block in data.split(_BEGIN)[1:]:
        pem = _BEGIN + block
        private: Any = None
        try:
            if pem.startswith(_BEGIN + b"PUBLIC KEY"):
                public: Any = serialization.load_pem_public_key(pem)
            else:
                private = serialization.load_pem_private_key(pem, password=None)
                public = private.public_key()
        except Exception:  # noqa: BLE001  # see below
            # What the library says about a key is not for a log. It raises half a dozen types.
            raise ValueError("holds something that is not an unencrypted key in PEM") from None
        if not isinstance(public, (Ed25519PublicKey, RSAPublicKey)):
            raise ValueError("holds a key that is neither Ed25519 nor RSA")
        if isinstance(public, RSAPublicKey) and public.key_size < _SMALLEST_RSA:
            raise ValueError(f"holds an RSA key of less than {_SMALLEST_RSA} bits")
        result.append((private, public))
    if not result:
        raise ValueError("holds no key in PEM")
    return result


class KeyRing:
    """Our own keys. The newest, by the name of its file, signs; all of them verify."""

    def __init__(self, keys: Iterable[tuple[SigningKey | None, Ed25519PublicKey | RSAPublicKey]]) -> None:
        self.verifying: dict[str, VerifyingKey] = {}
        self.signing: SigningKey | None = None
        self.kid = ""
        self.algorithm = ""
        self.jwks: dict[str, list[dict[str, str]]] = {"keys": []}
        for private, public in keys:
            kid = thumbprint(public)
            if private is not None:
                self.signing, self.kid, self.algorithm = private, kid, _algorithm_of(private)
            if kid not in self.verifying:
                algorithm = _algorithm_of(public)
                self.verifying[kid] = VerifyingKey(public, algorithm)
                self.jwks["keys"].append({**public_jwk(public), "kid": kid, "alg": algorithm, "use": "sig"})

    @classmethod
    def load(cls, keys: Keys, *, strict: bool) -> KeyRing:
        """Read all keys. Raises ``ConfigError`` for one that cannot be used; without ``strict`` it is only logged."""
        found: list[tuple[SigningKey | None, Ed25519PublicKey | RSAPublicKey]] = []
        problems: list[str] = []
        for path in key_files(keys, problems):
            try:
                _check_mode(path)
                found += parse_pem(path.read_bytes())
            except OSError as error:
                problems.append(f"{path.name} cannot be read: {error.strerror}")
            except ValueError as error:
                problems.append(f"{path.name} {error}")
        where = str(keys.directory or keys.credential)
        ring = cls(found)
        if ring.signing is None and not problems:
            problems.append("there is no key to sign tokens with; 'ai102-server token new-key' makes one")
        if problems and strict:
            raise ConfigError(where, problems)
        if problems:
            logger.error("signing keys cannot be used", extra={"keys": where, "problems": problems})
        return ring

    def encode(self, claims: Mapping[str, Any]) -> str:
        """A signed token. Raises ``LookupError`` without a signing key."""
        if self.signing is None:
            raise LookupError("there is no signing key")
        return jwt.encode(dict(claims), self.signing, self.algorithm, {"kid": self.kid})


def key_paths(keys: Keys) -> list[Path]:
    """Files and directories to watch."""
    paths = [keys.directory] if keys.directory is not None else []
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if keys.credential is not None and credentials:
        paths.append(Path(credentials))
    return paths


def key_files(keys: Keys, problems: list[str]) -> list[Path]:
    """Files with keys, the oldest first: the order of their names."""
    files: list[Path] = []
    if keys.directory is not None:
        if keys.directory.is_dir():
            files += sorted(keys.directory.glob("*.pem"), key=lambda path: path.name)
        else:
            problems.append("is not a directory: make it, and a key in it with 'ai102-server token new-key'")
    if keys.credential is not None:
        credentials = os.environ.get("CREDENTIALS_DIRECTORY")
        if not credentials:
            problems.append("is a systemd credential, but $CREDENTIALS_DIRECTORY is not set: add LoadCredential=")
        else:
            whole = Path(credentials) / keys.credential
            files += [whole] if whole.is_file() else []
            files += sorted(Path(credentials).glob(f"{keys.credential}_*"), key=lambda path: path.name)
    return files


def _check_mode(path: Path) -> None:
    mode = path.stat().st_mode
    if mode & (_OTHERS_MAY_READ | _GROUP_MAY_WRITE):
        raise ValueError(f"may be read or changed by others (mode {mode & 0o777:04o}): chmod 0640 or 0600")


# --------------------------------------------------------------------------------------------------------------------
# Keys of others
# --------------------------------------------------------------------------------------------------------------------
def _jwk_algorithm(jwk: Mapping[str, Any]) -> str | None:
    """The one algorithm of a key: the one it names, if its type can have it; else the usual one of its type."""
    kind, named = jwk.get("kty"), jwk.get("alg")
    if named is not None and not isinstance(named, str):
        return None
    if kind == "OKP" and jwk.get("crv") == "Ed25519":
        return "EdDSA" if named in {None, "EdDSA", "Ed25519"} else None
    if kind == "EC":
        usual = {"P-256": "ES256", "P-384": "ES384"}.get(str(jwk.get("crv")))
        return usual if named in {None, usual} else None
    if kind == "RSA":
        usual = named if named is not None else "RS256"
        return usual if usual in {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"} else None
    # Symmetric keys (oct) have no place in a published document, and whoever took one would take anybody's token.
    return None


def _usable(key: object, algorithm: str) -> bool:
    if isinstance(key, RSAPublicKey):
        return algorithm[:2] in {"RS", "PS"} and key.key_size >= _SMALLEST_RSA
    if isinstance(key, EllipticCurvePublicKey):
        return _CURVES.get(algorithm) == key.curve.name
    return isinstance(key, Ed25519PublicKey) and algorithm == "EdDSA"


def parse_jwks(document: object, allowed: Iterable[str]) -> dict[str, VerifyingKey]:
    """Public keys of a JWK set by their ``kid``; what cannot be used here is left out. Raises ``ValueError``."""
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list):
        raise ValueError("is not a JWK set: a JSON object with a list 'keys'")
    permitted = frozenset(allowed)
    result: dict[str, VerifyingKey] = {}
    for jwk in keys[:_MOST_KEYS]:
        if not isinstance(jwk, dict) or jwk.get("use", "sig") != "sig" or "d" in jwk:
            continue
        kid, algorithm = jwk.get("kid"), _jwk_algorithm(jwk)
        if not isinstance(kid, str) or algorithm not in permitted:
            continue
        try:
            key: Any = jwt.PyJWK(jwk, algorithm).key
        except Exception:  # noqa: BLE001  # see below
            # A document of somebody else: whatever is wrong with one key must not cost the others.
            logger.warning("a key of a JWK set cannot be used", extra={"kid": kid[:100]})
            continue
        if _usable(key, algorithm):
            result.setdefault(kid, VerifyingKey(key, algorithm))
    if not result:
        raise ValueError("holds no key that can be used: signing keys with kid, of the algorithms allowed")
    return result

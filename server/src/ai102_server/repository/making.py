# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Making model packages: manifests, signatures, encryption, keys.

The same content makes the same manifest, whoever makes it and when; encrypted content never is the same twice. A
package appears at its place as a whole or not at all.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from ai102_server.errors import ModelError
from ai102_server.repository.encryption import DEFAULT_SEGMENT, KEY_BYTES, SCHEME, associated_data, encrypt, key_id
from ai102_server.repository.package import MANIFEST, SIGNATURE, ModelPackage, open_package

__all__ = [
    "canonical",
    "encrypt_package",
    "load_private_key",
    "make_encryption_key",
    "make_package",
    "make_signing_key",
    "open_unverified",
    "sign_package",
]

_PRIVATE: Final = 0o600
_PUBLIC: Final = 0o644
_DIRECTORY: Final = 0o755


def canonical(document: Mapping[str, Any]) -> bytes:
    """A manifest as bytes, the same for the same content (as the collection's module ``model_package`` writes it)."""
    return (json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def open_unverified(path: Path) -> ModelPackage:
    """Open the package at ``path``, whatever its name and whoever signed it; hashes must fit. Raises ``ModelError``."""
    try:
        manifest = orjson.loads((path / MANIFEST).read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not valid JSON"
        raise ModelError(f"{path} is not a model package: {MANIFEST}: {reason}") from error
    named = manifest if isinstance(manifest, dict) else {}
    return open_package(path, str(named.get("name")), str(named.get("version")), None)


def make_package(target: Path, files: Mapping[str, Path], manifest: Mapping[str, Any]) -> bytes:
    """Make an unsigned package at ``target``, which must not be there yet.

    Args:
        target: Directory of the package.
        files: The file on this machine for each path in the package.
        manifest: What the manifest says besides the files: ``name``, ``version``, ``inputs`` and so on.

    Returns:
        The manifest.

    Raises:
        ModelError: a file cannot be read, or the result would not be a proper package.

    """
    with _staged(target) as staged:
        for relative, file in files.items():
            place = staged / relative
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
        entries = [_entry(staged, relative) for relative in sorted(files)]
        raw = canonical({"schema": 1, **manifest, "files": entries})
        (staged / MANIFEST).write_bytes(raw)
        open_package(staged, str(manifest.get("name")), str(manifest.get("version")), None)
    return raw


def encrypt_package(source: Path, target: Path, key: bytes, only: Collection[str] = ()) -> bytes:
    """Make a package at ``target`` with the files of the one at ``source``, encrypted; it must be signed again.

    ``only`` names the files to encrypt; none: all. Returns the manifest. Raises ``ModelError``.
    """
    package = open_unverified(source)
    unknown = [name for name in only if name not in package.files]
    if unknown:
        raise ModelError(f"{package.where} has no file {', '.join(unknown)}")
    if package.encrypted:
        raise ModelError(f"{package.where} is encrypted already")
    with _staged(target) as staged:
        entries: list[dict[str, Any]] = []
        for relative in sorted(package.files):
            content = package.read_file(relative)
            described: dict[str, Any] = {}
            if not only or relative in only:
                described = {
                    "encryption": {
                        "scheme": SCHEME,
                        "key": key_id(key),
                        "segment": DEFAULT_SEGMENT,
                        "sha256": package.files[relative].sha256,
                        "size": len(content),
                    }
                }
                content = encrypt(content, key, associated_data(package.name, package.version, relative))
            place = staged / relative
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
            entries.append(_entry(staged, relative) | described)
        raw = canonical({**package.manifest, "files": entries})
        (staged / MANIFEST).write_bytes(raw)
        open_package(staged, package.name, package.version, None)
    return raw


def sign_package(path: Path, key: Ed25519PrivateKey) -> None:
    """Sign the manifest of the package at ``path``, whose hashes must fit. Raises ``ModelError``."""
    open_unverified(path)
    raw = (path / MANIFEST).read_bytes()
    try:
        (path / SIGNATURE).write_bytes(base64.b64encode(key.sign(raw)) + b"\n")
    except OSError as error:
        raise ModelError(f"{path / SIGNATURE} cannot be written: {error.strerror}") from error


def _entry(root: Path, relative: str) -> dict[str, Any]:
    path = root / relative
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return {"path": relative, "sha256": digest.hexdigest(), "size": path.stat().st_size}


@contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """A directory that becomes ``target`` when all went well, and vanishes when not."""
    if target.exists():
        raise ModelError(f"{target} is there already: a version of a model never changes its content")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".making-", dir=target.parent) as scratch:
            staged = Path(scratch, "package")
            staged.mkdir(_DIRECTORY)
            yield staged
            staged.rename(target)
    except OSError as error:
        raise ModelError(f"{target} cannot be made: {error.strerror}: {error.filename}") from error


# --------------------------------------------------------------------------------------------------------------------
# Keys
# --------------------------------------------------------------------------------------------------------------------
def make_signing_key(path: Path, passphrase: bytes | None = None) -> Path:
    """Make an Ed25519 key at ``path`` (0600), and its public key beside it, whose path is returned.

    ``passphrase`` encrypts it. Never overwrites anything. Raises ``ModelError``.
    """
    key = Ed25519PrivateKey.generate()
    protection: KeySerializationEncryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    public = path.with_name(f"{path.name}.pub")
    if public.exists():
        raise ModelError(f"{public} is there already: choose another name")
    _create(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection), _PRIVATE)
    _create(public, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), _PUBLIC)
    return public


def make_encryption_key(path: Path) -> str:
    """Make an encryption key at ``path`` (0600) and return its id. Never overwrites anything. Raises ``ModelError``."""
    key = os.urandom(KEY_BYTES)
    _create(path, base64.b64encode(key) + b"\n", _PRIVATE)
    return key_id(key)


def load_private_key(path: Path, passphrase: bytes | None = None) -> Ed25519PrivateKey:
    """Read an Ed25519 key (PEM). Raises ``ModelError``."""
    try:
        key = load_pem_private_key(path.read_bytes(), passphrase)
    except OSError as error:
        raise ModelError(f"signing key {path} cannot be read: {error.strerror}") from error
    except TypeError as error:
        reason = "has no passphrase" if passphrase else "needs its passphrase: give --passphrase-file"
        raise ModelError(f"signing key {path} {reason}") from error
    except ValueError as error:
        raise ModelError(f"signing key {path} cannot be opened: no key in PEM form, or a wrong passphrase") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ModelError(f"signing key {path} is not an Ed25519 key")
    return key


def _create(path: Path, content: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError as error:
        raise ModelError(f"{path} is there already: choose another name") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be written: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        os.fsync(stream.fileno())

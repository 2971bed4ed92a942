# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Model packages.

A package is a directory with ``manifest.json``, which lists every other file with its SHA-256, the detached Ed25519
signature ``manifest.json.sig`` (base64), the model, and usually golden answers. Nothing of a package is parsed by ONNX
Runtime before the signature and every hash have been verified.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from ai102_server.codec import DATATYPES, TensorSpec
from ai102_server.errors import ModelError

__all__ = ["MANIFEST", "SIGNATURE", "ModelPackage", "load_public_key", "open_package"]

MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "manifest.json.sig"
SCHEMA: Final = 1
_CHUNK: Final = 1 << 20


@dataclass(frozen=True)
class ModelPackage:
    """A verified package. ``signed`` says whether its signature was verified too, not only its hashes."""

    name: str
    version: str
    path: Path
    model_file: Path
    model_sha256: str
    golden_file: Path | None
    inputs: tuple[TensorSpec, ...] | None
    outputs: tuple[TensorSpec, ...] | None
    manifest: dict[str, Any]
    signed: bool


def load_public_key(path: Path) -> Ed25519PublicKey:
    """Read the Ed25519 public key (PEM) that signs models. Raises ``ModelError``."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise ModelError(f"model signing key {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ModelError(f"model signing key {path} is not a public key in PEM form") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ModelError(f"model signing key {path} is not an Ed25519 key")
    return key


def open_package(path: Path, name: str, version: str, public_key: Ed25519PublicKey | None) -> ModelPackage:
    """Verify the package at ``path``, which must be that of ``name`` and ``version``.

    With ``public_key`` the signature of the manifest is required. Raises ``ModelError`` with what is wrong.
    """
    where = f"model '{name}' version '{version}' at {path}"
    raw = _read(path / MANIFEST, where)
    if public_key is not None:
        _verify_signature(raw, path, public_key, where)
    try:
        manifest = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ModelError(f"{where}: {MANIFEST} is not valid JSON: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise ModelError(f"{where}: {MANIFEST} is not of schema {SCHEMA}")
    if (manifest.get("name"), manifest.get("version")) != (name, version):
        raise ModelError(
            f"{where}: the package is of model '{manifest.get('name')}' version '{manifest.get('version')}'"
        )
    files = _verify_files(manifest.get("files"), path, where)
    model = _listed(manifest.get("model", "model.onnx"), files, "model", where)
    golden = manifest.get("golden")
    return ModelPackage(
        name=name,
        version=version,
        path=path,
        model_file=path / model,
        model_sha256=files[model],
        golden_file=None if golden is None else path / _listed(golden, files, "golden answers", where),
        inputs=_specs(manifest.get("inputs"), where),
        outputs=_specs(manifest.get("outputs"), where),
        manifest=manifest,
        signed=public_key is not None,
    )


def _read(path: Path, where: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{where}: {path.name} cannot be read: {error.strerror}") from error


def _verify_signature(raw: bytes, path: Path, public_key: Ed25519PublicKey, where: str) -> None:
    try:
        signature = base64.b64decode(_read(path / SIGNATURE, where).strip(), validate=True)
        public_key.verify(signature, raw)
    except (InvalidSignature, binascii.Error):
        raise ModelError(
            f"{where}: the signature of {MANIFEST} is wrong: the package was changed or signed with another key"
        ) from None


def _verify_files(items: object, path: Path, where: str) -> dict[str, str]:
    """Check every listed file, and that there is no other. Returns SHA-256 (hex) by relative path."""
    if not isinstance(items, list) or not items:
        raise ModelError(f"{where}: {MANIFEST} lists no files")
    files: dict[str, str] = {}
    for item in items:
        entry = item if isinstance(item, dict) else {}
        relative, sha256 = entry.get("path"), entry.get("sha256")
        if not isinstance(relative, str) or not isinstance(sha256, str) or not _is_inside(relative):
            raise ModelError(f"{where}: {MANIFEST} lists a file without a proper relative path and sha256")
        actual = _sha256(path / relative, where)
        if actual != sha256.lower():
            raise ModelError(f"{where}: {relative} has SHA-256 {actual}, the manifest says {sha256}: it is damaged")
        files[relative] = actual
    # ONNX models may refer to further files: one that nobody signed must not lie there.
    for found in sorted(path.rglob("*")):
        relative = found.relative_to(path).as_posix()
        if not found.is_dir() and relative not in files and relative not in {MANIFEST, SIGNATURE}:
            raise ModelError(f"{where}: {relative} is not listed in {MANIFEST}: remove it")
    return files


def _is_inside(relative: str) -> bool:
    pure = PurePosixPath(relative)
    return bool(relative) and not pure.is_absolute() and ".." not in pure.parts and pure.as_posix() == relative


def _sha256(path: Path, where: str) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise ModelError(f"{where}: {path.name} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def _listed(relative: object, files: dict[str, str], what: str, where: str) -> str:
    if not isinstance(relative, str) or relative not in files:
        raise ModelError(f"{where}: {MANIFEST} names '{relative}' as its {what}, but does not list that file")
    return relative


def _specs(items: object, where: str) -> tuple[TensorSpec, ...] | None:
    """The tensors that the manifest declares; None when it declares none."""
    if items is None:
        return None
    specs: list[TensorSpec] = []
    for item in items if isinstance(items, list) else [None]:
        entry = item if isinstance(item, dict) else {}
        name, datatype, shape = entry.get("name"), DATATYPES.get(str(entry.get("datatype"))), entry.get("shape")
        if not isinstance(name, str) or datatype is None or not isinstance(shape, list):
            raise ModelError(f"{where}: {MANIFEST} declares a tensor without a proper name, datatype and shape")
        # Named axes and null stand for any length, as -1 does.
        specs.append(TensorSpec(name, datatype, tuple(axis if type(axis) is int else -1 for axis in shape)))
    return tuple(specs)

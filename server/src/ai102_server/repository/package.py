# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Model packages.

A package is a directory with ``manifest.json``, which lists every other file with its SHA-256, the detached Ed25519
signature ``manifest.json.sig`` (base64), the model, and usually golden answers. Nothing of a package is parsed by ONNX
Runtime before the signature and every hash have been verified.

A file may be encrypted (see ``ai102_server.repository.encryption``). Its entry is then::

    {"path": "model.onnx", "sha256": <of the file as it lies there>, "size": <of it>,
     "encryption": {"scheme": "aes256-gcm-hkdf-stream", "key": <id of the key>, "segment": <bytes>,
                    "sha256": <of the content>, "size": <of the content>}}

so whoever delivers packages verifies them without a key. Content is decrypted in memory only.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from ai102_server.codec import DATATYPES, TensorSpec
from ai102_server.errors import ModelError
from ai102_server.repository.encryption import MAX_SEGMENT, MIN_SEGMENT, SCHEME, KeyRing, associated_data, decrypt
from ai102_server.repository.external import external_files
from ai102_server.repository.golden import GoldenRequest, parse_golden
from ai102_server.repository.serving import Serving, read_serving

__all__ = [
    "MANIFEST",
    "SCHEMA",
    "SIGNATURE",
    "Encryption",
    "ModelPackage",
    "PackageFile",
    "load_public_keys",
    "open_package",
    "parse_public_keys",
]

MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "manifest.json.sig"
SCHEMA: Final = 1
_CHUNK: Final = 1 << 20
_PEM: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_SHA256: Final = re.compile(r"[0-9a-fA-F]{64}\Z")


@dataclass(frozen=True)
class Encryption:
    """How a file is encrypted: id of the key, bytes of a segment, SHA-256 (hex) and bytes of the content."""

    key: str
    segment: int
    sha256: str
    size: int


@dataclass(frozen=True)
class PackageFile:
    """A file of a package: ``sha256`` (hex) is that of the file as it lies there, encrypted or not."""

    path: str
    sha256: str
    encryption: Encryption | None = None


@dataclass(frozen=True)
class ModelPackage:
    """A verified package. ``signed`` says whether its signature was verified too, not only its hashes.

    ``model_sha256`` is the SHA-256 (hex) of the model itself, also when it is encrypted. ``inputs`` and ``outputs`` are
    the model's, as the manifest declares them; None when it does not.
    """

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
    serving: Serving = field(default_factory=Serving)
    files: Mapping[str, PackageFile] = field(default_factory=dict)
    keys: KeyRing = field(default_factory=KeyRing, repr=False)

    @property
    def tags(self) -> frozenset[str]:
        """What the package calls itself, for policies."""
        return self.serving.tags

    @property
    def encrypted(self) -> bool:
        """Whether any file is encrypted. The model is loaded from memory then."""
        return any(file.encryption is not None for file in self.files.values())

    @property
    def where(self) -> str:
        """The package in words, for messages."""
        return f"model '{self.name}' version '{self.version}' at {self.path}"

    def read_file(self, relative: str) -> bytes:
        """Content of a listed file, decrypted, and verified once more. Raises ``ModelError``."""
        file = self.files.get(relative)
        if file is None:
            raise ModelError(f"{self.where}: {relative} is not listed in {MANIFEST}")
        content = _read(self.path / relative, self.where)
        if hashlib.sha256(content).hexdigest() != file.sha256:
            raise ModelError(f"{self.where}: {relative} has changed since it was verified")
        encryption = file.encryption
        if encryption is None:
            return content
        try:
            key = self.keys.get(encryption.key)
            bound = associated_data(self.name, self.version, relative)
            content = decrypt(content, key, bound, encryption.segment)
        except ValueError as error:
            raise ModelError(f"{self.where}: {relative} {error}") from None
        if len(content) != encryption.size or hashlib.sha256(content).hexdigest() != encryption.sha256:
            raise ModelError(f"{self.where}: {relative} was decrypted, but is not the content the manifest describes")
        return content

    def open_model(self) -> bytes | Path:
        """The model for ONNX Runtime: its path, or its bytes when anything of the package is encrypted.

        Bytes go together with ``external_data``. Raises ``ModelError``.
        """
        return self.read_file(self._model) if self.encrypted else self.model_file

    def external_data(self, model: bytes) -> dict[str, bytes]:
        """Content of the files in which ``model`` (what ``open_model`` returned) keeps weights, by their names.

        For ``SessionOptions.add_external_initializers_from_files_in_memory``: a model that comes as bytes has no
        directory where ONNX Runtime could look for them. Raises ``ModelError``.
        """
        try:
            locations = external_files(model)
        except ValueError as error:
            raise ModelError(f"{self.where}: {self._model} {error}") from None
        folder = PurePosixPath(self._model).parent
        return {location: self.read_file((folder / location).as_posix()) for location in locations}

    def read_golden(self) -> tuple[GoldenRequest, ...]:
        """The golden answers, decrypted where they are encrypted; none when there are none. Raises ``ModelError``."""
        if self.golden_file is None:
            return ()
        return parse_golden(self.read_file(self.golden_file.relative_to(self.path).as_posix()), self.golden_file)

    @property
    def _model(self) -> str:
        return self.model_file.relative_to(self.path).as_posix()


# --------------------------------------------------------------------------------------------------------------------
# Signatures
# --------------------------------------------------------------------------------------------------------------------
def load_public_keys(path: Path) -> tuple[Ed25519PublicKey, ...]:
    """Read the Ed25519 public keys (PEM, one after the other) any of which may sign models. Raises ``ModelError``."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"model signing key {path} cannot be read: {error.strerror}") from error
    return parse_public_keys(content, f"model signing key {path}")


def parse_public_keys(content: bytes, what: str) -> tuple[Ed25519PublicKey, ...]:
    """The public keys of a text in PEM form, at least one. ``what`` names it. Raises ``ModelError``."""
    keys: list[Ed25519PublicKey] = []
    for block in _PEM.finditer(content):
        try:
            key = load_pem_public_key(block.group(0))
        except ValueError as error:
            raise ModelError(f"{what} is not a public key in PEM form") from error
        if not isinstance(key, Ed25519PublicKey):
            raise ModelError(f"{what} is not an Ed25519 key")
        keys.append(key)
    if not keys:
        raise ModelError(f"{what} is not a public key in PEM form")
    return tuple(keys)


def _verify_signature(raw: bytes, path: Path, public_keys: Sequence[Ed25519PublicKey], where: str) -> None:
    try:
        signature = base64.b64decode(_read(path / SIGNATURE, where).strip(), validate=True)
    except (binascii.Error, ValueError):
        signature = b""
    for key in public_keys:
        try:
            key.verify(signature, raw)
        except InvalidSignature:
            continue
        return
    raise ModelError(
        f"{where}: the signature of {MANIFEST} is wrong: the package was changed or signed with another key"
    )


# --------------------------------------------------------------------------------------------------------------------
# Packages
# --------------------------------------------------------------------------------------------------------------------
def open_package(
    path: Path,
    name: str,
    version: str,
    public_keys: Sequence[Ed25519PublicKey] | None,
    decryption_keys: KeyRing | None = None,
) -> ModelPackage:
    """Verify the package at ``path``, which must be that of ``name`` and ``version``.

    With ``public_keys`` one of them must have signed the manifest; with None no signature is asked for. Encrypted files
    are verified without their key; reading them takes it. Raises ``ModelError`` with what is wrong.
    """
    where = f"model '{name}' version '{version}' at {path}"
    raw = _read(path / MANIFEST, where)
    if public_keys is not None:
        _verify_signature(raw, path, public_keys, where)
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
    encryption = files[model].encryption
    return ModelPackage(
        name=name,
        version=version,
        path=path,
        model_file=path / model,
        model_sha256=files[model].sha256 if encryption is None else encryption.sha256,
        golden_file=None if golden is None else path / _listed(golden, files, "golden answers", where),
        inputs=_specs(manifest.get("inputs"), where),
        outputs=_specs(manifest.get("outputs"), where),
        manifest=manifest,
        signed=public_keys is not None,
        serving=read_serving(manifest.get("serving"), where),
        files=files,
        keys=decryption_keys or KeyRing(),
    )


def _read(path: Path, where: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{where}: {path.name} cannot be read: {error.strerror}") from error


def _verify_files(items: object, path: Path, where: str) -> dict[str, PackageFile]:
    """Check every listed file, and that there is no other. Returns the files by relative path."""
    if not isinstance(items, list) or not items:
        raise ModelError(f"{where}: {MANIFEST} lists no files")
    files: dict[str, PackageFile] = {}
    for item in items:
        entry = item if isinstance(item, dict) else {}
        relative, sha256 = entry.get("path"), entry.get("sha256")
        if not isinstance(relative, str) or not isinstance(sha256, str) or not _is_inside(relative):
            raise ModelError(f"{where}: {MANIFEST} lists a file without a proper relative path and sha256")
        actual = _sha256(path / relative, where)
        if actual != sha256.lower():
            raise ModelError(f"{where}: {relative} has SHA-256 {actual}, the manifest says {sha256}: it is damaged")
        files[relative] = PackageFile(relative, actual, _encryption(entry.get("encryption"), relative, where))
    # ONNX models may refer to further files: one that nobody signed must not lie there.
    for found in sorted(path.rglob("*")):
        relative = found.relative_to(path).as_posix()
        if not found.is_dir() and relative not in files and relative not in {MANIFEST, SIGNATURE}:
            raise ModelError(f"{where}: {relative} is not listed in {MANIFEST}: remove it")
    return files


def _encryption(value: object, relative: str, where: str) -> Encryption | None:
    if value is None:
        return None
    entry = value if isinstance(value, dict) else {}
    if entry.get("scheme") != SCHEME:
        raise ModelError(f"{where}: {relative} is encrypted by '{entry.get('scheme')}', which is not {SCHEME}")
    key, segment, sha256, size = (entry.get(name) for name in ("key", "segment", "sha256", "size"))
    if (
        not isinstance(key, str)
        or not isinstance(sha256, str)
        or not _SHA256.match(sha256)
        or type(segment) is not int
        or not MIN_SEGMENT <= segment <= MAX_SEGMENT
        or type(size) is not int
    ):
        raise ModelError(
            f"{where}: {MANIFEST} describes the encryption of {relative} without a proper key, segment, sha256 and size"
        )
    return Encryption(key, segment, sha256.lower(), size)


def _is_inside(relative: str) -> bool:
    pure = PurePosixPath(relative)
    return (
        bool(relative)
        and not pure.is_absolute()
        and ".." not in pure.parts
        and pure.as_posix() == relative
        and relative.isprintable()
        and relative not in {".", MANIFEST, SIGNATURE}
    )


def _sha256(path: Path, where: str) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise ModelError(f"{where}: {path.name} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def _listed(relative: object, files: Mapping[str, PackageFile], what: str, where: str) -> str:
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

# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Model packages: the manifest of a version, its signature, and the verification of both.

A package is a directory with ``manifest.json``, its detached signature ``manifest.json.sig`` (Ed25519, base64), and the
files that the manifest names with their sha256. The manifest is written the same for the same content, whoever makes it
and when, so a version can be made again and compared.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import subprocess
import tempfile
import typing as t
from pathlib import Path

from ansible_collections.ai102.inference.plugins.module_utils._content import (
    ContentError,
    ContentFile,
    parse_files,
    sha256_of,
)

MANIFEST = "manifest.json"
SIGNATURE = "manifest.json.sig"
MODEL = "model.onnx"
GOLDEN = "golden.json"
CONFIG = "config.json"
SCHEMA = 1

_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?\Z")
_VERSION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\Z")
_PEM = re.compile(r"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", re.DOTALL)


class PackageError(Exception):
    """A model package that is not what it says; the message names the model and what is wrong."""


def check_identity(name: t.Any, version: t.Any) -> tuple[str, str]:
    """Check the name and the version of a model, which are directory names and parts of addresses.

    :returns: both as text.
    :raises PackageError: one that cannot be used.
    """
    if not isinstance(name, str) or not _NAME.match(name):
        raise PackageError(f"model name {name!r} may have lower-case letters, digits and . _ - inside only")
    if isinstance(version, bool) or not _VERSION.match(str(version)):
        raise PackageError(f"version {version!r} of model {name!r} may have letters, digits and . _ - inside only")
    return name, str(version)


def canonical(document: t.Any) -> bytes:
    """Return a JSON document as bytes, the same for the same content."""
    return (json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def check_golden(
    golden: t.Any,
    inputs: t.Sequence[t.Mapping[str, t.Any]] | None,
    outputs: t.Sequence[t.Mapping[str, t.Any]] | None,
) -> None:
    """Check that golden requests and answers fit a model.

    :param golden: the document of ``golden.json``.
    :param inputs: of the model, each with ``name``, ``datatype``, ``shape``; None: only the form is checked.
    :param outputs: likewise.
    :raises PackageError: what does not fit.
    """
    requests = golden.get("requests") if isinstance(golden, dict) else None
    if not isinstance(requests, list) or not requests:
        raise PackageError("golden answers need a list `requests` with at least one request and its response")
    for number, item in enumerate(requests, start=1):
        for side, key, tensors in (("request", "inputs", inputs), ("response", "outputs", outputs)):
            part = item.get(side) if isinstance(item, dict) else None
            given = part.get(key) if isinstance(part, dict) else None
            if not isinstance(given, list) or not given:
                raise PackageError(f"golden request {number} has no {side} with {key}")
            if tensors is None:
                continue
            declared = {tensor["name"]: tensor for tensor in tensors}
            for tensor in given:
                known = declared.get(tensor.get("name"))
                if known is None:
                    names = ", ".join(declared)
                    raise PackageError(
                        f"golden request {number}: the model has no {key[:-1]} {tensor.get('name')!r}: {names}"
                    )
                if tensor.get("datatype") != known["datatype"]:
                    raise PackageError(
                        f"golden request {number}: {key[:-1]} {known['name']} is {known['datatype']}, "
                        f"not {tensor.get('datatype')}"
                    )
                shape = tensor.get("shape")
                if (
                    not isinstance(shape, list)
                    or len(shape) != len(known["shape"])
                    or any(want not in (-1, have) for have, want in zip(shape, known["shape"], strict=True))
                ):
                    raise PackageError(
                        f"golden request {number}: {key[:-1]} {known['name']} has shape {shape}, "
                        f"the model wants {known['shape']}"
                    )
            absent = set(declared) - {tensor["name"] for tensor in given}
            if side == "request" and absent:
                raise PackageError(f"golden request {number} lacks the inputs {', '.join(sorted(absent))}")


def make_manifest(
    name: str,
    version: str,
    files: t.Mapping[str, Path],
    facts: t.Mapping[str, t.Any],
    licence: str,
    source: str,
    serving: t.Mapping[str, t.Any] | None = None,
) -> dict[str, t.Any]:
    """Describe a version of a model.

    :param files: path in the package → file on the control node; must have ``model.onnx`` and ``golden.json``.
    :param facts: of the model, from ``_onnx.model_facts``.
    :param licence: SPDX identifier, or words.
    :param source: where the model comes from.
    :param serving: how the server serves it, as the server's documentation of packages says.
    :raises PackageError: golden answers that do not fit, or files that are missing.
    """
    for needed in (MODEL, GOLDEN):
        if needed not in files:
            raise PackageError(f"model {name} {version} has no {needed}")
    for external in facts["external_files"]:
        if external not in files:
            raise PackageError(
                f"model {name} {version} keeps weights in {external}, which is not there: give the directory as its "
                "source"
            )
    try:
        golden = json.loads(files[GOLDEN].read_text(encoding="utf-8"))
    except ValueError as error:
        raise PackageError(f"model {name} {version}: {files[GOLDEN]} is not JSON: {error}") from error
    tensors = {
        side: [{key: tensor[key] for key in ("name", "datatype", "shape")} for tensor in facts[side]]
        for side in ("inputs", "outputs")
    }
    try:
        if (serving or {}).get("pipeline"):
            # Clients do not send the model's own tensors then; the server knows which they send.
            check_golden(golden, None, None)
        else:
            check_golden(golden, tensors["inputs"], tensors["outputs"])
    except PackageError as error:
        raise PackageError(f"model {name} {version}: {error} ({files[GOLDEN]})") from error
    manifest: dict[str, t.Any] = {
        "schema": SCHEMA,
        "name": name,
        "version": version,
        "model": MODEL,
        "golden": GOLDEN,
        "files": [
            {"path": path, "sha256": sha256_of(file), "size": file.stat().st_size}
            for path, file in sorted(files.items())
        ],
        **tensors,
        "opset": facts["opset"],
        "ir_version": facts["ir_version"],
        "producer": facts["producer"],
        "licence": licence,
        "source": source,
    }
    if CONFIG in files:
        manifest["config"] = CONFIG
    if serving:
        manifest["serving"] = dict(serving)
    return manifest


def split_keys(text: str) -> list[str]:
    """Return each public key of a text that may hold several in PEM form."""
    return [match.group(0) + "\n" for match in _PEM.finditer(text)]


def generate_key(passphrase: str) -> bytes:
    """Make a signing key.

    :param passphrase: encrypts it.
    :returns: PEM (PKCS #8, encrypted).
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase.encode()),
    )


def _load_key(private_key: bytes, passphrase: str) -> t.Any:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        key = serialization.load_pem_private_key(private_key, passphrase.encode())
    except (ValueError, TypeError) as error:
        raise PackageError(
            "the signing key of the models cannot be opened with ai102_secrets_passphrase: wrong passphrase, or not an "
            "encrypted key"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise PackageError("the signing key of the models is not an Ed25519 key")
    return key


def public_key_of(private_key: bytes, passphrase: str) -> str:
    """Return the public part of a signing key as PEM.

    :raises PackageError: the passphrase is wrong, or it is another kind of key.
    """
    from cryptography.hazmat.primitives import serialization

    public = _load_key(private_key, passphrase).public_key()
    pem: bytes = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return pem.decode()


def sign(data: bytes, private_key: bytes, passphrase: str) -> str:
    """Sign bytes.

    :returns: the signature in base64, with a line end.
    :raises PackageError: the passphrase is wrong, or it is another kind of key.
    """
    return base64.b64encode(_load_key(private_key, passphrase).sign(data)).decode() + "\n"


def signature_is_right(data: bytes, signature: str, keys: t.Sequence[str]) -> bool:
    """Tell whether one of some keys made a signature.

    Uses the Python package cryptography where the host has it, and the program openssl (3.0 or newer) where not.

    :param signature: in base64.
    :param keys: public keys in PEM form.
    :raises PackageError: the host has neither, so nothing can be verified.
    """
    try:
        raw = base64.b64decode(signature.strip(), validate=True)
    except binascii.Error:
        return False
    if len(raw) != 64:
        return False
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError:
        return any(_openssl_verifies(data, raw, key) for key in keys)
    for pem in keys:
        try:
            key = load_pem_public_key(pem.encode())
        except ValueError as error:
            raise PackageError("a public key for models is not in PEM form") from error
        if isinstance(key, Ed25519PublicKey):
            try:
                key.verify(raw, data)
            except InvalidSignature:
                continue
            return True
    return False


def _openssl_verifies(data: bytes, signature: bytes, key: str) -> bool:
    with tempfile.TemporaryDirectory() as scratch:
        paths = {name: Path(scratch, name) for name in ("data", "signature", "key")}
        paths["data"].write_bytes(data)
        paths["signature"].write_bytes(signature)
        paths["key"].write_text(key, encoding="ascii")
        command = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", str(paths["key"])]
        command += ["-sigfile", str(paths["signature"]), "-in", str(paths["data"])]
        try:
            done = subprocess.run(command, capture_output=True, check=False)
        except OSError as error:
            raise PackageError(
                "signatures cannot be verified here: install openssl 3.0 (package openssl) or python3-cryptography"
            ) from error
    return done.returncode == 0


def read_manifest(path: Path) -> tuple[dict[str, t.Any], list[ContentFile]]:
    """Read the manifest of a package, without verifying anything.

    :returns: the manifest and the files that it names.
    :raises PackageError: there is none, or it is not well formed.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except OSError as error:
        raise PackageError(f"{path} is not a model package: {MANIFEST} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise PackageError(f"{path / MANIFEST} is not JSON: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise PackageError(f"{path / MANIFEST} is not of schema {SCHEMA}")
    try:
        return manifest, parse_files(manifest["files"])
    except (ContentError, KeyError, TypeError) as error:
        raise PackageError(f"{path / MANIFEST} has no proper list of files: {error}") from error


def verify_package(path: Path, keys: t.Sequence[str], name: str = "", version: str = "") -> dict[str, t.Any]:
    """Verify a package: the signature first, then every hash, and that there is no other file.

    :param keys: public keys in PEM form, one of which must have signed.
    :param name: what the manifest must say; nothing takes any.
    :param version: likewise.
    :returns: the manifest.
    :raises PackageError: what is wrong.
    """
    label = f"model {name} {version}" if name else str(path)
    try:
        data = (path / MANIFEST).read_bytes()
        signature = (path / SIGNATURE).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise PackageError(f"{label}: the manifest or its signature cannot be read: {error}") from error
    if not signature_is_right(data, signature, keys):
        raise PackageError(
            f"{label}: the signature of {MANIFEST} is wrong: it was changed, or signed with a key that is not trusted "
            "here"
        )
    manifest, files = read_manifest(path)
    if name and (manifest.get("name"), str(manifest.get("version"))) != (name, version):
        raise PackageError(f"{label}: the package is of model {manifest.get('name')} {manifest.get('version')}")
    named = {file.path for file in files}
    for file in files:
        entry = path / file.path
        if entry.is_symlink() or not entry.is_file():
            raise PackageError(f"{label}: {file.path} is missing")
        actual = sha256_of(entry)
        if actual != file.sha256:
            raise PackageError(f"{label}: {file.path} has sha256 {actual}, the manifest says {file.sha256}: refused")
    for entry in sorted(path.rglob("*")):
        relative = entry.relative_to(path).as_posix()
        if (entry.is_symlink() or not entry.is_dir()) and relative not in named | {MANIFEST, SIGNATURE}:
            raise PackageError(f"{label}: {relative} is not named in {MANIFEST}: refused")
    return manifest


def package_files(path: Path) -> list[dict[str, t.Any]]:
    """List what is delivered of a package: the files that the manifest names, the manifest and its signature.

    :raises PackageError: the manifest is not well formed.
    """
    _manifest, files = read_manifest(path)
    entries = [{"path": file.path, "sha256": file.sha256, "size": file.size} for file in files]
    for name in (MANIFEST, SIGNATURE):
        entries.append({"path": name, "sha256": sha256_of(path / name), "size": (path / name).stat().st_size})
    return entries

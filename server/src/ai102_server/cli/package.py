# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""``package``: make, encrypt, sign, verify and show model packages, and make the keys for it."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ai102_server.errors import ServerError

if TYPE_CHECKING:
    from ai102_server.repository import ModelPackage

__all__ = ["add_parser"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    package = commands.add_parser("package", help="make, encrypt, sign, verify and show model packages")
    actions = package.add_subparsers(dest="action", required=True, metavar="ACTION")

    new = actions.add_parser("new", help="make a package of a model")
    new.add_argument("--model", type=Path, required=True, metavar="FILE", help="model (.onnx)")
    new.add_argument("--name", required=True, help="name of the model")
    new.add_argument("--version", required=True, help="version of the model")
    new.add_argument("--output", type=Path, required=True, metavar="DIRECTORY", help="where the package is made")
    new.add_argument("--golden", type=Path, metavar="FILE", help="golden answers, see the command golden")
    new.add_argument("--serving", type=Path, metavar="FILE", help="settings of the model (YAML): batching, pipeline, …")
    new.add_argument(
        "--file", type=Path, action="append", default=[], metavar="FILE",
        help="what else belongs to it: external weights, labels, tokenizer; may be given several times",
    )  # fmt: skip
    new.add_argument("--licence", default="unknown", help="SPDX identifier")
    new.add_argument("--source", default="", help="where the model comes from (default: name of its file)")
    _add_signing(new, required=False)
    new.set_defaults(run=_new)

    encrypt = actions.add_parser("encrypt", help="make an encrypted copy of a package")
    encrypt.add_argument("package", type=Path, metavar="PACKAGE", help="directory of the package")
    encrypt.add_argument("--key", type=Path, required=True, metavar="FILE", help="encryption key")
    encrypt.add_argument("--output", type=Path, required=True, metavar="DIRECTORY", help="where the copy is made")
    encrypt.add_argument(
        "--only", action="append", default=[], metavar="PATH",
        help="file of the package to encrypt (default: all); may be given several times",
    )  # fmt: skip
    _add_signing(encrypt, required=False)
    encrypt.set_defaults(run=_encrypt)

    sign = actions.add_parser("sign", help="sign a package")
    sign.add_argument("package", type=Path, metavar="PACKAGE", help="directory of the package")
    _add_signing(sign, required=True)
    sign.set_defaults(run=_sign)

    verify = actions.add_parser("verify", help="verify signature, hashes, settings and, with its key, encrypted files")
    verify.add_argument("package", type=Path, metavar="PACKAGE", help="directory of the package")
    verify.add_argument(
        "--public-key", type=Path, action="append", required=True, metavar="FILE",
        help="keys any of which may have signed (PEM); may be given several times",
    )  # fmt: skip
    verify.add_argument(
        "--decryption-key", type=Path, action="append", default=[], metavar="FILE",
        help="key of encrypted files; may be given several times",
    )  # fmt: skip
    verify.set_defaults(run=_verify)

    show = actions.add_parser("show", help="print what a package says of itself, without asking who signed it")
    show.add_argument("package", type=Path, metavar="PACKAGE", help="directory of the package")
    show.set_defaults(run=_show)

    keys = actions.add_parser("keys", help="make keys (mode 0600; nothing is overwritten)")
    keys.add_argument("--signing", type=Path, metavar="FILE", help="make a signing key, and FILE.pub")
    keys.add_argument("--encryption", type=Path, metavar="FILE", help="make an encryption key")
    keys.add_argument("--passphrase-file", type=Path, metavar="FILE", help="encrypts the signing key")
    keys.set_defaults(run=_keys)


def _add_signing(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument(
        "--signing-key", type=Path, required=required, metavar="FILE", help="Ed25519 key (PEM) to sign with"
    )
    parser.add_argument("--passphrase-file", type=Path, metavar="FILE", help="holds the signing key's passphrase")


def _passphrase(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        passphrase = path.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise ServerError(f"{path} cannot be read: {error.strerror}") from error
    if not passphrase:
        raise ServerError(f"{path} holds no passphrase")
    return passphrase


def _sign_when_asked(arguments: argparse.Namespace, path: Path) -> str:
    from ai102_server.repository.making import load_private_key, sign_package

    if arguments.signing_key is None:
        return "not signed"
    sign_package(path, load_private_key(arguments.signing_key, _passphrase(arguments.passphrase_file)))
    return "signed"


def _new(arguments: argparse.Namespace) -> int:
    from ai102_server.config.reader import to_component
    from ai102_server.repository.making import make_package, open_unverified

    for option in ("name", "version"):
        try:
            to_component(getattr(arguments, option))
        except ValueError as error:
            raise ServerError(f"--{option}: {error}") from error
    if arguments.signing_key is not None:
        # A wrong passphrase is found before anything is made.
        from ai102_server.repository.making import load_private_key

        load_private_key(arguments.signing_key, _passphrase(arguments.passphrase_file))
    files = {"model.onnx": arguments.model}
    manifest: dict[str, Any] = {
        "name": arguments.name,
        "version": arguments.version,
        "model": "model.onnx",
        **_tensors(arguments.model),
        "licence": arguments.licence,
        "source": arguments.source or arguments.model.name,
    }
    if arguments.golden is not None:
        files["golden.json"] = arguments.golden
        manifest["golden"] = "golden.json"
    for file in arguments.file:
        if file.name in files or file.name.startswith("manifest.json"):
            raise ServerError(f"--file {file}: the package has a file of that name already")
        files[file.name] = file
    if arguments.serving is not None:
        manifest["serving"] = _read_yaml(arguments.serving)
    make_package(arguments.output, files, manifest)
    try:
        _check(open_unverified(arguments.output))
        signed = _sign_when_asked(arguments, arguments.output)
    except ServerError:
        # What is not proper must not lie there as if it were.
        shutil.rmtree(arguments.output)
        raise
    print(f"made {arguments.output}: {len(files)} files, {signed}", file=sys.stderr)
    return 0


def _tensors(model: Path) -> dict[str, list[dict[str, Any]]]:
    """Inputs and outputs of a model, as ONNX Runtime reads them."""
    from ai102_server.config import Execution
    from ai102_server.engine import ModelSession, prepare_providers

    execution = Execution(graph_optimisation="disabled")
    prepare_providers(execution)
    session = ModelSession(model, execution)
    return {
        side: [{"name": spec.name, "datatype": spec.datatype.name, "shape": list(spec.shape)} for spec in specs]
        for side, specs in (("inputs", session.inputs.values()), ("outputs", session.outputs.values()))
    }


def _read_yaml(path: Path) -> object:
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise ServerError(f"{path} cannot be read: {reason}") from error
    except yaml.YAMLError as error:
        raise ServerError(f"{path} is not valid YAML: {error}") from error


def _check(package: ModelPackage) -> None:
    """Read what a server would read. Raises ``ModelError``."""
    from ai102_server.pipeline import load

    package.read_golden()
    load(package)
    model = package.open_model()
    if isinstance(model, bytes):
        package.external_data(model)


def _encrypt(arguments: argparse.Namespace) -> int:
    from ai102_server.repository.encryption import KeyRing, key_id, load_key
    from ai102_server.repository.making import encrypt_package, open_unverified

    key = load_key(arguments.key)
    encrypt_package(arguments.package, arguments.output, key, arguments.only)
    try:
        _check(replace(open_unverified(arguments.output), keys=KeyRing([key])))
        signed = _sign_when_asked(arguments, arguments.output)
    except ServerError:
        shutil.rmtree(arguments.output)
        raise
    print(f"made {arguments.output}: encrypted with key {key_id(key)}, {signed}", file=sys.stderr)
    return 0


def _sign(arguments: argparse.Namespace) -> int:
    _sign_when_asked(arguments, arguments.package)
    print(f"signed {arguments.package}", file=sys.stderr)
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from ai102_server.repository import load_keys, load_public_keys, open_package
    from ai102_server.repository.making import open_unverified

    public = [key for path in arguments.public_key for key in load_public_keys(path)]
    keys = load_keys(arguments.decryption_key)
    named = open_unverified(arguments.package)
    package = open_package(arguments.package, named.name, named.version, public, keys)
    unread = [file.path for file in package.files.values() if file.encryption and file.encryption.key not in keys.ids]
    for file in package.files:
        if file not in unread:
            package.read_file(file)
    if not unread:
        _check(package)
    note = f"; not decrypted, for want of a key: {', '.join(unread)}" if unread else ""
    print(f"ok    {package.name} {package.version}: signature and {len(package.files)} files{note}")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    import orjson

    from ai102_server.repository.making import open_unverified
    from ai102_server.repository.package import SIGNATURE

    package = open_unverified(arguments.package)
    document = {
        "name": package.name,
        "version": package.version,
        "model_sha256": package.model_sha256,
        "has_signature": (package.path / SIGNATURE).is_file(),
        "encrypted_with": sorted({file.encryption.key for file in package.files.values() if file.encryption}),
        "files": {path: file.sha256 for path, file in package.files.items()},
        "inputs": _specs(package.inputs),
        "outputs": _specs(package.outputs),
        "serving": package.manifest.get("serving"),
        "licence": package.manifest.get("licence"),
        "source": package.manifest.get("source"),
    }
    print(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())
    return 0


def _specs(specs: Sequence[Any] | None) -> list[dict[str, Any]] | None:
    return None if specs is None else [spec.to_json() for spec in specs]


def _keys(arguments: argparse.Namespace) -> int:
    from ai102_server.repository.making import make_encryption_key, make_signing_key

    if arguments.signing is None and arguments.encryption is None:
        raise ServerError("say which key to make: --signing FILE, --encryption FILE")
    if arguments.signing is not None:
        public = make_signing_key(arguments.signing, _passphrase(arguments.passphrase_file))
        print(f"made {arguments.signing}, keep it secret, and {public}, which servers need", file=sys.stderr)
    if arguments.encryption is not None:
        identity = make_encryption_key(arguments.encryption)
        print(f"made {arguments.encryption}, key {identity}, which servers need: keep it secret", file=sys.stderr)
    return 0

# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make model packages on the control node: collect the files, describe them, sign them, remember what was made."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import typing as t
from pathlib import Path

from ansible_collections.ai102.inference.plugins.module_utils import _manifest as manifest_utils
from ansible_collections.ai102.inference.plugins.module_utils._content import sha256_of
from ansible_collections.ai102.inference.plugins.module_utils._manifest import (
    CONFIG,
    GOLDEN,
    MANIFEST,
    MODEL,
    SIGNATURE,
    PackageError,
)
from ansible_collections.ai102.inference.plugins.module_utils._sealing import EncryptionKey, key_id, seal

#: Changes when packages of the same sources come out otherwise.
_FORMAT = 1
_ENTRY_KEYS = {"name", "version", "source", "golden", "config", "serving", "licence", "description", "encrypted"}


class SigningKey:
    """The site's signing key on the control node, made when it is first needed.

    :param path: of the private key; the public key lies beside it as ``.pub``.
    :param passphrase: encrypts the private key.
    """

    def __init__(self, path: str | os.PathLike[str], passphrase: str) -> None:
        self.path = Path(path)
        self.public_path = self.path.with_suffix(".pub")
        self._passphrase = passphrase

    def public(self) -> str | None:
        """Return the public key as PEM, or nothing when there is no key yet.

        :raises PackageError: the passphrase does not open the private key.
        """
        if not self.path.exists():
            return None
        if self.public_path.exists():
            return self.public_path.read_text(encoding="ascii")
        return manifest_utils.public_key_of(self.path.read_bytes(), self._passphrase)

    def ensure(self) -> str:
        """Make the key when there is none; return the public key as PEM.

        :raises PackageError: the passphrase does not open the private key that is there, or is too short for a new one.
        """
        if not self.path.exists():
            if len(self._passphrase) < 8:
                raise PackageError("ai102_secrets_passphrase must have 8 characters or more")
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(self.path, manifest_utils.generate_key(self._passphrase), 0o600)
            self.public_path.unlink(missing_ok=True)
        if not self.public_path.exists():
            public = manifest_utils.public_key_of(self.path.read_bytes(), self._passphrase)
            _write(self.public_path, public.encode(), 0o644)
        return self.public_path.read_text(encoding="ascii")

    def sign(self, data: bytes) -> str:
        """Sign bytes; see ``_manifest.sign``."""
        return manifest_utils.sign(data, self.path.read_bytes(), self._passphrase)


def _write(path: Path, content: bytes, mode: int) -> None:
    descriptor, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(content)
        Path(name).chmod(mode)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


class Package(t.NamedTuple):
    """A package on the control node; ``path`` is nothing when it would have to be made first (in check mode)."""

    name: str
    version: str
    path: Path | None
    manifest_sha256: str
    signed: bool


class Packager:
    """Makes the packages of the models that a site wants.

    :param cache: the control node's cache directory, which several sites may share.
    :param key: the site's signing key.
    :param trusted: public keys (PEM) that may have signed packages which come ready-made.
    :param fetched: models of the lock: name → ``path``, ``licence``, ``origin``; ``path`` is empty when not fetched.
    :param shipped: directory with ``golden/<model>.json`` and ``config/<model>.json`` for models of the lock.
    :param encryption: the site's key for models that are to be encrypted.
    :param opened: ids of the keys that hosts are given besides, to decrypt packages which come ready-made.
    :param dry: make nothing (check mode).
    """

    def __init__(
        self,
        cache: Path,
        key: SigningKey,
        trusted: t.Sequence[str],
        fetched: t.Mapping[str, t.Mapping[str, t.Any]],
        shipped: Path,
        encryption: EncryptionKey,
        opened: t.Collection[str] = (),
        dry: bool = False,
    ) -> None:
        self.root = cache / "models"
        self.key = key
        self.trusted = list(trusted)
        self.fetched = fetched
        self.shipped = shipped
        self.encryption = encryption
        self.opened = set(opened)
        self.dry = dry

    def keys(self) -> list[str]:
        """Return the public keys that hosts trust: the site's own first."""
        public = self.key.public() if self.dry else self.key.ensure()
        return ([public] if public else []) + [key for text in self.trusted for key in manifest_utils.split_keys(text)]

    def _folder(self, name: str) -> Path:
        """Return where the site's packages of a model are: each site signs the same content with another key."""
        public = self.key.public() if self.dry else self.key.ensure()
        return self.root / hashlib.sha256((public or "").encode()).hexdigest()[:16] / name

    def package(self, entry: t.Mapping[str, t.Any]) -> Package:
        """Make the package of one model, or find the one that was made before.

        :param entry: one of ``ai102_models``.
        :raises PackageError: what is wrong with the entry, its files or its signature.
        """
        name, version = manifest_utils.check_identity(entry.get("name"), entry.get("version"))
        unknown = sorted(set(entry) - _ENTRY_KEYS)
        if unknown:
            raise PackageError(
                f"model {name} {version}: unknown keys {', '.join(unknown)}; known: {', '.join(sorted(_ENTRY_KEYS))}"
            )
        if not isinstance(entry.get("serving", {}), dict):
            raise PackageError(f"model {name} {version}: serving must be a dictionary, such as {{tags: []}}")
        source = entry.get("source")
        if not isinstance(source, dict) or len(source) != 1 or next(iter(source)) not in {"lock", "path", "package"}:
            raise PackageError(f"model {name} {version}: source must have exactly one of lock, path, package")
        kind, value = next(iter(source.items()))
        if not isinstance(entry.get("encrypted", False), bool):
            raise PackageError(f"model {name} {version}: encrypted must be true or false")
        if entry.get("encrypted"):
            if kind == "package":
                raise PackageError(
                    f"model {name} {version}: a package that was made elsewhere is encrypted where it is made, with "
                    "`ai102-server package encrypt`"
                )
            self.encryption.ensure(dry=self.dry)
        if kind == "package":
            return self._ready_made(name, version, Path(str(value)).expanduser())
        if kind == "lock":
            if value not in self.fetched:
                raise PackageError(f"model {name} {version}: the lock's model {value!r} was not fetched")
            if not self.fetched[value]["path"]:
                return Package(name, version, None, "", signed=False)
        with self._locked(name):
            return self._made(name, version, entry, kind, str(value))

    def _ready_made(self, name: str, version: str, path: Path) -> Package:
        manifest = manifest_utils.verify_package(path, self.keys(), name, version)
        sealed = {file["path"]: file["encryption"] for file in manifest["files"] if file.get("encryption")}
        if sealed.keys() & {GOLDEN, manifest.get("golden")}:
            raise PackageError(
                f"model {name} {version}: {path} has its golden answers encrypted, which the hosts that verify must be "
                f"able to read: encrypt the others only, with `ai102-server package encrypt --only {MODEL}`"
            )
        known = {*self.opened, *([key_id(self.encryption.key())] if self.encryption.path.exists() else [])}
        for file, encryption in sealed.items():
            if not isinstance(encryption, dict) or encryption.get("key") not in known:
                wanted = encryption.get("key") if isinstance(encryption, dict) else None
                raise PackageError(
                    f"model {name} {version}: {file} is encrypted with key {wanted}, which is not one of "
                    f"model_store_decryption_keys ({', '.join(sorted(known)) or 'there is none'})"
                )
        return Package(name, version, path, sha256_of(path / MANIFEST), signed=True)

    def _locked(self, name: str) -> t.Any:
        folder = self._folder(name)
        if self.dry and not folder.is_dir():
            return tempfile.TemporaryFile()
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / ".lock").open("w", encoding="utf-8")
        fcntl.flock(handle, fcntl.LOCK_EX)
        return handle

    def _collect(self, name: str, version: str, entry: t.Mapping[str, t.Any], kind: str, value: str) -> dict[str, Path]:
        """Name the files of a package: path in it → file on the control node."""
        files: dict[str, Path] = {}
        golden, config = entry.get("golden"), entry.get("config")
        if kind == "lock":
            files[MODEL] = Path(self.fetched[value]["path"])
            shipped = {
                GOLDEN: self.shipped / "golden" / f"{value}.json",
                CONFIG: self.shipped / "config" / f"{value}.json",
            }
            files.update({path: file for path, file in shipped.items() if file.is_file()})
        else:
            origin = Path(value).expanduser()
            if origin.is_dir():
                files.update({str(f.relative_to(origin)): f for f in sorted(origin.rglob("*")) if f.is_file()})
                for made in (MANIFEST, SIGNATURE):
                    files.pop(made, None)
            else:
                files[MODEL] = origin
        if golden:
            files[GOLDEN] = Path(str(golden)).expanduser()
        if isinstance(config, str) and config:
            files[CONFIG] = Path(config).expanduser()
        if GOLDEN not in files:
            raise PackageError(
                f"model {name} {version} has no golden answers: give `golden`, a JSON file with requests and the "
                "responses that prove the model works"
            )
        for path, file in files.items():
            if not file.is_file():
                raise PackageError(f"model {name} {version}: {path} cannot be made of {file}: no such file")
        return files

    def _made(self, name: str, version: str, entry: t.Mapping[str, t.Any], kind: str, value: str) -> Package:
        files = self._collect(name, version, entry, kind, value)
        with tempfile.TemporaryDirectory() as scratch:
            if isinstance(entry.get("config"), dict):
                files[CONFIG] = Path(scratch, CONFIG)
                files[CONFIG].write_bytes(manifest_utils.canonical(entry["config"]))
                os.utime(files[CONFIG], (0, 0))
            if kind == "lock":
                licence = str(entry.get("licence") or self.fetched[value]["licence"])
                source = str(self.fetched[value]["origin"])
            else:
                licence, source = str(entry.get("licence") or "unknown"), Path(value).name
            fingerprint = self._fingerprint(entry, files, licence, source)
            remembered = self._remembered(name, version, fingerprint)
            if remembered is not None:
                return remembered
            return self._write_package(entry, files, licence, source, fingerprint)

    def _fingerprint(self, entry: t.Mapping[str, t.Any], files: t.Mapping[str, Path], licence: str, source: str) -> str:
        stats = {path: [file.stat().st_size, file.stat().st_mtime_ns] for path, file in sorted(files.items())}
        public = self.key.public() if self.dry else self.key.ensure()
        document = [
            _FORMAT,
            dict(entry),
            stats,
            licence,
            source,
            public,
            {p: str(f) for p, f in files.items() if p != CONFIG},
            *([key_id(self.encryption.key())] if entry.get("encrypted") else []),
        ]
        return hashlib.sha256(json.dumps(document, sort_keys=True, default=str).encode()).hexdigest()

    def _remembered(self, name: str, version: str, fingerprint: str) -> Package | None:
        try:
            record = json.loads((self._folder(name) / f"{version}.json").read_text(encoding="utf-8"))
            path = self._folder(name) / record["directory"]
            if record["fingerprint"] != fingerprint or not (path / SIGNATURE).is_file():
                return None
            digest = sha256_of(path / MANIFEST)
            if digest != record["manifest_sha256"] or any(
                (path / entry["path"]).stat().st_size != entry["size"] for entry in manifest_utils.package_files(path)
            ):
                return None
        except (OSError, ValueError, KeyError, PackageError):
            return None
        return Package(name, version, path, digest, signed=True)

    def _write_package(
        self,
        entry: t.Mapping[str, t.Any],
        files: t.Mapping[str, Path],
        licence: str,
        source: str,
        fingerprint: str,
    ) -> Package:
        name, version = manifest_utils.check_identity(entry["name"], entry["version"])
        from ansible_collections.ai102.inference.plugins.module_utils._onnx import ModelFileError, model_facts

        # The model is described where it lies: files with weights are found beside it.
        try:
            facts = model_facts(files[MODEL])
        except ModelFileError as error:
            raise PackageError(f"model {name} {version}: {error}") from error
        manifest = manifest_utils.make_manifest(name, version, files, facts, licence, source, entry.get("serving"))
        with tempfile.TemporaryDirectory(dir=None if self.dry else self._folder(name), prefix=".sealing-") as scratch:
            if entry.get("encrypted"):
                files = {**files, **self._sealed(name, version, manifest, files, Path(scratch))}
            data = manifest_utils.canonical(manifest)
            digest = hashlib.sha256(data).hexdigest()
            if self.dry:
                return Package(name, version, None, digest, signed=False)
            final = self._placed(name, version, files, data, digest)
        record = {"fingerprint": fingerprint, "directory": final.name, "manifest_sha256": digest}
        _write(self._folder(name) / f"{version}.json", manifest_utils.canonical(record), 0o644)
        return Package(name, version, final, digest, signed=True)

    def _sealed(
        self, name: str, version: str, manifest: dict[str, t.Any], files: t.Mapping[str, Path], scratch: Path
    ) -> dict[str, Path]:
        """Encrypt the files, all but what who verifies a host must read, and what clients may know.

        :param manifest: says of each how it is encrypted, afterwards.
        :param scratch: where the encrypted ones are made.
        :returns: path in the package → encrypted file.
        """
        sealed: dict[str, Path] = {}
        for number, described in enumerate(manifest["files"]):
            path = described["path"]
            if path in {GOLDEN, CONFIG}:
                continue
            sealed[path] = scratch / str(number)
            encryption = seal(files[path], sealed[path], self.encryption.key(), (name, version), path)
            if encryption["sha256"] != described["sha256"]:
                raise PackageError(f"model {name} {version}: {files[path]} changed while the package was made")
            size = sealed[path].stat().st_size
            described.update(sha256=sha256_of(sealed[path]), size=size, encryption=encryption)
        return sealed

    def _placed(self, name: str, version: str, files: t.Mapping[str, Path], data: bytes, digest: str) -> Path:
        """Put the files, the manifest and its signature together, and return the package's directory."""
        folder = self._folder(name)
        staged = Path(tempfile.mkdtemp(prefix=".making-", dir=folder))
        try:
            for path, file in files.items():
                target = staged / path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
            (staged / MANIFEST).write_bytes(data)
            self.key.ensure()
            (staged / SIGNATURE).write_text(self.key.sign(data), encoding="ascii")
            staged.chmod(0o755)
            # Here shows a file that changed while it was copied, or a public key of another private one.
            manifest_utils.verify_package(staged, [self.key.ensure()], name, version)
            final = folder / f"{version}-{digest[:16]}"
            shutil.rmtree(final, ignore_errors=True)
            staged.rename(final)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        return final

# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The model store: which packages are there, which of them should be served, and pins that hold versions back.

A version is ``<store>/<model>/<version>/``. It counts once its manifest is there and every file that the manifest lists
has its size, so a copy that is under way is waited for. Nothing here opens a model or believes a manifest; that is
``open_package``'s task.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ai102_server.config import ModelRef
from ai102_server.config.reader import to_component
from ai102_server.config.store import Policy, Store
from ai102_server.errors import ModelError
from ai102_server.repository.encryption import KeyRing, load_key, read_credential
from ai102_server.repository.package import MANIFEST, SIGNATURE, load_public_keys
from ai102_server.repository.versions import version_key

__all__ = [
    "Desired",
    "Ignored",
    "Survey",
    "decryption_keys",
    "pin",
    "public_keys",
    "read_pins",
    "rollback",
    "scan",
    "survey",
    "unpin",
]

PINS: Final = "pins.json"
_SCHEMA: Final = 1


@dataclass(frozen=True)
class Desired:
    """A version that should be served. ``stamp`` changes when the package does, so a failure need not be repeated."""

    name: str
    version: str
    path: Path
    stamp: str


@dataclass(frozen=True)
class Ignored:
    """Something in the store that is not looked at further, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Survey:
    """What the store holds. ``available`` are all complete versions of each model, oldest first.

    ``pins`` are the versions that the operator, or else the configuration, pinned.
    """

    desired: tuple[Desired, ...]
    available: Mapping[str, tuple[str, ...]]
    ignored: tuple[Ignored, ...]
    pins: Mapping[str, str]


def scan(store: Store, refs: Sequence[ModelRef] = ()) -> list[Desired]:
    """The versions that should be served now, by model and then oldest first; see ``survey``."""
    return list(survey(store, refs).desired)


def survey(store: Store, refs: Sequence[ModelRef] = ()) -> Survey:
    """Look at the store. ``refs`` are always to be served, unless a pin holds them back.

    It reads directories and sizes only, and manifests that are new; it changes nothing. Raises ``ModelError`` when the
    store or the pins cannot be read: whoever asks then goes on with what is served.
    """
    ignored: list[Ignored] = []
    found: dict[str, dict[str, Desired]] = {}
    if store.path is not None:
        for name, path in _folders(store.path, ignored):
            for version, folder in _folders(path, ignored):
                desired, reason = _look(name, version, folder)
                if desired is None:
                    ignored.append(Ignored(folder, reason))
                else:
                    found.setdefault(name, {})[version] = desired
    pins = read_pins(store)
    chosen: dict[str, dict[str, Desired]] = {}
    for name, versions in found.items():
        chosen[name] = _choose(store.policy(name), versions)
    for ref in refs:
        desired = _look(ref.name, ref.version, ref.path)[0] or Desired(ref.name, ref.version, ref.path, "")
        chosen.setdefault(ref.name, {})[ref.version] = desired
        found.setdefault(ref.name, {})[ref.version] = desired
    effective: dict[str, str] = {}
    result: list[Desired] = []
    for name in sorted(found):
        pinned = pins.get(name) or store.policy(name).pinned
        versions = chosen[name]
        if pinned is not None:
            effective[name] = pinned
            versions = _choose(store.policy(name), _until(found[name], pinned))
            versions |= {ref.version: found[name][ref.version] for ref in refs if ref.name == name}
            versions = _until(versions, pinned)
            if pinned not in versions and store.path is not None:
                reason = f"version '{pinned}' is pinned, but cannot be served; newer versions are held back"
                ignored.append(Ignored(store.path / name, reason))
        result += _sorted(versions)
    available = {name: tuple(item.version for item in _sorted(versions)) for name, versions in found.items()}
    return Survey(tuple(result), available, tuple(ignored), effective)


def _sorted(versions: Mapping[str, Desired]) -> list[Desired]:
    return [versions[version] for version in sorted(versions, key=version_key)]


def _until(versions: Mapping[str, Desired], pinned: str) -> dict[str, Desired]:
    limit = version_key(pinned)
    return {version: item for version, item in versions.items() if version_key(version) <= limit}


def _choose(policy: Policy, versions: Mapping[str, Desired]) -> dict[str, Desired]:
    if policy.kind == "latest":
        return {item.version: item for item in _sorted(versions)[-policy.count :]}
    if policy.kind == "specific":
        return {version: versions[version] for version in policy.versions if version in versions}
    return dict(versions) if policy.kind == "all" else {}


def _folders(path: Path, ignored: list[Ignored]) -> list[tuple[str, Path]]:
    """Directories in ``path``, by name. Hidden ones are somebody's work in progress."""
    try:
        with os.scandir(path) as entries:
            found = [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    except OSError as error:
        raise ModelError(f"model store: {path} cannot be read: {error.strerror}") from error
    result: list[tuple[str, Path]] = []
    for name in sorted(found):
        try:
            result.append((to_component(name), path / name))
        except ValueError as error:
            ignored.append(Ignored(path / name, f"its name {error}"))
    return result


def _look(name: str, version: str, path: Path) -> tuple[Desired | None, str]:
    """The version in ``path``, or why it is not one (yet)."""
    try:
        facts = (path / MANIFEST).stat()
    except OSError:
        return None, f"it has no {MANIFEST} (yet)"
    try:
        signed = (path / SIGNATURE).stat().st_mtime_ns
    except OSError:
        signed = 0
    stamp = f"{facts.st_ino}-{facts.st_mtime_ns}-{facts.st_size}-{signed}"
    sizes = _sizes(path / MANIFEST, stamp)
    if sizes is None:
        return None, f"its {MANIFEST} is not one of a model package"
    for relative, size in sizes:
        try:
            actual = (path / relative).stat().st_size
        except OSError:
            return None, f"{relative} is not there (yet)"
        if actual != size:
            return None, f"{relative} has {actual} of {size} bytes: it is being copied, or damaged"
    return Desired(name, version, path, stamp), ""


@lru_cache(maxsize=4096)
def _sizes(manifest: Path, _stamp: str) -> tuple[tuple[str, int], ...] | None:
    """Files of a manifest with their sizes, where it says them. The stamp makes a changed manifest another question."""
    try:
        document = orjson.loads(manifest.read_bytes())
        pairs = [(entry["path"], entry.get("size")) for entry in document["files"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if not all(isinstance(path, str) and "\0" not in path for path, _ in pairs):
        return None
    return tuple((path, size) for path, size in pairs if type(size) is int)


# --------------------------------------------------------------------------------------------------------------------
# Pins
# --------------------------------------------------------------------------------------------------------------------
def read_pins(store: Store) -> dict[str, str]:
    """Versions that the operator pinned, by model. Raises ``ModelError`` when they cannot be read."""
    if store.state is None:
        return {}
    path = store.state / PINS
    try:
        document = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, orjson.JSONDecodeError) as error:
        reason = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else "is not valid JSON"
        raise ModelError(f"pins of models: {path} {reason}; remove it to serve what the policies say") from error
    pins = document.get("pins") if isinstance(document, dict) and document.get("schema") == _SCHEMA else None
    if not isinstance(pins, dict) or not all(isinstance(version, str) for version in pins.values()):
        raise ModelError(f"pins of models: {path} is not of schema {_SCHEMA}; remove it to serve what the policies say")
    return pins


def pin(store: Store, name: str, version: str, refs: Sequence[ModelRef] = ()) -> None:
    """Hold back versions of a model that are newer than ``version``, also after a restart.

    Raises ``ModelError`` when there is no such version, or nowhere to remember it.
    """
    found = survey(store, refs)
    available = found.available.get(name, ())
    if version not in available:
        there = f"there is: {', '.join(available)}" if available else "there is none"
        raise ModelError(f"model '{name}' has no version '{version}' in the store; {there}")
    _remember(store, name, version)


def unpin(store: Store, name: str) -> None:
    """Forget the pin of a model; without one, nothing happens. Raises ``ModelError``."""
    if name in read_pins(store):
        _remember(store, name, None)


def rollback(store: Store, name: str, refs: Sequence[ModelRef] = ()) -> str:
    """Pin a model to the version before the newest one that is served, and return that version.

    Raises ``ModelError`` when there is none, or nowhere to remember it.
    """
    found = survey(store, refs)
    served = [item.version for item in found.desired if item.name == name]
    if not served:
        raise ModelError(f"model '{name}' is not served, so there is nothing to roll back")
    policy = store.policy(name)
    explicit = {ref.version for ref in refs if ref.name == name}
    older = [
        version
        for version in found.available[name]
        if version_key(version) < version_key(served[-1])
        and (policy.kind != "specific" or version in policy.versions or version in explicit)
    ]
    if not older:
        raise ModelError(f"model '{name}' has no version before '{served[-1]}' to roll back to")
    _remember(store, name, older[-1])
    return older[-1]


def _remember(store: Store, name: str, version: str | None) -> None:
    if store.state is None:
        raise ModelError("pins of models: store.state is not configured, so a pin would not survive a restart")
    with _locked(store.state):
        pins = read_pins(store)
        if version is None:
            pins.pop(name, None)
        else:
            pins[name] = version
        document = {"schema": _SCHEMA, "pins": dict(sorted(pins.items()))}
        _write(store.state / PINS, orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """One writer at a time, among all processes."""
    try:
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        descriptor = os.open(directory / f".{PINS}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ModelError(f"pins of models: {directory} cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, content: bytes) -> None:
    """Write a file so that after a crash either the old content is there or the new one."""
    temporary: str | None = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(path)
        temporary = None
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise ModelError(f"pins of models: {path} cannot be written: {error.strerror}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


# --------------------------------------------------------------------------------------------------------------------
# Keys
# --------------------------------------------------------------------------------------------------------------------
def public_keys(store: Store, more: Path | None = None) -> tuple[Ed25519PublicKey, ...] | None:
    """The keys any of which may have signed; None when none is configured and so no signature is asked for.

    ``more`` is one more file. Raises ``ModelError``.
    """
    paths = [*([more] if more is not None else []), *store.public_keys]
    return tuple(key for path in paths for key in load_public_keys(path)) if paths else None


def decryption_keys(store: Store) -> KeyRing:
    """The keys that open encrypted packages. Raises ``ModelError``."""
    keys: list[bytes] = []
    for source in store.decryption_keys:
        if source.file is not None:
            keys.append(load_key(source.file))
        elif source.credential is not None:
            keys.append(read_credential(source.credential))
    return KeyRing(keys)

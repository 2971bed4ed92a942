# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The section ``store``: a directory of model packages that is watched, and which of its versions are served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ai102_server.config.reader import (
    Section,
    kind_of,
    to_component,
    to_flag,
    to_integer,
    to_path,
    to_seconds,
    to_version,
)

__all__ = ["KeySource", "Policy", "Store", "read_store"]

MAX_VERSIONS: Final = 1000
_KINDS: Final = ("all", "none")


@dataclass(frozen=True)
class Policy:
    """Which versions of a model are served.

    ``kind`` is ``latest`` (the newest ``count``), ``specific`` (those of ``versions``), ``all`` or ``none``. Versions
    newer than ``pinned`` are held back, whatever the kind, unless an operator's pin says otherwise.
    """

    kind: str = "latest"
    count: int = 1
    versions: tuple[str, ...] = ()
    pinned: str | None = None


@dataclass(frozen=True)
class KeySource:
    """Where a decryption key is: in a file, or in a credential of systemd; exactly one of them."""

    file: Path | None = None
    credential: str | None = None


@dataclass(frozen=True)
class Store:
    """A directory ``path/<model>/<version>/`` of packages, looked at every ``poll_seconds``; 0: only when asked to.

    ``state`` is a directory of the server's own, where pins survive a restart. ``public_keys`` are files whose keys may
    have signed; ``decryption_keys`` open encrypted packages, those of ``models``, too.
    """

    path: Path | None = None
    poll_seconds: float = 2.0
    state: Path | None = None
    default_policy: Policy = field(default_factory=Policy)
    policies: Mapping[str, Policy] = field(default_factory=dict)
    public_keys: tuple[Path, ...] = ()
    decryption_keys: tuple[KeySource, ...] = ()

    def policy(self, name: str) -> Policy:
        """The policy of a model."""
        return self.policies.get(name, self.default_policy)


def read_store(section: Section) -> Store:
    """Read the section; mistakes are reported to it."""
    default = Store()
    store = Store(
        path=section.get("path", None, to_path),
        poll_seconds=section.get("poll_seconds", default.poll_seconds, to_seconds(0, 3600)),
        state=section.get("state", None, to_path),
        default_policy=_policy(section, "default_policy"),
        policies=_policies(section),
        public_keys=section.get("public_keys", default.public_keys, _paths),
        decryption_keys=_key_sources(section),
    )
    section.finish()
    return store


def _policies(parent: Section) -> Mapping[str, Policy]:
    section = parent.section("policies")
    policies: dict[str, Policy] = {}
    for name in section.data:
        try:
            policies[to_component(name)] = _policy(section, str(name))
        except ValueError as error:
            section.known.append(str(name))
            section.report(str(name), str(error))
    return policies


def _policy(parent: Section, key: str) -> Policy:
    value = parent.raw(key)
    if isinstance(value, str):
        if value not in _KINDS:
            parent.report(key, f"'{value}' is not one of {', '.join(_KINDS)}; or {{latest: 2}}, {{specific: [\"1\"]}}")
            return Policy()
        return Policy(value)
    section = parent.section(key)
    chosen = [kind for kind in ("latest", "specific", "all") if section.has(kind)]
    pinned = section.get("pinned", None, to_version)
    count = section.get("latest", 1, to_integer(1, MAX_VERSIONS))
    versions = section.get("specific", Policy().versions, _versions)
    if not section.get("all", True, to_flag):
        section.report("all", "must be true or left out")
    if len(chosen) > 1:
        section.report("", f"has {' and '.join(chosen)}: keep one of them")
    section.finish()
    return Policy(chosen[0] if chosen else "latest", count, versions, pinned)


def _versions(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"must be a list of versions, not {kind_of(value) if value != [] else 'an empty one'}")
    return tuple(to_version(item) for item in value)


def _paths(value: object) -> tuple[Path, ...]:
    return tuple(to_path(item) for item in (value if isinstance(value, list) else [value]))


def _key_sources(section: Section) -> tuple[KeySource, ...]:
    value = section.raw("decryption_keys")
    items = value if isinstance(value, list) else []
    if section.has("decryption_keys") and not isinstance(value, list):
        section.report("decryption_keys", f"must be a list of {{file: …}} and {{credential: …}}, not {kind_of(value)}")
    sources: list[KeySource] = []
    for index, item in enumerate(items):
        entry = Section(item, section.at(f"decryption_keys[{index}]"), section.problems)
        source = KeySource(entry.get("file", None, to_path), entry.get("credential", None, to_component))
        if isinstance(item, dict) and entry.has("file") == entry.has("credential"):
            entry.report("", "must have either file or credential")
        entry.finish()
        sources.append(source)
    return tuple(sources)

# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Package repositories of vendors: where they are for a release, whose key signs them, and what apt is told."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import typing as t
from dataclasses import dataclass, field

_ARMOR = re.compile(
    r"-----BEGIN PGP PUBLIC KEY BLOCK-----\r?\n(?P<headers>(?:[^\r\n]+\r?\n)*)\r?\n(?P<body>[A-Za-z0-9+/=\s]+?)"
    r"-----END PGP PUBLIC KEY BLOCK-----"
)
_PUBLIC_KEY: t.Final = 6
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


class RepositoryError(ValueError):
    """A repository that is not declared, not well formed, or not signed by the key that it should be signed by."""


def _unpack(content: bytes) -> bytes:
    """Take a key out of its text form."""
    if not content.lstrip().startswith(b"-----BEGIN"):
        return content
    packets = b""
    for block in _ARMOR.finditer(content.decode("ascii", "replace")):
        body = [line for line in block["body"].split() if not line.startswith("=")]  # the last line is a checksum
        try:
            packets += base64.b64decode("".join(body), validate=True)
        except binascii.Error as error:
            raise RepositoryError(f"the key is damaged: {error}") from error
    return packets


def _packets(content: bytes) -> t.Iterator[tuple[int, bytes]]:
    """The packets of an OpenPGP message (RFC 9580, section 4), each with its type. Raises `RepositoryError`."""
    at = 0
    while at < len(content):
        head = content[at]
        try:
            if head & 0xC0 == 0xC0:
                kind, first = head & 0x3F, content[at + 1]
                if first < 192:
                    length, start = first, at + 2
                elif first < 224:
                    length, start = ((first - 192) << 8) + content[at + 2] + 192, at + 3
                elif first == 255:
                    length, start = int.from_bytes(content[at + 2 : at + 6], "big"), at + 6
                else:
                    raise RepositoryError("the key is not well formed: a packet of unknown length")
            elif head & 0xC0 == 0x80 and head & 3 != 3:
                size = 1 << (head & 3)
                kind, start = (head >> 2) & 15, at + 1 + size
                length = int.from_bytes(content[at + 1 : start], "big")
            else:
                raise RepositoryError("this is not an OpenPGP key")
        except IndexError:
            raise RepositoryError("the key is cut off") from None
        if start + length > len(content):
            raise RepositoryError("the key is cut off")
        yield kind, content[start : start + length]
        at = start + length


def fingerprints(content: bytes) -> list[str]:
    """Read the fingerprints of the keys in a file.

    :param content: an OpenPGP public key, as text or binary.
    :returns: the fingerprint of each primary key, in capitals.
    :raises RepositoryError: no key, or one that is not well formed.
    """
    found = []
    for kind, body in _packets(_unpack(content)):
        if kind != _PUBLIC_KEY:
            continue
        if body[:1] != b"\x04":
            raise RepositoryError(
                f"a key of version {body[0] if body else 'none'}; version 4 is what apt's programs read"
            )
        # The fingerprint is defined by this digest (RFC 9580, section 5.5.4.2); it is no choice of ours.
        digest = hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body, usedforsecurity=False)
        found.append(digest.hexdigest().upper())
    if not found:
        raise RepositoryError("there is no public key in it")
    return found


def verify_key(content: bytes, fingerprint: str, origin: str) -> None:
    """Refuse a file that holds another key than the expected one, or more than it.

    :raises RepositoryError: with both fingerprints.
    """
    wanted = normal_fingerprint(fingerprint)
    try:
        found = fingerprints(content)
    except RepositoryError as error:
        raise RepositoryError(f"{origin}: {error}") from error
    if found != [wanted]:
        raise RepositoryError(f"{origin} holds the key {', '.join(found)}, not {wanted}: it is not trusted")


def normal_fingerprint(text: str) -> str:
    """A fingerprint in capitals, without blanks. Raises `RepositoryError`."""
    wanted = re.sub(r"\s", "", text).upper()
    if not re.fullmatch(r"[0-9A-F]{40}", wanted):
        raise RepositoryError(f"{text!r} is not the fingerprint of a key (40 hexadecimal digits)")
    return wanted


@dataclass(frozen=True)
class Pin:
    """One entry of apt's preferences."""

    packages: str
    pin: str
    priority: int


@dataclass(frozen=True)
class Repository:
    """A repository as one release of an operating system uses it."""

    name: str
    uri: str
    suites: list[str]
    components: list[str]
    architectures: list[str]
    fingerprint: str
    key_url: str
    pins: list[Pin] = field(default_factory=list)

    @property
    def sources_path(self) -> str:
        """Where apt looks for it, below ``/etc/apt``."""
        return f"sources.list.d/ai102-{self.name}.sources"

    @property
    def preferences_path(self) -> str:
        """Where apt looks for its preferences, below ``/etc/apt``."""
        return f"preferences.d/ai102-{self.name}"

    @property
    def key_path(self) -> str:
        """Where its key is, below ``/etc/apt``. It is trusted for this repository only."""
        return f"keyrings/ai102-{self.name}.asc"

    def sources(self) -> str:
        """The file of the repository, in apt's own format (sources.list(5), deb822)."""
        lines = [f"Types: deb\nURIs: {self.uri}\nSuites: {' '.join(self.suites)}"]
        if self.components:
            lines.append(f"Components: {' '.join(self.components)}")
        if self.architectures:
            lines.append(f"Architectures: {' '.join(self.architectures)}")
        lines.append(f"Signed-By: /etc/apt/{self.key_path}")
        return "# Written by Ansible (ai102.inference): changes are overwritten.\n" + "\n".join(lines) + "\n"

    def preferences(self) -> str:
        """The file of its preferences (apt_preferences(5)); empty where there are none."""
        entries = [
            f"Package: {pin.packages}\nPin: {pin.pin}\nPin-Priority: {pin.priority}\n"
            for pin in self.pins
            if pin.packages
        ]
        if not entries:
            return ""
        return "\n".join(["# Written by Ansible (ai102.inference): changes are overwritten.", *entries])


def armored(content: bytes) -> str:
    """A key in the text form that apt reads from files that end with ``.asc``."""
    if content.lstrip().startswith(b"-----BEGIN"):
        return content.decode("ascii").replace("\r\n", "\n")
    body = base64.b64encode(content).decode("ascii")
    lines = [body[at : at + 64] for at in range(0, len(body), 64)]
    return "\n".join(["-----BEGIN PGP PUBLIC KEY BLOCK-----", "", *lines, "-----END PGP PUBLIC KEY BLOCK-----", ""])


def resolve(
    name: str,
    declared: t.Mapping[str, t.Any],
    own: t.Mapping[str, t.Any],
    codename: str,
    pins: t.Sequence[t.Mapping[str, t.Any]],
) -> Repository:
    """Find out what a repository means for a release.

    :param name: of the repository.
    :param declared: the ``repositories`` of the lock: name → ``releases``, a mapping of the codename of a release (or
        ``all``) to ``uri``, ``suites``, ``components``, ``architectures``, ``key_url``, ``fingerprint``.
    :param own: what the site says instead, of the same keys, without ``releases``: a mirror, or a repository that only
        the site has.
    :param codename: of the host's release.
    :param pins: entries for apt's preferences.
    :raises RepositoryError: it is not declared, not for this release, or not well formed.
    """
    if not _NAME.fullmatch(name):
        raise RepositoryError(f"{name!r} is not a name of a repository: small letters, digits and dashes only")
    releases = (declared.get(name) or {}).get("releases", {})
    entry: dict[str, t.Any] = {**(releases.get(codename) or releases.get("all") or {}), **(own.get(name) or {})}
    if not entry:
        if not releases:
            known = sorted({*declared, *own})
            raise RepositoryError(f"unknown repository {name!r}; there are: {', '.join(known) or 'none'}")
        raise RepositoryError(f"repository {name!r} has nothing for {codename}; it has: {', '.join(sorted(releases))}")
    unknown = set(entry) - {"uri", "suites", "components", "architectures", "key_url", "key_file", "fingerprint"}
    if unknown:
        raise RepositoryError(f"repository {name!r} has unknown keys: {', '.join(sorted(unknown))}")
    uri = str(entry.get("uri", ""))
    if not re.fullmatch(r"(https?|file)://?\S+", uri):
        raise RepositoryError(f"repository {name!r} has no address that apt can use: {uri!r}")
    suites = _words(entry.get("suites", ["/"]))
    components = _words(entry.get("components", []))
    if bool(components) == any(suite.endswith("/") for suite in suites):
        raise RepositoryError(
            f"repository {name!r}: suites that end with a slash (flat repositories) have no components, all others do"
        )
    return Repository(
        name=name,
        uri=uri,
        suites=suites,
        components=components,
        architectures=_words(entry.get("architectures", [])),
        fingerprint=normal_fingerprint(str(entry.get("fingerprint", ""))),
        key_url=str(entry.get("key_file") or entry.get("key_url") or ""),
        pins=[Pin(str(pin["packages"]), str(pin["pin"]), int(pin["priority"])) for pin in pins],
    )


def _words(value: t.Any) -> list[str]:
    return value.split() if isinstance(value, str) else [str(word) for word in value]

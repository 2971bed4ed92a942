# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Container images by their digest: references, credentials, what engines say of them, and which may go."""

from __future__ import annotations

import base64
import json
import os
import re
import typing as t
from dataclasses import dataclass
from pathlib import Path

_REFERENCE: t.Final = re.compile(
    r"(?P<registry>[a-z0-9.-]+(?::\d+)?|\[[0-9a-f:]+\](?::\d+)?)/(?P<repository>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
    r"@(?P<digest>sha256:[0-9a-f]{64})"
)

#: The first Podman of which output that goes straight to the journal and GPUs by CDI are known to work.
OLDEST_PODMAN: t.Final = (4, 3)

#: What engines say when a pull or push fails, and what an operator can do about it.
_CAUSES: t.Final = (
    (
        r"x509|certificate signed by unknown|certificate is (?:not )?valid|tls:",
        "the certificate of the registry is not one that is trusted here; are it and the authority the right ones?",
    ),
    (
        r"server gave HTTP response to HTTPS client",
        "the registry does not speak TLS; images are never transferred without it",
    ),
    (
        r"unauthori[sz]ed|authentication required|denied",
        "the registry refuses the account; compare ai102_registry_username and ai102_registry_password with its own",
    ),
    (
        r"manifest unknown|not found|404",
        "the registry has no such image; was it built and pushed (playbooks/build_image.yml), or removed since?",
    ),
    (
        r"[Dd]igest did not match|does not match|[Dd]igest .*mismatch|unexpected (?:manifest )?digest",
        "what the registry sent is not the image that the digest means; it was not kept",
    ),
    (
        r"connection refused|no route to host|i/o timeout|no such host|deadline exceeded",
        "the registry does not answer; does it run, and does the flow matrix let this host reach it?",
    ),
    (r"no space left", "the disk beneath the engine's storage is full"),
)


class ImageError(Exception):
    """An image cannot be had; the message is for people and holds no secret."""


@dataclass(frozen=True)
class Reference:
    """An image that can only be one.

    Attributes:
        registry: Address and port.
        repository: Name of the image there.
        digest: Of its manifest.
    """

    registry: str
    repository: str
    digest: str

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read ``registry/name@sha256:…``.

        :raises ImageError: for anything else, such as a tag, which may mean another image tomorrow.
        """
        found = _REFERENCE.fullmatch(text)
        if found is None:
            raise ImageError(
                f"{text!r} does not name an image by its digest, as in registry.example/name@sha256:<64 hex digits>"
            )
        return cls(found["registry"], found["repository"], found["digest"])

    def __str__(self) -> str:
        return f"{self.registry}/{self.repository}@{self.digest}"


def refuse_old(version: str) -> None:
    """Refuse an engine that cannot run the server as its unit wants it.

    :param version: as ``podman version`` says it.
    :raises ImageError: it is too old; an unknown one is not.
    """
    found = re.match(r"(\d+)\.(\d+)", version.strip())
    if found and (int(found[1]), int(found[2])) < OLDEST_PODMAN:
        oldest = ".".join(map(str, OLDEST_PODMAN))
        raise ImageError(
            f"Podman {version.strip()} is too old: {oldest} is needed, as Debian 12 and Ubuntu 24.04 have it. Leave "
            "inference_server_runtime at environment on this host."
        )


def explain(said: str) -> str:
    """Turn what an engine printed into one line: the likely cause first, then its own last words."""
    words = " ".join(said.split())[-600:] or "it printed nothing"
    for pattern, cause in _CAUSES:
        if re.search(pattern, said):
            return f"{cause} ({words})"
    return words


def write_access(directory: Path, registry: str, username: str, password: str, ca_path: str) -> list[str]:
    """Put what a client needs for a registry into a directory of its own, and return the options that name it.

    :param directory: only this user can look into it; the caller removes it.
    :param ca_path: PEM file of the authorities to believe; empty for the system's.
    :returns: options of podman and skopeo, without secrets.
    :raises ImageError: the authorities cannot be read.
    """
    options: list[str] = []
    if username or password:
        secret = base64.b64encode(f"{username}:{password}".encode()).decode()
        path = directory / "auth.json"
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as sink:
            json.dump({"auths": {registry: {"auth": secret}}}, sink)
        options.append(f"--authfile={path}")
    if ca_path:
        trusted = directory / "trust"
        trusted.mkdir(mode=0o700)
        try:
            (trusted / "ca.crt").write_bytes(Path(ca_path).read_bytes())
        except OSError as error:
            raise ImageError(f"the authorities of the registry cannot be read: {error}") from error
        options.append(f"--cert-dir={trusted}")
    return options


@dataclass(frozen=True)
class Image:
    """An image that the engine has.

    Attributes:
        id: Of its configuration.
        size: Bytes of all its layers, unpacked.
        layers: How many it has.
        user: That it runs as by itself.
        labels: What was written on it.
        names: ``name@digest`` under which the engine knows it.
        created: When it was built, as the engine writes it.
    """

    id: str
    size: int
    layers: int
    user: str
    labels: dict[str, str]
    names: tuple[str, ...]
    created: str

    @classmethod
    def from_inspection(cls, found: t.Mapping[str, t.Any]) -> Image:
        """Read one entry of ``podman image inspect``."""
        config = found.get("Config") or {}
        return cls(
            id=str(found.get("Id", "")),
            size=int(found.get("Size") or 0),
            layers=len((found.get("RootFS") or {}).get("Layers") or []),
            user=str(config.get("User") or found.get("User") or ""),
            labels={str(key): str(value) for key, value in (config.get("Labels") or found.get("Labels") or {}).items()},
            names=tuple(str(name) for name in found.get("RepoDigests") or ()),
            created=str(found.get("Created", "")),
        )

    def to_dict(self) -> dict[str, t.Any]:
        """Give what a module returns."""
        return {
            "id": self.id,
            "size": self.size,
            "layers": self.layers,
            "user": self.user,
            "labels": self.labels,
        }


def wrong_labels(image: Image, expected: t.Mapping[str, str]) -> list[str]:
    """Say which labels of an image are not what they should be."""
    return [
        f"{name} is {image.labels.get(name, 'missing')!r} and should be {value!r}"
        for name, value in sorted(expected.items())
        if image.labels.get(name) != value
    ]


def removable(images: t.Iterable[Image], wanted: Reference, in_use: t.Container[str], keep: int) -> list[Image]:
    """Choose the images of the same repository that may go: not the wanted one, none in use, not the newest others.

    :param in_use: digests that releases of the host mention.
    :param keep: how many images that are not in use stay.
    :returns: oldest first.
    """
    spare: list[Image] = []
    for image in images:
        digests = {name.rpartition("@")[2] for name in image.names}
        same = any(name.partition("@")[0].endswith(f"/{wanted.repository}") for name in image.names)
        if same and wanted.digest not in digests and not any(digest in in_use for digest in digests):
            spare.append(image)
    spare.sort(key=lambda image: image.created)
    return spare[: max(0, len(spare) - keep)]


def digests_in(texts: t.Iterable[str]) -> set[str]:
    """Return every digest that some texts mention."""
    return {digest for text in texts for digest in re.findall(r"sha256:[0-9a-f]{64}", text)}

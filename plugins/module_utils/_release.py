# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Versioned directories behind one atomically switched symlink.

Layout of a store::

    <path>/releases/<id>/…     immutable; <id> is the digest of everything in it
    <path>/current             -> releases/<id>, what is in force
    <path>/previous            -> releases/<id>, what was in force before the last switch

The id is computed from names, contents, modes, owners and link targets, so the same content is always the same
release and a second run has nothing to do.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

RELEASES = "releases"
CURRENT = "current"
PREVIOUS = "previous"


class ReleaseError(Exception):
    """What is wrong with a release, in words for the operator."""


@dataclass(frozen=True)
class ReleaseFile:
    """One file of a release: path relative to the release, its bytes and its mode."""

    dest: str
    content: bytes
    mode: int = 0o644


@dataclass(frozen=True)
class ReleaseLink:
    """One symbolic link of a release: path relative to the release and where it points."""

    dest: str
    src: str


@dataclass(frozen=True)
class Release:
    """Everything that makes up a release.

    ``uid`` and ``gid`` are numeric; ``None`` leaves what the creating process has. ``uid`` and ``gid`` take part in
    the id by the names given in ``owner`` and ``group``, so that the id is the same on every host.
    """

    files: tuple[ReleaseFile, ...]
    links: tuple[ReleaseLink, ...] = ()
    owner: str = "root"
    group: str = "root"
    directory_mode: int = 0o755

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for dest in [f.dest for f in self.files] + [link.dest for link in self.links]:
            parts = Path(dest).parts
            if not dest or Path(dest).is_absolute() or ".." in parts:
                raise ReleaseError(f"'{dest}' must be a relative path inside the release, without '..'")
            if dest in seen:
                raise ReleaseError(f"'{dest}' is named twice in one release")
            seen.add(dest)
        if not seen:
            raise ReleaseError("a release needs at least one file or link")

    @property
    def id(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 over everything in the release."""
        digest = hashlib.sha256()
        digest.update(f"{self.owner}\0{self.group}\0{self.directory_mode:o}\0".encode())
        for item in sorted(self.files, key=lambda f: f.dest):
            digest.update(f"file\0{item.dest}\0{item.mode:o}\0{len(item.content)}\0".encode())
            digest.update(item.content)
        for link in sorted(self.links, key=lambda k: k.dest):
            digest.update(f"link\0{link.dest}\0{link.src}\0".encode())
        return digest.hexdigest()[:16]


@dataclass
class ReleaseStore:
    """The directory that holds the releases of one component.

    :param path: directory with ``releases/``, ``current`` and ``previous``.
    :param chown: gives a path to an owner and a group by name; ``None`` leaves the ownership alone.
    """

    path: Path
    chown: Callable[[Path, str, str], None] | None = None
    _releases: Path = field(init=False)

    def __post_init__(self) -> None:
        self._releases = self.path / RELEASES

    def directory(self, release_id: str) -> Path:
        """Directory of a release, whether it exists or not."""
        if not release_id or "/" in release_id or release_id in {".", ".."} or release_id.startswith("."):
            raise ReleaseError(f"'{release_id}' is not the id of a release")
        return self._releases / release_id

    def current(self) -> str | None:
        """Id of the release in force, or ``None``."""
        return self._target(CURRENT)

    def previous(self) -> str | None:
        """Id of the release that was in force before, or ``None``; only one that still exists and is not current."""
        found = self._target(PREVIOUS)
        return found if found and found != self.current() else None

    def releases(self) -> list[str]:
        """Ids of all staged releases, oldest first."""
        if not self._releases.is_dir():
            return []
        found = [entry for entry in self._releases.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
        return [entry.name for entry in sorted(found, key=lambda entry: (entry.stat().st_mtime, entry.name))]

    def staged(self, release_id: str) -> bool:
        """Whether the release stands complete on the disk."""
        return self.directory(release_id).is_dir()

    def intact(self, release: Release) -> bool:
        """Whether the release on the disk still is what its id says (nobody edited it by hand)."""
        directory = self.directory(release.id)
        try:
            for item in release.files:
                path = directory / item.dest
                if path.is_symlink() or path.read_bytes() != item.content or path.stat().st_mode & 0o7777 != item.mode:
                    return False
            return all(os.readlink(directory / link.dest) == link.src for link in release.links)
        except OSError:
            return False

    def stage(self, release: Release, validate: Callable[[Path], None] | None = None) -> bool:
        """Write the release under a temporary name, have it validated, and give it its final name.

        :param validate: called with the staged directory; raises :class:`ReleaseError` to refuse it.
        :returns: whether something was written.
        :raises ReleaseError: when the validation refuses it or the disk does; nothing is left behind.
        """
        final = self.directory(release.id)
        if final.is_dir() and self.intact(release):
            return False
        try:
            self._releases.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=self._releases))
        except OSError as error:
            raise ReleaseError(f"cannot write below {self._releases}: {error.strerror or error}") from error
        try:
            self._fill(staging, release)
            if validate is not None:
                validate(staging)
            if final.exists():  # edited by hand: put aside, so that the name is free for what it should hold
                self._replace_damaged(staging, final)
            else:
                os.rename(staging, final)
            os.utime(final)
        except OSError as error:
            raise ReleaseError(f"cannot stage {final}: {error.strerror or error}") from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return True

    def switch(self, release_id: str, remember: bool = True) -> bool:
        """Make a staged release the current one, atomically.

        :param remember: keep the release that was current as ``previous``.
        :returns: whether ``current`` moved.
        :raises ReleaseError: when the release is not staged.
        """
        if not self.staged(release_id):
            known = ", ".join(self.releases()) or "none"
            raise ReleaseError(f"release '{release_id}' is not staged below {self._releases} (there: {known})")
        before = self.current()
        if before == release_id:
            return False
        if remember and before is not None:
            self._point(PREVIOUS, before)
        self._point(CURRENT, release_id)
        return True

    def back(self) -> str:
        """Make the previous release the current one again; the two change places.

        :returns: id of the release that is now in force.
        :raises ReleaseError: when there is none to go back to.
        """
        previous = self.previous()
        if previous is None:
            raise ReleaseError(f"{self.path} has no previous release to go back to")
        before = self.current()
        self._point(CURRENT, previous)
        if before is not None:
            self._point(PREVIOUS, before)
        return previous

    def prune(self, keep: int) -> list[str]:
        """Remove the oldest releases beyond ``keep``, never the current or the previous one.

        :returns: ids that were removed.
        """
        protected = {self.current(), self.previous()}
        candidates = [release_id for release_id in self.releases() if release_id not in protected]
        surplus = max(0, len(self.releases()) - max(keep, 1))
        removed = candidates[:surplus]
        for release_id in removed:
            shutil.rmtree(self.directory(release_id))
        return removed

    def _target(self, name: str) -> str | None:
        try:
            target = Path(os.readlink(self.path / name))
        except OSError:
            return None
        return target.name if self.directory(target.name).is_dir() else None

    def _point(self, name: str, release_id: str) -> None:
        temporary = self.path / f".{name}-{os.getpid()}"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(f"{RELEASES}/{release_id}")
        os.replace(temporary, self.path / name)

    def _fill(self, staging: Path, release: Release) -> None:
        staging.chmod(release.directory_mode)
        self._own(staging, release)
        for parent in sorted({str(Path(d).parent) for d in self._dests(release)} - {"."}):
            for directory in [*reversed(Path(parent).parents), Path(parent)]:
                target = staging / directory
                if not target.is_dir():
                    target.mkdir(mode=release.directory_mode)
                    target.chmod(release.directory_mode)
                    self._own(target, release)
        for item in release.files:
            path = staging / item.dest
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(item.content)
                stream.flush()
                os.fsync(stream.fileno())
            path.chmod(item.mode)
            self._own(path, release)
        for link in release.links:
            (staging / link.dest).symlink_to(link.src)

    def _replace_damaged(self, staging: Path, final: Path) -> None:
        aside = Path(tempfile.mkdtemp(prefix=".damaged-", dir=self._releases))
        os.rename(final, aside / "release")
        os.rename(staging, final)
        shutil.rmtree(aside, ignore_errors=True)

    def _own(self, path: Path, release: Release) -> None:
        if self.chown is not None:
            self.chown(path, release.owner, release.group)

    @staticmethod
    def _dests(release: Release) -> Iterable[str]:
        yield from (item.dest for item in release.files)
        yield from (link.dest for link in release.links)


def read_release(directory: Path) -> dict[str, str]:
    """Texts of a release by relative path, for a diff; files that are not UTF-8 are named by their digest."""
    found: dict[str, str] = {}
    if not directory.is_dir():
        return found
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}\n"
        elif path.is_file():
            found[name] = text_for_diff(path.read_bytes())
    return found


def text_for_diff(content: bytes) -> str:
    """The text, or where it is none a line with its digest."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return f"(binary, sha256 {hashlib.sha256(content).hexdigest()})\n"


def diff_entries(before: dict[str, str], after: dict[str, str], label: str, secret: bool) -> list[dict[str, str]]:
    """Entries for Ansible's ``diff``, one for each path that differs.

    :param label: prefix of the headers, the release store's path.
    :param secret: name the paths that differ but not their content.
    """
    entries = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name, ""), after.get(name, "")
        if old == new and (name in before) == (name in after):
            continue
        if secret:
            old = "(content not shown)\n" if name in before else ""
            new = "(other content, not shown)\n" if name in after else ""
        entries.append(
            {
                "before": old,
                "after": new,
                "before_header": f"{label}/{name}",
                "after_header": f"{label}/{name}",
            }
        )
    return entries

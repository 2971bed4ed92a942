# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host's store of delivered content, and the immutable directories that are made of it.

A file is delivered once for each host and kept under the name of its sha256. Directories consist of hard links to these
blobs, so the same content in two of them is on the disk once and is never copied again. A blob has one fixed
modification time: a file that has it, and the right size, has not been written to since it was verified, so looking
at a directory does not read it.
"""

from __future__ import annotations

import contextlib
import grp
import hashlib
import os
import pwd
import re
import shutil
import stat
import tempfile
import typing as t
from pathlib import Path, PurePosixPath

#: Modification time of every verified blob, in seconds since the epoch (2020-01-01 UTC).
VERIFIED_MTIME = 1577836800
#: Permissions of a blob; directories made of links share them.
BLOB_MODE = 0o444
_CHUNK = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_STAGING_PREFIX = ".staging-"


class ContentError(Exception):
    """Content that is not what it should be; the message says which and why."""


class ContentFile(t.NamedTuple):
    """One file of a directory: relative path, sha256 in hexadecimal, size in bytes (-1 where it is not known)."""

    path: str
    sha256: str
    size: int = -1


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def parse_files(entries: t.Iterable[t.Mapping[str, t.Any]]) -> list[ContentFile]:
    """Check a list of files.

    :param entries: each with ``path``, ``sha256`` and optionally ``size``.
    :returns: the files, sorted by path.
    :raises ContentError: a path that leaves the directory, one that is there twice, or something that is not a sha256.
    """
    files: dict[str, ContentFile] = {}
    for entry in entries:
        path = str(entry["path"])
        pure = PurePosixPath(path)
        if not path or pure.is_absolute() or ".." in pure.parts or str(pure) != path or path == ".":
            raise ContentError(f"{path!r} is not a plain relative path")
        if path in files:
            raise ContentError(f"{path!r} is named twice")
        sha256 = str(entry["sha256"]).lower()
        if not _SHA256.match(sha256):
            raise ContentError(f"{path}: {sha256!r} is not a sha256 in hexadecimal")
        size = entry.get("size")
        files[path] = ContentFile(path, sha256, -1 if size is None else int(size))
    return [files[path] for path in sorted(files)]


def owner_ids(owner: str, group: str) -> tuple[int, int]:
    """Return the numbers of a user and a group.

    :raises ContentError: one that does not exist.
    """
    try:
        user = int(owner) if owner.isdigit() else pwd.getpwnam(owner).pw_uid
        return user, int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise ContentError(f"no such user or group: {error.args[0]}") from error


class BlobStore:
    """Verified content by sha256 in one directory.

    :param path: the directory; it is made when the first blob comes.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def blob(self, sha256: str) -> Path:
        """Return where the blob of a sha256 lies."""
        return self.path / sha256

    def has(self, sha256: str, size: int = -1) -> bool:
        """Tell whether a blob is there and was not written to since it was verified.

        A blob whose modification time or size has changed is read again; one that is wrong is as good as missing.

        :param size: in bytes; -1 when it is not known.
        """
        blob = self.blob(sha256)
        try:
            found = blob.lstat()
        except OSError:
            return False
        if not stat.S_ISREG(found.st_mode):
            return False
        if int(found.st_mtime) == VERIFIED_MTIME:
            return size in (-1, found.st_size)
        return sha256_of(blob) == sha256

    def missing(self, files: t.Iterable[ContentFile]) -> list[str]:
        """Return the sha256 of each file whose blob must be delivered, sorted, each once."""
        return sorted({file.sha256 for file in files if not self.has(file.sha256, file.size)})

    def take(self, source: str | os.PathLike[str], sha256: str) -> None:
        """Verify a file that was delivered, and put it into the store.

        The copy is verified, not the source, and gets its name only when it is right.

        :raises ContentError: the content is not that of the sha256.
        """
        self.path.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=_STAGING_PREFIX, dir=self.path)
        staged = Path(name)
        try:
            digest = hashlib.sha256()
            with os.fdopen(descriptor, "wb") as target, Path(source).open("rb") as handle:
                while chunk := handle.read(_CHUNK):
                    digest.update(chunk)
                    target.write(chunk)
                target.flush()
                os.fsync(target.fileno())
            if digest.hexdigest() != sha256:
                raise ContentError(f"delivered content has sha256 {digest.hexdigest()}, expected {sha256}")
            self._settle(staged)
            staged.replace(self.blob(sha256))
        finally:
            staged.unlink(missing_ok=True)

    @staticmethod
    def _settle(path: Path) -> None:
        path.chmod(BLOB_MODE)
        os.utime(path, (VERIFIED_MTIME, VERIFIED_MTIME))

    def revalidate(self, sha256: str) -> None:
        """Give a blob that was read and is right its fixed modification time back."""
        with contextlib.suppress(OSError):
            if int(self.blob(sha256).lstat().st_mtime) != VERIFIED_MTIME:
                self._settle(self.blob(sha256))

    def place(self, sha256: str, target: Path) -> None:
        """Put the content of a blob at a path: a hard link, or a copy where the path is on another file system."""
        try:
            os.link(self.blob(sha256), target)
        except OSError:
            shutil.copyfile(self.blob(sha256), target)
            self._settle(target)

    def unused(self) -> list[Path]:
        """List the blobs that nothing links to any more, and what an interrupted delivery left."""
        if not self.path.is_dir():
            return []
        return sorted(
            entry
            for entry in self.path.iterdir()
            if entry.name.startswith(_STAGING_PREFIX) or entry.stat().st_nlink == 1
        )

    def prune(self) -> list[str]:
        """Remove the blobs that nothing links to any more.

        :returns: their names.
        """
        removed = []
        for entry in self.unused():
            entry.unlink()
            removed.append(entry.name)
        return removed


class Directory:
    """One directory of delivered files.

    :param path: the directory.
    :param files: what it consists of.
    :param store: where the content is.
    """

    def __init__(self, path: str | os.PathLike[str], files: t.Sequence[ContentFile], store: BlobStore) -> None:
        self.path = Path(path)
        self.files = files
        self.store = store

    def exists(self) -> bool:
        """Tell whether something has the directory's name."""
        return os.path.lexists(self.path)

    def differences(self) -> list[str]:
        """Tell in what the directory differs from its files, one line for each file; empty when it is as it should be.

        Files that are hard links to their verified blob, or that have the fixed modification time and the right size,
        are not read.
        """
        if not self.path.is_dir() or self.path.is_symlink():
            return ["the directory is missing"]
        found = {
            str(entry.relative_to(self.path)): entry
            for entry in self.path.rglob("*")
            if not entry.is_dir() or entry.is_symlink()
        }
        lines = [f"{path}: not expected" for path in sorted(set(found) - {file.path for file in self.files})]
        for file in self.files:
            if file.path not in found:
                lines.append(f"{file.path}: missing")
            elif not self._same(found[file.path], file):
                lines.append(f"{file.path}: other content")
        return sorted(lines)

    def _same(self, path: Path, file: ContentFile) -> bool:
        entry = path.lstat()
        if not stat.S_ISREG(entry.st_mode) or (file.size not in (-1, entry.st_size)):
            return False
        if int(entry.st_mtime) == VERIFIED_MTIME:
            with contextlib.suppress(OSError):
                blob = self.store.blob(file.sha256).lstat()
                if (blob.st_ino, blob.st_dev) == (entry.st_ino, entry.st_dev):
                    return True
        return sha256_of(path) == file.sha256

    def build(
        self,
        owner: str = "root",
        group: str = "root",
        dir_mode: int = 0o755,
        file_mode: int = BLOB_MODE,
        verify: t.Callable[[Path], None] | None = None,
    ) -> None:
        """Build the directory beside its place and give it its name when it is complete.

        A directory that is there already is replaced, by two renames.

        :param owner: user name or number of the directories, and of files that are not links.
        :param group: likewise.
        :param dir_mode: permissions of the directories.
        :param file_mode: permissions of the files. Anything but 0444 and root means copies instead of links.
        :param verify: is called with the complete directory before it gets its name; raises to refuse it.
        :raises ContentError: from ``verify``; a user or group that does not exist.
        """
        user, members = owner_ids(owner, group)
        self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(prefix=f"{_STAGING_PREFIX}{self.path.name}-", dir=self.path.parent))
        aside: Path | None = None
        linked = file_mode == BLOB_MODE and (user, members) == (os.geteuid(), os.getegid())
        try:
            for file in self.files:
                target = staged / file.path
                target.parent.mkdir(parents=True, exist_ok=True)
                if linked:
                    self.store.revalidate(file.sha256)
                    self.store.place(file.sha256, target)
                else:
                    shutil.copyfile(self.store.blob(file.sha256), target)
                    target.chmod(file_mode)
                    os.chown(target, user, members)
                    os.utime(target, (VERIFIED_MTIME, VERIFIED_MTIME))
            for folder in [staged, *(entry for entry in staged.rglob("*") if entry.is_dir())]:
                folder.chmod(dir_mode)
                os.chown(folder, user, members)
            if verify is not None:
                verify(staged)
            if self.exists():
                aside = Path(tempfile.mkdtemp(prefix=f"{_STAGING_PREFIX}old-", dir=self.path.parent))
                self.path.rename(aside / "replaced")
            try:
                staged.rename(self.path)
            except OSError:
                if aside is not None:
                    (aside / "replaced").rename(self.path)
                raise
        finally:
            shutil.rmtree(staged, ignore_errors=True)
            if aside is not None:
                shutil.rmtree(aside, ignore_errors=True)

    def remove(self) -> None:
        """Remove the directory under its own name first, so that nobody sees half of it."""
        aside = Path(tempfile.mkdtemp(prefix=f"{_STAGING_PREFIX}old-", dir=self.path.parent))
        try:
            self.path.rename(aside / "removed")
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def sweep(parent: Path) -> None:
    """Remove what an interrupted build left in the parent of some directories."""
    if parent.is_dir():
        for entry in parent.iterdir():
            if entry.name.startswith(_STAGING_PREFIX):
                shutil.rmtree(entry, ignore_errors=True)

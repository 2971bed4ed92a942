# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the artifacts lock and keep what it names on the control node, by sha256.

This is the only code of the collection that fetches from outside. What was fetched lies in ``<cache>/sha256/<hash>``;
a bundle directory has the same layout and is looked into first, so a site without internet differs in one variable.
Downloads get their name only when their hash is right, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import typing as t
import zipfile
from pathlib import Path

from ansible_collections.ai102.inference.plugins.module_utils._content import sha256_of

#: Platforms whose wheels run on every supported host (the oldest has glibc 2.35), as pip names them.
PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)),
    "manylinux2014_x86_64",
    "manylinux2010_x86_64",
    "manylinux1_x86_64",
    "linux_x86_64",
)
#: Seconds since the epoch that built archives carry as the time of their members (2020-01-01 UTC).
SOURCE_DATE_EPOCH = 1577836800
_CHUNK = 1 << 20
_WHEEL_LINE = re.compile(r"# (?P<filename>\S+\.whl) (?P<size>\d+)\Z")
_PIN_LINE = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+) --hash=sha256:(?P<sha256>[0-9a-f]{64})\Z")
_SOURCE = ("pyproject.toml", "README*", "LICENSE*", "hatch_build.py", "src/**/*")


class ArtifactError(Exception):
    """Something that is locked cannot be had; the message says what, from where, and what to do."""


class Wheel(t.NamedTuple):
    """One wheel of a Python lock; ``size`` in bytes."""

    name: str
    version: str
    filename: str
    sha256: str
    size: int


class Report(t.Protocol):
    """Takes one line about something that takes long."""

    def __call__(self, message: str) -> None:
        """Show the line."""


def _say_nothing(message: str) -> None:
    """Take a line and drop it."""
    del message


def parse_python_lock(text: str) -> list[Wheel]:
    """Read a lock as ``tools/lock.py`` writes it: a comment with file name and size, then the pin with one hash.

    :raises ArtifactError: a line that is neither.
    """
    wheels: list[Wheel] = []
    filename, size = "", 0
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if described := _WHEEL_LINE.match(line):
            filename, size = described["filename"], int(described["size"])
        elif pinned := _PIN_LINE.match(line):
            if not filename:
                raise ArtifactError(f"line {number} of the Python lock has no file name above it: {line}")
            wheels.append(Wheel(pinned["name"], pinned["version"], filename, pinned["sha256"], size))
            filename = ""
        elif line and not line.startswith("#"):
            raise ArtifactError(f"line {number} of the Python lock is not a pin with one sha256: {line}")
    return wheels


def render_requirements(wheels: t.Iterable[Wheel]) -> str:
    """Return the wheels as a requirements file for ``pip --require-hashes``."""
    return "".join(f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n" for wheel in wheels)


def rewrite_url(url: str, rewrites: t.Mapping[str, str]) -> str:
    """Replace the longest prefix of an address that a site has a mirror for."""
    for prefix in sorted(rewrites, key=len, reverse=True):
        if url.startswith(prefix):
            return rewrites[prefix] + url[len(prefix) :]
    return url


def source_files(project: Path) -> list[Path]:
    """List the files of a Python project that its wheel is made of, sorted, relative to it.

    Tests, caches and whatever else lies beside the sources do not count, so they do not make another wheel.
    """
    found = {path for pattern in _SOURCE for path in project.glob(pattern)}
    return sorted(
        path.relative_to(project)
        for path in found
        if path.is_file()
        and path.suffix != ".pyc"
        and not any(part == "__pycache__" or part.endswith(".egg-info") for part in path.relative_to(project).parts)
    )


def source_digest(project: Path) -> str:
    """Return a digest of a project's names and contents; times and permissions do not count.

    :raises ArtifactError: there is no project.
    """
    if not (project / "pyproject.toml").is_file():
        raise ArtifactError(f"{project} has no pyproject.toml, so no wheel can be built of it")
    digest = hashlib.sha256()
    for path in source_files(project):
        digest.update(f"{path}\0{sha256_of(project / path)}\n".encode())
    return digest.hexdigest()


class Cache:
    """What the control node has fetched or built.

    :param path: the directory; made when it is needed.
    :param bundle: a directory of the same layout that is looked into first, or nothing.
    :param online: whether anything may be fetched from outside.
    :param report: takes one line for each long step.
    """

    def __init__(
        self, path: str | os.PathLike[str], bundle: str = "", online: bool = True, report: Report | None = None
    ) -> None:
        self.path = Path(path).expanduser()
        self.bundle = Path(bundle).expanduser() if bundle else None
        self.online = online
        self.report: Report = report or _say_nothing

    def find(self, sha256: str, size: int = -1) -> Path | None:
        """Return where content lies on the control node, or nothing.

        Content of the cache was verified when it came. Content of a bundle is verified here, when it is copied.

        :param size: in bytes; a file of another size is not taken; -1 when it is not known.
        """
        cached = self.path / "sha256" / sha256
        if cached.is_file() and size in (-1, cached.stat().st_size):
            return cached
        if self.bundle is not None:
            packed = self.bundle / "sha256" / sha256
            if packed.is_file():
                return self.store(packed, sha256, f"{packed} (bundle)")
        return None

    def has(self, sha256: str, size: int = -1) -> bool:
        """Tell whether content is on the control node, without copying anything."""
        cached = self.path / "sha256" / sha256
        if cached.is_file() and size in (-1, cached.stat().st_size):
            return True
        return self.bundle is not None and (self.bundle / "sha256" / sha256).is_file()

    def store(self, source: Path, sha256: str, origin: str) -> Path:
        """Copy a file into the cache.

        :param origin: where it comes from, for the message.
        :raises ArtifactError: its sha256 is another one.
        """
        with source.open("rb") as handle:
            return self.store_stream(handle, sha256, origin)

    def store_stream(self, stream: t.Any, sha256: str, origin: str) -> Path:
        """Read a stream into the cache; the file gets its name when its sha256 is right.

        :param stream: has ``read(bytes)``.
        :raises ArtifactError: the sha256 is another one.
        """
        target = self.path / "sha256" / sha256
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".fetching-", dir=target.parent)
        staged = Path(name)
        try:
            digest = hashlib.sha256()
            with os.fdopen(descriptor, "wb") as handle:
                while chunk := stream.read(_CHUNK):
                    digest.update(chunk)
                    handle.write(chunk)
            if digest.hexdigest() != sha256:
                raise ArtifactError(f"{origin} has sha256 {digest.hexdigest()}, the lock says {sha256}: refused")
            staged.chmod(0o644)
            staged.replace(target)
        finally:
            staged.unlink(missing_ok=True)
        return target

    @contextlib.contextmanager
    def lock(self, name: str) -> t.Iterator[None]:
        """Hold a lock among the processes of the control node, so that parallel hosts fetch or build once."""
        folder = self.path / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{name}.lock").open("w", encoding="utf-8") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _offline(self, what: str) -> ArtifactError:
        place = f"the bundle {self.bundle}" if self.bundle else "the cache"
        return ArtifactError(
            f"{what} is neither in the cache {self.path} nor in {place}, and artifacts_source is 'bundle': "
            "make the bundle again on a machine with internet"
        )

    def file(self, url: str, sha256: str, size: int, fetch: t.Callable[[str], t.Any], retries: int = 3) -> Path:
        """Have one file of the lock on the control node.

        :param url: where it is online.
        :param size: in bytes; -1 when the lock does not say.
        :param fetch: opens an address and returns a stream.
        :param retries: how often it is tried.
        :raises ArtifactError: it cannot be had, or is not what the lock says.
        """
        with self.lock(sha256):
            if found := self.find(sha256, size):
                return found
            if not self.online:
                raise self._offline(url)
            failure: Exception | None = None
            for _attempt in range(max(1, retries)):
                self.report(f"fetching {url}")
                try:
                    return self.store_stream(fetch(url), sha256, url)
                except ArtifactError:
                    raise
                except OSError as error:  # of which the errors of urllib are kinds
                    failure = error
            raise ArtifactError(f"cannot fetch {url}: {failure}")

    def wheels(self, wheels: t.Sequence[Wheel], python: str, retries: int = 3) -> dict[str, Path]:
        """Have wheels of a lock on the control node.

        :param python: version of the Python they are for, such as ``3.11``.
        :returns: sha256 → path in the cache.
        :raises ArtifactError: one cannot be had.
        """
        with self.lock("wheels"):
            absent = [wheel for wheel in wheels if self.find(wheel.sha256, wheel.size) is None]
            if absent:
                if not self.online:
                    raise self._offline(", ".join(wheel.filename for wheel in absent))
                self._download(absent, python, retries)
            return {wheel.sha256: self.path / "sha256" / wheel.sha256 for wheel in wheels}

    def _download(self, wheels: t.Sequence[Wheel], python: str, retries: int) -> None:
        """Fetch wheels with the pip of the interpreter that runs Ansible, in groups, and keep each group at once."""
        total = sum(wheel.size for wheel in wheels)
        free = shutil.disk_usage(self.path).free
        if free < 2 * total:
            raise ArtifactError(
                f"{len(wheels)} wheels of {total >> 20} MiB need {2 * total >> 20} MiB in {self.path}, "
                f"{free >> 20} MiB are free"
            )
        self.report(f"fetching {len(wheels)} wheels for Python {python}, {total / 1e6:.0f} MB")
        group: list[Wheel] = []
        for wheel in sorted(wheels, key=lambda item: item.size):
            group.append(wheel)
            if sum(item.size for item in group) > 128 << 20:
                self._download_group(group, python, retries)
                group = []
        if group:
            self._download_group(group, python, retries)

    def _download_group(self, wheels: t.Sequence[Wheel], python: str, retries: int) -> None:
        with tempfile.TemporaryDirectory(prefix=".pip-", dir=self.path) as scratch:
            requirements = Path(scratch, "requirements.txt")
            requirements.write_text(render_requirements(wheels), encoding="utf-8")
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--require-hashes",
                "--no-input",
            ]
            command += ["--disable-pip-version-check", "--no-cache-dir", "--only-binary", ":all:", "--dest", scratch]
            command += ["--implementation", "cp", "--python-version", python, "--retries", str(retries)]
            for platform in PLATFORMS:
                command += ["--platform", platform]
            abi = "cp" + python.replace(".", "")
            command += ["--abi", abi, "--abi", "abi3", "--abi", "none", "--requirement", str(requirements)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                lines = [
                    line for line in done.stderr.splitlines() if line.startswith("ERROR")
                ] or done.stderr.splitlines()
                raise ArtifactError(f"pip cannot fetch {len(wheels)} wheels of the lock: {' '.join(lines)[-2000:]}")
            fetched = {sha256_of(path): path for path in Path(scratch).glob("*.whl")}
            for wheel in wheels:
                if wheel.sha256 not in fetched:
                    raise ArtifactError(f"pip did not bring {wheel.filename} with the sha256 of the lock")
                self.store(fetched[wheel.sha256], wheel.sha256, wheel.filename)

    def member(self, wheel: Wheel, member: str, sha256: str, retries: int = 3) -> Path:
        """Have one file out of a locked wheel on the control node.

        :param member: its path in the wheel.
        :param sha256: of the member.
        :raises ArtifactError: the wheel cannot be had, or the member is not what the lock says.
        """
        if found := self.find(sha256):
            return found
        # The wheel is only a container here; this Python is one that every project of the lock declares to support.
        archive = self.wheels([wheel], "3.11", retries)[wheel.sha256]
        with self.lock(sha256), zipfile.ZipFile(archive) as opened:
            try:
                stream = opened.open(member)
            except KeyError as error:
                raise ArtifactError(f"{wheel.filename} has no member {member}") from error
            with stream:
                return self.store_stream(stream, sha256, f"{member} in {wheel.filename}")

    def built(self, project: Path) -> Wheel | None:
        """Return the wheel that was built of a project as it is now, or nothing."""
        for root in (self.path, self.bundle):
            record = None if root is None else root / "built" / f"{source_digest(project)}.json"
            if record is not None and record.is_file():
                wheel = Wheel(**json.loads(record.read_text(encoding="utf-8")))
                if self.has(wheel.sha256, wheel.size):
                    return wheel
        return None

    def build(self, project: Path) -> tuple[Wheel, Path]:
        """Have the wheel of a project of ours, built on the control node once for each state of its sources.

        :returns: the wheel, and where it is.
        :raises ArtifactError: it cannot be built.
        """
        digest = source_digest(project)
        with self.lock("build"):
            known = self.built(project)
            if known is not None and (path := self.find(known.sha256, known.size)) is not None:
                return known, path
            self.report(f"building the wheel of {project}")
            with tempfile.TemporaryDirectory(prefix="ai102-build-") as scratch:
                tree = Path(scratch, "source")
                for path in source_files(project):
                    target = tree / path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(project / path, target)
                output = Path(scratch, "dist")
                command = [
                    sys.executable,
                    "-m",
                    "build",
                    "--wheel",
                    "--no-isolation",
                    "--outdir",
                    str(output),
                    str(tree),
                ]
                environment = {
                    **os.environ,
                    "SOURCE_DATE_EPOCH": str(SOURCE_DATE_EPOCH),
                    "PYTHONDONTWRITEBYTECODE": "1",
                }
                done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
                wheels = sorted(output.glob("*.whl")) if output.is_dir() else []
                if done.returncode or len(wheels) != 1:
                    raise ArtifactError(
                        f"cannot build the wheel of {project} (the control node needs `build` and `hatchling`): "
                        f"{(done.stdout + done.stderr).strip()[-2000:]}"
                    )
                name, version = wheels[0].name.split("-")[:2]
                wheel = Wheel(name, version, wheels[0].name, sha256_of(wheels[0]), wheels[0].stat().st_size)
                stored = self.store(wheels[0], wheel.sha256, wheel.filename)
            record = self.path / "built" / f"{digest}.json"
            record.parent.mkdir(parents=True, exist_ok=True)
            staged = record.with_suffix(".new")
            staged.write_text(json.dumps(wheel._asdict(), sort_keys=True), encoding="utf-8")
            staged.replace(record)
            return wheel, stored


def environment_digest(wheels: t.Sequence[Wheel], project_digest: str, python: str, flavour: str) -> str:
    """Name a virtual environment by what it consists of.

    The sources of our own wheel count, not the wheel: control nodes with another build tool name the same environment.

    :param project_digest: from ``source_digest``.
    :param python: version of the host's Python, such as ``3.11``.
    :param flavour: ``cpu`` or ``gpu``.
    :returns: 16 hexadecimal digits.
    """
    text = f"{flavour}\n{python}\n{project_digest}\n{render_requirements(wheels)}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def lock_entry(lock: t.Mapping[str, t.Any], kind: str, name: str) -> dict[str, t.Any]:
    """Return one entry of the lock.

    :param kind: ``files`` or ``models``.
    :raises ArtifactError: there is no such entry.
    """
    section = lock.get(kind) or {}
    if name not in section:
        known = ", ".join(sorted(section)) or "none"
        raise ArtifactError(f"the lock has no {kind[:-1]} {name!r}; it has: {known}")
    return dict(section[name])


def model_wheel(entry: t.Mapping[str, t.Any]) -> Wheel:
    """Return the wheel that carries a model of the lock."""
    wheel = entry["wheel"]
    return Wheel(wheel["project"], str(wheel["version"]), wheel["filename"], wheel["sha256"], int(wheel["size"]))

# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the server's container image, gives it to a registry, and tells what it consists of."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tempfile
import typing as t
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.ai102.inference.plugins.module_utils._artifacts import source_files
from ansible_collections.ai102.inference.plugins.module_utils._container_image import ImageError, explain, write_access
from ansible_collections.ai102.inference.plugins.module_utils._content import sha256_of

#: What a base of Debian needs for the server to run, and to be built.
RUN_PACKAGES: t.Final = ("ca-certificates", "libstdc++6", "passwd", "python3")
BUILD_PACKAGES: t.Final = (*RUN_PACKAGES, "python3-venv")
#: What nobody reads inside an image.
_LEFT_OUT: t.Final = ("/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*")
_BUILD_AUTHORITIES: t.Final = "/etc/ssl/certs/ai102-build.pem"
_VERSION: t.Final = re.compile(r'^__version__ = "(?P<version>[^"]+)"$', re.MULTILINE)
LABEL_INPUTS: t.Final = "ai102.inputs"
LABEL_FLAVOUR: t.Final = "ai102.flavour"


@dataclass(frozen=True)
class Recipe:
    """Everything that an image is made from.

    Attributes:
        project: Source tree of the server, with its ``Dockerfile``.
        lock_dir: Directory of the hashed locks.
        flavour: Which locks.
        base: Image that it stands on; not used with a release.
        base_release: Release of Debian of which a base is made instead.
        base_mirror: Lines of ``sources.list`` for that; Debian's own archive when empty.
        build_ca: PEM file of authorities that the package index is trusted by, while building only.
        build_args: Further arguments of the build.
    """

    project: Path
    lock_dir: Path
    flavour: str
    base: str = ""
    base_release: str = ""
    base_mirror: tuple[str, ...] = ()
    build_ca: str = ""
    build_args: t.Mapping[str, str] = field(default_factory=dict)

    def files(self) -> dict[str, Path]:
        """Name in the build's context → file, of everything that the build reads.

        :raises ImageError: something is missing.
        """
        names = set(source_files(self.project))
        found = {f"server/{name}": self.project / name for name in sorted(names)}
        for name in ("Dockerfile", "LICENSE", "README.md", "requirements-build.txt", "docker/config.yml"):
            found[f"server/{name}"] = self.project / name
        locks = sorted(self.lock_dir.glob(f"server-{self.flavour}-cp*.txt"))
        if not locks:
            raise ImageError(f"there is no lock of flavour {self.flavour!r} in {self.lock_dir}")
        found.update({f"roles/artifacts/files/python/{lock.name}": lock for lock in locks})
        if missing := [str(path) for path in found.values() if not path.is_file()]:
            raise ImageError(f"the image cannot be built without {', '.join(missing)}")
        return found

    def version(self) -> str:
        """Version of the server.

        :raises ImageError: its package does not say.
        """
        path = self.project / "src/ai102_server/__init__.py"
        found = _VERSION.search(path.read_text(encoding="utf-8")) if path.is_file() else None
        if found is None:
            raise ImageError(f"{path} does not say which version the server has")
        return found["version"]

    def bases(self) -> dict[str, str]:
        """Name of the base and of the one to build on, which differ only where they are made here."""
        if not self.base_release:
            return {"BASE": self.base}
        return {kind: f"ai102-base:{self._base_tag(kind)}" for kind in ("BASE", "BUILD_BASE")}

    def _base_tag(self, kind: str) -> str:
        return f"{self.base_release}-{hashlib.sha256(json.dumps(self._base_inputs(kind)).encode()).hexdigest()[:12]}"

    def _base_inputs(self, kind: str) -> list[t.Any]:
        packages = RUN_PACKAGES if kind == "BASE" else BUILD_PACKAGES
        authorities = sha256_of(Path(self.build_ca)) if self.build_ca and kind == "BUILD_BASE" else ""
        return [self.base_release, list(packages), list(self.base_mirror), list(_LEFT_OUT), authorities]

    def base_commands(self, kind: str) -> tuple[list[str], list[str], str]:
        """Commands that make a base and that take it in, and what the first one reads.

        :param kind: ``BASE`` or ``BUILD_BASE``.
        """
        packages = RUN_PACKAGES if kind == "BASE" else BUILD_PACKAGES
        make = ["mmdebstrap", "--quiet", "--variant=essential", f"--include={','.join(packages)}"]
        make += ['--aptopt=APT::Install-Recommends "false"', "--keyring=/usr/share/keyrings"]
        make += [f"--dpkgopt=path-exclude={path}" for path in _LEFT_OUT]
        take = ["import", "--change", 'CMD ["python3"]']
        if kind == "BUILD_BASE" and self.build_ca:
            make.append(f"--customize-hook=upload {self.build_ca} {_BUILD_AUTHORITIES}")
            take += ["--change", f"ENV PIP_CERT={_BUILD_AUTHORITIES}"]
        make += [self.base_release, "-"]
        lines = ""
        if self.base_mirror:
            make.append("-")
            lines = "".join(f"{line}\n" for line in self.base_mirror)
        return make, [*take, "-", self.bases()[kind]], lines

    def inputs(self) -> str:
        """Digest of everything that the image is made from, as far as it is known here."""
        total = hashlib.sha256()
        for name, path in sorted(self.files().items()):
            total.update(f"{name}\0{sha256_of(path)}\n".encode())
        total.update(json.dumps([self.flavour, self.bases(), dict(self.build_args)], sort_keys=True).encode())
        return total.hexdigest()

    def tag(self) -> str:
        """Tag of the image, the same for the same inputs."""
        return f"{self.version()}-{self.flavour}-{self.inputs()[:12]}"

    def fill(self, directory: Path) -> None:
        """Copy the build's context, and nothing else, into a directory."""
        for name, path in self.files().items():
            target = directory / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)

    def build_command(self, builder: str, name: str) -> list[str]:
        """Command that builds, run in the directory of the context."""
        labels = {
            LABEL_INPUTS: self.inputs(),
            LABEL_FLAVOUR: self.flavour,
            "org.opencontainers.image.version": self.version(),
        }
        command = [builder, "build", "--file", "server/Dockerfile", "--tag", name]
        arguments = {**self.bases(), "FLAVOUR": self.flavour, **self.build_args}
        for key, value in sorted(arguments.items()):
            command += ["--build-arg", f"{key}={value}"]
        for key, value in sorted(labels.items()):
            command += ["--label", f"{key}={value}"]
        return [*command, "."]


def _tail(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-15:])


def run(command: t.Sequence[str], what: str, cwd: Path | None = None, stdin: str | None = None) -> str:
    """Run a command and return what it printed.

    :raises ImageError: with its last lines, when it fails or is not installed.
    """
    try:
        done = subprocess.run(
            list(command), cwd=cwd, input=stdin or "", capture_output=True, text=True, errors="replace", check=False
        )
    except FileNotFoundError as error:
        raise ImageError(f"{what}: {command[0]} is not installed on the machine that builds") from error
    if done.returncode != 0:
        raise ImageError(f"{what} failed:\n{_tail(done.stdout + done.stderr)}")
    return done.stdout


class Builder:
    """Builds with Docker or Podman on this machine.

    :param program: ``docker`` or ``podman``.
    """

    def __init__(self, program: str) -> None:
        self.program = program

    def has(self, name: str) -> bool:
        """Tell whether there is an image of this name."""
        try:
            done = subprocess.run([self.program, "image", "inspect", name], capture_output=True, check=False)
        except FileNotFoundError as error:
            raise ImageError(f"{self.program} is not installed on the machine that builds") from error
        return done.returncode == 0

    def make_base(self, recipe: Recipe, kind: str) -> None:
        """Make a base of Debian's packages.

        :raises ImageError: the archive cannot be reached, mmdebstrap is not installed.
        """
        make, take, lines = recipe.base_commands(kind)
        with tempfile.TemporaryDirectory(prefix="ai102-base-") as directory:
            archive = Path(directory, "base.tar")
            make[make.index("-")] = str(archive)
            run(make, f"making a base of Debian {recipe.base_release}", stdin=lines)
            take[take.index("-")] = str(archive)
            run([self.program, *take], "taking the base in")

    def build(self, recipe: Recipe, name: str, renew: bool) -> None:
        """Build the image, and the base before it where it is made here.

        :param renew: whether to make the base, and every layer, anew.
        :raises ImageError: the build failed.
        """
        for kind, base in recipe.bases().items():
            if recipe.base_release and (renew or not self.has(base)):
                self.make_base(recipe, kind)
        with tempfile.TemporaryDirectory(prefix="ai102-build-") as directory:
            recipe.fill(Path(directory))
            command = recipe.build_command(self.program, name)
            if renew:
                fresh = ["--no-cache"] if recipe.base_release else ["--no-cache", "--pull"]
                command[2:2] = fresh
            run(command, "building the image", cwd=Path(directory))

    def source(self, name: str) -> str:
        """Name of an image as skopeo knows it."""
        return f"docker-daemon:{name}" if self.program == "docker" else f"containers-storage:localhost/{name}"


class Registry:
    """A registry, spoken to by skopeo, with an account and authorities that are given for this alone.

    :param address: address and port.
    :param directory: a directory that only this user can look into; the caller removes it.
    """

    def __init__(self, address: str, username: str, password: str, ca_path: str, directory: Path) -> None:
        self.address = address
        self._access = write_access(directory, address, username, password, ca_path)
        self._directory = directory

    def _skopeo(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(["skopeo", *arguments], capture_output=True, text=True, errors="replace", check=False)
        except FileNotFoundError as error:
            raise ImageError("skopeo is not installed on the machine that builds") from error

    def _access_as(self, side: str) -> list[str]:
        return [option.replace("--cert-dir", f"--{side}-cert-dir") for option in self._access]

    def digest(self, repository: str, tag: str) -> str | None:
        """Digest of a tag, or nothing when the registry does not have it.

        :raises ImageError: the registry does not answer, or not to us.
        """
        name = f"docker://{self.address}/{repository}:{tag}"
        done = self._skopeo("inspect", *self._access, "--no-tags", "--format", "{{.Digest}}", name)
        if done.returncode == 0:
            return done.stdout.strip()
        if "manifest unknown" in done.stderr or "name unknown" in done.stderr:
            return None
        raise ImageError(f"the registry {self.address} cannot be asked: {explain(done.stderr)}")

    def push(self, source: str, repository: str, tag: str) -> str:
        """Send an image, and return the digest under which the registry has it.

        :raises ImageError: it was refused.
        """
        said = self._directory / "digest"
        # Skopeo's policy says from where images may come; this one was built here.
        done = self._skopeo(
            "--insecure-policy",
            "copy",
            *self._access_as("dest"),
            "--retry-times=2",
            f"--digestfile={said}",
            source,
            f"docker://{self.address}/{repository}:{tag}",
        )
        if done.returncode != 0:
            raise ImageError(f"the image was not pushed to {self.address}: {explain(done.stderr)}")
        return said.read_text(encoding="utf-8").strip()

    def describe(self, repository: str, digest: str) -> dict[str, t.Any]:
        """Tell what an image in the registry consists of.

        :raises ImageError: it cannot be read.
        """
        name = f"docker://{self.address}/{repository}@{digest}"
        found: list[t.Any] = []
        for option in ("--raw", "--config"):
            done = self._skopeo("inspect", *self._access, option, name)
            if done.returncode != 0:
                raise ImageError(f"{name} cannot be read: {explain(done.stderr)}")
            found.append(json.loads(done.stdout))
        return describe(found[0], found[1])


def describe(manifest: t.Mapping[str, t.Any], config: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Tell what an image consists of, layer by layer, from its manifest and configuration."""
    sizes = [int(layer["size"]) for layer in manifest.get("layers", [])]
    steps = [
        re.sub(r"\s+", " ", str(step.get("created_by") or step.get("comment") or "base")).strip()
        for step in config.get("history", [])
        if not step.get("empty_layer")
    ]
    if len(steps) != len(sizes):
        steps = [""] * len(sizes)
    return {
        "compressed_bytes": sum(sizes),
        "layers": [{"bytes": size, "step": step[:120]} for size, step in zip(sizes, steps, strict=True)],
        "labels": dict((config.get("config") or {}).get("Labels") or {}),
        "created": str(config.get("created", "")),
    }

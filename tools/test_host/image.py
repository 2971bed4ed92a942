#!/usr/bin/env python3
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the images of the test hosts, ``ai102-test-host:<release>``, from Debian's archive.

An image is built again only when what it is made from has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _console import CACHE, ROOT, Failure, Stopwatch, apt_install, need_root, run, say

HERE = Path(__file__).resolve().parent
REPOSITORY = "ai102-test-host"
RELEASES = ("bookworm", "trixie")
# What the installer of a small server leaves behind, and what Ansible needs to begin.
PACKAGES = (
    "ca-certificates",
    "dbus",
    "iproute2",
    "openssh-server",
    "procps",
    "python3",
    "python3-apt",
    "sudo",
    "systemd",
    "systemd-sysv",
)
MIRROR = "http://deb.debian.org/debian"
SECURITY = "http://deb.debian.org/debian-security"
LABEL = "ai102.inputs"


def digest() -> str:
    """Identify everything an image is made from."""
    total = hashlib.sha256()
    for name in ("Dockerfile", "host-init", "image.py"):
        total.update((HERE / name).read_bytes())
    return total.hexdigest()[:16]


def is_current(release: str, inputs: str) -> bool:
    """Tell whether the image of this release was built from these inputs."""
    done = subprocess.run(
        [
            "docker",
            "image",
            "inspect",
            "--format",
            f'{{{{index .Config.Labels "{LABEL}"}}}}',
            f"{REPOSITORY}:{release}",
        ],
        check=False,
        text=True,
        capture_output=True,
    )
    return done.returncode == 0 and done.stdout.strip() == inputs


def build(release: str, inputs: str) -> None:
    """Build one image.

    Raises:
        Failure: No network to Debian's archive, no permission, no space.
    """
    need_root("build the image of the test hosts")
    apt_install(["mmdebstrap", "debian-archive-keyring"])
    log = CACHE / "logs" / f"image-{release}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    sources = "\n".join(
        (
            f"deb {MIRROR} {release} main",
            f"deb {MIRROR} {release}-updates main",
            f"deb {SECURITY} {release}-security main",
        )
    )
    base = f"{REPOSITORY}-base:{release}"
    with log.open("w") as sink:
        bootstrap = subprocess.Popen(
            [
                "mmdebstrap",
                "--quiet",
                "--mode=root",
                "--variant=minbase",
                f"--include={','.join(PACKAGES)}",
                '--aptopt=APT::Install-Recommends "false"',
                "--keyring=/usr/share/keyrings",
                release,
                "-",
                "-",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=sink,
        )
        assert bootstrap.stdin is not None
        assert bootstrap.stdout is not None
        bootstrap.stdin.write(f"{sources}\n".encode())
        bootstrap.stdin.close()
        imported = subprocess.run(
            ["docker", "import", "-", base], stdin=bootstrap.stdout, stdout=sink, stderr=sink, check=False
        )
        bootstrap.stdout.close()
        if bootstrap.wait() != 0 or imported.returncode != 0:
            raise Failure(
                f"mmdebstrap could not install Debian {release}. The end of {log.relative_to(ROOT)}:\n{_tail(log)}",
                f"check that {MIRROR} can be reached and that the disk is not full",
            )
        done = subprocess.run(
            [
                "docker",
                "build",
                "--quiet",
                f"--build-arg=BASE={base}",
                f"--label={LABEL}={inputs}",
                f"--tag={REPOSITORY}:{release}",
                ".",
            ],
            cwd=HERE,
            stdout=sink,
            stderr=sink,
            check=False,
        )
    if done.returncode != 0:
        raise Failure(f"docker build failed. The end of {log.relative_to(ROOT)}:\n{_tail(log)}")
    run(["docker", "image", "rm", "--no-prune", base], capture=True)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text().splitlines()[-15:])


def main() -> None:
    """Build what is missing or out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("releases", nargs="*", default=list(RELEASES), help=f"of {', '.join(RELEASES)} (default: all)")
    inputs = digest()
    for release in parser.parse_args().releases:
        watch = Stopwatch()
        if is_current(release, inputs):
            say(f"  {REPOSITORY}:{release} is up to date")
            continue
        say(f"  building {REPOSITORY}:{release}")
        build(release, inputs)
        say(f"  built {REPOSITORY}:{release} in {watch}")


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"error: {failure}")

#!/usr/bin/env python3
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes sure that a Docker daemon answers: installs docker.io and starts dockerd where there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from _console import CACHE, ROOT, Failure, Stopwatch, apt_install, need_root, need_space, say, succeeds

ANSWERS = ["docker", "version", "--format", "{{.Server.Version}}"]
START_SECONDS = 60
IMAGE_SPACE_MIB = 6000


def ensure() -> None:
    """Return when a daemon answers.

    Raises:
        Failure: Not root, no package, or the daemon does not start; the message holds the end of its log.
    """
    if not succeeds(ANSWERS):
        need_root("install and start Docker")
        apt_install(["docker.io", "iptables"])
        if not succeeds(ANSWERS):
            _start()
    need_space(Path("/var/lib/docker"), IMAGE_SPACE_MIB, "Docker with the test hosts' images")


def _start() -> None:
    if Path("/run/systemd/system").is_dir():
        say("  starting docker.service")
        subprocess.run(["systemctl", "start", "docker.service"], check=False)
        if succeeds(ANSWERS):
            return
    log = CACHE / "logs" / "dockerd.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    say(f"  starting dockerd in the background (log: {log.relative_to(ROOT)})")
    dockerd = shutil.which("dockerd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if dockerd is None:
        raise Failure("docker.io is installed, but there is no dockerd.", "apt-get install --reinstall docker.io")
    with log.open("w") as sink:
        daemon = subprocess.Popen(
            [dockerd], stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True, cwd="/"
        )
    watch = Stopwatch()
    while watch.seconds < START_SECONDS:
        if succeeds(ANSWERS):
            return
        if daemon.poll() is not None:
            break
        time.sleep(0.5)
    tail = "\n".join(log.read_text().splitlines()[-8:])
    raise Failure(
        f"dockerd does not run on this machine. The end of its log:\n{tail}",
        "containers need a machine (or a privileged container) that may create network and cgroup namespaces",
    )


if __name__ == "__main__":
    try:
        ensure()
    except Failure as failure:
        sys.exit(f"error: {failure}")

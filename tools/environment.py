#!/usr/bin/env python3
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the virtual environment of the checkout from the hashed lock, and again when the lock or the Python changes."""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from _console import CACHE, ROOT, Failure, Stopwatch, apt_install, need_space, say, succeeds

LOCK = ROOT / "requirements" / "dev.txt"
MINIMUM = (3, 11)
SPACE_MIB = 2500


def ensure(directory: Path) -> None:
    """Return when the environment holds exactly what the lock says.

    Args:
        directory: Where the environment is, or is made with the Python that runs this program.

    Raises:
        Failure: Python is too old, the disk is full, the package index cannot be reached, or a hash is wrong.
    """
    if sys.version_info < MINIMUM:
        raise Failure(
            f"Python {'.'.join(map(str, MINIMUM))} or newer is needed; this is {sys.version.split()[0]}.",
            "say which one to use: make PYTHON=python3.11 …",
        )
    stamp = directory / ".stamp"
    wanted = hashlib.sha256(f"{sys.version}\n{directory}\n".encode() + LOCK.read_bytes()).hexdigest()
    python = directory / "bin" / "python"
    if stamp.exists() and stamp.read_text() == wanted and succeeds([python, "-c", "import ansible, molecule"]):
        return
    watch = Stopwatch()
    need_space(directory, SPACE_MIB, "The virtual environment")
    log = CACHE / "logs" / f"{directory.name.lstrip('.')}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    if not succeeds([python, "-c", f"import sys; sys.exit(sys.version != {sys.version!r})"]):
        shutil.rmtree(directory, ignore_errors=True)
        if not succeeds([sys.executable, "-I", "-c", "import ensurepip, venv"]):
            apt_install([f"python3.{sys.version_info.minor}-venv"])
        say(f"  creating {directory.name} with Python {sys.version.split()[0]}")
        _logged(
            [sys.executable, "-I", "-m", "venv", str(directory)], log, "The virtual environment could not be created."
        )
    say(f"  installing the packages of {LOCK.relative_to(ROOT)} (a few minutes; log: {log.relative_to(ROOT)})")
    stamp.unlink(missing_ok=True)
    _logged(
        [
            str(python),
            "-I",  # a module of the working directory must not stand in for pip
            "-m",
            "pip",
            "install",
            "--no-input",
            "--disable-pip-version-check",
            "--progress-bar=off",
            "--require-hashes",
            "--no-deps",  # the lock is complete, but for what server/overrides.txt leaves out
            "--only-binary=:all:",
            f"--requirement={LOCK}",
        ],
        log,
        "The packages could not be installed.",
    )
    stamp.write_text(wanted)
    say(f"  {directory.name} is ready ({watch})")


def _logged(command: list[str], log: Path, message: str) -> None:
    with log.open("w") as sink:
        done = subprocess.run(command, check=False, stdout=sink, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        tail = "\n".join(log.read_text().splitlines()[-12:])
        raise Failure(
            f"{message} The end of {log.relative_to(ROOT)}:\n{tail}",
            "check that the package index can be reached (pip's own settings apply: PIP_INDEX_URL, PIP_CERT, proxies)",
        )


if __name__ == "__main__":
    try:
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("directory", type=Path, nargs="?", default=ROOT / ".venv")
        ensure(parser.parse_args().directory.resolve())
    except Failure as failure:
        sys.exit(f"error: {failure}")

# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the developer's commands share: running programs, telling progress, failing in one clear sentence."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache"


class Failure(Exception):
    """Something a person must know, in one message, without a traceback.

    Args:
        message: What went wrong.
        hint: What to do about it (empty: nothing to suggest).
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}\n  → {hint}" if hint else message)


def say(text: str) -> None:
    """Print one line of progress at once, also when the output goes to a file."""
    print(text, flush=True)


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    capture: bool = False,
    hint: str = "",
) -> str:
    """Run a program to its end.

    Args:
        command: Program and arguments.
        env: Additions to the environment.
        cwd: Working directory.
        capture: Return standard output instead of showing it.
        hint: What to do when it fails.

    Returns:
        Standard output when captured, else the empty string.

    Raises:
        Failure: The program is missing or ended with a status other than 0.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            check=False,
            text=True,
            stdout=subprocess.PIPE if capture else None,
            stderr=subprocess.PIPE if capture else None,
        )
    except FileNotFoundError as error:
        raise Failure(f"The program {words[0]} is not installed.", hint) from error
    if done.returncode != 0:
        detail = f"\n{done.stderr.strip()}" if capture and done.stderr else ""
        raise Failure(f"{shlex.join(words)} ended with status {done.returncode}.{detail}", hint)
    return done.stdout if capture else ""


def succeeds(command: Sequence[str | Path]) -> bool:
    """Tell whether a program exists and ends with status 0; its output is dropped."""
    try:
        return subprocess.run([str(word) for word in command], check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def need_root(what_for: str) -> None:
    """Raise Failure unless the process runs as root."""
    if os.geteuid() != 0:
        raise Failure(f"Only root can {what_for}.", f"run the same command as root: sudo {shlex.join(_command_line())}")


def _command_line() -> list[str]:
    """The make target a person typed, as far as it is known, else this program."""
    return ["make", *os.environ["MAKE_GOAL"].split()] if os.environ.get("MAKE_GOAL") else sys.argv


def need_space(path: Path, mebibytes: int, what_for: str) -> None:
    """Raise Failure when the file system that holds path has less than mebibytes MiB free."""
    place = path
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free // 2**20
    if free < mebibytes:
        raise Failure(
            f"{what_for} needs {mebibytes} MiB, but only {free} MiB are free in {place}.",
            "free some space, for instance with: docker system prune, apt-get clean, make clean",
        )


def apt_install(packages: Iterable[str]) -> None:
    """Install Debian packages that are missing, without recommended ones.

    Raises:
        Failure: Not root, no apt-get, or the archive cannot be reached.
    """
    wanted = [
        name
        for name in packages
        if "install ok installed" not in _output(["dpkg-query", "-W", "-f", "${Status}", name])
    ]
    if not wanted:
        return
    need_root(f"install {', '.join(wanted)}")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    hint = "check that the sources in /etc/apt can be reached: apt-get update"
    log = CACHE / "logs" / "apt.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    say(f"  installing {', '.join(wanted)} with apt-get (log: {log.relative_to(ROOT)})")
    with log.open("a") as sink:
        # An unreachable extra source must not matter as long as the packages are found.
        subprocess.run(["apt-get", "update", "-q"], check=False, stdout=sink, stderr=sink)
        done = subprocess.run(
            ["apt-get", "install", "-qy", "--no-install-recommends", *wanted],
            check=False,
            stdout=sink,
            stderr=sink,
            env={**os.environ, **quiet},
        )
    if done.returncode != 0:
        tail = "\n".join(log.read_text().splitlines()[-15:])
        raise Failure(f"apt-get could not install {', '.join(wanted)}:\n{tail}", hint)


def _output(command: Sequence[str]) -> str:
    try:
        return subprocess.run(command, check=False, text=True, capture_output=True).stdout
    except FileNotFoundError as error:
        raise Failure(f"{command[0]} is missing: this is not Debian or Ubuntu.") from error


class Stopwatch:
    """Seconds since it was made, for people."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Elapsed time in seconds."""
        return time.monotonic() - self._start

    def __str__(self) -> str:
        minutes, seconds = divmod(round(self.seconds), 60)
        return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"

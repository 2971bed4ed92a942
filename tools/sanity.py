#!/usr/bin/env python3
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs ansible-test's sanity tests on the collection as it is built, with nothing ignored."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from _console import CACHE, ROOT, Failure, Stopwatch, run, say

BIN = Path(sys.executable).parent
WORK = CACHE / "sanity"
# ansible-test fetches this script from a server of its own to put pip into its environments. Python has pip with it, so
# the package index is all that is needed.
GET_PIP = """\
import ensurepip
ensurepip.bootstrap()
"""


def build() -> Path:
    """Build the collection and install it where ansible-test expects one.

    Returns:
        The directory of the installed collection.
    """
    shutil.rmtree(WORK / "root", ignore_errors=True)
    run([BIN / "ansible-galaxy", "collection", "build", "--force", "--output-path", WORK / "built"], capture=True)
    archive = max((WORK / "built").glob("ai102-inference-*.tar.gz"), key=lambda path: path.stat().st_mtime)
    run(
        [
            *(BIN / "ansible-galaxy", "collection", "install", "--force", "--no-deps", "--offline"),
            *("--collections-path", WORK / "root", archive),
        ],
        capture=True,
    )
    collection = WORK / "root" / "ansible_collections" / "ai102" / "inference"
    # Seen from the checkout's repository these files are ignored ones, and ansible-test would skip them all. The server
    # is left out: it is a package of its own that Ansible never loads, with checks of its own.
    run(["git", "init", "--quiet", collection])
    (collection / ".git" / "info" / "exclude").write_text("/server/\n")
    run(["git", "add", "--all"], cwd=collection)
    return collection


def make_home() -> Path:
    """Make a home directory whose cache holds the script; the user's settings of pip apply there too."""
    home = WORK / "home"
    cache = home / ".ansible" / "test" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    source = (BIN.parent / "lib").glob("python*/site-packages/ansible_test/_internal/python_requirements.py")
    version = re.search(r"pip='([0-9.]+)'", next(source).read_text())
    if version is None:
        raise Failure("This ansible-test does not say which pip it wants.", "see get_venv_packages() in its source")
    (cache / f"get_pip_{version[1].replace('.', '_')}.py").write_text(GET_PIP)
    for name in (".config", ".pip", ".netrc", ".cache"):
        link, target = home / name, Path.home() / name
        if target.exists() and not link.is_symlink():
            link.symlink_to(target)
    return home


def check_ignores() -> None:
    """Fail when something is ignored."""
    for path in sorted((ROOT / "tests" / "sanity").glob("ignore-*.txt")):
        if path.read_text().strip():
            raise Failure(f"{path.relative_to(ROOT)} must stay empty.")


def main() -> None:
    """Build, install, test."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--test", action="append", default=[], help="only this test (may be repeated)")
    arguments = parser.parse_args()
    check_ignores()
    watch = Stopwatch()
    collection = build()
    say(f"  built and installed in {watch}")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    command = [str(BIN / "ansible-test"), "sanity", "--local", "--requirements", "--python", version, "--color", "no"]
    for name in arguments.test:
        command += ["--test", name]
    process = subprocess.Popen(
        command,
        cwd=collection,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "HOME": str(make_home()), "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"},
    )
    skipped = False
    for line in process.stdout or ():
        say(line.rstrip())
        skipped = skipped or "All targets skipped" in line
    if process.wait() != 0 or skipped:
        raise Failure("ansible-test sanity found something." if not skipped else "ansible-test saw no files.")
    say(f"  sanity passed on Python {version} in {watch}")


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"error: {failure}")

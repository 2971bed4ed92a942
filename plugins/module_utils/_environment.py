# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build, verify and prune virtual environments of delivered wheels."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import subprocess
import typing as t
from pathlib import Path

#: Written last: an environment without it was interrupted.
MARKER = ".complete.json"
#: Imports the modules that its arguments name, and tells what is installed and what ONNX Runtime can run on.
_PROOF = """
import importlib, importlib.metadata, json, sys
loaded = [importlib.import_module(name) for name in sys.argv[1:]]
runtimes = [module for module in loaded if hasattr(module, "get_available_providers")]
versions = {found.metadata["Name"]: found.version for found in importlib.metadata.distributions()}
print(json.dumps({"versions": versions, "providers": runtimes[0].get_available_providers() if runtimes else []}))
"""


class EnvironmentBuildError(Exception):
    """An environment cannot be built; the message carries the last words of the program that failed."""


def complete(path: Path) -> dict[str, t.Any] | None:
    """Return what was recorded when an environment was completed, or nothing when it is not complete."""
    try:
        record = json.loads((path / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or not (path / "bin" / "python").exists():
        return None
    return record


def _run(command: t.Sequence[str], what: str) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "PYTHON"))}
    # Neither configuration nor variables of the host may add a package index.
    environment.update({"PIP_CONFIG_FILE": os.devnull, "LC_ALL": "C.UTF-8"})
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise EnvironmentBuildError(f"{what} failed ({done.returncode}): {(done.stdout + done.stderr).strip()[-2000:]}")
    return done.stdout


def _check(python: str, left_out: t.Sequence[str]) -> None:
    """Have pip look whether the packages fit together.

    :raises EnvironmentBuildError: with every line of its findings, but those about packages left out on purpose.
    """
    command = [python, "-m", "pip", "--disable-pip-version-check", "--no-input", "check"]
    try:
        _run(command, "checking that the packages fit together")
    except EnvironmentBuildError as error:
        expected = tuple(f" requires {name}, which is not installed." for name in left_out)
        _what, _colon, found = str(error).partition(": ")
        if not all(line.endswith(expected) for line in found.splitlines()):
            raise


def build(
    path: Path,
    interpreter: str,
    wheels: Path,
    requirements: str,
    modules: t.Sequence[str],
    left_out: t.Sequence[str],
    record: t.Mapping[str, t.Any],
) -> dict[str, t.Any]:
    """Build a virtual environment at its final path; it is complete when its marker is there.

    :param interpreter: the Python it is made of.
    :param wheels: directory of the wheels.
    :param requirements: pins with hashes for all of them.
    :param modules: are imported to prove that it works.
    :param left_out: packages that may be missing.
    :param record: is kept in the marker.
    :returns: the record, with ``versions`` of what is installed and ONNX Runtime's ``providers``.
    :raises EnvironmentBuildError: after everything that was written is removed again.
    """
    shutil.rmtree(path, ignore_errors=True)
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        _run([interpreter, "-m", "venv", str(path)], "making the virtual environment (is python3-venv installed?)")
        python = str(path / "bin" / "python")
        pinned = path / "requirements.txt"
        pinned.write_text(requirements, encoding="utf-8")
        pip = [python, "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet"]
        install = [*pip, "install", "--no-index", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
        install += ["--no-cache-dir", "--find-links", str(wheels), "--requirement", str(pinned)]
        _run(install, "installing the wheels")
        _check(python, left_out)
        output = _run([python, "-I", "-c", _PROOF, *modules], f"importing {', '.join(modules)}")
        full: dict[str, t.Any] = {**record, **json.loads(output.strip().splitlines()[-1])}
        staged = path / f"{MARKER}.new"
        staged.write_text(json.dumps(full, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        staged.replace(path / MARKER)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    return full


def in_use(references: t.Iterable[str]) -> set[Path]:
    """Return the directories that symbolic links of some patterns point to.

    :param references: glob patterns of symbolic links.
    """
    targets = set()
    for pattern in references:
        for link in glob.glob(pattern):
            with contextlib.suppress(OSError):
                targets.add(Path(link).resolve())
    return targets


def removable(root: Path, current: str, references: t.Iterable[str], keep: int) -> list[Path]:
    """Choose the environments that may go: not the current one, none in use, not the newest of the others.

    :param keep: how many environments that are not in use stay.
    :returns: their paths, oldest first; what was interrupted is always among them.
    """
    if not root.is_dir():
        return []
    used = in_use(references)
    spare: list[tuple[float, Path]] = []
    broken: list[Path] = []
    for entry in root.iterdir():
        if not entry.is_dir() or entry.name == current or entry.resolve() in used:
            continue
        if complete(entry) is None:
            broken.append(entry)
        else:
            spare.append(((entry / MARKER).stat().st_mtime, entry))
    spare.sort()
    return sorted(broken) + [path for _time, path in spare[: max(0, len(spare) - keep)]]

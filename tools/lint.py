#!/usr/bin/env python3
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that reads the code and runs none of it."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from _console import ROOT, Failure
from _steps import Runner, Step

BIN = Path(sys.executable).parent
TOOLS = ROOT / "tools"


def tracked(*patterns: str) -> list[str]:
    """List files of the checkout, new ones included, that match one of the patterns."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    found = subprocess.run(command, cwd=ROOT, check=True, text=True, capture_output=True).stdout
    return [name for name in found.splitlines() if (ROOT / name).is_file()]


def shell_files() -> list[str]:
    """List the files of the checkout that a POSIX shell or bash runs."""
    first = {name: _first_line(ROOT / name) for name in tracked(":!*.py", ":!*.yml", ":!*.j2", ":!*.md", ":!*.json")}
    return [
        name
        for name, line in first.items()
        if line.startswith(b"#!") and line.split(b"/")[-1].split()[-1] in (b"sh", b"bash", b"dash")
    ]


def _first_line(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.readline(200).strip()


def steps() -> list[Step]:
    """Return the steps, the longest first."""
    # ansible-lint looks for its programs by name, and complains when it has to add their directory itself.
    path = {"PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}", "NO_COLOR": "1", "PY_COLORS": "0"}
    python: list[str | Path] = [sys.executable]
    mypy: list[str | Path] = [BIN / "mypy", "--no-color-output"]
    return [
        Step("ansible-lint", [[BIN / "ansible-lint", "--offline", "--nocolor", "--format=pep8"]], path),
        Step(
            "mypy",
            [
                [*mypy, "--package", "ansible_collections.ai102.inference.plugins"],
                ["env", "--chdir=server", *mypy],
                [*mypy, *tracked("tools/*.py")],
            ],
        ),
        Step("yamllint", [[BIN / "yamllint", "--strict", "--format=parsable", "."]]),
        Step("ruff", [[BIN / "ruff", "check", "."], [BIN / "ruff", "format", "--check", "."]]),
        Step("shellcheck", [[BIN / "shellcheck", *shell_files()]]),
        Step("hadolint", [[BIN / "hadolint", *tracked("*Dockerfile*")]]),
        Step("argument specs", [[*python, TOOLS / "check_specs.py"]]),
        Step("role READMEs", [[*python, TOOLS / "render_docs.py", "--check"]]),
        Step("changelog", [[BIN / "antsibull-changelog", "lint"]]),
    ]


def main() -> None:
    """Run all steps, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(step.name for step in steps())} (default: all)")
    wanted = parser.parse_args().names
    chosen = [step for step in steps() if not wanted or step.name in wanted]
    runner = Runner(len(chosen))
    runner.run(chosen)
    if not runner.summary():
        sys.exit(1)


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"error: {failure}")

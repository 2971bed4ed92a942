#!/usr/bin/env python3
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Unit tests of the plugins, the server and the tools, and the playbooks' syntax, with the Python that runs this."""

from __future__ import annotations

import sys
from pathlib import Path

from _console import ROOT, Failure
from _steps import Runner, Step
from models import MODELS

BIN = Path(sys.executable).parent


def steps(prefix: str = "") -> list[Step]:
    """Return the steps.

    Args:
        prefix: Put before each name.
    """
    pytest: list[str | Path] = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    playbook = BIN / "ansible-playbook"
    inventories = sorted(path.parent for path in (ROOT / "inventories").glob("*/hosts.yml"))
    playbooks = sorted((ROOT / "playbooks").glob("*.yml"))
    return [
        Step(
            f"{prefix}unit tests of the server",
            [[sys.executable, ROOT / "tools" / "models.py"], ["env", "--chdir=server", *pytest]],
            {"AI102_TEST_MODELS": str(MODELS)},
        ),
        Step(f"{prefix}unit tests of the plugins", [[*pytest, ROOT / "tests" / "unit"]]),
        Step(f"{prefix}unit tests of the tools", [[*pytest, ROOT / "tools" / "tests"]]),
        Step(
            f"{prefix}syntax of the playbooks",
            [
                [playbook, "--syntax-check", "-i", inventory, *playbooks, ROOT / "site.yml"]
                for inventory in inventories[:1]
            ],
        ),
    ]


def main() -> None:
    """Run all steps."""
    chosen = steps(f"Python {sys.version_info.major}.{sys.version_info.minor}: ")
    runner = Runner(len(chosen))
    runner.run(chosen)
    if not runner.summary():
        sys.exit(1)


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"error: {failure}")

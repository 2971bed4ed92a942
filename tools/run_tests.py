#!/usr/bin/env python3
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything CI runs, on a machine where nothing was installed by hand.

Two steps run at once, except the scenario of the whole site and the demo, which measure and have the machine for
themselves.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import docker_ready
import environment
from _console import ROOT, Failure, apt_install, say, succeeds

VENV = ROOT / ".venv"
TOOLS = ROOT / "tools"
SECOND_COLUMN = "3.13"  # with the newest ansible-core of the lock; .venv has the oldest
SITE = "site"
# Builds of drivers need both processors, and find in the compiler's cache what the one before has put there.
AFTER = {"upgrade_driver": "nvidia_driver"}
BROWSER = ("chromium", "chromium-driver")
DEMO_HOST = "ai102-demo-gateway1"


def find_python(version: str) -> Path | None:
    """Find an interpreter of a version that works, in the path or where pyenv keeps them."""
    candidates = [shutil.which(f"python{version}")]
    candidates += [str(path) for path in sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))]
    for candidate in candidates:
        if candidate and succeeds([candidate, "-c", "import ensurepip, venv"]):
            return Path(candidate)
    return None


def main() -> None:
    """Make the environment, go on in it, and run the steps."""
    if Path(sys.prefix) != VENV:
        say("virtual environment of the control node")
        environment.ensure(VENV)
        os.execv(VENV / "bin" / "python", [str(VENV / "bin" / "python"), *sys.argv])
    say("Docker")
    docker_ready.ensure()
    say("a browser for the server's page")
    apt_install(BROWSER)
    # These need the environment.
    import lint
    import run_molecule
    import unit
    from _steps import LOGS, Runner, Step

    python = sys.executable
    quick = [
        Step("images of the test hosts", [[python, TOOLS / "test_host" / "image.py"]]),
        Step("sanity on the built collection", [[python, TOOLS / "sanity.py"]]),
        *lint.steps(),
        *unit.steps(),
    ]
    if second := find_python(SECOND_COLUMN):
        directory = ROOT / ".cache" / f"venv-{SECOND_COLUMN}"
        commands = [[second, TOOLS / "environment.py", directory], [directory / "bin" / "python", TOOLS / "unit.py"]]
        quick.insert(2, Step(f"units on Python {SECOND_COLUMN}", commands))
    else:
        say(f"there is no Python {SECOND_COLUMN} here: the newer ansible-core is left to the machines that have it")
    scenarios = {
        name: Step(
            f"scenario {name}",
            [[python, TOOLS / "run_molecule.py", name]],
            after=f"scenario {AFTER[name]}" if name in AFTER else "",
            detail=LOGS / f"molecule-{name}.log",
        )
        for name in run_molecule.all_scenarios()
    }
    site = [scenarios.pop(SITE)] if SITE in scenarios else []
    if succeeds(["docker", "container", "inspect", DEMO_HOST]):
        say("the demo's hosts are there already: they are left alone, and the demo is not a step of this run")
    else:
        demo = TOOLS / "demo.py"
        site.append(Step("demo, from bare hosts to predictions", [[python, demo], [python, demo, "--remove"]]))
    runner = Runner(len(quick) + len(scenarios) + len(site))
    runner.run(quick)
    if runner.passed(quick[0]):
        runner.run(list(scenarios.values()))
        runner.run(site, workers=1)
    else:
        say("without the images of the test hosts no scenario can run")
    if not runner.summary():
        sys.exit(1)


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"error: {failure}")

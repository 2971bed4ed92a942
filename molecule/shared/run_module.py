"""Runs one module of the collection on one host of a scenario, as a task would. For scenarios' ``conftest.py``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

PROJECT = Path(__file__).resolve().parents[2]


class Module(Protocol):
    """Runs a module with options on the test's host."""

    def __call__(
        self, name: str, /, environment: Mapping[str, str] | None = None, expect: str = "", **options: Any
    ) -> dict[str, Any]:
        """Return the module's result.

        Args:
            name: Of the module, without the collection's.
            environment: Added to the control node's variables.
            expect: How it has to end: ``changed``, ``ok`` or ``failed``; empty takes any.
            options: Of the module.
        """


def runner(scenario: Path, host: str) -> Module:
    """Return what runs modules on a host of a scenario.

    Args:
        scenario: The scenario's directory.
        host: Its name in the inventory.
    """

    def run(
        name: str, /, environment: Mapping[str, str] | None = None, expect: str = "", **options: Any
    ) -> dict[str, Any]:
        command = [str(Path(sys.executable).with_name("ansible")), host, "--one-line"]
        for inventory in (PROJECT / "molecule/shared/hosts.yml", scenario / "hosts.yml"):
            command += ["--inventory", str(inventory)]
        command += ["--module-name", f"ai102.inference.{name}"]
        if options:  # `{}` would be taken for the raw text of a command
            command += ["--args", json.dumps(options)]
        variables = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(PROJECT / ".collections"), **(environment or {})}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables, timeout=180)
        lines = [line for line in done.stdout.splitlines() if " => " in line]
        assert lines, done.stdout + done.stderr
        head, _arrow, body = lines[-1].partition(" => ")
        result: dict[str, Any] = json.JSONDecoder().raw_decode(body)[0]  # colours may follow
        ended = "failed" if "FAILED" in head else "changed" if result.get("changed") else "ok"
        assert not expect or ended == expect, lines[-1]
        return result

    return run

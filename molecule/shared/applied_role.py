"""Applies a role to one host of a scenario, and says what it did. For the scenario's tests."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from testinfra.host import Host

PROJECT = Path(__file__).resolve().parents[2]


@dataclass
class Applied:
    """What a run of the role did."""

    returncode: int
    output: str
    changed: int

    @property
    def flat(self) -> str:
        """The output with line breaks and indentation folded, so that a message can be searched."""
        return re.sub(r"\s+", " ", self.output)


class Apply(Protocol):
    """Applies the role to the test's host."""

    def __call__(self, entry: str = "main", **variables: Any) -> Applied:
        """Call an entry point with variables that win over the inventory's."""


def applier(scenario: Path, host: Host) -> Apply:
    """Return what applies the role to a host: the scenario's ``role.yml`` calls the entry point."""

    def run(entry: str = "main", **variables: Any) -> Applied:
        command = [str(Path(sys.executable).with_name("ansible-playbook"))]
        for inventory in (PROJECT / "molecule/shared/hosts.yml", scenario / "hosts.yml"):
            command += ["--inventory", str(inventory)]
        command += ["--limit", host.backend.name, "--extra-vars", json.dumps({**variables, "entry": entry})]
        done = subprocess.run(
            [*command, str(scenario / "role.yml")],
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
            env={
                **os.environ,
                "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"),
                "ANSIBLE_NOCOLOR": "1",
                "ANSIBLE_FORCE_COLOR": "0",
            },
        )
        changed = re.search(r"changed=(\d+)", done.stdout.rpartition("PLAY RECAP")[2])
        output = done.stdout + done.stderr
        print(output[-6000:])
        return Applied(done.returncode, output, int(changed[1]) if changed else -1)

    return run


def packages(host: Host) -> set[str]:
    """Everything that is installed, in the form that the preparation has written."""
    return set(host.check_output(r"dpkg-query -W -f '${db:Status-Abbrev} ${Package} ${Version}\n'").splitlines())

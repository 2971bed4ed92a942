"""A running site to ask and to hurt: the playbooks as an operator runs them, and commands on the hosts."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml

PROJECT = Path(__file__).resolve().parents[2]
NAME = os.environ["MOLECULE_SCENARIO_NAME"]
SCENARIO = PROJECT / "molecule" / NAME
STATE = PROJECT / ".cache/molecule" / NAME
INVENTORY = yaml.safe_load((SCENARIO / "hosts.yml").read_text())["all"]
CA_BUNDLE = STATE / "secrets/pki/ca-bundle.pem"
UNIT = "ai102-inference-server.service"


@dataclass(frozen=True)
class SiteHost:
    """A host of the site: its name in the inventory, its address and its container."""

    name: str
    address: str
    container: str
    tiers: frozenset[str]

    def run(self, *command: str, check: bool = True, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command on the host, beside Ansible and SSH."""
        return subprocess.run(
            ["docker", "exec", "-i", self.container, *command],
            capture_output=True,
            text=True,
            check=check,
            input=stdin,
            timeout=120,
        )

    def sh(self, script: str) -> str:
        """Run a shell script on the host and give what it printed."""
        return self.run("sh", "-c", script).stdout.strip()


@dataclass
class Played:
    """What a run of ansible-playbook did."""

    returncode: int
    output: str
    recap: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def changed(self) -> dict[str, int]:
        """Hosts with changes, and how many."""
        return {host: counts["changed"] for host, counts in self.recap.items() if counts["changed"]}

    @property
    def flat(self) -> str:
        """The output with line breaks and indentation folded, so that a message can be searched."""
        return re.sub(r"\s+", " ", self.output)


class Play(Protocol):
    """Runs a playbook on the site."""

    def __call__(self, *arguments: str, playbook: str = "site.yml", timeout: int = 900) -> Played:
        """Run it with these arguments beside the inventory, and give what it did."""


def read_hosts() -> dict[str, SiteHost]:
    """The hosts of the scenario by name."""
    tree = INVENTORY["children"]
    container = INVENTORY["vars"].get("test_host_container", "{{ inventory_hostname }}")
    addresses: dict[str, str] = {}
    tiers: dict[str, set[str]] = {}
    for tier, group in tree.items():
        for name, variables in group["hosts"].items():
            tiers.setdefault(name, set()).add(tier)
            if variables:
                addresses[name] = variables["test_host_address"]
    return {
        name: SiteHost(name, addresses[name], container.replace("{{ inventory_hostname }}", name), frozenset(found))
        for name, found in tiers.items()
    }


def play_site(*arguments: str, playbook: str = "site.yml", timeout: int = 900) -> Played:
    """Run a playbook of the collection on the site, as an operator does."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    environment.update(
        ANSIBLE_CONFIG=str(PROJECT / "ansible.cfg"),
        ANSIBLE_NOCOLOR="1",
        MOLECULE_PROJECT_DIRECTORY=str(PROJECT),
        MOLECULE_SCENARIO_NAME=NAME,
    )
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            f"--inventory={PROJECT}/molecule/shared/hosts.yml",
            f"--inventory={SCENARIO}/hosts.yml",
            playbook,
            *arguments,
        ],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    output = done.stdout + done.stderr
    recap = {
        match["host"]: {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", match["counts"])}
        for match in re.finditer(r"^(?P<host>\S+)\s+: (?P<counts>ok=\d+ .*)$", done.stdout, re.MULTILINE)
    }
    log = STATE / "logs"
    log.mkdir(parents=True, exist_ok=True)
    test = os.environ.get("PYTEST_CURRENT_TEST", "play").split("::")[-1].split()[0]
    name = f"{len(list(log.iterdir())):03d}-{test}.log"
    (log / name).write_text(f"{playbook} {' '.join(arguments)}\n{output}")
    return Played(done.returncode, output, recap)


class Load:
    """The bounded load of ``benchmarks/load.py`` beside the test: four clients that pause so many seconds."""

    def __init__(self, address: str, body: Path, seconds: int, pause: float = 0.05) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable,
                str(PROJECT / "benchmarks/load.py"),
                f"https://{address}/v2/models/file-type/infer",
                f"--body={body}",
                f"--ca={CA_BUNDLE}",
                f"--server-name={INVENTORY['vars']['ai102_service_name']}",
                f"--duration={seconds}",
                "--concurrency=4",
                f"--pause={pause}",
                "--upstream-header=X-Served-By",
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        time.sleep(2)

    def figures(self) -> dict[str, Any]:
        """Wait for the end and give the figures."""
        output, _errors = self.process.communicate(timeout=300)
        found: dict[str, Any] = json.loads(output)
        print(json.dumps(found))
        return found

    def end(self) -> dict[str, Any]:
        """End the load early and give the figures."""
        time.sleep(2)
        self.process.send_signal(signal.SIGINT)
        return self.figures()


def another_release(directory: Path, line: str) -> Path:
    """Copy the server's source tree and add a line to its package, which makes another release of it."""
    source = directory / "server"
    shutil.copytree(PROJECT / "server", source, ignore=shutil.ignore_patterns("__pycache__", "tests", ".*"))
    package = source / "src/ai102_server/__init__.py"
    package.write_text(f"{package.read_text()}\n{line}\n")
    return source

"""Helpers of the gateway's tests: ask it, load it, misguide its inference hosts, run Ansible."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testinfra.host import Host

ROOT = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
SCENARIO = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])
STATE = ROOT / ".cache" / "molecule" / "gateway"
NAME = "inference.gateway.test"
BACKENDS = ("ai102-mol-gateway-b1", "ai102-mol-gateway-b2")
INFER = "/v2/models/double/infer"
BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1.5, 2.0]}]}


@dataclass
class Reply:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def error(self) -> str:
        """The text of a V2 error object, which has nothing else."""
        document = json.loads(self.text)
        assert list(document) == ["error"]
        assert self.headers["content-type"] == "application/json"
        return str(document["error"])


class Gateway:
    """A gateway as a client sees it."""

    def __init__(self, name: str, address: str) -> None:
        self.name, self.address = name, address
        self.pki = STATE / "pki" / name
        self.body = STATE / "body.json"
        self.body.write_text(json.dumps(BODY))

    def ask(self, path: str = INFER, *arguments: str, port: int = 443) -> Reply:
        """Ask by curl with full verification; a POST of the body for inference."""
        post = ["--data", f"@{self.body}"] if path.endswith(INFER) and "--data-binary" not in arguments else []
        done = self.curl(path, "--include", *post, *arguments, port=port)
        assert done.returncode == 0, done.stderr
        head, _empty, text = done.stdout.replace("\r\n", "\n").partition("\n\n")
        if " 100 " in head.splitlines()[0]:  # the permission to send a large body
            head, _empty, text = text.partition("\n\n")
        lines = head.splitlines()
        headers = {name.lower(): value.lower() for name, _colon, value in (line.partition(": ") for line in lines[1:])}
        return Reply(int(lines[0].split()[1]), headers, text)

    def curl(self, path: str, *arguments: str, port: int = 443) -> subprocess.CompletedProcess[str]:
        """Run curl."""
        command = ["curl", "--silent", "--show-error", "--max-time", "20", "--path-as-is"]
        command += ["--cacert", str(self.pki / "root_ca.pem"), "--resolve", f"{NAME}:{port}:{self.address}"]
        return subprocess.run(
            [*command, *arguments, f"https://{NAME}:{port}{path}"], capture_output=True, text=True, check=False
        )

    def load(self, *arguments: str, duration: float = 4, concurrency: int = 8) -> Load:
        """Begin a load."""
        command = [sys.executable, str(ROOT / "benchmarks" / "load.py"), f"https://{self.address}{INFER}"]
        command += ["--ca", str(self.pki / "root_ca.pem"), "--server-name", NAME, "--body", str(self.body)]
        command += ["--duration", str(duration), "--concurrency", str(concurrency), *arguments]
        return Load(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))


@dataclass
class Load:
    """A load that is running."""

    process: subprocess.Popen[str]

    def result(self) -> dict[str, Any]:
        """Wait for its end, and print the figures for who reads the log."""
        text, _nothing = self.process.communicate(timeout=60)
        figures: dict[str, Any] = json.loads(text)
        print(
            {
                k: figures[k]
                for k in ("requests", "failures", "resent", "requests_per_second", "latency_ms", "upstreams")
            }
        )
        return figures


def ansible(*command: str, fails: bool = False) -> str:
    """Run a command of Ansible with the scenario's inventory; returns what it printed."""
    inventories = [str(ROOT / "molecule" / "shared" / "hosts.yml"), str(SCENARIO / "hosts.yml")]
    # Its own configuration: that of the checkout enables callbacks for people.
    configuration = STATE / "ansible.cfg"
    configuration.write_text(
        f"[defaults]\ncollections_path={ROOT}/.collections\ninject_facts_as_vars=False\ngathering=explicit\n"
        "nocolor=1\n[connection]\npipelining=True\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ANSIBLE_")}
    environment.update(ANSIBLE_CONFIG=str(configuration), MOLECULE_SCENARIO_NAME="gateway")
    program = str(Path(sys.executable).with_name(command[0]))
    options = [word for inventory in inventories for word in ("-i", inventory)]
    done = subprocess.run(
        [program, *options, *command[1:]], capture_output=True, text=True, check=False, env=environment, cwd=ROOT
    )
    assert (done.returncode != 0) is fails, done.stdout + done.stderr
    return done.stdout


def misguide(backend: Host, **control: Any) -> None:
    """Tell a stand-in to misbehave."""
    backend.run_expect([0], f"echo '{json.dumps(control)}' > /run/stand_in.json")

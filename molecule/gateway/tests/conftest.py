"""Helpers of the gateway's tests: ask it, load it, misguide its inference hosts, apply the role with other variables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import testinfra
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
        post = ["--data", f"@{self.body}"] if path == INFER and "--data-binary" not in arguments else []
        done = self.curl(path, "--include", *post, *arguments, port=port)
        assert done.returncode == 0, done.stderr
        head, _empty, text = done.stdout.replace("\r\n", "\n").partition("\n\n")
        if " 100 " in head.splitlines()[0]:  # the permission to send a large body
            head, _empty, text = text.partition("\n\n")
        lines = head.splitlines()
        headers = dict(line.lower().split(": ", 1) if ": " in line else (line, "") for line in lines[1:])
        return Reply(int(lines[0].split()[1]), headers, text)

    def curl(self, path: str, *arguments: str, port: int = 443) -> subprocess.CompletedProcess[str]:
        """Run curl."""
        command = ["curl", "--silent", "--show-error", "--max-time", "20", "--path-as-is"]
        command += ["--cacert", str(self.pki / "root_ca.pem"), "--resolve", f"{NAME}:{port}:{self.address}"]
        return subprocess.run(
            [*command, *arguments, f"https://{NAME}:{port}{path}"], capture_output=True, text=True, check=False
        )

    def load(self, *arguments: str, duration: float = 4, concurrency: int = 8) -> "Load":
        """Begin a load."""
        command = [sys.executable, str(ROOT / "benchmarks" / "load.py"), f"https://{self.address}{INFER}"]
        command += ["--ca", str(self.pki / "root_ca.pem"), "--server-name", NAME, "--body", str(self.body)]
        command += ["--duration", str(duration), "--concurrency", str(concurrency), *arguments]
        return Load(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))


@dataclass
class Load:
    """A load that is running."""

    process: "subprocess.Popen[str]"

    def result(self) -> dict[str, Any]:
        """Wait for its end, and print the figures for who reads the log."""
        text, _nothing = self.process.communicate(timeout=60)
        figures: dict[str, Any] = json.loads(text)
        print({k: figures[k] for k in ("requests", "failures", "resent", "requests_per_second", "latency_ms", "upstreams")})
        return figures


def ansible(*command: str, fails: bool = False) -> str:
    """Run a command of Ansible with the scenario's inventory; returns what it printed."""
    inventories = [str(ROOT / "molecule" / "shared" / "hosts.yml"), str(SCENARIO / "hosts.yml")]
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": "/dev/null",
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"),
        "ANSIBLE_INJECT_FACT_VARS": "false",
        "ANSIBLE_PIPELINING": "true",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_CALLBACK_RESULT_FORMAT": "yaml",
        "MOLECULE_SCENARIO_NAME": "gateway",
    }
    program = str(Path(sys.executable).with_name(command[0]))
    options = [word for inventory in inventories for word in ("-i", inventory)]
    done = subprocess.run(
        [program, *options, *command[1:]], capture_output=True, text=True, check=False, env=environment, cwd=ROOT
    )
    assert (done.returncode != 0) is fails, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def gateway(host: Host, inventory: dict[str, Any]) -> Gateway:
    """The gateway that the test runs on."""
    name = host.backend.name
    return Gateway(name, inventory["children"]["gateways"]["hosts"][name]["test_host_address"])


@pytest.fixture
def apply(gateway: Gateway) -> Iterator[Callable[..., str]]:
    """Applies the role to the gateway with other variables; afterwards with those of the scenario."""

    def call(fails: bool = False, **variables: Any) -> str:
        extra = ["--extra-vars", json.dumps(variables)] if variables else []
        return ansible("ansible-playbook", str(SCENARIO / "converge.yml"), "--limit", gateway.name, *extra, fails=fails)

    yield call
    call()


@pytest.fixture
def upstream(gateway: Gateway) -> Iterator[Callable[..., dict[str, Any]]]:
    """Calls `gateway_upstream` on the gateway; afterwards every host is active."""

    def call(name: str, state: str, fails: bool = False, **arguments: Any) -> dict[str, Any]:
        given = json.dumps({"name": name, "state": state, **arguments})
        module = ["-m", "ai102.inference.gateway_upstream", "-a", given]
        printed = ansible("ansible", gateway.name, *module, "--one-line", fails=fails)
        result: dict[str, Any] = json.loads(printed[printed.index("{") :])
        return result

    yield call
    for name in BACKENDS:
        call(name, "active")


@pytest.fixture
def backends() -> Iterator[dict[str, Host]]:
    """The stand-ins for inference hosts; afterwards they run and behave."""
    hosts = {name: testinfra.get_host(f"docker://{name}") for name in BACKENDS}
    yield hosts
    for backend in hosts.values():
        backend.run_expect([0], "rm -f /run/stand_in.json; systemctl start stand-in")


def misguide(backend: Host, **control: Any) -> None:
    """Tell a stand-in to misbehave."""
    backend.run_expect([0], f"echo '{json.dumps(control)}' > /run/stand_in.json")

"""Fixtures of the gateway's tests."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import testinfra
from testinfra.host import Host

sys.path.insert(0, str(Path(__file__).parent))  # pytest's import mode `importlib` does not

from client import BACKENDS, SCENARIO, Gateway, ansible


@pytest.fixture
def gateway(host: Host, inventory: dict[str, Any]) -> Gateway:
    """The gateway that the test runs on."""
    name = host.backend.name
    return Gateway(name, inventory["children"]["gateways"]["hosts"][name]["test_host_address"])


@pytest.fixture
def apply(gateway: Gateway) -> Callable[..., str]:
    """Configures the gateway with other variables than the scenario's, or with those; returns what Ansible printed."""

    def call(fails: bool = False, **variables: Any) -> str:
        extra = ["--extra-vars", json.dumps(variables)] if variables else []
        return ansible(
            "ansible-playbook", str(SCENARIO / "configure.yml"), "--limit", gateway.name, *extra, fails=fails
        )

    return call


@pytest.fixture
def upstream(gateway: Gateway, host: Host) -> Iterator[Callable[..., dict[str, Any]]]:
    """Calls `gateway_upstream` on the gateway; afterwards every host is active."""

    def call(name: str, state: str, fails: bool = False, **arguments: Any) -> dict[str, Any]:
        given = json.dumps({"name": name, "state": state, **arguments})
        module = ["-m", "ai102.inference.gateway_upstream", "-a", given]
        printed = ansible("ansible", gateway.name, *module, "--one-line", fails=fails)
        result: dict[str, Any] = json.loads(printed[printed.index("{") :])
        return result

    yield call
    state = host.file("/etc/ai102/gateway/drained.json")
    for name in json.loads(state.content_string)["drained"] if state.exists else []:
        call(name, "active")


@pytest.fixture
def backends() -> Iterator[dict[str, Host]]:
    """The stand-ins for inference hosts; afterwards they run and behave."""
    hosts = {name: testinfra.get_host(f"docker://{name}") for name in BACKENDS}
    yield hosts
    for backend in hosts.values():
        backend.run_expect([0], "rm -f /run/stand_in.json; systemctl start stand-in")
    for backend in hosts.values():
        backend.run_expect([0], "until ss -Hltn | grep -q :8443; do sleep 0.05; done")

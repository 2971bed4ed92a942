"""Every pair of hosts, every declared port and a sample of others: what the matrix allows connects, no more."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from rolled_out import PROJECT, SiteHost, read_hosts

SSH, GATEWAY, STATUS, INFERENCE, REGISTRY, GPUS = 22, 443, 9443, 8443, 5000, 9400
UNDECLARED = [80, 2379, 8080, 9100, 9200, 30022]
PORTS = [SSH, GATEWAY, STATUS, INFERENCE, REGISTRY, GPUS, *UNDECLARED]
CLIENT = "client"  # the machine outside the site that Ansible runs on

# Listens wherever nothing does, so that a refusal is the firewall's and not for want of a listener.
LISTENER = """
import select, socket, sys
held = []
for port in map(int, sys.argv[1:]):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        s.bind(("0.0.0.0", port)); s.listen(64)
    except OSError:
        continue  # the real service is there
    held.append(s)
print("listening", flush=True)
sys.stdin.read()
"""

CONNECT = """
import concurrent.futures, json, socket, sys
def attempt(target):
    try:
        socket.create_connection(tuple(target), timeout=2).close()
        return True
    except OSError:
        return False
targets = json.load(sys.stdin)
with concurrent.futures.ThreadPoolExecutor(64) as pool:
    print(json.dumps(list(pool.map(attempt, targets))))
"""


def declared() -> dict[tuple[str, str, int], bool]:
    """Who may talk to whom, written down here a second time, apart from the code that makes the rules."""
    hosts = read_hosts()
    allowed: dict[tuple[str, str, int], bool] = {}
    for source in [CLIENT, *hosts]:
        for name, target in hosts.items():
            for port in PORTS:
                tiers = hosts[source].tiers if source in hosts else frozenset()
                allowed[source, name, port] = (
                    (port == SSH and source == CLIENT)
                    or (port == GATEWAY and "gateways" in target.tiers)
                    or (
                        port == INFERENCE
                        and "inference_hosts" in target.tiers
                        and bool(tiers & {"gateways", "monitoring_hosts"})
                    )
                    or (port == STATUS and "gateways" in target.tiers and "monitoring_hosts" in tiers)
                    or (port == GPUS and "inference_hosts" in target.tiers and "monitoring_hosts" in tiers)
                    or (
                        port == REGISTRY
                        and "registry_hosts" in target.tiers
                        and (source == CLIENT or "inference_hosts" in tiers)
                    )
                )
    return {key: value for key, value in allowed.items() if key[0] != key[1]}


@pytest.fixture(scope="module")
def measured(hosts: dict[str, SiteHost]) -> Iterator[dict[tuple[str, str, int], bool]]:
    listeners = [
        subprocess.Popen(
            ["docker", "exec", "-i", host.container, "python3", "-c", LISTENER, *map(str, PORTS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for host in hosts.values()
    ]
    try:
        for listener in listeners:
            assert listener.stdout is not None
            assert listener.stdout.readline() == "listening\n"
        time.sleep(0.2)
        found: dict[tuple[str, str, int], bool] = {}
        for source in [CLIENT, *hosts]:
            keys = [(source, name, port) for name in hosts if name != source for port in PORTS]
            targets = json.dumps([(hosts[name].address, port) for _source, name, port in keys])
            prefix = (
                ["docker", "exec", "-i", hosts[source].container, "python3"] if source in hosts else [sys.executable]
            )
            done = subprocess.run([*prefix, "-c", CONNECT], input=targets, capture_output=True, text=True, check=True)
            found.update(zip(keys, json.loads(done.stdout), strict=True))
        yield found
    finally:
        for listener in listeners:
            listener.communicate(timeout=10)


def test_every_allowed_flow_connects_and_no_other(measured: dict[tuple[str, str, int], bool]) -> None:
    expected = declared()
    assert measured.keys() == expected.keys()
    wrong = [
        f"{source} -> {target}:{port} {'connects but must not' if connects else 'is refused but must connect'}"
        for (source, target, port), connects in measured.items()
        if connects is not expected[source, target, port]
    ]
    assert not wrong, "\n".join(wrong)
    assert sum(expected.values()) >= 10
    print(f"{len(measured)} connections tried, {sum(measured.values())} were made, as many as are declared")


def test_the_matrix_here_is_the_one_of_the_role() -> None:
    """The second writing above covers every port of the role's flow matrix."""
    defaults = yaml.safe_load((PROJECT / "roles/firewall/defaults/main.yml").read_text())
    named = {str(port) for flow in defaults["firewall_flows"] for port in flow.get("ports", [])}
    names = ("gateway", "inference", "gateway_status", "registry", "gpu_exporter")
    known = {f"{{{{ ai102_{name}_port }}}}" for name in names}
    assert named == {"22", *known}


def _ask(host: SiteHost, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = Path(__file__).with_name("ask_tls.py").read_text()
    return host.run("python3", "-", *arguments, stdin=script, check=False)


def test_plain_http_is_refused_between_tiers(hosts: dict[str, SiteHost]) -> None:
    for name in ("inference1", "inference2"):
        done = _ask(hosts["gateway1"], "plain", hosts[name].address, str(INFERENCE))
        assert "no answer" in done.stdout, done.stdout + done.stderr
    done = _ask(hosts["ops1"], "plain", hosts["gateway1"].address, str(STATUS))
    assert "200" not in done.stdout.split("\n", 1)[0], done.stdout + done.stderr


@pytest.mark.parametrize(
    ("certificate", "answer"),
    [("client", "answer 200"), ("none", "refused"), ("server", "refused")],
)
def test_only_the_right_certificate_is_let_in(hosts: dict[str, SiteHost], certificate: str, answer: str) -> None:
    for name in ("inference1", "inference2"):
        done = _ask(hosts["gateway1"], certificate, hosts[name].address, str(INFERENCE))
        assert answer in done.stdout, f"{name}: {done.stdout}{done.stderr}"


def test_a_host_that_is_no_caller_has_no_client_certificate(hosts: dict[str, SiteHost]) -> None:
    for name in ("inference1", "inference2"):
        assert hosts[name].run("test", "-e", "/etc/ai102/pki/client/key.pem", check=False).returncode != 0

"""What the firewall does, tried with real sockets."""

from __future__ import annotations

import concurrent.futures
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

ROOT = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
SCENARIO = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])
GATEWAY, INFERENCE, OPS = "ai102-mol-firewall-gateway", "ai102-mol-firewall", "ai102-mol-firewall-ops"
FOUR = {GATEWAY: "198.18.41.61", INFERENCE: "198.18.41.62", OPS: "198.18.41.63"}
SIX = {name: f"fd51::{address.rpartition('.')[2]}" for name, address in FOUR.items()}
CONTROL = "control node"

# Who may reach which ports of whom, written down a second time.
TCP = {
    GATEWAY: {CONTROL: {22, 443}, INFERENCE: {443}, OPS: {443, 9443}},
    INFERENCE: {CONTROL: {22}, GATEWAY: {8443}, OPS: {8443, 9000, 9002, 9400}},
    OPS: {CONTROL: {22}, GATEWAY: set(), INFERENCE: set()},
}
PORTS = [22, 80, 443, 2222, 8443, 8999, 9000, 9002, 9003, 9400, 9443]

LISTEN = """
import socket, sys, threading
ports = [int(port) for port in sys.argv[1:]]
kept = []
for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
    for port in ports:
        server = socket.socket(family)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            server.bind((address, port))
        except OSError:
            continue  # sshd is there
        server.listen(64)
        kept.append(server)
    for port in (5353, 5354):
        echo = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            echo.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        echo.bind((address, port))
        def serve(sock):
            while True:
                data, sender = sock.recvfrom(64)
                sock.sendto(data, sender)
        threading.Thread(target=serve, args=(echo,), daemon=True).start()
print("listening", flush=True)
sys.stdin.read()
"""

CONNECT = """
import concurrent.futures, json, socket, sys
def tried(target):
    kind, address, port = target
    try:
        if kind == "tcp":
            socket.create_connection((address, port), timeout=1.5).close()
        else:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.settimeout(1.5)
                sock.connect((address, port))
                sock.send(b"x")
                sock.recv(64)
        return True
    except OSError:
        return False
with concurrent.futures.ThreadPoolExecutor(64) as pool:
    print(json.dumps(list(pool.map(tried, json.load(sys.stdin)))))
"""

# One echo request by a raw socket; an answer comes back with type 0 (ICMP, after the IP header) or 129 (ICMPv6).
PING = """
import socket, struct, sys, time
six = ":" in sys.argv[1]
sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_RAW, 58 if six else 1)
sock.settimeout(2)
body = struct.pack("!BBHHH", 128 if six else 8, 0, 0, 7, 1)
total = sum(struct.unpack("!4H", body))
body = struct.pack("!BBHHH", 128 if six else 8, 0, 0 if six else ~((total >> 16) + (total & 0xFFFF)) & 0xFFFF, 7, 1)
sock.sendto(body, (sys.argv[1], 0))
end = time.monotonic() + 2
while time.monotonic() < end:
    data = sock.recv(1024)
    if data[0 if six else 20] == (129 if six else 0):
        print("answered", end="")
        break
"""


def connect(source: str, targets: list[tuple[str, str, int]]) -> list[bool]:
    """Try targets (kind, address, port) from a host or from the control node."""
    prefix = [sys.executable] if source == CONTROL else ["docker", "exec", "-i", source, "python3"]
    done = subprocess.run(
        [*prefix, "-c", CONNECT], input=json.dumps(targets), capture_output=True, text=True, check=True, timeout=60
    )
    result: list[bool] = json.loads(done.stdout)
    return result


def connect_all(targets: dict[str, list[tuple[str, str, int]]]) -> dict[str, list[bool]]:
    """Try the targets of several sources at the same time."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        futures = {source: pool.submit(connect, source, what) for source, what in targets.items()}
        return {source: future.result() for source, future in futures.items()}


def nft(host: Host, *arguments: str) -> str:
    """Run nft on a host."""
    return str(host.check_output("nft " + " ".join(arguments)))


@pytest.fixture
def listening(host: Host) -> Iterator[str]:
    """The host's name, with something listening on every port."""
    name: str = host.backend.name
    process = subprocess.Popen(
        ["docker", "exec", "-i", name, "python3", "-c", LISTEN, *map(str, PORTS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "listening\n"
    yield name
    process.communicate(timeout=10)


def test_declared_flows_connect_and_no_others(listening: str) -> None:
    wrong = []
    targets = {
        source: [
            ("tcp", book[listening], port) for book in ([FOUR] if source == CONTROL else [FOUR, SIX]) for port in PORTS
        ]
        for source in TCP[listening]
    }
    for source, results in connect_all(targets).items():
        for (_kind, address, port), connects in zip(targets[source], results, strict=True):
            # The endpoint is open to everybody; SSH only to where Ansible really comes from.
            if connects is not (port in TCP[listening][source]):
                wrong.append(f"{source} -> {address}:{port} {'connects' if connects else 'is refused'}")
    assert not wrong, "\n".join(wrong)


def test_datagrams(listening: str) -> None:
    targets = [("udp", book[listening], port) for book in (FOUR, SIX) for port in (5353, 5354)]
    for source, results in connect_all(dict.fromkeys(FOUR.keys() - {listening}, targets)).items():
        assert results == [listening == INFERENCE and source == GATEWAY, False] * 2, source


def test_ping(host: Host) -> None:
    """Every host of the inventory may ask for an echo, by both versions of IP."""
    for name in FOUR.keys() - {host.backend.name}:
        for target in (FOUR[name], SIX[name]):
            assert host.check_output(f"python3 -c '{PING}' {target}") == "answered", target


def test_a_host_reaches_itself(listening: str) -> None:
    own = [("tcp", address, port) for address in (FOUR[listening], SIX[listening], "127.0.0.1") for port in PORTS]
    assert all(connect(listening, own))


def test_drops_are_counted_and_logged_at_a_limited_rate(host: Host, listening: str) -> None:
    def dropped() -> int:
        chain = nft(host, "list", "chain", "inet", "ai102", "input")
        return int(chain.partition("counter packets ")[2].split()[0])

    before = dropped()
    source = next(iter(FOUR.keys() - {listening}))
    assert not any(connect(source, [("tcp", FOUR[listening], port) for port in (2222, 8999)]))
    assert dropped() >= before + 2
    assert 'limit rate 10/minute burst 10 packets log prefix "ai102 drop in: "' in nft(
        host, "list", "chain", "inet", "ai102", "input"
    )


def test_the_rules_agree_with_the_matrix_that_others_use(host: Host, inventory: dict[str, Any]) -> None:
    """`FlowMatrix.allowed`, from which other back ends take their rules, says what the sockets above say."""
    finder = __import__("ansible.utils.collection_loader._collection_finder", fromlist=["_AnsibleCollectionFinder"])
    if not any(type(entry).__name__ == "_AnsibleCollectionFinder" for entry in sys.meta_path):
        finder._AnsibleCollectionFinder(paths=[str(ROOT / ".collections")])._install()
    import yaml
    from ansible_collections.ai102.inference.plugins.module_utils._flows import FlowMatrix

    text = (ROOT / "roles/firewall/defaults/main.yml").read_text()
    ports = {"gateway": 443, "inference": 8443, "gateway_status": 9443, "registry": 5000, "gpu_exporter": 9400}
    for name, port in ports.items():
        text = text.replace(f'"{{{{ ai102_{name}_port }}}}"', str(port))
    flows = yaml.safe_load(text)["firewall_flows"] + inventory["vars"]["firewall_flows_extra"]
    hosts = {
        name: {"groups": [group], "addresses": [FOUR[name], SIX[name]]}
        for group, members in inventory["children"].items()
        for name in members["hosts"]
    }
    matrix = FlowMatrix(flows, hosts, control=["198.18.41.128"], tiers=["registry_hosts"])
    target = host.backend.name
    for source, allowed in TCP[target].items():
        address = "198.18.41.128" if source == CONTROL else source
        assert {port for port in PORTS if matrix.allowed(address, target, "tcp", port)} == allowed, source


def test_rules_are_loaded_at_the_next_start(host: Host) -> None:
    assert host.service("ai102-firewall").is_enabled
    assert host.service("ai102-firewall").is_running
    before = nft(host, "-s", "list", "table", "inet", "ai102")
    nft(host, "delete", "table", "inet", "ai102")
    host.check_output("systemctl restart ai102-firewall")
    assert nft(host, "-s", "list", "table", "inet", "ai102") == before
    order = host.check_output("systemctl show -p Before --value ai102-firewall")
    assert "network-pre.target" in order
    assert "flush ruleset" not in host.file("/etc/ai102/firewall/ruleset.nft").content_string
    time.sleep(0.1)

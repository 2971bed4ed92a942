"""Published ports are subject to the flow matrix, and nothing else of a container is reached from outside."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
from engines import NEIGHBOUR, OTHER, PREFIX, SERVE, reaches
from testinfra.host import Host

testinfra_hosts = [f"docker://{PREFIX}{suffix}" for suffix in ("", "-trixie", "-podman")]
ADDRESSES = {PREFIX: "198.18.41.111", f"{PREFIX}-trixie": "198.18.41.112", f"{PREFIX}-podman": "198.18.41.113"}


@pytest.fixture
def web(host: Host, engine: str, container: Callable[..., str]) -> Iterator[str]:
    """A container with a server: port 8081, which a flow names, and 8082, which none does. Gives its own address."""
    name = container("--publish", "8081:8000", "--publish", "8082:8000", command=SERVE)
    shown = "'{{.NetworkSettings.IPAddress}}'"
    address = host.check_output(f"{engine} inspect {name} --format {shown}")
    assert address
    deadline = time.monotonic() + 10
    while not reaches(host.backend.name, address, 8000):
        assert time.monotonic() < deadline, host.run(f"{engine} logs {name}").stderr
        time.sleep(0.2)
    yield address


def test_published_ports_are_subject_to_the_flows(host: Host, web: str) -> None:
    name = host.backend.name
    assert reaches(NEIGHBOUR, ADDRESSES[name], 8081)
    assert not reaches(NEIGHBOUR, ADDRESSES[name], 8082)
    if name != OTHER:  # the flow is for the registry's hosts, not for this one
        assert not reaches(OTHER, ADDRESSES[name], 8081)


def test_a_containers_own_address_is_not_reached_from_outside(host: Host, web: str) -> None:
    own = ADDRESSES[host.backend.name]
    subprocess.run(["docker", "exec", NEIGHBOUR, "ip", "route", "replace", web, "via", own], check=True)
    try:
        assert not reaches(NEIGHBOUR, web, 8000)
        assert "counter packets 0 " not in host.check_output("nft list table inet ai102_containers")
        # Without the rules the way is open: the firewall's own chain sees nothing that was published.
        host.check_output("systemctl stop ai102-container-networks")
        assert reaches(NEIGHBOUR, web, 8000), "this proves nothing"
        host.check_output("systemctl start ai102-container-networks")
        assert not reaches(NEIGHBOUR, web, 8000)
    finally:
        host.check_output("systemctl start ai102-container-networks")
        subprocess.run(["docker", "exec", NEIGHBOUR, "ip", "route", "del", web], check=True)


def test_containers_reach_the_world_and_each_other(
    host: Host, engine: str, web: str, container: Callable[..., str]
) -> None:
    name = container()
    run = f"{engine} exec {name}"
    # The registry answers a request without TLS with 400: there is a way.
    assert "400" in host.run(f"{run} wget -O- -T 4 http://198.18.41.114:5000/").stderr
    assert host.run(f"{run} wget -q -O /dev/null -T 4 http://{web}:8000/busybox").rc == 0


def test_flows_hold_after_a_restart_of_the_engine(host: Host, engine: str, web: str) -> None:
    if engine == "podman":  # it has no daemon
        return
    before = host.check_output(f"{engine} inspect test0 --format '{{{{.State.Pid}}}}'")
    host.check_output("systemctl restart docker")
    # The container went on running meanwhile.
    assert host.check_output(f"{engine} inspect test0 --format '{{{{.State.Pid}}}}'") == before
    assert reaches(NEIGHBOUR, ADDRESSES[host.backend.name], 8081)
    assert not reaches(NEIGHBOUR, ADDRESSES[host.backend.name], 8082)

"""What an engine does with its configuration: containers, logs, registries, GPUs."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable

from engines import IMAGE, PODMAN_LIMITS, PREFIX, REGISTRY
from testinfra.host import Host

BOOKWORM, TRIXIE, PODMAN = (f"docker://{PREFIX}{suffix}" for suffix in ("", "-trixie", "-podman"))
testinfra_hosts = [BOOKWORM, TRIXIE, PODMAN]


def pools(host: Host) -> list[ipaddress.IPv4Network]:
    """The networks that the role has chosen."""
    chosen = json.loads(host.file("/etc/ai102/container_runtime/current/runtime.json").content_string)["pools"]
    return [ipaddress.IPv4Network(pool["base"]) for pool in chosen]


def test_a_container_runs_in_a_network_of_the_pools(host: Host, engine: str, container: Callable[..., str]) -> None:
    host.check_output(f"{engine} network create other")
    try:
        for options in ([], ["--network", "other"]):
            name = container(*options)
            found = host.check_output(
                f"{engine} inspect {name} --format "
                "'{{.NetworkSettings.IPAddress}}{{range .NetworkSettings.Networks}} {{.IPAddress}}{{end}}'"
            )
            address = ipaddress.IPv4Address(found.split()[-1])
            assert any(address in pool for pool in pools(host)), found
    finally:
        host.run(f"{engine} rm --force test0 test1; {engine} network rm other")


def test_networks_stay_clear_of_what_the_host_has_a_route_to(host: Host) -> None:
    used = [ipaddress.IPv4Network("198.18.41.0/24")]
    if host.backend.name.endswith("trixie"):  # prepare.yml has set this route
        used.append(ipaddress.IPv4Network("172.24.16.0/20"))
        assert pools(host) == [ipaddress.IPv4Network("172.25.0.0/16")]
    assert pools(host)
    assert not any(pool.overlaps(network) for pool in pools(host) for network in used)


def test_logs_are_rotated(host: Host, engine: str, container: Callable[..., str]) -> None:
    name = container()
    shown = json.loads(host.check_output(f"{engine} inspect {name}"))[0]["HostConfig"]["LogConfig"]
    if engine == "docker":
        assert shown == {"Type": "json-file", "Config": {"max-size": "50m", "max-file": "5"}}
    else:
        said = host.check_output(f"podman run --rm {PODMAN_LIMITS} --log-driver k8s-file {IMAGE} env")
        assert "PATH=" in said
        assert "log_size_max = 262144000" in host.file("/etc/containers/containers.conf.d/50-ai102.conf").content_string


def test_a_registry_is_trusted_by_the_sites_authority(host: Host, engine: str, pushed: str) -> None:
    host.check_output(f"{engine} image rm {REGISTRY}/test:1")
    host.check_output(f"{engine} pull {pushed}")


def test_a_registry_that_nobody_vouches_for_is_refused(host: Host, engine: str, pushed: str) -> None:
    directory = "/etc/docker/certs.d" if engine == "docker" else "/etc/containers/certs.d"
    host.check_output(f"mv {directory}/{REGISTRY} /root/aside")
    try:
        refused = host.run(f"{engine} pull {pushed}")
        assert refused.rc != 0
        assert "certificate signed by unknown authority" in refused.stderr + refused.stdout
    finally:
        host.check_output(f"mv /root/aside {directory}/{REGISTRY}")


def test_a_renewed_authority_needs_no_restart(host: Host, engine: str) -> None:
    directory = "/etc/docker/certs.d" if engine == "docker" else "/etc/containers/certs.d"
    real = host.check_output(f"readlink --canonicalize {directory}/{REGISTRY}/ca.crt")
    assert real == "/etc/ai102/pki/server_ca.pem"


def test_gpus_come_into_containers(host: Host, engine: str) -> None:
    """With a stand-in of NVIDIA's toolkit. What CDI says is put in by the engine itself, where it can."""
    limits = PODMAN_LIMITS if engine == "podman" else ""
    if host.backend.name == PREFIX:  # Docker 20.10 knows no CDI: NVIDIA's runtime has to do it
        config = host.file("/etc/nvidia-container-runtime/config.toml").content_string
        assert 'mode = "cdi"   # ours has to be cdi' in config
        assert "/usr/bin/nvidia-container-runtime" in host.check_output("docker info --format '{{json .Runtimes}}'")
        arguments = "--runtime nvidia --env NVIDIA_VISIBLE_DEVICES=nvidia.com/gpu=all"
        expected = "NVIDIA_VISIBLE_DEVICES=nvidia.com/gpu=all"
    else:
        arguments, expected = "--device nvidia.com/gpu=all", "AI102_STAND_IN_GPU=1"
    assert expected in host.check_output(f"{engine} run --rm {limits} {arguments} {IMAGE} env")
    assert host.file("/run/cdi/nvidia.yaml").exists
    assert host.service("nvidia-cdi-refresh.path").is_enabled
    assert host.service("nvidia-cdi-refresh.service").is_enabled

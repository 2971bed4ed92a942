"""Changes of a host that runs, mistakes, and the way back. By real runs of the role."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable

from applied_role import Apply
from engines import CONFIG, IMAGE, NEIGHBOUR, PREFIX, REGISTRY, SERVE, pid, reaches
from testinfra.host import Host

testinfra_hosts = [f"docker://{PREFIX}-trixie"]
ADDRESS = "198.18.41.112"


def main_pid(host: Host) -> str:
    """Of the daemon."""
    return str(host.check_output("systemctl show --property=MainPID --value docker"))


def test_what_others_have_set_stays(host: Host) -> None:
    settings = json.loads(host.file(CONFIG).content_string)
    assert settings["dns"] == ["192.0.2.53"]
    assert settings["registry-mirrors"] == ["https://mirror.example"]
    assert settings["live-restore"] is True
    assert host.file(CONFIG).mode == 0o640
    assert host.file(CONFIG).content_string.startswith('{\n    "dns"')


def test_drift_is_undone_and_containers_go_on(
    host: Host, engine: str, container: Callable[..., str], apply: Apply
) -> None:
    name = container()
    before = pid(host, name)
    settings = json.loads(host.file(CONFIG).content_string)
    host.check_output(f"echo '{json.dumps({**settings, 'live-restore': False, 'log-level': 'info'})}' > {CONFIG}")
    host.check_output("systemctl reload docker")  # live-restore is off now
    host.check_output("nft delete table inet ai102_containers")
    daemon = main_pid(host)
    assert apply().returncode == 0
    assert json.loads(host.file(CONFIG).content_string) == {**settings, "log-level": "info"}
    assert main_pid(host) != daemon
    assert pid(host, name) == before
    assert host.check_output("docker info --format '{{.LiveRestoreEnabled}}'") == "true"
    assert host.run("nft list table inet ai102_containers").rc == 0
    assert apply().changed == 0


def test_a_value_of_others_is_not_overwritten_without_consent(host: Host, apply: Apply) -> None:
    before, daemon = host.file(CONFIG).content_string, main_pid(host)
    wanted = {"dns": ["192.0.2.1"]}
    refused = apply(container_runtime_settings=wanted)
    assert refused.returncode != 0
    assert 'dns is ["192.0.2.53"], wanted ["192.0.2.1"]' in refused.flat.replace("\\", "")
    assert "The engine was not touched" in refused.flat
    assert (host.file(CONFIG).content_string, main_pid(host)) == (before, daemon)
    assert apply(container_runtime_settings=wanted, container_runtime_conflicts="keep").changed == 0
    assert apply(container_runtime_settings=wanted, container_runtime_conflicts="replace").returncode == 0
    assert json.loads(host.file(CONFIG).content_string)["dns"] == ["192.0.2.1"]
    assert apply().returncode == 0
    assert json.loads(host.file(CONFIG).content_string) == json.loads(before)


def test_mistakes_are_refused_before_anything_is_changed(host: Host, apply: Apply) -> None:
    before, daemon = host.file(CONFIG).content_string, main_pid(host)
    for message, variables in {
        "no-such-option": {"container_runtime_settings": {"no-such-option": 1}},
        "198.18.41.0/24 collides with the route 198.18.41.0/24 by eth0": {
            "container_runtime_address_pools": [{"base": "198.18.41.0/24", "size": 26}]
        },
        "Take the former one away first": {"container_runtime_engine": "podman"},
        "is not a host name": {"container_runtime_registries": [{"host": "https://registry", "ca": "pki"}]},
    }.items():
        refused = apply(**variables)
        assert refused.returncode != 0, message
        assert message in refused.flat
    assert (host.file(CONFIG).content_string, main_pid(host)) == (before, daemon)


def test_a_registry_that_is_not_wanted_any_more_is_not_trusted(host: Host, apply: Apply) -> None:
    daemon = main_pid(host)
    link = host.file(f"/etc/docker/certs.d/{REGISTRY}")
    host.check_output("mkdir -p /etc/docker/certs.d/of.others")
    assert apply(container_runtime_registries=[]).returncode == 0
    assert not link.exists
    assert apply().returncode == 0
    assert link.is_symlink
    assert host.file("/etc/docker/certs.d/of.others").is_directory
    assert main_pid(host) == daemon


def test_the_host_starts_with_its_rules_and_containers(
    host: Host, engine: str, container: Callable[..., str], apply: Apply
) -> None:
    container("--restart", "always", "--publish", "8081:8000", "--publish", "8082:8000", command=SERVE)
    subprocess.run(["docker", "restart", "--time", "10", host.backend.name], check=True, capture_output=True)
    deadline = time.monotonic() + 60
    while host.run("systemctl is-system-running").stdout.strip() not in ("running", "degraded"):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    while not reaches(NEIGHBOUR, ADDRESS, 8081):
        assert time.monotonic() < deadline, host.run("docker ps --all; journalctl --unit docker --lines 20").stdout
        time.sleep(0.5)
    assert not reaches(NEIGHBOUR, ADDRESS, 8082)
    assert host.run("nft list table inet ai102_containers").rc == 0
    assert host.file("/run/cdi/nvidia.yaml").exists
    assert apply().changed == 0


def test_teardown_gives_back_what_was_there(host: Host, apply: Apply) -> None:
    assert apply("teardown").returncode == 0
    settings = json.loads(host.file(CONFIG).content_string)
    assert settings == {"dns": ["192.0.2.53"], "registry-mirrors": ["https://mirror.example"], "log-level": "info"}
    assert not host.service("docker").is_running  # it did not run before the role came
    assert not host.service("docker").is_enabled
    assert host.run("nft list table inet ai102_containers").rc != 0
    for path in ("/etc/ai102/container_runtime", f"/etc/docker/certs.d/{REGISTRY}", "/var/lib/ai102/container_runtime"):
        assert not host.file(path).exists, path
    assert host.file("/etc/docker/certs.d/of.others").is_directory
    assert apply("teardown").changed == 0


def test_an_engine_that_ran_before_the_role_goes_on_without_it(host: Host, engine: str, apply: Apply) -> None:
    host.check_output("systemctl enable --quiet --now docker")
    host.check_output(f"docker run --detach --name before {IMAGE} sleep 3000")
    running = pid(host, "before")
    assert apply().returncode == 0
    assert pid(host, "before") == running
    assert apply("teardown").returncode == 0
    assert host.service("docker").is_running
    assert host.service("docker").is_enabled
    assert host.check_output("docker info --format '{{.LiveRestoreEnabled}}'") == "false"
    host.check_output("docker rm --force before")
    assert apply().returncode == 0

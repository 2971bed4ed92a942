"""What preflight refuses, in which words, and that it changes nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

PROJECT = Path(__file__).resolve().parents[3]
REPORTS = PROJECT / ".cache/molecule/preflight/reports"
GATEWAY, SERVER = "ai102-mol-preflight", "ai102-mol-preflight-trixie"


@dataclass(frozen=True)
class Played:
    """A run of the playbook preflight: its exit status, what it printed, its verdict."""

    returncode: int
    output: str
    verdict: dict[str, Any]

    def check(self, name: str, host: str) -> dict[str, str]:
        """The one check of that name on a host."""
        (found,) = [check for check in self.verdict["checks"] if (check["check"], check["host"]) == (name, host)]
        return dict(found)

    @property
    def failed(self) -> list[tuple[str, str]]:
        """What failed, as (check, host)."""
        return [(check["check"], check["host"]) for check in self.verdict["checks"] if check["status"] == "fail"]

    @property
    def changed(self) -> list[str]:
        """What Ansible counts as changed or failed on hosts; the hosts' names."""
        return re.findall(r"^(\S+)\s+: ok=\d+\s+changed=[1-9]", self.output, re.MULTILINE)


def play(*arguments: str, **variables: Any) -> Played:
    """Run the playbook as an operator does, with variables changed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    environment.update(
        ANSIBLE_CONFIG=str(PROJECT / "ansible.cfg"),
        ANSIBLE_NOCOLOR="1",
        MOLECULE_PROJECT_DIRECTORY=str(PROJECT),
        MOLECULE_SCENARIO_NAME="preflight",
    )
    (REPORTS / "preflight.json").unlink(missing_ok=True)
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            f"--inventory={PROJECT}/molecule/shared/hosts.yml",
            f"--inventory={PROJECT}/molecule/preflight/hosts.yml",
            "playbooks/preflight.yml",
            "--extra-vars",
            json.dumps(variables),
            *arguments,
        ],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    output = done.stdout + done.stderr
    assert (REPORTS / "preflight.json").exists(), output
    return Played(done.returncode, output, json.loads((REPORTS / "preflight.json").read_text()))


def on(container: str, script: str) -> str:
    """Run a shell script on a host, beside Ansible."""
    done = subprocess.run(
        ["docker", "exec", container, "sh", "-ec", script], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


@contextmanager
def listening(container: str, unit: str, port: int) -> Iterator[None]:
    """A service of a name that holds a port."""
    on(container, f"systemd-run --quiet --unit={unit} python3 -m http.server --bind 0.0.0.0 {port}")
    try:
        on(container, f"for i in $(seq 50); do ss -ltn | grep -q ':{port} ' && exit 0; sleep 0.1; done; exit 1")
        yield
    finally:
        on(container, f"systemctl stop {unit}")


@pytest.fixture(autouse=True)
def _nothing_changes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test asks for, no file of a host may be touched by it."""
    if "host" in request.fixturenames:
        yield
        return
    for name in (GATEWAY, SERVER):
        on(name, "touch /run/before && sleep 0.02")
    yield
    for name in (GATEWAY, SERVER):
        touched = on(
            name,
            "find /etc /opt /usr /var /root /home /srv -newer /run/before -not -type d -not -path '*/__pycache__/*' "
            "-not -path '/var/log/*' -not -path '/var/lib/systemd/*' -print",
        )
        assert not touched, f"{name}: {touched}"


def test_nothing_of_ours_is_on_the_host(host: Host) -> None:
    """The role was applied and left nothing, not even the user that every other role makes."""
    assert not host.user("ai102").exists
    for path in ("/etc/ai102", "/opt/ai102", "/var/lib/ai102", "/root/.ansible"):
        assert not host.file(path).exists, path


def test_good_hosts_pass_in_all_four_forms() -> None:
    played = play()
    assert played.returncode == 0, played.output
    assert played.verdict["ok"] is True
    assert played.failed == []
    assert "preflight: PASS" in played.output
    assert played.check(f"reach.{SERVER}:8443", GATEWAY)["actual"] == "answers, nothing listens yet"
    assert played.check(f"resolve.{SERVER}", GATEWAY)["status"] == "pass"
    assert played.check("os", SERVER)["actual"] == "debian 13"
    assert ET.parse(REPORTS / "preflight.xml").getroot().get("failures") == "0"
    assert "preflight: PASS" in (REPORTS / "preflight.html").read_text()


def test_hosts_below_the_profile_are_refused_with_the_numbers() -> None:
    memory = {"huge": {"cpu_cores": 500, "memory_gb": {"minimum": 4000, "recommended": 8000}, "containers": True}}
    played = play(preflight_profile="huge", preflight_profiles=memory)
    assert played.returncode != 0
    assert played.changed == []
    # every shortfall of every host in one verdict
    assert played.failed == [("cpu", GATEWAY), ("memory", GATEWAY), ("cpu", SERVER), ("memory", SERVER)]
    cpu = played.check("cpu", SERVER)
    cores = int(on(SERVER, "nproc"))
    assert (cpu["actual"], cpu["expected"]) == (f"{cores} cores", "at least 500 cores")
    assert played.check("memory", GATEWAY)["expected"] == "at least 4000 GB, recommended 8000 GB"
    assert f"{cores} cores; expected: at least 500 cores" in played.output


def test_a_shortfall_may_be_a_warning_only() -> None:
    profiles = {"huge": {"cpu_cores": 500, "containers": True}}
    played = play(preflight_profile="huge", preflight_profiles=profiles, preflight_severity={"cpu": "warn"})
    assert played.returncode == 0
    assert played.check("cpu", SERVER)["status"] == "warn"


def test_a_port_held_by_ourselves_passes() -> None:
    with listening(SERVER, "ai102-inference-server", 8443):
        played = play()
    assert played.returncode == 0, played.output
    assert played.check("port.8443", SERVER)["actual"] == "held by python3 (ai102-inference-server.service)"
    assert played.check(f"reach.{SERVER}:8443", GATEWAY)["actual"] == "open"


def test_nginx_is_ours_only_with_our_configuration() -> None:
    with listening(GATEWAY, "nginx", 443):
        assert play().failed == [("port.443", GATEWAY)]
        on(GATEWAY, "mkdir -p /etc/ai102/gateway && ln -s /nowhere /etc/ai102/gateway/current && touch /run/before")
        try:
            assert play().failed == []
        finally:
            on(GATEWAY, "rm -r /etc/ai102")


def test_a_port_of_systemd_belongs_to_the_socket_unit() -> None:
    on(
        SERVER,
        "printf '[Socket]\\nListenStream=0.0.0.0:8443\\n' > /run/systemd/system/ai102-x.socket && "
        # It stays: one that ends at once is started again and again, until systemd gives the socket up.
        "printf '[Service]\\nExecStart=/bin/sleep 300\\n' > /run/systemd/system/ai102-x.service && "
        "systemctl daemon-reload && systemctl start ai102-x.socket",
    )
    try:
        played = play()
    finally:
        on(
            SERVER,
            "systemctl stop ai102-x.socket ai102-x.service && rm /run/systemd/system/ai102-x.* && "
            "systemctl daemon-reload",
        )
    assert played.failed == []
    # its service may be among the holders: the gateway's attempt to connect has started it
    assert "systemd (ai102-x.socket)" in played.check("port.8443", SERVER)["actual"]


def test_an_unreachable_host_is_part_of_the_verdict(tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text("all: {children: {log_hosts: {hosts: {ai102-mol-preflight-gone: {}}}}}\n")
    played = play(f"--inventory={tmp_path}/hosts.yml")
    assert played.returncode != 0
    assert played.failed == [("reachable", "ai102-mol-preflight-gone")]
    # the others were looked at all the same
    assert played.check("cpu", SERVER)["status"] == "pass"


def test_full_disk_stranger_on_a_port_and_dead_package_source_are_refused_together() -> None:
    on(
        SERVER,
        "mkdir -p /run/full && mount -t tmpfs -o size=4m tmpfs /run/full && head -c 3m /dev/zero > /run/full/filler; "
        "echo 'deb http://127.0.0.1:9/debian trixie main' > /etc/apt/sources.list.d/dead.list; touch /run/before",
    )
    try:
        with listening(SERVER, "stranger", 8443):
            played = play(preflight_paths=["/run/full/not/there/yet"])
    finally:
        on(SERVER, "umount /run/full && rmdir /run/full && rm /etc/apt/sources.list.d/dead.list")
    assert played.returncode != 0
    full, source = "disk.free./run/full/not/there/yet", "source.http://127.0.0.1:9/debian trixie"
    failed = {check for check, host in played.failed if host == SERVER}
    assert failed == {full, "port.8443", source}
    assert played.check(full, SERVER)["actual"].startswith("0.00105 GB of 0.00419 GB")
    assert "mounted at /run/full" in played.check(full, SERVER)["hint"]
    assert played.check("port.8443", SERVER)["actual"] == "held by python3 (stranger.service)"
    assert "refused" in played.check(source, SERVER)["actual"]


def test_gpus_are_compared_with_driver_and_onnx_runtime() -> None:
    """A T4 by simulation; its packages, sources and kernels are the container's own."""
    on(
        SERVER,
        """echo '{"pci": [{"pci_id": "0000:1b:00.0", "device": "0x1eb8"}], "nvidia_smi": null}' > /run/gpus.json; """
        "touch /run/before",
    )
    driver = {"nvidia_driver_source": "distribution", "nvidia_driver_simulate": "/run/gpus.json"}
    newest = play(inference_server_flavour="gpu", ai102_gpu_driver="managed", **driver)
    assert {check for check, host in newest.failed} == {"gpu.driver"}
    assert "needs driver 580 or newer, not 550" in newest.check("gpu.driver", SERVER)["actual"]
    assert "inference_server_flavour: gpu_cuda12" in newest.check("gpu.driver", SERVER)["hint"]
    assert not any(name.startswith("gpu.") for name, host in newest.failed if host == GATEWAY)

    older = play(inference_server_flavour="gpu_cuda12", ai102_gpu_driver="managed", **driver)
    assert {check for check, host in older.failed} == {"gpu.kernel", "gpu.components"}
    assert "on CUDA 12" in older.check("gpu.onnxruntime", SERVER)["actual"]
    assert "without contrib, non-free, non-free-firmware" in older.check("gpu.components", SERVER)["actual"]

    # Nobody is to install a driver, and there is none.
    provided = play(inference_server_flavour="gpu", nvidia_driver_simulate="/run/gpus.json")
    assert {check for check, host in provided.failed} == {"gpu.driver"}
    assert "ai102_gpu_driver: managed" in provided.check("gpu.driver", SERVER)["hint"]

    on(SERVER, "rm /run/gpus.json")
    absent = play(inference_server_flavour="gpu")
    assert absent.failed == [("gpu.onnxruntime", SERVER)]


def test_mistakes_of_the_inventory_and_the_control_node_are_refused_together() -> None:
    played = play(
        preflight_gpu=4,
        preflight_gpus=2,
        preflight_control_libraries=["cryptography", "no_such_library"],
        ai102_secrets_passphrase="{{ undef(hint='Put it into the vault.') }}",
    )
    assert played.returncode != 0
    assert set(played.failed) == {
        ("inventory.variable.preflight_gpu", "all"),
        ("inventory.required.ai102_secrets_passphrase", "all"),
        ("control.library.no_such_library", "control node"),
        ("gpu", GATEWAY),
        ("gpu", SERVER),
    }
    for words in ("Did you mean preflight_gpus?", "Put it into the vault.", "none on the PCI bus"):
        assert words in played.output

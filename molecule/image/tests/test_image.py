"""The round trip of a container image: built here, pushed, pulled by digest, run on two hosts, changed, refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rolled_out import PROJECT, SCENARIO, STATE, UNIT, Load, Play, SiteHost, another_release

RECORD = STATE / "images/ai102-server-cpu.json"
INFERENCE = ("inference1", "inference2")
CURRENT = "/opt/ai102/inference_server/current"


def record() -> dict[str, Any]:
    """What the last build wrote beside the inventory."""
    found: dict[str, Any] = json.loads(RECORD.read_text())
    return found


def images(host: SiteHost) -> list[str]:
    """Every image that the host has, by its digest."""
    listed = json.loads(host.sh("podman image inspect $(podman images --quiet --no-trunc)"))
    return [name for image in listed for name in image["RepoDigests"]]


def pull(name: str, **arguments: Any) -> str:
    """Have the module pull an image on a host, and give what was said."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible")),
            name,
            f"--inventory={PROJECT}/molecule/shared/hosts.yml",
            f"--inventory={SCENARIO}/hosts.yml",
            "--module-name=ai102.inference.container_image",
            f"--args={json.dumps(arguments)}",
        ],
        cwd=PROJECT,
        env={**environment, "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return " ".join((done.stdout + done.stderr).split())


@pytest.fixture(scope="module")
def first() -> dict[str, Any]:
    """The image that the scenario was rolled out with."""
    return record()


def test_both_hosts_run_the_image_that_was_built(first: dict[str, Any], hosts: dict[str, SiteHost]) -> None:
    for name in INFERENCE:
        host = hosts[name]
        assert first["reference"] in images(host)
        assert first["reference"] in host.sh(f"systemctl show --value --property=ExecStart {UNIT}")
        running = json.loads(host.sh("podman container inspect ai102-inference-server"))[0]
        kept = json.loads(host.sh(f"podman image inspect {first['reference']}"))[0]
        assert running["Image"] == kept["Id"]
        assert host.run("test", "-e", f"{CURRENT}/environment", check=False).returncode != 0
        # Nothing of the account stays on the host.
        assert host.run("grep", "-rls", "only-for-tests", "/etc", "/root", "/run/containers", check=False).stdout == ""


def test_the_server_has_no_rights_and_counts_for_the_limits_of_its_unit(hosts: dict[str, SiteHost]) -> None:
    for name in INFERENCE:
        host = hosts[name]
        pids = host.sh(
            f"cat /sys/fs/cgroup$(systemctl show --value --property=ControlGroup {UNIT})/cgroup.procs"
        ).split()
        servers = [
            pid
            for pid in pids
            if "/opt/ai102-server/bin/ai102-server" in host.sh(f"tr '\\0' ' ' < /proc/{pid}/cmdline")
        ]
        servers = [pid for pid in servers if "podman" not in host.sh(f"cat /proc/{pid}/comm")]
        assert len(servers) >= 2, servers
        user = host.sh("id --user ai102")
        for pid in servers:
            status = dict(
                line.split(":\t", 1) for line in host.sh(f"cat /proc/{pid}/status").splitlines() if ":\t" in line
            )
            assert status["Uid"].split() == [user] * 4
            assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
            assert status["NoNewPrivs"] == "1"
            assert status["Seccomp"] == "2"
        properties = dict(
            line.split("=", 1)
            for line in host.sh(
                f"systemctl show {UNIT} --property=MemoryMax --property=CPUQuotaPerSecUSec --property=WatchdogUSec"
                " --property=StatusText"
            ).splitlines()
        )
        assert properties["MemoryMax"] == str(2 * 1024**3)
        assert properties["CPUQuotaPerSecUSec"] == "1.500000s"
        assert properties["WatchdogUSec"] == "30s"
        assert properties["StatusText"] == "Serving 1 of 1 models"  # the server speaks to systemd by itself
        container = json.loads(host.sh("podman container inspect ai102-inference-server"))[0]
        assert container["HostConfig"]["ReadonlyRootfs"]
        assert {mount["Destination"] for mount in container["Mounts"] if mount["RW"]} == {
            "/run/systemd/notify",
            "/var/lib/ai102-inference-server",
        }


def test_the_gateway_shares_requests_among_both(load: Callable[[int], Load], verdict: Any) -> None:
    figures = load(4).figures()
    assert figures["failed"] == 0, figures
    assert len([count for count in figures["upstreams"].values() if count > 0]) == 2, figures
    assert verdict("verify")["ok"]


def test_a_killed_server_comes_back(load: Callable[[int], Load], hosts: dict[str, SiteHost]) -> None:
    running = load(12)
    before = int(hosts["inference1"].sh(f"systemctl show --value --property=NRestarts {UNIT}"))
    hosts["inference1"].sh(f"systemctl kill --signal=KILL {UNIT}")
    figures = running.figures()
    assert figures["failed"] == 0, figures
    assert int(hosts["inference1"].sh(f"systemctl show --value --property=NRestarts {UNIT}")) > before
    assert hosts["inference1"].sh(f"systemctl is-active {UNIT}") == "active"
    assert hosts["inference1"].sh("podman ps --quiet | wc -l") == "1"


def test_layers_are_few_and_ordered_by_age(first: dict[str, Any]) -> None:
    """R14: what changes most often is the last and the smallest, and no cache of pip is in it."""
    sizes = [layer["bytes"] for layer in first["layers"]]
    assert len(sizes) <= 6
    assert sizes[-1] < 5_000_000
    assert first["compressed_bytes"] < 250_000_000
    tag = f"ai102-server:{first['tag']}"
    listing = subprocess.run(
        ["docker", "run", "--rm", "--network=none", "--entrypoint=python3", tag, "-c", _LISTING],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert json.loads(listing) == {"pip": [], "cache": [], "setuid": [], "uid": 10001}


_LISTING = """
import json, os, pathlib, stat
files = [pathlib.Path(top, name) for top, _dirs, names in os.walk("/", onerror=None) for name in names
         if not top.startswith(("/proc", "/sys", "/dev"))]
print(json.dumps({
    "pip": [str(path) for path in pathlib.Path("/opt/ai102-server").rglob("pip")],
    "cache": [str(path) for path in files if "/.cache/" in str(path) or str(path).startswith("/var/cache/apt/archives/")
              and path.suffix == ".deb"],
    "setuid": [str(path) for path in files if str(path).startswith("/opt") and path.lstat().st_mode & stat.S_ISUID],
    "uid": os.getuid()}))
"""


def test_what_is_wrong_is_refused_and_nothing_is_kept(first: dict[str, Any], hosts: dict[str, SiteHost]) -> None:
    """A wrong authority, account, digest or flavour, and a tag instead of a digest; each says what to do."""
    before = images(hosts["inference1"])
    right = {
        "reference": first["reference"],
        "username": "ai102",
        "password": "only-for-tests-registry",
        "ca_path": "/etc/ai102/pki/server_ca.pem",
    }
    missing = first["reference"].partition("@")[0] + "@sha256:" + "0" * 64
    cases = [
        ({"reference": missing, "ca_path": "/etc/ai102/pki/client_ca.pem"}, "is not one that is trusted here"),
        ({"reference": missing, "ca_path": ""}, "is not one that is trusted here"),
        ({"reference": missing, "password": "wrong"}, "refuses the account"),
        ({"reference": missing}, "the registry has no such image"),
        ({"reference": first["reference"].partition("@")[0] + ":latest"}, "does not name an image by its digest"),
        ({"labels": {"ai102.flavour": "gpu"}}, "ai102.flavour is 'cpu' and should be 'gpu'"),
    ]
    for changes, words in cases:
        said = pull("inference1", **{**right, **changes})
        assert "FAILED" in said, changes
        assert words in said, said
        assert "only-for-tests-registry" not in said
    assert images(hosts["inference1"]) == before


def test_another_image_is_built_rolled_out_and_taken_back(
    first: dict[str, Any], load: Callable[[int], Load], hosts: dict[str, SiteHost], play: Play, tmp_path: Path
) -> None:
    """One that was exchanged in the registry is refused; the right one rolls over both hosts, and back: 0 failures."""
    source = another_release(tmp_path, "# another release")
    before = {name: hosts[name].sh(f"readlink {CURRENT}") for name in INFERENCE}
    try:
        built = play(
            "--extra-vars", f"artifacts_server_source={source}", "--tags=image", playbook="playbooks/build_image.yml"
        )
        assert built.returncode == 0, built.output[-3000:]
        second = record()
        assert second["reference"] != first["reference"]
        assert [layer["bytes"] for layer in second["layers"]][:-1] == [layer["bytes"] for layer in first["layers"]][:-1]

        with_another_manifest(hosts["gateway1"], second["reference"])
        said = pull(
            "inference1",
            reference=second["reference"],
            username="ai102",
            password="only-for-tests-registry",
            ca_path="/etc/ai102/pki/server_ca.pem",
        )
        assert "what the registry sent is not the image that the digest means" in said
        assert second["reference"] not in images(hosts["inference1"])
        with_the_right_manifest(hosts["gateway1"], second["reference"])

        running = load(600)
        rolled = play()
        assert running.process.poll() is None, "the load ended before the rollout"
        figures = running.end()
        assert rolled.returncode == 0, rolled.output[-3000:]
        assert figures["failed"] == 0, figures
        for name in INFERENCE:
            assert second["reference"] in hosts[name].sh(f"systemctl show --value --property=ExecStart {UNIT}")
            assert {first["reference"], second["reference"]} <= set(images(hosts[name]))

        running = load(600)
        returned = play(playbook="playbooks/rollback.yml")
        assert running.process.poll() is None, "the load ended before the rollback"
        figures = running.end()
        assert returned.returncode == 0, returned.output[-3000:]
        assert figures["failed"] == 0, figures
        for name in INFERENCE:
            assert hosts[name].sh(f"readlink {CURRENT}") == before[name]
            assert first["reference"] in hosts[name].sh(f"systemctl show --value --property=ExecStart {UNIT}")
    finally:
        RECORD.write_text(json.dumps(first, indent=2, sort_keys=True) + "\n")


def test_an_image_that_does_not_work_is_refused_before_anything_is_switched(
    first: dict[str, Any], hosts: dict[str, SiteHost], play: Play, tmp_path: Path, load: Callable[[int], Load]
) -> None:
    source = another_release(tmp_path, "import a_module_that_nobody_has")
    before = {name: hosts[name].sh(f"readlink {CURRENT}") for name in INFERENCE}
    try:
        built = play(
            "--extra-vars", f"artifacts_server_source={source}", "--tags=image", playbook="playbooks/build_image.yml"
        )
        assert built.returncode == 0, built.output[-3000:]
        rolled = play("--tags=trust,serving")
        assert rolled.returncode != 0
        assert "a_module_that_nobody_has" in rolled.flat
        assert "Nothing was switched" in rolled.flat
    finally:
        RECORD.write_text(json.dumps(first, indent=2, sort_keys=True) + "\n")
    assert {name: hosts[name].sh(f"readlink {CURRENT}") for name in INFERENCE} == before
    figures = load(2).figures()
    assert figures["failed"] == 0, figures


def manifest(reference: str) -> str:
    """Where the registry keeps the manifest of an image."""
    digest = reference.rpartition(":")[2]
    return f"/var/lib/docker-registry/docker/registry/v2/blobs/sha256/{digest[:2]}/{digest}/data"


def with_another_manifest(registry: SiteHost, reference: str) -> None:
    """Exchange the manifest behind a digest by one that says the same in other bytes."""
    path = manifest(reference)
    registry.sh(f"cp --preserve {path} {path}.right && printf ' ' >> {path} && systemctl restart docker-registry")
    registry.sh("until ss -Hltn | grep -q :5000; do sleep 0.1; done")


def with_the_right_manifest(registry: SiteHost, reference: str) -> None:
    """Put it back."""
    path = manifest(reference)
    registry.sh(f"mv {path}.right {path} && systemctl restart docker-registry")
    registry.sh("until ss -Hltn | grep -q :5000; do sleep 0.1; done")

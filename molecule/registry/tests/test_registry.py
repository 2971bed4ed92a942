"""What the registry does, seen from another host: skopeo pushes and pulls over TLS with accounts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import testinfra
from testinfra.host import Host

PROJECT = Path(__file__).resolve().parents[3]
SCENARIO = PROJECT / "molecule/registry"
REGISTRIES = {"ai102-mol-registry": "198.18.41.101:5000", "ai102-mol-registry-trixie": "198.18.41.102:5000"}
CHANGED = "ai102-mol-registry"  # a run of Ansible takes a while: changes are tried on one host
testinfra_hosts = [f"docker://{name}" for name in REGISTRIES]
CREDENTIALS = "ai102:only-for-tests-registry"
# A layer of a few bytes, and an image of it in the form that skopeo reads as a directory.
IMAGE = r"""
import gzip, hashlib, io, json, pathlib, sys, tarfile
name = sys.argv[1]
root = pathlib.Path("/tmp/images", name); root.mkdir(parents=True, exist_ok=True)
raw = io.BytesIO()
with tarfile.open(fileobj=raw, mode="w") as tar:
    info = tarfile.TarInfo("name"); info.size = len(name); tar.addfile(info, io.BytesIO(name.encode()))
layer = gzip.compress(raw.getvalue(), mtime=0)
def blob(content):
    digest = hashlib.sha256(content).hexdigest(); (root / digest).write_bytes(content)
    return {"size": len(content), "digest": "sha256:" + digest}
config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers",
    "diff_ids": ["sha256:" + hashlib.sha256(raw.getvalue()).hexdigest()]}}).encode()
kind = "application/vnd.oci.image."
(root / "manifest.json").write_text(json.dumps({"schemaVersion": 2, "mediaType": kind + "manifest.v1+json",
    "config": {"mediaType": kind + "config.v1+json", **blob(config)},
    "layers": [{"mediaType": kind + "layer.v1.tar+gzip", **blob(layer)}]}))
(root / "version").write_text("Directory Transport Version: 1.1\n")
"""


@pytest.fixture(scope="session")
def client() -> Host:
    """The host that pushes and pulls; it has the site's authority, where skopeo looks only when it is told to."""
    found = testinfra.get_host("docker://ai102-mol-registry-client")
    found.check_output("mkdir -p /tmp/trust && cp /etc/ai102/pki/server_ca.pem /tmp/trust/ca.crt")
    return found


@pytest.fixture
def registry(host: Host) -> str:
    """Address and port of the registry that the test is about."""
    return REGISTRIES[host.backend.name]


@pytest.fixture(scope="module")
def apply() -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Applies the scenario with other variables to the first registry; afterwards it is as the scenario says."""
    used = False

    def call(**variables: Any) -> subprocess.CompletedProcess[str]:
        nonlocal used
        used = True
        return _play(CHANGED, variables)

    yield call
    if used:
        done = _play(CHANGED, {})
        assert done.returncode == 0, done.stdout


def _play(name: str, variables: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    environment.update(
        ANSIBLE_CONFIG=str(PROJECT / "ansible.cfg"),
        ANSIBLE_NOCOLOR="1",
        MOLECULE_PROJECT_DIRECTORY=str(PROJECT),
        MOLECULE_SCENARIO_NAME="registry",
    )
    return subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            f"--inventory={PROJECT}/molecule/shared/hosts.yml",
            f"--inventory={SCENARIO}/hosts.yml",
            str(SCENARIO / "converge.yml"),
            f"--limit={name}",
            f"--extra-vars={json.dumps(variables)}",
        ],
        env=environment,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def push(client: Host, registry: str, name: str, credentials: str = CREDENTIALS) -> Any:
    """Push a small image and give what skopeo said."""
    client.run_expect([0], f"python3 - {name} <<'END'\n{IMAGE}\nEND")
    return client.run(
        f"skopeo --insecure-policy copy --dest-cert-dir /tmp/trust --dest-creds {credentials} --digestfile /tmp/digest "
        f"dir:/tmp/images/{name} docker://{registry}/{name}:1"
    )


def pull(client: Host, reference: str, credentials: str = CREDENTIALS, trust: str = "/tmp/trust") -> Any:
    """Pull an image and give what skopeo said."""
    client.check_output("rm -rf /tmp/pulled; mkdir -p /tmp/nothing")
    return client.run(
        f"skopeo --insecure-policy copy --src-cert-dir {trust} --src-creds {credentials} docker://{reference} "
        "dir:/tmp/pulled"
    )


def test_an_image_goes_in_and_comes_out_by_its_digest(client: Host, registry: str) -> None:
    pushed = push(client, registry, "round")
    assert pushed.rc == 0, pushed.stderr
    digest = client.check_output("cat /tmp/digest")
    pulled = pull(client, f"{registry}/round@{digest}")
    assert pulled.rc == 0, pulled.stderr
    assert client.run("cmp /tmp/pulled/manifest.json /tmp/images/round/manifest.json").rc == 0
    wrong = digest[:-4] + ("0000" if digest[-4:] != "0000" else "1111")
    refused = pull(client, f"{registry}/round@{wrong}")
    assert refused.rc != 0
    assert "manifest unknown" in refused.stderr


def test_nothing_without_the_right_account(client: Host, registry: str) -> None:
    for credentials in ("ai102:wrong", "nobody:only-for-tests-registry", "builder:only-for-tests-registry"):
        assert "unauthorized" in pull(client, f"{registry}/round:1", credentials).stderr
        assert push(client, registry, "other", credentials).rc != 0
    assert push(client, registry, "other", "builder:only-for-tests-builder").rc == 0
    for path in ("", "_catalog", "round/tags/list", "round/manifests/1"):
        shown = client.check_output(
            "python3 -c 'import ssl, urllib.request, urllib.error\n"
            'context = ssl.create_default_context(cafile="/tmp/trust/ca.crt")\n'
            f'try: urllib.request.urlopen("https://{registry}/v2/{path}", context=context)\n'
            "except urllib.error.HTTPError as error: print(error.code)'"
        )
        assert shown == "401", path


def test_who_does_not_trust_the_authority_does_not_connect(client: Host, registry: str) -> None:
    refused = pull(client, f"{registry}/round:1", trust="/tmp/nothing")
    assert refused.rc != 0
    assert "certificate signed by unknown authority" in refused.stderr
    address, _colon, port = registry.partition(":")
    plain = client.run(f"python3 -c 'import urllib.request as u; u.urlopen(\"http://{address}:{port}/v2/\")'")
    assert plain.rc != 0
    assert client.run(f"openssl s_client -connect {registry} -tls1_1 </dev/null").rc != 0
    assert client.run(f"openssl s_client -connect {registry} -tls1_2 </dev/null").rc == 0


def test_the_service_is_hardened(host: Host) -> None:
    assert host.service("docker-registry").is_enabled
    assert host.service("docker-registry").is_running
    shown = host.check_output("systemd-analyze security --no-pager docker-registry.service | tail -1")
    score = float(shown.partition("docker-registry.service: ")[2].split()[0])
    assert score <= 1.5, score
    for path, mode, group in (
        ("/etc/ai102/registry/htpasswd", 0o640, "docker-registry"),
        ("/run/docker-registry/key.pem", 0o400, "root"),
    ):
        file = host.file(path)
        assert (file.mode, file.group) == (mode, group), path
    assert host.file("/run/docker-registry").mode == 0o700
    text = host.file("/etc/ai102/registry/htpasswd").content_string
    assert "only-for-tests" not in text
    assert text.count("$2b$10$") == 2
    assert host.run("grep -r only-for-tests /etc /run/docker-registry /var/log").rc == 1


def test_unneeded_layers_go_and_pushes_wait_meanwhile(client: Host, host: Host, registry: str) -> None:
    """A deleted image frees its layers, an untagged one stays; while that runs the registry is read-only."""
    assert push(client, registry, "kept").rc == 0
    kept = client.check_output("cat /tmp/digest")
    assert push(client, registry, "dropped").rc == 0
    deleted = client.run(f"skopeo delete --cert-dir /tmp/trust --creds {CREDENTIALS} docker://{registry}/dropped:1")
    assert deleted.rc == 0, deleted.stderr
    blobs = "find /var/lib/docker-registry/docker/registry/v2/blobs -name data | wc -l"
    before = int(host.check_output(blobs))
    # The real run, only made longer.
    slow = "/run/systemd/system/ai102-registry-gc.service.d"
    host.check_output(
        f"mkdir -p {slow} && printf '[Service]\\nExecStartPre=/usr/bin/sleep 4\\n' > {slow}/slow.conf"
        " && systemctl daemon-reload && systemctl start --no-block ai102-registry-gc.service && sleep 2"
    )
    refused = push(client, registry, "meanwhile")
    assert refused.rc != 0
    assert pull(client, f"{registry}/kept@{kept}").rc == 0
    host.check_output("systemctl start ai102-registry-gc.service")
    assert host.check_output("systemctl show -p Result --value ai102-registry-gc.service") == "success"
    host.check_output("rm -r /run/systemd/system/ai102-registry-gc.service.d && systemctl daemon-reload")
    assert int(host.check_output(blobs)) <= before - 2
    assert push(client, registry, "meanwhile").rc == 0
    assert pull(client, f"{registry}/kept@{kept}").rc == 0
    assert not host.file("/run/ai102-registry/mode").exists
    timer = host.check_output("systemctl show -p TimersCalendar --value ai102-registry-gc.timer")
    assert "Sat *-*-* 02:15:00" in timer


def test_a_collection_that_fails_leaves_a_registry_that_takes_pushes(client: Host, host: Host, registry: str) -> None:
    host.check_output("mkdir -p /run/systemd/system/ai102-registry-gc.service.d")
    host.check_output(
        "printf '[Service]\\nExecStart=\\nExecStart=/usr/bin/false\\n'"
        " > /run/systemd/system/ai102-registry-gc.service.d/broken.conf && systemctl daemon-reload"
    )
    assert host.run("systemctl start ai102-registry-gc.service").rc != 0
    host.check_output("rm -r /run/systemd/system/ai102-registry-gc.service.d && systemctl daemon-reload")
    host.check_output("systemctl reset-failed; until ss -Hltn | grep -q :5000; do sleep 0.1; done")
    assert push(client, registry, "after").rc == 0


def test_changes_of_a_registry_that_runs(
    client: Host, host: Host, registry: str, apply: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """A weak password changes nothing, another one counts at once, and a bad configuration is taken back."""
    if host.backend.name != CHANGED:
        return
    started = host.check_output("systemctl show -p ExecMainStartTimestampMonotonic docker-registry")
    refused = apply(registry_accounts=[{"name": "ai102", "password": "short"}])
    assert refused.returncode == 2
    assert "Set ai102_registry_password in the inventory" in " ".join(refused.stdout.split())
    assert pull(client, f"{registry}/round:1").rc == 0

    done = apply(registry_accounts=[{"name": "ai102", "password": "another-only-for-tests"}])
    assert done.returncode == 0, done.stdout
    assert "another-only-for-tests" not in done.stdout
    assert host.check_output("systemctl show -p ExecMainStartTimestampMonotonic docker-registry") == started
    assert pull(client, f"{registry}/round:1", "ai102:another-only-for-tests").rc == 0
    assert pull(client, f"{registry}/round:1").rc != 0
    assert pull(client, f"{registry}/round:1", "builder:only-for-tests-builder").rc != 0

    before = host.check_output("readlink /etc/ai102/registry/current")
    done = apply(registry_certificate="/etc/hostname")
    assert done.returncode == 2
    said = " ".join(done.stdout.split())
    assert "was refused" in said
    assert "is in force again" in said
    assert "tls: failed to find any PEM data" in said
    assert host.check_output("readlink /etc/ai102/registry/current") == before
    assert pull(client, f"{registry}/round:1").rc == 0

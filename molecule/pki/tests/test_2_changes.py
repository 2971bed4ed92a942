"""What is issued anew, and what is not; what is refused. By real runs of Ansible."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import testinfra
from testinfra.host import Host

ROOT = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
SCENARIO = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])
PKI = ROOT / ".cache/molecule/pki/secrets/pki"
GATEWAY, INFERENCE = "ai102-mol-pki-gateway", "ai102-mol-pki"
testinfra_hosts = [f"docker://{INFERENCE}"]

APPLY = """
- hosts: all
  gather_facts: false
  roles: [ai102.inference.pki]
  post_tasks:
    - name: Facts
      ansible.builtin.debug: {msg: "fingerprint={{ pki_fingerprint }} {{ pki_certificates.server.fingerprint }}"}
      tags: [pki_certificates]
"""
TEARDOWN = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.import_role: {name: ai102.inference.pki, tasks_from: teardown}
"""


def ansible(
    tmp_path: Path, *arguments: str, play: str = APPLY, variables: Any = None
) -> subprocess.CompletedProcess[str]:
    """Run a play against the scenario's inventory, on the inference host unless arguments say otherwise."""
    playbook = tmp_path / "play.yml"
    playbook.write_text(play)
    if not any(argument.startswith("--limit") for argument in arguments):
        arguments = (f"--limit={INFERENCE}", *arguments)
    if variables:
        arguments = (*arguments, "-e", json.dumps(variables))
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"),
        "ANSIBLE_NOCOLOR": "true",
    }
    inventories = [f"--inventory={ROOT}/molecule/shared/hosts.yml", f"--inventory={SCENARIO}/hosts.yml"]
    return subprocess.run(
        # Only what this is about, without the package and the user.
        [
            "ansible-playbook",
            *inventories,
            str(playbook),
            "--tags=pki_authority,pki_certificates,pki_teardown",
            *arguments,
        ],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        timeout=120,
        check=False,
    )


def serial(host: Host, name: str = "server") -> str:
    """Serial number of a certificate in use."""
    return str(host.check_output(f"openssl x509 -in /etc/ai102/pki/{name}/cert.pem -noout -serial"))


def names(host: Host) -> str:
    """Names of the certificate in use."""
    return str(host.check_output("openssl x509 -in /etc/ai102/pki/server/cert.pem -noout -ext subjectAltName"))


def test_only_what_is_due_is_renewed(host: Host, tmp_path: Path) -> None:
    """Changed names of one host renew that host's server certificate and nothing else."""
    gateway = testinfra.get_host(f"docker://{GATEWAY}")
    before = serial(host), serial(gateway), serial(gateway, "client")
    wanted = {"ai102_service_aliases": ["api.pki.test", "203.0.113.7"]}
    checked = ansible(tmp_path, "--limit=all", "--check", "--diff", variables=wanted)
    assert "names are" in checked.stdout, checked.stdout
    assert "fingerprint=pending" in checked.stdout
    assert serial(gateway) == before[1]
    done = ansible(tmp_path, "--limit=all", variables=wanted)
    assert done.returncode == 0, done.stdout
    assert serial(host) == before[0]
    assert serial(gateway) != before[1]
    assert serial(gateway, "client") == before[2]
    assert "DNS:api.pki.test" in names(gateway)
    assert "203.0.113.7" in names(gateway)


def test_the_window_decides_about_renewal(host: Host, tmp_path: Path) -> None:
    before = serial(host)
    done = ansible(tmp_path, variables={"pki_renew_before_days": 364})
    assert "changed=0 " in done.stdout, done.stdout
    done = ansible(tmp_path, variables={"pki_renew_before_days": 366, "pki_certificate_days": 400})
    assert done.returncode == 0, done.stdout
    assert serial(host) != before


def test_key_and_certificate_change_together_and_owner_is_minded(host: Host, tmp_path: Path) -> None:
    before = host.check_output("readlink /etc/ai102/pki/server")
    done = ansible(tmp_path, variables={"pki_key_owner": "nobody", "pki_key_group": "nogroup"})
    assert done.returncode == 0, done.stdout
    assert host.file("/etc/ai102/pki/server/key.pem").user == "nobody"
    assert host.check_output("readlink /etc/ai102/pki/server") != before
    assert host.check_output("openssl x509 -in /etc/ai102/pki/server/cert.pem -noout -pubkey") == host.check_output(
        "openssl pkey -in /etc/ai102/pki/server/key.pem -pubout"
    )
    assert len(host.check_output("ls /etc/ai102/pki/versions").split()) == 2


def test_half_made_states_recover(host: Host, tmp_path: Path) -> None:
    # The link was lost; a request is pending whose answer never came; an authority's certificate was never written.
    host.check_output("rm /etc/ai102/pki/server")
    host.check_output("mkdir -p /etc/ai102/pki/pending/server && echo torn > /etc/ai102/pki/pending/server/key.pem")
    (PKI / "client-ca.pem").unlink()
    done = ansible(tmp_path)
    assert done.returncode == 0, done.stdout
    host.check_output("openssl verify -CAfile /etc/ai102/pki/server_ca.pem /etc/ai102/pki/server/cert.pem")
    assert host.check_output("ls -A /etc/ai102/pki/pending") == ""
    assert (PKI / "client-ca.pem").exists()
    assert host.file("/etc/ai102/pki/server/key.pem").user == "ai102"
    assert "changed=0 " in ansible(tmp_path).stdout


def test_a_wrong_passphrase_is_said_before_anything_is_changed(host: Host, tmp_path: Path) -> None:
    before = serial(host)
    done = ansible(tmp_path, variables={"ai102_secrets_passphrase": "something-else", "pki_renew_before_days": 9999})
    assert done.returncode == 2, done.stdout
    assert "cannot be opened with the ai102_secrets_passphrase of this run" in done.stdout, done.stdout
    assert "something-else" not in done.stdout + done.stderr
    assert serial(host) == before


def provide(directory: Path, *hosts: str) -> dict[str, str]:
    """A corporate authority's certificate for names, as files on the control node."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=directory)

    extension = ",".join(f"DNS:{name}" for name in hosts)
    (directory / "ext").write_text(f"subjectAltName={extension}\nextendedKeyUsage=serverAuth\n")
    openssl(
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=corporate",
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
        "-days",
        "90",
    )
    openssl(
        "req", "-newkey", "rsa:2048", "-passout", "pass:its-own", "-subj", "/CN=x", "-keyout", "x.key", "-out", "x.csr"
    )
    openssl(
        "x509",
        "-req",
        "-in",
        "x.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "90",
        "-extfile",
        "ext",
        "-out",
        "x.pem",
    )
    return {
        "certificate": str(directory / "x.pem"),
        "private_key": str(directory / "x.key"),
        "chain": str(directory / "ca.pem"),
        "passphrase": "its-own",
    }


def test_provided_certificates(tmp_path: Path) -> None:
    gateway = testinfra.get_host(f"docker://{GATEWAY}")
    before = serial(gateway)
    wrong = provide(tmp_path, "other.example")
    done = ansible(tmp_path, f"--limit={GATEWAY}", variables={"pki_provided_certificates": {"server": wrong}})
    assert done.returncode == 2, done.stdout
    assert "not good for inference.pki.test" in done.stdout
    assert serial(gateway) == before

    right = {
        "pki_provided_certificates": {"server": provide(tmp_path, "inference.pki.test")},
        "pki_trusted_authorities": [str(tmp_path / "ca.pem")],
    }
    done = ansible(tmp_path, f"--limit={GATEWAY}", variables=right)
    assert done.returncode == 0, done.stdout
    assert "PRIVATE KEY" not in done.stdout + done.stderr
    assert "CN = corporate" in gateway.check_output("openssl x509 -in /etc/ai102/pki/server/cert.pem -noout -issuer")
    assert gateway.check_output(
        "openssl x509 -in /etc/ai102/pki/server/cert.pem -noout -pubkey"
    ) == gateway.check_output("openssl pkey -in /etc/ai102/pki/server/key.pem -pubout")
    assert (tmp_path / "ca.pem").read_text() in (PKI / "ca-bundle.pem").read_text()
    again = ansible(tmp_path, f"--limit={GATEWAY}", variables=right)
    assert "changed=0 " in again.stdout, again.stdout


def test_teardown_keeps_the_authorities(host: Host, tmp_path: Path) -> None:
    host.check_output("touch /etc/ai102/other")
    done = ansible(tmp_path, play=TEARDOWN)
    assert "changed=1 " in done.stdout, done.stdout
    assert not host.file("/etc/ai102/pki").exists
    assert host.file("/etc/ai102/other").exists
    assert (PKI / "root-ca.key").exists()

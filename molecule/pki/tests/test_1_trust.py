"""Who trusts whom: chains, names, and real handshakes between the hosts."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from testinfra.host import Host

PKI = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"]) / ".cache/molecule/pki/secrets/pki"
GATEWAY, INFERENCE, REGISTRY = "ai102-mol-pki-gateway", "ai102-mol-pki", "ai102-mol-pki-registry"
ADDRESSES = {GATEWAY: "198.18.41.51", INFERENCE: "198.18.41.52", REGISTRY: "198.18.41.53"}

SERVER = """
import socket, ssl
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/etc/ai102/pki/server/fullchain.pem", "/etc/ai102/pki/server/key.pem")
context.load_verify_locations("/etc/ai102/pki/client_ca.pem")
context.verify_mode = ssl.CERT_REQUIRED
server = socket.create_server(("0.0.0.0", 8443))
print("listening", flush=True)
while True:
    plain, _address = server.accept()
    plain.settimeout(3)
    try:
        with context.wrap_socket(plain, server_side=True) as sock:
            sock.sendall(b"welcome")
            sock.recv(1)
    except OSError:
        pass
"""

CLIENT = """
import socket, ssl, sys
address, name, certificate, anchor = sys.argv[1:]
context = ssl.create_default_context(cafile=anchor)
if certificate:
    context.load_cert_chain(f"/etc/ai102/pki/{certificate}/fullchain.pem", f"/etc/ai102/pki/{certificate}/key.pem")
try:
    with socket.create_connection((address, 8443), timeout=3) as plain:
        with context.wrap_socket(plain, server_hostname=name) as sock:
            print(sock.recv(16).decode(), end="")
except ssl.SSLCertVerificationError:
    print("not trusted", end="")
except OSError as error:
    print("refused", end="")
"""


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    """A server with mutual TLS on the inference host, as its service user, who owns the key."""
    process = subprocess.Popen(
        ["docker", "exec", "-u", "ai102", INFERENCE, "timeout", "120", "python3", "-u", "-c", SERVER],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "listening\n"
    yield
    process.terminate()
    subprocess.run(["docker", "exec", INFERENCE, "pkill", "-f", "create_server"], check=False)


def ask(host: str, certificate: str, name: str = INFERENCE, anchor: str = "server_ca.pem") -> str:
    """Ask the server from a host; what it answered, or how it failed."""
    done = subprocess.run(
        [
            "docker",
            "exec",
            host,
            "python3",
            "-c",
            CLIENT,
            ADDRESSES[INFERENCE],
            name,
            certificate,
            f"/etc/ai102/pki/{anchor}",
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    return done.stdout


def test_a_client_certificate_is_let_in_by_name_and_by_address(server: None) -> None:
    assert ask(GATEWAY, "client") == "welcome"
    assert ask(GATEWAY, "client", name=ADDRESSES[INFERENCE]) == "welcome"
    assert ask(GATEWAY, "client", anchor="root_ca.pem") == "welcome"


def test_a_server_certificate_is_no_client_certificate(server: None) -> None:
    assert ask(GATEWAY, "server") in ("refused", "")
    assert ask(REGISTRY, "server") in ("refused", "")


def test_no_certificate_is_refused(server: None) -> None:
    assert ask(GATEWAY, "") in ("refused", "")


def test_a_wrong_name_is_not_trusted(server: None) -> None:
    assert ask(GATEWAY, "client", name=GATEWAY) == "not trusted"


def test_servers_are_not_trusted_by_the_anchor_for_clients(server: None) -> None:
    assert ask(GATEWAY, "client", anchor="client_ca.pem") == "not trusted"


def openssl(host: Host, *arguments: str) -> str:
    """Run openssl on a host."""
    return str(host.check_output("openssl " + " ".join(arguments)))


def test_the_chain_of_the_server_certificate(host: Host) -> None:
    pki = "/etc/ai102/pki"
    server = f"{pki}/server/cert.pem"
    assert "OK" in openssl(
        host,
        f"verify -x509_strict -purpose sslserver -CAfile {pki}/root_ca.pem",
        f"-untrusted {pki}/server/fullchain.pem {server}",
    )
    assert "OK" in openssl(host, f"verify -purpose sslserver -CAfile {pki}/server_ca.pem {server}")
    assert host.run(f"openssl verify -purpose sslclient -CAfile {pki}/server_ca.pem {server}").rc != 0
    assert (
        host.run(f"openssl verify -CAfile {pki}/client_ca.pem -untrusted {pki}/server/fullchain.pem {server}").rc != 0
    )


def test_only_callers_have_a_client_certificate(host: Host) -> None:
    pki = "/etc/ai102/pki"
    if host.backend.name == GATEWAY:
        assert "OK" in openssl(
            host, f"verify -x509_strict -purpose sslclient -CAfile {pki}/client_ca.pem {pki}/client/cert.pem"
        )
        assert host.run(f"openssl verify -purpose sslserver -CAfile {pki}/client_ca.pem {pki}/client/cert.pem").rc != 0
    else:
        assert not host.file(f"{pki}/client").exists


def test_names(host: Host) -> None:
    text = openssl(host, "x509 -in /etc/ai102/pki/server/cert.pem -noout -ext subjectAltName").partition("\n")[2]
    names = {name.strip().partition(":")[2] for name in text.split(",")}
    expected = {host.backend.name, ADDRESSES[host.backend.name]}
    shared = {GATEWAY: {"inference.pki.test"}, INFERENCE: {"inference-hosts.ai102.internal"}}
    assert names == expected | shared.get(host.backend.name, set())


def test_keys_are_private_and_made_here(host: Host) -> None:
    key = host.file("/etc/ai102/pki/server/key.pem")
    assert key.mode == 0o600
    assert key.user == ("ai102" if host.backend.name == INFERENCE else "root")
    assert not any(path.name.startswith(host.backend.name) for path in PKI.rglob("*"))
    content = host.check_output("cat /etc/ai102/pki/server/key.pem").split("\n")[1]
    assert all(content not in path.read_text() for path in PKI.parent.rglob("*") if path.is_file())


def test_the_authorities_on_the_control_node() -> None:
    assert PKI.stat().st_mode & 0o777 == 0o700
    for name in ("root", "server", "client"):
        key = PKI / f"{name}-ca.key"
        assert key.stat().st_mode & 0o777 == 0o600
        assert key.read_text().startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
        text = subprocess.run(
            ["openssl", "x509", "-in", str(PKI / f"{name}-ca.pem"), "-noout", "-text"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert f"CA:TRUE, pathlen:{1 if name == 'root' else 0}" in text
    verified = subprocess.run(
        ["openssl", "verify", "-CAfile", str(PKI / "root-ca.pem"), str(PKI / "server-ca.pem")],
        check=False,
        capture_output=True,
    )
    assert verified.returncode == 0
    bundle = (PKI / "ca-bundle.pem").read_text()
    assert (PKI / "root-ca.pem").read_text() in bundle
    assert (PKI / "client-ca.pem").read_text() not in bundle

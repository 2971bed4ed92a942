# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module as Ansible calls it, over real TLS on a loopback socket."""

from __future__ import annotations

import datetime
import http.server
import json
import ssl
import threading
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import basic
from ansible.module_utils.testing import patch_module_args
from ansible_collections.ai102.inference.plugins.modules import inference_request

cryptography = pytest.importorskip("cryptography")

GOLDEN = {
    "request": {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1.0]}]},
    "response": {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": [2.0]}]},
}


class Exit(Exception):
    """What the module returned."""


def issue(directory: Path, name: str, issuer: tuple[Any, Any] | None, sans: list[str]) -> tuple[Any, Any]:
    """Writes ``name.pem`` (certificate) and ``name.key``; self-signed CA without an issuer."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now().astimezone()
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key((issuer[1] if issuer else key).public_key()),
            critical=False,
        )
    )
    if issuer is None:
        uses = dict.fromkeys(["content_commitment", "data_encipherment", "key_agreement", "key_encipherment"], False)
        usage = x509.KeyUsage(
            **uses, digital_signature=True, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False
        )
        builder = builder.add_extension(usage, critical=True)
    if sans:
        names = [x509.IPAddress(ip_address(s)) if s[0].isdigit() else x509.DNSName(s) for s in sans]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    certificate = builder.sign(issuer[1] if issuer else key, hashes.SHA256())
    (directory / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / f"{name}.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate, key


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA, a server certificate for a tier name, a client certificate, and a foreign CA."""
    directory = tmp_path_factory.mktemp("pki")
    ca = issue(directory, "ca", None, [])
    issue(directory, "server", ca, ["inference-hosts.example"])
    issue(directory, "client", ca, [])
    issue(directory, "foreign", None, [])
    return directory


@pytest.fixture(scope="module")
def url(pki: Path) -> Iterator[str]:
    """A server that demands a client certificate and doubles its one input."""

    class Handler(http.server.BaseHTTPRequestHandler):
        """Doubles."""

        def do_POST(self) -> None:
            """Inference."""
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.headers["Authorization"] not in (None, "Bearer good"):
                self.send_response(401)
                self.end_headers()
                return
            output = {"name": "y", "datatype": "FP32", "shape": [1], "data": [2 * body["inputs"][0]["data"][0]]}
            reply = json.dumps({"outputs": [output]}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *args: Any) -> None:
            """Quiet."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / "server.pem", pki / "server.key")
    context.load_verify_locations(pki / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *args: None  # type: ignore[method-assign]  # refused handshakes are the point here
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"https://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, pki: Path, url: str) -> Any:
    """Runs the module; returns what it returned."""

    def leave(self: Any, failed: bool = False, **kwargs: Any) -> None:
        raise Exit({"failed": failed, **kwargs})

    monkeypatch.setattr(basic.AnsibleModule, "exit_json", leave)
    monkeypatch.setattr(basic.AnsibleModule, "fail_json", lambda self, **kw: leave(self, failed=True, **kw))

    def call(check_mode: bool = False, **overrides: Any) -> dict[str, Any]:
        arguments = {
            "url": url,
            "model": "m",
            "golden": [GOLDEN],
            "ca_path": str(pki / "ca.pem"),
            "client_cert": str(pki / "client.pem"),
            "client_key": str(pki / "client.key"),
            "server_hostname": "inference-hosts.example",
            "_ansible_check_mode": check_mode,
            **overrides,
        }
        with patch_module_args({k: v for k, v in arguments.items() if v is not None}), pytest.raises(Exit) as result:
            inference_request.main()
        returned: dict[str, Any] = result.value.args[0]
        return returned

    return call


def test_golden_answer_over_mutual_tls(run: Any) -> None:
    result = run()
    assert result["failed"] is False
    assert result["ok"] is True
    assert result["changed"] is False
    assert [c["status"] for c in result["checks"]] == ["pass"]
    assert result["responses"][0]["outputs"][0]["data"] == [2.0]


def test_a_token_is_sent(run: Any) -> None:
    assert run(token="good")["ok"] is True
    refused = run(token="bad-token")
    assert refused["ok"] is False
    assert "401" in refused["msg"]
    assert "bad-token" not in json.dumps(refused)


def test_wrong_answer_fails_with_its_reason(run: Any) -> None:
    wrong = {**GOLDEN, "response": {"outputs": [{**GOLDEN["response"]["outputs"][0], "data": [2.5]}]}}
    result = run(golden=[wrong])
    assert result["failed"] is True
    assert "2.0 instead of 2.5" in result["msg"]
    assert run(golden=[wrong], fail=False)["failed"] is False


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"server_hostname": None}, "certificate was not accepted"),  # the certificate does not carry the address
        ({"server_hostname": "other.example"}, "certificate was not accepted"),
        ({"ca_path": "foreign.pem"}, "certificate was not accepted"),
        ({"client_cert": None, "client_key": None}, ""),
        ({"ca_path": "missing.pem"}, "No such file"),
    ],
)
def test_wrong_certificates_fail(run: Any, pki: Path, overrides: dict[str, Any], says: str) -> None:
    if overrides.get("ca_path"):
        overrides = {**overrides, "ca_path": str(pki / overrides["ca_path"])}
    result = run(**overrides)
    assert result["failed"] is True
    assert says in result["msg"]


def test_golden_file_of_a_model_package(run: Any, tmp_path: Path) -> None:
    (tmp_path / "golden.json").write_text(json.dumps({"requests": [GOLDEN]}))
    assert run(golden=None, golden_path=str(tmp_path / "golden.json"))["ok"] is True


def test_check_mode_skips_a_server_that_is_not_there_yet(run: Any, pki: Path) -> None:
    for overrides in ({"url": "https://127.0.0.1:9"}, {"ca_path": str(pki / "missing.pem")}):
        result = run(check_mode=True, retries=100, **overrides)
        assert result["failed"] is False
        assert [c["status"] for c in result["checks"]] == ["skip"]
        assert run(**overrides)["failed"] is True


def test_check_mode_still_tells_a_wrong_answer(run: Any) -> None:
    wrong = {**GOLDEN, "response": {"outputs": [{**GOLDEN["response"]["outputs"][0], "data": [2.5]}]}}
    assert run(check_mode=True, golden=[wrong])["failed"] is True

"""What a gateway does, on every supported Nginx that the test hosts have."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from client import BACKENDS, INFER, Gateway, misguide
from testinfra.host import Host

testinfra_hosts = ["docker://ai102-mol-gateway", "docker://ai102-mol-gateway-trixie"]


def test_answers_over_verified_tls_from_both_hosts(gateway: Gateway) -> None:
    """A prediction comes back, from each inference host in turn, over HTTP/2."""
    replies = [gateway.ask("/v2/models/double/infer") for _ in range(4)]
    assert [r.status for r in replies] == [200] * 4
    assert json.loads(replies[0].text)["outputs"][0]["data"] == [3.0, 4.0]
    assert {r.headers["x-served-by"] for r in replies} == set(BACKENDS)
    assert gateway.curl("/v2", "--write-out", "%{http_version}", "--output", "/dev/null").stdout == "2"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_old_tls_is_refused(gateway: Gateway, version: str) -> None:
    """TLS before 1.2 gets no handshake."""
    done = gateway.curl("/v2", "--tls-max", version, "--tlsv1.0", "--ciphers", "DEFAULT@SECLEVEL=0")
    assert done.returncode == 35
    assert "protocol version" in done.stderr


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_current_tls_is_accepted(gateway: Gateway, version: str) -> None:
    """Both current versions work."""
    assert gateway.ask("/v2", "--tls-max", version, f"--tlsv{version}").status == 200


def test_weak_cipher_is_refused(gateway: Gateway) -> None:
    """No cipher without forward secrecy."""
    assert gateway.curl("/v2", "--tls-max", "1.2", "--ciphers", "AES128-GCM-SHA256").returncode == 35


def test_there_is_no_plain_http(gateway: Gateway, host: Host) -> None:
    """Only the two TLS ports are open, and they refuse plain HTTP."""
    listening = [line.split()[3].rpartition(":") for line in host.check_output("ss -Hltn").splitlines()]
    assert {port for address, _, port in listening if not address.startswith("127.")} == {"22", "443", "9443"}
    reply = gateway.curl("", "--insecure", "--url", f"http://{gateway.address}:443/v2")
    assert "Plain HTTP is refused" in reply.stdout


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/metrics",
        "/v2/repository/index",
        "/v2/repository/models/double/load",
        "/v2/models/double/versions/1/infer/more",
        "/v2/models/double/infer2",
        "/hosts/ai102-mol-gateway-b1/metrics",
        "/hosts/ai102-mol-gateway-b1/v2/repository/models/double/load",
        "/hosts/ai102-mol-gateway-b1/v2/models/a%0d%0ab",
        "/hosts/nobody/",
        "/status",
        "/%6detrics",
    ],
)
def test_what_is_not_public_is_not_there(gateway: Gateway, path: str) -> None:
    """Metrics and administration of the inference hosts cannot be reached, by any method."""
    for method in ("GET", "POST"):
        reply = gateway.ask(path, "--request", method)
        assert reply.status == 404
        assert reply.error


@pytest.mark.parametrize(
    "path",
    [
        "/metrics/..%2fv2/health/live",
        "/metrics/%2e%2e/v2/health/live",
        "/metrics/../v2/health/live",
        "/metrics%3f/../v2/health/live",
        "//v2/health/live",
        "/v2\\..\\metrics",
        "/v2/.",
        "/v2/models/a%2fb/infer",
    ],
)
def test_ambiguous_paths_are_refused(gateway: Gateway, path: str) -> None:
    """What the inference host could understand as another path never reaches it."""
    assert gateway.ask(path).status == 400


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_page_of_a_host_is_that_hosts(gateway: Gateway, backend: str) -> None:
    """Whatever it asks goes to the host in the address, without the prefix."""
    for path in ("", "page/page.js", "openapi.json", "v2", "v2/models/double/versions/1", "v2/models/stats"):
        reply = gateway.ask(f"/hosts/{backend}/{path}")
        assert (reply.status, reply.headers["x-served-by"], json.loads(reply.text)["path"]) == (
            200,
            backend,
            f"/{path}",
        )
    replies = [gateway.ask(f"/hosts/{backend}{INFER}") for _ in range(3)]
    assert {(reply.status, reply.headers["x-served-by"]) for reply in replies} == {(200, backend)}
    assert gateway.ask(f"/hosts/{backend}").status == 308
    refused = gateway.ask(f"/hosts/{backend}/v2/models/double", "--request", "DELETE")
    assert (refused.status, refused.headers["allow"]) == (405, "get, head")


def test_errors_of_the_gateway_are_v2_errors(gateway: Gateway, host: Host) -> None:
    """405 with Allow, 413 without reading it all."""
    refused = gateway.ask("/v2", "--request", "DELETE")
    assert (refused.status, refused.headers["allow"]) == (405, "get, head")
    assert "not allowed" in refused.error
    large = gateway.body.with_name("large")
    with large.open("wb") as stream:
        stream.truncate(33554433)
    reply = gateway.ask(INFER, "--data-binary", f"@{large}")
    assert reply.status == 413
    assert "33554432" in reply.error


def test_security_headers(gateway: Gateway) -> None:
    """On answers and on errors; the software's version is on neither."""
    for path in ("/v2", "/nothing"):
        headers = gateway.ask(path).headers
        assert headers["strict-transport-security"] == "max-age=63072000"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert headers["server"] == "nginx"


@pytest.mark.parametrize(("given", "kept"), [("abc-12345678", True), ("short", False), ('x" injected {} long', False)])
def test_request_id(gateway: Gateway, given: str, kept: bool) -> None:
    """A well-formed one goes through to the inference host and back; any other is replaced."""
    reply = gateway.ask(INFER, "--header", f"X-Request-ID: {given}")
    seen = json.loads(reply.text)["parameters"]["request_id"]
    assert reply.headers["x-request-id"] == seen.lower()
    assert (seen == given) is kept
    assert len(seen) == (len(given) if kept else 32)


def test_forwarded_address_cannot_be_forged(gateway: Gateway) -> None:
    """The inference host sees the client's address, not what the client says."""
    reply = gateway.ask(INFER, "--header", "X-Forwarded-For: 192.0.2.1")
    assert json.loads(reply.text)["parameters"]["forwarded_for"] not in {"192.0.2.1", ""}


def test_access_log(gateway: Gateway, host: Host) -> None:
    """One line of JSON with everything to follow a request, and nothing of its query string."""
    secret = f"token-{time.time_ns()}"
    request_id = f"log-test-{time.time_ns()}"
    gateway.ask(f"/v2?key={secret}", "--header", f"X-Request-ID: {request_id}", "--header", 'User-Agent: a "b" \\ c')
    time.sleep(1.5)
    log = host.file("/var/log/nginx/gateway.access.json")
    assert secret not in log.content_string
    (line,) = [line for line in log.content_string.splitlines() if request_id in line]
    entry: dict[str, Any] = json.loads(line)
    assert entry["status"] == 200
    assert entry["path"] == "/v2"
    assert entry["user_agent"] == 'a "b" \\ c'
    assert entry["tls_version"] == "TLSv1.3"
    assert entry["upstream"].endswith(":8443")
    assert entry["upstream_status"] == "200"
    assert float(entry["upstream_response_s"]) >= 0
    assert not log.mode & 0o007


def test_logs_are_rotated(gateway: Gateway, host: Host) -> None:
    """Logrotate takes the configuration, and Nginx goes on in the new file."""
    host.run_expect([0], "logrotate --force /etc/logrotate.d/ai102-gateway")
    request_id = f"rotated-{time.time_ns()}"
    gateway.ask("/v2", "--header", f"X-Request-ID: {request_id}")
    time.sleep(1.5)
    assert request_id in host.file("/var/log/nginx/gateway.access.json").content_string


def test_status_needs_a_client_certificate(gateway: Gateway) -> None:
    """None, and one of a server, are refused; a client's is accepted."""
    client, server = gateway.pki / "client", gateway.pki / "server"
    for arguments in ([], ["--cert", f"{server}/fullchain.pem", "--key", f"{server}/key.pem"]):
        reply = gateway.ask("/status", *arguments, port=9443)
        assert reply.status == 400
        assert "certificate for clients" in reply.error
    reply = gateway.ask("/status", "--cert", f"{client}/fullchain.pem", "--key", f"{client}/key.pem", port=9443)
    assert reply.status == 200
    assert "Active connections" in reply.text


def test_own_health_does_not_ask_the_inference_hosts(gateway: Gateway, backends: dict[str, Host]) -> None:
    """The gateway lives although nobody is behind it; predictions say 502 then."""
    for backend in backends.values():
        backend.run_expect([0], "systemctl stop stand-in")
    assert json.loads(gateway.ask("/health").text) == {"live": True}
    reply = gateway.ask()
    assert reply.status == 502
    assert "No inference host" in reply.error


def test_killed_host_costs_no_request(gateway: Gateway, backends: dict[str, Host]) -> None:
    """SIGKILL of one of two hosts, and its return, under load."""
    load = gateway.load(duration=5)
    time.sleep(1)
    backends[BACKENDS[0]].run_expect([0], "systemctl kill --signal=KILL stand-in; systemctl stop stand-in")
    time.sleep(2)
    backends[BACKENDS[0]].run_expect([0], "systemctl start stand-in")
    figures = load.result()
    assert figures["requests"] > 100
    assert figures["failures"] == {}
    assert figures["resent"] == 0


def test_hosts_that_all_failed_are_asked_again_at_once(gateway: Gateway, backends: dict[str, Host]) -> None:
    """Circuit breaking does not outlast the trouble when it has hit every host."""
    for backend in backends.values():
        backend.run_expect([0], "systemctl stop stand-in")
    assert gateway.load("--requests", "10").result()["statuses"] == {"502": 80}
    backends[BACKENDS[1]].run_expect([0], "systemctl start stand-in")
    backends[BACKENDS[1]].run_expect([0], "until ss -Hltn | grep -q :8443; do sleep 0.05; done")
    assert gateway.load("--requests", "10").result()["statuses"] == {"200": 80}


@pytest.mark.parametrize("status", [502, 503, 504])
def test_failing_host_costs_no_request_and_is_left_alone(
    gateway: Gateway, backends: dict[str, Host], status: int
) -> None:
    """A host that answers errors is asked a few times only, and its requests go to the other."""
    misguide(backends[BACKENDS[0]], status=status)
    figures = gateway.load("--requests", "25", duration=10, concurrency=4).result()
    assert figures["failures"] == {}
    assert figures["upstreams"] == {BACKENDS[1]: 100}


def test_service_is_hardened_and_comes_back(gateway: Gateway, host: Host) -> None:
    """The exposure that systemd computes, and a crash of the master."""
    assessed = host.check_output("systemd-analyze security nginx.service --no-pager | tail -1")
    assert float(assessed.split(":")[1].split()[0]) < 3.0
    before = host.file("/run/nginx.pid").content_string
    host.run_expect([0], "systemctl kill --signal=KILL nginx.service")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if gateway.curl("/health").returncode == 0 and host.file("/run/nginx.pid").content_string != before:
            return
        time.sleep(0.2)
    pytest.fail("Nginx did not come back")

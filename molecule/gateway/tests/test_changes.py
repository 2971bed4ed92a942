"""What happens to requests while a gateway is changed: balancing, drains, configurations that are refused."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from client import BACKENDS, INFER, STATE, Gateway, misguide
from testinfra.host import Host

testinfra_hosts = ["docker://ai102-mol-gateway"]
FIRST, SECOND = BACKENDS


def share(gateway: Gateway, requests: int = 50) -> dict[str, int]:
    """Who answered, of four clients with so many requests each; none may fail."""
    figures = gateway.load("--requests", str(requests), duration=15, concurrency=4).result()
    assert figures["failures"] == {}
    upstreams: dict[str, int] = figures["upstreams"]
    return upstreams


def test_round_robin(gateway: Gateway) -> None:
    """Halves."""
    assert abs(share(gateway)[FIRST] - 100) <= 4


def test_drain_and_return_under_load(
    gateway: Gateway, upstream: Callable[..., dict[str, Any]], backends: dict[str, Host]
) -> None:
    """A drained host is free of requests when the module returns: killing it then costs nothing."""
    load = gateway.load(duration=9)
    time.sleep(0.5)
    drained = upstream(FIRST, "drained")
    assert drained["changed"]
    assert drained["reloaded"]
    assert drained["drained"] == [FIRST]
    backends[FIRST].run_expect([0], "systemctl kill --signal=KILL stand-in; systemctl stop stand-in")
    assert not upstream(FIRST, "drained")["changed"]
    backends[FIRST].run_expect([0], "systemctl start stand-in")
    assert upstream(FIRST, "active")["changed"]
    figures = load.result()
    assert figures["requests"] > 100
    assert figures["failures"] == {}
    assert min(figures["upstreams"].values()) > 10


def test_drain_waits_for_requests_in_flight(
    gateway: Gateway, upstream: Callable[..., dict[str, Any]], backends: dict[str, Host]
) -> None:
    """A slow request ends well although its host is drained meanwhile: the module returns when it has ended."""
    for backend in backends.values():
        misguide(backend, delay=10)
    load = gateway.load("--requests", "1", duration=5, concurrency=4)
    time.sleep(1)
    waited = upstream(FIRST, "drained", timeout=30)
    assert waited["waited_s"] > 0.2
    time.sleep(0.5)
    assert load.process.poll() == 0
    assert load.result()["failures"] == {}


def test_last_active_host_is_not_drained(gateway: Gateway, upstream: Callable[..., dict[str, Any]]) -> None:
    """Unless forced; then clients see a V2 error."""
    upstream(FIRST, "drained")
    refused = upstream(SECOND, "drained", fails=True)
    assert "last inference host" in refused["msg"]
    assert gateway.ask().status == 200
    upstream(SECOND, "drained", force=True)
    assert gateway.ask().status == 502


def test_unknown_host_is_nothing_to_drain(upstream: Callable[..., dict[str, Any]]) -> None:
    """A host that the gateway does not know yet gets no requests from it."""
    result = upstream("not-yet-there", "drained")
    assert (result["changed"], result["known"]) == (False, False)


def test_drained_stays_drained(gateway: Gateway, upstream: Callable[..., Any], apply: Callable[..., str]) -> None:
    """The role keeps it so and has nothing to do; a changed configuration and the way back keep it as well."""
    upstream(FIRST, "drained")
    assert "changed=0" in apply()
    apply(gateway_balancing="weighted")
    assert set(share(gateway, 5)) == {SECOND}
    apply(gateway_tasks="rollback")
    assert set(share(gateway, 5)) == {SECOND}
    upstream(FIRST, "active")
    assert set(share(gateway, 5)) == set(BACKENDS)


def test_weighted_after_an_interrupted_change(gateway: Gateway, apply: Callable[..., str], host: Host) -> None:
    """One to three, as the weights say; although an earlier run ended between the switch and the reload."""
    host.run_expect([0], "cd /etc/ai102/gateway && ln -sfn $(readlink previous) current")
    assert abs(share(gateway)[FIRST] - 100) <= 4
    assert "changed=" in (said := apply(gateway_balancing="weighted"))
    assert "changed=0" not in said
    assert abs(share(gateway)[FIRST] - 50) <= 4


def test_least_connections(gateway: Gateway, apply: Callable[..., str], backends: dict[str, Host]) -> None:
    """The slow host gets less."""
    apply(gateway_balancing="least_connections")
    misguide(backends[FIRST], delay=0.2)
    shared = share(gateway, 25)
    assert shared[FIRST] * 3 < shared[SECOND]


def test_ip_hash(gateway: Gateway, apply: Callable[..., str], host: Host) -> None:
    """A client network always gets the same host, and different ones get different hosts."""
    apply(gateway_balancing="ip_hash")
    assert len(share(gateway)) == 1
    host.run_expect([0], "cat > /tmp/body.json <<'END'\n" + gateway.body.read_text() + "\nEND")
    answered: Counter[str] = Counter()
    for network in range(12):
        arguments = f"--ca /etc/ai102/pki/root_ca.pem --server-name inference.gateway.test --source 127.0.{network}.9"
        figures = json.loads(
            host.check_output(
                f"python3 /usr/local/lib/load.py https://127.0.0.1{INFER} --body /tmp/body.json {arguments}"
                " --concurrency 1 --requests 3"
            )
        )
        assert len(figures["upstreams"]) == 1
        answered.update(figures["upstreams"].keys())
    assert set(answered) == set(BACKENDS)


def test_renewed_certificate_is_taken(gateway: Gateway, apply: Callable[..., str], host: Host) -> None:
    """Another certificate under the same name is a reload, not more."""
    source = STATE / "pki" / "ai102-mol-gateway-trixie" / "server"
    master = host.file("/run/nginx.pid").content_string
    for name in ("fullchain.pem", "key.pem"):
        host.run_expect([0], f"cp -p /etc/ai102/pki/server/{name} /etc/ai102/pki/{name}.before")
        text = (source / name).read_text()
        host.run_expect([0], f"cat > /etc/ai102/pki/server/{name} <<'END'\n{text}END")
    try:
        assert "changed=0" not in apply(gateway_balancing="ip_hash")
        shown = host.check_output(
            "openssl s_client -connect 127.0.0.1:443 </dev/null 2>/dev/null | openssl x509 -noout -subject"
        )
        assert "ai102-mol-gateway-trixie" in shown
        assert host.file("/run/nginx.pid").content_string == master
    finally:
        for name in ("fullchain.pem", "key.pem"):
            host.run_expect([0], f"mv /etc/ai102/pki/{name}.before /etc/ai102/pki/server/{name}")


def test_invalid_configuration_is_refused(gateway: Gateway, apply: Callable[..., str], host: Host) -> None:
    """Nginx refuses it before it is put in force; what ran goes on, and the play says why."""
    current = host.check_output("readlink /etc/ai102/gateway/current")
    load = gateway.load(duration=4, concurrency=4)
    said = apply(fails=True, gateway_client_body_timeout=-5)
    assert "refused the new release" in said
    assert "client_body_timeout" in said
    assert "Nothing was switched" in said
    assert host.check_output("readlink /etc/ai102/gateway/current") == current
    assert load.result()["failures"] == {}


def test_configuration_that_does_not_serve_is_taken_back(
    gateway: Gateway, apply: Callable[..., str], host: Host
) -> None:
    """Valid for `nginx -t`, but the port is taken: the one before is in force again, and served all the time."""
    current = host.check_output("readlink /etc/ai102/gateway/current")
    host.run_expect([0], "systemd-run --unit=squatter python3 -m http.server 9444")
    load = gateway.load(duration=8, concurrency=2)
    try:
        said = apply(fails=True, ai102_gateway_status_port=9444)
    finally:
        host.run_expect([0], "systemctl stop squatter")
    assert "in force again and serves" in said
    assert "9444" in said
    assert host.check_output("readlink /etc/ai102/gateway/current") == current
    assert load.result()["failures"] == {}
    assert gateway.ask().status == 200


def test_host_with_the_wrong_name_gets_no_requests(
    gateway: Gateway, backends: dict[str, Host], apply: Callable[..., str]
) -> None:
    """A certificate of the right authority without the tier's name is refused; so is a name nobody carries."""
    apply(gateway_backend_server_name="somebody.else")
    assert gateway.ask().status == 502
    backend = backends[FIRST]
    try:
        for name in ("fullchain.pem", "key.pem"):
            text = (STATE / "pki" / "misnamed" / "server" / name).read_text()
            backend.run_expect([0], f"cp -p /etc/ai102/pki/server/{name} /etc/ai102/pki/{name}.before")
            backend.run_expect([0], f"cat > /etc/ai102/pki/server/{name} <<'END'\n{text}END")
        backend.run_expect([0], "systemctl restart stand-in")
        apply()
        assert set(share(gateway, 10)) == {SECOND}
    finally:
        for name in ("fullchain.pem", "key.pem"):
            backend.run_expect([0], f"mv /etc/ai102/pki/{name}.before /etc/ai102/pki/server/{name}")
        backend.run_expect([0], "systemctl restart stand-in")


def test_limits_of_a_client(gateway: Gateway, apply: Callable[..., str]) -> None:
    """Beyond its rate, and beyond its connections, a client gets 429 as a V2 error, with Retry-After."""
    apply(gateway_client_requests_per_second=1, gateway_client_burst=8, gateway_client_connections=2)
    figures = gateway.load("--requests", "1", "--header", "X-Test-Delay:1", duration=4, concurrency=6).result()
    assert figures["statuses"] == {"200": 2, "429": 4}
    replies = [gateway.ask("/v2") for _ in range(40)]
    refused = [r for r in replies if r.status == 429]
    assert refused
    assert "Too many requests" in refused[0].error
    assert refused[0].headers["retry-after"] == "1"


def test_teardown(gateway: Gateway, host: Host, apply: Callable[..., str]) -> None:
    """Nothing of ours is left, and removing nothing changes nothing; the role builds it again."""
    for changed in (True, False):
        assert ("changed=0" not in apply(gateway_tasks="teardown")) is changed
        for path in (
            "/etc/ai102/gateway",
            "/etc/systemd/system/nginx.service.d/ai102.conf",
            "/etc/logrotate.d/ai102-gateway",
        ):
            assert not host.file(path).exists
        assert not host.service("nginx").is_running
    apply()
    assert gateway.ask().status == 200

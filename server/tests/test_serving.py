# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Real processes: Granian, TLS, systemd's protocols, signals."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from toolkit import (
    CLIENT_AUTH,
    DOUBLING_GOLDEN,
    SERVER_AUTH,
    Answer,
    Authority,
    ServerProcess,
    Signer,
    doubling_model,
    doubling_request,
    exchange,
    slow_model,
    slow_request,
)

Start = Callable[..., ServerProcess]
INFER = "/v2/models/doubling/infer"
SLOW = "/v2/models/slow/infer"


class Background(threading.Thread):
    """A request that is in flight while the test goes on."""

    def __init__(self, server: ServerProcess, path: str, body: object) -> None:
        super().__init__(daemon=True)
        self._arguments = (server, path, body)
        self.answer: Answer | None = None
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        server, path, body = self._arguments
        try:
            self.answer = server.request("POST", path, body)
        except Exception as error:  # noqa: BLE001 - handed to the test
            self.error = error


def inflight(server: ServerProcess) -> float:
    text = server.request("GET", "/metrics").body.decode()
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith("ai102_inflight_requests ")))


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_serves_and_stops(start: Start, base_config: dict[str, Any]) -> None:
    server = start(base_config)
    answer = server.request("POST", INFER, doubling_request(id="a"), {"X-Request-ID": "from-the-gateway"})
    assert answer.status == 200
    assert answer.json == {
        "model_name": "doubling",
        "model_version": "10",
        "id": "a",
        "outputs": DOUBLING_GOLDEN[0]["response"]["outputs"],
    }
    assert answer.headers["X-Request-ID"] == "from-the-gateway"
    assert any(line.startswith("STATUS=Serving 4 of 4 models") for line in server.messages)
    worker = server.worker
    began = time.monotonic()
    server.terminate()
    assert server.wait() == 0
    assert time.monotonic() - began < 10, "the worker did not notice that it should stop, and was killed"
    assert gone(worker)
    server.wait_for("STOPPING=1")
    infer = next(record for record in server.records if record["message"] == "infer")
    assert infer["request_id"] == "from-the-gateway"
    assert infer["status"] == 200
    assert "1.0" not in server.log.split('"message":"infer"')[1].split("bytes_in")[0]


def test_refuses_connections_until_the_models_are_ready(
    start: Start, base_config: dict[str, Any], signer: Signer
) -> None:
    total = {"name": "total", "shape": [], "datatype": "FP32", "data": [0.0]}
    golden = [{"request": slow_request(1000), "response": {"outputs": [total]}, "tolerance": 1e9}]
    model = signer.package("slow-to-load", "1", slow_model, golden)
    config = {**base_config, "models": [model], "model_signing_public_key": str(signer.public_key)}
    server = start(config, ready=False)
    # The address is taken by now, and the model is loading.
    wait_until(lambda: server.workers != [])
    refused = 0
    while not any("READY=1" in line for line in server.messages):
        try:
            assert server.request("GET", "/v2/health/ready").status == 200
            break
        except ConnectionRefusedError:
            refused += 1
        server._poll_notify(0.01)
    assert refused > 10
    server.wait_for("READY=1")


def test_binary_tensors_over_the_wire(start: Start, base_config: dict[str, Any]) -> None:
    server = start(base_config)
    raw = struct.pack("<3f", 1, 2, 3)
    head = (
        b'{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","parameters":{"binary_data_size":12}}],'
        b'"outputs":[{"name":"y","parameters":{"binary_data":true}}]}'
    )
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    answer = server.request("POST", INFER, head + raw, headers)
    assert answer.status == 200
    length = int(answer.headers["Inference-Header-Content-Length"])
    assert struct.unpack("<3f", answer.body[length:]) == (2, 4, 6)


def test_answers_do_not_wait_for_delayed_acknowledgements(start: Start, base_config: dict[str, Any]) -> None:
    server = start(base_config)
    connection = server.connection()
    rows = doubling_request([[1.0, 2.0, 3.0]] * 500)
    seconds: list[float] = []
    for _ in range(30):
        began = time.perf_counter()
        assert exchange(connection, "POST", INFER, rows).status == 200
        seconds.append(time.perf_counter() - began)
    connection.close()
    assert sorted(seconds)[len(seconds) // 2] < 0.03


def test_limits_the_body(start: Start, base_config: dict[str, Any]) -> None:
    server = start({**base_config, "limits": {"max_body_bytes": 2048}})
    assert server.request("POST", INFER, b" " * 2049).status == 413
    connection = server.connection()
    connection.request(
        "POST", INFER, iter([b" " * 1024] * 3), {"Content-Type": "application/json"}, encode_chunked=True
    )
    assert connection.getresponse().status == 413
    connection.close()
    # Chunked bodies within the limit are read to their end.
    body = iter([b'{"inputs":[{"name":"x","shape":[1,3],', b'"datatype":"FP32","data":[1,2,3]}]}'])
    connection = server.connection()
    connection.request("POST", INFER, body, {"Content-Type": "application/json"}, encode_chunked=True)
    assert connection.getresponse().status == 200
    connection.close()
    assert server.request("POST", INFER, doubling_request()).status == 200


def test_two_lengths_do_not_lift_the_limit_of_the_body(start: Start, base_config: dict[str, Any]) -> None:
    server = start({**base_config, "limits": {"max_body_bytes": 2048}})
    for lengths in (
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
    ):
        with socket.create_connection(("127.0.0.1", server.config["listen"]["port"]), timeout=10) as client:
            head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{lengths}\r\n\r\n"
            client.sendall(head.encode() + b"1000\r\n" + b" " * 4096 + b"\r\n0\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_client_that_goes_away_harms_nobody(start: Start, base_config: dict[str, Any]) -> None:
    server = start(base_config)
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", server.config["listen"]["port"])) as client:
            client.sendall(b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    wait_until(lambda: inflight(server) == 0)
    assert server.request("POST", INFER, doubling_request()).status == 200


# --------------------------------------------------------------------------------------------------------------------
# TLS
# --------------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, Authority]:
    root = tmp_path_factory.mktemp("pki")
    return Authority(root, "server-ca"), Authority(root, "client-ca")


def client_context(server_ca: Authority, pair: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(server_ca.path))
    if pair is not None:
        context.load_cert_chain(*pair)
    return context


@pytest.fixture
def tls_server(start: Start, base_config: dict[str, Any], authorities: tuple[Authority, Authority]) -> ServerProcess:
    server_ca, client_ca = authorities
    certificate, key = server_ca.issue("server", SERVER_AUTH)
    tls = {"certificate": str(certificate), "key": str(key), "client_ca": str(client_ca.path)}
    return start({**base_config, "listen": {**base_config["listen"], "tls": tls}})


def test_mutual_tls(tls_server: ServerProcess, authorities: tuple[Authority, Authority]) -> None:
    server_ca, client_ca = authorities
    context = client_context(server_ca, client_ca.issue("gateway", CLIENT_AUTH))
    answer = tls_server.request("POST", INFER, doubling_request(), context=context)
    assert answer.status == 200
    connection = tls_server.connection(context)
    assert exchange(connection, "GET", "/v2/health/ready").json["ready"] is True
    assert isinstance(connection.sock, ssl.SSLSocket)
    assert connection.sock.version() == "TLSv1.3"
    connection.close()


def test_mutual_tls_refuses(tls_server: ServerProcess, authorities: tuple[Authority, Authority]) -> None:
    server_ca, client_ca = authorities
    old = client_context(server_ca, client_ca.issue("gateway", CLIENT_AUTH))
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    refused = {
        "no certificate": client_context(server_ca),
        "a server's certificate": client_context(server_ca, server_ca.issue("other-server", SERVER_AUTH)),
        "a server certificate of the client CA": client_context(server_ca, client_ca.issue("odd", SERVER_AUTH)),
        "an old version of TLS": old,
    }
    for what, context in refused.items():
        with pytest.raises((ssl.SSLError, ConnectionError)):  # noqa: PT012
            tls_server.request("GET", "/v2/health/live", context=context)
            pytest.fail(f"{what} was accepted")
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        tls_server.request("GET", "/v2/health/live")


def test_unusable_tls_files_are_named(
    start: Start, base_config: dict[str, Any], authorities: tuple[Authority, Authority]
) -> None:
    server_ca, client_ca = authorities
    certificate, _key = server_ca.issue("server", SERVER_AUTH)
    _certificate, other_key = client_ca.issue("gateway", CLIENT_AUTH)
    tls = {"certificate": str(certificate), "key": str(other_key), "client_ca": str(client_ca.path)}
    server = start({**base_config, "listen": {**base_config["listen"], "tls": tls}}, ready=False)
    assert server.wait() == 1
    assert str(other_key) in server.log


# --------------------------------------------------------------------------------------------------------------------
# Sockets
# --------------------------------------------------------------------------------------------------------------------
def test_unix_socket(start: Start, base_config: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "server.sock"
    server = start({**base_config, "listen": {"uds": str(path), "uds_mode": "0600"}})
    assert path.stat().st_mode & 0o777 == 0o600
    assert server.request("POST", INFER, doubling_request()).status == 200
    server.terminate()
    assert server.wait() == 0
    assert not path.exists()


def test_stale_unix_socket_is_replaced_but_a_live_one_is_not(
    start: Start, base_config: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "server.sock"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    config = {**base_config, "listen": {"uds": str(path)}}
    server = start(config)
    second = start(config, ready=False)
    assert second.wait() == 1
    assert "cannot listen on" in second.log
    assert server.request("GET", "/v2/health/live").status == 200


def test_address_in_use_is_said(start: Start, base_config: dict[str, Any]) -> None:
    server = start(base_config)
    second = start(server.config, ready=False)
    assert second.wait() == 1
    assert "Address already in use" in second.log


def test_connections_wait_during_a_restart_with_socket_activation(start: Start, base_config: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = {**base_config, "listen": {"host": "127.0.0.1", "port": listener.getsockname()[1]}}
        first = start(config, listener=listener)
        assert first.request("POST", INFER, doubling_request()).status == 200
        stop, failures, answers = threading.Event(), [], 0

        def ask() -> None:
            nonlocal answers
            while not stop.is_set():
                try:
                    assert first.request("POST", INFER, doubling_request()).status == 200
                    answers += 1
                except Exception as error:  # noqa: BLE001 - counted
                    failures.append(repr(error))
                time.sleep(0.005)

        clients = [threading.Thread(target=ask) for _ in range(3)]
        for client in clients:
            client.start()
        time.sleep(0.3)
        first.terminate()
        assert first.wait() == 0
        before = answers
        start(config, listener=listener)
        wait_until(lambda: answers > before + 20)
        stop.set()
        for client in clients:
            client.join()
        assert failures == []


# --------------------------------------------------------------------------------------------------------------------
# Draining
# --------------------------------------------------------------------------------------------------------------------
def test_drains_on_sigterm(start: Start, base_config: dict[str, Any]) -> None:
    server = start(base_config)
    idle = server.connection()
    assert exchange(idle, "GET", "/v2/health/live").status == 200
    slow = Background(server, SLOW, slow_request(3000))
    wait_until(lambda: inflight(server) == 1)
    began = time.monotonic()
    server.terminate()
    server.wait_for("STOPPING=1")
    time.sleep(0.3)
    with pytest.raises(ConnectionRefusedError):
        server.request("GET", "/v2/health/live")
    assert slow.is_alive(), "the slow request was over too early for this test"
    slow.join(20)
    assert slow.error is None
    assert slow.answer is not None
    assert slow.answer.status == 200
    assert server.wait() == 0
    assert time.monotonic() - began < 15, "an idle connection held the server up"
    idle.close()


def one_at_a_time(config: dict[str, Any], signer: Signer) -> dict[str, Any]:
    """A slow model that is known to be slow, because its golden request is, and one slot for it."""
    total = {"name": "total", "shape": [], "datatype": "FP32", "data": [0.0]}
    golden = [{"request": slow_request(100), "response": {"outputs": [total]}, "tolerance": 1e9}]
    model = signer.package("queued", "1", slow_model, golden)
    return {
        **config,
        "models": [model],
        "model_signing_public_key": str(signer.public_key),
        "threads": 1,
        "limits": {"queue": 40},
    }


QUEUED = "/v2/models/queued/infer"


def test_drains_requests_that_wait(start: Start, base_config: dict[str, Any], signer: Signer) -> None:
    server = start(one_at_a_time(base_config, signer))
    slow = [Background(server, QUEUED, slow_request(1500)) for _ in range(4)]
    wait_until(lambda: inflight(server) == 4)
    server.terminate()
    for request in slow:
        request.join(20)
        assert request.error is None
        assert request.answer is not None
        assert request.answer.status == 200
    assert server.wait() == 0


def test_requests_that_wait_hold_no_thread(start: Start, base_config: dict[str, Any], signer: Signer) -> None:
    server = start(one_at_a_time(base_config, signer))
    threads = Path(f"/proc/{server.worker}/task")
    before = len(list(threads.iterdir()))
    running = Background(server, QUEUED, slow_request(9000))
    wait_until(lambda: inflight(server) == 1)
    waiting = []
    for _ in range(39):
        # Not all at once: Granian makes a thread for each request that finds none free.
        waiting.append(Background(server, QUEUED, slow_request(1)))
        time.sleep(0.02)
    wait_until(lambda: inflight(server) == 40)
    assert server.request("POST", QUEUED, slow_request(1), {"X-Request-Timeout": "0.1"}).status == 504
    waiting.append(Background(server, QUEUED, slow_request(1)))
    wait_until(lambda: inflight(server) == 41)
    assert len(list(threads.iterdir())) < before + 25
    assert server.request("POST", QUEUED, slow_request(1)).status == 503
    assert server.request("GET", "/v2/health/ready").status == 200
    assert running.is_alive(), "the slow request was over too early for this test"
    for request in (running, *waiting):
        request.join(20)
        assert request.answer is not None
        assert request.answer.status == 200


def test_quick_models_that_take_long_hold_up_nobody(start: Start, base_config: dict[str, Any]) -> None:
    server = start({**base_config, "threads": 2, "limits": {"queue": 0}})
    # Until there are all the threads that there may be, and most are parked.
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda _: server.request("GET", "/v2"), range(200)))
    # Nothing says how long it will take: zero turns, with which it was measured, take no time.
    slow = [Background(server, SLOW, slow_request(4000)) for _ in range(2)]
    wait_until(lambda: inflight(server) == 2)
    assert server.request("GET", "/v2/health/ready").status == 200
    assert all(request.is_alive() for request in slow), "the slow requests held it up, or were over too early"
    for request in slow:
        request.join(30)
        assert request.answer is not None
        assert request.answer.status == 200


def test_slow_clients_hold_up_nobody(start: Start, base_config: dict[str, Any]) -> None:
    server = start({**base_config, "limits": {"queue": 40}})
    clients = [socket.create_connection(("127.0.0.1", server.config["listen"]["port"])) for _ in range(30)]
    body = json.dumps(doubling_request()).encode()
    head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for number, client in enumerate(clients):
        client.sendall(head + body[:-1])
        wait_until(lambda: inflight(server) == 1 + number)  # noqa: B023 - called at once
        began = time.monotonic()
        assert server.request("POST", INFER, doubling_request()).status == 200
        assert server.request("GET", "/v2/health/ready").status == 200
        assert time.monotonic() - began < 5
    for client in clients:
        client.sendall(body[-1:])
        assert client.recv(1000).startswith(b"HTTP/1.1 200 OK")
        client.close()


def test_drain_is_bounded(start: Start, base_config: dict[str, Any]) -> None:
    server = start({**base_config, "limits": {"drain_seconds": 1}})
    Background(server, SLOW, slow_request(60000))
    wait_until(lambda: inflight(server) == 1)
    worker = server.worker
    began = time.monotonic()
    server.terminate()
    server.wait(15)
    assert 0.8 < time.monotonic() - began < 6
    assert gone(worker)
    assert "refused to gracefully stop" in server.log


def test_readiness_says_draining_during_the_notice(start: Start, base_config: dict[str, Any]) -> None:
    server = start({**base_config, "limits": {"drain_notice_seconds": 2}})
    server.terminate()
    server.wait_for("STOPPING=1")
    wait_until(lambda: server.request("GET", "/v2/health/ready").status == 503, 1.5)
    answer = server.request("GET", "/v2/health/ready")
    assert answer.json["draining"] is True
    assert answer.headers["Connection"] == "close"
    # Requests that still arrive are answered.
    assert server.request("POST", INFER, doubling_request()).status == 200
    assert server.wait() == 0


# --------------------------------------------------------------------------------------------------------------------
# Start and faults
# --------------------------------------------------------------------------------------------------------------------
def test_strict_start_refuses_a_broken_model(start: Start, base_config: dict[str, Any], signer: Signer) -> None:
    wrong = [{**DOUBLING_GOLDEN[0], "response": {"outputs": [{**DOUBLING_GOLDEN[0]["response"]["outputs"][0]}]}}]
    model = signer.package("tripling", "1", lambda path: doubling_model(path, 3.0), wrong)
    config = {**base_config, "models": [model], "model_signing_public_key": str(signer.public_key)}
    server = start(config, ready=False)
    assert server.wait() == 1
    assert "golden answer 0 is not reproduced" in server.log
    server.wait_for("STATUS=Not started: tripling 1: golden answer 0 is not reproduced on CPUExecutionProvider")
    assert not any("READY=1" in line for line in server.messages)


def test_degraded_start_serves_the_others_and_says_why(
    start: Start, base_config: dict[str, Any], signer: Signer
) -> None:
    broken = signer.package("broken", "1", doubling_model, DOUBLING_GOLDEN)
    config = {**base_config, "start": "degraded", "models": [base_config["models"][0], broken]}
    server = start(config)
    answer = server.request("GET", "/v2/health/ready")
    assert answer.status == 503
    states = {model["name"]: model for model in answer.json["models"]}
    assert states["doubling"]["ready"] is True
    assert "signature" in states["broken"]["reason"]
    assert server.request("POST", INFER, doubling_request()).status == 200
    assert server.request("POST", "/v2/models/broken/infer", doubling_request()).status == 503


def test_worker_that_dies_is_replaced_and_the_others_go_on(start: Start, base_config: dict[str, Any]) -> None:
    server = start({**base_config, "workers": 2})
    first, second = server.workers
    os.kill(first, signal.SIGKILL)
    # Not a zombie either: its threads may hold the socket for a moment longer.
    wait_until(lambda: not Path(f"/proc/{first}").exists())
    for _ in range(20):
        assert server.request("POST", INFER, doubling_request()).status == 200
    wait_until(lambda: len(server.workers) == 2 and first not in server.workers and second in server.workers)
    wait_until(lambda: sum(record["message"] == "serving" for record in server.records) == 3)
    # The new one takes part: with the old one stopped, it alone can answer.
    os.kill(second, signal.SIGSTOP)
    assert any(_answers(server) for _ in range(20))
    os.kill(second, signal.SIGCONT)


def _answers(server: ServerProcess) -> bool:
    connection = server.connection()
    connection.timeout = 0.5
    try:
        return exchange(connection, "POST", INFER, doubling_request()).status == 200
    except OSError:
        return False
    finally:
        connection.close()


def test_worker_ends_when_its_supervisor_is_killed(start: Start, base_config: dict[str, Any]) -> None:
    server = start(base_config)
    worker = server.worker
    server.process.kill()
    wait_until(lambda: gone(worker))


def test_worker_that_hangs_is_replaced_and_the_watchdog_is_fed(start: Start, base_config: dict[str, Any]) -> None:
    server = start(base_config, environ={"WATCHDOG_USEC": "300000"})
    server.messages.clear()
    server.wait_for("WATCHDOG=1", 2)
    hanging = server.worker
    os.kill(hanging, signal.SIGSTOP)
    wait_until(lambda: gone(hanging))
    wait_until(lambda: sum(record["message"] == "serving" for record in server.records) == 2)
    assert server.request("POST", INFER, doubling_request()).status == 200
    assert any(record["message"] == "a worker hangs and is replaced" for record in server.records)
    server.messages.clear()
    server.wait_for("WATCHDOG=1", 2)


def test_supervisor_that_hangs_is_noticed(start: Start, base_config: dict[str, Any]) -> None:
    server = start(base_config, environ={"WATCHDOG_USEC": "300000"})
    server.process.send_signal(signal.SIGSTOP)
    while server._poll_notify(0.2):
        pass
    assert not server._poll_notify(0.6)
    server.process.send_signal(signal.SIGCONT)
    server.messages.clear()
    server.wait_for("WATCHDOG=1", 2)


def test_full_queue_is_answered_503_and_health_still_answers(start: Start, base_config: dict[str, Any]) -> None:
    server = start({**base_config, "threads": 1, "limits": {"queue": 0}})
    slow = Background(server, SLOW, slow_request(3000))
    wait_until(lambda: inflight(server) == 1)
    answer = server.request("POST", INFER, doubling_request())
    assert answer.status == 503
    assert answer.headers["Retry-After"] == "1"
    began = time.monotonic()
    assert server.request("GET", "/v2/health/ready").status == 200
    assert time.monotonic() - began < 1
    slow.join(20)
    assert slow.answer is not None
    assert slow.answer.status == 200


def test_sighup_is_ignored(start: Start, base_config: dict[str, Any]) -> None:
    server = start(base_config)
    worker = server.worker
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "SIGHUP is ignored" in server.log)
    assert server.worker == worker
    assert server.request("GET", "/v2/health/live").status == 200

# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Sessions in an engine process: real processes, on the processor."""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ai102_server.codec import DATATYPES
from ai102_server.config import ModelRef, parse_config
from ai102_server.engine.batching import Batcher
from ai102_server.engine.process.host import EngineHost
from ai102_server.engine.process.lane import Lane, LaneError, Tensor
from ai102_server.engine.process.link import EngineLink
from ai102_server.errors import ModelError, RequestError
from ai102_server.serving.engines import Engines
from test_serving import INFER, SLOW, Background, gone, inflight, wait_until
from toolkit import DOUBLING_GOLDEN, ServerProcess, Signer, doubling_model, doubling_request, slow_request

Start = Callable[..., ServerProcess]


# --------------------------------------------------------------------------------------------------------------------
# Lanes
# --------------------------------------------------------------------------------------------------------------------
@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind("")
        listener.listen(4)
        yield listener


@pytest.fixture
def lanes(listener: socket.socket) -> Iterator[tuple[Lane, Lane]]:
    near = Lane.connect(listener.getsockname(), 5)
    far = Lane.accept(listener.accept()[0])
    yield near, far
    near.close()
    far.close()


def values(name: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    count = int(np.prod(shape))
    if name == "BYTES":
        return np.array([f"grün {number}\0" for number in range(count)], dtype=object).reshape(shape)
    return (np.arange(count) % 2).astype(DATATYPES[name].dtype).reshape(shape)


@pytest.mark.parametrize("name", DATATYPES)
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (2, 3, 4)])
def test_a_lane_carries_every_datatype_both_ways(lanes: tuple[Lane, Lane], name: str, shape: tuple[int, ...]) -> None:
    near, far = lanes
    sent = [Tensor("a", DATATYPES[name], values(name, shape)), Tensor("b", DATATYPES["FP32"], values("FP32", (3,)))]
    for end, other in ((near, far), (far, near)):
        end.send({"do": "run"}, sent)
        message, got = other.receive()
        assert message == {"do": "run"}
        assert [(tensor.name, tensor.datatype.name) for tensor in got] == [("a", name), ("b", "FP32")]
        for before, after in zip(sent, got, strict=True):
            assert after.array.dtype == before.array.dtype
            assert after.array.shape == before.array.shape
            assert np.array_equal(before.array, after.array)


def test_a_lane_grows_from_either_end_and_says_when_it_is_too_large_to_keep(lanes: tuple[Lane, Lane]) -> None:
    near, far = lanes
    for size in (1 << 10, 1 << 21, 1 << 22, 1 << 25):
        for end, other in ((near, far), (far, near)):
            array = np.arange(size, dtype=np.float32)
            end.send({}, [Tensor("x", DATATYPES["FP32"], array)])
            assert np.array_equal(other.receive()[1][0].array, array)
    assert near.large
    assert far.large


def test_a_lane_ends_when_the_other_end_does(lanes: tuple[Lane, Lane]) -> None:
    near, far = lanes
    far.close()
    far.close()
    with pytest.raises(LaneError, match="gone"):
        near.receive()
    with pytest.raises(LaneError, match="gone"):
        near.send({})


def test_a_lane_does_not_wait_for_ever(listener: socket.socket) -> None:
    near = Lane.connect(listener.getsockname(), 0.05)
    near.send({"do": "open"})
    with pytest.raises(LaneError, match="does not answer"):
        near.receive()


def test_nobody_is_there() -> None:
    with pytest.raises(LaneError, match="cannot be reached"):
        Lane.connect(b"\0ai102 nobody has this name", 1)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_another_user_is_refused(listener: socket.socket) -> None:
    code = (
        "import os, socket, sys; os.setuid(65534); end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET);"
        "end.connect(bytes.fromhex(sys.argv[1])); end.recv(1)"
    )
    with subprocess.Popen([sys.executable, "-c", code, listener.getsockname().hex()]) as other:
        with pytest.raises(LaneError, match="user 65534"):
            Lane.accept(listener.accept()[0])
        other.wait(10)


def test_a_connection_without_memory_is_refused(listener: socket.socket) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as end:
        end.connect(listener.getsockname())
        end.send(b"{}")
        with pytest.raises(LaneError, match="without memory"):
            Lane.accept(listener.accept()[0])


# --------------------------------------------------------------------------------------------------------------------
# The two ends
# --------------------------------------------------------------------------------------------------------------------
def serve(host: EngineHost, listener: socket.socket) -> None:
    """In a thread, until the test has ended and the listener is closed."""

    def run() -> None:
        with contextlib.suppress(OSError):
            host.serve(listener)

    threading.Thread(target=run, daemon=True).start()


@pytest.fixture
def host(listener: socket.socket, base_config: dict[str, Any]) -> EngineHost:
    host = EngineHost(parse_config(base_config), 0)
    serve(host, listener)
    return host


def sha256(packages: Signer, name: str) -> str:
    return hashlib.sha256((packages.root / "models" / name / "1" / "model.onnx").read_bytes()).hexdigest()


def ref(packages: Signer, name: str) -> ModelRef:
    return ModelRef(name, "1", packages.root / "models" / name / "1")


def test_a_model_is_loaded_once_and_forgotten_with_the_last_session(
    host: EngineHost, listener: socket.socket, packages: Signer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    links = [EngineLink(listener.getsockname(), 5) for _ in range(2)]
    sessions = [link.open(ref(packages, "doubling"), sha256(packages, "doubling")) for link in links]
    wait_until(lambda: all(session.problem is None for session in sessions))
    assert host.models == [("doubling", "1")]
    inputs = {"x": np.array([[1, 2, 3]], np.float32)}
    told: list[tuple[int, float]] = []
    for session in sessions:
        session.observe = lambda rows, seconds: told.append((rows, seconds))
        total, y = session.run(inputs, ["total", "y"])
        assert total.tolist() == [12.0]
        assert y.tolist() == [[2.0, 4.0, 6.0]]
    assert [rows for rows, _seconds in told] == [1, 1]
    assert [record.message for record in caplog.records].count("model ready") == 1
    assert sessions[0].sample_inputs()["x"].shape == (1, 3)
    sessions.pop()
    del session
    assert host.models == [("doubling", "1")]
    sessions.pop()
    wait_until(lambda: host.models == [])


def test_it_runs_as_many_at_a_time_as_all_workers_would(
    listener: socket.socket, base_config: dict[str, Any], packages: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ai102_server.config.processors", lambda: 6)
    config = {key: value for key, value in base_config.items() if key != "threads"}
    host = EngineHost(parse_config({**config, "workers": 3}), 0)
    serve(host, listener)
    session = EngineLink(listener.getsockname(), 5).open(ref(packages, "doubling"), sha256(packages, "doubling"))
    assert session.reason is None
    (place,) = host._places.values()
    assert place.model is not None
    assert place.model.run is not None
    assert place.model.run._idle == 6


def test_lanes_to_a_process_that_ended_are_not_used(
    host: EngineHost, listener: socket.socket, packages: Signer
) -> None:
    link = EngineLink(listener.getsockname(), 5)
    session = link.open(ref(packages, "doubling"), sha256(packages, "doubling"))
    inputs = {"x": np.array([[1, 2, 3]], np.float32)}
    # One that is noticed only when something is sent.
    (_generation, idle) = session._idle[0]
    idle._socket.shutdown(socket.SHUT_RDWR)
    assert session.run(inputs, ["total"])[0].tolist() == [12.0]
    # One that the watch has noticed.
    (_generation, idle) = session._idle[0]
    link.generation += 1
    assert session.run(inputs, ["total"])[0].tolist() == [12.0]
    assert session._idle[0][1] is not idle
    wait_until(lambda: host.lanes == 2)


def test_what_a_process_had_not_read_when_it_ended_is_asked_of_the_next(
    listener: socket.socket, base_config: dict[str, Any], packages: Signer
) -> None:
    link = EngineLink(listener.getsockname(), 5)
    watch = Lane.accept(listener.accept()[0])
    watch.receive()
    specs = {"inputs": [["x", "FP32", [-1, 3]]], "outputs": [["total", "FP32", [-1]]]}

    def ends_before_it_reads(times: int) -> None:
        for _ in range(times):
            lane = Lane.accept(listener.accept()[0])
            lane.receive()
            lane.send({"reason": None, "provider": "CPUExecutionProvider", **specs})
            select.select([lane._socket], [], [], 5)
            lane.close()
        # Now one that ends before it has read what model is wanted.
        lane = Lane.accept(listener.accept()[0])
        select.select([lane._socket], [], [], 5)
        lane.close()

    dying = threading.Thread(target=ends_before_it_reads, args=(2,))
    dying.start()
    session = link.open(ref(packages, "doubling"), sha256(packages, "doubling"))
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(session.run, {"x": np.array([[1, 2, 3]], np.float32)}, ["total"])
        dying.join(10)
        host = EngineHost(parse_config(base_config), 0)
        serve(host, listener)
        assert asked.result(10)[0].tolist() == [12.0]
    watch.close()
    wait_until(lambda: host.lanes == 2)


def test_a_package_that_is_not_the_workers_is_refused(
    host: EngineHost, listener: socket.socket, packages: Signer
) -> None:
    link = EngineLink(listener.getsockname(), 5)
    assert link.open(ref(packages, "doubling"), "0" * 64).reason == "the package changed while it was loaded"
    with pytest.raises(ModelError, match=r"manifest\.json cannot be read"):
        link.open(ModelRef("doubling", "3", packages.root / "nowhere"), "0" * 64)
    wait_until(lambda: host.models == [])


def test_errors_of_a_run_reach_the_one_who_asked(
    host: EngineHost, listener: socket.socket, packages: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = EngineLink(listener.getsockname(), 5)
    session = link.open(ref(packages, "doubling"), sha256(packages, "doubling"))
    with pytest.raises(RequestError, match="does not take these inputs") as refused:
        session.run({"x": np.zeros((1, 4), np.float32)}, ["y"])
    assert refused.value.status == 400
    with monkeypatch.context() as patch:
        patch.setattr(Batcher, "__call__", lambda *_arguments: 1 / 0)
        with pytest.raises(RuntimeError, match="failed in the engine process: ZeroDivisionError"):
            session.run({"x": np.zeros((1, 3), np.float32)}, ["total"])
    assert session.run({"x": np.zeros((1, 3), np.float32)}, ["total"])[0].tolist() == [0.0]
    wait_until(lambda: host.lanes == 2)  # one to watch, and one that all these runs used


def test_a_process_that_never_answers_is_not_waited_for_for_ever(
    listener: socket.socket, packages: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = EngineLink(listener.getsockname(), 5)
    assert link.problem is None, "a worker that has just begun is not held up by what it has not heard yet"
    monkeypatch.setattr("ai102_server.engine.process.link._LOAD_SECONDS", 0.1)
    with pytest.raises(ModelError, match="cannot load the model: the engine process does not answer"):
        link.open(ref(packages, "doubling"), "")


# --------------------------------------------------------------------------------------------------------------------
# The whole service
# --------------------------------------------------------------------------------------------------------------------
@pytest.fixture
def config(base_config: dict[str, Any]) -> dict[str, Any]:
    return {**base_config, "workers": 2, "execution": {"engine": "process"}}


def engine_of(server: ServerProcess) -> int:
    """The supervisor's first child, until it is replaced."""
    return server.workers[0]


def counted(server: ServerProcess, what: str) -> int:
    stats = server.request("GET", "/v2/models/doubling/stats").json["model_stats"]
    return sum(int(item[what]) for item in stats)


def test_the_engine_process_answers_for_all_workers(start: Start, config: dict[str, Any]) -> None:
    server = start(config)
    assert len(server.workers) == 3
    for _ in range(8):
        assert server.request("POST", INFER, doubling_request()).json["outputs"][0]["data"] == [2.0, 4.0, 6.0]
    metadata = server.request("GET", "/v2/models/doubling").json
    assert metadata["parameters"]["provider"] == "CPUExecutionProvider"
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]
    ready = server.request("GET", "/v2/health/ready")
    assert ready.status == 200
    wait_until(lambda: counted(server, "inference_count") == 8)
    wait_until(lambda: counted(server, "execution_count") == 8)
    server.terminate()
    assert server.wait() == 0


def test_what_the_model_refuses_is_the_clients_fault(start: Start, config: dict[str, Any]) -> None:
    server = start(config)
    request = doubling_request()
    request["inputs"][0]["shape"] = [3, 1]
    answer = server.request("POST", INFER, request)
    assert answer.status == 400, answer.body


def test_requests_of_different_workers_run_together(start: Start, config: dict[str, Any]) -> None:
    config |= {"threads": 1, "batching": {"enabled": "always", "max_size": 16, "delay": 0.2}}
    server = start(config)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: server.request("POST", INFER, doubling_request()), range(64)))
    assert {answer.status for answer in answers} == {200}
    wait_until(lambda: counted(server, "inference_count") == 64)
    stats = server.request("GET", "/v2/models/doubling/stats").json["model_stats"]
    batches = {int(batch["batch_size"]) for item in stats for batch in item["batch_stats"]}
    # A worker has one run at a time, so it sends what half of the callers ask; more comes from the other worker.
    assert max(batches) > 8, batches


def test_a_model_that_fails_in_the_engine_process_says_why(
    start: Start, config: dict[str, Any], signer: Signer
) -> None:
    outputs = [{"name": "total", "shape": [1], "datatype": "FP32", "data": [1.0]}]
    wrong = [{**DOUBLING_GOLDEN[0], "response": {"outputs": outputs}}]
    bad = signer.package("bad", "1", doubling_model, wrong)
    config |= {"models": [*config["models"][:1], bad], "start": "degraded"}
    config.pop("model_signing_public_key")
    server = start(config)
    models = {item["name"]: item for item in server.request("GET", "/v2/health/ready").json["models"]}
    assert models["doubling"]["ready"]
    assert "golden answer 0 is not reproduced" in models["bad"]["reason"]
    assert models["bad"]["provider"] == "CPUExecutionProvider"
    assert server.request("POST", "/v2/models/bad/infer", doubling_request()).status == 503


def test_a_dead_engine_process_is_replaced_and_the_workers_stay(start: Start, config: dict[str, Any]) -> None:
    server = start(config)
    engine, *workers = server.workers
    asked = Background(server, SLOW, slow_request(3000))
    wait_until(lambda: inflight(server) == 1)
    os.kill(engine, signal.SIGKILL)
    asked.join(30)
    assert asked.answer is not None
    assert asked.answer.status == 503
    assert asked.answer.headers["Retry-After"] == "1"
    # Those that come while it is started again wait for it. Until all its threads have ended, one of them may still
    # read a request.
    wait_until(lambda: "an engine process ended" in server.log)
    answer = server.request("POST", INFER, doubling_request())
    assert answer.status == 200, answer.body
    wait_until(lambda: server.request("GET", "/v2/health/ready").status == 200)
    assert set(workers) <= set(server.workers)
    assert engine not in server.workers
    assert any(record.get("message", "").startswith("an engine process ended") for record in server.records)


def test_workers_are_not_ready_without_an_engine_process(start: Start, config: dict[str, Any]) -> None:
    server = start(config)
    os.kill(engine_of(server), signal.SIGSTOP)
    os.kill(engine_of(server), signal.SIGKILL)
    reasons: set[str] = set()

    def answered() -> bool:
        answer = server.request("GET", "/v2/health/ready")
        reasons.update(item["reason"] for item in answer.json["models"] if item["reason"])
        return answer.status == 503

    wait_until(answered)
    assert reasons == {"the engine process ended and is being started again"}
    wait_until(lambda: server.request("GET", "/v2/health/ready").status == 200)


def test_an_engine_process_that_hangs_is_replaced(start: Start, config: dict[str, Any]) -> None:
    server = start(config, environ={"WATCHDOG_USEC": "600000"})
    os.kill(engine_of(server), signal.SIGSTOP)
    wait_until(lambda: "an engine process hangs and is replaced" in server.log)
    wait_until(lambda: server.request("POST", INFER, doubling_request()).status == 200)


def test_engine_processes_end_with_a_supervisor_that_is_killed(start: Start, config: dict[str, Any]) -> None:
    server = start({**config, "limits": {"drain_seconds": 1}})
    children = server.workers
    server.process.kill()
    server.wait()
    wait_until(lambda: all(gone(pid) for pid in children))


def test_workers_end_with_the_supervisor_also_when_the_engine_process_is_another_one(
    start: Start, config: dict[str, Any]
) -> None:
    server = start({**config, "limits": {"drain_seconds": 60}})
    engine, *workers = server.workers
    os.kill(engine, signal.SIGKILL)
    wait_until(lambda: "an engine process ended" in server.log)
    wait_until(lambda: server.request("POST", INFER, doubling_request()).status == 200)
    server.process.kill()
    server.wait()
    wait_until(lambda: all(gone(pid) for pid in workers))


class Process:
    """What the supervisor needs of a process; it never reports that it lives."""

    kills = 0

    def is_alive(self) -> bool:
        return not self.kills

    def kill(self) -> None:
        self.kills += 1

    def join(self, _seconds: float | None = None) -> None:
        """Nothing to wait for."""


def test_a_process_may_take_its_time_to_begin_and_none_begins_after_the_end(config: dict[str, Any]) -> None:
    engines = Engines(parse_config(config), 1, 5, threading.Lock(), list)
    (engine,) = engines._engines
    engine.process = process = Process()
    engines.check()
    assert process.kills == 0, "it loads its libraries"
    engine.ready = True
    engines.check()
    assert process.kills == 1, "it has been silent for longer than 5 s"
    engines.stop()
    engines._start(engine)
    assert engine.process is process


def test_versions_are_loaded_and_forgotten_with_the_workers_models(
    start: Start, config: dict[str, Any], signer: Signer, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    made = signer.package("doubling", "1", lambda path: doubling_model(path, 1.0))
    shutil.copytree(made["path"], store / "doubling" / "1")
    config.pop("models")
    config |= {"store": {"path": str(store), "poll_seconds": 0.1, "public_keys": [str(signer.public_key)]}}
    config.pop("model_signing_public_key")
    server = start(config)
    assert server.request("POST", INFER, doubling_request()).json["outputs"][1]["data"] == [6.0]
    made = signer.package("doubling", "2", lambda path: doubling_model(path, 2.0))
    shutil.copytree(made["path"], store / ".2")
    (store / ".2").rename(store / "doubling" / "2")
    wait_until(lambda: server.request("POST", INFER, doubling_request()).json["model_version"] == "2")
    assert server.request("POST", INFER, doubling_request()).json["outputs"][1]["data"] == [12.0]

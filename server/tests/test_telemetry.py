# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Records become metrics, statistics and log lines, in one process and right across several."""

from __future__ import annotations

import io
import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from ai102_server.config import Config, parse_config
from ai102_server.errors import ConfigError, RequestError, ServerError
from ai102_server.privacy import Keyring, Masker, MaskingFilter, Pseudonyms
from ai102_server.telemetry import Record, Telemetry, TelemetryShared, logging_config
from ai102_server.telemetry import shared as shared_module
from ai102_server.telemetry import store as store_module
from ai102_server.telemetry.lines import AccessLines, LineWriter, pick
from ai102_server.telemetry.logs import JsonFormatter
from ai102_server.telemetry.process import process_figures, start_ticks
from ai102_server.telemetry.shared import BUCKETS

Figures = dict[tuple[str, tuple[tuple[str, str], ...]], float]
ID = "4bf92f3577b34da6a3ce929d0e0e4736"


def config(**sections: Any) -> Config:
    return parse_config({"listen": {"port": 8080}, "models": [], "release": "r1", **sections})


def record(**values: Any) -> Record:
    facts: dict[str, Any] = {
        "model": "m",
        "version": "1",
        "status": 200,
        "started": 1_700_000_000.25,
        "seconds": 0.004,
        "queue_seconds": 0.001,
        "inference_seconds": 0.002,
        "bytes_in": 100,
        "bytes_out": 10,
        "request_id": ID,
        "batch": 8,
    }
    return Record(**{**facts, **values})


def figures(text: bytes) -> Figures:
    """Samples by name and labels, as Prometheus' own parser reads them."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def key(sample: str, /, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return sample, tuple(sorted(labels.items()))


M = {"model": "m", "version": "1"}


class Sink:
    """Where access log lines go."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()

    def lines(self) -> list[dict[str, Any]]:
        """What was written so far."""
        data = b""
        while select.select([self.read_end], [], [], 0)[0]:
            data += os.read(self.read_end, 1 << 20)
        return [json.loads(line) for line in data.splitlines()]


@pytest.fixture
def sink() -> Iterator[Sink]:
    sink = Sink()
    yield sink
    os.close(sink.write_end)
    os.close(sink.read_end)


@pytest.fixture
def build(sink: Sink) -> Iterator[Callable[..., Telemetry]]:
    """Telemetry of one process; ended after the test."""
    made: list[Telemetry] = []

    def one(shared: TelemetryShared | None = None, worker: int = 0, **sections: Any) -> Telemetry:
        settings = config(**sections)
        made.append(Telemetry(settings, shared or Telemetry.share(settings, 1), worker, descriptor=sink.write_end))
        return made[-1]

    yield one
    for telemetry in made:
        telemetry.close()


# --------------------------------------------------------------------------------------------------------------------
# Metrics
# --------------------------------------------------------------------------------------------------------------------
def test_requests_are_counted(build: Callable[..., Telemetry]) -> None:
    telemetry = build()
    telemetry.register_model("m", "1", "CPUExecutionProvider", "ab12", True, None)
    telemetry.add(record())
    telemetry.add(record(seconds=0.5, read_seconds=0.01, decode_seconds=0.02, encode_seconds=0.03))
    telemetry.add(record(status=400, queue_seconds=None, inference_seconds=None, error="bad", batch=0))
    telemetry.add(record(status=418, inference_seconds=None))
    found = figures(telemetry.expose())
    assert found[key("ai102_requests_total", **M, status="200")] == 2
    assert found[key("ai102_requests_total", **M, status="400")] == 1
    assert found[key("ai102_requests_total", **M, status="other")] == 1
    assert found[key("ai102_request_duration_seconds_count", **M)] == 4
    assert found[key("ai102_request_duration_seconds_sum", **M)] == pytest.approx(0.512)
    assert found[key("ai102_request_duration_seconds_bucket", **M, le="0.005")] == 3
    assert found[key("ai102_request_duration_seconds_bucket", **M, le="0.5")] == 4
    assert found[key("ai102_inference_duration_seconds_count", **M)] == 2
    assert found[key("ai102_queue_duration_seconds_sum", **M)] == pytest.approx(0.003)
    assert found[key("ai102_phase_duration_seconds_sum", **M, phase="decode")] == pytest.approx(0.02)
    assert found[key("ai102_phase_duration_seconds_count", **M, phase="encode")] == 1
    assert found[key("ai102_phase_duration_seconds_count", **M, phase="run")] == 2
    assert found[key("ai102_request_bytes_total", **M)] == 400
    assert found[key("ai102_response_bytes_total", **M)] == 40


@given(st.lists(st.floats(0, 100), min_size=1, max_size=40))
def test_histogram_counts_as_its_bounds_say(seconds: list[float]) -> None:
    store = store_module.Store(TelemetryShared(1, Keyring.generate()), 0)
    store.count([record(seconds=value) for value in seconds])
    values = store.series()[0].values
    start = shared_module.Fields.REQUEST
    for index, bound in enumerate(BUCKETS):
        assert values[start : start + index + 1].sum() == sum(value <= bound for value in seconds)
    assert values[start : start + len(BUCKETS) + 1].sum() == len(seconds)
    assert values[start + len(BUCKETS) + 1] == pytest.approx(sum(seconds))


def test_what_a_client_typed_is_no_label(build: Callable[..., Telemetry]) -> None:
    telemetry = build()
    telemetry.register_model("m", "1", "CPUExecutionProvider", "ab12", True, None)
    telemetry.add(record(model="typed-by-client", version="", status=404))
    telemetry.add(record(version="99", status=404))
    text = telemetry.expose()
    assert figures(text)[key("ai102_requests_total", model="", version="", status="404")] == 2
    assert b"typed-by-client" not in text
    assert b'"99"' not in text


def test_rejections_have_reasons(build: Callable[..., Telemetry]) -> None:
    telemetry = build()
    telemetry.register_model("m", "1", "CPUExecutionProvider", "", True, None)
    for status, reason in ((429, ""), (503, "queue_full"), (503, ""), (401, ""), (400, ""), (503, "made up")):
        telemetry.add(record(status=status, reason=reason))
    found = figures(telemetry.expose())
    assert {dict(labels)["reason"]: value for (name, labels), value in found.items() if "rejected" in name} == {
        "rate_limit": 1,
        "queue_full": 1,
        "overload": 1,
        "unauthenticated": 1,
        "other": 1,
    }


def test_runs_and_batches(build: Callable[..., Telemetry]) -> None:
    telemetry = build()
    telemetry.register_model("m", "1", "CPUExecutionProvider", "", True, None)
    for batch, seconds in ((1, 0.002), (8, 0.01), (8, 0.03), (300, 0.2), (500, 0.4)):
        telemetry.executed("m", "1", batch, seconds)
    found = figures(telemetry.expose())
    assert found[key("ai102_batch_size_bucket", **M, le="1.0")] == 1
    assert found[key("ai102_batch_size_bucket", **M, le="4.0")] == 1
    assert found[key("ai102_batch_size_bucket", **M, le="8.0")] == 3
    assert found[key("ai102_batch_size_bucket", **M, le="256.0")] == 3
    assert found[key("ai102_batch_size_count", **M)] == 5
    assert found[key("ai102_batch_size_sum", **M)] == 817
    assert found[key("ai102_run_duration_seconds_sum", **M)] == pytest.approx(0.642)


def test_models_and_providers(build: Callable[..., Telemetry]) -> None:
    telemetry = build()
    telemetry.register_model("m", "1", "CUDAExecutionProvider", "ab12", True, None)
    telemetry.register_model("broken", "2", None, None, False, "golden answer 0 is not reproduced")
    found = figures(telemetry.expose())
    info = {**M, "provider": "CUDAExecutionProvider", "release": "r1", "sha256": "ab12"}
    assert found[key("ai102_model_info", **info)] == 1
    assert found[key("ai102_model_ready", **M)] == 1
    assert found[key("ai102_model_ready", model="broken", version="2")] == 0
    assert found[key("ai102_model_loads_total", **M, result="ready")] == 1
    assert found[key("ai102_model_loads_total", model="broken", version="2", result="failed")] == 1
    state = next(state for state in telemetry.models() if state.name == "broken")
    assert (state.worker, state.ready, state.reason) == (0, False, "golden answer 0 is not reproduced")


def test_a_removed_model_is_shown_for_a_while(build: Callable[..., Telemetry], monkeypatch: pytest.MonkeyPatch) -> None:
    telemetry = build()
    telemetry.register_model("m", "1", "CPUExecutionProvider", "", True, None)
    telemetry.remove_model("m", "1")
    telemetry.remove_model("never", "there")
    # A request that was on its way.
    telemetry.add(record())
    found = figures(telemetry.expose())
    assert found[key("ai102_requests_total", **M, status="200")] == 1
    assert found[key("ai102_model_unloads_total", **M)] == 1
    assert key("ai102_model_ready", **M) not in found
    assert telemetry.statistics()["model_stats"] == []
    monkeypatch.setattr(store_module, "KEEP_SECONDS", 0.0)
    assert key("ai102_requests_total", **M, status="200") not in figures(telemetry.expose())
    telemetry.register_model("m", "1", "CPUExecutionProvider", "", True, None)
    assert figures(telemetry.expose())[key("ai102_requests_total", **M, status="200")] == 1


def test_slots_are_used_again(build: Callable[..., Telemetry], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (shared_module, store_module):
        monkeypatch.setattr(module, "SLOTS", 16)
    telemetry = build()
    for number in range(15):
        telemetry.register_model("m", str(number), "CPUExecutionProvider", "", True, None)
    telemetry.add(record(version="7"))
    telemetry.add(record(version="9"))
    telemetry.expose()
    with pytest.raises(
        ServerError, match=r"no room to count for model 'm' version 'new': 15 model versions are loaded"
    ):
        telemetry.register_model("m", "new", "CPUExecutionProvider", "", True, None)
    telemetry.remove_model("m", "7")
    # Another worker may still have something to count for it.
    with pytest.raises(ServerError, match="no room"):
        telemetry.register_model("m", "new", "CPUExecutionProvider", "", True, None)
    monkeypatch.setattr(store_module, "REUSE_SECONDS", 0.0)
    telemetry.register_model("m", "new", "CPUExecutionProvider", "", True, None)
    telemetry.add(record(version="new", status=400))
    telemetry.add(record(version="7"))
    found = figures(telemetry.expose())
    assert found[key("ai102_requests_total", model="m", version="new", status="400")] == 1
    assert key("ai102_requests_total", model="m", version="new", status="200") not in found
    assert found[key("ai102_requests_total", model="m", version="9", status="200")] == 1
    # The model that is gone has no slot any more.
    assert found[key("ai102_requests_total", model="", version="", status="200")] == 1


def test_names_that_do_not_fit(build: Callable[..., Telemetry]) -> None:
    with pytest.raises(ServerError, match="a name has at most 200 bytes"):
        build().register_model("m" * 201, "1", None, None, False, None)
    with pytest.raises(ServerError, match="worker 1 has no place"):
        build(worker=1)


def test_a_fault_does_not_end_the_thread(build: Callable[..., Telemetry], caplog: pytest.LogCaptureFixture) -> None:
    telemetry = build()
    calls: list[int] = []

    def ready() -> bool:
        calls.append(1)
        if len(calls) < 4:
            raise RuntimeError("no state yet")
        return True

    telemetry.watch(inflight=lambda: 0, ready=ready, draining=lambda: False)
    deadline = time.monotonic() + 30
    while len(calls) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert figures(telemetry.expose())[key("ai102_ready")] == 1
    assert [item.message for item in caplog.records] == ["telemetry failed"]


def test_state_of_the_worker(build: Callable[..., Telemetry]) -> None:
    telemetry = build()
    assert figures(telemetry.expose())[key("ai102_ready")] == 0
    telemetry.watch(inflight=lambda: 3, waiting=lambda: 1, ready=lambda: True, draining=lambda: False)
    found = figures(telemetry.expose())
    assert [found[key(f"ai102_{name}")] for name in ("inflight_requests", "waiting_requests", "ready", "draining")] == [
        3,
        1,
        1,
        0,
    ]
    assert found[key("ai102_worker_up", worker="0")] == 1
    assert telemetry.workers_alive() == [0]


def test_figures_of_processes(build: Callable[..., Telemetry]) -> None:
    found = figures(build().expose())
    own = process_figures(os.getpid())
    assert own is not None
    for worker in ("0", "supervisor"):
        assert found[key("process_resident_memory_bytes", worker=worker)] == pytest.approx(own.resident_bytes, rel=0.2)
        assert found[key("process_start_time_seconds", worker=worker)] == pytest.approx(own.started, abs=1)
    assert abs(own.started - time.time()) < 3600
    assert own.open_files is not None
    assert own.open_files > 3
    assert found[key("python_gc_collections_total", generation="0", worker="0")] > 0
    assert process_figures(2**22 + 1) is None
    assert start_ticks(2**22 + 1) is None


def test_counters_of_others(build: Callable[..., Telemetry]) -> None:
    telemetry = build()
    issued = telemetry.counter("tokens", "Tokens by result.", {"result": "issued"})
    telemetry.counter("tokens", "Tokens by result.", {"result": "refused"}).inc(2)
    issued.inc()
    assert telemetry.counter("tokens", "Tokens by result.", {"result": "issued"}) is issued
    found = figures(telemetry.expose())
    assert found[key("ai102_tokens_total", result="issued")] == 1
    assert found[key("ai102_tokens_total", result="refused")] == 2
    for wrong in ("", "Tokens", "tokens_total", "tokens{x}"):
        with pytest.raises(ServerError, match="no name of a counter"):
            telemetry.counter(wrong, "")
    with pytest.raises(ServerError, match="too many"):
        telemetry.counter("long", "x" * 600)
    for number in range(shared_module.COUNTERS - 2):
        telemetry.counter(f"c{number}", "").inc()
    with pytest.raises(ServerError, match="there are 128 already"):
        telemetry.counter("one_more", "")


def test_figures_of_gpus(build: Callable[..., Telemetry], monkeypatch: pytest.MonkeyPatch) -> None:
    def utilisation(handle: str) -> SimpleNamespace:
        if handle == "GPU-b":
            raise RuntimeError("not supported")
        return SimpleNamespace(gpu=25, memory=1)

    def handle(index: int) -> str:
        if index > 1:
            raise RuntimeError("no such device")
        return f"GPU-{'ab'[index]}"

    library = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=handle,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetMemoryInfo=lambda _handle: SimpleNamespace(used=1024, total=4096),
        nvmlDeviceGetName=lambda _handle: b"Test GPU",
        nvmlDeviceGetUUID=lambda handle: handle,
        nvmlDeviceGetUtilizationRates=utilisation,
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    execution = {"providers": ["CUDAExecutionProvider", "CPUExecutionProvider"], "devices": [0, 1, 2]}
    telemetry = build(execution=execution)
    found = figures(telemetry.expose())
    assert found[key("ai102_gpu_memory_used_bytes", gpu="0")] == 1024
    assert found[key("ai102_gpu_memory_total_bytes", gpu="1")] == 4096
    assert found[key("ai102_gpu_utilisation_ratio", gpu="0")] == 0.25
    assert key("ai102_gpu_utilisation_ratio", gpu="1") not in found
    assert key("ai102_gpu_memory_used_bytes", gpu="2") not in found
    assert found[key("ai102_gpu_info", gpu="1", name="Test GPU", uuid="GPU-b")] == 1
    # CUDA's numbers are those of what it may see.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,GPU-c")
    found = figures(telemetry.expose())
    assert found[key("ai102_gpu_info", gpu="0", name="Test GPU", uuid="GPU-b")] == 1
    assert found[key("ai102_gpu_info", gpu="1", name="Test GPU", uuid="GPU-c")] == 1


def test_no_gpu_library(build: Callable[..., Telemetry], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    telemetry = build(execution={"providers": ["CUDAExecutionProvider"]})
    assert not any("gpu" in name for name, _labels in figures(telemetry.expose()))


# --------------------------------------------------------------------------------------------------------------------
# Statistics
# --------------------------------------------------------------------------------------------------------------------
def test_statistics(build: Callable[..., Telemetry]) -> None:
    telemetry = build()
    for version in ("1", "2"):
        telemetry.register_model("m", version, "CPUExecutionProvider", "", True, None)
    telemetry.add(record(decode_seconds=0.001, encode_seconds=0.002))
    telemetry.add(record(status=503, queue_seconds=None, inference_seconds=None, seconds=0.1))
    telemetry.executed("m", "1", 8, 0.25)
    for _ in range(2):
        telemetry.executed("m", "1", 1000, 0.5)
    assert [item["version"] for item in telemetry.statistics("m")["model_stats"]] == ["1", "2"]
    (item,) = telemetry.statistics("m", "1")["model_stats"]
    assert item["last_inference"] == 1_700_000_000_250
    assert item["inference_count"] == 2008
    assert item["execution_count"] == 3
    stats = item["inference_stats"]
    assert stats["success"] == {"count": 1, "ns": pytest.approx(4_000_000, abs=1)}
    assert stats["fail"] == {"count": 1, "ns": pytest.approx(100_000_000, abs=1)}
    assert stats["queue"] == {"count": 1, "ns": pytest.approx(1_000_000, abs=1)}
    assert stats["compute_input"] == {"count": 1, "ns": pytest.approx(1_000_000, abs=1)}
    assert stats["compute_infer"] == {"count": 1, "ns": pytest.approx(2_000_000, abs=1)}
    assert stats["compute_output"] == {"count": 1, "ns": pytest.approx(2_000_000, abs=1)}
    assert stats["cache_hit"] == {"count": 0, "ns": 0}
    assert [(batch["batch_size"], batch["compute_infer"]["count"]) for batch in item["batch_stats"]] == [
        (8, 1),
        (1000, 2),
    ]
    assert item["batch_stats"][1]["compute_infer"]["ns"] == 1_000_000_000
    with pytest.raises(RequestError, match="unknown model 'x'") as caught:
        telemetry.statistics("x")
    assert caught.value.status == 404
    with pytest.raises(RequestError, match="unknown model 'm' version '3'"):
        telemetry.statistics("m", "3")


def test_statistics_of_several_workers(build: Callable[..., Telemetry]) -> None:
    shared = TelemetryShared.create(config(), 2)
    for worker in range(2):
        telemetry = build(shared, worker)
        telemetry.register_model("m", "1", "CPUExecutionProvider", "", True, None)
        telemetry.add(record(started=1_700_000_000.0 + worker))
        telemetry.flush()
    (item,) = telemetry.statistics()["model_stats"]
    assert item["last_inference"] == 1_700_000_001_000
    assert item["inference_stats"]["success"]["count"] == 2
    # A request may reach the worker that has not got it.
    telemetry.register_model("half", "1", "CPUExecutionProvider", "", True, None)
    assert figures(telemetry.expose())[key("ai102_model_ready", model="half", version="1")] == 0


# --------------------------------------------------------------------------------------------------------------------
# Several processes
# --------------------------------------------------------------------------------------------------------------------
SUPERVISOR = """
import os, signal, sys, time
from ai102_server.config import parse_config
from ai102_server.telemetry.shared import TelemetryShared

config = parse_config({"listen": {"port": 8080}, "models": [], "log": {"access": False}})
shared = TelemetryShared.create(config, 3)
assert "numpy" not in sys.modules and "onnxruntime" not in sys.modules, "the supervisor must stay small"

def spawn(worker, job):
    done_read, done_write = os.pipe()
    go_read, go_write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(done_write), os.close(go_read)
        return pid, done_read, go_write
    os.close(done_read), os.close(go_write)
    from ai102_server.telemetry import Record, Telemetry
    telemetry = Telemetry(config, shared, worker)
    assert "opentelemetry" not in sys.modules, "nobody asked for traces"
    telemetry.watch(inflight=lambda: worker + 1, ready=lambda: True, draining=lambda: False)
    telemetry.register_model("m", "1", f"P{worker}", "ab", True, None)
    if job == 2000:
        telemetry.register_model("gone", "1", "P", "", True, None)
    telemetry.counter("tokens", "Tokens.", {"result": "issued"}).inc(worker + 1)
    for number in range(job):
        telemetry.add(Record("m", "1", 200 if number % 2 else 503, time.time(), 0.25, 0.5, 0.125, 3, 2))
        if number % 4 == 0:
            telemetry.executed("m", "1", 4, 0.25)
    telemetry.flush()
    os.write(done_write, b"x")
    os.read(go_read, 1)
    sys.stdout.buffer.write(telemetry.expose())
    sys.stdout.flush()
    os._exit(0)

workers = [spawn(0, 1000), spawn(1, 2000), spawn(2, 3000)]
for _pid, done, _go in workers:
    os.read(done, 1)
os.kill(workers[1][0], signal.SIGKILL)
os.waitpid(workers[1][0], 0)
if sys.argv[1] == "respawn":
    workers[1] = spawn(1, 500)
    os.read(workers[1][1], 1)
os.write(workers[2][2], b"x")
os.waitpid(workers[2][0], 0)
for pid, _done, _go in workers:
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass
"""


def across(mode: str) -> Figures:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent / "src")}
    done = subprocess.run(
        [sys.executable, "-c", SUPERVISOR, mode], env=environment, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return figures(done.stdout)


def test_counts_of_all_workers_add_up_and_survive_a_death() -> None:
    found = across("respawn")
    requests = 1000 + 2000 + 3000 + 500
    assert found[key("ai102_requests_total", **M, status="200")] == requests / 2
    assert found[key("ai102_requests_total", **M, status="503")] == requests / 2
    assert found[key("ai102_request_duration_seconds_count", **M)] == requests
    assert found[key("ai102_request_duration_seconds_sum", **M)] == requests * 0.25
    assert found[key("ai102_request_duration_seconds_bucket", **M, le="0.25")] == requests
    assert found[key("ai102_queue_duration_seconds_bucket", **M, le="0.25")] == 0
    assert found[key("ai102_batch_size_count", **M)] == requests / 4
    assert found[key("ai102_batch_size_sum", **M)] == requests
    assert found[key("ai102_rejected_requests_total", **M, reason="overload")] == requests / 2
    assert found[key("ai102_tokens_total", result="issued")] == 1 + 2 + 3 + 2
    assert found[key("ai102_model_loads_total", **M, result="ready")] == 4
    assert found[key("ai102_worker_restarts_total", worker="1")] == 1
    assert found[key("ai102_inflight_requests")] == 1 + 2 + 3
    assert found[key("ai102_ready")] == 1
    assert found[key("ai102_model_ready", **M)] == 1
    # The dead worker alone had it.
    assert key("ai102_model_ready", model="gone", version="1") not in found
    assert found[key("ai102_model_loads_total", model="gone", version="1", result="ready")] == 1
    assert [found[key("ai102_worker_up", worker=str(worker))] for worker in range(3)] == [1, 1, 1]
    assert {dict(labels)["provider"] for name, labels in found if name == "ai102_model_info"} == {"P0", "P1", "P2"}
    for worker in ("0", "1", "2", "supervisor"):
        assert found[key("process_resident_memory_bytes", worker=worker)] > 0


def test_a_dead_worker_is_not_counted_in() -> None:
    found = across("leave dead")
    # What it had counted stays; what it had in flight is gone.
    assert found[key("ai102_request_duration_seconds_count", **M)] == 6000
    assert found[key("ai102_inflight_requests")] == 1 + 3
    assert found[key("ai102_worker_up", worker="1")] == 0
    assert found[key("ai102_model_ready", **M)] == 1
    assert key("process_resident_memory_bytes", worker="1") not in found


def test_the_lock_dies_with_its_holder() -> None:
    shared = TelemetryShared(1, Keyring.generate())
    code = (
        "import fcntl, sys, time; fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX);"
        "print('held', flush=True); time.sleep(60)"
    )
    descriptor = shared._descriptor
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(descriptor)], pass_fds=(descriptor,), stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    got = threading.Event()

    def take() -> None:
        with shared.lock():
            got.set()

    thread = threading.Thread(target=take)
    thread.start()
    assert not got.wait(0.1)
    holder.kill()
    thread.join(30)
    assert got.is_set()
    holder.wait()
    holder.stdout.close()


# --------------------------------------------------------------------------------------------------------------------
# Access log
# --------------------------------------------------------------------------------------------------------------------
def test_lines(build: Callable[..., Telemetry], sink: Sink) -> None:
    telemetry = build()
    telemetry.register_model("m", "1", "CPUExecutionProvider", "", True, None)
    telemetry.add(record(subject="alice"))
    telemetry.add(
        record(status=400, inference_seconds=None, queue_seconds=None, batch=0, bytes_out=5, request_id="a.b",
               error="input 'alice@example.com' is not known", model="4111 1111 1111 1111", version="")
    )  # fmt: skip
    telemetry.add(record(status=500, error="KeyError", traceparent=f"00-{ID}-00f067aa0ba902b7-00", subject="alice"))
    telemetry.flush()
    good, bad, bug = sink.lines()
    subject = good.pop("subject")
    assert good == {
        "time": "2023-11-14T22:13:20.254Z",
        "level": "info",
        "logger": "ai102_server.access",
        "message": "infer",
        "request_id": ID,
        "model": "m",
        "version": "1",
        "status": 200,
        "ms": 4.0,
        "bytes_in": 100,
        "bytes_out": 10,
        "queue_ms": 1.0,
        "inference_ms": 2.0,
        "batch": 8,
    }
    assert bad == {
        "time": "2023-11-14T22:13:20.254Z",
        "level": "warning",
        "logger": "ai102_server.access",
        "message": "infer",
        "request_id": "a.b",
        "model": "[card]",
        "version": "",
        "status": 400,
        "ms": 4.0,
        "bytes_in": 100,
        "bytes_out": 5,
        "error": "input '[email]' is not known",
    }
    assert (bug["level"], bug["trace_id"], bug["error"]) == ("error", ID, "KeyError")
    assert "trace_id" not in good
    assert bug["subject"] == subject
    assert "alice" not in subject
    assert len(subject) == 32


def test_the_thread_needs_no_call(build: Callable[..., Telemetry], sink: Sink) -> None:
    telemetry = build()
    with telemetry._drain_lock:
        for _ in range(600):
            telemetry.add(record())
    found: list[dict[str, Any]] = []
    deadline = time.monotonic() + 30
    while len(found) < 600 and time.monotonic() < deadline:
        found += sink.lines()
        time.sleep(0.02)
    assert len(found) == 600


@pytest.mark.parametrize(("setting", "expected"), [("plain", 'al"ice'), ("none", None)])
def test_subject(setting: str, expected: str | None, build: Callable[..., Telemetry], sink: Sink) -> None:
    telemetry = build(log={"subject": setting})
    telemetry.register_model("m", "1", "CPUExecutionProvider", "", True, None)
    telemetry.add(record(subject='al"ice'))
    telemetry.flush()
    (line,) = sink.lines()
    assert line.get("subject") == expected


@given(
    st.builds(
        record,
        seconds=st.floats(0, 1e4),
        queue_seconds=st.none() | st.floats(0, 10),
        inference_seconds=st.none() | st.floats(0, 10),
        bytes_in=st.integers(0, 1 << 40),
        batch=st.integers(0, 1000),
        subject=st.text(max_size=5),
        request_id=st.text("0123456789abcdef-", min_size=1, max_size=40) | st.text(min_size=1, max_size=10),
        status=st.sampled_from([200, 204]),
        started=st.floats(1e9, 4e9),
    ),
    st.none() | st.just(ID),
)
def test_the_quick_way_to_a_line_gives_the_same(item: Record, trace_id: str | None) -> None:
    lines = AccessLines(config(), Masker(), Pseudonyms(Keyring({"k": bytes(32)})))
    quick = json.loads(lines.line(item, True, trace_id))
    # The reason forces the long way.
    long = json.loads(lines.line(item._replace(reason="other", request_id=f"{item.request_id}."), True, trace_id))
    assert long.pop("reason") == "other"
    assert long.pop("request_id")[:-1] == quick.pop("request_id")
    assert long.keys() == quick.keys()
    for name, value in quick.items():
        assert value == (pytest.approx(long[name], abs=0.0011) if isinstance(value, float) else long[name])


def test_long_texts_are_cut_between_words() -> None:
    lines = AccessLines(config(), Masker(), Pseudonyms(Keyring({"k": bytes(32)})))
    error = json.loads(lines.line(record(status=400, error="alice@example.com " * 500), True, None))["error"]
    assert error.startswith("[email] [email]")
    assert "alice" not in error
    # Masked to little, the place of the cut would come into view.
    text = f"{'a' * 590}@example.com {'b' * 605}@x.de"
    error = json.loads(lines.line(record(status=400, error=text), True, None))["error"]
    assert error == "[email]"
    assert json.loads(lines.line(record(status=404, model="x" * 9999), False, None))["model"] == "[long]"


def test_which_lines_are_written(build: Callable[..., Telemetry], sink: Sink) -> None:
    quiet = build(log={"access": False})
    for status in (200, 404, 500):
        quiet.add(record(status=status))
    quiet.flush()
    assert [line["status"] for line in sink.lines()] == [404, 500]
    errors = build(log={"level": "error"})
    for status in (200, 404, 500, 503):
        errors.add(record(status=status))
    errors.flush()
    assert [line["status"] for line in sink.lines()] == [500]


def test_a_log_that_is_stuck_costs_lines_and_nothing_else() -> None:
    read_end, write_end = os.pipe()
    settings = config(log={"queue": 50})
    telemetry = Telemetry(settings, Telemetry.share(settings, 1), 0, descriptor=write_end)
    try:
        telemetry.register_model("m", "1", "CPUExecutionProvider", "", True, None)
        for _ in range(4):
            for _ in range(1000):
                telemetry.add(record())
            telemetry.add(record(status=503))
            telemetry.expose()
        found = figures(telemetry.expose())
        assert found[key("ai102_requests_total", **M, status="200")] == 4000
        dropped = found[key("ai102_log_lines_dropped_total")]
        data = b""
        while not telemetry._writer.flush(0) or select.select([read_end], [], [], 0.05)[0]:
            data += os.read(read_end, 1 << 16)
        statuses = [json.loads(line)["status"] for line in data.splitlines()]
        assert len(statuses) + dropped == 4004
        assert dropped > 3000
        assert 503 in statuses
    finally:
        telemetry.close()
        os.close(write_end)
        os.close(read_end)


def test_the_row_of_a_dead_worker_goes_on(build: Callable[..., Telemetry]) -> None:
    shared = TelemetryShared.create(config(), 1)
    for life in (1, 2):
        telemetry = build(shared, log={"queue": 1})
        with telemetry._drain_lock:
            for _ in range(3):
                telemetry.add(record())
        telemetry.flush()
        assert figures(telemetry.expose())[key("ai102_log_lines_dropped_total")] == 2 * life


def test_lines_of_a_pipe_are_never_torn() -> None:
    read_end, write_end = os.pipe()
    writer = LineWriter(write_end, 10_000)
    lines = [b"%d %s\n" % (number, b"x" * (number % 97)) for number in range(5000)]
    lines[17] = b"y" * 9000 + b"\n"
    writer.add(lines)
    sizes: list[int] = []
    data = b""
    while len(data) < sum(map(len, lines)):
        data += os.read(read_end, 1 << 16)
    assert writer.flush(5)
    assert data == b"".join(lines)
    writer.add([b"a" * 3000 + b"\n", b"b" * 3000 + b"\n"])
    while sum(sizes) < 6002:
        select.select([read_end], [], [], 5)
        sizes.append(len(os.read(read_end, 3001)))
    writer.close()
    os.close(read_end)
    writer_lost = LineWriter(write_end, 10)
    writer_lost.add([b"nobody reads\n"] * 3)
    assert writer_lost.flush(5)
    assert writer_lost.lost == 3
    writer_lost.close()
    os.close(write_end)


def test_blocks_are_whole_lines() -> None:
    read_end, write_end = os.pipe()
    writer = LineWriter(write_end, 100)
    writer.close()
    writer._thread.join(5)
    writer._lines.extend([b"a" * 3000 + b"\n", b"b" * 1000 + b"\n", b"c" * 200 + b"\n", b"d" * 5000 + b"\n"])
    assert [len(writer._take()) for _ in range(3)] == [4002, 201, 5001]
    os.close(write_end)
    os.close(read_end)


def test_failures_are_told_first() -> None:
    records = [record(status=status) for status in (200, 503, 200, 400)]
    assert [item.status for item in pick(records, 3)] == [503, 400, 200]
    assert pick(records, 4) == records


def test_nothing_breaks_a_line(build: Callable[..., Telemetry], sink: Sink) -> None:
    telemetry = build()
    telemetry.add(record(model="half a \ud800 pair", status=404, request_id="\udfff", error="\ud800"))
    telemetry.flush()
    (line,) = sink.lines()
    assert line["model"] == "half a \\ud800 pair"


# --------------------------------------------------------------------------------------------------------------------
# Other logs
# --------------------------------------------------------------------------------------------------------------------
@pytest.fixture
def log() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A logger with the handler of ``logging_config``, on a stream of the test's."""
    stream = io.StringIO()
    document = logging_config("info")
    document["handlers"]["stderr"]["stream"] = stream
    handler_config = logging.config.DictConfigurator(document)
    filters = [handler_config.configure_filter(handler_config.config["filters"]["mask"])]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(filters[0])
    logger = logging.Logger("ai102_server.test")  # noqa: LOG001  # one that nobody else has
    logger.addHandler(handler)
    yield logger, stream
    handler.close()


def test_every_part_of_a_log_line_is_masked(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, stream = log
    try:
        int("no account alice@example.com")
    except ValueError:
        logger.exception(
            "login of %s failed",
            "bob@example.com",
            extra={
                "detail": {"note": ["carol@example.com"], "password": "hunter2"},
                "problems": ("dave@example.com", Path("/home/erin@example.com")),
                "api_key": 12345,
                "count": 4111111111111111,
                "request_id": "4111111111111111",
            },
            stack_info=True,
        )
    line = json.loads(stream.getvalue())
    assert "@example.com" not in stream.getvalue()
    assert line["message"] == "login of [email] failed"
    assert line["detail"] == {"note": ["[email]"], "password": "[secret]"}
    assert line["problems"] == ["[email]", "/home/[email]"]
    assert line["api_key"] == "[secret]"
    # Numbers are figures, and ids are there to be found.
    assert line["count"] == 4111111111111111
    assert line["request_id"] == "4111111111111111"
    assert line["exception"].endswith("with base 10: 'no account [email]'")
    assert "Traceback" in line["exception"]
    assert "_masked_by" not in line


def test_stacks_are_masked() -> None:
    item = logging.makeLogRecord({"stack_info": "Stack: a@b.de"})
    MaskingFilter(Masker()).filter(item)
    assert item.stack_info == "Stack: [email]"


def test_the_log_of_a_process_is_masked() -> None:
    code = (
        "import logging; from ai102_server.telemetry import configure_logging; configure_logging('info');"
        "logging.getLogger('ai102_server.x').info('from alice@example.com');"
        "logging.getLogger('other').warning('%s', 'b@c.de')"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert [json.loads(line)["message"] for line in done.stderr.splitlines()] == ["from [email]", "[email]"]


def test_a_wrong_log_call_is_no_leak(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, stream = log
    logger.error("%d accounts", "alice@example.com")
    logger.error("huge", extra={"number": 1 << 80, "text": "\ud800"})
    wrong, huge = map(json.loads, stream.getvalue().splitlines())
    assert wrong["message"] == "a log message could not be formatted: TypeError"
    assert huge["number"] == str(1 << 80)


# --------------------------------------------------------------------------------------------------------------------
# Configuration
# --------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        ("log", {"subject": "clear"}, "log.subject: 'clear' is not one of hash, plain, none"),
        ("log", {"queue": -1}, "log.queue: -1 is out of range"),
        (
            "tracing",
            {"exporter": "otlp"},
            "tracing.endpoint: is missing: the collector's full URL, such as http://host:4318",
        ),
        ("tracing", {"exporter": "zipkin"}, "such as http://host:9411/api/v2/spans"),
        ("tracing", {"endpoint": "http://h/x"}, "tracing.exporter: is missing: say otlp or zipkin"),
        ("tracing", {"endpoint": "h:4318"}, "tracing.endpoint: must be an http:// or https:// URL"),
        ("tracing", {"endpoint": "http://u:secret@h/x"}, "must not hold a user or password"),
        ("tracing", {"endpoint": "http://h:99999/x"}, "tracing.endpoint: must be an http://"),
        ("tracing", {"sample_ratio": 5}, "tracing.sample_ratio: 5 is out of range, must be 0 to 1"),
        ("tracing", {"sample_ratio": True}, "must be a number from 0 to 1, not true/false"),
        ("tracing", {"certificate": "/c"}, "tracing.certificate: and key belong together"),
        ("tracing", {"exporter": "zipkin", "endpoint": "http://h/x", "headers_file": "/f"}, "applies to otlp only"),
        ("tracing", {"queue": 10, "batch": 11}, "tracing.batch: 11 is larger than queue (10)"),
        ("privacy", {"mask": ["mail"]}, "privacy.mask: 'mail' is not one of secret, token, email"),
        ("privacy", {"mask": "email"}, "privacy.mask: must be a list of what to mask, not text"),
        ("privacy", {"patterns": "x"}, "privacy.patterns: must be a list of at most 32"),
        ("privacy", {"patterns": [{"name": "n"}]}, "privacy.patterns[0].pattern: is missing"),
        (
            "privacy",
            {"patterns": [{"name": "n", "pattern": "a+"}]},
            "privacy.patterns[0].pattern: repeats without a bound",
        ),
        ("privacy", {"hash_key": {}}, "privacy.hash_key: needs file (a path) or credential"),
        (
            "privacy",
            {"seal_keys": {"file": "/a", "credential": "b"}},
            "privacy.seal_keys: cannot have file and credential",
        ),
        ("privacy", {"hash_key": {"file": "a"}}, "privacy.hash_key.file: 'a' must be an absolute path"),
    ],
)
def test_mistakes(section: str, value: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**{section: value})
    assert len(caught.value.problems) == 1
    assert message in caught.value.problems[0]
    assert "secret@" not in str(caught.value)


def test_settings() -> None:
    settings = config(
        privacy={"mask": ["phone", "email"], "patterns": [{"name": "staff", "pattern": "P-[0-9]{6}"}]},
        tracing={"exporter": "otlp", "endpoint": "https://h:4318/v1/traces", "sample_ratio": 1, "ca": "/ca.pem"},
    )
    assert settings.privacy.mask == ("email", "phone")
    assert settings.privacy.masker().mask("P-123456 a@b.de 4111111111111111") == "[staff] [email] 4111111111111111"
    assert settings.tracing.sample_ratio == 1.0
    assert settings.tracing.ca == Path("/ca.pem")
